//! The systemd cgroup driver (systemd.slice(5), systemd.scope(5), systemd.resource-control(5)).
//!
//! A pod is a slice, which we ask systemd for over D-Bus; a container is a scope in it, which the OCI
//! runtime asks for, since a scope begins with the process that it is about. Names and properties are
//! pure functions; `bus` talks to systemd.

mod bus;
mod wire;

pub use bus::{set, start_slice, stop};

use std::collections::BTreeMap;

use crate::convert::weight;
use crate::error::{Error, Result};
use crate::resources::Resources;
use crate::{CgroupPath, Version};

/// Where a scope or slice lies in the hierarchy: `a-b.slice` is in `a.slice`, so
/// `kubepods-burstable.slice` becomes `/kubepods.slice/kubepods-burstable.slice`.
///
/// # Errors
/// [`Error::Path`] for what is no name of a slice; `-.slice` is the root.
pub fn slice_path(slice: &str) -> Result<CgroupPath> {
    let refuse = |reason| Error::Path { name: slice.to_owned(), reason };
    let stem = slice.strip_suffix(".slice").ok_or_else(|| refuse("must end in .slice"))?;
    if stem.is_empty() || stem.contains('/') || stem.split('-').any(str::is_empty) {
        return Err(refuse("is no name of a slice (an empty part between dashes, or a slash)"));
    }
    let mut path = String::new();
    let dashes = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    for end in dashes {
        path.push('/');
        path.push_str(&stem[..end]);
        path.push_str(".slice");
    }
    CgroupPath::parse(&path)
}

/// The scope of a container: `<prefix>-<id>.scope`.
pub fn scope_name(prefix: &str, id: &str) -> String {
    if prefix.is_empty() { format!("{id}.scope") } else { format!("{prefix}-{id}.scope") }
}

/// The `cgroupsPath` of an OCI bundle: `<slice>:<prefix>:<id>`, where the slice is the last
/// component of the parent (`/kubepods.slice/kubepods-podX.slice` → `kubepods-podX.slice`).
///
/// # Errors
/// [`Error::Path`] if the parent does not end in a slice.
pub fn oci_path(parent: &str, prefix: &str, id: &str) -> Result<String> {
    let slice = parent.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    slice_path(slice)?;
    Ok(format!("{slice}:{prefix}:{id}"))
}

/// Where the container of [`oci_path`] lies in the hierarchy.
pub fn scope_path(parent: &str, prefix: &str, id: &str) -> Result<CgroupPath> {
    let slice = parent.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    slice_path(slice)?.child(&scope_name(prefix, id))
}

/// Where the container of an OCI bundle lies that names this cgroup: a path, or systemd's
/// `slice:prefix:id`.
///
/// # Errors
/// [`Error::Path`] for what is neither.
pub fn of_bundle(cgroups_path: &str) -> Result<CgroupPath> {
    let mut parts = cgroups_path.splitn(3, ':').filter(|_| !cgroups_path.starts_with('/'));
    match (parts.next(), parts.next(), parts.next()) {
        (Some(slice), Some(prefix), Some(id)) => scope_path(slice, prefix, id),
        _ => CgroupPath::parse(cgroups_path),
    }
}

/// The slice of a pod in a slice: `a.slice` has `a-podID.slice`.
///
/// # Errors
/// [`Error::Path`] if the parent is no slice.
pub fn pod_slice(parent: &str, pod: &str) -> Result<String> {
    slice_path(parent)?;
    Ok(format!("{}-pod{pod}.slice", parent.trim_end_matches(".slice")))
}

