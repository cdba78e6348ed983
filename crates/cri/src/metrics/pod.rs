//! Series of pods: of each container that is alive, of the pod's cgroup and of its network.

use std::path::Path;
use std::sync::Arc;

use berth_cgroup::Cgroups;
use berth_lifecycle::{GuestUsage, PodView};
use berth_proto::cri::v1 as cri;

use super::container::{self, life};
use super::devices::{Devices, Disk};
use super::families::{self as f, Family};
use super::kernel::{Of, Reader};
use super::processes::Open;
use super::writer::Writer;
use crate::stats::network::{self, Interface, Traffic};
use crate::stats::{is_alive, place};
use crate::{Cri, describe};

/// Reads the series of these pods and of their containers. A pod of which nothing is alive has none
/// and is left out.
pub(crate) fn pod_metrics(
    cri: &Cri,
    pods: &[Arc<PodView>],
    guests: &GuestUsage,
) -> Vec<cri::PodSandboxMetrics> {
    let alive = |pod: &PodView| pod.record.ready() || pod.containers.iter().any(|c| is_alive(c));
    let pods: Vec<_> = pods.iter().filter(|pod| alive(pod)).collect();
    let networks = network::read(pods.iter().map(|pod| place(pod)).collect());
    let mut reader = Reader {
        devices: Devices::default(),
        hugepages: Cgroups::hugepage_sizes(),
        open: Open::default(),
    };
    let disk = Disk::of(Path::new(&*cri.layers), &mut reader.devices);
    let mut all = Vec::with_capacity(pods.len());
    for (pod, network) in pods.into_iter().zip(networks) {
        reader.open = Open::default();
        let of_container =
            |c: &_| container::metrics(cri, (pod, c), (&mut reader, disk.as_ref()), guests);
        let alive = pod.containers.iter().map(|c| &**c).filter(|container| is_alive(container));
        let container_metrics = alive.map(of_container).collect();
        let metrics = of_pod(cri, pod, network, &mut reader);
        let pod_sandbox_id = pod.id().to_string();
        all.push(cri::PodSandboxMetrics { pod_sandbox_id, metrics, container_metrics });
    }
    all
}

fn of_pod(
    cri: &Cri,
    pod: &PodView,
    network: Option<Vec<Interface>>,
    reader: &mut Reader,
) -> Vec<cri::Metric> {
    let cgroup = pod.cgroup().filter(|_| pod.record.ready());
    let (id, name) = (pod.id().to_string(), &pod.spec().name);
    let path = cgroup.map_or_else(|| id.clone(), str::to_owned);
    let labels =
        [path, id, String::new(), name.namespace.clone(), name.name.clone(), String::new()];
    let mut out = Writer::new(describe::now(), labels);
    if let Some(cgroup) = cgroup.and_then(|path| cri.parts.cgroups.at(path).ok()) {
        reader.read(&cgroup, Of::Pod, &mut out);
    }
    let own = |interface: &Interface| interface.name != "lo";
    for interface in network.into_iter().flatten().filter(own) {
        let put = |families: [&Family; 4], t: Traffic, out: &mut Writer| {
            for (family, value) in
                families.into_iter().zip([t.bytes, t.packets, t.errors, t.dropped])
            {
                out.put(family, &[&interface.name], value);
            }
        };
        let received = [&f::RX_BYTES, &f::RX_PACKETS, &f::RX_ERRORS, &f::RX_DROPPED];
        put(received, interface.received, &mut out);
        put(
            [&f::TX_BYTES, &f::TX_PACKETS, &f::TX_ERRORS, &f::TX_DROPPED],
            interface.sent,
            &mut out,
        );
    }
    life(Some(pod.record.created_at), &mut out);
    out.done()
}
