use berth_pod::record::{Exit, Lost, PodFact, SandboxFact, Slot, TaskFact};
use berth_pod::{ContainerId, record::ContainerFact};

use super::*;
use crate::pod_task::tests::{container, pod};

fn id(record: &PodRecord) -> ContainerId {
    record.containers.keys().next().unwrap().clone()
}

/// A pod that is answered, with one container that is not.
fn running() -> PodRecord {
    let mut record = pod();
    record.answered = true;
    record.hold(PodFact::Sandbox(SandboxFact::default()));
    let own = container();
    record.containers.insert(own.id.clone(), Arc::new(own));
    record
}

fn changed(record: &PodRecord, change: impl FnOnce(&mut ContainerRecord)) -> PodRecord {
    let mut next = record.clone();
    change(next.container_mut(&id(record)).unwrap());
    next
}

fn of_container(before: &PodRecord, now: &PodRecord) -> Vec<Change> {
    let changes = between(Some(before), Some(now));
    assert!(changes.iter().all(|(_, id)| id.is_some()), "{changes:?}");
    changes.into_iter().map(|(change, _)| change).collect()
}

fn exit() -> Exit {
    Exit { code: 0, at: 9, reason: String::new(), message: String::new() }
}

#[test]
fn each_step_of_a_container_is_one_event() {
    let unanswered = running();
    assert_eq!(between(Some(&unanswered), Some(&unanswered)), []);
    let created = changed(&unanswered, |c| c.answered = true);
    assert_eq!(of_container(&unanswered, &created), [Change::Created]);
    let task = TaskFact { pid: 1, started_at: 5 };
    let started = changed(&created, |c| c.hold(ContainerFact::Task(task.clone())));
    assert_eq!(of_container(&created, &started), [Change::Started]);
    let ended = changed(&started, |c| c.exit = Some(exit()));
    assert_eq!(of_container(&started, &ended), [Change::Stopped]);
    let released = changed(&ended, |c| c.task = Slot::Absent);
    assert_eq!(of_container(&ended, &released), []);
    let mut gone = released.clone();
    gone.containers.clear();
    assert_eq!(of_container(&released, &gone), [Change::Deleted]);
    // One save may hold several steps.
    use Change::{Created, Deleted, Started, Stopped};
    assert_eq!(of_container(&unanswered, &ended), [Created, Started, Stopped]);
    assert_eq!(of_container(&started, &gone), [Stopped, Deleted]);
    assert_eq!(of_container(&created, &gone), [Deleted]);
    assert_eq!(of_container(&unanswered, &gone), [], "nobody was told of it");
    let failed = changed(&created, |c| c.exit = Some(exit()));
    assert_eq!(of_container(&created, &failed), [Stopped], "its start failed");
}

#[test]
fn a_sandbox_begins_before_its_containers_and_ends_after_them() {
    let before = running();
    let mut fresh = before.clone();
    fresh.answered = false;
    let all = |before, now| -> Vec<_> {
        between(before, now).into_iter().map(|(change, id)| (change, id.is_some())).collect()
    };
    use Change::{Created, Deleted, Started, Stopped};
    assert_eq!(all(None, Some(&fresh)), []);
    let answered = changed(&before, |c| c.answered = true);
    let begins = [(Created, false), (Started, false), (Created, true)];
    assert_eq!(all(Some(&fresh), Some(&answered)), begins);
    let mut stopping = answered.clone();
    stopping.wish = PodWish::Stop;
    assert_eq!(all(Some(&answered), Some(&stopping)), [], "its sandbox is still there");
    let mut stopped = changed(&stopping, |c| c.exit = Some(exit()));
    stopped.sandbox = Slot::Absent;
    assert_eq!(all(Some(&stopping), Some(&stopped)), [(Stopped, true), (Stopped, false)]);
    assert_eq!(all(Some(&stopped), None), [(Deleted, true), (Deleted, false)]);
    let mut lost = answered.clone();
    lost.lost = Some(Lost::Reboot);
    assert_eq!(all(Some(&answered), Some(&lost)), [(Stopped, false)]);
    assert_eq!(all(Some(&lost), Some(&stopped)), [(Stopped, true)], "once");
}

fn picture() -> Arc<PodView> {
    Arc::new(PodView { record: Arc::new(pod()), listed: true, containers: Vec::new() })
}

#[tokio::test]
async fn who_is_too_slow_is_let_go_and_told_and_nobody_else_is_harmed() {
    let feed = Feed::default();
    let view = picture();
    let (fresh, answered) = (pod(), running());
    let tell = || feed.tell(Some(&fresh), Some(&answered), Some(&view));
    tell();
    let (mut slow, mut good) = (feed.listen(), feed.listen());
    for _ in 0..=WAITING / 2 {
        tell();
        assert_eq!(good.next().await.unwrap().change, Change::Created);
        assert_eq!(good.next().await.unwrap().change, Change::Started);
    }
    for _ in 0..WAITING {
        slow.next().await.unwrap();
    }
    assert_eq!(slow.next().await.unwrap_err(), Silence::Late);
    drop(slow);
    tell();
    assert_eq!(good.next().await.unwrap().change, Change::Created);
    feed.end();
    assert_eq!(good.next().await.unwrap().change, Change::Started);
    assert_eq!(good.next().await.unwrap_err(), Silence::End);
    assert_eq!(feed.listen().next().await.unwrap_err(), Silence::End);
}

#[tokio::test]
async fn a_listener_that_has_left_costs_nothing_more() {
    let feed = Feed::default();
    let (fresh, answered, view) = (pod(), running(), picture());
    drop(feed.listen());
    feed.tell(Some(&fresh), Some(&answered), Some(&view));
    assert_eq!(feed.count.load(Ordering::Acquire), 0);
    assert!(feed.listeners().all.is_empty());
}