/// A property of a unit, as SetUnitProperties takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// A number (D-Bus type `t`); [`UNLIMITED`] stands for none.
    Number(&'static str, u64),
    /// A bit mask, lowest byte first (D-Bus type `ay`).
    Mask(&'static str, Vec<u8>),
    /// A yes or no (D-Bus type `b`).
    Flag(&'static str, bool),
    /// A text (D-Bus type `s`).
    Text(&'static str, String),
}

/// "infinity" of systemd's numbers.
pub const UNLIMITED: u64 = u64::MAX;

/// The properties that stand for these limits. Huge pages and unified files have none: they are
/// written to the cgroup directly.
///
/// # Errors
/// [`Error::Path`] for a list of processors or memory nodes that does not parse.
pub fn properties(version: Version, resources: &Resources) -> Result<Vec<Property>> {
    let mut out = Vec::new();
    let number = |value: i64| u64::try_from(value).unwrap_or(UNLIMITED);
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares > 0) {
        out.push(match version {
            Version::V1 => Property::Number("CPUShares", shares),
            Version::V2 => Property::Number("CPUWeight", weight(shares).unwrap_or(1)),
        });
    }
    if let Some(period) = resources.cpu_period {
        out.push(Property::Number("CPUQuotaPeriodUSec", period));
    }
    if let Some(quota) = resources.cpu_quota {
        out.push(Property::Number("CPUQuotaPerSecUSec", quota_per_second(quota, resources)));
    }
    if let Some(limit) = resources.memory_limit {
        let name = if version == Version::V1 { "MemoryLimit" } else { "MemoryMax" };
        out.push(Property::Number(name, number(limit)));
    }
    if let (Version::V2, Some(both)) = (version, resources.memory_swap_limit) {
        let memory = resources.memory_limit.and_then(|limit| u64::try_from(limit).ok());
        let swap = match (u64::try_from(both), memory) {
            (Ok(both), Some(memory)) => both.saturating_sub(memory),
            (Ok(_), None) | (Err(_), _) => UNLIMITED,
        };
        out.push(Property::Number("MemorySwapMax", swap));
    }
    if let Some(limit) = resources.pids_limit {
        let limit = if limit > 0 { number(limit) } else { UNLIMITED };
        out.push(Property::Number("TasksMax", limit));
    }
    if version == Version::V2 {
        if let Some(cpus) = &resources.cpuset_cpus {
            out.push(Property::Mask("AllowedCPUs", mask(cpus)?));
        }
        if let Some(mems) = &resources.cpuset_mems {
            out.push(Property::Mask("AllowedMemoryNodes", mask(mems)?));
        }
    }
    Ok(out)
}

/// The properties that stand for files of v2 with these values; files without one are left out. What
/// systemd is not told of it writes over the next time that it has something to write.
pub fn of_files(unified: &BTreeMap<String, String>) -> Vec<Property> {
    let property = |(file, value): (&String, &String)| {
        let name = match file.as_str() {
            "memory.min" => "MemoryMin",
            "memory.low" => "MemoryLow",
            "memory.high" => "MemoryHigh",
            "memory.max" => "MemoryMax",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            "cpu.weight" => "CPUWeight",
            _ => return None,
        };
        let number = if value == "max" { Some(UNLIMITED) } else { value.trim().parse().ok() };
        number.map(|number| Property::Number(name, number))
    };
    unified.iter().filter_map(property).collect()
}

/// systemd keeps the quota as microseconds per second, and hands whole percents to the kernel:
/// rounded up to 10 ms, so that it never gives less than was asked for.
fn quota_per_second(quota: i64, resources: &Resources) -> u64 {
    let Ok(quota @ 1..) = u64::try_from(quota) else { return UNLIMITED };
    let period = resources.cpu_period.filter(|period| *period > 0).unwrap_or(100_000);
    let per_second = quota.saturating_mul(1_000_000) / period;
    per_second.div_ceil(10_000).saturating_mul(10_000)
}

/// `0-2,8` as bits, lowest byte first.
fn mask(list: &str) -> Result<Vec<u8>> {
    let refuse = || Error::Path { name: list.to_owned(), reason: "is no list such as 0-3,8" };
    let mut out = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.parse().map_err(|_| refuse())?;
        let last: usize = last.parse().map_err(|_| refuse())?;
        // Far above any machine; keeps a typing error from asking for gigabytes.
        if first > last || last > 1 << 16 {
            return Err(refuse());
        }
        for bit in first..=last {
            if out.len() <= bit / 8 {
                out.resize(bit / 8 + 1, 0);
            }
            out[bit / 8] |= 1 << (bit % 8);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_nest_by_their_dashes() {
        for (slice, path) in [
            ("kubepods.slice", "/kubepods.slice"),
            ("kubepods-burstable.slice", "/kubepods.slice/kubepods-burstable.slice"),
            (
                "kubepods-burstable-pod1_2.slice",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
            ),
        ] {
            assert_eq!(slice_path(slice).unwrap().as_str(), path);
        }
        for slice in ["", ".slice", "-.slice", "a", "a--b.slice", "a/b.slice", "-a.slice"] {
            assert!(slice_path(slice).is_err(), "{slice:?}");
        }
    }

    #[test]
    fn a_container_is_a_scope_in_the_last_slice() {
        let parent = "/kubepods.slice/kubepods-podX.slice";
        assert_eq!(oci_path(parent, "berth", "c1").unwrap(), "kubepods-podX.slice:berth:c1");
        assert_eq!(
            scope_path(parent, "berth", "c1").unwrap().as_str(),
            "/kubepods.slice/kubepods-podX.slice/berth-c1.scope"
        );
        assert!(oci_path("/kubepods/podX", "berth", "c1").is_err());
        let own = of_bundle("kubepods-podX.slice:berth:c1").unwrap();
        assert_eq!(own.as_str(), "/kubepods.slice/kubepods-podX.slice/berth-c1.scope");
        assert_eq!(of_bundle("/kubepods/podX/c1").unwrap().as_str(), "/kubepods/podX/c1");
        assert_eq!(of_bundle("/a:b:c").unwrap().as_str(), "/a:b:c");
        assert!(of_bundle("kubepods:berth:c1").is_err() && of_bundle("").is_err());
        assert_eq!(pod_slice("berth.slice", "0a").unwrap(), "berth-pod0a.slice");
        assert!(pod_slice("berth", "0a").is_err());
    }

    #[test]
    fn properties_of_both_generations() {
        let resources = Resources {
            cpu_shares: Some(1024),
            cpu_quota: Some(15_500),
            cpu_period: Some(100_000),
            cpuset_cpus: Some("0-2,9".into()),
            memory_limit: Some(1 << 20),
            memory_swap_limit: Some(3 << 20),
            pids_limit: Some(-1),
            ..Resources::default()
        };
        use Property::{Mask, Number};
        assert_eq!(
            properties(Version::V2, &resources).unwrap(),
            [
                Number("CPUWeight", 100),
                Number("CPUQuotaPeriodUSec", 100_000),
                Number("CPUQuotaPerSecUSec", 160_000),
                Number("MemoryMax", 1 << 20),
                Number("MemorySwapMax", 2 << 20),
                Number("TasksMax", UNLIMITED),
                Mask("AllowedCPUs", vec![0b111, 0b10]),
            ]
        );
        assert_eq!(
            properties(Version::V1, &resources).unwrap(),
            [
                Number("CPUShares", 1024),
                Number("CPUQuotaPeriodUSec", 100_000),
                Number("CPUQuotaPerSecUSec", 160_000),
                Number("MemoryLimit", 1 << 20),
                Number("TasksMax", UNLIMITED),
            ]
        );
    }

    #[test]
    fn files_that_systemd_knows_are_properties_too() {
        let files = [("memory.high", "5"), ("memory.low", "max"), ("memory.oom.group", "1")];
        let files = files.map(|(file, value)| (file.to_owned(), value.to_owned()));
        use Property::Number;
        let known = [Number("MemoryHigh", 5), Number("MemoryLow", UNLIMITED)];
        assert_eq!(of_files(&files.into()), known);
        let wrong = [("memory.high".to_owned(), "much".to_owned())];
        assert_eq!(of_files(&wrong.into()), [], "the kernel's to refuse");
    }

    #[test]
    fn nonsense_lists_are_refused() {
        for list in ["a", "3-1", "0-", "-1", "99999999"] {
            assert!(mask(list).is_err(), "{list:?}");
        }
        assert_eq!(mask("").unwrap(), Vec::<u8>::new());
    }
}
