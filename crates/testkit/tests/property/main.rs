//! The property test: random calls, callers that give up, deaths of the daemon and of shims, and
//! an OCI runtime and a CNI plugin that fail, against a small model of what must hold.
//!
//! A sequence is decided by its seed, which is printed first; how its calls interleave is not.
//! `BERTH_PROPERTY_SEED` repeats one, `BERTH_PROPERTY_SECONDS` says how long to go on.
//!
//! Beside it, in `configs`, random configurations: whatever runs is as strong as what was asked for.

mod caller;
mod configs;
mod dice;
mod levers;
mod race;
mod sequence;
mod truth;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use berth_testkit::bed::{Bed, busybox, on_a_node_with};
use berth_testkit::specs::Container;

use crate::dice::Dice;
use crate::levers::Levers;

/// How long it goes on when nobody says: the stretch in every run of the tests.
const SECONDS: u64 = 20;
/// The seeds that are always played first.
const FIXED: [u64; 2] = [1, 2];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// Dice that nobody has thrown before.
fn fresh_dice() -> Result<Dice> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
    Ok(Dice::new(u64::try_from(now & u128::from(u64::MAX))?))
}

#[test]
fn random_calls_deaths_and_faults_break_no_promise() -> Result<()> {
    let levers = Arc::new(Levers::make()?);
    let config = levers.config();
    on_a_node_with(config, &["busybox"], async |bed| play(bed, &levers).await)
}

async fn play(bed: &mut Bed, levers: &Arc<Levers>) -> Result<()> {
    let pod = bed.cri.run(&bed.pod("bystander")).await?;
    // One process for longer than any run: the census knows it by its pid.
    let program = Container::new("main", &busybox()).command(&["sleep", "1000000"]);
    let bystander = bed.cri.launch(&pod, &program).await?;
    let untouched = bed.identity(&bystander).await?;
    // A daemon that adopted the bystander is what every later one is compared with.
    bed.crash().await?;
    bed.settle()?;
    let begin = Instant::now();
    let given = number("BERTH_PROPERTY_SEED");
    let seconds = number("BERTH_PROPERTY_SECONDS").unwrap_or(SECONDS);
    let mut dice = fresh_dice()?;
    let mut seeds = given.map_or(FIXED.to_vec(), |seed| vec![seed]).into_iter();
    let (mut count, mut moves) = (0, 0);
    loop {
        let late = begin.elapsed() > Duration::from_secs(seconds);
        if late && count > 0 {
            break;
        }
        let Some(seed) = seeds.next().or_else(|| given.is_none().then(|| dice.below(1 << 32)))
        else {
            break;
        };
        eprintln!("property: the sequence of seed {seed}");
        let start = Instant::now();
        let played = sequence::play(bed, levers, seed)
            .await
            .with_context(|| format!("BERTH_PROPERTY_SEED={seed}"))?;
        let identity = bed.identity(&bystander).await?;
        ensure!(identity == untouched, "the bystander was {untouched:?} and is {identity:?}");
        (count, moves) = (count + 1, moves + played.moves);
        let took = start.elapsed().as_secs_f64();
        eprintln!("property: {} calls, {} deaths, {took:.1} s", played.moves, played.deaths);
    }
    eprintln!("property: {count} sequences, {moves} calls, {} s", begin.elapsed().as_secs());
    bed.cri.clear_all().await?;
    bed.forget_settled();
    Ok(())
}
