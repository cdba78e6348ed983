//! Limits.

use std::collections::BTreeMap;

use berth_pod::spec::{Resources, StringMap};
use berth_proto::cri::v1 as cri;

use super::{Refusal, check};

/// Parses limits; `at` is where they stand in the message, for refusals.
///
/// # Errors
/// A refusal that names the field.
pub fn admit_resources(
    at: &str,
    given: &cri::LinuxContainerResources,
) -> Result<Resources, Refusal> {
    let field = |name: &str| format!("{at}.{name}");
    // The kernel's own bounds: a period of 1 ms to 1 s, a quota of at least 1 ms.
    if given.cpu_period != 0 {
        check::within(&field("cpu_period"), given.cpu_period, 1_000..=1_000_000)?;
    }
    if (1..1_000).contains(&given.cpu_quota) {
        let advice = "give at least 1000 (µs), 0 for none, or -1 for unlimited";
        return Err(Refusal::new(field("cpu_quota"), given.cpu_quota, advice));
    }
    check::within(&field("cpu_shares"), given.cpu_shares, 0..=i64::MAX)?;
    check::within(&field("memory_limit_in_bytes"), given.memory_limit_in_bytes, -1..=i64::MAX)?;
    check::within(
        &field("memory_swap_limit_in_bytes"),
        given.memory_swap_limit_in_bytes,
        -1..=i64::MAX,
    )?;
    let (memory, with_swap) = (given.memory_limit_in_bytes, given.memory_swap_limit_in_bytes);
    if with_swap > 0 && (with_swap < memory || memory == -1) {
        let advice = format!("it counts memory and swap together: give at least {memory}");
        return Err(Refusal::new(field("memory_swap_limit_in_bytes"), with_swap, advice));
    }
    check::within(&field("oom_score_adj"), given.oom_score_adj, -1000..=1000)?;
    Ok(Resources {
        cpu_period: given.cpu_period,
        cpu_quota: given.cpu_quota,
        cpu_shares: given.cpu_shares,
        memory_limit: given.memory_limit_in_bytes,
        memory_swap_limit: given.memory_swap_limit_in_bytes,
        oom_score_adj: given.oom_score_adj,
        cpuset_cpus: list(&field("cpuset_cpus"), &given.cpuset_cpus)?,
        cpuset_mems: list(&field("cpuset_mems"), &given.cpuset_mems)?,
        hugepages: hugepages(&field("hugepage_limits"), &given.hugepage_limits)?,
        unified: unified(&field("unified"), &given.unified)?,
    })
}

/// The kernel's list format: `0-3,7`.
fn list(field: &str, given: &str) -> Result<String, Refusal> {
    let number = |text: &str| text.parse::<u32>().ok();
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(a, b)| a <= b),
        None => number(part).is_some(),
    };
    if given.is_empty() || given.split(',').all(range) {
        return Ok(given.to_owned());
    }
    Err(Refusal::new(field, given, "give a list such as 0-3,7"))
}

fn hugepages(field: &str, given: &[cri::HugepageLimit]) -> Result<BTreeMap<String, u64>, Refusal> {
    let mut limits = BTreeMap::new();
    for (i, one) in given.iter().enumerate() {
        let number = ["KB", "MB", "GB"].iter().find_map(|unit| one.page_size.strip_suffix(unit));
        if !number.is_some_and(|n| n.parse::<u64>().is_ok_and(|n| n > 0)) {
            let advice = "give a page size such as 2MB or 1GB";
            return Err(Refusal::new(format!("{field}[{i}].page_size"), &one.page_size, advice));
        }
        limits.insert(one.page_size.clone(), one.limit);
    }
    Ok(limits)
}

/// cgroup v2 files, by name: nothing that leads out of the container's own cgroup.
fn unified(field: &str, given: &StringMap) -> Result<StringMap, Refusal> {
    for (name, value) in given {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !name.contains('.') || name.starts_with('.') || !name.chars().all(plain) {
            let advice = "name a file of cgroup v2, such as memory.high";
            return Err(Refusal::new(format!("{field}[{name:?}]"), value, advice));
        }
        if name.starts_with("cgroup.") {
            let advice = "the cgroup itself belongs to Berth: set controllers' files only";
            return Err(Refusal::new(format!("{field}[{name:?}]"), value, advice));
        }
    }
    Ok(given.clone())
}
