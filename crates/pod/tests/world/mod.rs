//! What exists outside the loop, and the search over everything that can happen to it.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash, Hasher};

use berth_pod::holding::{ContainerHolding, Holding, PodHolding};
use berth_pod::job::{Job, Outcome, Subject, Verb};
use berth_pod::machine::{Command, Event, Machine, Reply, Request, Token};
use berth_pod::record::*;
use berth_pod::spec::*;
use berth_pod::{ContainerId, Kind, SandboxId};

/// A call of the script; each is made at any time, in the script's order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Script {
    Run,
    Create,
    Start,
    Update,
    Stop,
    Remove,
    StopPod,
    RemovePod,
    /// The last caller goes away.
    GiveUp,
}

/// How much may go wrong, and how far to look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) failures: u32,
    pub(crate) crashes: u32,
    pub(crate) depth: u32,
}

/// Everything at one moment: the loop, and what there is outside it.
#[derive(Clone, Debug)]
struct Moment {
    machine: Option<Machine>,
    saved: Option<PodRecord>,
    pending: Option<(u64, PodRecord, usize)>,
    leftovers: BTreeSet<String>,
    exists: BTreeSet<Subject>,
    terminated: BTreeSet<Subject>,
    alive: bool,
    /// The shares that the bundle and the task have.
    shares: i64,
    jobs: BTreeMap<Subject, (Verb, bool)>,
    wake: Option<i64>,
    now: i64,
    asked: usize,
    open: BTreeSet<Token>,
    last: Option<Token>,
    failures: u32,
    crashes: u32,
    container: Option<ContainerId>,
    created: u8,
    /// The last save failed; a crash then forgets what was done without it.
    unsaved: bool,
    amnesia: bool,
}

/// One thing that can happen.
#[derive(Clone, Debug)]
enum Choice {
    Ask,
    End(Subject, How),
    Save(bool),
    Crash(bool),
    Exit,
    Tick,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Works,
    FailsBefore,
    FailsAfter,
    AbortedBefore,
    AbortedAfter,
}

fn admitted<T>(spec: T) -> Admitted<T> {
    Admitted { spec, digest: "d".into(), original: Vec::new() }
}

fn sandbox_spec() -> SandboxSpec {
    let name = PodName { name: "p".into(), namespace: "n".into(), uid: "u".into(), attempt: 0 };
    SandboxSpec {
        name,
        handler: String::new(),
        hostname: String::new(),
        log_directory: None,
        dns: None,
        port_mappings: Vec::new(),
        labels: StringMap::new(),
        annotations: StringMap::new(),
        cgroup_parent: None,
        namespaces: PodNamespaces {
            network: PodOrNode::Pod,
            pid: PidMode::Container,
            ipc: PodOrNode::Pod,
            user: None,
        },
        sysctls: StringMap::new(),
        privileged: false,
        selinux: None,
        overhead: None,
        resources: None,
    }
}

fn container_spec() -> ContainerSpec {
    ContainerSpec {
        checkpoint: None,
        name: ContainerName { name: "c".into(), attempt: 0 },
        image: ImageAsked::default(),
        command: Vec::new(),
        args: Vec::new(),
        working_dir: String::new(),
        envs: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        cdi_devices: Vec::new(),
        labels: StringMap::new(),
        annotations: StringMap::new(),
        log_path: None,
        stdin: Stdin::Closed,
        tty: false,
        stop_signal: None,
        resources: Resources::default(),
        security: Security {
            privileged: false,
            add_capabilities: Vec::new(),
            drop_capabilities: Vec::new(),
            add_ambient_capabilities: Vec::new(),
            pid: PidMode::Container,
            run_as: RunAs::Image,
            supplemental_groups: Vec::new(),
            groups_policy: GroupsPolicy::Merge,
            readonly_rootfs: false,
            no_new_privs: false,
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
            seccomp: Profile::Unset,
            apparmor: Profile::Unset,
            selinux: None,
        },
    }
}

fn pod_fact(h: PodHolding) -> PodFact {
    match h {
        PodHolding::Cgroup => PodFact::Cgroup(CgroupFact::default()),
        PodHolding::Namespaces => PodFact::Namespaces(NamespacesFact::default()),
        PodHolding::Files => PodFact::Files(FilesFact::default()),
        PodHolding::Network => PodFact::Network(NetworkFact::default()),
        PodHolding::Shim => PodFact::Shim(ShimFact::default()),
        PodHolding::Sandbox => PodFact::Sandbox(SandboxFact::default()),
    }
}

