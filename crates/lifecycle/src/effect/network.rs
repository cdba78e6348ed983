//! The pod's attachment to the network, through CNI.

use berth_cni::{Attachment, Bandwidth, Network, PodIdentity};
use berth_oci::facts::GuestNetwork;
use berth_pod::Kind;
use berth_pod::record::{NetworkFact, PodFact};
use berth_pod::spec::{PodOrNode, Protocol, SandboxSpec};
use berth_sys::namespace::{self, Namespace};
use berth_sys::netdev;

use super::{Context, Result, Trouble, blocking, failed};
use crate::settings::Handler;

/// What an earlier try left is taken down whatever happens; only the attachment itself is aborted.
pub(super) async fn acquire(context: &Context) -> Result<PodFact> {
    if context.record.spec.spec.namespaces.network == PodOrNode::Node {
        return Ok(PodFact::Network(NetworkFact::default()));
    }
    let (network, attachment) = (context.network(), attachment(context)?);
    let attached = match network.clear_way(&attachment).await? {
        Some(attached) => attached,
        None => context.abortable(async { Ok(network.attach_anew(&attachment).await?) }).await?,
    };
    let ips = attached.ips.iter().map(|ip| ip.address.addr()).collect();
    Ok(PodFact::Network(NetworkFact { ips }))
}

/// DEL comes before the netns goes: without one, bridge leaves its masquerade rules behind. After
/// a reboot, and when the netns is gone, the cached result is what DEL works from.
pub(super) async fn release(context: &Context) -> Result<()> {
    if context.record.spec.spec.namespaces.network == PodOrNode::Node {
        return Ok(());
    }
    let network = context.network();
    put_back(context, &network).await;
    match attachment(context) {
        Ok(attachment) => Ok(network.detach(&attachment).await?),
        // Asked for so badly that it was never attached; or by an earlier version, so the cache knows.
        Err(_) => Ok(network.detach_cached(context.record.id.as_str()).await?),
    }
}

/// A stack of the pod's own takes the addresses off the device, and plugins find by them what they
/// have to take down. What cannot be put back is no reason not to call them.
async fn put_back(context: &Context, network: &Network) {
    let own = |handler: &Handler| handler.facts.guest_network == Some(GuestNetwork::Own);
    let netns = context.layout().netns(&context.record.id);
    if context.rebooted() || !context.handler().is_ok_and(own) || !netns.exists() {
        return;
    }
    let attached = network.attached(context.record.id.as_str()).await.ok().flatten();
    let addresses: Vec<_> =
        attached.unwrap_or_default().ips.into_iter().map(|ip| ip.address).collect();
    let put = blocking(move || {
        let add = || {
            namespace::enter(namespace::open(&netns)?, Namespace::Net)?;
            addresses.iter().try_for_each(|address| {
                netdev::add_address(berth_cni::IF_NAME, address.addr(), address.prefix_len())
            })
        };
        // The thread that enters is of no use for anything else.
        match std::thread::scope(|scope| scope.spawn(add).join()) {
            Ok(added) => Ok(added?),
            Err(_) => failed(Kind::Broken, "the thread in the network namespace panicked"),
        }
    });
    if let Err(Trouble::Failed(why)) = put.await {
        let (pod, error) = (&context.record.id, why.message);
        tracing::warn!(%pod, error, "the pod's addresses cannot be put back on its device");
    }
}

fn attachment(context: &Context) -> Result<Attachment> {
    let (id, spec) = (&context.record.id, &context.record.spec.spec);
    let annotations = spec.annotations.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let bandwidth = match Bandwidth::from_annotations(annotations) {
        Ok(bandwidth) => bandwidth,
        Err(why) => return failed(Kind::Invalid, why.to_string()),
    };
    Ok(Attachment {
        container_id: id.to_string(),
        netns: context.layout().netns(id),
        pod: PodIdentity {
            namespace: spec.name.namespace.clone(),
            name: spec.name.name.clone(),
            uid: spec.name.uid.clone(),
        },
        port_mappings: ports(spec)?,
        bandwidth,
        dns: spec.dns.as_ref().map(|dns| berth_cni::Dns {
            servers: dns.servers.clone(),
            searches: dns.searches.clone(),
            options: dns.options.clone(),
        }),
        cgroup_path: context.record.cgroup.held().map(|c| c.path.clone()),
        ip_ranges: Vec::new(),
        aliases: Vec::new(),
    })
}

fn ports(spec: &SandboxSpec) -> Result<Vec<berth_cni::PortMapping>> {
    let mut ports = Vec::new();
    for port in &spec.port_mappings {
        let host_ip = match port.host_ip.as_str() {
            "" => None,
            text => match text.parse() {
                Ok(ip) => Some(ip),
                Err(_) => {
                    let text = format!("port_mappings: host_ip {text:?} is not an IP address");
                    return failed(Kind::Invalid, text);
                }
            },
        };
        ports.push(berth_cni::PortMapping {
            host_port: port.host_port,
            container_port: port.container_port,
            protocol: match port.protocol {
                Protocol::Tcp => berth_cni::Protocol::Tcp,
                Protocol::Udp => berth_cni::Protocol::Udp,
                Protocol::Sctp => berth_cni::Protocol::Sctp,
            },
            host_ip,
        });
    }
    Ok(ports)
}
