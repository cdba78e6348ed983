//! One sequence: callers, a daemon that dies now and then, somebody who keeps looking; then
//! everything is removed and the census taken.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_testkit::bed::Bed;
use futures_util::future::try_join_all;

use crate::caller::Caller;
use crate::dice::Dice;
use crate::levers::Levers;
use crate::truth::PodMay;
use crate::world::World;

/// How many callers there are at once.
const CALLERS: usize = 3;
/// How many steps each takes.
const STEPS: usize = 40;
/// How long what ends by itself may take: a leftover is tried again less and less often.
const CLEAN: Duration = Duration::from_secs(60);

/// What a sequence came to.
pub(crate) struct Played {
    pub(crate) moves: u64,
    pub(crate) deaths: u32,
}

/// Plays the sequence of a seed; an error has its story.
pub(crate) async fn play(bed: &mut Bed, levers: &Arc<Levers>, seed: u64) -> Result<Played> {
    let logs = bed.node.disk().join("pods");
    let world = Arc::new(World::new(levers, logs, bed.node.keeper(), &bed.cri));
    know_bystander(bed, &world).await?;
    match sequence(bed, &world, seed).await {
        Ok(deaths) => Ok(Played { moves: world.moves(), deaths }),
        Err(error) => Err(error.context(format!("the story of {seed}:\n{}", world.story()))),
    }
}

/// Who is there already belongs to the model too.
async fn know_bystander(bed: &Bed, world: &World) -> Result<()> {
    for pod in bed.cri.pods().await? {
        let name = pod.metadata.context("a pod has a name")?;
        let mut truth = world.truth();
        let key = truth.new_pod(&name.name, name.attempt);
        truth.change_pod(key, |known| {
            known.id = Some(pod.id);
            known.may = PodMay::Ready;
        });
        let main = truth.new_container(key, "main", crate::truth::Program::Idle);
        truth.change(main, |known| known.may = crate::truth::ContainerMay::Changing);
    }
    Ok(())
}

async fn sequence(bed: &mut Bed, world: &Arc<World>, seed: u64) -> Result<u32> {
    let mut dice = Dice::new(seed);
    let mut callers = Vec::new();
    for number in 0..CALLERS {
        let mut caller = Caller::new(world, dice.split(), number);
        callers.push(async move {
            for _ in 0..STEPS {
                caller.step().await?;
            }
            caller.end().await
        });
    }
    let callers = try_join_all(callers);
    let watch = world.watch();
    tokio::pin!(callers, watch);
    let mut deaths = 0;
    loop {
        let pause = dice.millis(1600);
        tokio::select! {
            done = &mut callers => { done?; break; }
            wrong = &mut watch => wrong?,
            () = tokio::time::sleep(pause) => {}
        }
        die(bed, world, &mut dice).await?;
        deaths += 1;
    }
    world.look(&bed.cri).await??;
    world.tell("the census".to_owned());
    bed.becomes_clean(CLEAN)?;
    Ok(deaths)
}

/// The daemon is killed or told to end, and another comes after a while. Its first list must be
/// whole.
async fn die(bed: &mut Bed, world: &World, dice: &mut Dice) -> Result<()> {
    world.down();
    if dice.once_in(5) {
        bed.node.stop_daemon()?;
    } else {
        bed.node.kill_daemon()?;
    }
    if dice.once_in(3) {
        tokio::time::sleep(dice.millis(300)).await;
    }
    while dice.once_in(4) {
        world.tell("a daemon dies while it starts".to_owned());
        bed.node.spawn_daemon()?;
        tokio::time::sleep(dice.millis(120)).await;
        bed.node.kill_daemon()?;
    }
    bed.start().await?;
    world.look(&bed.cri).await.context("the first list of a new daemon")??;
    world.up(&bed.cri);
    Ok(())
}
