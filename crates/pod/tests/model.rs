//! The loop against a small model of the world: every interleaving of wishes, outcomes, failures
//! and crashes, to a depth, keeps the invariants and can still reach the wish or a leftover.
//!
//! `BERTH_MODEL_DEPTH` sets the depth; the default is what a quick run affords, and
//! `make test-long` goes to the end.

mod world;

use world::{
    Budget, Script, explore, lose_an_unclaimed_sandbox, lose_the_daemon_around_the_stop_signal,
    never_delete_a_task_that_never_ran, never_delete_an_ended_task, saves_before_each_answer, walk,
};

/// Explores a script, and sees that there was something to explore.
fn check(script: &[Script], at_least: usize) {
    check_after(script, 0, at_least);
}

/// The same, once so many calls have gone well.
fn check_after(script: &[Script], well: usize, at_least: usize) {
    let depth = std::env::var("BERTH_MODEL_DEPTH").ok().and_then(|d| d.parse().ok());
    let seen =
        explore(script, well, Budget { failures: 1, crashes: 1, depth: depth.unwrap_or(13) });
    assert!(seen > at_least, "the model saw only {seen} states: it explores nothing");
}

#[test]
fn a_pod_runs_stops_and_goes() {
    check(&[Script::Run, Script::StopPod, Script::RemovePod], 2_000);
}

#[test]
fn a_container_runs_in_a_pod_while_things_fail_and_crash() {
    use Script::{Create, Remove, Run, Start, Stop};
    check(&[Run, Create, Start, Stop, Remove], 2_000);
}

#[test]
fn limits_change_before_and_after_the_start() {
    use Script::{Create, Run, Start, Stop, Update};
    check_after(&[Run, Create, Update, Start, Update, Stop], 2, 2_000);
}

#[test]
fn stopping_the_pod_overtakes_everything() {
    check(&[Script::Run, Script::Create, Script::Start, Script::StopPod], 2_000);
}

#[test]
fn callers_give_up_and_repeat() {
    use Script::{Create, GiveUp, Run};
    check(&[Run, GiveUp, Run, Create, GiveUp, Create], 2_000);
}

#[test]
fn a_stop_signal_is_sent_whatever_becomes_of_the_daemon() {
    lose_the_daemon_around_the_stop_signal();
}

#[test]
fn a_sandbox_that_is_lost_before_anybody_claims_it_is_rolled_back() {
    lose_an_unclaimed_sandbox();
}

#[test]
fn a_task_that_has_ended_and_is_never_deleted_is_left_over() {
    never_delete_an_ended_task();
}

#[test]
fn a_task_that_never_ran_and_is_never_deleted_is_left_over() {
    never_delete_a_task_that_never_ran();
}

#[test]
fn a_call_waits_for_few_saves() {
    use Script::{Create, Run, Start};
    // The intents of all that it needs, and what it is told; between them, the pod's namespaces.
    assert_eq!(saves_before_each_answer(&[Run, Create, Start]), [3, 2, 2]);
}

#[test]
fn whole_lives_at_random_keep_every_promise() {
    use Script::{Create, GiveUp, Remove, RemovePod, Run, Start, Stop, StopPod, Update};
    let lives: [&[Script]; 4] = [
        &[Run, Create, Start, Update, Stop, Remove, StopPod, RemovePod],
        &[Run, Create, Update, Start, StopPod, RemovePod],
        &[Run, GiveUp, Run, Create, GiveUp, Create, Start, GiveUp, Start, Remove],
        &[Run, Create, Remove, Create, Start, StopPod, Remove],
    ];
    for script in lives {
        for (failures, crashes) in [(1, 0), (2, 2)] {
            walk(script, 2_000, Budget { failures, crashes, depth: 60 });
        }
    }
}
