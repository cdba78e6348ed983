//! The connection against peers that misbehave: frames by hand over a raw socket.

use std::os::unix::net::UnixListener as StdListener;
use std::time::{Duration, Instant};

use berth_shim_client::{Address, Answer, Any, Deadlines, Generation, Kind, Shim};
use protobuf::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use ttrpc::proto::{Request, Response};

struct Peer {
    shim: Shim,
    socket: UnixStream,
    _dir: tempfile::TempDir,
}

async fn peer() -> Peer {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let answer = Answer { address: Address::Path(path), generation: Generation::V3 };
    let deadlines = Deadlines {
        call: Duration::from_millis(300),
        dial: Duration::from_secs(5),
        ..Deadlines::default()
    };
    let shim = Shim::connect(&answer, "k8s.io", deadlines).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    Peer { shim, socket, _dir: dir }
}

async fn request(socket: &mut UnixStream) -> (u32, Request) {
    let mut header = [0; 10];
    socket.read_exact(&mut header).await.unwrap();
    assert_eq!((header[8], header[9]), (1, 0), "a request without flags");
    let mut message = vec![0; u32::from_be_bytes(header[..4].try_into().unwrap()) as usize];
    socket.read_exact(&mut message).await.unwrap();
    let stream = u32::from_be_bytes(header[4..8].try_into().unwrap());
    (stream, Request::parse_from_bytes(&message).unwrap())
}

fn response(stream: u32, payload: Vec<u8>) -> Vec<u8> {
    let message = Response { payload, ..Response::default() }.write_to_bytes().unwrap();
    frame(stream, 2, &message)
}

fn frame(stream: u32, kind: u8, message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::from(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(stream.to_be_bytes());
    frame.extend([kind, 0]);
    frame.extend(message);
    frame
}

/// WaitResponse with this exit status.
fn waited(stream: u32, status: u8) -> Vec<u8> {
    response(stream, vec![8, status])
}

#[tokio::test]
async fn streams_are_odd_and_rise_even_when_calls_race() {
    let Peer { shim, mut socket, _dir } = peer().await;
    let calls: Vec<_> = (0..200)
        .map(|n| {
            let shim = shim.clone();
            tokio::spawn(async move { shim.wait(&n.to_string(), None).await })
        })
        .collect();
    let mut last = None;
    for _ in 0..200 {
        let (stream, request) = request(&mut socket).await;
        assert_eq!(request.service, "containerd.task.v3.Task");
        assert_eq!((request.method.as_str(), request.timeout_nano), ("Wait", 0));
        assert!(stream % 2 == 1 && last.is_none_or(|last| last < stream));
        last = Some(stream);
        socket.write_all(&waited(stream, 3)).await.unwrap();
    }
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status, 3);
    }
}

#[tokio::test]
async fn responses_may_come_in_any_order_and_in_any_pieces() {
    let Peer { shim, mut socket, _dir } = peer().await;
    let answer = async {
        let mut bytes = Vec::new();
        for _ in 0..3 {
            let (stream, _) = request(&mut socket).await;
            bytes.push(stream);
        }
        // Strangers in between: a data frame, a response that nobody waits for.
        let mut bytes: Vec<u8> = bytes.iter().rev().flat_map(|s| waited(*s, *s as u8)).collect();
        bytes.extend(frame(1, 3, b"data"));
        bytes.splice(0..0, waited(99, 1));
        for byte in bytes {
            socket.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let waits =
        async { tokio::join!(shim.wait("a", None), shim.wait("b", None), shim.wait("c", None)) };
    let ((a, b, c), ()) = tokio::join!(waits, answer);
    assert_eq!([a, b, c].map(|exited| exited.unwrap().status), [1, 3, 5]);
}

#[tokio::test]
async fn a_shim_that_does_not_read_gets_whole_frames_when_it_does() {
    let Peer { shim, mut socket, _dir } = peer().await;
    let big = Any { type_url: Any::RESOURCES.into(), value: vec![7; 300_000] };
    // None of these is answered, nor even read: each ends at its deadline or is dropped.
    let mut calls = Vec::new();
    for n in 0..8 {
        let (shim, big) = (shim.clone(), big.clone());
        calls.push(tokio::spawn(async move { shim.update(&n.to_string(), big).await }));
        tokio::task::yield_now().await;
    }
    calls.pop().unwrap().abort();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().kind(), Kind::TimedOut);
    }
    for n in 0..8 {
        let (stream, request) = request(&mut socket).await;
        assert_eq!(stream, 2 * n + 1);
        assert_eq!(request.timeout_nano, 300_000_000);
        assert!(request.payload.len() > 300_000);
        // Late answers hurt nobody.
        socket.write_all(&response(stream, Vec::new())).await.unwrap();
    }
    let (killed, ()) = tokio::join!(shim.kill("x", None, 9, true), async {
        let (stream, _) = request(&mut socket).await;
        socket.write_all(&response(stream, Vec::new())).await.unwrap();
    });
    killed.unwrap();
}

