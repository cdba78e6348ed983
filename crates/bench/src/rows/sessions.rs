//! How soon a session of Exec talks, and how soon its client knows the end of it.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use berth_testkit::streams::{Session, Transport, Wants};

use super::{Bench, turns};
use crate::report::What;
use crate::samples::{Samples, ms};
use crate::subject::cri::CriSubject;

const TALKS: What = What::lower("session/output", "Exec(echo) over SPDY: until its output", "ms");
const ENDS: What = What::lower("session/end", "… until its exit code and the end", "ms");

/// Until the output, and until the end.
type Latencies = (Samples, Samples);

impl CriSubject {
    /// Opens sessions in a container of its own, one after another, as the kubelet does: the call,
    /// then the URL that it gives.
    async fn sessions(&self, count: usize, (talks, ends): &mut Latencies) -> Result<()> {
        let site = self.site().context("a node of its own")?;
        let number = self.number()?;
        let (held, _) = self.begin(number).await?;
        for turn in 0..=count {
            let started = Instant::now();
            let url = self.cri.exec_url(&held.container, &["echo", "here"], Wants::OUTPUT);
            let url = url.await.context("Exec")?;
            let session = Session::open(&site.node, &url, Transport::Spdy, Wants::OUTPUT);
            let mut session = session.await.context("follow the URL of Exec")?;
            session.says("here").await?;
            let talked = ms(started.elapsed());
            let ended = session.ended().await?;
            let took = ms(started.elapsed());
            if ended.status != Some(Ok(0)) {
                bail!("a session of Exec(echo) ended with {:?}", ended.status);
            }
            // The first finds nothing warm.
            if turn > 0 {
                talks.push(talked);
                ends.push(took);
            }
        }
        self.end(&held, false).await?;
        self.forget(&[number])
    }
}

impl Bench {
    /// Measures sessions of Exec.
    ///
    /// # Errors
    /// If a call fails, or a session says or ends with something else.
    pub(crate) async fn sessions(&mut self) -> Result<()> {
        let mut all = vec![Latencies::default(); self.subjects.len()];
        for count in turns(self.amount.calls, self.amount.turns) {
            for (subject, latencies) in self.subjects.iter_mut().zip(&mut all) {
                let name = subject.name.clone();
                // The address of another's streams is in a network that is not known here.
                let Some(cri) = subject.cri().filter(|cri| cri.site().is_some()) else { continue };
                eprintln!("sessions: {count} of {name}");
                cri.sessions(count, latencies).await.context(name)?;
            }
        }
        for (subject, (talks, ends)) in self.subjects.iter().zip(&all) {
            if talks.len() > 0 {
                self.report.put_samples(TALKS, &subject.name, talks);
                self.report.put_samples(ENDS, &subject.name, ends);
            }
        }
        Ok(())
    }
}
