use std::collections::BTreeMap;

use prost::Message as _;
use tokio::net::UnixStream;

use super::*;
use crate::api::{
    ConfigureResponse, ContainerEviction, ContainerUpdate, CreateContainerRequest,
    CreateContainerResponse, Empty, RegisterPluginRequest, StateChangeEvent, SynchronizeRequest,
    ValidateContainerAdjustmentResponse,
};
use crate::frame::Conn;
use crate::peer::{Answer, Handler, Peer, code};
use crate::{Boxed, Failure, State};

const LONG: Duration = Duration::from_secs(20);

/// What a plugin that hangs is waited for: long enough for one that does not, on a slow machine.
const SHORT: Duration = Duration::from_secs(2);

/// What plugins were called, in order: who, and what.
type Log = Arc<Mutex<Vec<String>>>;

/// The pods; evictions wait until they are let go on.
#[derive(Clone)]
struct Node {
    evictions: Arc<Semaphore>,
    /// What was begun, in order.
    begun: Log,
}

impl Node {
    fn new() -> Self {
        Self { evictions: Arc::new(Semaphore::new(0)), begun: Log::default() }
    }
}

impl Runtime for Node {
    fn state(&self, begun: &HashSet<String>) -> State {
        let mut ids: Vec<_> = begun.iter().cloned().collect();
        ids.push("listed".to_owned());
        ids.sort();
        let container = |id| Container { id, ..Container::default() };
        State { pods: Vec::new(), containers: ids.into_iter().map(container).collect() }
    }

    fn update(&self, updates: Vec<ContainerUpdate>) -> Boxed<'_, Vec<(ContainerUpdate, String)>> {
        Box::pin(async move {
            let ids = updates.iter().map(|one| format!("update {}", one.container_id));
            self.begun.lock().unwrap().extend(ids);
            updates.into_iter().map(|one| (one, "no".to_owned())).collect()
        })
    }

    fn evict(&self, eviction: ContainerEviction) -> Boxed<'_, Result<(), String>> {
        Box::pin(async move {
            self.begun.lock().unwrap().push(format!("evict {}", eviction.container_id));
            let _ = self.evictions.acquire().await;
            Ok(())
        })
    }
}

struct Bed {
    nri: Nri,
    dir: tempfile::TempDir,
    log: Log,
}

async fn bed(change: impl FnOnce(&mut Settings)) -> Bed {
    bed_over(Node::new(), change).await
}

async fn bed_over(node: Node, change: impl FnOnce(&mut Settings)) -> Bed {
    bed_that_is_late(node, LONG, change).await
}

/// A bed that lets plugins go when calls wait so long.
async fn bed_that_is_late(node: Node, late: Duration, change: impl FnOnce(&mut Settings)) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings {
        runtime: ("test".into(), "1".into()),
        socket: Some(dir.path().join("nri.sock")),
        plugins: dir.path().join("plugins"),
        configs: dir.path().join("configs"),
        cgroups: Vec::new(),
        registration: LONG,
        request: LONG,
        required: Vec::new(),
        tolerate: String::new(),
    };
    change(&mut settings);
    let mut nri = Nri::new(settings);
    Arc::get_mut(&mut nri.0).unwrap().late = late;
    nri.start(Arc::new(node)).await.unwrap();
    Bed { nri, dir, log: Log::default() }
}

type Does = Arc<dyn Fn(&str, Vec<u8>) -> Boxed<'static, Answer> + Send + Sync>;

/// Does nothing when it is called.
fn nothing() -> Does {
    Arc::new(|_, _| Box::pin(async { Ok(Vec::new()) }))
}

impl Bed {
    /// Connects a plugin with an index, and waits until it has joined. It notes what it is called.
    async fn plugin(&self, index: &'static str, events: &[Event], does: Does) -> Peer {
        self.plugin_called(index, &format!("{index}-p"), events, does).await
    }

