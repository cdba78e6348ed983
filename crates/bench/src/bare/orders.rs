//! What the bench and the driver of the bare commands say to each other: one JSON value a line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What every pod of the bare commands is made from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The OCI runtime's program.
    pub(crate) runtime: PathBuf,
    /// `config.json` as Berth wrote it for such a container.
    pub(crate) spec: Value,
    /// The layers of the image, the topmost first.
    pub(crate) lower: Vec<PathBuf>,
    /// Where the writable layers go: on the disk, as with everybody.
    pub(crate) disk: PathBuf,
    /// Where bundles and the runtime's state go: on a tmpfs, as with Berth.
    pub(crate) run: PathBuf,
    /// The CNI configuration list.
    pub(crate) list: Value,
    /// Where the CNI plugins are.
    pub(crate) dirs: Vec<String>,
    /// The cgroup below which each pod has one.
    pub(crate) cgroups: String,
}

/// What the driver is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// One pod from its beginning to its end.
    Life {
        /// Its number.
        number: usize,
    },
    /// Start these pods, so many at a time, and hold them.
    Fill {
        /// Their numbers.
        numbers: Vec<usize>,
        /// How many at a time.
        workers: usize,
    },
    /// Remove every pod that is held.
    Drain {
        /// How many at a time.
        workers: usize,
    },
    /// Start and remove these pods.
    Churn {
        /// Their numbers.
        numbers: Vec<usize>,
        /// How many at a time.
        workers: usize,
    },
    /// Run `true` this often in a pod that is held.
    Probes {
        /// How often.
        count: usize,
    },
}

/// What the driver answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The steps of a life, in milliseconds.
    Steps(Vec<(String, f64)>),
    /// How long it took.
    Seconds(f64),
    /// Each time, in milliseconds.
    Samples(Vec<f64>),
    /// What went wrong.
    Failed(String),
}
