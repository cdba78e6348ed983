//! The parts of the node, put together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use berth_cgroup::Cgroups;
use berth_cni::{Network, Rendered};
use berth_cri::{Condition, Conditions, Cri, Handler, Parts};
use berth_image::Store;
use berth_lifecycle::{Node, Settings, ShimKind};
use berth_oci::facts::{HandlerFacts, NodeFacts};
use berth_proto::node::v1::node_server::NodeServer;

use super::network_watch::NetworkWatch;
use super::rest::Rest;
use crate::config::{Config, HandlerConfig, shim_name};
use crate::facts::{self, RuntimeFacts};
use crate::find;
use crate::metrics::{self, Calls};
use crate::node_service::{HandlerStatus, NodeService};

/// Where every tool looks for network namespaces with a name.
const NETNS_DIR: &str = "/run/netns";

/// The first kernel whose overlays take id-mapped layers.
const ID_MAPPED_LAYERS: (u32, u32) = (5, 19);

/// How long a mount's source may take to answer, and the helper to make namespaces.
const HELPER_DEADLINE: Duration = Duration::from_secs(10);

/// Everything that is served.
pub(super) struct Wired {
    /// CRI.
    pub(super) cri: Cri,
    /// Berth's own service.
    pub(super) node_service: NodeServer<NodeService>,
    /// Metrics, as text.
    pub(super) gather: metrics::Gather,
    /// The network, whose plugins the end of the daemon waits for.
    pub(super) network: Arc<Network>,
}

/// A configured handler with what was found out about it.
struct Found {
    name: String,
    config: HandlerConfig,
    shim: PathBuf,
    runtime: PathBuf,
    facts: RuntimeFacts,
}

/// Makes the parts; when it returns, the pods of before are listed.
pub(super) async fn wire(config: &Config) -> anyhow::Result<Wired> {
    let since = Instant::now();
    let cgroups = Cgroups::detect()?;
    let plugins = berth_lifecycle::plugins_cgroup(&cgroups, &config.cgroup_parent)?.enter_files();
    let facts = facts::node(config, &cgroups)?;
    let user_namespaces = facts.kernel >= ID_MAPPED_LAYERS;
    let handlers = handlers(config).await?;
    // Pulls from other hosts work all the same: those from this one will say it again.
    if let Err(error) = berth_image::check_hosts(&config.images.hosts_dir) {
        tracing::error!(%error, "a registry's configuration cannot be used");
    }
    let images = Store::open(image_options(config)).await.context("cannot open the image store")?;
    let network = Arc::new(Network::new(network_settings(config, plugins)));
    let settings = settings(config, &handlers, facts)?;
    let node = Node::start(berth_lifecycle::Parts {
        settings,
        images: images.clone(),
        network: Arc::clone(&network),
        cgroups: cgroups.clone(),
    })
    .await
    .context("cannot take up the pods of this node")?;
    // Its probes are jobs: they begin when the jobs of before have been killed.
    let watch = NetworkWatch::start(Arc::clone(&network));
    let conditions: Conditions = Arc::new(move || {
        let watch = watch.clone();
        Box::pin(async move { vec![runtime_ready(), watch.condition().await] })
    });
    let calls = Calls::default();
    let cri = Cri::new(Parts {
        node: node.clone(),
        images: images.clone(),
        cgroups,
        systemd_cgroups: false,
        user_namespaces,
        handlers: cri_handlers(config, &handlers),
        version: env!("CARGO_PKG_VERSION"),
        config: verbose_config(config),
        conditions: Arc::clone(&conditions),
        set_pod_cidr: {
            let network = Arc::clone(&network);
            Box::new(move |cidr| set_pod_cidr(&network, cidr))
        },
        observe: {
            let (calls, rest) = (calls.clone(), Rest::start());
            Box::new(move |method, code, took| {
                calls.count(method, code, took);
                rest.after(method);
            })
        },
    });
    let node_service = NodeServer::new(NodeService {
        node: node.clone(),
        images: images.clone(),
        handlers: handler_statuses(config, &handlers),
        conditions,
        since,
    })
    .max_encoding_message_size(usize::MAX);
    Ok(Wired { cri, node_service, gather: gather(node, images, calls), network })
}

async fn handlers(config: &Config) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    let memory = config.state.join("runtimes.json");
    for (name, handler) in &config.handlers {
        let shim = find::program(&handler.shim, &format!("handlers.{name}.shim"))?;
        let key = format!("handlers.{name}.runtime");
        let runtime = find::oci_runtime(handler.runtime.as_deref(), &key)?;
        let facts = facts::runtime(&runtime, &memory).await;
        tracing::info!(
            handler = name,
            shim = %shim.display(),
            runtime = %runtime.display(),
            ?facts,
            "handler found"
        );
        found.push(Found { name: name.clone(), config: handler.clone(), shim, runtime, facts });
    }
    Ok(found)
}

fn image_options(config: &Config) -> berth_image::Options {
    berth_image::Options {
        pinned: config.images.pinned.clone(),
        parallel_layers: config.images.parallel_layers,
        parallel_layers_per_pull: config.images.parallel_layers_per_pull,
        registries: berth_image::Registries {
            certs_d: vec![config.images.hosts_dir.clone()],
            docker_config: config.images.docker_config.clone(),
            progress_timeout: config.images.progress_timeout,
            ..berth_image::Registries::default()
        },
        ..berth_image::Options::new(config.root.join("images"))
    }
}

