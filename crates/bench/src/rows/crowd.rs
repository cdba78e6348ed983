//! Statistics of many containers: each pod that is held gets more of them.

use anyhow::{Context as _, Result};
use berth_testkit::specs::Container;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::Bench;
use super::lists::List;
use crate::report::What;
use crate::subject::Subject;
use crate::subject::cri::CriSubject;

/// How many containers each pod has then.
const EACH: usize = 10;

const CONTAINERS: What =
    What::lower("crowd/ListContainers", "ListContainers, {all} pods of 10 containers", "ms");
const STATS: What = What::lower(
    "crowd/ListContainerStats",
    "ListContainerStats, {all} pods of 10 containers",
    "ms",
);

impl CriSubject {
    /// Starts more containers in every pod that is held; they go with their pods.
    async fn crowd(&self, workers: usize) -> Result<()> {
        let more = self.held().iter().flat_map(|held| (1..EACH).map(move |turn| (held, turn)));
        let started = stream::iter(more).map(async |(held, turn)| {
            let container = Container::idle(&format!("more-{turn}"), &self.image);
            let id = self.cri.create(&held.pod, &container).await.context("CreateContainer")?;
            self.cri.start(&id).await.context("StartContainer")
        });
        started.buffer_unordered(workers).try_collect::<Vec<_>>().await.map(drop)
    }
}

impl Bench {
    /// Measures lists with many containers. It comes last: the pods are not what they were.
    ///
    /// # Errors
    /// If a call fails, or a list is not complete.
    pub(crate) async fn crowd(&mut self, subject: &mut Subject) -> Result<()> {
        let name = subject.name.clone();
        let Some(cri) = subject.cri() else { return Ok(()) };
        eprintln!("crowd: {EACH} containers in each pod of {name}");
        cri.crowd(self.amount.workers).await?;
        let length = cri.held().len() * EACH;
        for (list, what) in [(List::Containers, CONTAINERS), (List::ContainerStats, STATS)] {
            self.report.put_samples(what, &name, &cri.lists(list, length).await?);
        }
        Ok(())
    }
}
