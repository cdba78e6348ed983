//! A caller: it owns some pods, makes calls on them one after the other, and knows what each may
//! answer.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::busybox;
use berth_testkit::cri::{Cri, RunningPod, in_time};
use berth_testkit::specs::{Container, Pod};
use cri::{ContainerState, PodSandboxState};
use tonic::{Code, Status};

use crate::dice::Dice;
use crate::levers::{Armed, OF_PLUGIN, OF_RUNTIME};
use crate::truth::{ContainerMay, Key, PodMay, Program};
use crate::world::{Outcome, World};

/// A pod of a caller.
pub(crate) struct OwnPod {
    pub(crate) key: Key,
    pub(crate) spec: Pod,
    pub(crate) running: Option<RunningPod>,
    pub(crate) containers: Vec<OwnContainer>,
    /// Its creation met a fault, or nobody waited for it: the next may be told of its failure.
    doubtful: bool,
}

/// A container of a caller.
#[derive(Clone)]
pub(crate) struct OwnContainer {
    pub(crate) key: Key,
    pub(crate) spec: Container,
    pub(crate) name: String,
    pub(crate) id: Option<String>,
}

/// A caller.
pub(crate) struct Caller {
    pub(crate) world: Arc<World>,
    pub(crate) dice: Dice,
    number: usize,
    pods: Vec<OwnPod>,
    made: usize,
}

#[derive(Clone, Copy)]
enum Step {
    Create,
    Start,
    Exec,
    Inspect,
    Update,
    StopContainer,
    RemoveContainer,
    RunAgain,
    NextAttempt,
    StopPod,
    RemovePod,
    KillShim,
    Race,
    PodStatus,
    Reincarnate,
    Read,
}

const STEPS: [(u64, Step); 16] = [
    (20, Step::Create),
    (22, Step::Start),
    (12, Step::Exec),
    (10, Step::Inspect),
    (4, Step::Update),
    (9, Step::StopContainer),
    (8, Step::RemoveContainer),
    (5, Step::RunAgain),
    (3, Step::NextAttempt),
    (6, Step::StopPod),
    (6, Step::RemovePod),
    (3, Step::KillShim),
    (9, Step::Race),
    (5, Step::PodStatus),
    (4, Step::Reincarnate),
    (3, Step::Read),
];

/// What a call on something that is stopped, going or gone may be refused with.
pub(crate) const OVER: [Code; 4] =
    [Code::FailedPrecondition, Code::NotFound, Code::Cancelled, Code::Aborted];

impl Caller {
    pub(crate) fn new(world: &Arc<World>, dice: Dice, number: usize) -> Self {
        Self { world: Arc::clone(world), dice, number, pods: Vec::new(), made: 0 }
    }

    /// One step.
    pub(crate) async fn step(&mut self) -> Result<()> {
        if self.pods.is_empty() || (self.pods.len() < 3 && self.dice.once_in(6)) {
            return self.new_pod().await;
        }
        let at = self.dice.index(self.pods.len());
        let mut pod = self.pods.swap_remove(at);
        if pod.running.is_none() {
            self.run(&mut pod).await?;
            self.pods.push(pod);
            return Ok(());
        }
        let step = self.dice.weighed(&STEPS);
        if self.on_pod(step, &mut pod).await? {
            self.pods.push(pod);
        }
        Ok(())
    }

    /// Claims what was given up, and removes everything.
    pub(crate) async fn end(&mut self) -> Result<()> {
        for mut pod in std::mem::take(&mut self.pods) {
            for _ in 0..4 {
                if pod.running.is_some() {
                    break;
                }
                self.run_with(&mut pod, false).await?;
            }
            ensure!(pod.running.is_some(), "the pod of {:?} cannot be claimed", pod.key);
            self.remove_pod(&mut pod).await?;
        }
        Ok(())
    }

