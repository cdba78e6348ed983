//! The shape of a configuration file: every key may be left out, none may be unknown.

use std::collections::BTreeMap;

use berth_lifecycle::SandboxMode;
use serde::{Deserialize, Serialize};

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) root: String,
    pub(crate) state: String,
    pub(crate) api: Api,
    pub(crate) log: Log,
    pub(crate) metrics: Metrics,
    pub(crate) streaming: Streaming,
    pub(crate) cgroups: Cgroups,
    pub(crate) pods: Pods,
    pub(crate) handlers: BTreeMap<String, Handler>,
    pub(crate) helper: Helper,
    pub(crate) network: Network,
    pub(crate) images: Images,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) nri: Nri,
    pub(crate) deadlines: Deadlines,
}

/// `[api]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Api {
    pub(crate) socket: String,
    pub(crate) group: String,
}

/// `[log]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) level: String,
    pub(crate) format: Format,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// `[metrics]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    pub(crate) address: String,
}

/// `[streaming]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Streaming {
    pub(crate) address: String,
    pub(crate) tls_cert: String,
    pub(crate) tls_key: String,
    pub(crate) idle: String,
}

/// `[cgroups]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cgroups {
    pub(crate) driver: Driver,
    pub(crate) parent: String,
    pub(crate) slice: String,
}

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Driver {
    /// We do, in the file system.
    #[default]
    Cgroupfs,
    /// systemd does.
    Systemd,
}

/// `[pods]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Pods {
    pub(crate) default_handler: String,
    pub(crate) unprivileged_ports: bool,
    pub(crate) unprivileged_icmp: bool,
    pub(crate) restrict_oom_score_adj: bool,
    pub(crate) shm_size: u64,
    pub(crate) pids_limit: u64,
}

/// `[handlers.<name>]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Handler {
    pub(crate) shim: String,
    pub(crate) runtime: String,
    pub(crate) runtime_root: String,
    pub(crate) options_type: OptionsType,
    pub(crate) options: toml::Table,
    pub(crate) sandbox: SandboxMode,
    pub(crate) pod_annotations: Vec<String>,
    pub(crate) container_annotations: Vec<String>,
    pub(crate) base_spec: String,
    pub(crate) cni_conf_dir: String,
    pub(crate) privileged: bool,
    pub(crate) privileged_without_host_devices: bool,
}

/// A table needs only the keys that differ from these: they are the default handler's.
impl Default for Handler {
    fn default() -> Self {
        Self {
            shim: String::new(),
            runtime: String::new(),
            runtime_root: String::new(),
            options_type: OptionsType::Found,
            options: toml::Table::new(),
            sandbox: SandboxMode::Auto,
            pod_annotations: Vec::new(),
            container_annotations: Vec::new(),
            base_spec: String::new(),
            cni_conf_dir: String::new(),
            privileged: true,
            privileged_without_host_devices: false,
        }
    }
}

/// Which message a shim takes its options in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OptionsType {
    /// As the shim's name says.
    #[default]
    #[serde(rename = "")]
    Found,
    /// runc's.
    #[serde(rename = "containerd.runc.v1.Options")]
    Runc,
    /// Everybody else's.
    #[serde(rename = "runtimeoptions.v1.Options")]
    Runtime,
}

/// `[helper]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Helper {
    pub(crate) path: String,
}

/// `[network]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Network {
    pub(crate) conf_dir: String,
    pub(crate) bin_dirs: Vec<String>,
    pub(crate) template: String,
    pub(crate) owned: Vec<String>,
}

/// `[images]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Images {
    pub(crate) hosts_dir: String,
    pub(crate) docker_config: String,
    pub(crate) pinned: Vec<String>,
    pub(crate) parallel_layers: u64,
    pub(crate) parallel_layers_per_pull: u64,
    pub(crate) progress_timeout: String,
}

/// `[checkpoints]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Checkpoints {
    pub(crate) restore_archives: bool,
    pub(crate) restore_images: bool,
}

/// `[nri]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Nri {
    pub(crate) enabled: bool,
    pub(crate) socket: String,
    pub(crate) plugins_dir: String,
    pub(crate) config_dir: String,
    pub(crate) registration_timeout: String,
    pub(crate) request_timeout: String,
    pub(crate) required: Vec<String>,
    pub(crate) tolerate_missing_annotation: String,
}

/// `[deadlines]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Deadlines {
    pub(crate) cni_add: String,
    pub(crate) cni_del: String,
    pub(crate) mount: String,
}
