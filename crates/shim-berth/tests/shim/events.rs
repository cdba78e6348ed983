//! Events arrive in order where somebody listens, and nobody waits for them where nobody does.

use std::sync::Arc;

use async_trait::async_trait;
use berth_proto::events::{TaskDelete, TaskExit, TaskOOM};
use berth_proto::forward::ForwardRequest;
use berth_proto::forward_ttrpc;
use protobuf::Message;
use protobuf::well_known_types::empty::Empty;
use serde_json::json;
use tokio::sync::mpsc;
use ttrpc::r#async::{Server, TtrpcContext};

use crate::fixture::{Exec, Pod};

struct Listener(mpsc::UnboundedSender<ForwardRequest>);

#[async_trait]
impl forward_ttrpc::Events for Listener {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        self.0.send(request).unwrap();
        Ok(Empty::new())
    }
}

/// Listens at a socket.
async fn listen(socket: &std::path::Path) -> (Server, mpsc::UnboundedReceiver<ForwardRequest>) {
    let (sender, events) = mpsc::unbounded_channel();
    let address = format!("unix://{}", socket.display());
    let service = forward_ttrpc::create_events(Arc::new(Listener(sender)));
    let mut server = Server::new().bind(&address).unwrap().register_service(service);
    server.start().await.unwrap();
    (server, events)
}

#[tokio::test]
async fn events_come_in_the_order_of_what_they_tell() {
    let dir = tempfile::Builder::new().prefix("berth-shim-").tempdir().unwrap();
    let (_server, mut events) = listen(&dir.path().join("events")).await;
    let pod = Pod::start_in(dir, "crun", json!({})).await;

    let memory = json!({"linux": {"resources": {"memory": {"limit": 16 << 20, "swap": 16 << 20}}}});
    let hog = "until [ -e /tmp/go ]; do sleep 0.01; done; \
               x=0123456789abcdef; while :; do x=$x$x; done";
    pod.container("c", hog).with(memory).run().await;
    pod.exec("c", Exec { id: "e", script: "exit 3", ..Default::default() }).await.unwrap();
    pod.start_process("c", "e").await.unwrap();
    pod.wait_exec("c", "e").await;
    pod.delete("c", "e").await.unwrap();
    std::fs::write(pod.dir.path().join("image/tmp/go"), "").unwrap();
    pod.wait("c").await;
    pod.delete("c", "").await.unwrap();

    let mut topics = Vec::new();
    while topics
        .last()
        .is_none_or(|(topic, id)| (topic, id) != (&"/tasks/delete".into(), &"c".to_owned()))
    {
        let event = events.recv().await.unwrap();
        let envelope = event.envelope.unwrap();
        assert_eq!(envelope.namespace, "test");
        let value = &envelope.event.value;
        let id = match envelope.event.type_url.as_str() {
            "containerd.events.TaskExit" => {
                let exit = TaskExit::parse_from_bytes(value).unwrap();
                assert_eq!(exit.exit_status, if exit.id == "e" { 3 } else { 137 });
                assert!(exit.pid > 0);
                exit.id
            }
            "containerd.events.TaskDelete" => TaskDelete::parse_from_bytes(value).unwrap().id,
            "containerd.events.TaskOOM" => TaskOOM::parse_from_bytes(value).unwrap().container_id,
            _ => String::new(),
        };
        topics.push((envelope.topic, id));
    }
    let topics: Vec<_> = topics.iter().map(|(topic, id)| (topic.as_str(), id.as_str())).collect();
    assert_eq!(
        topics,
        [
            ("/tasks/create", ""),
            ("/tasks/start", ""),
            ("/tasks/exec-added", ""),
            ("/tasks/exec-started", ""),
            ("/tasks/exit", "e"),
            ("/tasks/delete", "e"),
            ("/tasks/oom", "c"),
            ("/tasks/exit", "c"),
            ("/tasks/delete", "c"),
        ]
    );
}

/// Whoever learns of an end looks for its reason at once.
#[tokio::test]
async fn a_lack_of_memory_is_told_before_the_end() {
    let dir = tempfile::Builder::new().prefix("berth-shim-").tempdir().unwrap();
    let (_server, mut events) = listen(&dir.path().join("events")).await;
    let pod = Pod::start_in(dir, "crun", json!({})).await;
    let memory = json!({"linux": {"resources": {"memory": {"limit": 16 << 20, "swap": 16 << 20}}}});
    for id in ["a", "b", "c", "d"] {
        let hog = "x=0123456789abcdef; while :; do x=$x$x; done";
        pod.container(id, hog).with(memory.clone()).run().await;
        pod.wait(id).await;
        let heard = std::iter::from_fn(|| events.try_recv().ok());
        let mut topics = heard.map(|event| event.envelope.unwrap().topic);
        assert!(topics.any(|topic| topic == "/tasks/oom"), "{id}");
        pod.delete(id, "").await.unwrap();
    }
}

/// A daemon that is started again may have no other word of what ended meanwhile.
#[tokio::test]
async fn what_nobody_took_at_first_is_told_again() {
    let dir = tempfile::Builder::new().prefix("berth-shim-").tempdir().unwrap();
    let socket = dir.path().join("events");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let pod = Pod::start_in(dir, "crun", json!({})).await;
    pod.container("c", "exit 3").run().await;
    pod.wait("c").await;
    pod.container("later", "sleep 3").run().await;
    pod.wait("later").await;
    std::fs::remove_file(&socket).unwrap();
    let (_server, mut events) = listen(&socket).await;
    let mut topics = Vec::new();
    while topics.len() < 6 {
        topics.push(events.recv().await.unwrap().envelope.unwrap().topic);
    }
    let all = ["/tasks/create", "/tasks/start", "/tasks/exit"];
    assert_eq!(topics, [all, all].concat());
    for id in ["c", "later"] {
        pod.delete(id, "").await.unwrap();
    }
}

#[tokio::test]
async fn a_listener_that_never_answers_holds_nothing_up() {
    let dir = tempfile::Builder::new().prefix("berth-shim-").tempdir().unwrap();
    // It accepts connections by its backlog, and that is all.
    let _deaf = std::os::unix::net::UnixListener::bind(dir.path().join("events")).unwrap();
    let pod = Pod::start_in(dir, "crun", json!({})).await;
    let begin = std::time::Instant::now();
    for n in 0..3 {
        let id = format!("c{n}");
        pod.container(&id, "exit 2").run().await;
        assert_eq!(pod.wait(&id).await, 2);
        pod.delete(&id, "").await.unwrap();
    }
    assert!(begin.elapsed() < std::time::Duration::from_secs(5), "{:?}", begin.elapsed());
}
