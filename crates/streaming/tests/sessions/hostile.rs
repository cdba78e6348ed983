//! Clients that break the protocol, or stop in the middle.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::backend::{Site, exec, forward, piece, plain};
use crate::spdy::{Client, Event, Windows, control};
use crate::upgrade::{ask, spdy};
use crate::websocket;

async fn raw(site: &Site) -> TcpStream {
    let url = site.server.exec(exec(&["hang"], "stdin stdout")).unwrap();
    let (answer, io) = ask(&url, &spdy(&["v4.channel.k8s.io"])).await;
    assert_eq!(answer.status, 101);
    io
}

/// Whether the server still serves.
async fn serves(site: &Site) {
    let url = site.server.exec(exec(&["exit", "0"], "stdout")).unwrap();
    let mut client = Client::dial(&url, &["v4.channel.k8s.io"], Windows::Kept).await;
    let (mut error, _stdout) = (client.typed("error").await, client.typed("stdout").await);
    assert!(error.text().await.contains("Success"));
}

#[tokio::test]
async fn a_broken_frame_ends_the_session_with_a_goodbye() {
    let site = plain().await;
    let even = [&[0, 0, 0, 2], [0; 6].as_slice()].concat();
    for wrong in [
        b"\x80\x02\0\x06\0\0\0\x04\0\0\0\x01".to_vec(),
        control(6, 0, &[1; 5]),
        control(3, 0, &[0; 8]),
        control(1, 0, &[1; 20]),
        control(1, 0, &even),
        b"\x80\x03\0\x01\0\xff\xff\xff".to_vec(),
        b"\0\0\0\0\0\0\0\x01x".to_vec(),
        control(9, 0, &[0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]),
    ] {
        let mut io = raw(&site).await;
        io.write_all(&wrong).await.unwrap();
        let mut answer = Vec::new();
        io.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, control(7, 0, &[0, 0, 0, 0, 0, 0, 0, 1]), "{wrong:?}");
    }
    serves(&site).await;
}

#[tokio::test]
async fn data_for_a_stream_that_never_was_is_answered() {
    let site = plain().await;
    let mut io = raw(&site).await;
    io.write_all(b"\0\0\0\x09\0\0\0\x03abc").await.unwrap();
    let mut answer = [0; 16];
    io.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer.as_slice(), control(3, 0, &[0, 0, 0, 9, 0, 0, 0, 2]));
}

#[tokio::test]
async fn frames_that_mean_nothing_are_passed_over() {
    let site = plain().await;
    let url = site.server.exec(exec(&["cat"], "stdin stdout")).unwrap();
    let mut client = Client::dial(&url, &["v4.channel.k8s.io"], Windows::Ignored).await;
    client.control(200, 7, b"whatever").await;
    client.control(4, 0, &[0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 9]).await;
    client.control(7, 0, &[0; 8]).await;
    client.control(9, 0, &[0, 0, 0, 99, 0, 0, 0, 9]).await;
    client.ping(77).await;
    let (mut error, mut stdout) = (client.typed("error").await, client.typed("stdout").await);
    let stdin = client.typed("stdin").await;
    client.data(&stdin, b"after all", true).await;
    assert_eq!(stdout.text().await, "after all");
    assert!(error.text().await.contains("Success"));
}

#[tokio::test]
async fn a_stream_that_nobody_reads_leaves_the_others_of_a_client_with_windows() {
    let site = plain().await;
    let url = site.server.port_forward(forward(&[])).unwrap();
    let mut client = Client::dial(&url, &["portforward.k8s.io"], Windows::Kept).await;
    let mut pairs = Vec::new();
    for port in ["81", "7"] {
        for kind in ["error", "data"] {
            pairs.push(
                client.open(&[("streamtype", kind), ("port", port), ("requestid", port)]).await,
            );
        }
    }
    // All that the window lets through; nobody will read it.
    client.data(&pairs[1], &[0; 65536], false).await;
    let reading = pairs[3].check_aside();
    client.data(&pairs[3], &piece(0, 1 << 20), true).await;
    assert_eq!(reading.await.unwrap(), 1 << 20);
}

#[tokio::test]
async fn a_window_that_overflows_resets_its_stream() {
    let site = plain().await;
    let url = site.server.exec(exec(&["hang"], "stdin stdout")).unwrap();
    let mut client = Client::dial(&url, &["v4.channel.k8s.io"], Windows::Ignored).await;
    let mut stdout = client.typed("stdout").await;
    client.control(9, 0, &[0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff]).await;
    assert_eq!(stdout.events.recv().await, Some(Event::Reset(7)));
}

#[test]
fn any_bytes_leave_the_server_as_it_was() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let site = runtime.block_on(plain());
    let some = proptest::collection::vec(any::<u8>(), 0..200);
    let framed = (1..11_u8, any::<u8>(), some.clone())
        .prop_map(|(kind, flags, bytes)| control(kind, flags, &bytes));
    let frames = proptest::collection::vec(prop_oneof![some, framed], 1..8);
    proptest!(ProptestConfig::with_cases(100), |(frames in frames, over_websocket: bool)| {
        runtime.block_on(async {
            let bytes = frames.concat();
            let mut io: Box<dyn crate::upgrade::Io> = if over_websocket {
                let url = site.server.port_forward(forward(&[])).unwrap();
                let socket = websocket::dial(&url, "SPDY/3.1+portforward.k8s.io").await;
                Box::new(websocket::tunnel(socket))
            } else {
                Box::new(raw(&site).await)
            };
            // The server may have closed the connection by now.
            let _sent = io.write_all(&bytes).await;
            drop(io);
        });
    });
    runtime.block_on(serves(&site));
}