    /// The same, which is then listed under this name.
    async fn plugin_called(
        &self,
        index: &'static str,
        called: &str,
        events: &[Event],
        does: Does,
    ) -> Peer {
        let mask = events.iter().map(|event| 1 << (*event as i32 - 1)).sum();
        let log = Arc::clone(&self.log);
        let handler: Handler = Arc::new(move |method, request| {
            let does = Arc::clone(&does);
            let said = match method.as_str() {
                "Synchronize" => {
                    let state = SynchronizeRequest::decode(&request[..]).unwrap();
                    let ids: Vec<_> = state.containers.into_iter().map(|c| c.id).collect();
                    format!("{method} {}", ids.join(","))
                }
                "StateChange" => {
                    let event = StateChangeEvent::decode(&request[..]).unwrap();
                    format!("{method} {}", event.event().as_str_name())
                }
                _ => method.clone(),
            };
            log.lock().unwrap().push(format!("{index} {said}"));
            match method.as_str() {
                "Configure" => {
                    let answer = ConfigureResponse { events: mask }.encode_to_vec();
                    Box::pin(async { Ok(answer) })
                }
                "Synchronize" => Box::pin(async { Ok(Vec::new()) }),
                _ => does(&method, request),
            }
        });
        let socket = UnixStream::connect(self.dir.path().join("nri.sock")).await.unwrap();
        let peer = Peer::new(socket, Conn::Runtime, handler);
        let request = RegisterPluginRequest {
            plugin_name: "p".into(),
            plugin_idx: index.into(),
            nri_version: String::new(),
        };
        peer.call::<Empty>("RegisterPlugin", &request, LONG).await.unwrap();
        self.until(|report| report.iter().any(|one| one.name == called)).await;
        peer
    }

