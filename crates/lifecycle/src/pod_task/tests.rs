//! The loop of a pod that panics: with real records, and no effect outside a directory.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use berth_cgroup::Cgroups;
use berth_cni::{Deadlines, Network};
use berth_image::{Options, Store};
use berth_oci::CapabilitySet;
use berth_oci::facts::{AppArmor, Arch, CgroupDriver, CgroupVersion, NodeFacts};
use berth_pod::record::{ContainerRecord, PodWish, ShimFact, Slot};
use berth_pod::spec::{
    Admitted, ContainerName, ContainerSpec, GroupsPolicy, ImageAsked, PidMode, PodName,
    PodNamespaces, PodOrNode, Profile, Resources, RunAs, SandboxSpec, Security, Stdin, StringMap,
};
use berth_pod::{ContainerId, SandboxId};
use berth_records::Records;

use super::*;
use crate::handlers::{Handlers, Offered};
use crate::registry::ask;
use crate::settings::{SandboxMode, Settings, ShimKind};
use crate::shared::Made;

/// The parts of a node that has its files below `root`, and no cgroups or plugins.
pub(crate) async fn bed(root: &Path) -> Arc<Shared> {
    let path = root.join("pods.db");
    let (records, _) = Records::open(&path, &root.join("sandboxes")).unwrap();
    let network = berth_cni::Settings {
        conf_dir: root.join("net.d"),
        bin_dirs: Vec::new(),
        cache_dir: root.join("cni"),
        env: Vec::new(),
        cgroups: Vec::new(),
        owned: Default::default(),
        template: None,
        deadlines: Deadlines::default(),
    };
    Arc::new(Shared::new(Made {
        settings: settings(root),
        handlers: handlers(root),
        images: Store::open(Options::new(root.join("images"))).await.unwrap(),
        network: Arc::new(Network::new(network)),
        cgroups: Cgroups::v2_at(root.join("cgroup")),
        records,
        plugins: crate::nri::Plugins::new(None),
        boot_id: "boot".into(),
        jobs_enter: Vec::new(),
        holders_enter: Vec::new(),
    }))
}

fn handlers(root: &Path) -> Handlers {
    let handler = crate::Handler {
        shim: "/nonexistent".into(),
        kind: ShimKind::Berth,
        runtime: None,
        runtime_root: root.join("crun"),
        options: None,
        sandbox: SandboxMode::Auto,
        privileged: true,
        cni_conf_dir: None,
        base_spec: None,
        facts: Default::default(),
    };
    let handlers = Handlers::open(root);
    let all = BTreeMap::from([("crun".into(), Ok(Arc::new(handler)))]);
    handlers.offer(Offered { default: "crun".into(), handlers: all });
    handlers
}

fn settings(root: &Path) -> Settings {
    Settings {
        state_dir: root.to_owned(),
        root_dir: root.to_owned(),
        netns_dir: root.join("netns"),
        helper: "/nonexistent".into(),
        daemon: "/nonexistent".into(),
        cgroup_root: "/berth".into(),
        cgroup_slice: "berth.slice".into(),
        node: NodeFacts {
            capabilities: CapabilitySet::all(),
            cgroup_version: CgroupVersion::V2,
            cgroup_driver: CgroupDriver::Cgroupfs,
            swap_limit: false,
            hugetlb: false,
            pids_limit: None,
            arch: Arch::Amd64,
            kernel: (6, 1),
            recursive_read_only: false,
            seccomp: false,
            apparmor: AppArmor::Off,
            selinux: false,
            devices: Vec::new(),
            oom_floor: None,
            rlimits: Vec::new(),
        },
        hostname: "node".into(),
        resolv_conf: root.join("resolv.conf"),
        hosts: root.join("hosts"),
        sysctls: BTreeMap::new(),
        shm_size: 1 << 20,
        shim_oom_score_adj: None,
        stat_deadline: std::time::Duration::from_secs(1),
        helper_deadline: std::time::Duration::from_secs(1),
    }
}

/// A pod that holds nothing yet, in the node's own namespaces.
pub(crate) fn pod() -> PodRecord {
    let spec = SandboxSpec {
        name: PodName {
            name: "web".into(),
            namespace: "default".into(),
            uid: "u".into(),
            attempt: 0,
        },
        handler: String::new(),
        hostname: "web".into(),
        log_directory: None,
        dns: None,
        port_mappings: Vec::new(),
        labels: StringMap::new(),
        annotations: StringMap::new(),
        cgroup_parent: None,
        namespaces: PodNamespaces {
            network: PodOrNode::Node,
            pid: PidMode::Node,
            ipc: PodOrNode::Node,
            user: None,
        },
        sysctls: StringMap::new(),
        privileged: false,
        selinux: None,
        overhead: None,
        resources: None,
    };
    let spec = Admitted { spec, digest: "d".into(), original: Vec::new() };
    PodRecord::new(SandboxId::from_random([7; 32]), "boot".into(), spec, "crun".into(), 42)
}

/// A container of it that holds nothing and is not answered.
pub(crate) fn container() -> ContainerRecord {
    let spec = ContainerSpec {
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
    };
    let spec = Admitted { spec, digest: "c".into(), original: Vec::new() };
    ContainerRecord::new(ContainerId::from_random([8; 32]), spec, 43)
}

/// A pod that is ready; its shim listens at `socket`.
pub(crate) fn ready(socket: &Path) -> PodRecord {
    let address = format!("unix://{}", socket.display());
    PodRecord {
        answered: true,
        cgroup: Slot::Held(Default::default()),
        namespaces: Slot::Held(Default::default()),
        files: Slot::Held(Default::default()),
        network: Slot::Held(Default::default()),
        shim: Slot::Held(ShimFact { address, version: 3, ..ShimFact::default() }.into()),
        sandbox: Slot::Held(Default::default()),
        ..pod()
    }
}

