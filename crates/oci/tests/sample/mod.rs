//! A pod and a container to start from; each test changes what it is about.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::path::{Path, PathBuf};

use berth_oci::CapabilitySet;
use berth_oci::facts::{
    AppArmor, Arch, CgroupDriver, CgroupVersion, CheckedMount, ContainerInput, DeviceNode,
    HandlerFacts, NamespacePaths, NodeFacts, PodFiles, PodInput, SourcePropagation,
};
use berth_oci::spec::{DeviceKind, Seccomp};
use berth_pod::spec::{
    ContainerName, ContainerSpec, GroupsPolicy, IdMapping, ImageAsked, ImageFacts, Mount,
    MountSource, PidMode, PodName, PodNamespaces, PodOrNode, Profile, Propagation, ResolvedUser,
    Resources, RunAs, SandboxSpec, Security, Stdin, StringMap, UserNamespace,
};
use berth_pod::{ContainerId, SandboxId};

#[derive(Clone, Debug)]
pub struct Sample {
    pub sandbox_id: SandboxId,
    pub container_id: ContainerId,
    pub pod: SandboxSpec,
    pub spec: ContainerSpec,
    pub image: ImageFacts,
    pub user: ResolvedUser,
    pub hostname: String,
    pub namespaces: NamespacePaths,
    pub files: PodFiles,
    pub cgroup: String,
    pub handler: HandlerFacts,
    pub node: NodeFacts,
    pub rootfs: PathBuf,
    pub mounts: Vec<CheckedMount>,
    pub image_volumes: Vec<(PathBuf, PathBuf)>,
    pub devices: Vec<Vec<DeviceNode>>,
    pub seccomp: Option<Seccomp>,
    pub target_pid: Option<PathBuf>,
}

impl Sample {
    pub fn pod_input(&self) -> PodInput<'_> {
        PodInput {
            id: &self.sandbox_id,
            spec: &self.pod,
            hostname: &self.hostname,
            namespaces: &self.namespaces,
            files: &self.files,
            cgroup: &self.cgroup,
            handler: &self.handler,
            node: &self.node,
        }
    }

    pub fn input(&self) -> ContainerInput<'_> {
        ContainerInput {
            id: &self.container_id,
            pod: self.pod_input(),
            spec: &self.spec,
            image: &self.image,
            user: &self.user,
            rootfs: &self.rootfs,
            mounts: &self.mounts,
            image_volumes: &self.image_volumes,
            devices: &self.devices,
            seccomp: self.seccomp.as_ref(),
            target_pid: self.target_pid.as_deref(),
        }
    }

    /// Adds a mount of a host directory, private and writable unless `change` says otherwise.
    pub fn mount(&mut self, to: &str, from: &str, change: impl FnOnce(&mut Mount)) {
        let mut mount = Mount {
            container_path: to.into(),
            source: MountSource::Host(from.into()),
            readonly: false,
            recursive_read_only: false,
            selinux_relabel: false,
            propagation: Propagation::Private,
            uid_mappings: Vec::new(),
            gid_mappings: Vec::new(),
        };
        change(&mut mount);
        self.spec.mounts.push(mount);
        self.mounts.push(CheckedMount {
            alone: false,
            source: from.into(),
            propagation: SourcePropagation::Shared,
            id_mapped: false,
        });
    }

    /// Puts the pod into a user namespace of 65536 ids.
    pub fn user_namespace(&mut self) {
        let ids = vec![IdMapping { host_id: 1_000_000, container_id: 0, length: 65536 }];
        self.pod.namespaces.user = Some(UserNamespace { uids: ids.clone(), gids: ids });
        self.namespaces.user = Some("/run/berth/ns/pod/user".into());
    }

    pub fn privileged(&mut self) {
        self.pod.privileged = true;
        self.spec.security.privileged = true;
    }
}

pub fn sample() -> Sample {
    let own = |name: &str| Some(Path::new("/run/berth/ns/pod").join(name));
    let file = |name: &str| Some(Path::new("/var/lib/berth/sandboxes/pod").join(name));
    Sample {
        sandbox_id: SandboxId::from_random([0x5a; 32]),
        container_id: ContainerId::from_random([0xc0; 32]),
        pod: pod(),
        spec: container(),
        image: ImageFacts {
            id: format!("sha256:{}", "1".repeat(64)),
            image_ref: format!("registry.example/app@sha256:{}", "2".repeat(64)),
            entrypoint: vec!["/bin/app".to_owned()],
            cmd: vec!["--serve".to_owned()],
            env: vec!["PATH=/bin".to_owned(), "MODE=image".to_owned()],
            working_dir: "/srv".to_owned(),
            ..ImageFacts::default()
        },
        user: ResolvedUser { home: Some("/root".to_owned()), ..ResolvedUser::default() },
        hostname: "web-0".to_owned(),
        namespaces: NamespacePaths {
            user: None,
            net: Some("/run/netns/berth-pod".into()),
            ipc: own("ipc"),
            uts: own("uts"),
            pid: None,
        },
        files: PodFiles {
            resolv_conf: file("resolv.conf"),
            hostname: file("hostname"),
            hosts: file("hosts"),
            shm: file("shm"),
        },
        cgroup: "/kubepods/burstable/pod1234".to_owned(),
        handler: HandlerFacts {
            recursive_read_only: true,
            id_mapped_mounts: true,
            ..HandlerFacts::default()
        },
        node: node(),
        rootfs: "/run/berth/bundles/container/rootfs".into(),
        mounts: Vec::new(),
        image_volumes: Vec::new(),
        devices: Vec::new(),
        seccomp: None,
        target_pid: None,
    }
}

pub fn node() -> NodeFacts {
    NodeFacts {
        capabilities: CapabilitySet::all(),
        cgroup_version: CgroupVersion::V1,
        cgroup_driver: CgroupDriver::Cgroupfs,
        swap_limit: true,
        hugetlb: true,
        pids_limit: None,
        arch: Arch::Amd64,
        kernel: (6, 1),
        recursive_read_only: true,
        seccomp: true,
        apparmor: AppArmor::Off,
        selinux: false,
        devices: vec![
            device("/dev/null", DeviceKind::Char, 1, 3),
            device("/dev/fuse", DeviceKind::Char, 10, 229),
            device("/dev/loop0", DeviceKind::Block, 7, 0),
        ],
        oom_floor: None,
        rlimits: Vec::new(),
    }
}

pub fn device(path: &str, kind: DeviceKind, major: i64, minor: i64) -> DeviceNode {
    DeviceNode { path: path.into(), kind, major, minor, mode: 0o20_660, uid: 0, gid: 6 }
}

fn pod() -> SandboxSpec {
    SandboxSpec {
        name: PodName {
            name: "web".to_owned(),
            namespace: "default".to_owned(),
            uid: "1234".to_owned(),
            attempt: 0,
        },
        handler: String::new(),
        hostname: "web-0".to_owned(),
        log_directory: Some("/var/log/pods/default_web_1234".into()),
        dns: None,
        port_mappings: Vec::new(),
        labels: StringMap::new(),
        annotations: StringMap::new(),
        cgroup_parent: Some("/kubepods/burstable/pod1234".to_owned()),
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

fn container() -> ContainerSpec {
    ContainerSpec {
        checkpoint: None,
        name: ContainerName { name: "app".to_owned(), attempt: 0 },
        image: ImageAsked {
            reference: "registry.example/app:1".to_owned(),
            ..ImageAsked::default()
        },
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
