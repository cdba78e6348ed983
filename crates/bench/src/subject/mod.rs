//! What is measured: CRI sockets, and the bare commands. All of them do the same work.

pub(crate) mod bare;
pub(crate) mod cri;
mod debian;
pub(crate) mod handlers;
pub(crate) mod make;
pub(crate) mod memory;
pub(crate) mod pod;
pub(crate) mod site;

use anyhow::{Result, bail};

use crate::samples::Samples;
use bare::Bare;
use cri::CriSubject;
use pod::Steps;
use site::Site;

/// One of the compared.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// How a subject is spoken to.
#[derive(Debug)]
pub(crate) enum Kind {
    /// The driver of the bare commands.
    Bare(Box<Bare>),
    /// A CRI socket.
    Cri(Box<CriSubject>),
}

impl Subject {
    /// One pod from its beginning to its end.
    ///
    /// # Errors
    /// If a step fails or was not done.
    pub(crate) async fn life(&mut self) -> Result<Steps> {
        match &mut self.kind {
            Kind::Bare(bare) => bare.life(),
            Kind::Cri(cri) => cri.life().await,
        }
    }

    /// Starts this many more pods and holds them; returns the seconds.
    ///
    /// # Errors
    /// If one fails.
    pub(crate) async fn fill(&mut self, count: usize, workers: usize) -> Result<f64> {
        match &mut self.kind {
            Kind::Bare(bare) => bare.fill(count, workers),
            Kind::Cri(cri) => cri.fill(count, workers).await,
        }
    }

    /// Removes every pod that is held; returns the seconds.
    ///
    /// # Errors
    /// If one fails.
    pub(crate) async fn drain(&mut self, workers: usize) -> Result<f64> {
        match &mut self.kind {
            Kind::Bare(bare) => bare.drain(workers),
            Kind::Cri(cri) => cri.drain(workers).await,
        }
    }

    /// Starts and removes this many pods; returns the seconds.
    ///
    /// # Errors
    /// If one fails.
    pub(crate) async fn churn(&mut self, count: usize, workers: usize) -> Result<f64> {
        match &mut self.kind {
            Kind::Bare(bare) => bare.churn(count, workers),
            Kind::Cri(cri) => cri.churn(count, workers).await,
        }
    }

    /// Runs `true` this often in a pod that is held.
    ///
    /// # Errors
    /// If no pod is held, or one fails.
    pub(crate) async fn probes(&mut self, count: usize) -> Result<Samples> {
        match &mut self.kind {
            Kind::Bare(bare) => bare.probes(count),
            Kind::Cri(cri) => cri.probes(count).await,
        }
    }

    /// What a CRI subject calls itself.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) async fn version(&self) -> Result<Option<String>> {
        let Kind::Cri(cri) = &self.kind else { return Ok(None) };
        let version = cri.cri.version().await?;
        let (name, number) = (version.runtime_name, version.runtime_version);
        Ok(Some(format!("{}: {name} {number}", self.name)))
    }

    /// Its node, if it has one of this bench's.
    pub(crate) fn site(&self) -> Option<&Site> {
        match &self.kind {
            Kind::Bare(bare) => Some(&bare.site),
            Kind::Cri(cri) => cri.site(),
        }
    }

    /// Ends it, and looks whether anything of it is left on the machine.
    ///
    /// # Errors
    /// With what is left.
    pub(crate) fn close(self) -> Result<()> {
        let Some(site) = self.site() else { return Ok(()) };
        let traces = site.traces()?;
        let name = self.name.clone();
        drop(self);
        match traces.into_iter().find(|path| path.exists()) {
            Some(left) => bail!("{name} has ended and {} is still there", left.display()),
            None => Ok(()),
        }
    }

    /// The CRI socket, if there is one.
    pub(crate) fn cri(&mut self) -> Option<&mut CriSubject> {
        match &mut self.kind {
            Kind::Bare(_) => None,
            Kind::Cri(cri) => Some(cri),
        }
    }
}
