//! What no node can honour, or nobody can mean.

use berth_proto::cri::v1 as cri;
use cri::security_profile::ProfileType;
use tonic::Code;

use crate::dice::Dice;

/// A fault, the field that a refusal must name, and the codes that it may have.
pub(super) struct Fault<T> {
    pub(super) field: &'static str,
    pub(super) codes: &'static [Code],
    pub(super) change: fn(&mut T),
}

/// A fault of one of the two.
pub(super) enum Wrong {
    Pod(&'static Fault<cri::PodSandboxConfig>),
    Container(&'static Fault<cri::ContainerConfig>),
}

/// Some fault.
pub(super) fn wrong(dice: &mut Dice) -> Wrong {
    match dice.once_in(3) {
        true => Wrong::Pod(dice.pick(PODS)),
        false => Wrong::Container(dice.pick(CONTAINERS)),
    }
}

const INVALID: &[Code] = &[Code::InvalidArgument];
const UNSUPPORTED: &[Code] = &[Code::Unimplemented];
const ABSENT: &[Code] = &[Code::NotFound];

fn linux(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxPodSandboxConfig {
    config.linux.get_or_insert_default()
}

fn sandbox(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    linux(config).security_context.get_or_insert_default()
}

fn modes(config: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    sandbox(config).namespace_options.get_or_insert_default()
}

fn local(path: &str) -> Option<cri::SecurityProfile> {
    let profile_type = ProfileType::Localhost as i32;
    Some(cri::SecurityProfile { profile_type, localhost_ref: path.to_owned() })
}

const fn pod(
    field: &'static str,
    change: fn(&mut cri::PodSandboxConfig),
) -> Fault<cri::PodSandboxConfig> {
    Fault { field, codes: INVALID, change }
}

static PODS: &[Fault<cri::PodSandboxConfig>] = &[
    pod("metadata", |config| config.metadata = None),
    pod("metadata.uid", |config| config.metadata.get_or_insert_default().uid.clear()),
    pod("metadata.name", |config| config.metadata.get_or_insert_default().name.push('/')),
    pod("sysctls", |config| {
        linux(config).sysctls.insert("kernel.hostname".to_owned(), "x".to_owned());
    }),
    pod("sysctls", |config| {
        modes(config).network = cri::NamespaceMode::Node as i32;
        linux(config).sysctls.insert("net.core.somaxconn".to_owned(), "7".to_owned());
    }),
    pod("namespace_options.pid", |config| modes(config).pid = cri::NamespaceMode::Target as i32),
    pod("namespace_options.network", |config| modes(config).network = 9),
    pod("namespace_options.ipc", |config| modes(config).ipc = cri::NamespaceMode::Container as i32),
    pod("userns_options", |config| {
        modes(config).userns_options =
            Some(cri::UserNamespace { mode: cri::NamespaceMode::Pod as i32, ..Default::default() });
    }),
    pod("cgroup_parent", |config| linux(config).cgroup_parent.push_str("/../x")),
    pod("dns_config.servers", |config| {
        config.dns_config.get_or_insert_default().servers.push("a.name".to_owned());
    }),
    pod("linux.resources", |config| {
        linux(config).resources.get_or_insert_default().memory_limit_in_bytes = -7;
    }),
    pod("linux.overhead", |config| {
        linux(config).overhead.get_or_insert_default().cpu_shares = -1;
    }),
    pod("run_as_group", |config| {
        sandbox(config).run_as_user = None;
        sandbox(config).run_as_group = Some(cri::Int64Value { value: 7 });
    }),
    pod("seccomp", |config| sandbox(config).seccomp = local("relative.json")),
    pod("log_directory", |config| config.log_directory = "relative".to_owned()),
    pod("windows", |config| config.windows = Some(cri::WindowsPodSandboxConfig::default())),
];

fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

fn limits(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerResources {
    config.linux.get_or_insert_default().resources.get_or_insert_default()
}

/// A mount, before it is spoilt.
fn mount(config: &mut cri::ContainerConfig, change: impl FnOnce(&mut cri::Mount)) {
    let mut mount = cri::Mount {
        host_path: "/etc".to_owned(),
        container_path: "/spoilt".to_owned(),
        ..Default::default()
    };
    change(&mut mount);
    config.mounts.push(mount);
}

const fn container(
    field: &'static str,
    codes: &'static [Code],
    change: fn(&mut cri::ContainerConfig),
) -> Fault<cri::ContainerConfig> {
    Fault { field, codes, change }
}

static CONTAINERS: &[Fault<cri::ContainerConfig>] = &[
    container("metadata", INVALID, |config| config.metadata = None),
    container("no/such/image", ABSENT, |config| {
        config.image.get_or_insert_default().image = "no/such/image:1".to_owned();
    }),
    container("working_dir", INVALID, |config| config.working_dir = "tmp".to_owned()),
    container("command", INVALID, |config| config.command.push("a\0b".to_owned())),
    container("envs", INVALID, |config| {
        config.envs.push(cri::KeyValue { key: "a=b".to_owned(), value: Vec::new() });
    }),
    container("log_path", INVALID, |config| config.log_path = "../x.log".to_owned()),
    container("stop_signal", INVALID, |config| config.stop_signal = 999),
    container("container_path", INVALID, |config| {
        mount(config, |mount| mount.container_path = "/a/..".to_owned());
    }),
    container("recursive_read_only", INVALID, |config| {
        mount(config, |mount| mount.recursive_read_only = true);
    }),
    container("propagation", INVALID, |config| mount(config, |mount| mount.propagation = 9)),
    container("/not/there", &[Code::NotFound, Code::InvalidArgument], |config| {
        mount(config, |mount| mount.host_path = "/not/there".to_owned());
    }),
    container("uidMappings", INVALID, |config| {
        let one = cri::IdMapping { host_id: 5, container_id: 0, length: 1 };
        mount(config, |mount| mount.uid_mappings.push(one));
    }),
    container("permissions", INVALID, |config| {
        let (container_path, host_path) = ("/dev/x".to_owned(), "/dev/null".to_owned());
        let device = cri::Device { container_path, host_path, permissions: "rx".to_owned() };
        config.devices.push(device);
    }),
    container("no.such/class=device", &[Code::NotFound, Code::InvalidArgument], |config| {
        config.cdi_devices.push(cri::CdiDevice { name: "no.such/class=device".to_owned() });
    }),
    container("capabilit", INVALID, |config| {
        let capabilities = security(config).capabilities.get_or_insert_default();
        capabilities.drop_capabilities.push("NO_SUCH".to_owned());
        security(config).privileged = false;
    }),
    container("run_as_username", INVALID, |config| {
        security(config).run_as_user = Some(cri::Int64Value { value: 1 });
        security(config).run_as_username = "root".to_owned();
    }),
    container("run_as_user", INVALID, |config| {
        security(config).run_as_username.clear();
        security(config).run_as_user = Some(cri::Int64Value { value: -1 });
    }),
    container("nobody-here", &[Code::NotFound, Code::InvalidArgument], |config| {
        security(config).run_as_user = None;
        security(config).run_as_username = "nobody-here".to_owned();
    }),
    container("supplemental_groups", INVALID, |config| {
        security(config).supplemental_groups.push(1 << 32);
    }),
    container("supplemental_groups_policy", INVALID, |config| {
        security(config).supplemental_groups_policy = 7;
    }),
    container("target_id", INVALID, |config| {
        let modes = security(config).namespace_options.get_or_insert_default();
        modes.pid = cri::NamespaceMode::Target as i32;
        modes.userns_options = None;
    }),
    container("seccomp", INVALID, |config| {
        security(config).seccomp = local("relative.json");
    }),
    container("apparmor", UNSUPPORTED, |config| security(config).apparmor = local("a-profile")),
    container("hugepage_limits", UNSUPPORTED, |config| {
        let page = cri::HugepageLimit { page_size: "2MB".to_owned(), limit: 4 << 20 };
        limits(config).hugepage_limits.push(page);
    }),
    container("unified", INVALID, |config| {
        limits(config).unified.insert("memory.high".to_owned(), "1000000".to_owned());
    }),
    container("oom_score_adj", INVALID, |config| limits(config).oom_score_adj = 2000),
    container("cpu_quota", INVALID, |config| limits(config).cpu_quota = 7),
    container("cpuset_cpus", INVALID, |config| limits(config).cpuset_cpus = "0-".to_owned()),
    container("windows", INVALID, |config| {
        config.windows = Some(cri::WindowsContainerConfig::default());
    }),
];
