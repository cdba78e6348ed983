//! What shims by others say in the `log` fifo of their bundle, in the daemon's own log.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_pod::SandboxId;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use crate::effect::Result;

/// A longer line is cut.
const LINE: usize = 2048;

/// In each such time …
const WHILE: Duration = Duration::from_secs(10);

/// … this many lines of a shim are passed on.
const LINES: u32 = 200;

/// The shims that are listened to. Their fifos stay open as long: without a reader they could not
/// even start.
#[derive(Debug, Default)]
pub(crate) struct ShimLogs(Mutex<HashMap<SandboxId, AbortHandle>>);

impl ShimLogs {
    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<SandboxId, AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the fifo in the bundle and listens to it, if nobody does.
    pub(crate) fn listen(&self, pod: &SandboxId, bundle: &Path) -> Result<()> {
        let mut all = self.all();
        if all.contains_key(pod) {
            return Ok(());
        }
        let fifo = berth_shim_client::hold_log(bundle)?;
        let fifo = berth_job::watch(fifo, Interest::READABLE);
        let fifo = fifo.map_err(|e| ("watch", bundle, e))?;
        let task = tokio::spawn(pass_on(pod.clone(), fifo));
        all.insert(pod.clone(), task.abort_handle());
        Ok(())
    }

    /// The shim is gone.
    pub(crate) fn end(&self, pod: &SandboxId) {
        if let Some(task) = self.all().remove(pod) {
            task.abort();
        }
    }
}

async fn pass_on(pod: SandboxId, fifo: AsyncFd<OwnedFd>) {
    let mut teller = Teller { pod, text: Vec::new(), since: Instant::now(), told: 0, cut: false };
    let mut space = [0; 1024];
    while let Ok(mut ready) = fifo.readable().await {
        match rustix::io::read(fifo.get_ref(), &mut space) {
            // Both ends are held: it never ends.
            Ok(0) => return,
            Ok(count) => teller.hear(&space[..count]),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

struct Teller {
    pod: SandboxId,
    text: Vec<u8>,
    since: Instant,
    told: u32,
    /// The rest of the line that is heard is passed over.
    cut: bool,
}

impl Teller {
    fn hear(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            let room = LINE - self.text.len().min(LINE);
            if !self.cut {
                self.text.extend_from_slice(&piece[..piece.len().min(room)]);
            }
            if end.is_some() || piece.len() >= room {
                self.tell();
                self.cut = end.is_none();
            }
            bytes = &bytes[piece.len() + usize::from(end.is_some())..];
        }
    }

    fn tell(&mut self) {
        let text = std::mem::take(&mut self.text);
        if self.since.elapsed() > WHILE {
            let left_out = self.told.saturating_sub(LINES);
            if left_out > 0 {
                tracing::warn!(target: "berth::shim", pod = %self.pod, "{left_out} lines of the shim were left out");
            }
            (self.since, self.told) = (Instant::now(), 0);
        }
        if text.is_empty() {
            return;
        }
        self.told = self.told.saturating_add(1);
        if self.told <= LINES {
            let line = String::from_utf8_lossy(&text);
            tracing::info!(target: "berth::shim", pod = %self.pod, "{line}");
        }
    }
}
