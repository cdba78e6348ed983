//! The start of gVisor's own network stack.
//!
//! runsc refuses it where it sees net.core.rmem_default, by which it means the node's own network
//! namespace; since some kernel before 6.18 that file is seen in every one. So runsc starts a
//! sandbox, which never is in the node's, where /proc/sys/net is empty.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use berth_sys::mounts::{self, Options};
use berth_sys::namespace::{self, Namespace};

use crate::error::{Error, Result};

/// The argument by which this program knows that it is to become another one in this way.
pub const VERB: &str = "netstack";

/// What must not be seen.
const SYSCTLS: &str = "/proc/sys/net";

/// Becomes `program`, in a mount namespace of its own where [`SYSCTLS`] is empty.
///
/// # Errors
/// The namespace, the mount or the exec fails; else it does not return.
pub fn become_program<A: AsRef<OsStr>>(
    program: &Path,
    args: &[A],
) -> Result<std::convert::Infallible> {
    namespace::unshare(&[Namespace::Mount])?;
    mounts::set_propagation("/", mounts::Propagation::Slave, true)?;
    mounts::mount_as("tmpfs", "none", SYSCTLS, &Options::parse(["ro"]))?;
    Err(Error::file("execute", program, std::process::Command::new(program).args(args).exec()))
}
