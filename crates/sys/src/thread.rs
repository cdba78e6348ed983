//! Properties of the calling thread or process that prctl(2) and /proc/self set.

use std::ffi::CString;

use crate::error::{Attempt, Error, Result};
use crate::signal::Signal;

/// Makes this process the one that orphans below it are handed to (Linux 3.4).
///
/// Afterwards it must reap children it did not start.
pub fn set_child_subreaper() -> Result<()> {
    // The kernel looks at the argument only as a truth value; rustix wants a pid for "on".
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .on_thing("set", "child subreaper")
}

/// Whether this process is a child subreaper.
pub fn is_child_subreaper() -> Result<bool> {
    rustix::process::child_subreaper().map(|pid| pid.is_some()).on_thing("read", "child subreaper")
}

/// Names the calling thread; the name of the main thread is what `ps` shows as the command.
/// The kernel cuts it to 15 bytes.
pub fn set_name(name: &str) -> Result<()> {
    let name = CString::new(name).map_err(|_| Error::Argument {
        what: "thread name",
        value: name.to_owned(),
        reason: "holds a NUL byte",
    })?;
    rustix::thread::set_name(&name).on_thing("set", "thread name")
}

/// The signal this process gets when the *thread* that made it ends; `None` for none.
pub fn set_parent_death_signal(signal: Option<Signal>) -> Result<()> {
    rustix::process::set_parent_process_death_signal(signal.map(Signal::raw))
        .on_thing("set", "parent death signal")
}

/// Sets `no_new_privs` for the calling thread and all it makes from now on.
pub fn set_no_new_privs() -> Result<()> {
    rustix::thread::set_no_new_privs(true).on_thing("set", "no_new_privs")
}

/// Sets how readily the kernel kills this process when memory is short, from -1000 to 1000.
///
/// Lowering it below its inherited minimum needs CAP_SYS_RESOURCE; the error is then
/// [`crate::Kind::Denied`].
pub fn set_oom_score_adj(value: i16) -> Result<()> {
    let path = "/proc/self/oom_score_adj";
    std::fs::write(path, value.to_string()).on_path("write", path)
}

/// The current out-of-memory score adjustment of this process.
pub fn oom_score_adj() -> Result<i16> {
    crate::small::read_number("/proc/self/oom_score_adj".as_ref())
}

/// Becomes user and group 0 of the current user namespace, real, effective and saved, without
/// further groups. Capabilities stay. Only the calling thread changes: for programs of one thread.
///
/// # Errors
/// Invalid if the namespace maps no id 0.
pub fn become_root() -> Result<()> {
    use rustix::process::{Gid, Uid};
    let (gid, uid) = (Gid::ROOT, Uid::ROOT);
    rustix::thread::set_thread_groups(&[]).on_thing("give up", "further groups")?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).on_thing("become", "group 0")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).on_thing("become", "user 0")
}