fn container_fact(h: ContainerHolding) -> ContainerFact {
    match h {
        ContainerHolding::Image => ContainerFact::Image(ImageHeld::default().into()),
        ContainerHolding::Rootfs => ContainerFact::Rootfs(RootfsFact::default()),
        ContainerHolding::Bundle => ContainerFact::Bundle(None),
        ContainerHolding::Cgroup => ContainerFact::Cgroup("c".into()),
        ContainerHolding::Task => ContainerFact::Task(TaskFact { pid: 1, started_at: 1 }),
    }
}

fn failed() -> Outcome {
    Outcome::Failed(Failure::new(Kind::Broken, "it failed"))
}

impl Moment {
    fn first() -> Self {
        Self {
            machine: None,
            saved: None,
            pending: None,
            leftovers: BTreeSet::new(),
            exists: BTreeSet::new(),
            terminated: BTreeSet::new(),
            alive: false,
            shares: 0,
            jobs: BTreeMap::new(),
            wake: None,
            now: 1,
            asked: 0,
            open: BTreeSet::new(),
            last: None,
            failures: 0,
            crashes: 0,
            container: None,
            created: 0,
            unsaved: false,
            amnesia: false,
        }
    }

    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        format!("{self:?}").hash(&mut hasher);
        hasher.finish()
    }

    fn choices(&self, script: &[Script], budget: Budget) -> Vec<Choice> {
        let mut all = Vec::new();
        if self.asked < script.len() {
            all.push(Choice::Ask);
        }
        let may_fail = self.failures < budget.failures;
        for (subject, (verb, aborting)) in &self.jobs {
            let mut push = |how| all.push(Choice::End(subject.clone(), how));
            match verb {
                Verb::Watch if *aborting => push(How::AbortedBefore),
                Verb::Watch => match subject {
                    Subject::Exit(_) if !self.alive => push(How::Works),
                    Subject::Sandbox if may_fail => push(How::Works), // it is lost
                    _ => {}
                },
                _ => {
                    push(How::Works);
                    if *aborting {
                        push(How::AbortedBefore);
                        push(How::AbortedAfter);
                    } else if may_fail {
                        push(How::FailsBefore);
                        push(How::FailsAfter);
                    }
                }
            }
        }
        if self.pending.is_some() {
            all.push(Choice::Save(true));
            if may_fail {
                all.push(Choice::Save(false));
            }
        }
        if self.machine.is_some() && self.crashes < budget.crashes {
            all.push(Choice::Crash(false));
            all.push(Choice::Crash(true));
        }
        if self.alive && may_fail {
            all.push(Choice::Exit);
        }
        if self.wake.is_some() && self.jobs.values().all(|(v, _)| *v == Verb::Watch) {
            all.push(Choice::Tick);
        }
        all
    }

    fn happen(&mut self, choice: &Choice, script: &[Script]) {
        match choice {
            Choice::Ask => self.ask(script[self.asked]),
            Choice::End(subject, how) => self.end(subject, *how),
            Choice::Save(works) => self.save(*works),
            Choice::Crash(took_effect) => self.crash(*took_effect),
            Choice::Exit => {
                self.alive = false;
                self.failures += 1;
            }
            Choice::Tick => {
                if let Some(at) = self.wake.take() {
                    self.now = at;
                }
                self.event(Event::Tick);
            }
        }
        self.check();
    }

    fn ask(&mut self, what: Script) {
        self.asked += 1;
        let token = self.asked as Token;
        let id = || SandboxId::from_random([1; 32]);
        if what == Script::GiveUp {
            if let Some(last) = self.last.take() {
                self.open.remove(&last);
                self.event(Event::CallerGone(last));
            }
            return;
        }
        if self.machine.is_none() {
            if what != Script::Run {
                return; // unknown ids are the registry's business
            }
            let record =
                PodRecord::new(id(), "b".into(), admitted(sandbox_spec()), "h".into(), self.now);
            self.machine = Some(Machine::new(record));
            self.dispatch_start();
        }
        let container = self.container.clone().unwrap_or_else(|| ContainerId::from_random([9; 32]));
        let request = match what {
            Script::Run => Request::RunSandbox { digest: "d".into() },
            Script::Create => {
                self.created += 1;
                let id = ContainerId::from_random([self.created; 32]);
                Request::CreateContainer(id, Box::new(admitted(container_spec())))
            }
            Script::Start => Request::StartContainer(container),
            Script::Update => {
                let asked = Resources { cpu_shares: 7, ..Resources::default() };
                Request::UpdateResources(container, asked)
            }
            Script::Stop => Request::StopContainer(container, 5),
            Script::Remove => Request::RemoveContainer(container),
            Script::StopPod => Request::StopSandbox,
            Script::RemovePod | Script::GiveUp => Request::RemoveSandbox,
        };
        self.open.insert(token);
        self.last = Some(token);
        self.event(Event::Request(token, request));
    }

    fn event(&mut self, event: Event) {
        let now = self.now;
        let Some(machine) = self.machine.as_mut() else { return };
        let commands = machine.handle(event, now);
        self.dispatch(commands);
    }

    fn dispatch_start(&mut self) {
        let now = self.now;
        let Some(machine) = self.machine.as_mut() else { return };
        let commands = machine.start(now);
        self.dispatch(commands);
    }

    fn dispatch(&mut self, commands: Vec<Command>) {
        self.wake = None;
        for command in &commands {
            if let Command::Save(_, leftovers) = command {
                self.leftovers.extend(leftovers.iter().map(leftover_key));
            }
        }
        for command in commands {
            match command {
                Command::Save(generation, leftovers) => {
                    let record = self.machine.as_ref().unwrap().record().as_ref().clone();
                    self.pending = Some((generation, record, leftovers.len()));
                }
                Command::Start(job) => self.start(job),
                Command::Abort(subject) => {
                    let job = self.jobs.get_mut(&subject).expect("only a running job is aborted");
                    assert!(!job.1, "{subject:?} was aborted twice");
                    job.1 = true;
                }
                Command::Reply(token, reply) => {
                    self.is_saved(&reply);
                    if let Ok(Reply::Container(id)) = &reply {
                        self.container = Some(id.clone());
                    }
                    self.open.remove(&token);
                }
                Command::WakeAt(at) => self.wake = Some(at),
                Command::Forget(leftovers) => {
                    self.leftovers.extend(leftovers.iter().map(leftover_key));
                    assert!(self.jobs.is_empty(), "forgotten while {:?} run", self.jobs);
                    self.saved = None;
                    self.forget();
                }
            }
        }
    }

    /// What a creation is answered with survives a crash right after the answer.
    fn is_saved(&self, reply: &Result<Reply, Failure>) {
        let saved = self.saved.as_ref();
        let kept = match reply {
            Ok(Reply::Ready) => saved.is_some_and(|r| r.answered),
            Ok(Reply::Container(id)) => {
                saved.and_then(|r| r.containers.get(id)).is_some_and(|c| c.answered)
            }
            _ => true,
        };
        assert!(kept, "{reply:?} is told before it is saved");
    }

    fn forget(&mut self) {
        self.event(Event::Forgotten);
        self.machine = None;
        self.wake = None;
    }

    /// What lets something go is known to a restarted daemon, unless the disk has taken no save.
    fn is_reason_saved(&self, reason: impl Fn(&PodRecord) -> Option<(u8, bool)>) {
        let now = self.machine.as_ref().and_then(|machine| reason(machine.record()));
        let saved = self.saved.as_ref().and_then(reason);
        assert!(self.unsaved || now == saved, "released by {now:?}, and {saved:?} is saved");
    }

    /// A job starts: what it needs must exist, and nothing that needs what it releases.
    fn start(&mut self, job: Job) {
        assert!(!self.jobs.contains_key(&job.subject), "two jobs on {:?}", job.subject);
        if job.verb == Verb::Terminate {
            let first = self.terminated.insert(job.subject.clone());
            assert!(first || self.amnesia, "the stop signal is sent to {:?} again", job.subject);
        }
        let saved = self.saved.as_ref();
        if self.amnesia {
            self.jobs.insert(job.subject, (job.verb, false));
            return;
        }
        match (&job.subject, job.verb) {
            (Subject::Pod(h), Verb::Acquire) => {
                let status = saved.map(|r| r.status(*h));
                assert_ne!(
                    status,
                    Some(Status::Absent),
                    "{h:?} is acquired without a saved intent"
                );
                for need in h.needs() {
                    assert!(self.exists.contains(&Subject::Pod(*need)), "{h:?} without {need:?}");
                }
            }
            (Subject::Container(id, h), Verb::Acquire) => {
                let c = saved.and_then(|r| r.containers.get(id)).expect("a saved container");
                assert_ne!(
                    c.status(*h),
                    Status::Absent,
                    "{h:?} is acquired without a saved intent"
                );
                for need in h.needs() {
                    let need = Subject::Container(id.clone(), *need);
                    assert!(self.exists.contains(&need), "{h:?} without {need:?}");
                }
                assert!(self.exists.contains(&Subject::Pod(PodHolding::Sandbox)));
            }
            (Subject::Pod(h), Verb::Release) => {
                self.is_reason_saved(|r| Some((r.wish as u8, r.lost.is_some())));
                for other in PodHolding::ALL.iter().filter(|o| o.needs().contains(h)) {
                    assert!(!self.really(&Subject::Pod(*other)), "{h:?} goes before {other:?}");
                }
                if *h == PodHolding::Sandbox {
                    let tasks =
                        |s: &&Subject| matches!(s, Subject::Container(_, ContainerHolding::Task));
                    assert!(
                        !self.exists.iter().any(|s| tasks(&s) && self.really(s)),
                        "the sandbox goes before a task"
                    );
                }
            }
            (Subject::Container(id, h), Verb::Release) => {
                let of = |c: &std::sync::Arc<ContainerRecord>| (c.wish as u8, c.exit.is_some());
                self.is_reason_saved(|r| r.containers.get(id).map(of));
                for other in ContainerHolding::ALL.iter().filter(|o| o.needs().contains(h)) {
                    let other = Subject::Container(id.clone(), *other);
                    assert!(!self.really(&other), "{h:?} goes before {other:?}");
                }
            }
            _ => {}
        }
        self.jobs.insert(job.subject, (job.verb, false));
    }

    /// It exists, and was not let go as a leftover.
    fn really(&self, subject: &Subject) -> bool {
        self.exists.contains(subject) && !self.leftovers.contains(&subject_key(subject))
    }

    fn end(&mut self, subject: &Subject, how: How) {
        let (verb, _) = self.jobs.remove(subject).expect("the job runs");
        let takes_effect = matches!(how, How::Works | How::FailsAfter | How::AbortedAfter);
        if takes_effect {
            self.effect(subject, verb);
        }
        let lost = *subject == Subject::Sandbox && how == How::Works;
        if lost || matches!(how, How::FailsBefore | How::FailsAfter) {
            self.failures += 1;
        }
        if verb == Verb::Terminate && how == How::FailsBefore {
            // It did not get out.
            self.terminated.remove(subject);
        }
        let dead = verb == Verb::Release && !self.alive;
        let outcome = match how {
            How::AbortedBefore | How::AbortedAfter => Outcome::Aborted,
            // Whoever is not sure that the signal did not get out does not say so.
            How::FailsAfter if verb == Verb::Terminate => Outcome::Done,
            How::FailsBefore | How::FailsAfter => match (subject, failed()) {
                (Subject::Container(_, ContainerHolding::Task), Outcome::Failed(failure))
                    if dead =>
                {
                    Outcome::Dead(failure)
                }
                (_, failed) => failed,
            },
            How::Works => match (subject, verb) {
                (Subject::Pod(h), Verb::Acquire) => Outcome::Pod(pod_fact(*h)),
                (Subject::Container(_, h), Verb::Acquire) => Outcome::Container(container_fact(*h)),
                (Subject::Sandbox, _) => Outcome::Lost(Lost::Sandbox("it ended".into())),
                (Subject::Exit(_), _) => Outcome::Exited(Exit {
                    code: 0,
                    at: 0,
                    reason: "Completed".into(),
                    message: String::new(),
                }),
                _ => Outcome::Done,
            },
        };
        self.event(Event::Ended(Job { subject: subject.clone(), verb }, outcome));
    }

    fn effect(&mut self, subject: &Subject, verb: Verb) {
        if let (Subject::Container(id, ContainerHolding::Bundle), Verb::Acquire)
        | (Subject::Update(id), _) = (subject, verb)
            && let Some(c) = self.machine.as_ref().and_then(|m| m.record().containers.get(id))
        {
            self.shares = c.resources.cpu_shares;
        }
        match verb {
            Verb::Acquire => {
                self.exists.insert(subject.clone());
                if matches!(subject, Subject::Container(_, ContainerHolding::Task)) {
                    self.alive = true;
                }
            }
            Verb::Release => {
                self.exists.remove(subject);
                if matches!(subject, Subject::Container(_, ContainerHolding::Task)) {
                    self.alive = false;
                }
            }
            Verb::Kill { .. } => self.alive = false,
            Verb::Terminate | Verb::Update | Verb::Watch => {}
        }
    }

    fn save(&mut self, works: bool) {
        let (generation, record, _) = self.pending.take().expect("a save is under way");
        if works {
            self.saved = Some(record);
            self.unsaved = false;
            self.event(Event::Saved(generation, Ok(())));
        } else {
            self.failures += 1;
            self.unsaved = true;
            self.event(Event::Saved(generation, Err(Failure::new(Kind::Exhausted, "disk full"))));
        }
    }

    /// The daemon dies; its jobs are fenced: each has taken effect or not.
    fn crash(&mut self, took_effect: bool) {
        self.crashes += 1;
        self.amnesia |= self.unsaved;
        let jobs = std::mem::take(&mut self.jobs);
        if took_effect {
            for (subject, (verb, _)) in &jobs {
                self.effect(subject, *verb);
            }
            if let Some((_, record, _)) = self.pending.take() {
                self.saved = Some(record);
            }
        }
        self.pending = None;
        self.open.clear();
        self.last = None;
        self.wake = None;
        // Unless it was saved that the signal got out, nobody knows.
        let saved = self.saved.as_ref();
        let got_out = |id: &ContainerId| {
            let stop = saved.and_then(|r| r.containers.get(id)).and_then(|c| c.stop);
            stop.is_some_and(|stop| stop.signal == StopSignal::Sent)
        };
        self.terminated.retain(|subject| subject.container().is_some_and(got_out));
        self.machine = self.saved.clone().map(|r| Machine::restore(r, "b", self.now));
        self.dispatch_start();
    }

    /// What exists is known to the saved record, or is a leftover: nothing can leak.
    fn check(&self) {
        for subject in &self.exists {
            if self.leftovers.contains(&subject_key(subject)) {
                continue;
            }
            let known = self.saved.as_ref().is_some_and(|r| match subject {
                Subject::Pod(h) => r.status(*h) != Status::Absent,
                Subject::Container(id, h) => {
                    r.containers.get(id).is_some_and(|c| c.status(*h) != Status::Absent)
                }
                _ => true,
            });
            assert!(known, "{subject:?} exists and no saved record knows it");
        }
        if let Some(machine) = &self.machine
            && machine.record().containers.values().any(|c| c.exit.is_some())
        {
            assert!(!self.alive || machine.record().containers.len() > 1, "exited and alive");
        }
    }

    /// All goes well for as long as nothing but time can pass.
    fn come_to_rest(&mut self, script: &[Script]) {
        while let Some(choice) = self.well().filter(|c| !matches!(c, Choice::Tick)) {
            self.happen(&choice, script);
        }
    }

    /// At rest, the limits that are told are those that the container has.
    fn limits_are_true(&self) {
        let containers = self.machine.iter().flat_map(|m| m.record().containers.values());
        for c in containers.filter(|c| c.created() && c.exit.is_none()) {
            assert!(c.changing.is_none(), "a change of limits was forgotten: {c:?}");
            let failed = self.failures > 0;
            assert!(failed || c.resources.cpu_shares == self.shares, "{} is not true", self.shares);
        }
    }

    /// What happens next if all goes well.
    fn well(&self) -> Option<Choice> {
        if self.pending.is_some() {
            return Some(Choice::Save(true));
        }
        let working = self.jobs.iter().find(|(s, (v, aborting))| {
            *v != Verb::Watch || *aborting || (matches!(s, Subject::Exit(_)) && !self.alive)
        });
        if let Some((subject, (verb, aborting))) = working {
            let how =
                if *aborting && *verb == Verb::Watch { How::AbortedBefore } else { How::Works };
            return Some(Choice::End(subject.clone(), how));
        }
        self.wake.map(|_| Choice::Tick)
    }

    /// From here on all goes well, and the pod is to be removed: everything must come to an end.
    fn settle(mut self, script: &[Script]) {
        for round in 0..2 {
            let mut steps = 0;
            while let Some(choice) = self.well() {
                // Time alone never ends: a creation that nobody claims is removed after a while.
                self.happen(&choice, script);
                steps += 1;
                assert!(steps < 400, "it never comes to rest: {self:#?}");
            }
            if round == 0 {
                self.limits_are_true();
                assert!(
                    self.open.is_empty(),
                    "callers {:?} were never answered: {self:#?}",
                    self.open
                );
                self.asked = script.len();
                self.ask(Script::RemovePod);
            }
        }
        let left: Vec<_> = self.exists.iter().filter(|s| self.really(s)).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        assert!(self.machine.is_none(), "the pod is not gone: {:#?}", self.machine);
        assert!(self.open.is_empty(), "the remover was never answered");
    }
}