    async fn until(&self, is: impl Fn(&[PluginReport]) -> bool) {
        let waited = async {
            while !is(&self.nri.report()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, waited).await.expect("it never comes to that");
    }

    fn said(&self) -> Vec<String> {
        let all = std::mem::take(&mut *self.log.lock().unwrap());
        all.into_iter().filter(|one| !one.ends_with("Configure")).collect()
    }
}

fn pod() -> PodSandbox {
    PodSandbox { id: "pod".into(), ..PodSandbox::default() }
}

fn container(id: &str) -> Container {
    Container { id: id.into(), name: "web".into(), ..Container::default() }
}

/// Answers a creation with an annotation.
fn annotates(key: &'static str) -> Does {
    Arc::new(move |method, request| {
        let method = method.to_owned();
        Box::pin(async move {
            if method != "CreateContainer" {
                return Ok(Vec::new());
            }
            let seen = CreateContainerRequest::decode(&request[..]).unwrap();
            let seen = seen.container.unwrap().annotations.len().to_string();
            let annotations = BTreeMap::from([(key.to_owned(), seen)]);
            let adjust = Some(ContainerAdjustment { annotations, ..Default::default() });
            Ok(CreateContainerResponse { adjust, ..Default::default() }.encode_to_vec())
        })
    })
}

#[tokio::test]
async fn plugins_are_called_in_the_order_of_their_indices() {
    let bed = bed(|_| {}).await;
    assert!(!bed.nri.active());
    let events = [Event::CreateContainer];
    let _late = bed.plugin("20", &events, annotates("late")).await;
    let _early = bed.plugin("10", &events, annotates("early")).await;
    bed.said();
    let (adjust, _) = bed.nri.create_container(pod(), container("c")).await.unwrap();
    assert_eq!(bed.said(), ["10 CreateContainer", "20 CreateContainer"]);
    // The later one has seen what the earlier one did.
    let set = adjust.annotations;
    assert_eq!((set["early"].as_str(), set["late"].as_str()), ("0", "1"));
}

#[tokio::test]
async fn a_plugin_hears_only_of_what_it_asks_for() {
    let bed = bed(|_| {}).await;
    let _one = bed.plugin("10", &[Event::RemoveContainer], nothing()).await;
    let _two = bed.plugin("20", &[Event::RunPodSandbox], nothing()).await;
    bed.said();
    bed.nri.run_pod_sandbox(pod()).await.unwrap();
    bed.nri.tell(|| Telling::Container(Event::RemoveContainer, Box::new((pod(), container("c")))));
    bed.nri.stop_pod_sandbox(pod()).await;
    assert_eq!(bed.said(), ["20 RunPodSandbox", "10 RemoveContainer"]);
}

#[tokio::test]
async fn one_that_hangs_is_let_go_and_the_others_go_on() {
    let bed = bed(|settings| settings.request = SHORT).await;
    let hangs: Does = Arc::new(|_, _| Box::pin(std::future::pending()));
    let events = [Event::CreateContainer];
    let hanging = bed.plugin("10", &events, hangs).await;
    let _good = bed.plugin("20", &events, annotates("good")).await;
    let (adjust, _) = bed.nri.create_container(pod(), container("c")).await.unwrap();
    assert!(adjust.annotations.contains_key("good"));
    hanging.closed().await;
    bed.until(|report| {
        report.iter().any(|one| {
            one.name == "10-p"
                && one.gone.as_ref().is_some_and(|why| why.contains("CreateContainer"))
        })
    })
    .await;
}

#[tokio::test]
async fn a_creation_that_is_given_up_in_the_queue_is_nothing_to_plugins() {
    let bed = bed(|_| {}).await;
    let (go_on, wait) = tokio::sync::watch::channel(false);
    let waits: Does = Arc::new(move |_, _| {
        let mut wait = wait.clone();
        Box::pin(async move {
            let _ = wait.wait_for(|go| *go).await;
            Ok(Vec::new())
        })
    });
    let _peer = bed.plugin("10", &[Event::RunPodSandbox, Event::CreateContainer], waits).await;
    bed.said();
    let nri = bed.nri.clone();
    let first = tokio::spawn(async move { nri.run_pod_sandbox(pod()).await });
    let called = async {
        while bed.log.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, called).await.unwrap();
    // The first holds the queue; this one is polled, and queued, once.
    let given_up = bed.nri.create_container(pod(), container("given up"));
    assert!(futures_util::FutureExt::now_or_never(given_up).is_none());
    go_on.send_replace(true);
    first.await.unwrap().unwrap();
    bed.nri.create_container(pod(), container("wanted")).await.unwrap();
    assert_eq!(bed.said(), ["10 RunPodSandbox", "10 CreateContainer"]);
    assert!(bed.nri.settle("wanted") && !bed.nri.settle("given up"));
}

#[tokio::test]
async fn a_refusal_names_the_plugin_and_lets_it_live() {
    let bed = bed(|_| {}).await;
    let refuses: Does =
        Arc::new(|_, _| Box::pin(async { Err((code::UNKNOWN, "not today".to_owned())) }));
    let _peer = bed.plugin("10", &[Event::RunPodSandbox], refuses).await;
    let why = bed.nri.run_pod_sandbox(pod()).await.unwrap_err().to_string();
    assert_eq!(why, "NRI plugin 10-p refuses RunPodSandbox: not today");
    assert!(bed.nri.active());
}

#[tokio::test]
async fn what_passed_before_a_plugin_came_is_in_its_state_and_what_comes_after_is_asked() {
    let bed = bed(|_| {}).await;
    assert!(!bed.nri.pass("before"));
    let _peer = bed.plugin("10", &[Event::CreateContainer], nothing()).await;
    assert_eq!(bed.said(), ["10 Synchronize before,listed"]);
    assert!(bed.nri.pass("after"));
    bed.nri.create_container(pod(), container("after")).await.unwrap();
    assert_eq!(bed.said(), ["10 CreateContainer"]);
    // Asked, and not listed yet: another one is told of it.
    let _other = bed.plugin("20", &[Event::CreateContainer], nothing()).await;
    assert_eq!(bed.said(), ["20 Synchronize after,before,listed"]);
    assert!(bed.nri.settle("after") && bed.nri.settle("before"));
    assert!(!bed.nri.settle("after"));
}

#[tokio::test]
async fn an_old_plugin_hears_by_state_change() {
    let bed = bed(|_| {}).await;
    let old: Does = Arc::new(|method, _| {
        let known = method == "StateChange";
        Box::pin(async move {
            if known { Ok(Vec::new()) } else { Err((code::UNIMPLEMENTED, "no".to_owned())) }
        })
    });
    let _peer = bed.plugin("10", &[Event::RunPodSandbox, Event::CreateContainer], old).await;
    bed.said();
    bed.nri.run_pod_sandbox(pod()).await.unwrap();
    bed.nri.run_pod_sandbox(pod()).await.unwrap();
    bed.nri.create_container(pod(), container("c")).await.unwrap();
    let by_state = "10 StateChange RUN_POD_SANDBOX";
    assert_eq!(bed.said(), ["10 RunPodSandbox", by_state, by_state, "10 CreateContainer"]);
}

#[tokio::test]
async fn a_required_plugin_that_is_lost_over_its_answer_fails_the_creation() {
    let bed = bed(|settings| {
        settings.required = vec!["p".to_owned()];
        settings.request = SHORT;
    })
    .await;
    let hangs: Does = Arc::new(|_, _| Box::pin(std::future::pending()));
    let _peer = bed.plugin("10", &[Event::CreateContainer], hangs).await;
    let why = bed.nri.create_container(pod(), container("c")).await.unwrap_err();
    assert!(matches!(why, Error::Missing { .. }), "{why}");
}

#[tokio::test]
async fn a_validator_is_asked_last_and_may_refuse() {
    let bed = bed(|_| {}).await;
    let rejects: Does = Arc::new(|_, _| {
        let answer = ValidateContainerAdjustmentResponse { reject: true, reason: "no".into() };
        Box::pin(async move { Ok(answer.encode_to_vec()) })
    });
    let _one = bed.plugin("10", &[Event::ValidateContainerAdjustment], rejects).await;
    let _two = bed.plugin("20", &[Event::CreateContainer], annotates("a")).await;
    bed.said();
    let why = bed.nri.create_container(pod(), container("c")).await.unwrap_err().to_string();
    assert!(why.contains("10-p refuses ValidateContainerAdjustment: no"), "{why}");
    assert_eq!(bed.said(), ["20 CreateContainer", "10 ValidateContainerAdjustment"]);
}

#[tokio::test]
async fn a_plugin_updates_unasked_and_is_told_what_failed() {
    let bed = bed(|_| {}).await;
    let peer = bed.plugin("10", &[Event::RunPodSandbox], nothing()).await;
    let one = ContainerUpdate { container_id: "c".into(), ..Default::default() };
    let request = crate::api::UpdateContainersRequest { update: vec![one.clone()], evict: vec![] };
    let answer: crate::api::UpdateContainersResponse =
        peer.call("UpdateContainers", &request, LONG).await.unwrap();
    assert_eq!(answer.failed, [one]);
}

#[tokio::test]
async fn who_does_not_register_is_let_go() {
    let bed = bed(|settings| settings.registration = Duration::from_millis(50)).await;
    let silent = UnixStream::connect(bed.dir.path().join("nri.sock")).await.unwrap();
    bed.until(|report| {
        report.iter().any(|one| one.gone.as_ref().is_some_and(|why| why.contains("not registered")))
    })
    .await;
    drop(silent);
}

#[tokio::test]
async fn who_registers_with_a_wrong_index_is_refused() {
    let bed = bed(|_| {}).await;
    let handler: Handler = Arc::new(|_, _| Box::pin(async { Ok(Vec::new()) }));
    let socket = UnixStream::connect(bed.dir.path().join("nri.sock")).await.unwrap();
    let peer = Peer::new(socket, Conn::Runtime, handler);
    let request = RegisterPluginRequest { plugin_idx: "x".into(), ..Default::default() };
    let refused = peer.call::<Empty>("RegisterPlugin", &request, LONG).await.unwrap_err();
    assert!(matches!(refused, Failure::Refused { code: code::INVALID_ARGUMENT, .. }), "{refused}");
}

#[tokio::test]
async fn the_end_is_told() {
    let bed = bed(|_| {}).await;
    let _peer = bed.plugin("10", &[Event::RunPodSandbox], nothing()).await;
    bed.said();
    bed.nri.shut_down().await;
    assert_eq!(bed.said(), ["10 Shutdown"]);
    assert!(!bed.nri.active());
}

/// Answers each call when it is let go on.
fn gated(gate: &Arc<Semaphore>) -> Does {
    let gate = Arc::clone(gate);
    Arc::new(move |_, _| {
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            Ok(Vec::new())
        })
    })
}