/// Registers a restored pod and runs its loop with these turns.
fn run(
    shared: &Arc<Shared>,
    record: PodRecord,
    take: impl Fn(&mut PodTask, Turn) + Send + 'static,
) -> mpsc::UnboundedSender<Message> {
    let machine = Machine::restore(record, "boot", shared.now());
    let (own, queue) = mpsc::unbounded_channel();
    shared.registry.insert(picture::view(&machine, false, None), own.clone());
    let saved = Some(Arc::clone(machine.record()));
    tokio::spawn(PodTask::new(shared, machine, saved, (own.clone(), queue)).run(take));
    own
}

/// The reply to a question; a minute without one is a failure.
async fn reply(
    shared: &Shared,
    queue: &mpsc::UnboundedSender<Message>,
    request: Request,
) -> Option<Result<Reply, Failure>> {
    let asked = ask(queue, shared.token(), request);
    tokio::time::timeout(std::time::Duration::from_secs(60), asked).await.unwrap()
}

fn assert_bug(answer: Option<Result<Reply, Failure>>) {
    let failure = answer.unwrap().unwrap_err();
    assert_eq!(failure.kind, Kind::Broken);
    assert!(failure.message.contains("a bug: "), "{}", failure.message);
    assert!(failure.message.contains("on purpose"), "{}", failure.message);
}

async fn until_gone(shared: &Shared) {
    let gone = async {
        loop {
            let changed = shared.registry.changed();
            if shared.registry.views().is_empty() {
                return;
            }
            changed.await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), gone).await.unwrap();
}

#[tokio::test]
async fn a_pod_whose_task_panicked_is_as_it_was_saved_and_its_jobs_have_ended() {
    let dir = tempfile::tempdir().unwrap();
    let shared = bed(dir.path()).await;
    let socket = dir.path().join("shim");
    let _shim = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let panics = Cell::new(2);
    let queue = run(&shared, ready(&socket), move |task, turn| {
        if let Turn::Event(Event::Request(_, Request::StopSandbox)) = &turn
            && panics.get() > 0
        {
            panics.set(panics.get() - 1);
            let Turn::Event(event) = turn else { return };
            // What it has come to by then is neither saved nor carried out.
            drop(task.machine.handle(event, 0));
            panic!("on purpose");
        }
        task.take(turn);
    });
    let watches = || shared.figures.all().get("watch.sandbox").copied().unwrap_or_default();
    for aborted in 1..=2 {
        assert_bug(reply(&shared, &queue, Request::StopSandbox).await);
        // Refused, until the loop is back.
        loop {
            let run = Request::RunSandbox { digest: "d".into() };
            match reply(&shared, &queue, run).await {
                Some(Ok(reply)) => break assert_eq!(reply, Reply::Ready),
                refused => assert_bug(refused),
            }
        }
        assert_eq!((watches().aborted, watches().failed), (aborted, 0));
    }
}

#[tokio::test]
async fn what_was_saved_before_a_panic_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let shared = bed(dir.path()).await;
    let files = Slot::Held(Default::default());
    let stopped = PodRecord { answered: true, wish: PodWish::Stop, files, ..pod() };
    let first = Cell::new(true);
    let queue = run(&shared, stopped, move |task, turn| {
        if let Turn::Event(Event::Saved(..)) = &turn
            && first.replace(false)
        {
            panic!("on purpose");
        }
        task.take(turn);
    });
    assert_bug(reply(&shared, &queue, Request::RemoveSandbox).await);
    until_gone(&shared).await;
}

#[tokio::test]
async fn a_pod_that_panics_before_its_first_save_leaves_its_name_free() {
    let dir = tempfile::tempdir().unwrap();
    let shared = bed(dir.path()).await;
    let record = pod();
    let (own, queue) = mpsc::unbounded_channel();
    let made = || (record.id.clone(), own.clone());
    shared.registry.named_or(&record.spec.spec.name, made);
    let task = PodTask::new(&shared, Machine::new(record.clone()), None, (own.clone(), queue));
    tokio::spawn(task.run(|_, _| panic!("on purpose")));
    assert_bug(reply(&shared, &own, Request::RunSandbox { digest: "d".into() }).await);
    loop {
        let changed = shared.registry.changed();
        if !shared.registry.has(&record.id) {
            break;
        }
        changed.await;
    }
    let other = SandboxId::from_random([8; 32]);
    let anew = || (other.clone(), own.clone());
    let named = shared.registry.named_or(&record.spec.spec.name, anew).0;
    assert_eq!(named, other);
}

#[tokio::test]
async fn a_job_that_is_cut_short_has_failed_all_the_same() {
    let (own, mut queue) = mpsc::unbounded_channel();
    let job = Job { subject: Subject::Sandbox, verb: berth_pod::job::Verb::Watch };
    let ending = Ending { own, job: Some(job.clone()) };
    let ended = tokio::spawn(async move {
        let _ending = ending;
        panic!("on purpose");
    });
    ended.await.unwrap_err();
    let Some(Message::Ended(ended)) = queue.recv().await else { panic!("not ended") };
    let (of, outcome) = *ended;
    let Outcome::Failed(why) = outcome else { panic!("it has failed") };
    assert_eq!((of, why.kind), (job, Kind::Broken));
}

#[test]
fn a_message_is_small() {
    // Each pod holds room for 32 of them, or 64: at 304 bytes that was 20 KB.
    assert!(size_of::<Message>() <= 16, "{}", size_of::<Message>());
}