fn subject_key(subject: &Subject) -> String {
    match subject {
        Subject::Pod(h) => format!("-/{}", h.name()),
        Subject::Container(id, h) => format!("{id}/{}", h.name()),
        other => format!("{other:?}"),
    }
}

fn leftover_key(l: &Leftover) -> String {
    match &l.container {
        None => format!("-/{}", l.holding),
        Some(id) => format!("{id}/{}", l.holding),
    }
}

/// A sandbox that nobody has claimed yet is lost, and then asked for again.
pub(crate) fn lose_an_unclaimed_sandbox() {
    let script = [Script::Run, Script::GiveUp, Script::Run];
    let mut moment = Moment::first();
    moment.happen(&Choice::Ask, &script);
    moment.happen(&Choice::Ask, &script);
    moment.come_to_rest(&script);
    moment.happen(&Choice::End(Subject::Sandbox, How::Works), &script);
    moment.happen(&Choice::Ask, &script);
    moment.settle(&script);
}

/// The daemon dies between the save of "the stop signal is to be sent" and its sending, and, another
/// time, once it was saved that it got out: it is sent by the next daemon then, and not again now.
pub(crate) fn lose_the_daemon_around_the_stop_signal() {
    let script = [Script::Run, Script::Create, Script::Start, Script::Stop];
    let mut moment = Moment::first();
    for _ in 0..3 {
        moment.happen(&Choice::Ask, &script);
        moment.come_to_rest(&script);
    }
    moment.happen(&Choice::Ask, &script);
    moment.happen(&Choice::Save(true), &script);
    let signal = Subject::Signal(moment.container.clone().expect("a container"));
    let terminates = |moment: &Moment| {
        moment.jobs.get(&signal).is_some_and(|(verb, _)| *verb == Verb::Terminate)
    };
    assert!(terminates(&moment), "the signal is not sent: {moment:#?}");
    let mut unsent = moment.clone();
    unsent.happen(&Choice::Crash(false), &script);
    unsent.happen(&Choice::Save(true), &script);
    assert!(terminates(&unsent), "the signal is lost: {unsent:#?}");
    unsent.settle(&script);

    moment.happen(&Choice::End(signal.clone(), How::Works), &script);
    moment.happen(&Choice::Save(true), &script);
    moment.happen(&Choice::Crash(false), &script);
    while moment.pending.is_some() {
        moment.happen(&Choice::Save(true), &script);
    }
    assert!(!moment.jobs.contains_key(&signal), "the signal is sent again: {moment:#?}");
    moment.settle(&script);
}

