//! Admission: the one place where a CRI message becomes something to act on.
//!
//! Every rule is checked here, before anything is saved or made. A refusal names the field, the
//! value it had and what to send instead, because its reader sees nothing but that text.

mod check;
mod container;
mod digest;
mod mounts;
mod namespaces;
mod ports;
mod resources;
mod sandbox;
mod security;
mod signal;
mod sysctls;

use std::fmt;

use crate::error::clip;

pub use container::{admit_container, container_digest};
pub use resources::admit_resources;
pub use sandbox::admit_sandbox;
pub(crate) use signal::{from_image as signal_from_image, to_cri as signal_to_cri};

/// What admission has to know of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The cgroup driver is systemd: a pod's cgroup is then a `.slice`.
    pub systemd_cgroups: bool,
    /// The kernel and the OCI runtime can make a mount read-only with all that is below it.
    pub recursive_read_only: bool,
    /// A pod can be given a user namespace.
    pub user_namespaces: bool,
}

/// How much of a field's name, which may hold a key of a map, and of its value is shown.
const LONGEST_SHOWN: usize = 300;

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}: {advice}")]
pub struct Refusal {
    field: String,
    value: String,
    advice: String,
}

impl Refusal {
    pub(crate) fn new(
        field: impl Into<String>,
        value: impl fmt::Debug,
        advice: impl Into<String>,
    ) -> Self {
        let value = clip(&format!("{value:?}"), LONGEST_SHOWN);
        Self { field: clip(&field.into(), LONGEST_SHOWN), value, advice: advice.into() }
    }

    pub(crate) fn missing(field: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { field: field.into(), value: "missing".to_owned(), advice: advice.into() }
    }

    /// The field that is refused, as a path from the message's root.
    pub fn field(&self) -> &str {
        &self.field
    }
}

#[cfg(test)]
mod tests;
