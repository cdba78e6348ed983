//! How long a running pod takes by each handler, of the daemons that have it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::{Bench, turns};
use crate::samples::Samples;
use crate::subject::Subject;
use crate::subject::handlers::Handler;

/// What one daemon took by one handler; `None` once it turned out to be unable.
type Taken = Option<Samples>;

impl Bench {
    /// Measures a running pod by each handler; what a daemon cannot do with one is said and left
    /// out.
    pub(crate) async fn handlers(&mut self, handlers: &[Handler]) {
        let mut taken: BTreeMap<(&str, String), Taken> = BTreeMap::new();
        for count in turns(self.amount.calls, self.amount.turns) {
            for handler in handlers {
                for subject in &mut self.subjects {
                    let name = subject.name.clone();
                    eprintln!("handlers: {count} pods of {name} by {}", handler.name);
                    let taken =
                        taken.entry((handler.name, name)).or_insert(Some(Samples::default()));
                    let Some(samples) = taken else { continue };
                    if let Err(error) = sample(subject, handler, count, samples).await {
                        eprintln!("handlers: {} by {}: {error:#}", subject.name, handler.name);
                        *taken = None;
                    }
                }
            }
        }
        for handler in handlers {
            self.report.declare(handler.what);
            for ((_, subject), samples) in taken.iter().filter(|((by, _), _)| *by == handler.name) {
                if let Some(samples) = samples {
                    self.report.put_samples(handler.what, subject, samples);
                }
            }
        }
    }
}

async fn sample(
    subject: &mut Subject,
    handler: &Handler,
    count: usize,
    samples: &mut Samples,
) -> Result<()> {
    let cri = subject.cri().context("the bare commands know no handlers")?;
    if samples.len() == 0 {
        // The first pod finds nothing warm.
        cri.running_by(handler).await?;
    }
    for _ in 0..count {
        samples.push(cri.running_by(handler).await?);
    }
    Ok(())
}
