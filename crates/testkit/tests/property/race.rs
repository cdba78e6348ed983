//! Calls on one pod at the same time: each must answer, and what comes of them must be one of
//! what an order of them could have come to.

use anyhow::{Context as _, Result, bail, ensure};
use berth_testkit::cri::{Answer, Cri, RunningPod};
use berth_testkit::specs::{Container, Pod};
use futures_util::future::join_all;
use tonic::{Code, Status};

use crate::caller::{Caller, OVER, OwnPod};
use crate::truth::{ContainerMay, PodMay, Program};
use crate::world::Outcome;

/// One of several calls at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Racer {
    Run,
    StopPod,
    RemovePod,
    Create,
    Start,
    StopSlowly,
    StopNow,
    Remove,
    Exec,
    KillShim,
}

const RACERS: [Racer; 10] = [
    Racer::Run,
    Racer::StopPod,
    Racer::RemovePod,
    Racer::Create,
    Racer::Start,
    Racer::StopSlowly,
    Racer::StopNow,
    Racer::Remove,
    Racer::Exec,
    Racer::KillShim,
];

/// What the racers race about.
struct Course {
    spec: Pod,
    running: RunningPod,
    created: Container,
    id: Option<String>,
}

impl Racer {
    /// Whether it may be refused because another one was first.
    fn may_lose(self) -> bool {
        matches!(self, Self::Run | Self::Create | Self::Start | Self::Exec)
    }

    async fn go(self, cri: Cri, course: &Course) -> Answer<()> {
        let id = course.id.clone().unwrap_or_default();
        match self {
            Self::Run => cri.run(&course.spec).await.map(drop),
            Self::StopPod => cri.stop_pod(&course.running.id).await,
            Self::RemovePod => cri.remove_pod(&course.running.id).await,
            Self::Create => cri.create(&course.running, &course.created).await.map(drop),
            // It is no call.
            Self::KillShim => Ok(()),
            _ if id.is_empty() => Ok(()),
            Self::Start => cri.start(&id).await,
            Self::StopSlowly => cri.stop(&id, 30).await,
            Self::StopNow => cri.stop(&id, 0).await,
            Self::Remove => cri.remove(&id).await,
            Self::Exec => cri.exec(&id, &["true"]).await.map(drop),
        }
    }
}

impl Caller {
    /// Several calls at once; says whether the pod stays.
    pub(crate) async fn race(&mut self, pod: &mut OwnPod) -> Result<bool> {
        let many = 2 + self.dice.index(3);
        let mut racers: Vec<_> = (0..many).map(|_| *self.dice.pick(&RACERS)).collect();
        // A stop with a long grace alone would only take its time.
        if racers.contains(&Racer::StopSlowly) {
            racers.push(Racer::StopNow);
        }
        let course = self.course(pod)?;
        self.widen(pod, &racers);
        self.world.tell(format!("a race of {racers:?} about {:.8}", course.running.id));
        let patience: Vec<_> = racers.iter().map(|_| self.patience()).collect();
        let (delay, key) = (self.dice.millis(60), pod.key);
        let world = &self.world;
        let calls = racers.iter().zip(&patience).map(async |(racer, patience)| {
            let what = format!("racing {racer:?} about {:.8}", course.running.id);
            if *racer == Racer::KillShim {
                tokio::time::sleep(delay).await;
                return world.kill_shim(key).map(|()| (*racer, Outcome::Done(())));
            }
            let ask = async |cri: Cri| racer.go(cri, &course).await;
            world.call(&what, *patience, ask).await.map(|(outcome, _)| (*racer, outcome))
        });
        let ended = join_all(calls).await;
        let harmed = self.world.truth().pod(key).harmed;
        for ended in ended {
            let (racer, outcome) = ended?;
            if let Outcome::Refused(why) = outcome {
                judge(racer, &why, harmed)?;
            }
        }
        let run = racers.contains(&Racer::Run);
        if run || racers.contains(&Racer::RemovePod) || self.dice.once_in(2) {
            return self.after(pod, run).await.map(|()| false);
        }
        if racers.contains(&Racer::StopPod) {
            self.stop_pod(pod).await?;
        }
        Ok(true)
    }

    fn course(&mut self, pod: &OwnPod) -> Result<Course> {
        let name = format!("race-{}", self.dice.below(1 << 40));
        self.world.truth().new_container(pod.key, &name, Program::Idle);
        let created = Container::idle(&name, &berth_testkit::bed::busybox());
        let id = match pod.containers.len() {
            0 => None,
            length => pod.containers[self.dice.index(length)].id.clone(),
        };
        let running = pod.running.clone().context("a pod that runs")?;
        Ok(Course { spec: pod.spec.clone(), running, created, id })
    }