    /// Takes a step on a pod; says whether the pod stays.
    async fn on_pod(&mut self, step: Step, pod: &mut OwnPod) -> Result<bool> {
        let container = match pod.containers.len() {
            0 => None,
            length => Some(self.dice.index(length)),
        };
        match (step, container) {
            (Step::Create, _) if pod.containers.len() < 4 => self.create(pod).await?,
            (Step::Start, Some(at)) => self.start(pod, at).await?,
            (Step::Exec, Some(at)) => self.exec(pod, at).await?,
            (Step::Inspect, Some(at)) => self.inspect(pod, at).await?,
            (Step::Update, Some(at)) => self.update(pod, at).await?,
            (Step::StopContainer, Some(at)) => self.stop(pod, at).await?,
            (Step::RemoveContainer, Some(at)) => self.remove(pod, at).await?,
            (Step::RunAgain, _) => self.run(pod).await?,
            (Step::NextAttempt, _) => self.next_attempt(pod).await?,
            (Step::StopPod, _) => self.stop_pod(pod).await?,
            (Step::RemovePod, _) => {
                self.remove_pod(pod).await?;
                return Ok(false);
            }
            (Step::KillShim, _) => self.kill_shim(pod).await?,
            (Step::Race, _) => return self.race(pod).await,
            (Step::PodStatus, _) => self.pod_status(pod).await?,
            (Step::Reincarnate, _) => self.reincarnate(pod).await?,
            (Step::Read, _) => self.read().await?,
            _ => {}
        }
        Ok(true)
    }

    /// Sometimes a caller goes away before it is answered.
    pub(crate) fn patience(&mut self) -> Option<Duration> {
        if self.dice.once_in(6) { Some(self.dice.millis(90)) } else { None }
    }

    async fn new_pod(&mut self) -> Result<()> {
        self.made += 1;
        let name = format!("c{}-p{}", self.number, self.made);
        let spec = Pod::new(&name).logs(self.world.logs.join(&name));
        let number = u32::try_from(self.number * 100 + self.made)?;
        let spec = match self.dice.below(9) {
            0 | 1 => spec.shared_pid(),
            2 => spec.host_network(),
            3 => spec.port(20_000 + number.cast_signed(), 80),
            4 => spec.user_namespace(100_000 + number * 65_536),
            _ => spec,
        };
        let key = self.world.truth().new_pod(&name, 0);
        let mut pod = OwnPod { key, spec, running: None, containers: Vec::new(), doubtful: false };
        self.run(&mut pod).await?;
        self.pods.push(pod);
        Ok(())
    }

    async fn run(&mut self, pod: &mut OwnPod) -> Result<()> {
        self.run_with(pod, true).await
    }

    /// Runs a pod, perhaps with a fault in its network, perhaps with nobody waiting at last.
    async fn run_with(&mut self, pod: &mut OwnPod, faults: bool) -> Result<()> {
        let name = self.world.truth().pod(pod.key).name.clone();
        let mut armed = None;
        if faults && pod.running.is_none() && self.dice.once_in(5) {
            let fault = self.dice.pick(&OF_PLUGIN);
            self.world.tell(format!("{name}: ADD will meet {fault}"));
            armed = Some(self.world.levers.arm(&name, "ADD", fault)?);
        }
        let what = format!("run {name}");
        let outcome = loop {
            let patience = if faults { self.patience() } else { None };
            let ask = async |cri: Cri| cri.run(&pod.spec).await;
            match self.world.call(&what, patience, ask).await?.0 {
                Outcome::GaveUp if self.dice.once_in(3) => {
                    pod.doubtful |= armed.is_some();
                    return Ok(());
                }
                Outcome::GaveUp => {}
                outcome => break outcome,
            }
        };
        let excused = pod.doubtful || armed.as_ref().is_some_and(Armed::used);
        pod.doubtful = false;
        match outcome {
            Outcome::Done(running) => self.ran(pod, running).await,
            Outcome::Refused(why) => self.not_run(pod, &why, excused),
            Outcome::GaveUp => Ok(()),
        }
    }

    /// A pod is ready: it has an id of its own, and an address that nobody else has.
    async fn ran(&mut self, pod: &mut OwnPod, running: RunningPod) -> Result<()> {
        let id = running.id.clone();
        {
            let mut truth = self.world.truth();
            ensure!(!truth.knows(&id, pod.key), "the id {id} is another's");
            let known = truth.pod(pod.key);
            if let (Some(old), PodMay::Ready) = (&known.id, known.may) {
                ensure!(*old == id, "{}, run again, is {id} and was {old}", known.name);
            }
            if known.id.as_ref() != Some(&id) || known.may != PodMay::Ready {
                truth.change_pod(pod.key, |known| {
                    known.id = Some(id.clone());
                    known.may = PodMay::Ready;
                });
            }
        }
        pod.running = Some(running);
        self.pod_status(pod).await
    }