/// A task that has ended, and that its shim never deletes, does not keep its pod.
pub(crate) fn never_delete_an_ended_task() {
    let script = [Script::Run, Script::Create, Script::Start, Script::RemovePod];
    let mut moment = Moment::first();
    for _ in 0..3 {
        moment.happen(&Choice::Ask, &script);
        moment.come_to_rest(&script);
    }
    let id = moment.container.clone().expect("a container");
    let task = Subject::Container(id.clone(), ContainerHolding::Task);
    moment.alive = false;
    moment.happen(&Choice::End(Subject::Exit(id), How::Works), &script);
    moment.happen(&Choice::Ask, &script);
    for _ in 0..60 {
        let choice = match moment.well() {
            Some(Choice::End(subject, _)) if subject == task => {
                Choice::End(subject, How::FailsBefore)
            }
            Some(choice) => choice,
            None => break,
        };
        moment.happen(&choice, &script);
    }
    assert!(moment.leftovers.contains(&subject_key(&task)), "it is tried for ever: {moment:#?}");
    moment.settle(&script);
}

/// A task that never ran, and that the shim never lets go of, is left over all the same.
pub(crate) fn never_delete_a_task_that_never_ran() {
    let script = [Script::Run, Script::Create, Script::Start, Script::RemovePod];
    let mut moment = Moment::first();
    for _ in 0..2 {
        moment.happen(&Choice::Ask, &script);
        moment.come_to_rest(&script);
    }
    let id = moment.container.clone().expect("a container");
    let task = Subject::Container(id, ContainerHolding::Task);
    moment.happen(&Choice::Ask, &script);
    for _ in 0..80 {
        let choice = match moment.well() {
            Some(Choice::End(subject, _)) if subject == task => {
                moment.alive = false;
                Choice::End(subject, How::FailsBefore)
            }
            Some(choice) => choice,
            None => break,
        };
        moment.happen(&choice, &script);
    }
    assert!(moment.leftovers.contains(&subject_key(&task)), "it is tried for ever: {moment:#?}");
    moment.happen(&Choice::Ask, &script);
    moment.settle(&script);
}