#[tokio::test]
async fn what_is_queued_for_a_shim_that_never_reads_is_bounded() {
    let Peer { shim, socket, _dir } = peer().await;
    let big = Any { type_url: Any::RESOURCES.into(), value: vec![7; 3 << 20] };
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (shim, big) = (shim.clone(), big.clone());
        calls.spawn(async move { shim.update("x", big).await.unwrap_err() });
    }
    let mut refused = 0;
    while let Some(error) = calls.join_next().await {
        let error = error.unwrap();
        refused += usize::from(error.to_string().contains("does not read its requests"));
    }
    assert!((2..8).contains(&refused), "{refused}");
    drop(socket);
}

#[tokio::test]
async fn the_last_words_of_a_shim_are_heard() {
    let Peer { shim, mut socket, _dir } = peer().await;
    let (exited, ()) = tokio::join!(shim.wait("x", None), async {
        let (stream, _) = request(&mut socket).await;
        socket.write_all(&waited(stream, 9)).await.unwrap();
        drop(socket);
    });
    assert_eq!(exited.unwrap().status, 9);
    tokio::time::timeout(Duration::from_secs(5), shim.closed()).await.unwrap();
}

#[tokio::test]
async fn a_lost_shim_is_noticed_at_once_by_every_call() {
    let Peer { shim, mut socket, _dir } = peer().await;
    let waiting = {
        let shim = shim.clone();
        tokio::spawn(async move { shim.wait("c1", None).await })
    };
    request(&mut socket).await;
    let closed = {
        let shim = shim.clone();
        tokio::spawn(async move { shim.closed().await })
    };
    tokio::task::yield_now().await;
    assert!(!closed.is_finished() && !waiting.is_finished());
    drop(socket);
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, closed).await.unwrap().unwrap();
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    let error = shim.kill("there", None, 15, false).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    // Already lost: no waiting.
    tokio::time::timeout(limit, shim.closed()).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_without_a_reply_is_done() {
    for sandbox in [false, true] {
        let Peer { shim, mut socket, _dir } = peer().await;
        let shutdown = async {
            if sandbox { shim.shutdown_sandbox("s").await } else { shim.shutdown("s", true).await }
        };
        let (done, ()) = tokio::join!(shutdown, async {
            request(&mut socket).await;
            drop(socket);
        });
        done.unwrap();
    }
}

#[tokio::test]
async fn nonsense_ends_the_connection() {
    let Peer { shim, mut socket, _dir } = peer().await;
    socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let why = tokio::time::timeout(Duration::from_secs(5), shim.closed()).await.unwrap();
    assert!(why.contains("does not speak ttrpc"), "{why}");
    assert_eq!(shim.kill("x", None, 9, false).await.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn an_undecodable_reply_fails_its_call_alone() {
    let Peer { shim, mut socket, _dir } = peer().await;
    let (killed, ()) = tokio::join!(shim.kill("x", None, 9, false), async {
        let (stream, _) = request(&mut socket).await;
        socket.write_all(&frame(stream, 2, b"\xff\xff")).await.unwrap();
    });
    assert_eq!(killed.unwrap_err().kind(), Kind::Broken);
    let (exited, ()) = tokio::join!(shim.wait("x", None), async {
        let (stream, _) = request(&mut socket).await;
        socket.write_all(&waited(stream, 1)).await.unwrap();
    });
    assert_eq!(exited.unwrap().status, 1);
}

#[tokio::test]
async fn nobody_there_is_known_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let dead = dir.path().join("dead");
    drop(StdListener::bind(&dead).unwrap());
    let begin = Instant::now();
    for path in [path, dead] {
        let error =
            Shim::reachable(&Address::Path(path), Duration::from_secs(60)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    }
    let nobody = Address::Abstract(format!("berth-test-{}", std::process::id()));
    assert!(Shim::reachable(&nobody, Duration::from_secs(60)).await.is_err());
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_full_backlog_is_waited_for_but_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    rustix::net::bind(&listener, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = Address::Path(path);
    Shim::reachable(&address, Duration::from_secs(5)).await.unwrap();
    let begin = Instant::now();
    let error = Shim::reachable(&address, Duration::from_millis(200)).await.unwrap_err();
    assert!(error.to_string().contains("timed out"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn abstract_sockets_are_dialled() {
    let name = format!("berth-test-{}-{:?}", std::process::id(), std::thread::current().id());
    let _listener = UnixListener::bind(format!("\0{name}")).unwrap();
    Shim::reachable(&Address::Abstract(name), Duration::from_secs(5)).await.unwrap();
}
