//! The parts of the node, put together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use berth_cgroup::Cgroups;
use berth_cni::{Network, Rendered};
use berth_cri::{Conditions, Cri, Observe, Parts, Sessions};
use berth_image::Store;
use berth_lifecycle::{Node, Offered, Settings};
use berth_oci::facts::NodeFacts;
use berth_proto::node::v1::node_server::NodeServer;

use super::conditions;
use super::network_watch::NetworkWatch;
use super::rest::Rest;
use crate::config::{Config, Driver, NriConfig};
use crate::facts;
use crate::find;
use crate::handlers;
use crate::metrics::{self, Calls};
use crate::node_service::NodeService;

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
    /// The pods.
    pub(super) node: Node,
    /// Metrics, as text.
    pub(super) gather: metrics::Gather,
    /// The network, whose plugins the end of the daemon waits for.
    pub(super) network: Arc<Network>,
}

/// Makes the parts; when it returns, the pods of before are listed.
pub(super) async fn wire(config: &Config) -> anyhow::Result<Wired> {
    let since = Instant::now();
    let cgroups = Cgroups::detect()?;
    let plugins = berth_lifecycle::plugins_cgroup(&cgroups, &config.cgroup_parent)?.enter_files();
    let facts = facts::node(config, &cgroups)?;
    let user_namespaces = facts.kernel >= ID_MAPPED_LAYERS;
    let looked = handlers::look_at_all(config).await;
    let offered = handlers::offer(looked, &config.pods.default_handler, &Offered::default());
    // Pulls from other hosts work all the same: those from this one will say it again.
    if let Err(error) = berth_image::check_hosts(&config.images.hosts_dir) {
        tracing::error!(%error, "a registry's configuration cannot be used");
    }
    let images = Store::open(image_options(config)).await.context("cannot open the image store")?;
    let network = Arc::new(Network::new(network_settings(config, plugins)));
    let settings = settings(config, facts)?;
    let node = Node::start(berth_lifecycle::Parts {
        settings,
        handlers: offered,
        images: images.clone(),
        network: Arc::clone(&network),
        cgroups: cgroups.clone(),
        nri: config.nri.as_ref().map(nri),
    })
    .await
    .context("cannot take up the pods of this node")?;
    // Its probes are jobs: they begin when the jobs of before have been killed.
    let watch = NetworkWatch::start(Arc::clone(&network));
    let conditions = conditions(&node, watch);
    let calls = Calls::default();
    let streaming = streaming(config, &node).await;
    let cri = Cri::new(Parts {
        node: node.clone(),
        streaming,
        images: images.clone(),
        cgroups,
        systemd_cgroups: config.cgroup_driver == Driver::Systemd,
        user_namespaces,
        restore: config.restore,
        version: env!("CARGO_PKG_VERSION"),
        config: verbose_config(config),
        conditions: Arc::clone(&conditions),
        set_pod_cidr: {
            let network = Arc::clone(&network);
            Box::new(move |cidr| set_pod_cidr(&network, cidr))
        },
        observe: observe(calls.clone()),
    });
    let node_service = NodeServer::new(NodeService {
        node: node.clone(),
        images: images.clone(),
        conditions,
        since,
    })
    .max_encoding_message_size(usize::MAX);
    let gather = gather(node.clone(), images, calls);
    Ok(Wired { cri, node_service, node, gather, network })
}

fn observe(calls: Calls) -> Observe {
    let rest = Rest::start();
    Box::new(move |method, code, took| {
        calls.count(method, code, took);
        rest.after(method);
    })
}

/// A node without streams is better than none: why there are none is told, and answered to who asks.
async fn streaming(config: &Config, node: &Node) -> Result<berth_streaming::Server, String> {
    let tls = config.streaming.tls.clone();
    let settings = berth_streaming::Config {
        address: config.streaming.address,
        tls: tls.map(|(certificate, key)| berth_streaming::Tls { certificate, key }),
        idle: config.streaming.idle,
        ..berth_streaming::Config::default()
    };
    let sessions = Arc::new(Sessions::new(node.clone()));
    match berth_streaming::Server::bind(settings, sessions).await {
        Ok(server) => {
            tracing::info!(address = %server.address(), "serving streams");
            Ok(server)
        }
        Err(error) => {
            let advice = "set [streaming] right, and start berth again";
            tracing::error!(%error, advice, "cannot serve exec, attach and port-forward");
            Err(format!("{error}: {advice}"))
        }
    }
}

/// How the node is, each time that somebody asks.
fn conditions(node: &Node, watch: NetworkWatch) -> Conditions {
    let node = node.clone();
    Arc::new(move || {
        let (watch, offered) = (watch.clone(), node.handlers());
        Box::pin(async move {
            let [runtime, handlers] = conditions::of_handlers(&offered);
            vec![runtime, watch.condition().await, handlers]
        })
    })
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

fn settings(config: &Config, node: NodeFacts) -> anyhow::Result<Settings> {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").context("hostname")?;
    // The lowest that may be given: who kills a shim takes its whole pod along.
    let shim_oom_score_adj = node.oom_floor.unwrap_or(-999).try_into().unwrap_or(-999);
    Ok(Settings {
        state_dir: config.state.clone(),
        root_dir: config.root.clone(),
        netns_dir: NETNS_DIR.into(),
        helper: find::program(&config.helper).context("helper.path: it is gone")?,
        daemon: std::env::current_exe().context("cannot find our own executable")?,
        cgroup_root: config.cgroup_parent.clone(),
        cgroup_slice: config.cgroup_slice.clone(),
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

fn nri(config: &NriConfig) -> berth_lifecycle::NriSettings {
    berth_lifecycle::NriSettings {
        runtime: ("berth".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        socket: config.socket.clone(),
        plugins: config.plugins_dir.clone(),
        configs: config.config_dir.clone(),
        cgroups: Vec::new(),
        registration: config.registration_timeout,
        request: config.request_timeout,
        required: config.required.clone(),
        tolerate: config.tolerate_missing_annotation.clone(),
    }
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

/// Critest looks for `stateDir` here; the rest is for people.
fn verbose_config(config: &Config) -> serde_json::Value {
    serde_json::json!({
        "stateDir": config.state,
        "rootDir": config.root,
        "socket": config.socket,
        "cgroupDriver": config.cgroup_driver,
        "cgroupParent": config.cgroup_parent,
        "cniConfDir": config.network.conf_dir,
        "cniBinDirs": config.network.bin_dirs,
    })
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