/// Searches everything that can happen once so many calls of the script have gone well; gives how
/// many different moments there were.
pub(crate) fn explore(script: &[Script], well: usize, budget: Budget) -> usize {
    let mut first = Moment::first();
    for _ in 0..well {
        first.happen(&Choice::Ask, script);
        first.come_to_rest(script);
    }
    let mut seen = HashSet::new();
    let mut stack = vec![(first, 0)];
    let mut path: Vec<Choice> = Vec::new();
    let _told = Told;
    let mut froms: Vec<Option<Choice>> = vec![None];
    while let Some((moment, depth)) = stack.pop() {
        if let Some(Some(choice)) = froms.pop() {
            path.truncate(depth as usize - 1);
            path.push(choice);
        }
        PATH.with(|p| p.borrow_mut().clone_from(&path));
        if !seen.insert(moment.hash()) {
            continue;
        }
        moment.clone().settle(script);
        if depth == budget.depth {
            continue;
        }
        for choice in moment.choices(script, budget) {
            let mut next = moment.clone();
            PATH.with(|p| p.borrow_mut().push(choice.clone()));
            next.happen(&choice, script);
            PATH.with(|p| p.borrow_mut().pop());
            stack.push((next, depth + 1));
            froms.push(Some(choice));
        }
    }
    seen.len()
}

