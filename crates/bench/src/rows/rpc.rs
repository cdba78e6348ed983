//! How long each RPC takes, one after another on a quiet daemon.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::{Bench, turns};
use crate::report::What;
use crate::samples::Samples;

/// The steps of a pod's life, in the order of the table.
const STEPS: [What; 15] = [
    What::lower("rpc/running", "a running pod (the three below, execed)", "ms"),
    What::lower("rpc/RunPodSandbox", "RunPodSandbox", "ms"),
    What::lower("rpc/CreateContainer", "CreateContainer", "ms"),
    What::lower("rpc/StartContainer", "StartContainer", "ms"),
    What::lower("rpc/create + start", "create + start, execed", "ms"),
    What::lower("rpc/ExecSync", "ExecSync(true)", "ms"),
    What::lower("rpc/stop + remove", "stop + remove (the four below)", "ms"),
    What::lower("rpc/StopContainer", "StopContainer", "ms"),
    What::lower("rpc/RemoveContainer", "RemoveContainer", "ms"),
    What::lower("rpc/StopPodSandbox", "StopPodSandbox", "ms"),
    What::lower("rpc/RemovePodSandbox", "RemovePodSandbox", "ms"),
    What::lower("rpc/ListPodSandbox", "ListPodSandbox, 1 pod", "ms"),
    What::lower("rpc/ListContainers", "ListContainers, 1 pod", "ms"),
    What::lower("rpc/ContainerStatus", "ContainerStatus, verbose", "ms"),
    What::lower("rpc/Status", "Status, verbose", "ms"),
];

impl Bench {
    /// Measures every RPC of a pod's life.
    ///
    /// # Errors
    /// If a call fails, or something was not done.
    pub(crate) async fn rpc(&mut self) -> Result<()> {
        let mut times: BTreeMap<(String, &str), Samples> = BTreeMap::new();
        for (turn, count) in turns(self.amount.calls, self.amount.turns).into_iter().enumerate() {
            for subject in &mut self.subjects {
                eprintln!("rpc: turn {}, {count} pods of {}", turn + 1, subject.name);
                if turn == 0 {
                    // The first pod finds nothing warm.
                    subject.life().await.with_context(|| subject.name.clone())?;
                }
                for _ in 0..count {
                    let steps = subject.life().await.with_context(|| subject.name.clone())?;
                    for (step, ms) in steps {
                        times.entry((subject.name.clone(), step)).or_default().push(ms);
                    }
                }
            }
        }
        for what in STEPS {
            let step = what.key.strip_prefix("rpc/").unwrap_or(what.key);
            for ((subject, _), samples) in times.iter().filter(|((_, name), _)| *name == step) {
                self.report.put_samples(what, subject, samples);
            }
        }
        Ok(())
    }
}