fn network_settings(config: &Config, plugins: Vec<PathBuf>) -> berth_cni::Settings {
    let path = std::env::var_os("PATH").map(|path| ("PATH".into(), path));
    berth_cni::Settings {
        conf_dir: config.network.conf_dir.clone(),
        bin_dirs: config.network.bin_dirs.clone(),
        cache_dir: config.root.join("cni"),
        env: path.into_iter().collect(),
        cgroups: plugins,
        owned: config.network.owned.iter().cloned().collect(),
        template: config.network.template.clone(),
        deadlines: berth_cni::Deadlines {
            add: config.deadlines.cni_add,
            del: config.deadlines.cni_del,
            ..berth_cni::Deadlines::default()
        },
    }
}

fn settings(config: &Config, found: &[Found], node: NodeFacts) -> anyhow::Result<Settings> {
    let handler = |found: &Found| berth_lifecycle::Handler {
        shim: found.shim.clone(),
        kind: match shim_name(&found.config.shim) {
            Some((name, _)) if name != "berth" => ShimKind::Other,
            _ => ShimKind::Berth,
        },
        runtime: Some(found.runtime.clone()),
        runtime_root: found.config.runtime_root.clone(),
        options: found.config.options.clone(),
        sandbox: found.config.sandbox,
        facts: HandlerFacts {
            recursive_read_only: found.facts.recursive_read_only,
            id_mapped_mounts: found.facts.id_mapped_mounts,
            privileged_without_host_devices: found.config.privileged_without_host_devices,
            pod_annotations: found.config.pod_annotations.clone(),
            container_annotations: found.config.container_annotations.clone(),
        },
    };
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").context("hostname")?;
    // The lowest that may be given: who kills a shim takes its whole pod along.
    let shim_oom_score_adj = node.oom_floor.unwrap_or(-999).try_into().unwrap_or(-999);
    Ok(Settings {
        state_dir: config.state.clone(),
        root_dir: config.root.clone(),
        netns_dir: NETNS_DIR.into(),
        helper: find::program(&config.helper, "helper.path")?,
        daemon: std::env::current_exe().context("cannot find our own executable")?,
        cgroup_root: config.cgroup_parent.clone(),
        handlers: found.iter().map(|found| (found.name.clone(), handler(found))).collect(),
        default_handler: config.pods.default_handler.clone(),
        node,
        hostname: hostname.trim().to_owned(),
        resolv_conf: "/etc/resolv.conf".into(),
        hosts: "/etc/hosts".into(),
        sysctls: sysctls(config),
        shm_size: config.pods.shm_size,
        shim_oom_score_adj: Some(shim_oom_score_adj),
        stat_deadline: config.deadlines.mount,
        helper_deadline: HELPER_DEADLINE,
    })
}

/// What pods with a network of their own start with, as other runtimes have it.
fn sysctls(config: &Config) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::new();
    if config.pods.unprivileged_ports {
        sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
    }
    if config.pods.unprivileged_icmp {
        sysctls.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
    }
    sysctls
}

/// The default handler stands first, under the name that a pod without a RuntimeClass uses.
fn cri_handlers(config: &Config, found: &[Found]) -> Vec<Handler> {
    let one = |name: &str, found: &Found| Handler {
        name: name.to_owned(),
        runtime_type: runtime_type(&found.shim),
        recursive_read_only: found.facts.recursive_read_only,
        user_namespaces: found.facts.id_mapped_mounts,
    };
    let default = found.iter().filter(|found| found.name == config.pods.default_handler);
    let default = default.map(|found| one("", found));
    default.chain(found.iter().map(|found| one(&found.name, found))).collect()
}

/// `containerd-shim-runc-v2` → `io.containerd.runc.v2`, the name that tools know a shim by.
fn runtime_type(shim: &Path) -> String {
    let file = shim.file_name().unwrap_or_default().to_string_lossy();
    match shim_name(&file) {
        Some((name, version)) => format!("io.containerd.{name}.{version}"),
        None => file.into_owned(),
    }
}

fn handler_statuses(config: &Config, found: &[Found]) -> Vec<HandlerStatus> {
    let one = |found: &Found| HandlerStatus {
        name: found.name.clone(),
        default: found.name == config.pods.default_handler,
        shim: found.shim.display().to_string(),
        runtime: found.runtime.display().to_string(),
        recursive_read_only_mounts: found.facts.recursive_read_only,
        user_namespaces: found.facts.id_mapped_mounts,
    };
    found.iter().map(one).collect()
}

/// Critest looks for `stateDir` here; the rest is for people.
fn verbose_config(config: &Config) -> serde_json::Value {
    serde_json::json!({
        "stateDir": config.state,
        "rootDir": config.root,
        "socket": config.socket,
        "cgroupParent": config.cgroup_parent,
        "cniConfDir": config.network.conf_dir,
        "cniBinDirs": config.network.bin_dirs,
        "defaultHandler": config.pods.default_handler,
    })
}

/// It was ready before anybody could ask.
fn runtime_ready() -> Condition {
    Condition { name: "RuntimeReady", holds: true, reason: String::new(), message: String::new() }
}

fn set_pod_cidr(network: &Network, cidr: &str) -> Result<(), String> {
    let rendered = network.set_pod_cidr(cidr).map_err(|error| error.to_string())?;
    if let Rendered::Written(path) = rendered {
        tracing::info!(cidr, file = %path.display(), "network configuration written");
    }
    Ok(())
}

fn gather(node: Node, images: Store, calls: Calls) -> metrics::Gather {
    Arc::new(move || {
        let mut registry = prometheus_client::registry::Registry::default();
        calls.describe(&mut registry);
        metrics::describe_node(&mut registry, &node.report());
        metrics::describe_steps(&mut registry, &node.steps());
        metrics::describe_images(&mut registry, &images);
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &registry) {
            Ok(()) => text,
            Err(error) => format!("# cannot write the metrics: {error}\n# EOF\n"),
        }
    })
}
