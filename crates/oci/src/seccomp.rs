//! System call filters: the default profile, and the ones that come as a file.

use berth_pod::spec::Profile;
use serde_json::Value;

use crate::capability::CapabilitySet;
use crate::error::Error;
use crate::facts::{Arch, ContainerInput, NodeFacts};
use crate::spec::{Seccomp, SyscallArg, SyscallRule};
use crate::syscalls;

const ALLOW: &str = "SCMP_ACT_ALLOW";
const ERRNO: &str = "SCMP_ACT_ERRNO";
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const FIELD: &str = "security_context.seccomp";

/// The filter of a container. Privileged ones have none, and neither has one that says nothing.
pub(crate) fn filter(
    input: &ContainerInput<'_>,
    bounding: CapabilitySet,
) -> Result<Option<Seccomp>, Error> {
    let (node, security) = (input.pod.node, &input.spec.security);
    if security.privileged || matches!(security.seccomp, Profile::Unset | Profile::Unconfined) {
        return Ok(None);
    }
    if !node.seccomp {
        let text = "the kernel has no seccomp filters; ask for Unconfined, or use another kernel";
        return Err(Error::unsupported(FIELD, text));
    }
    if matches!(security.seccomp, Profile::RuntimeDefault) {
        return Ok(Some(default_profile(node, bounding)));
    }
    match input.seccomp {
        Some(profile) => Ok(Some(profile.clone())),
        None => Err(Error::Missing("the localhost seccomp profile was not read".to_owned())),
    }
}

/// The `RuntimeDefault` profile: everything that is not named gets EPERM.
pub fn default_profile(node: &NodeFacts, bounding: CapabilitySet) -> Seccomp {
    let mut names = syscalls::ALWAYS.to_vec();
    if node.kernel >= (4, 8) {
        names.extend(syscalls::SINCE_4_8);
    }
    names.extend(of_arch(node.arch));
    for (capability, calls) in syscalls::WITH_CAPABILITY {
        if bounding.has(capability) {
            names.extend(*calls);
        }
    }
    names.sort_unstable();
    names.dedup();
    let mut rules = vec![allow(&names, Vec::new())];
    rules.extend(sockets());
    for value in syscalls::PERSONALITIES {
        rules.push(allow(&["personality"], vec![arg("SCMP_CMP_EQ", value)]));
    }
    if !bounding.has("SYS_ADMIN") {
        rules.extend(clone_without_namespaces(node.arch));
    }
    Seccomp {
        default_action: ERRNO.to_owned(),
        default_errno_ret: Some(EPERM),
        architectures: architectures(node.arch).iter().map(|&a| a.to_owned()).collect(),
        syscalls: rules,
        ..Seccomp::default()
    }
}

/// Every address family but AF_ALG (38), whose kernel side is rarely used and often broken, and
/// AF_VSOCK (40), which reaches the hypervisor past the network namespace.
fn sockets() -> [SyscallRule; 3] {
    [("SCMP_CMP_LT", 38), ("SCMP_CMP_EQ", 39), ("SCMP_CMP_GT", 40)]
        .map(|(op, value)| allow(&["socket"], vec![arg(op, value)]))
}

/// `clone` without namespace flags; `clone3` has them behind a pointer that a filter cannot read,
/// so it answers ENOSYS and the C library falls back to `clone`.
fn clone_without_namespaces(arch: Arch) -> [SyscallRule; 2] {
    let index = u32::from(arch == Arch::S390x);
    let flags = SyscallArg {
        index,
        value: syscalls::CLONE_NAMESPACES,
        value_two: 0,
        op: "SCMP_CMP_MASKED_EQ".to_owned(),
    };
    let refused = SyscallRule {
        names: vec!["clone3".to_owned()],
        action: ERRNO.to_owned(),
        errno_ret: Some(ENOSYS),
        args: Vec::new(),
    };
    [allow(&["clone"], vec![flags]), refused]
}

fn allow(names: &[&str], args: Vec<SyscallArg>) -> SyscallRule {
    SyscallRule {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        action: ALLOW.to_owned(),
        errno_ret: None,
        args,
    }
}

fn arg(op: &str, value: u64) -> SyscallArg {
    SyscallArg { index: 0, value, value_two: 0, op: op.to_owned() }
}

/// The native architecture and its 32-bit companions: calls of any other one are killed.
fn architectures(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::X86 => &["SCMP_ARCH_X86"],
        Arch::Amd64 => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        Arch::Arm => &["SCMP_ARCH_ARM"],
        Arch::Arm64 => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        Arch::Ppc64le => &["SCMP_ARCH_PPC64LE"],
        Arch::Riscv64 => &["SCMP_ARCH_RISCV64"],
        Arch::S390x => &["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
        Arch::Loongarch64 => &["SCMP_ARCH_LOONGARCH64"],
    }
}

fn of_arch(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::X86 => &["modify_ldt"],
        Arch::Amd64 => &["arch_prctl", "modify_ldt"],
        Arch::Arm | Arch::Arm64 => &[
            "arm_fadvise64_64",
            "arm_sync_file_range",
            "breakpoint",
            "cacheflush",
            "set_tls",
            "sync_file_range2",
        ],
        Arch::Ppc64le => &["swapcontext", "sync_file_range2"],
        Arch::Riscv64 => &["riscv_flush_icache", "riscv_hwprobe"],
        Arch::S390x => &["s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr"],
        Arch::Loongarch64 => &[],
    }
}

/// Reads a profile file: `linux.seccomp` of the OCI specification, as JSON.
///
/// Docker's conditional form (`includes`, `archMap`, …) is refused: whoever skipped a condition
/// would allow what the author allowed only under it.
///
/// # Errors
/// When the text is not JSON, not of that form, or carries Docker's conditions.
pub fn parse_profile(path: &str, text: &[u8]) -> Result<Seccomp, Error> {
    let wrong = |what: String| Error::invalid(FIELD, format!("profile {path}: {what}"));
    let mut value: Value =
        serde_json::from_slice(text).map_err(|e| wrong(format!("not JSON: {e}")))?;
    strip_nulls(&mut value);
    let rules = value.get_mut("syscalls").and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(name) = rule.remove("name") {
            rule.entry("names").or_insert_with(|| Value::Array(vec![name]));
        }
    }
    if let Some(key) = condition(&value) {
        let advice = "is Docker's extension, not part of the OCI form; resolve it first";
        return Err(wrong(format!("{key:?} {advice}")));
    }
    serde_json::from_value(value).map_err(|e| wrong(e.to_string()))
}

/// Go writes an absent list as `null`.
fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(strip_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn condition(profile: &Value) -> Option<&'static str> {
    let full = |value: Option<&Value>| match value {
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        other => other.is_some(),
    };
    if full(profile.get("archMap")) {
        return Some("archMap");
    }
    let rules = profile.get("syscalls").and_then(Value::as_array);
    rules
        .into_iter()
        .flatten()
        .find_map(|rule| ["includes", "excludes"].into_iter().find(|key| full(rule.get(key))))
}
