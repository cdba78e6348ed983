//! What holds of anything that a client sends. Built for tests, and with `--cfg fuzzing`.

mod connection;
mod spdy;
mod websocket;

pub use spdy::spdy;
pub use websocket::websocket;

use tokio::runtime::{Builder, Runtime};

use crate::Config;
use crate::pulse::Pace;

fn pace() -> Pace {
    Pace::of(&Config::default())
}

/// Runs what waits for nothing but itself.
fn run<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: std::io::Result<Runtime> = Builder::new_current_thread().enable_time().build();
    }
    RUNTIME.with(|runtime| runtime.as_ref().expect("a runtime").block_on(work))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn replay(target: &str, check: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let files = std::fs::read_dir(&corpus).unwrap();
        let read = files.map(|file| check(&std::fs::read(file.unwrap().path()).unwrap()));
        assert!(read.count() > 10, "{} is not there", corpus.display());
    }

    #[test]
    fn all_that_fuzzing_has_found_of_spdy_is_well_read() {
        replay("spdy", super::spdy);
    }

    #[test]
    fn all_that_fuzzing_has_found_of_websocket_is_well_read() {
        replay("websocket", super::websocket);
    }
}
