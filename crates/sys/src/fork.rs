//! A copy of this process, for programs of one thread.

use std::io;

use rustix::process::Pid;

use crate::error::{Attempt, Error, Result};
use crate::spawn::Child;

/// Forks; the child runs `body`, exits with what it returns, and never returns from here.
///
/// Everything is copied, descriptors included: for small programs such as a helper. Elsewhere use
/// [`crate::spawn`].
///
/// # Errors
/// [`Error::Argument`] in a process of several threads: the copy would have only this one, and
/// every lock that another one holds would stay locked in it.
pub fn fork(body: impl FnOnce() -> u8) -> Result<Child> {
    let own = rustix::process::getpid();
    let threads = crate::process::stat(own)?.threads;
    if threads != 1 {
        return Err(Error::Argument {
            what: "number of threads of a process that forks",
            value: threads.to_string(),
            reason: "must be 1",
        });
    }
    // SAFETY: there is no other thread (only this one could have made one meanwhile), so the child
    // is a whole copy of the program and may go on with it.
    #[allow(unsafe_code)]
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
        // SAFETY: _exit ends the child without running what the parent registered for its exit.
        #[allow(unsafe_code)]
        unsafe {
            libc::_exit(i32::from(code))
        }
    }
    let pid = Pid::from_raw(pid).filter(|_| pid > 0);
    let pid = pid.ok_or_else(io::Error::last_os_error).on_thing("fork", "this process")?;
    // The number is the child's as long as nobody reaps it.
    let pidfd = crate::pidfd::open(pid)?;
    Ok(Child::new(pid, pidfd))
}
