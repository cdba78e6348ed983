//! Bad input: what is wrong is refused with a message that says what, where and what to do, under
//! the right code; nothing of it is left behind; and the next pod is fine.

mod calls;
mod cgroups;
mod configuration;
mod containers;
mod hostile;
mod ids;
mod networks;
mod plugins;
mod reboots;
mod sandboxes;

use anyhow::{Result, ensure};
use berth_testkit::bed::Bed;
use berth_testkit::cri::Answer;
use tonic::{Code, Status};

/// What a refusal must look like: its code, and words that its message must have.
type Wanted<'a> = (Code, &'a [&'a str]);

/// Demands that a call failed, and how.
fn refuses<T: std::fmt::Debug>(
    case: &str,
    answer: Answer<T>,
    (code, words): Wanted<'_>,
) -> Result<Status> {
    match answer {
        Ok(value) => {
            anyhow::bail!("{case}: it should have been refused, and was answered {value:?}")
        }
        Err(status) => {
            ensure!(status.code() == code, "{case}: {:?}: {}", status.code(), status.message());
            for word in words {
                let message = status.message();
                ensure!(message.contains(word), "{case}: no {word:?} in {message:?}");
            }
            Ok(status)
        }
    }
}

/// Demands that every case went well, and otherwise tells of each that did not.
fn all<T>(outcomes: impl IntoIterator<Item = Result<T>>) -> Result<()> {
    let wrong: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    ensure!(wrong.is_empty(), "{} cases went wrong: {wrong:#?}", wrong.len());
    Ok(())
}

/// Demands that nothing is left, and that a pod with a container still comes and goes.
async fn the_next_pod_is_fine(bed: &Bed) -> Result<()> {
    bed.cri.clear_all().await?;
    bed.is_clean()?;
    let (pod, id) = bed.idle("next").await?;
    assert_eq!(bed.cri.shell(&id, "echo fine").await?, "fine");
    bed.cri.clear(&pod.id).await?;
    bed.is_clean()
}
