//! Series of a container.

use berth_lifecycle::{ContainerView, GuestUsage, PodView};
use berth_pod::spec::Resources;
use berth_proto::cri::v1 as cri;

use super::devices::Disk;
use super::families as f;
use super::kernel::{self, Of, Reader};
use super::writer::Writer;
use crate::{Cri, describe};

const NS_PER_S: i64 = 1_000_000_000;

/// The series of a container that is alive.
pub(super) fn metrics(
    cri: &Cri,
    (pod, container): (&PodView, &ContainerView),
    (reader, disk): (&mut Reader, Option<&Disk>),
    guests: &GuestUsage,
) -> cri::ContainerMetrics {
    let id = container.id().as_str();
    let mut out = Writer::new(describe::now(), labels(pod, container));
    if let Some(usage) = guests.get(id) {
        kernel::guest(usage, &mut out);
    } else if let Some(cgroup) = container.cgroup().and_then(|path| cri.parts.cgroups.at(path).ok())
    {
        reader.read(&cgroup, Of::Container, &mut out);
        if let Some(pid) = container.pid() {
            kernel::limits(pid, &mut out);
        }
    }
    if let Some(disk) = disk {
        let used = cri.parts.images.usage(id).map_or(0, |usage| usage.bytes);
        let device = [disk.device.as_str()];
        out.put(&f::FS_USAGE, &device, used);
        out.put(&f::FS_LIMIT, &device, disk.bytes);
        out.put(&f::FS_INODES_FREE, &device, disk.inodes_free);
        out.put(&f::FS_INODES_TOTAL, &device, disk.inodes);
    }
    limits(&container.record.resources, &mut out);
    life(container.record.started_at, &mut out);
    cri::ContainerMetrics { container_id: id.to_owned(), metrics: out.done() }
}

fn labels(pod: &PodView, container: &ContainerView) -> [String; f::BASE.len()] {
    let (id, spec) = (container.id().to_string(), container.spec());
    let image = match spec.image.user_specified.as_str() {
        "" => &spec.image.reference,
        named => named,
    };
    let name = &pod.spec().name;
    let cgroup = container.cgroup().map_or_else(|| id.clone(), str::to_owned);
    let own = spec.name.name.clone();
    [cgroup, id, image.to_owned(), name.namespace.clone(), name.name.clone(), own]
}

/// When it began, and that it is there.
pub(super) fn life(started_at: Option<i64>, out: &mut Writer) {
    let seconds = |ns: i64| u64::try_from(ns / NS_PER_S).unwrap_or(0);
    if let Some(started_at) = started_at {
        out.set(&f::START_TIME, seconds(started_at));
    }
    out.set(&f::LAST_SEEN, seconds(out.at));
}

/// Limits as they stand. What is negative or absent limits nothing, which is 0.
fn limits(asked: &Resources, out: &mut Writer) {
    let or_none = |value: i64| u64::try_from(value).unwrap_or(0);
    out.set(&f::SPEC_CPU_PERIOD, or_none(asked.cpu_period));
    out.set(&f::SPEC_CPU_SHARES, or_none(asked.cpu_shares));
    if asked.cpu_quota > 0 {
        out.set(&f::SPEC_CPU_QUOTA, or_none(asked.cpu_quota));
    }
    out.set(&f::SPEC_MEMORY_LIMIT, or_none(asked.memory_limit));
    out.set(&f::SPEC_MEMORY_SWAP_LIMIT, or_none(asked.memory_swap_limit));
    let kept = asked.unified.get("memory.min").and_then(|text| text.parse().ok());
    out.set(&f::SPEC_MEMORY_RESERVATION, kept.unwrap_or(0));
}