    fn not_run(&mut self, pod: &mut OwnPod, why: &Status, excused: bool) -> Result<()> {
        let truth = self.world.truth();
        let known = truth.pod(pod.key);
        let over = matches!(known.may, PodMay::Ending | PodMay::Stopped) || known.harmed;
        let fine = excused || (over && OVER.contains(&why.code()));
        ensure!(fine, "{known:?} could not be run, and nothing was done to it: {why:?}");
        Ok(())
    }

    async fn next_attempt(&mut self, pod: &mut OwnPod) -> Result<()> {
        let (name, attempt) = {
            let truth = self.world.truth();
            let known = truth.pod(pod.key);
            (known.name.clone(), known.attempt + 1)
        };
        // The one before is removed only afterwards: the next never waits for it.
        let key = self.world.truth().new_pod(&name, attempt);
        let spec = pod.spec.clone().attempt(attempt);
        let mut next = OwnPod { key, spec, running: None, containers: Vec::new(), doubtful: false };
        self.run(&mut next).await?;
        self.remove_pod(pod).await?;
        std::mem::swap(pod, &mut next);
        Ok(())
    }

    /// What a pod's status says.
    async fn pod_status(&mut self, pod: &OwnPod) -> Result<()> {
        let Some(running) = &pod.running else { return Ok(()) };
        let what = format!("status of pod {:.8}", running.id);
        let details =
            self.world.must(&what, async |cri| cri.pod_details(&running.id).await).await?;
        let status = details.status.context("a status")?;
        let mut truth = self.world.truth();
        let known = truth.pod(pod.key).clone();
        if known.harmed {
            return Ok(());
        }
        if known.may == PodMay::Stopped {
            let state = status.state();
            ensure!(state == PodSandboxState::SandboxNotready, "{known:?} is {state:?}");
        }
        if known.may == PodMay::Ready {
            let state = status.state();
            ensure!(state == PodSandboxState::SandboxReady, "{known:?} is {state:?}");
            let on_node = pod.spec.config().linux.unwrap_or_default().security_context;
            let modes = on_node.unwrap_or_default().namespace_options.unwrap_or_default();
            if modes.network() == cri::NamespaceMode::Node {
                return Ok(());
            }
            let ip = status.network.unwrap_or_default().ip;
            ensure!(ip.starts_with("198.18."), "{known:?} has the address {ip:?}");
            if let Some(other) = truth.with_address(&ip, pod.key) {
                bail!("{known:?} has the address {ip}, which is {other:?}'s");
            }
            ensure!(known.ip.is_none_or(|old| old == ip), "its address has become {ip}");
            truth.change_pod(pod.key, |known| known.ip = Some(ip));
        }
        Ok(())
    }

    async fn create(&mut self, pod: &mut OwnPod) -> Result<()> {
        self.made += 1;
        let program = self.program();
        let name = format!("c{}-{}", self.number, self.made);
        let spec = container(&name, program);
        let key = self.world.truth().new_container(pod.key, &name, program);
        let mut own = OwnContainer { key, spec, name, id: None };
        for again in [false, true] {
            if again && !self.dice.once_in(3) {
                break;
            }
            self.create_once(pod, &mut own).await?;
        }
        if own.id.is_some() {
            pod.containers.push(own);
        }
        Ok(())
    }

    async fn create_once(&mut self, pod: &OwnPod, own: &mut OwnContainer) -> Result<()> {
        let running = pod.running.clone().context("a pod that runs")?;
        let what = format!("create {}", own.name);
        let outcome = loop {
            let patience = self.patience();
            let ask = async |cri: Cri| cri.create(&running, &own.spec).await;
            match self.world.call(&what, patience, ask).await?.0 {
                // It is nobody's then, and goes with its pod.
                Outcome::GaveUp if own.id.is_none() && self.dice.once_in(3) => return Ok(()),
                Outcome::GaveUp => {}
                outcome => break outcome,
            }
        };
        let mut truth = self.world.truth();
        match outcome {
            Outcome::Done(id) => {
                ensure!(!truth.knows(&id, own.key), "the id {id} is another's");
                ensure!(own.id.as_ref().is_none_or(|old| *old == id), "{what}: now it is {id}");
                if own.id.is_none() {
                    truth.change(own.key, |known| {
                        known.id = Some(id.clone());
                        known.may = ContainerMay::Created;
                    });
                }
                own.id = Some(id);
            }
            Outcome::Refused(why) => {
                let known = truth.pod(pod.key);
                let fine =
                    known.harmed || (known.may != PodMay::Ready && OVER.contains(&why.code()));
                ensure!(fine, "{what}, and nothing was done to {known:?}: {why:?}");
            }
            Outcome::GaveUp => {}
        }
        Ok(())
    }

