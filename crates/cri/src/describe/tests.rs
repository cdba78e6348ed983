use std::sync::Arc;

use berth_lifecycle::{ContainerState, ContainerView, PodView};
use berth_pod::record::{
    CgroupFact, ContainerFact, ContainerRecord, Exit, FilesFact, ImageHeld, Lost, NamespacesFact,
    NetworkFact, PodFact, PodRecord, SandboxFact, ShimFact, Slot, TaskFact,
};
use berth_pod::spec::{ImageFacts, ResolvedUser, Resources};
use berth_pod::{ContainerId, SandboxId};
use berth_proto::cri::v1 as cri;

use super::*;
use crate::admit::{Rules, admit_container, admit_sandbox};

const RULES: Rules =
    Rules { systemd_cgroups: false, recursive_read_only: true, user_namespaces: true };

fn pod(change: impl FnOnce(&mut cri::PodSandboxConfig)) -> PodView {
    let mut config = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "web".into(),
            uid: "u-1".into(),
            namespace: "default".into(),
            attempt: 2,
        }),
        log_directory: "/var/log/pods/web".into(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        annotations: [("note".to_owned(), "x".to_owned())].into(),
        ..Default::default()
    };
    change(&mut config);
    let id = SandboxId::from_random([1; 32]);
    let spec = admit_sandbox(Some(&config), "", &RULES).unwrap();
    let mut record = PodRecord::new(id, String::new(), spec, "berth".into(), 5);
    let ips = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    record.hold(PodFact::Cgroup(CgroupFact::default()));
    record.hold(PodFact::Namespaces(NamespacesFact::default()));
    record.hold(PodFact::Files(FilesFact::default()));
    record.hold(PodFact::Network(NetworkFact { ips }));
    record.hold(PodFact::Shim(ShimFact::default()));
    record.hold(PodFact::Sandbox(SandboxFact::default()));
    PodView { record: Arc::new(record), listed: true, containers: Vec::new() }
}

fn container(change: impl FnOnce(&mut cri::ContainerConfig)) -> ContainerView {
    let mut config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "main".into(), attempt: 3 }),
        image: Some(cri::ImageSpec {
            image: "sha256:aa".into(),
            user_specified_image: "web:1".into(),
            ..Default::default()
        }),
        log_path: "main/3.log".into(),
        ..Default::default()
    };
    change(&mut config);
    let pod = pod(|_| {});
    let spec = admit_container(Some(&config), pod.spec(), &RULES).unwrap();
    let mut record = ContainerRecord::new(ContainerId::from_random([2; 32]), spec, 7);
    record.resources = Resources { cpu_shares: 512, memory_limit: 1 << 20, ..Resources::default() };
    let facts = ImageFacts {
        id: "sha256:aa".into(),
        image_ref: "sha256:aa".into(),
        stop_signal: "SIGQUIT".into(),
        ..ImageFacts::default()
    };
    let user = ResolvedUser { uid: 1000, gid: 2000, groups: vec![1, 2], home: None };
    record.hold(ContainerFact::Image(ImageHeld { facts, user, volumes: Vec::new() }.into()));
    record.hold(ContainerFact::Cgroup("/x".into()));
    record.hold(ContainerFact::Task(TaskFact { pid: 42, started_at: 8 }));
    ContainerView {
        record: Arc::new(record),
        sandbox: pod.id().clone(),
        state: ContainerState::Running,
        rolled_back: None,
    }
}

#[test]
fn a_pods_status_says_what_was_asked_for_and_what_came_of_it() {
    let whole = [cri::IdMapping { host_id: 100_000, container_id: 0, length: 65_536 }];
    let status = pod_status(&pod(|config| {
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().namespace_options =
            Some(cri::NamespaceOption {
                pid: cri::NamespaceMode::Container as i32,
                userns_options: Some(cri::UserNamespace {
                    mode: cri::NamespaceMode::Pod as i32,
                    uids: whole.to_vec(),
                    gids: whole.to_vec(),
                }),
                ..Default::default()
            });
    }));
    assert_eq!(status.state, cri::PodSandboxState::SandboxReady as i32);
    assert_eq!(status.metadata.unwrap().attempt, 2);
    let network = status.network.unwrap();
    assert_eq!(network.ip, "10.0.0.2");
    assert_eq!(network.additional_ips, [cri::PodIp { ip: "fd00::2".into() }]);
    let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(options.pid, cri::NamespaceMode::Container as i32);
    assert_eq!(options.userns_options.unwrap().uids, whole);
    assert_eq!(status.labels["app"], "web");
    assert_eq!(status.annotations["note"], "x");
}

