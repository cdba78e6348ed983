// Older kubelets still fill the deprecated profile fields.
#![allow(deprecated)]

use std::path::Path;

use berth_pod::spec::{
    ContainerSpec, MountSource, PidMode, PodOrNode, Profile, Propagation, RunAs, SandboxSpec, Stdin,
};
use berth_proto::cri::v1 as cri;
use berth_proto::cri::v1::security_profile::ProfileType;

use super::*;

const RULES: Rules =
    Rules { systemd_cgroups: false, recursive_read_only: true, user_namespaces: true };

fn pod() -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "web".into(),
            uid: "u-1".into(),
            namespace: "default".into(),
            attempt: 2,
        }),
        hostname: "web-0".into(),
        log_directory: "/var/log/pods/default_web_u-1".into(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/burstable/podu-1".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container() -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "main".into(), attempt: 1 }),
        image: Some(cri::ImageSpec { image: "sha256:0a".into(), ..Default::default() }),
        log_path: "main/1.log".into(),
        ..Default::default()
    }
}

fn linux(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxPodSandboxConfig {
    config.linux.get_or_insert_default()
}

fn namespaces(config: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    let context = linux(config).security_context.get_or_insert_default();
    context.namespace_options.get_or_insert_default()
}

fn context(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

fn limits(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerResources {
    config.linux.get_or_insert_default().resources.get_or_insert_default()
}

fn a_mount(config: &mut cri::ContainerConfig) -> &mut cri::Mount {
    config.mounts.push(cri::Mount {
        container_path: "/data".into(),
        host_path: "/srv/data".into(),
        ..Default::default()
    });
    &mut config.mounts[0]
}

fn range(container_id: u32, length: u32) -> cri::IdMapping {
    cri::IdMapping { host_id: 100_000, container_id, length }
}

fn userns(mode: i32, uids: &[cri::IdMapping], gids: &[cri::IdMapping]) -> cri::UserNamespace {
    cri::UserNamespace { mode, uids: uids.to_vec(), gids: gids.to_vec() }
}

fn admitted_pod(change: impl FnOnce(&mut cri::PodSandboxConfig)) -> SandboxSpec {
    let mut config = pod();
    change(&mut config);
    admit_sandbox(Some(&config), "", &RULES).unwrap().spec
}

fn admitted(change: impl FnOnce(&mut cri::ContainerConfig)) -> ContainerSpec {
    let mut config = container();
    change(&mut config);
    admit_container(Some(&config), &admitted_pod(|_| {}), &RULES).unwrap().spec
}

#[track_caller]
fn refused_pod(field: &str, change: impl FnOnce(&mut cri::PodSandboxConfig)) {
    let mut config = pod();
    change(&mut config);
    let refusal = admit_sandbox(Some(&config), "", &RULES).unwrap_err();
    assert_eq!(refusal.field(), field, "{refusal}");
}

#[track_caller]
fn refused(field: &str, change: impl FnOnce(&mut cri::ContainerConfig)) {
    let mut config = container();
    change(&mut config);
    let pod = admitted_pod(|_| {});
    let refusal = admit_container(Some(&config), &pod, &RULES).unwrap_err();
    assert_eq!(refusal.field(), field, "{refusal}");
}

#[test]
fn a_pod_becomes_what_it_says() {
    let spec = admitted_pod(|config| {
        config.dns_config = Some(cri::DnsConfig {
            servers: vec!["10.0.0.10".into(), "fe80::1%eth0".into()],
            searches: vec!["default.svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        });
        config.port_mappings = vec![
            cri::PortMapping { container_port: 80, host_port: 8080, ..Default::default() },
            cri::PortMapping { container_port: 81, host_port: 0, ..Default::default() },
            cri::PortMapping { container_port: 80, host_port: 8080, ..Default::default() },
        ];
        linux(config).sysctls.insert("net/ipv4/conf/eth0.1/forwarding".into(), "1".into());
        linux(config).sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    });
    assert_eq!((spec.name.name.as_str(), spec.name.attempt), ("web", 2));
    assert_eq!(spec.hostname, "web-0");
    assert_eq!(spec.dns.unwrap().servers.len(), 2);
    assert_eq!(spec.port_mappings.len(), 1, "no host port asks for nothing, and once is enough");
    assert_eq!(spec.cgroup_parent.as_deref(), Some("/kubepods/burstable/podu-1"));
    assert!(spec.sysctls.contains_key("net.ipv4.conf.eth0/1.forwarding"));
    assert_eq!(spec.namespaces.pid, PidMode::Pod, "what proto3 leaves out is POD");
    assert_eq!(spec.namespaces.user, None);
}

#[test]
fn an_empty_dns_config_is_the_nodes_own() {
    assert_eq!(admitted_pod(|c| c.dns_config = Some(cri::DnsConfig::default())).dns, None);
}

#[test]
fn on_the_nodes_network_hostname_and_ports_are_the_nodes() {
    let spec = admitted_pod(|config| {
        namespaces(config).network = cri::NamespaceMode::Node as i32;
        config.port_mappings =
            vec![cri::PortMapping { container_port: 80, host_port: 80, ..Default::default() }];
    });
    assert_eq!(spec.namespaces.network, PodOrNode::Node);
    assert_eq!(spec.hostname, "");
    assert!(spec.port_mappings.is_empty());
}

#[test]
fn a_sandbox_without_its_name_is_refused() {
    assert_eq!(admit_sandbox(None, "", &RULES).unwrap_err().field(), "config");
    refused_pod("config.metadata", |c| c.metadata = None);
    refused_pod("config.metadata.name", |c| c.metadata.as_mut().unwrap().name.clear());
    refused_pod("config.metadata.uid", |c| c.metadata.as_mut().unwrap().uid.clear());
    refused_pod("config.metadata.namespace", |c| {
        c.metadata.as_mut().unwrap().namespace = "a;K8S_POD_NAME=other".into();
    });
    refused_pod("config.windows", |c| c.windows = Some(cri::WindowsPodSandboxConfig::default()));
    let refusal = admit_sandbox(Some(&pod()), "../runc", &RULES).unwrap_err();
    assert_eq!(refusal.field(), "runtime_handler");
}

#[test]
fn names_and_addresses_of_a_sandbox_are_checked() {
    refused_pod("config.hostname", |c| c.hostname = "a".repeat(65));
    refused_pod("config.hostname", |c| c.hostname = "a b".into());
    refused_pod("config.log_directory", |c| c.log_directory = "logs".into());
    let dns = |servers: &str, searches: &str, options: &str| cri::DnsConfig {
        servers: vec![servers.into()],
        searches: vec![searches.into()],
        options: vec![options.into()],
    };
    refused_pod("config.dns_config.servers[0]", |c| c.dns_config = Some(dns("ns1", "x", "y")));
    refused_pod("config.dns_config.searches[0]", |c| {
        c.dns_config = Some(dns("10.0.0.1", "x\nnameserver 6.6.6.6", "y"));
    });
    refused_pod("config.dns_config.options[0]", |c| {
        c.dns_config = Some(dns("10.0.0.1", "x", ""));
    });
}

#[test]
fn a_port_is_from_1_to_65535_and_taken_once() {
    let port = |container_port, host_port| cri::PortMapping {
        container_port,
        host_port,
        ..Default::default()
    };
    refused_pod("config.port_mappings[0].container_port", |c| c.port_mappings = vec![port(0, 80)]);
    refused_pod("config.port_mappings[0].host_port", |c| c.port_mappings = vec![port(80, 65536)]);
    refused_pod("config.port_mappings[0].host_port", |c| c.port_mappings = vec![port(80, -1)]);
    refused_pod("config.port_mappings[1].host_port", |c| {
        c.port_mappings = vec![port(80, 8080), port(81, 8080)];
    });
    refused_pod("config.port_mappings[0].protocol", |c| {
        c.port_mappings = vec![cri::PortMapping { protocol: 9, ..port(80, 80) }];
    });
    refused_pod("config.port_mappings[0].host_ip", |c| {
        c.port_mappings = vec![cri::PortMapping { host_ip: "eth0".into(), ..port(80, 80) }];
    });
}

#[test]
fn a_cgroup_parent_is_in_the_words_of_the_configured_driver() {
    let field = "config.linux.cgroup_parent";
    refused_pod(field, |c| linux(c).cgroup_parent = "/kubepods/../system".into());
    refused_pod(field, |c| linux(c).cgroup_parent = "/".into());
    refused_pod(field, |c| linux(c).cgroup_parent = "/kubepods.slice/a.slice".into());
    let systemd = Rules { systemd_cgroups: true, ..RULES };
    assert_eq!(admit_sandbox(Some(&pod()), "", &systemd).unwrap_err().field(), field);
    let relative = admitted_pod(|c| linux(c).cgroup_parent = "kubepods//podx/".into());
    assert_eq!(relative.cgroup_parent.as_deref(), Some("/kubepods/podx"));
    assert_eq!(admitted_pod(|c| linux(c).cgroup_parent.clear()).cgroup_parent, None);
}

#[test]
fn only_namespaced_sysctls_of_the_pods_own_are_set() {
    let sysctl = |name: &str| {
        let name = name.to_owned();
        move |c: &mut cri::PodSandboxConfig| {
            linux(c).sysctls.insert(name, "1".into());
        }
    };
    refused_pod("config.linux.sysctls[\"kernel.panic\"]", sysctl("kernel.panic"));
    refused_pod("config.linux.sysctls[\"vm.swappiness\"]", sysctl("vm.swappiness"));
    refused_pod("config.linux.sysctls[\"net..kernel\"]", sysctl("net..kernel"));
    refused_pod("config.linux.sysctls[\"net/../kernel/panic\"]", sysctl("net/../kernel/panic"));
    refused_pod("config.linux.sysctls[\"net.ipv4.ip_forward\"]", |c| {
        namespaces(c).network = cri::NamespaceMode::Node as i32;
        sysctl("net.ipv4.ip_forward")(c);
    });
    refused_pod("config.linux.sysctls[\"kernel.msgmax\"]", |c| {
        namespaces(c).ipc = cri::NamespaceMode::Node as i32;
        sysctl("kernel.msgmax")(c);
    });
    refused_pod("config.linux.sysctls[\"net.core.somaxconn\"]", |c| {
        linux(c).sysctls.insert("net.core.somaxconn".into(), "1\n2".into());
    });
    for name in ["kernel.sem", "kernel.shmmax", "kernel.msgmax", "fs.mqueue.msg_max"] {
        assert!(admitted_pod(sysctl(name)).sysctls.contains_key(name));
    }
}

#[test]
fn namespace_modes_of_a_sandbox_are_checked() {
    let target = cri::NamespaceMode::Target as i32;
    let own = cri::NamespaceMode::Container as i32;
    let at = |field: &str| format!("config.linux.security_context.namespace_options.{field}");
    refused_pod(&at("pid"), |c| namespaces(c).pid = target);
    refused_pod(&at("network"), |c| namespaces(c).network = own);
    refused_pod(&at("ipc"), |c| namespaces(c).ipc = target);
    refused_pod(&at("network"), |c| namespaces(c).network = 17);
}

#[test]
fn a_user_namespace_has_one_range_that_maps_root() {
    let at = "config.linux.security_context.namespace_options.userns_options";
    let (pod_mode, node) = (cri::NamespaceMode::Pod as i32, cri::NamespaceMode::Node as i32);
    let whole = [range(0, 65536)];
    let set = |userns: cri::UserNamespace| {
        move |c: &mut cri::PodSandboxConfig| namespaces(c).userns_options = Some(userns)
    };
    let spec = admitted_pod(set(userns(pod_mode, &whole, &whole)));
    assert_eq!(spec.namespaces.user.unwrap().uids[0].host_id, 100_000);
    assert_eq!(admitted_pod(set(userns(node, &[], &[]))).namespaces.user, None);
    refused_pod(at, set(userns(node, &whole, &whole)));
    for mode in [cri::NamespaceMode::Container, cri::NamespaceMode::Target] {
        refused_pod(&format!("{at}.mode"), set(userns(mode as i32, &whole, &whole)));
    }
    let uids = format!("{at}.uids");
    refused_pod(&uids, set(userns(pod_mode, &[], &whole)));
    let apart = cri::IdMapping { host_id: 200_000, ..range(1, 9) };
    refused_pod(&uids, set(userns(pod_mode, &[range(0, 1), apart], &whole)));
    let both = [range(0, 1), range(1, 9)];
    refused_pod(&format!("{uids}[1]"), set(userns(pod_mode, &both, &whole)));
    refused_pod(&uids, set(userns(pod_mode, &[range(1, 65536)], &whole)));
    refused_pod(&format!("{uids}[0]"), set(userns(pod_mode, &[range(0, 0)], &whole)));
    refused_pod(&format!("{uids}[0]"), set(userns(pod_mode, &[range(0, u32::MAX)], &whole)));
    refused_pod(&format!("{at}.gids"), set(userns(pod_mode, &whole, &[range(5, 10)])));
    for host in ["pid", "ipc"] {
        refused_pod(at, |c| {
            let options = namespaces(c);
            options.userns_options = Some(userns(pod_mode, &whole, &whole));
            if host == "pid" { options.pid = node } else { options.ipc = node }
        });
    }
    let without = Rules { user_namespaces: false, ..RULES };
    let mut config = pod();
    set(userns(pod_mode, &whole, &whole))(&mut config);
    let refusal = admit_sandbox(Some(&config), "", &without).unwrap_err();
    assert_eq!(refusal.field(), format!("{at}.mode"));
}

#[test]
fn a_container_becomes_what_it_says() {
    let spec = admitted(|c| {
        c.stdin = true;
        c.stdin_once = true;
        c.stop_signal = cri::Signal::Sigusr1 as i32;
        c.envs = vec![cri::KeyValue { key: "A".into(), value: b"1".to_vec() }];
        let mount = a_mount(c);
        mount.container_path = "/data/../etc//x/".into();
        mount.propagation = cri::MountPropagation::PropagationHostToContainer as i32;
        context(c).run_as_user = Some(cri::Int64Value { value: 1000 });
        context(c).run_as_group = Some(cri::Int64Value { value: 2000 });
        context(c).seccomp_profile_path = "localhost//etc/seccomp/a.json".into();
    });
    assert_eq!(spec.stdin, Stdin::Once);
    assert_eq!(spec.stop_signal, Some(10));
    assert_eq!(spec.envs, [("A".to_owned(), "1".to_owned())]);
    assert_eq!(spec.mounts[0].container_path, Path::new("/etc/x"));
    assert_eq!(spec.mounts[0].propagation, Propagation::HostToContainer);
    assert_eq!(spec.security.run_as, RunAs::Ids { uid: 1000, gid: Some(2000) });
    assert_eq!(spec.security.seccomp, Profile::Localhost("/etc/seccomp/a.json".into()));
    assert_eq!(
        spec.log_path.as_deref(),
        Some(Path::new("/var/log/pods/default_web_u-1/main/1.log"))
    );
}

#[test]
fn the_log_stays_beneath_the_pods_log_directory() {
    for bad in ["/var/log/x", "../other/0.log", "main/../../x.log", "main/"] {
        refused("config.log_path", |c| c.log_path = bad.into());
    }
    let no_directory = admitted_pod(|c| c.log_directory.clear());
    let spec = admit_container(Some(&container()), &no_directory, &RULES).unwrap().spec;
    assert_eq!(spec.log_path, None);
    assert_eq!(admitted(|c| c.log_path.clear()).log_path, None);
}

#[test]
fn a_container_without_name_or_image_is_refused() {
    let pod = admitted_pod(|_| {});
    assert_eq!(admit_container(None, &pod, &RULES).unwrap_err().field(), "config");
    refused("config.metadata", |c| c.metadata = None);
    refused("config.metadata.name", |c| c.metadata.as_mut().unwrap().name.clear());
    refused("config.image.image", |c| c.image = None);
    refused("config.image.image", |c| c.image = Some(cri::ImageSpec::default()));
    refused("config.windows", |c| c.windows = Some(cri::WindowsContainerConfig::default()));
}

#[test]
fn what_a_container_runs_is_checked() {
    refused("config.command[1]", |c| c.command = vec!["sh".into(), "a\0b".into()]);
    refused("config.args[0]", |c| c.args = vec!["\0".into()]);
    refused("config.working_dir", |c| c.working_dir = "srv".into());
    refused("config.stop_signal", |c| c.stop_signal = 99);
    let env =
        |key: &str, value: &[u8]| vec![cri::KeyValue { key: key.into(), value: value.to_vec() }];
    refused("config.envs[0].key", |c| c.envs = env("", b"x"));
    refused("config.envs[0].key", |c| c.envs = env("A=B", b"x"));
    refused("config.envs[0] (A)", |c| c.envs = env("A", b"x\0y"));
    refused("config.envs[0] (A)", |c| c.envs = env("A", b"\xff"));
}

#[test]
fn a_refusal_does_not_repeat_a_secret() {
    let mut config = container();
    let value = b"hunter2\0".to_vec();
    config.envs = vec![cri::KeyValue { key: "PASSWORD".into(), value }];
    let refusal = admit_container(Some(&config), &admitted_pod(|_| {}), &RULES).unwrap_err();
    assert!(!refusal.to_string().contains("hunter2"), "{refusal}");
}

#[test]
fn mounts_are_checked() {
    refused("config.mounts[0].container_path", |c| a_mount(c).container_path = "data".into());
    refused("config.mounts[0].container_path", |c| a_mount(c).container_path = "/a/..".into());
    refused("config.mounts[0].host_path", |c| a_mount(c).host_path.clear());
    refused("config.mounts[0].host_path", |c| a_mount(c).host_path = "srv".into());
    refused("config.mounts[0].propagation", |c| a_mount(c).propagation = 5);
    refused("config.mounts[0].uidMappings", |c| a_mount(c).uid_mappings = vec![range(0, 1)]);
    refused("config.mounts[0].gidMappings[0]", |c| {
        let mount = a_mount(c);
        mount.uid_mappings = vec![range(0, 1)];
        mount.gid_mappings = vec![range(0, 0)];
    });
    refused("config.mounts[0].image_sub_path", |c| a_mount(c).image_sub_path = "a".into());
}

#[test]
fn recursive_read_only_needs_readonly_and_private_and_a_node_that_can() {
    let field = "config.mounts[0].recursive_read_only";
    refused(field, |c| a_mount(c).recursive_read_only = true);
    for propagation in [
        cri::MountPropagation::PropagationHostToContainer,
        cri::MountPropagation::PropagationBidirectional,
    ] {
        refused(field, |c| {
            let mount = a_mount(c);
            (mount.readonly, mount.recursive_read_only) = (true, true);
            mount.propagation = propagation as i32;
        });
    }
    let mut config = container();
    let mount = a_mount(&mut config);
    (mount.readonly, mount.recursive_read_only) = (true, true);
    let pod = admitted_pod(|_| {});
    assert!(admit_container(Some(&config), &pod, &RULES).unwrap().spec.mounts[0].readonly);
    let without = Rules { recursive_read_only: false, ..RULES };
    let refusal = admit_container(Some(&config), &pod, &without).unwrap_err();
    assert!(refusal.to_string().contains("RROUnsupported"), "{refusal}");
}

#[test]
fn an_image_volume_is_read_only_private_and_nothing_else() {
    let image_mount = |c: &mut cri::ContainerConfig| {
        let mount = a_mount(c);
        mount.host_path.clear();
        mount.image = Some(cri::ImageSpec { image: "data:1".into(), ..Default::default() });
        mount.image_sub_path = "./etc/ssl/".into();
        mount.readonly = true;
    };
    let spec = admitted(image_mount);
    let MountSource::Image { image, sub_path } = &spec.mounts[0].source else {
        panic!("{spec:?}");
    };
    assert_eq!((image.reference.as_str(), sub_path.as_str()), ("data:1", "etc/ssl"));
    refused("config.mounts[0].readonly", |c| {
        image_mount(c);
        c.mounts[0].readonly = false;
    });
    refused("config.mounts[0].image", |c| {
        image_mount(c);
        c.mounts[0].propagation = cri::MountPropagation::PropagationHostToContainer as i32;
    });
    refused("config.mounts[0].host_path", |c| {
        image_mount(c);
        c.mounts[0].host_path = "/srv".into();
    });
    refused("config.mounts[0].image_sub_path", |c| {
        image_mount(c);
        c.mounts[0].image_sub_path = "../x".into();
    });
}

#[test]
fn devices_are_checked() {
    let device = |container: &str, host: &str, permissions: &str| cri::Device {
        container_path: container.into(),
        host_path: host.into(),
        permissions: permissions.into(),
    };
    refused("config.devices[0].permissions", |c| c.devices = vec![device("/dev/a", "/dev/a", "")]);
    refused("config.devices[0].permissions", |c| {
        c.devices = vec![device("/dev/a", "/dev/a", "rx")];
    });
    refused("config.devices[0].host_path", |c| c.devices = vec![device("/dev/a", "a", "r")]);
    refused("config.devices[0].container_path", |c| c.devices = vec![device("a", "/dev/a", "r")]);
    for bad in ["gpu0", "vendor.com/gpu", "/gpu=0", "vendor.com/gpu="] {
        refused("config.CDI_devices[0].name", |c| {
            c.cdi_devices = vec![cri::CdiDevice { name: bad.into() }];
        });
    }
}

#[test]
fn users_and_groups_are_checked() {
    let at = |field: &str| format!("config.linux.security_context.{field}");
    let id = |value| Some(cri::Int64Value { value });
    refused(&at("run_as_group"), |c| context(c).run_as_group = id(5));
    refused(&at("run_as_user"), |c| context(c).run_as_user = id(-1));
    refused(&at("run_as_user"), |c| context(c).run_as_user = id(1 << 32));
    refused(&at("run_as_username"), |c| {
        context(c).run_as_user = id(5);
        context(c).run_as_username = "web".into();
    });
    refused(&at("run_as_username"), |c| context(c).run_as_username = "web:x".into());
    refused(&at("supplemental_groups[1]"), |c| context(c).supplemental_groups = vec![1, -2]);
    refused(&at("supplemental_groups_policy"), |c| context(c).supplemental_groups_policy = 7);
    refused_pod(&at("run_as_group"), |c| {
        linux(c).security_context.get_or_insert_default().run_as_group = id(5);
    });
    let by_name = admitted(|c| {
        context(c).run_as_username = "web".into();
        context(c).run_as_group = id(5);
    });
    assert_eq!(by_name.security.run_as, RunAs::Name { user: "web".into(), gid: Some(5) });
}

#[test]
fn confinement_is_checked() {
    let at = |field: &str| format!("config.linux.security_context.{field}");
    refused(&at("privileged"), |c| context(c).privileged = true);
    refused(&at("capabilities.add_capabilities[0]"), |c| {
        context(c).capabilities = Some(cri::Capability {
            add_capabilities: vec!["NET ADMIN".into()],
            ..Default::default()
        });
    });
    refused(&at("masked_paths[0]"), |c| context(c).masked_paths = vec!["proc/kcore".into()]);
    refused(&at("readonly_paths[0]"), |c| context(c).readonly_paths = vec![String::new()]);
    let profile = |kind: ProfileType, reference: &str| {
        Some(cri::SecurityProfile { profile_type: kind as i32, localhost_ref: reference.into() })
    };
    refused(&at("seccomp.localhost_ref"), |c| {
        context(c).seccomp = profile(ProfileType::Localhost, "relative.json");
    });
    refused(&at("apparmor.localhost_ref"), |c| {
        context(c).apparmor = profile(ProfileType::Localhost, "");
    });
    refused(&at("seccomp_profile_path"), |c| {
        context(c).seccomp_profile_path = "whatever".into();
    });
    let spec = admitted(|c| {
        context(c).seccomp = profile(ProfileType::RuntimeDefault, "");
        context(c).seccomp_profile_path = "unconfined".into();
        context(c).apparmor_profile = "localhost/mine".into();
    });
    assert_eq!(spec.security.seccomp, Profile::RuntimeDefault, "the current field wins");
    assert_eq!(spec.security.apparmor, Profile::Localhost("mine".into()));
    assert_eq!(admitted(|_| {}).security.seccomp, Profile::Unset);
}

#[test]
fn a_containers_namespaces_fit_its_pods() {
    let at = |field: &str| format!("config.linux.security_context.namespace_options.{field}");
    let options = |c: &mut cri::ContainerConfig, pid: cri::NamespaceMode, target: &str| {
        context(c).namespace_options = Some(cri::NamespaceOption {
            pid: pid as i32,
            target_id: target.into(),
            ..Default::default()
        });
    };
    refused(&at("target_id"), |c| options(c, cri::NamespaceMode::Target, ""));
    refused(&at("userns_options"), |c| {
        options(c, cri::NamespaceMode::Pod, "");
        let whole = [range(0, 65536)];
        context(c).namespace_options.as_mut().unwrap().userns_options =
            Some(userns(0, &whole, &whole));
    });
    let spec = admitted(|c| options(c, cri::NamespaceMode::Target, "abc"));
    assert_eq!(spec.security.pid, PidMode::Target("abc".into()));

    // POD, or nothing, is the pod's own choice.
    let own = admitted_pod(|c| namespaces(c).pid = cri::NamespaceMode::Container as i32);
    for said in [false, true] {
        let mut config = container();
        if said {
            options(&mut config, cri::NamespaceMode::Pod, "");
        }
        let spec = admit_container(Some(&config), &own, &RULES).unwrap().spec;
        assert_eq!(spec.security.pid, PidMode::Container);
    }
}

#[test]
fn limits_are_checked() {
    let at = |field: &str| format!("config.linux.resources.{field}");
    refused(&at("cpu_period"), |c| limits(c).cpu_period = 10);
    refused(&at("cpu_quota"), |c| limits(c).cpu_quota = 5);
    refused(&at("cpu_shares"), |c| limits(c).cpu_shares = -1);
    refused(&at("memory_limit_in_bytes"), |c| limits(c).memory_limit_in_bytes = -2);
    refused(&at("memory_swap_limit_in_bytes"), |c| {
        limits(c).memory_limit_in_bytes = 4096;
        limits(c).memory_swap_limit_in_bytes = 1024;
    });
    refused(&at("oom_score_adj"), |c| limits(c).oom_score_adj = 1001);
    for bad in ["0-", "3-1", "a", "0,,1", "0;1"] {
        refused(&at("cpuset_cpus"), |c| limits(c).cpuset_cpus = bad.into());
        refused(&at("cpuset_mems"), |c| limits(c).cpuset_mems = bad.into());
    }
    refused(&at("hugepage_limits[0].page_size"), |c| {
        limits(c).hugepage_limits =
            vec![cri::HugepageLimit { page_size: "../2MB".into(), limit: 1 }];
    });
    for bad in ["../memory.max", "memory", ".hidden", "cgroup.procs"] {
        refused(&at(&format!("unified[{bad:?}]")), |c| {
            limits(c).unified.insert(bad.into(), "1".into());
        });
    }
    let spec = admitted(|c| {
        limits(c).cpuset_cpus = "0-3,7".into();
        limits(c).cpu_quota = -1;
        limits(c).memory_limit_in_bytes = 1 << 20;
        limits(c).memory_swap_limit_in_bytes = -1;
        limits(c).hugepage_limits =
            vec![cri::HugepageLimit { page_size: "2MB".into(), limit: 1 << 21 }];
    });
    assert_eq!(spec.resources.hugepages["2MB"], 1 << 21);
    assert_eq!(spec.resources.cpuset_cpus, "0-3,7");
}

#[test]
fn equal_configurations_have_equal_digests_and_others_do_not() {
    let digest = |change: fn(&mut cri::PodSandboxConfig), handler: &str| {
        let mut config = pod();
        change(&mut config);
        admit_sandbox(Some(&config), handler, &RULES).unwrap().digest
    };
    let same = |c: &mut cri::PodSandboxConfig| {
        c.labels.extend([("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())]);
    };
    let as_well = |c: &mut cri::PodSandboxConfig| {
        c.labels.extend([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
    };
    assert_eq!(digest(same, ""), digest(as_well, ""));
    assert_ne!(digest(same, ""), digest(same, "gvisor"));
    assert_ne!(digest(same, ""), digest(|_| {}, ""));
    assert_eq!(digest(same, "").len(), 64);
}
