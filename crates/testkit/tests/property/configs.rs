//! Random configurations of pods and containers: what runs is what was asked for, seen from inside and
//! in the kernel's files, and what cannot be as it was asked for is refused by its field and leaves
//! nothing.

mod asked;
mod seen;
mod wrong;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use berth_testkit::bed::{Bed, on_a_node};
use tonic::Status;

use crate::dice::Dice;
use crate::number;
use asked::Site;
use seen::Seen;
use wrong::{Wrong, wrong};

/// How long it goes on when nobody says.
const SECONDS: u64 = 15;

#[test]
fn what_runs_is_what_was_asked_for_or_it_is_refused() -> Result<()> {
    on_a_node(async |bed| {
        let site = Site::make(bed)?;
        // What a pod's first directories cost is there from now on.
        bed.settle()?;
        let begin = Instant::now();
        let given = number("BERTH_PROPERTY_SEED");
        let seconds = Duration::from_secs(number("BERTH_PROPERTY_SECONDS").unwrap_or(SECONDS));
        let mut dice = crate::fresh_dice()?;
        let mut count = 0;
        while count == 0 || (given.is_none() && begin.elapsed() < seconds) {
            let seed = given.unwrap_or_else(|| dice.below(1 << 32));
            eprintln!("configs: seed {seed}");
            play(bed, &site, seed).await.with_context(|| format!("BERTH_PROPERTY_SEED={seed}"))?;
            count += 1;
        }
        eprintln!("configs: {count} pods in {} s", begin.elapsed().as_secs());
        Ok(())
    })
}

/// A pod with one or two containers; in every third case something of it is wrong.
async fn play(bed: &Bed, site: &Site, seed: u64) -> Result<()> {
    let mut dice = Dice::new(seed);
    let cri = &bed.cri;
    let fault = dice.once_in(3).then(|| wrong(&mut dice));
    let mut pod = asked::pod(&mut dice, bed.pod(&format!("asked-{seed}")));
    if let Some(Wrong::Pod(fault)) = &fault {
        pod = pod.with(fault.change);
        let answer = cri.run(&pod).await.map(|pod| pod.id);
        refused(fault.field, fault.codes, answer)
            .with_context(|| format!("{:#?}", pod.config()))?;
        return bed.is_clean();
    }
    let running = cri.run(&pod).await.with_context(|| format!("{:#?}", pod.config()))?;
    for name in ["one", "two"].into_iter().take(1 + dice.index(2)) {
        let container = asked::container(&mut dice, name, &running.config, site);
        let config = container.config();
        let id = cri.launch(&running, &container).await.with_context(|| format!("{config:#?}"))?;
        let seen = Seen::new(bed, site, &running.config, &config, &id).await?;
        seen.compare().await.with_context(|| format!("{:#?}\n{config:#?}", pod.config()))?;
    }
    if let Some(Wrong::Container(fault)) = &fault {
        let container = asked::container(&mut dice, "wrong", &running.config, site);
        let container = container.with(fault.change);
        // What only the OCI runtime finds out is refused at the start.
        let answer = cri.launch(&running, &container).await;
        let config = container.config();
        refused(fault.field, fault.codes, answer).with_context(|| format!("{config:#?}"))?;
    }
    cri.clear(&running.id).await?;
    bed.is_clean()
}

fn refused(field: &str, codes: &[tonic::Code], answer: Result<String, Status>) -> Result<()> {
    let status = answer.err().with_context(|| format!("a wrong {field} is not refused"))?;
    let (code, text) = (status.code(), status.message());
    ensure!(codes.contains(&code), "a wrong {field}: {codes:?} wanted, {status:?}");
    ensure!(text.contains(field), "a wrong {field} is not named: {text}");
    Ok(())
}
