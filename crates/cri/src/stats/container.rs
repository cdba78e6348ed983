//! Figures of one container.

use std::collections::HashSet;

use berth_lifecycle::{ContainerState, ContainerView, GuestUsage};
use berth_proto::cri::v1 as cri;

use super::figures::{Figures, number};
use crate::{Cri, describe};

/// Reads a container's figures. One that is not running has attributes and a writable layer only.
pub(crate) fn container_stats(
    cri: &Cri,
    container: &ContainerView,
    guests: &GuestUsage,
) -> cri::ContainerStats {
    let cgroup = is_alive(container).then(|| container.cgroup()).flatten();
    let id = container.id().as_str();
    let figures = match guests.get(id) {
        Some(usage) => Figures::of(*usage),
        None => Figures::read(&cri.parts.cgroups, cgroup),
    };
    let rate = figures
        .cpu_time()
        .and_then(|time| cri.samples.rate(id, figures.at, time, container.record.started_at));
    let spec = container.spec();
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: id.to_owned(),
            metadata: Some(describe::metadata(container)),
            labels: spec.labels.clone(),
            annotations: spec.annotations.clone(),
        }),
        cpu: Some(figures.cpu(rate)),
        memory: Some(figures.memory()),
        writable_layer: Some(writable_layer(cri, id)),
        swap: figures.swap(),
        io: Some(figures.io()),
    }
}

/// Has it a cgroup to read?
pub(crate) fn is_alive(container: &ContainerView) -> bool {
    matches!(container.state, ContainerState::Running | ContainerState::Unknown)
}

/// The figure is measured in the background; until then there is none.
fn writable_layer(cri: &Cri, id: &str) -> cri::FilesystemUsage {
    let usage = cri.parts.images.usage(id);
    cri::FilesystemUsage {
        timestamp: describe::now(),
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: cri.layers.to_string() }),
        used_bytes: usage.map(|usage| number(usage.bytes)),
        inodes_used: usage.map(|usage| number(usage.inodes)),
    }
}

/// Drops the samples of pods and containers that are gone, when there are many of them.
pub(crate) fn forget_others(cri: &Cri) {
    let (containers, pods) = (cri.parts.node.containers(), cri.parts.node.sandboxes());
    if cri.samples.len() <= 2 * (containers.len() + pods.len()) {
        return;
    }
    let mut live: HashSet<&str> = containers.iter().map(|c| c.id().as_str()).collect();
    live.extend(pods.iter().map(|pod| pod.id().as_str()));
    cri.samples.retain(&live);
}
