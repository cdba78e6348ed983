//! Exec and attach over SPDY.

use berth_streaming::{Attach, Config};
use tokio::time::timeout;

use crate::backend::{self, Event, LARGE, PATIENCE, check, exec, piece, plain, site};
use crate::spdy::{self, Client, Stream, Windows};

const V4: &[&str] = &["v4.channel.k8s.io"];
const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;

async fn dial(url: &str) -> Client {
    Client::dial(url, V4, Windows::Ignored).await
}

/// Error stream and stdout.
async fn output(client: &mut Client) -> (Stream, Stream) {
    (client.typed("error").await, client.typed("stdout").await)
}

#[tokio::test]
async fn the_exit_code_is_in_the_status() {
    let site = plain().await;
    for (code, status) in [
        ("0", SUCCESS.to_owned()),
        ("3", r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#.to_owned()),
    ] {
        let url = site.server.exec(exec(&["exit", code], "stdout")).unwrap();
        let mut client = dial(&url).await;
        let (mut error, mut stdout) = output(&mut client).await;
        assert_eq!(error.text().await, status);
        assert_eq!(stdout.text().await, "");
        assert_eq!(client.ended().await, Some(0));
    }
}

#[tokio::test]
async fn older_clients_read_the_bare_message() {
    let site = plain().await;
    for version in ["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"] {
        for (command, message) in [
            (["exit", "0"], ""),
            (["exit", "3"], "command terminated with non-zero exit code: 3"),
            (["fail", "no such file"], "no such file"),
        ] {
            let url = site.server.exec(exec(&command, "stdout")).unwrap();
            let mut client = Client::dial(&url, &[version], Windows::Ignored).await;
            let (mut error, _stdout) = output(&mut client).await;
            assert_eq!(error.text().await, message, "{version}");
        }
    }
}

#[tokio::test]
async fn a_failure_is_told() {
    let site = plain().await;
    let url = site.server.exec(exec(&["fail", "no shell"], "stdout")).unwrap();
    let mut client = dial(&url).await;
    let (mut error, _stdout) = output(&mut client).await;
    let status = error.text().await;
    assert!(status.contains(r#""message":"no shell","reason":"InternalError""#), "{status}");
}

#[tokio::test]
async fn the_two_outputs_are_apart() {
    let site = plain().await;
    let url = site.server.exec(exec(&["both"], "stdout stderr")).unwrap();
    let mut client = dial(&url).await;
    let (mut error, mut stdout) = output(&mut client).await;
    let mut stderr = client.typed("stderr").await;
    assert_eq!(stdout.text().await, "to stdout");
    assert_eq!(stderr.text().await, "to stderr");
    assert_eq!(error.text().await, SUCCESS);
}

#[tokio::test]
async fn the_end_of_stdin_is_seen() {
    let site = plain().await;
    for windows in [Windows::Ignored, Windows::Kept] {
        let url = site.server.exec(exec(&["cat"], "stdin stdout")).unwrap();
        let mut client = Client::dial(&url, V4, windows).await;
        let (mut error, mut stdout) = output(&mut client).await;
        let stdin = client.typed("stdin").await;
        client.data(&stdin, b"one ", false).await;
        client.ping(1).await;
        client.data(&stdin, b"two", true).await;
        assert_eq!(stdout.text().await, "one two");
        assert_eq!(error.text().await, SUCCESS);
    }
}

#[tokio::test]
async fn attach_has_a_status_too() {
    let site = plain().await;
    for (container, status) in [("c", SUCCESS), ("d", "container d does not run")] {
        let attach = Attach {
            container: container.to_owned(),
            tty: false,
            stdin: true,
            stdout: true,
            stderr: false,
        };
        let url = site.server.attach(attach).unwrap();
        assert!(url.contains("/attach/"), "{url}");
        let mut client = dial(&url).await;
        let (mut error, mut stdout) = output(&mut client).await;
        let stdin = client.typed("stdin").await;
        client.data(&stdin, b"hello", true).await;
        let expected = if container == "c" { "hello" } else { "" };
        assert_eq!(stdout.text().await, expected);
        let said = error.text().await;
        assert!(said.contains(status), "{said}");
    }
}

#[tokio::test]
async fn a_terminal_has_sizes() {
    let site = plain().await;
    let url = site.server.exec(exec(&["sizes", "2"], "stdout tty")).unwrap();
    let mut client = dial(&url).await;
    let (mut error, mut stdout) = output(&mut client).await;
    let resize = client.typed("resize").await;
    client.data(&resize, b"{\"Width\":80,\"Height\":24}\n", false).await;
    assert_eq!(stdout.events.recv().await, Some(spdy::Event::Data(b"80x24\n".to_vec())));
    client.data(&resize, b"{\"Width\":132,\"Hei", false).await;
    client.data(&resize, b"ght\":43}\n", false).await;
    assert_eq!(stdout.text().await, "132x43\n");
    assert_eq!(error.text().await, SUCCESS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_output_is_whole() {
    let site = plain().await;
    for windows in [Windows::Ignored, Windows::Kept] {
        let url = site.server.exec(exec(&["give"], "stdout")).unwrap();
        let mut client = Client::dial(&url, V4, windows).await;
        let (mut error, mut stdout) = output(&mut client).await;
        let mut at = 0;
        while let Some(spdy::Event::Data(bytes)) = stdout.events.recv().await {
            check(at, &bytes);
            at += bytes.len();
        }
        assert_eq!(at, LARGE);
        assert_eq!(error.text().await, SUCCESS);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_input_is_whole() {
    let site = plain().await;
    for windows in [Windows::Ignored, Windows::Kept] {
        let url = site.server.exec(exec(&["take"], "stdin stdout")).unwrap();
        let mut client = Client::dial(&url, V4, windows).await;
        let (mut error, mut stdout) = output(&mut client).await;
        let stdin = client.typed("stdin").await;
        let mut at = 0;
        while at < LARGE {
            let bytes = piece(at, (LARGE - at).min(300_007));
            client.data(&stdin, &bytes, false).await;
            at += bytes.len();
        }
        client.end(&stdin).await;
        assert_eq!(stdout.text().await, LARGE.to_string());
        assert_eq!(error.text().await, SUCCESS);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_at_once() {
    let site = plain().await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        let url = site.server.exec(exec(&["cat"], "stdin stdout")).unwrap();
        let mut client = dial(&url).await;
        let (error, stdout) = output(&mut client).await;
        let stdin = client.typed("stdin").await;
        clients.push((client, error, stdin, stdout));
    }
    for (number, (client, _, stdin, _)) in clients.iter().enumerate() {
        client.data(stdin, format!("session {number}").as_bytes(), true).await;
    }
    for (number, (_, error, _, stdout)) in clients.iter_mut().enumerate() {
        assert_eq!(stdout.text().await, format!("session {number}"));
        assert_eq!(error.text().await, SUCCESS);
    }
}

#[tokio::test]
async fn a_client_that_vanishes_cancels_the_command() {
    let mut site = plain().await;
    let url = site.server.exec(exec(&["hang"], "stdin stdout")).unwrap();
    let mut client = dial(&url).await;
    let streams = (output(&mut client).await, client.typed("stdin").await);
    assert_eq!(site.events.recv().await, Some(Event::Started));
    drop(streams);
    client.vanish().await;
    assert_eq!(timeout(PATIENCE, site.events.recv()).await.unwrap(), Some(Event::Dropped));
}

#[tokio::test]
async fn a_client_that_vanishes_with_its_input_unread_cancels_the_command() {
    let config = Config { ping: std::time::Duration::from_millis(10), ..Config::default() };
    let mut site = site(config).await;
    let url = site.server.exec(exec(&["deaf"], "stdin stdout")).unwrap();
    let mut client = dial(&url).await;
    let _output = output(&mut client).await;
    let stdin = client.typed("stdin").await;
    assert_eq!(site.events.recv().await, Some(Event::Started));
    let (bytes, mut pings) = (vec![0; 15 << 20], client.pings());
    let pinged = async {
        for _ in 0..3 {
            pings.recv().await.unwrap();
        }
    };
    tokio::select! {
        // It is more than all buffers hold.
        () = client.data(&stdin, &bytes, false) => panic!("the server took all of it"),
        () = pinged => {}
    }
    client.vanish().await;
    assert_eq!(timeout(PATIENCE, site.events.recv()).await.unwrap(), Some(Event::Dropped));
}

#[tokio::test]
async fn a_client_that_gives_up_its_error_stream_cancels_the_command() {
    let mut site = plain().await;
    let url = site.server.exec(exec(&["hang"], "stdout")).unwrap();
    let mut client = dial(&url).await;
    let (error, _stdout) = output(&mut client).await;
    assert_eq!(site.events.recv().await, Some(Event::Started));
    client.reset(&error).await;
    assert_eq!(timeout(PATIENCE, site.events.recv()).await.unwrap(), Some(Event::Dropped));
    assert_eq!(client.ended().await, Some(0));
}

#[tokio::test]
async fn a_server_that_is_dropped_cancels_the_command() {
    let backend::Site { server, mut events } = plain().await;
    let url = server.exec(exec(&["hang"], "stdout")).unwrap();
    let mut client = dial(&url).await;
    let _streams = output(&mut client).await;
    assert_eq!(events.recv().await, Some(Event::Started));
    drop(server);
    assert_eq!(timeout(PATIENCE, events.recv()).await.unwrap(), Some(Event::Dropped));
}

#[tokio::test]
async fn a_client_without_its_streams_is_told() {
    let config = Config { creation: std::time::Duration::from_millis(1), ..Config::default() };
    let mut site = site(config).await;
    let url = site.server.exec(exec(&["exit", "0"], "stdin stdout")).unwrap();
    let mut client = dial(&url).await;
    // The server may have given up before it sees the stream, and refuses it then.
    let mut error = client.begin(&[("streamtype", "error")]).await;
    match error.events.recv().await {
        Some(spdy::Event::Reply) => {
            let status = error.text().await;
            assert!(status.contains("did not open all of its streams"), "{status}");
        }
        Some(spdy::Event::Reset(status)) => assert_eq!(status, 3),
        None => {}
        other => panic!("{other:?}"),
    }
    client.ended().await;
    drop(site.server);
    assert_eq!(site.events.recv().await, None, "nothing was started");
}

#[tokio::test]
async fn a_session_that_does_nothing_ends() {
    let config = Config { idle: std::time::Duration::from_millis(1), ..Config::default() };
    let site = site(config).await;
    let url = site.server.exec(exec(&["hang"], "stdout")).unwrap();
    // No GOAWAY: the connection is cut.
    assert_eq!(dial(&url).await.ended().await, None);
}

#[tokio::test]
async fn streams_that_nobody_asked_for_are_refused() {
    let site = plain().await;
    let url = site.server.exec(exec(&["cat"], "stdin stdout")).unwrap();
    let mut client = dial(&url).await;
    let mut error = client.typed("error").await;
    for wrong in [&[("streamtype", "error")][..], &[("streamtype", "x")], &[]] {
        let mut stream = client.begin(wrong).await;
        assert_eq!(stream.events.recv().await, Some(spdy::Event::Reset(3)));
    }
    let (mut stdout, stdin) = (client.typed("stdout").await, client.typed("stdin").await);
    let mut late = client.begin(&[("streamtype", "stderr")]).await;
    assert_eq!(late.events.recv().await, Some(spdy::Event::Reset(3)));
    client.end(&stdin).await;
    assert_eq!(stdout.text().await, "");
    assert_eq!(error.text().await, SUCCESS);
}
