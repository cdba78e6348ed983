//! Figures of pods.

use std::sync::Arc;

use berth_lifecycle::{GuestUsage, PodView};
use berth_proto::cri::v1 as cri;

use super::container::{container_stats, is_alive};
use super::figures::{Figures, number};
use super::network::{self, Interface, Place};
use crate::{Cri, describe};

/// The interface that CNI attaches to the pod's own network.
const DEFAULT_INTERFACE: &str = "eth0";

/// Reads the figures of these pods and all their containers.
pub(crate) fn pod_stats(
    cri: &Cri,
    pods: &[Arc<PodView>],
    guests: &GuestUsage,
) -> Vec<cri::PodSandboxStats> {
    let networks = network::read(pods.iter().map(|pod| place(pod)).collect());
    pods.iter().zip(networks).map(|(pod, network)| one(cri, pod, network, guests)).collect()
}

/// Where the counters of a pod's network are; none on the node's network.
pub(crate) fn place(pod: &PodView) -> Option<Place> {
    let path = pod.netns().filter(|_| pod.record.ready())?.to_owned();
    Some(Place { path, pids: pod.containers.iter().filter_map(|c| c.pid()).collect() })
}

fn one(
    cri: &Cri,
    pod: &PodView,
    network: Option<Vec<Interface>>,
    guests: &GuestUsage,
) -> cri::PodSandboxStats {
    let cgroup = pod.cgroup().filter(|_| pod.record.ready());
    let figures = Figures::read_pod(&cri.parts.cgroups, cgroup);
    let id = pod.id().as_str();
    let rate = figures
        .cpu_time()
        .and_then(|time| cri.samples.rate(id, figures.at, time, Some(pod.record.created_at)));
    let spec = pod.spec();
    // What does not run is no part of what the pod uses now.
    let alive = pod.containers.iter().filter(|container| is_alive(container));
    cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: id.to_owned(),
            metadata: Some(describe::pod_metadata(&spec.name)),
            labels: spec.labels.clone(),
            annotations: spec.annotations.clone(),
        }),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: Some(figures.cpu(rate)),
            memory: Some(figures.memory()),
            network: network.map(|interfaces| usage(figures.at, interfaces)),
            process: Some(figures.processes()),
            containers: alive.map(|container| container_stats(cri, container, guests)).collect(),
            io: Some(figures.io()),
        }),
        windows: None,
    }
}

fn usage(timestamp: i64, interfaces: Vec<Interface>) -> cri::NetworkUsage {
    let (mut default, others): (Vec<_>, Vec<_>) = interfaces
        .into_iter()
        .filter(|interface| interface.name != "lo")
        .map(|interface| cri::NetworkInterfaceUsage {
            name: interface.name,
            rx_bytes: Some(number(interface.received.bytes)),
            rx_errors: Some(number(interface.received.errors)),
            tx_bytes: Some(number(interface.sent.bytes)),
            tx_errors: Some(number(interface.sent.errors)),
        })
        .partition(|interface| interface.name == DEFAULT_INTERFACE);
    cri::NetworkUsage { timestamp, default_interface: default.pop(), interfaces: others }
}