    fn program(&mut self) -> Program {
        match self.dice.below(6) {
            0..3 => Program::Idle,
            3 => Program::Stubborn,
            _ => Program::Exits {
                code: i32::try_from(self.dice.below(3) * 7).unwrap_or(0),
                after_ms: self.dice.below(3) * 40,
            },
        }
    }

    async fn start(&mut self, pod: &OwnPod, at: usize) -> Result<()> {
        let own = pod.containers[at].clone();
        let id = own.id.clone().context("a container with an id")?;
        let before = self.world.truth().container(own.key).may;
        if !matches!(before, ContainerMay::Created | ContainerMay::Running) {
            return Ok(());
        }
        let armed = self.arm(&own, "start", before == ContainerMay::Created)?;
        if before == ContainerMay::Created {
            self.world.truth().change(own.key, |known| known.may = ContainerMay::Changing);
        }
        let what = format!("start {}", own.name);
        let mut repeated = before == ContainerMay::Running;
        let outcome = loop {
            let patience = self.patience();
            let ask = async |cri: Cri| cri.start(&id).await;
            let (outcome, died) = self.world.call(&what, patience, ask).await?;
            repeated |= died;
            match outcome {
                Outcome::GaveUp => repeated = true,
                outcome => break outcome,
            }
        };
        self.settle_fault(&own, armed);
        self.started(pod, &own, (outcome, repeated))?;
        if self.dice.once_in(2) { self.inspect(pod, at).await } else { Ok(()) }
    }

    fn started(
        &self,
        pod: &OwnPod,
        own: &OwnContainer,
        (outcome, repeated): (Outcome<()>, bool),
    ) -> Result<()> {
        let mut truth = self.world.truth();
        let known = truth.container(own.key).clone();
        let ready = truth.pod(pod.key).may == PodMay::Ready;
        if let Outcome::Refused(why) = outcome {
            let over = !ready || (repeated && known.program.ends());
            let fine = truth.harmed(own.key) || (over && OVER.contains(&why.code()));
            ensure!(fine, "start, and nothing was done to {known:?}: {why:?}");
            return Ok(());
        }
        let fresh = known.may == ContainerMay::Changing;
        ensure!(ready || !fresh, "{known:?} has been started in a stopped pod");
        if fresh {
            truth.change(own.key, |known| known.may = ContainerMay::Running);
        }
        Ok(())
    }

    /// Sometimes the runtime's next calls for a container meet a fault.
    fn arm(&mut self, own: &OwnContainer, verb: &str, may: bool) -> Result<Option<Armed>> {
        if !may || !self.dice.once_in(6) {
            return Ok(None);
        }
        let id = own.id.as_deref().context("a container with an id")?;
        let verb = if verb == "start" { *self.dice.pick(&["create", "start"]) } else { verb };
        let fault = self.dice.pick(&OF_RUNTIME);
        self.world.tell(format!("{}: {verb} will meet {fault}", own.name));
        self.world.levers.arm(id, verb, fault).map(Some)
    }

    /// A fault that a container met excuses it; one that only took time does not.
    fn settle_fault(&self, own: &OwnContainer, armed: Option<Armed>) {
        if armed.is_some_and(|armed| armed.used()) {
            self.world.truth().change(own.key, |known| known.harmed = true);
        }
    }

