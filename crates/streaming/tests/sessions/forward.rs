//! Port-forward over SPDY, bare and inside of WebSocket.

use tokio::time::timeout;

use crate::backend::{self, LARGE, PATIENCE, forward, piece, plain};
use crate::spdy::{Client, Event, Stream, Windows};
use crate::websocket;

/// Both ways that SPDY comes in.
async fn both(site: &backend::Site) -> [Client; 2] {
    let url = || site.server.port_forward(forward(&[])).unwrap();
    let bare = Client::dial(&url(), &["portforward.k8s.io"], Windows::Ignored).await;
    let socket = websocket::dial(&url(), "SPDY/3.1+portforward.k8s.io").await;
    [bare, Client::over(websocket::tunnel(socket), Windows::Ignored).await]
}

/// Opens a connection as kubectl does: the error stream first, ended at once.
async fn connect(client: &mut Client, port: &str, request: &str) -> (Stream, Stream) {
    let headers = |kind| [("streamtype", kind), ("port", port), ("requestid", request)];
    let error = client.open(&headers("error")).await;
    client.end(&error).await;
    let data = client.open(&headers("data")).await;
    (error, data)
}

#[tokio::test]
async fn many_connections_share_a_session() {
    let site = plain().await;
    for mut client in both(&site).await {
        let mut connections = Vec::new();
        for number in 0..100 {
            connections.push(connect(&mut client, "7", &number.to_string()).await);
        }
        for (number, (_, data)) in connections.iter().enumerate() {
            client.data(data, format!("connection {number}").as_bytes(), true).await;
        }
        for (number, (error, data)) in connections.iter_mut().enumerate() {
            assert_eq!(data.text().await, format!("connection {number}"));
            assert_eq!(error.text().await, "");
        }
    }
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let site = plain().await;
    for mut client in both(&site).await {
        let (mut error, mut data) = connect(&mut client, "80", "1").await;
        client.data(&data, b"what was asked", true).await;
        assert_eq!(data.text().await, "answer to what was asked");
        assert_eq!(error.text().await, "");
    }
}

#[tokio::test]
async fn a_connection_that_fails_leaves_the_others() {
    let site = plain().await;
    for mut client in both(&site).await {
        let (_, mut other) = connect(&mut client, "7", "1").await;
        let (mut error, mut data) = connect(&mut client, "1", "2").await;
        assert_eq!(error.text().await, "cannot forward to port 1 of pod p: connection refused");
        assert_eq!(data.events.recv().await, Some(Event::Reset(5)));
        let (mut error, mut data) = connect(&mut client, "9", "3").await;
        assert_eq!((data.text().await, error.text().await), (String::new(), String::new()));
        // The client still had its direction open.
        assert_eq!(data.events.recv().await, Some(Event::Reset(5)));
        let (mut error, mut data) = connect(&mut client, "82", "4").await;
        assert_eq!(data.events.recv().await, Some(Event::Reset(5)));
        assert_eq!(error.events.recv().await, Some(Event::Reset(5)));
        client.data(&other, b"still there", true).await;
        assert_eq!(other.text().await, "still there");
    }
}

#[tokio::test]
async fn a_connection_that_the_client_resets_is_cancelled() {
    let mut site = plain().await;
    for mut client in both(&site).await {
        let (_, data) = connect(&mut client, "81", "1").await;
        assert_eq!(site.events.recv().await, Some(backend::Event::Started));
        client.reset(&data).await;
        assert_eq!(
            timeout(PATIENCE, site.events.recv()).await.unwrap(),
            Some(backend::Event::Dropped)
        );
        let (_, mut data) = connect(&mut client, "7", "2").await;
        client.data(&data, b"another", true).await;
        assert_eq!(data.text().await, "another");
        assert_eq!(site.events.recv().await, Some(backend::Event::Started));
        assert_eq!(site.events.recv().await, Some(backend::Event::Dropped));
    }
}

#[tokio::test]
async fn a_client_that_vanishes_ends_its_connections() {
    let mut site = plain().await;
    for mut client in both(&site).await {
        let _connections =
            (connect(&mut client, "81", "1").await, connect(&mut client, "81", "2").await);
        for _ in 0..2 {
            assert_eq!(site.events.recv().await, Some(backend::Event::Started));
        }
        client.vanish().await;
        for _ in 0..2 {
            let event = timeout(PATIENCE, site.events.recv()).await.unwrap();
            assert_eq!(event, Some(backend::Event::Dropped));
        }
    }
}

#[tokio::test]
async fn clients_without_request_ids() {
    let site = plain().await;
    for mut client in both(&site).await {
        let mut connections = Vec::new();
        for _ in 0..3 {
            let error = client.open(&[("streamtype", "error"), ("port", "7")]).await;
            let data = client.open(&[("streamtype", "data"), ("port", "7")]).await;
            connections.push((error, data));
        }
        for (mut error, mut data) in connections {
            client.data(&data, b"old", true).await;
            assert_eq!(data.text().await, "old");
            assert_eq!(error.text().await, "");
        }
    }
}

#[tokio::test]
async fn streams_without_what_they_need_are_refused() {
    let site = plain().await;
    for mut client in both(&site).await {
        for wrong in [
            &[("streamtype", "data")][..],
            &[("port", "7")],
            &[("streamtype", "data"), ("port", "0")],
            &[("streamtype", "stdin"), ("port", "7")],
        ] {
            let mut stream = client.begin(wrong).await;
            assert_eq!(stream.events.recv().await, Some(Event::Reset(3)));
        }
        let (_, mut data) = connect(&mut client, "7", "1").await;
        client.data(&data, b"fine", true).await;
        assert_eq!(data.text().await, "fine");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transfer_is_whole_both_ways() {
    let site = plain().await;
    for mut client in both(&site).await {
        let (mut error, mut data) = connect(&mut client, "7", "1").await;
        let reading = data.check_aside();
        let mut at = 0;
        while at < LARGE {
            let bytes = piece(at, (LARGE - at).min(40_009));
            client.data(&data, &bytes, false).await;
            at += bytes.len();
        }
        client.end(&data).await;
        assert_eq!(reading.await.unwrap(), LARGE);
        assert_eq!(error.text().await, "");
    }
}
