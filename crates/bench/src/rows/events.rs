//! How soon a listener hears of a container's start and of its end.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use berth_proto::cri::v1 as cri;
use berth_testkit::specs::Container;
use cri::ContainerEventType as Event;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tonic::{Code, Streaming};

use super::Bench;
use crate::report::What;
use crate::samples::{Samples, ms};
use crate::subject::cri::CriSubject;
use crate::subject::pod::Held;

const START: What = What::lower("events/start", "StartContainer called until its event", "ms");
const EXIT: What = What::lower("events/exit", "a container killed until its event", "ms");

/// Starts, and ends where the container's processes are known.
type Latencies = (Samples, Samples);

/// Takes events until this one has come.
async fn heard(
    events: &mut Streaming<cri::ContainerEventResponse>,
    kind: Event,
    id: &str,
) -> Result<()> {
    while let Some(event) = events.message().await? {
        if event.container_id == id && event.container_event_type() == kind {
            return Ok(());
        }
    }
    bail!("the stream of events has ended before {kind:?} of {id}")
}

impl CriSubject {
    /// Starts and kills containers of one pod; none where the runtime has no events.
    async fn latencies(&self, count: usize) -> Result<Option<Latencies>> {
        let request = tonic::Request::new(cri::GetEventsRequest {});
        let mut events = match self.cri.runtime.clone().get_container_events(request).await {
            Ok(events) => events.into_inner(),
            Err(status) if status.code() == Code::Unimplemented => return Ok(None),
            Err(status) => return Err(status).context("GetContainerEvents"),
        };
        let number = self.number()?;
        let (held, _) = self.begin(number).await?;
        let (mut starts, mut exits) = Latencies::default();
        for turn in 0..=count {
            let container = Container::idle(&format!("c{turn}"), &self.image);
            let container = self.cri.create(&held.pod, &container).await?;
            let started = Instant::now();
            let listen = async {
                heard(&mut events, Event::ContainerStartedEvent, &container).await?;
                anyhow::Ok(ms(started.elapsed()))
            };
            // The event may come before the answer.
            let (answer, start) = tokio::join!(self.cri.start(&container), listen);
            answer.context("StartContainer")?;
            let start = start?;
            let own = Held { number, pod: held.pod.clone(), container };
            self.execs(&own).await?;
            let exit = match self.processes_of(&own)? {
                pids if pids.is_empty() => None,
                pids => {
                    let killed = Instant::now();
                    for pid in pids {
                        // With the first of its namespace, the others are gone.
                        match kill_process(pid, Signal::KILL) {
                            Ok(()) | Err(Errno::SRCH) => {}
                            Err(why) => return Err(why).context("kill a container"),
                        }
                    }
                    heard(&mut events, Event::ContainerStoppedEvent, &own.container).await?;
                    Some(ms(killed.elapsed()))
                }
            };
            self.cri.stop(&own.container, 0).await.context("StopContainer")?;
            self.cri.remove(&own.container).await.context("RemoveContainer")?;
            // The first finds nothing warm.
            if turn > 0 {
                starts.push(start);
                exit.into_iter().for_each(|exit| exits.push(exit));
            }
        }
        self.end(&held, false).await?;
        self.forget(&[number])?;
        Ok(Some((starts, exits)))
    }

    /// The processes of a container, as this process sees them; none where its cgroup is not known.
    fn processes_of(&self, held: &Held) -> Result<Vec<Pid>> {
        let Some(site) = self.site() else { return Ok(Vec::new()) };
        let procs = site.container_cgroup(held.number, &held.container).join("cgroup.procs");
        let procs = std::fs::read_to_string(&procs).context("the processes of a container")?;
        let pids = procs.lines().filter_map(|line| line.parse().ok());
        Ok(pids.filter_map(Pid::from_raw).collect())
    }
}

impl Bench {
    /// Measures how soon events come.
    ///
    /// # Errors
    /// If a call fails, or an event does not come.
    pub(crate) async fn events(&mut self) -> Result<()> {
        for subject in &mut self.subjects {
            let name = subject.name.clone();
            let Some(cri) = subject.cri() else { continue };
            eprintln!("events: {} containers of {name}", self.amount.calls);
            let Some((starts, exits)) =
                cri.latencies(self.amount.calls).await.context(name.clone())?
            else {
                eprintln!("events: {name} has none");
                continue;
            };
            self.report.put_samples(START, &name, &starts);
            if exits.len() > 0 {
                self.report.put_samples(EXIT, &name, &exits);
            }
        }
        Ok(())
    }
}