async fn has_heard(bed: &Bed, what: &str) {
    let heard = async {
        while !bed.log.lock().unwrap().iter().any(|one| one == what) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, heard).await.expect("it is never told");
}

#[tokio::test]
async fn a_plugin_that_too_much_waits_for_is_let_go_and_the_others_hear_all_of_it() {
    let bed = bed(|_| {}).await;
    let gate = Arc::new(Semaphore::new(0));
    let events = [Event::RemovePodSandbox];
    let slow = bed.plugin("10", &events, gated(&gate)).await;
    let _good = bed.plugin("20", &events, nothing()).await;
    bed.said();
    let tell = || {
        bed.nri.tell(|| Telling::Pod(Event::RemovePodSandbox, Box::new(pod())));
    };
    tell();
    has_heard(&bed, "10 RemovePodSandbox").await;
    for _ in 0..=WAITING {
        tell();
    }
    gate.add_permits(1);
    slow.closed().await;
    bed.nri.stop_pod_sandbox(pod()).await;
    let said = bed.said();
    let heard = |who: &str| said.iter().filter(|one| one.starts_with(who)).count();
    assert_eq!((heard("10"), heard("20")), (1, WAITING + 2));
    let report = bed.nri.report();
    let gone = report.iter().find_map(|one| one.gone.as_ref()).unwrap();
    assert!(gone.contains("it is too slow: 4097 calls wait"), "{gone}");
    assert!(bed.nri.active());
}