    /// From now on lists may say whatever an order of these could have come to.
    fn widen(&self, pod: &OwnPod, racers: &[Racer]) {
        let mut truth = self.world.truth();
        let is = |racer| racers.contains(&racer);
        let before = truth.pod(pod.key).may;
        let may = match before {
            _ if is(Racer::RemovePod) => PodMay::Going,
            PodMay::Ready if is(Racer::StopPod) => PodMay::Ending,
            other => other,
        };
        truth.change_pod(pod.key, |known| known.may = may);
        for own in &pod.containers {
            truth.change(own.key, |known| {
                if !matches!(known.may, ContainerMay::Going | ContainerMay::Gone) {
                    let gone = is(Racer::Remove) || is(Racer::RemovePod);
                    known.may = if gone { ContainerMay::Going } else { ContainerMay::Changing };
                }
            });
        }
    }

    /// After a race that may have removed the pod, or made another one of its name: both go.
    async fn after(&mut self, pod: &mut OwnPod, run: bool) -> Result<()> {
        self.remove_pod(pod).await?;
        if !run {
            return Ok(());
        }
        // Its name may be another pod's by now; what is asked for again is that one, or a new one.
        self.world.truth().change_pod(pod.key, |known| {
            known.may = PodMay::Unsaid;
            known.id = None;
            known.ip = None;
            known.harmed = false;
        });
        let spec = pod.spec.clone();
        let what = "run again after a race";
        let running = self.world.must(what, async |cri| cri.run(&spec).await).await?;
        let id = running.id.clone();
        pod.running = Some(running);
        self.world.truth().change_pod(pod.key, |known| {
            known.id = Some(id);
            known.may = PodMay::Ready;
        });
        self.remove_pod(pod).await
    }
}

impl Caller {
    /// A removal that nobody waits for, and the same pod asked for again: never are there two.
    pub(crate) async fn reincarnate(&mut self, pod: &mut OwnPod) -> Result<()> {
        let old = pod.running.clone().context("a pod that runs")?.id;
        let (name, attempt) = {
            let truth = self.world.truth();
            (truth.pod(pod.key).name.clone(), truth.pod(pod.key).attempt)
        };
        let _armed = match self.dice.once_in(2) {
            true => Some(self.world.levers.arm(&name, "DEL", "slow 0.4")?),
            false => None,
        };
        self.world.truth().change_pod(pod.key, |known| known.may = PodMay::Going);
        let (remove, patience) = (format!("remove pod {name}"), self.dice.millis(80));
        let ask = async |cri: Cri| cri.remove_pod(&old).await;
        let given_up = match self.world.call(&remove, Some(patience), ask).await?.0 {
            Outcome::Refused(why) => bail!("{remove} must succeed: {why:?}"),
            outcome => !matches!(outcome, Outcome::Done(())),
        };
        let key = self.world.truth().new_pod(&name, attempt);
        let (run, spec) = (format!("run {name}, which is being removed"), pod.spec.clone());
        let again = async |cri: Cri| cri.run(&spec).await;
        let running = match self.world.call(&run, None, again).await?.0 {
            Outcome::Done(running) if running.id != old || !given_up => running,
            // Of two calls under way at once, this one may have been heard first.
            Outcome::Done(_) => {
                self.world.must(&remove, ask).await?;
                self.world.must(&run, again).await?
            }
            Outcome::Refused(why) if why.code() == Code::FailedPrecondition => {
                self.world.must(&remove, ask).await?;
                self.world.must(&run, again).await?
            }
            other => bail!("{run}: {other:?}"),
        };
        ensure!(running.id != old, "{name} has been removed and has its old id {old}");
        let mut truth = self.world.truth();
        truth.change_pod(pod.key, |known| known.may = PodMay::Gone);
        truth.change_pod(key, |known| {
            known.id = Some(running.id.clone());
            known.may = PodMay::Ready;
        });
        pod.containers.clear();
        pod.key = key;
        pod.running = Some(running);
        Ok(())
    }
}

fn judge(racer: Racer, why: &Status, harmed: bool) -> Result<()> {
    let lost = OVER.contains(&why.code()) || why.code() == Code::AlreadyExists;
    if !racer.may_lose() {
        bail!("{racer:?} must succeed in a race: {why:?}");
    }
    ensure!(lost || harmed, "{racer:?} lost a race so: {why:?}");
    Ok(())
}
