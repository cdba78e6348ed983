//! From a pod and an image to the spec of an OCI bundle.
//!
//! Pure functions: what is on the node comes in as facts ([`facts`]), what goes out is data
//! ([`spec`]) or text ([`files`]). This crate asks no file system and knows no runtime by name.
//! The same input always gives the same bytes.
//!
//! ```text
//! ContainerInput ─┬─ capability ─┬─▶ process
//!                 │              └─▶ seccomp
//!                 ├─ mounts, devices, namespaces, resources, annotations
//!                 └─▶ container_spec ─▶ Spec ─▶ to_json ─▶ config.json
//! ```

mod annotations;
mod base;
mod capability;
pub mod cdi;
mod cgroup_path;
mod container;
mod devices;
mod error;
pub mod facts;
pub mod files;
mod mounts;
mod namespaces;
mod paths;
mod process;
mod resources;
mod restored;
mod sandbox;
mod seccomp;
pub mod spec;
mod syscalls;
pub mod user;

pub use base::{over_base, with_limits};
pub use capability::CapabilitySet;
pub use cgroup_path::{SCOPE_PREFIX, cgroups_path};
pub use container::container_spec;
pub use error::Error;
pub use mounts::image_volumes;
pub use process::{exec_process, is_loaded, mount_label};
pub use resources::{linux_resources, oom_score_adj, update_resources};
pub use restored::check_restored;
pub use sandbox::{SandboxTask, sandbox_spec};
pub use seccomp::{default_profile, parse_profile};
pub use spec::Spec;

/// The version of the OCI runtime specification that bundles follow. Runtimes take any 1.x and
/// ignore fields that they do not know; what must not be ignored is asked of [`facts`] first.
const OCI_VERSION: &str = "1.1.0";

/// The text of `config.json`.
///
/// # Errors
/// Never for a spec that this crate made: every field has a JSON form.
pub fn to_json(spec: &Spec) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(spec).map_err(|e| Error::Missing(format!("the spec has no JSON form: {e}")))
}

/// Reads a `config.json` back.
///
/// # Errors
/// When the text is not a spec.
pub fn from_json(text: &[u8]) -> Result<Spec, Error> {
    serde_json::from_slice(text)
        .map_err(|e| Error::invalid("config.json", format!("is not a spec: {e}")))
}
