//! The loop against a small model of the world: every interleaving of wishes, outcomes, failures
//! and crashes, to a depth, keeps the invariants and can still reach the wish or a leftover.

mod world;

use world::{Budget, Script, explore};

#[test]
fn a_pod_runs_stops_and_goes() {
    let seen = explore(
        &[Script::Run, Script::StopPod, Script::RemovePod],
        Budget { failures: 1, crashes: 1, depth: 60 },
    );
    println!("{seen} states");
    assert!(seen > 500, "the model saw only {seen} states: it explores nothing");
}

#[test]
fn a_container_runs_in_a_pod_while_things_fail_and_crash() {
    let script = [Script::Run, Script::Create, Script::Start, Script::Stop, Script::Remove];
    let seen = explore(&script, Budget { failures: 1, crashes: 1, depth: 45 });
    println!("{seen} states");
    assert!(seen > 1_000, "the model saw only {seen} states: it explores nothing");
}

#[test]
fn stopping_the_pod_overtakes_everything() {
    let script = [Script::Run, Script::Create, Script::Start, Script::StopPod];
    let seen = explore(&script, Budget { failures: 1, crashes: 1, depth: 45 });
    println!("{seen} states");
    assert!(seen > 1_000, "the model saw only {seen} states: it explores nothing");
}

#[test]
fn callers_give_up_and_repeat() {
    let script =
        [Script::Run, Script::GiveUp, Script::Run, Script::Create, Script::GiveUp, Script::Create];
    let seen = explore(&script, Budget { failures: 1, crashes: 1, depth: 45 });
    println!("{seen} states");
    assert!(seen > 1_000, "the model saw only {seen} states: it explores nothing");
}