#[test]
fn a_lost_pod_is_not_ready_and_one_without_a_network_has_no_address() {
    let mut lost = pod(|_| {});
    let record = Arc::make_mut(&mut lost.record);
    record.lost = Some(Lost::Reboot);
    record.network = Slot::Absent;
    let entry = pod_entry(&lost);
    assert_eq!(entry.state, cri::PodSandboxState::SandboxNotready as i32);
    assert_eq!(entry.id, lost.id().as_str());
    assert_eq!(pod_status(&lost).network.unwrap().ip, "");
}

#[test]
fn a_running_containers_status_has_its_image_user_limits_and_signal() {
    let status = container_status(&container(|_| {}));
    assert_eq!(status.state, cri::ContainerState::ContainerRunning as i32);
    assert_eq!((status.created_at, status.started_at, status.finished_at), (7, 8, 0));
    assert_eq!((status.image_id.as_str(), status.image_ref.as_str()), ("sha256:aa", "sha256:aa"));
    assert_eq!(status.image.unwrap().user_specified_image, "web:1");
    assert_eq!(status.log_path, "/var/log/pods/web/main/3.log");
    let user = status.user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid, user.supplemental_groups), (1000, 2000, vec![1, 2]));
    let limits = status.resources.unwrap().linux.unwrap();
    assert_eq!((limits.cpu_shares, limits.memory_limit_in_bytes), (512, 1 << 20));
    assert_eq!(status.stop_signal, cri::Signal::Sigquit as i32, "the image's own");
}

#[test]
fn the_containers_own_signal_wins_and_sigterm_is_the_last_resort() {
    let own = container(|config| config.stop_signal = cri::Signal::Sigrtmin as i32);
    assert_eq!(container_status(&own).stop_signal, cri::Signal::Sigrtmin as i32);
    let mut none = container(|_| {});
    Arc::make_mut(&mut none.record).image = Slot::Absent;
    assert_eq!(container_status(&none).stop_signal, cri::Signal::Sigterm as i32);
}

#[test]
fn an_ended_container_says_how_and_when() {
    let mut ended = container(|_| {});
    ended.state = ContainerState::Exited;
    let (reason, message) = ("OOMKilled".to_owned(), "out of memory".to_owned());
    Arc::make_mut(&mut ended.record).exit = Some(Exit { code: 137, at: 9, reason, message });
    let status = container_status(&ended);
    assert_eq!(status.state, cri::ContainerState::ContainerExited as i32);
    assert_eq!((status.exit_code, status.finished_at), (137, 9));
    assert_eq!((status.reason.as_str(), status.message.as_str()), ("OOMKilled", "out of memory"));
}

#[test]
fn mounts_come_back_as_they_were_sent() {
    let sent = vec![
        cri::Mount {
            container_path: "/data".into(),
            host_path: "/srv/data".into(),
            readonly: true,
            recursive_read_only: true,
            ..Default::default()
        },
        cri::Mount {
            container_path: "/img".into(),
            readonly: true,
            image: Some(cri::ImageSpec { image: "data:1".into(), ..Default::default() }),
            image_sub_path: "etc".into(),
            ..Default::default()
        },
        cri::Mount {
            container_path: "/both".into(),
            host_path: "/srv".into(),
            propagation: cri::MountPropagation::PropagationBidirectional as i32,
            ..Default::default()
        },
    ];
    let view = container(|config| config.mounts.clone_from(&sent));
    assert_eq!(container_status(&view).mounts, sent);
}

#[test]
fn verbose_information_has_the_keys_that_tools_read() {
    let view = container(|_| {});
    let spec = serde_json::json!({"ociVersion": "1.0.2"});
    let info = container_info(&view, &spec, "io.containerd.berth.v1");
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    assert_eq!(info["pid"], 42);
    assert_eq!(info["sandboxID"], view.sandbox.as_str());
    assert_eq!(info["runtimeSpec"]["ociVersion"], "1.0.2");
    assert_eq!(info["runtimeType"], "io.containerd.berth.v1");
    assert!(info["snapshotKey"].is_string() && info["config"].is_object());
}
