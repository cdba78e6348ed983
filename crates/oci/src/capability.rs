//! Capability names and sets, and which of them a container gets.

use berth_pod::spec::{ContainerSpec, Security};

use crate::error::Error;
use crate::spec::Capabilities;

/// Names by number, without `CAP_` (include/uapi/linux/capability.h, kernel 6.18).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has when nothing is said.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities: the bits of `CapBnd` in `/proc/PID/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// The set with these bits. Bits that have no name yet are left out: no spec can carry them.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << NAMES.len()) - 1))
    }

    /// Every capability that has a name.
    pub fn all() -> Self {
        Self::from_bits(u64::MAX)
    }

    /// What a container has when nothing is said.
    pub fn defaults() -> Self {
        DEFAULT.iter().filter_map(|name| number(name)).fold(Self(0), Self::with)
    }

    /// Does the set have this one, named with or without `CAP_`.
    pub fn has(self, name: &str) -> bool {
        number(name).is_some_and(|n| self.0 & (1 << n) != 0)
    }

    /// The names with `CAP_`, by number.
    pub fn names(self) -> Vec<String> {
        let named = NAMES.iter().enumerate();
        named
            .filter(|(n, _)| self.0 & (1 << n) != 0)
            .map(|(_, name)| format!("CAP_{name}"))
            .collect()
    }

    fn with(self, number: usize) -> Self {
        Self(self.0 | 1 << number)
    }

    fn without(self, number: usize) -> Self {
        Self(self.0 & !(1 << number))
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

fn number(name: &str) -> Option<usize> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == bare)
}

/// The capabilities of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Granted {
    /// Bounding, permitted and effective.
    pub(crate) bounding: CapabilitySet,
    /// Inheritable and ambient.
    pub(crate) ambient: CapabilitySet,
}

impl Granted {
    /// What `spec` asks for, on a node whose daemon has `own`.
    ///
    /// `ALL` comes first on both sides, then single additions, then single drops: a drop wins.
    /// A program of a user other than root keeps only the ambient ones at its exec
    /// (capabilities(7)), which is what `add_ambient_capabilities` is for.
    pub(crate) fn decide(spec: &ContainerSpec, own: CapabilitySet) -> Result<Self, Error> {
        let security = &spec.security;
        if security.privileged {
            let ambient = asked(&security.add_ambient_capabilities, AMBIENT, own)?;
            return Ok(Self { bounding: own, ambient });
        }
        let mut bounding = CapabilitySet::defaults().and(own);
        if names_all(&security.add_capabilities) {
            bounding = own;
        }
        if names_all(&security.drop_capabilities) {
            bounding = CapabilitySet::default();
        }
        bounding = bounding.or(singly(&security.add_capabilities, ADD, own)?);
        let mut ambient = asked(&security.add_ambient_capabilities, AMBIENT, own)?;
        bounding = bounding.or(ambient);
        for number in dropped(security)? {
            bounding = bounding.without(number);
            ambient = ambient.without(number);
        }
        Ok(Self { bounding, ambient })
    }

    /// As the spec has them.
    pub(crate) fn to_spec(self) -> Capabilities {
        let main = self.bounding.names();
        let ambient = self.ambient.names();
        Capabilities {
            bounding: main.clone(),
            effective: main.clone(),
            permitted: main,
            inheritable: ambient.clone(),
            ambient,
        }
    }
}

const ADD: &str = "capabilities.add_capabilities";
const AMBIENT: &str = "capabilities.add_ambient_capabilities";
const DROP: &str = "capabilities.drop_capabilities";

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL")
}

fn names_all(list: &[String]) -> bool {
    list.iter().any(|name| is_all(name))
}

/// The whole list, where `ALL` stands for what the daemon has.
fn asked(list: &[String], field: &str, own: CapabilitySet) -> Result<CapabilitySet, Error> {
    let every = if names_all(list) { own } else { CapabilitySet::default() };
    Ok(every.or(singly(list, field, own)?))
}

/// The members other than `ALL`; one that the daemon itself lacks cannot be given.
fn singly(list: &[String], field: &str, own: CapabilitySet) -> Result<CapabilitySet, Error> {
    let mut set = CapabilitySet::default();
    for name in list.iter().filter(|name| !is_all(name)) {
        let number = number(name).ok_or_else(|| unknown(field, name))?;
        if !own.has(name) {
            return Err(Error::unsupported(
                field,
                format!("{name} is not in the daemon's own bounding set; give it to Berth first"),
            ));
        }
        set = set.with(number);
    }
    Ok(set)
}

/// Single drops. A name that nobody knows is refused: a typing error must not leave a capability.
fn dropped(security: &Security) -> Result<Vec<usize>, Error> {
    let single = security.drop_capabilities.iter().filter(|name| !is_all(name));
    single.map(|name| number(name).ok_or_else(|| unknown(DROP, name))).collect()
}

fn unknown(field: &str, name: &str) -> Error {
    Error::invalid(field, format!("{name:?} is not a capability; see capabilities(7)"))
}