#[tokio::test]
async fn a_plugin_that_calls_wait_too_long_for_is_let_go() {
    let late = Duration::from_millis(500);
    let bed = bed_that_is_late(Node::new(), late, |_| {}).await;
    let gate = Arc::new(Semaphore::new(0));
    let slow = bed.plugin("10", &[Event::RemovePodSandbox], gated(&gate)).await;
    let tell = || {
        bed.nri.tell(|| Telling::Pod(Event::RemovePodSandbox, Box::new(pod())));
    };
    tell();
    has_heard(&bed, "10 RemovePodSandbox").await;
    tell();
    // So long does the second one wait.
    tokio::time::sleep(2 * late).await;
    gate.add_permits(1);
    slow.closed().await;
    bed.until(|report| report.iter().any(|one| one.gone.is_some())).await;
    let gone = bed.nri.report().into_iter().find_map(|one| one.gone).unwrap();
    assert!(gone.contains("it is too slow: 1 calls wait"), "{gone}");
}

#[tokio::test]
async fn what_is_queued_does_not_hold_up_the_end_of_the_daemon() {
    let bed = bed(|_| {}).await;
    let hangs: Does = Arc::new(|method, _| match method {
        "Shutdown" => Box::pin(async { Ok(Vec::new()) }),
        _ => Box::pin(std::future::pending()),
    });
    let _peer = bed.plugin("10", &[Event::RunPodSandbox, Event::RemovePodSandbox], hangs).await;
    bed.said();
    for _ in 0..1000 {
        bed.nri.tell(|| Telling::Pod(Event::RemovePodSandbox, Box::new(pod())));
    }
    let asked = bed.nri.run_pod_sandbox(pod());
    let (asked, ()) = tokio::join!(asked, bed.nri.shut_down_within(Duration::ZERO));
    assert!(matches!(asked, Err(Error::Ending)), "{asked:?}");
    assert_eq!(bed.said().last().unwrap(), "10 Shutdown");
    assert!(!bed.nri.active());
}

#[tokio::test]
async fn a_panic_costs_one_call_and_the_next_is_answered() {
    let bed = bed(|_| {}).await;
    let _peer = bed.plugin("10", &[Event::RunPodSandbox], nothing()).await;
    bed.nri.tell(|| panic!("a bug"));
    bed.nri.run_pod_sandbox(pod()).await.unwrap();
}

#[tokio::test]
async fn two_plugins_of_one_name_are_two_and_must_not_set_the_same() {
    let bed = bed(|_| {}).await;
    let events = [Event::CreateContainer];
    let _one = bed.plugin("10", &events, annotates("same")).await;
    let two = bed.plugin_called("10", "10-p (2)", &events, annotates("same")).await;
    let why = bed.nri.create_container(pod(), container("c")).await.unwrap_err().to_string();
    assert!(why.contains("10-p and 10-p (2) both set"), "{why}");
    drop(two);
    bed.until(|report| {
        report.iter().any(|one| one.name == "10-p (2)" && one.gone.is_some())
            && report.iter().any(|one| one.name == "10-p" && one.gone.is_none())
    })
    .await;
    bed.nri.create_container(pod(), container("c")).await.unwrap();
}

#[tokio::test]
async fn what_plugins_want_of_others_is_begun_in_order_and_no_call_waits_for_it() {
    let node = Node::new();
    let bed = bed_over(node.clone(), |_| {}).await;
    let evicts: Does = Arc::new(|_, request| {
        Box::pin(async move {
            let new = CreateContainerRequest::decode(&request[..]).unwrap().container.unwrap().id;
            let victim =
                ContainerEviction { container_id: format!("of {new}"), ..Default::default() };
            let one = ContainerUpdate { container_id: format!("of {new}"), ..Default::default() };
            let answer = CreateContainerResponse {
                update: vec![one],
                evict: vec![victim],
                ..Default::default()
            };
            Ok(answer.encode_to_vec())
        })
    });
    let _peer = bed.plugin("10", &[Event::CreateContainer], evicts).await;
    let (_, first) = bed.nri.create_container(pod(), container("a")).await.unwrap();
    let (_, second) = bed.nri.create_container(pod(), container("b")).await.unwrap();
    let begun = ["evict of a", "update of a", "evict of b", "update of b"];
    assert_eq!(*node.begun.lock().unwrap(), begun);
    let mut first = Box::pin(first.done());
    assert!(futures_util::poll!(&mut first).is_pending());
    node.evictions.add_permits(2);
    first.await;
    second.done().await;
}