    async fn exec(&mut self, pod: &OwnPod, at: usize) -> Result<()> {
        let own = &pod.containers[at];
        let id = own.id.clone().context("a container with an id")?;
        if self.dice.once_in(10) {
            let number = self.dice.below(1 << 40);
            return self.exec_for_ever(own, &id, number).await;
        }
        let said = format!("said-{}", self.dice.below(1000));
        let code = i32::try_from(self.dice.below(4)).unwrap_or(0);
        let line = format!("echo {said}; exit {code}");
        let patience = self.patience();
        let armed = self.arm(own, "exec", patience.is_none())?;
        let ask = async |cri: Cri| cri.exec(&id, &["sh", "-c", &line]).await;
        let what = format!("exec in {}", own.name);
        let (outcome, _) = self.world.call(&what, patience, ask).await?;
        let faulty = armed.is_some_and(|armed| armed.used());
        let truth = self.world.truth();
        let known = truth.container(own.key);
        let sound = !faulty && !truth.harmed(own.key);
        let runs = known.may == ContainerMay::Running && truth.pod(pod.key).may == PodMay::Ready;
        let steady = runs && !known.program.ends();
        match outcome {
            Outcome::Done(output) if steady && sound => {
                let right = output.code == code && output.stdout.trim_end() == said;
                ensure!(right, "{what}: {line:?} in {known:?} gave {output:?}");
            }
            Outcome::Refused(why) if sound => {
                let fine = !steady && OVER.contains(&why.code());
                ensure!(fine, "{what}, and nothing was done to {known:?}: {why:?}");
            }
            _ => {}
        }
        Ok(())
    }

