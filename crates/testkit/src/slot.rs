//! At most two nodes at a time on a machine, whatever runs the tests: two CPUs build and test
//! this project, and deadlines that mean something need one for each node. Larger machines say
//! how many in `BERTH_TESTKIT_SLOTS`.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};

const SLOTS: u8 = 2;
/// A whole file of other tests may have to end first.
const PATIENCE: Duration = Duration::from_secs(900);

/// The right to run a node; given back when the last that shares it is dropped, or when the
/// process dies.
#[derive(Clone, Debug)]
pub struct Slot {
    number: u8,
    _lock: Arc<File>,
}

impl Slot {
    /// Waits for a free slot.
    ///
    /// # Errors
    /// If none becomes free in a quarter of an hour.
    pub fn take() -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for number in 0..slots() {
                let path = format!("/tmp/berth-testkit.slot{number}");
                let lock = File::create(&path).with_context(|| format!("open {path}"))?;
                if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    return Ok(Self { number, _lock: Arc::new(lock) });
                }
            }
            if Instant::now() > deadline {
                bail!("all slots for test nodes stayed taken for {} s", PATIENCE.as_secs());
            }
            // Either of two locks may come free; the kernel waits for one only.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// 0 or 1.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }
}

fn slots() -> u8 {
    let given = std::env::var("BERTH_TESTKIT_SLOTS").ok().and_then(|text| text.parse().ok());
    given.filter(|slots| *slots > 0).unwrap_or(SLOTS)
}
