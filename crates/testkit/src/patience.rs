//! How patient tests are: machines that are emulated say by `BERTH_TESTKIT_SLOWNESS` how many times
//! slower they are than one of hardware.

use std::sync::OnceLock;
use std::time::Duration;

/// The variable that says it.
pub const SLOWNESS: &str = "BERTH_TESTKIT_SLOWNESS";

/// How long to wait on this machine for what may take `usual` on one of hardware.
#[must_use]
pub fn here(usual: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let said = || std::env::var(SLOWNESS).ok().and_then(|text| text.parse().ok());
    usual * *FACTOR.get_or_init(|| said().filter(|factor| *factor > 0).unwrap_or(1))
}
