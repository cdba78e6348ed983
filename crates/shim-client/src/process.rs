//! Which process a shim is: its pid alone would come to name a stranger once it has died.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::{Error, Result, Shim};

/// A shim's process, held by a pidfd.
#[derive(Debug)]
pub struct ShimProcess {
    /// Its pid.
    pub pid: u32,
    pidfd: OwnedFd,
}

impl AsFd for ShimProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Shim {
    /// The shim's process. SO_PEERCRED would name whoever called listen(2): mostly the `start`
    /// process, long gone. So the shim is asked, and asked again once the pidfd is open: one that
    /// answers both times with the same pid has lived in between, so that the pidfd is its own.
    ///
    /// # Errors
    /// As each call, or the process cannot be told.
    pub async fn process(&self, id: &str) -> Result<ShimProcess> {
        let pid = self.shim_pid(id).await?;
        let wrong = |why: String| Error::Process { pid, why };
        let number = i32::try_from(pid).ok().and_then(berth_sys::Pid::from_raw);
        let number = number.ok_or_else(|| wrong("is no pid".to_owned()))?;
        let pidfd = berth_sys::pidfd::open(number).map_err(|e| wrong(e.to_string()))?;
        let again = self.shim_pid(id).await?;
        if again != pid {
            return Err(wrong(format!("was {again} when it was asked again")));
        }
        Ok(ShimProcess { pid, pidfd })
    }
}