thread_local! {
    static PATH: std::cell::RefCell<Vec<Choice>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Tells how a failing moment came about.
struct Told;

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            PATH.with(|p| eprintln!("it came about by {:?}", p.borrow()));
        }
    }
}

/// How many saves each call waits for, when all goes well.
pub(crate) fn saves_before_each_answer(script: &[Script]) -> Vec<usize> {
    let mut moment = Moment::first();
    let saves = |moment: &mut Moment| {
        moment.happen(&Choice::Ask, script);
        let mut saves = 0;
        while !moment.open.is_empty() {
            let choice = moment.well().expect("it is answered");
            saves += usize::from(matches!(choice, Choice::Save(_)));
            moment.happen(&choice, script);
        }
        moment.come_to_rest(script);
        saves
    };
    script.iter().map(|_| saves(&mut moment)).collect()
}

/// Follows a script at random, so many times, and much deeper than every way can be searched.
pub(crate) fn walk(script: &[Script], walks: u64, budget: Budget) {
    let _told = Told;
    for seed in 1..=walks {
        let mut dice = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut below = |limit: usize| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            usize::try_from(dice >> 33).unwrap_or_default() % limit
        };
        let mut moment = Moment::first();
        PATH.with(|path| path.borrow_mut().clear());
        for _ in 0..below(script.len()) {
            moment.happen(&Choice::Ask, script);
            moment.come_to_rest(script);
        }
        // In some walks much goes wrong early, in others little and late.
        let trouble = below(4);
        for _ in 0..budget.depth {
            let mut choices = moment.choices(script, budget);
            if below(8) >= trouble && choices.iter().any(Choice::is_well) {
                choices.retain(Choice::is_well);
            }
            if choices.is_empty() {
                break;
            }
            let choice = choices.swap_remove(below(choices.len()));
            PATH.with(|path| path.borrow_mut().push(choice.clone()));
            moment.happen(&choice, script);
        }
        moment.settle(script);
    }
}

impl Choice {
    /// Nothing goes wrong by it.
    fn is_well(&self) -> bool {
        match self {
            Self::Crash(_) | Self::Save(false) | Self::Exit => false,
            Self::End(_, How::FailsBefore | How::FailsAfter) => false,
            Self::End(Subject::Sandbox, how) => *how != How::Works,
            _ => true,
        }
    }
}