    /// A command that outlives its time is killed; what it has started is gone with it.
    async fn exec_for_ever(&self, own: &OwnContainer, id: &str, number: u64) -> Result<()> {
        let what = format!("exec for a second in {}", own.name);
        let line = format!("sleep 1{number} & sleep 2{number}");
        let ask = async |cri: Cri| cri.exec_within(id, &["sh", "-c", &line], 1).await;
        let (outcome, died) = self.world.call(&what, None, ask).await?;
        let truth = self.world.truth();
        let known = truth.container(own.key);
        let runs = known.may == ContainerMay::Running && !known.program.ends();
        let steady = runs && truth.pod(known.pod).may == PodMay::Ready && !truth.harmed(own.key);
        match outcome {
            Outcome::Refused(why) if why.code() == Code::DeadlineExceeded => {
                let left = self.world.runs(&number.to_string())?;
                ensure!(died || !steady || left.is_none(), "{what} has left {left:?}");
                Ok(())
            }
            other if steady => bail!("{what} of {known:?}: {other:?}"),
            Outcome::Refused(why) if !truth.harmed(own.key) => {
                ensure!(OVER.contains(&why.code()), "{what} of {known:?}: {why:?}");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What is measured and reported waits for no pod.
    async fn read(&self) -> Result<()> {
        self.world
            .must("stats of containers", async |cri: Cri| {
                let request = cri::ListContainerStatsRequest { filter: None };
                cri.runtime.clone().list_container_stats(in_time(request)).await.map(drop)
            })
            .await?;
        self.world
            .must("stats of pods", async |cri: Cri| {
                let request = cri::ListPodSandboxStatsRequest { filter: None };
                cri.runtime.clone().list_pod_sandbox_stats(in_time(request)).await.map(drop)
            })
            .await?;
        let status = self.world.must("status", async |cri: Cri| cri.status().await).await?;
        let conditions = status.status.unwrap_or_default().conditions;
        ensure!(conditions.iter().all(|condition| condition.status), "{conditions:?}");
        Ok(())
    }

    async fn update(&mut self, pod: &OwnPod, at: usize) -> Result<()> {
        let own = &pod.containers[at];
        let id = own.id.clone().context("a container with an id")?;
        let shares = 100 + i64::try_from(self.dice.below(900)).unwrap_or(0);
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id,
            linux: Some(cri::LinuxContainerResources { cpu_shares: shares, ..Default::default() }),
            ..Default::default()
        };
        let what = format!("update {}", own.name);
        let patience = self.patience();
        let ask = async |cri: Cri| {
            let mut runtime = cri.runtime.clone();
            runtime.update_container_resources(in_time(request.clone())).await.map(drop)
        };
        let (outcome, _) = self.world.call(&what, patience, ask).await?;
        let truth = self.world.truth();
        let known = truth.container(own.key);
        if let Outcome::Refused(why) = outcome {
            let live = matches!(known.may, ContainerMay::Running | ContainerMay::Created);
            let over = !live || known.program.ends() || truth.pod(pod.key).may != PodMay::Ready;
            let fine = truth.harmed(own.key) || (over && OVER.contains(&why.code()));
            ensure!(fine, "{what}, and nothing was done to {known:?}: {why:?}");
        }
        Ok(())
    }

    async fn stop(&mut self, pod: &OwnPod, at: usize) -> Result<()> {
        let own = &pod.containers[at];
        let id = own.id.clone().context("a container with an id")?;
        let before = self.world.truth().container(own.key).may;
        self.world.truth().change(own.key, |known| {
            if known.may != ContainerMay::Going {
                known.may = ContainerMay::Changing;
            }
        });
        let grace = i64::try_from(self.dice.below(3)).unwrap_or(0);
        let what = format!("stop {} within {grace} s", own.name);
        loop {
            let patience = self.patience();
            let ask = async |cri: Cri| cri.stop(&id, grace).await;
            match self.world.call(&what, patience, ask).await?.0 {
                Outcome::Done(()) => break,
                Outcome::Refused(why) => bail!("{what} must succeed: {why:?}"),
                Outcome::GaveUp => {}
            }
        }
        self.world.truth().change(own.key, |known| {
            known.may = match before {
                ContainerMay::Created | ContainerMay::Unstarted => ContainerMay::Unstarted,
                ContainerMay::Running | ContainerMay::Ended => ContainerMay::Ended,
                other => other,
            };
        });
        self.inspect(pod, at).await
    }

    async fn remove(&mut self, pod: &mut OwnPod, at: usize) -> Result<()> {
        let own = pod.containers.swap_remove(at);
        let id = own.id.clone().context("a container with an id")?;
        let armed = self.arm(&own, "delete", true)?;
        self.world.truth().change(own.key, |known| known.may = ContainerMay::Going);
        let what = format!("remove {}", own.name);
        loop {
            let patience = self.patience();
            let ask = async |cri: Cri| cri.remove(&id).await;
            match self.world.call(&what, patience, ask).await?.0 {
                Outcome::Done(()) => break,
                Outcome::Refused(why) => bail!("{what} must succeed: {why:?}"),
                Outcome::GaveUp => {}
            }
        }
        drop(armed);
        self.world.truth().change(own.key, |known| known.may = ContainerMay::Gone);
        let what = format!("status of {}, which is removed", own.name);
        match self.world.call(&what, None, async |cri| cri.container(&id).await).await?.0 {
            Outcome::Refused(why) if why.code() == Code::NotFound => Ok(()),
            other => bail!("{what}: {other:?}"),
        }
    }

    pub(crate) async fn stop_pod(&mut self, pod: &mut OwnPod) -> Result<()> {
        self.end_pod(pod, (PodMay::Ending, PodMay::Stopped)).await
    }

    pub(crate) async fn remove_pod(&mut self, pod: &mut OwnPod) -> Result<()> {
        self.end_pod(pod, (PodMay::Going, PodMay::Gone)).await
    }

    /// Stops or removes a pod, perhaps with a fault in its network.
    async fn end_pod(&mut self, pod: &OwnPod, (during, after): (PodMay, PodMay)) -> Result<()> {
        let id = pod.running.clone().context("a pod that runs")?.id;
        let name = self.world.truth().pod(pod.key).name.clone();
        let mut armed = None;
        if self.dice.once_in(6) {
            let fault = self.dice.pick(&OF_PLUGIN);
            self.world.tell(format!("{name}: DEL will meet {fault}"));
            armed = Some(self.world.levers.arm(&name, "DEL", fault)?);
        }
        let gone = after == PodMay::Gone;
        self.world.truth().change_pod(pod.key, |known| known.may = during);
        let what = format!("{} pod {name}", if gone { "remove" } else { "stop" });
        let times = if self.dice.once_in(4) { 2 } else { 1 };
        for _ in 0..times {
            loop {
                let patience = self.patience();
                let ask = async |cri: Cri| match gone {
                    true => cri.remove_pod(&id).await,
                    false => cri.stop_pod(&id).await,
                };
                match self.world.call(&what, patience, ask).await?.0 {
                    Outcome::Done(()) => break,
                    Outcome::Refused(why) => bail!("{what} must succeed: {why:?}"),
                    Outcome::GaveUp => {}
                }
            }
        }
        drop(armed);
        self.world.truth().change_pod(pod.key, |known| known.may = after);
        Ok(())
    }

    /// A pod whose shim is killed is lost, and says so soon; its containers have ended.
    async fn kill_shim(&mut self, pod: &OwnPod) -> Result<()> {
        if self.world.truth().pod(pod.key).may != PodMay::Ready {
            return Ok(());
        }
        self.world.kill_shim(pod.key)?;
        let id = pod.running.clone().context("a pod that runs")?.id;
        for turn in 0.. {
            let what = format!("status of pod {id:.8}, whose shim is dead");
            let status = self.world.must(&what, async |cri| cri.pod_status(&id).await).await?;
            if status.state() == PodSandboxState::SandboxNotready {
                return Ok(());
            }
            ensure!(turn < 200, "pod {id} has no shim and is ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// What a container's status says, against the model and the kernel.
    async fn inspect(&mut self, pod: &OwnPod, at: usize) -> Result<()> {
        let own = &pod.containers[at];
        let id = own.id.clone().context("a container with an id")?;
        let what = format!("status of {}", own.name);
        let ask = async |cri: Cri| cri.container_details(&id).await;
        let details = match self.world.call(&what, None, ask).await?.0 {
            Outcome::Done(details) => details,
            Outcome::Refused(why)
                if why.code() == Code::NotFound
                    && self.world.truth().container(own.key).may == ContainerMay::Going =>
            {
                return Ok(());
            }
            other => bail!("{what}: {other:?}"),
        };
        let status = details.status.context("a status")?;
        let harmed = self.world.truth().harmed(own.key);
        match status.state() {
            ContainerState::ContainerRunning if !harmed => {
                let info = details.info.get("info").context("verbose information")?;
                let info: serde_json::Value = serde_json::from_str(info)?;
                let pid = info["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
                self.is_alive(own, pid.context("a pid")?)
            }
            ContainerState::ContainerExited => self.has_ended(pod, own, &status),
            _ => Ok(()),
        }
    }

    /// A container that is running has a process, and always the same.
    fn is_alive(&self, own: &OwnContainer, pid: u32) -> Result<()> {
        let start = self.world.started(pid);
        let mut truth = self.world.truth();
        let known = truth.container(own.key).clone();
        let steady = known.may == ContainerMay::Running && !known.program.ends();
        let Some(start) = start else {
            ensure!(!steady, "{known:?} is running, and its process {pid} is not there");
            return Ok(());
        };
        if let Some(before) = &known.process {
            ensure!(before.0 == pid, "{known:?} has become process {pid}");
            ensure!(before.1 == start || !steady, "{known:?} has been started again");
        }
        if steady {
            truth.change(own.key, |known| known.process = Some((pid, start)));
        }
        Ok(())
    }

    /// A container that has ended says how, always the same, and its log is whole.
    fn has_ended(
        &self,
        pod: &OwnPod,
        own: &OwnContainer,
        status: &cri::ContainerStatus,
    ) -> Result<()> {
        let mut truth = self.world.truth();
        let known = truth.container(own.key).clone();
        let end = (status.exit_code, status.finished_at);
        ensure!(!status.reason.is_empty(), "{known:?} has ended without a reason: {status:?}");
        ensure!(status.finished_at > 0, "{known:?} has ended at no time: {status:?}");
        if let Some(before) = known.exit {
            ensure!(before == end, "{known:?} has ended again: {status:?}");
        }
        truth.change(own.key, |known| known.exit = Some(end));
        if truth.harmed(own.key) || status.started_at == 0 {
            return Ok(());
        }
        ensure!(known.program.may_give(end.0), "{known:?} has ended so: {status:?}");
        if let Program::Exits { code, .. } = known.program
            && code == end.0
            && code != 0
        {
            let name = &truth.pod(pod.key).name;
            let log = self.world.logs.join(name).join(format!("{}.0.log", own.name));
            let text = std::fs::read_to_string(&log).context("read a container's log")?;
            ensure!(text.contains("said at the end"), "the log of {known:?} is not whole: {text}");
        }
        Ok(())
    }
}

/// A container that does what its program says.
fn container(name: &str, program: Program) -> Container {
    match program {
        Program::Idle => Container::idle(name, &busybox()),
        Program::Stubborn => Container::new(name, &busybox())
            .shell("trap '' TERM; while :; do sleep 1000 & wait $!; done"),
        Program::Exits { code, after_ms } => Container::new(name, &busybox())
            .shell(&format!("usleep {after_ms}000; echo said at the end; exit {code}")),
    }
}
