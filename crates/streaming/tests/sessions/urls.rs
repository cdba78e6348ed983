//! URLs and what they are good for.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use berth_streaming::{Attach, Config, Exec, Kind, PortForward, Tls};
use tokio::io::AsyncReadExt as _;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::backend::{exec, forward, plain, site};
use crate::spdy::{Client, Windows};
use crate::upgrade::{ask, connect, request, spdy, split};

#[tokio::test]
async fn a_url_is_good_once() {
    let site = plain().await;
    let url = site.server.exec(exec(&["exit", "0"], "stdout")).unwrap();
    assert!(url.starts_with(&format!("http://{}/exec/", site.server.address())), "{url}");
    let (answer, _connection) = ask(&url, &spdy(&["v4.channel.k8s.io"])).await;
    assert_eq!(answer.status, 101);
    let (answer, mut connection) = ask(&url, &[("Connection", "close")]).await;
    assert_eq!(answer.status, 404);
    let mut body = String::new();
    connection.read_to_string(&mut body).await.unwrap();
    assert!(body.contains("was used already, or has expired"), "{body}");
}

#[tokio::test]
async fn urls_that_nobody_gave_out() {
    let site = plain().await;
    let url = site.server.exec(exec(&["exit", "0"], "stdout")).unwrap();
    for wrong in [
        url.replace("/exec/", "/attach/"),
        format!("http://{}/exec/unknown", site.server.address()),
        format!("http://{}/", site.server.address()),
        format!("http://{}/exec", site.server.address()),
    ] {
        assert_eq!(ask(&wrong, &spdy(&[])).await.0.status, 404, "{wrong}");
    }
}

#[tokio::test]
async fn a_url_expires() {
    let config = Config { token_lifetime: Duration::ZERO, ..Config::default() };
    let site = site(config).await;
    let url = site.server.exec(exec(&["exit", "0"], "stdout")).unwrap();
    assert_eq!(ask(&url, &spdy(&[])).await.0.status, 404);
}

#[tokio::test]
async fn their_number_has_a_bound() {
    let site = plain().await;
    for _ in 0..1000 {
        site.server.exec(exec(&["exit", "0"], "stdout")).unwrap();
    }
    let error = site.server.exec(exec(&["exit", "0"], "stdout")).unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted);
}

#[tokio::test]
async fn requests_that_ask_for_nothing() {
    let site = plain().await;
    let wrong = |result: Result<String, berth_streaming::Error>| {
        assert_eq!(result.unwrap_err().kind(), Kind::Invalid);
    };
    wrong(site.server.exec(exec(&[], "stdout")));
    wrong(site.server.exec(exec(&["cat"], "")));
    wrong(site.server.exec(exec(&["cat"], "stdin stdout stderr tty")));
    wrong(site.server.exec(Exec { container: String::new(), ..exec(&["cat"], "stdout") }));
    wrong(site.server.attach(Attach {
        container: "c".to_owned(),
        tty: false,
        stdin: false,
        stdout: false,
        stderr: false,
    }));
    wrong(site.server.port_forward(PortForward { pod: String::new(), ..forward(&[80]) }));
}

#[tokio::test]
async fn a_request_that_asks_for_no_upgrade_is_told_how() {
    let site = plain().await;
    let url = site.server.port_forward(forward(&[])).unwrap();
    assert_eq!(ask(&url, &[]).await.0.status, 400);
    let url = site.server.port_forward(forward(&[])).unwrap();
    let (answer, _) = ask(&url, &spdy(&["v4.channel.k8s.io"])).await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.header("x-accepted-stream-protocol-versions"), Some("portforward.k8s.io"));
}

#[tokio::test]
async fn streams_go_through_tls() {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut certificate = tempfile::NamedTempFile::new().unwrap();
    certificate.write_all(signed.cert.pem().as_bytes()).unwrap();
    let mut key = tempfile::NamedTempFile::new().unwrap();
    key.write_all(signed.signing_key.serialize_pem().as_bytes()).unwrap();
    let config = Config {
        tls: Some(Tls { certificate: certificate.path().to_owned(), key: key.path().to_owned() }),
        ..Config::default()
    };
    let site = site(config).await;
    let url = site.server.exec(exec(&["cat"], "stdin stdout")).unwrap();
    assert!(url.starts_with("https://"), "{url}");
    let mut roots = RootCertStore::empty();
    roots.add(signed.cert.der().clone()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let tls = TlsConnector::from(Arc::new(config));
    let tls = tls.connect(name, connect(&url).await).await.unwrap();
    let (answer, tls) = request(tls, "POST", split(&url).1, &spdy(&["v4.channel.k8s.io"])).await;
    assert_eq!(answer.status, 101);
    let mut client = Client::over(tls, Windows::Ignored).await;
    let mut error = client.typed("error").await;
    let (mut stdout, stdin) = (client.typed("stdout").await, client.typed("stdin").await);
    client.data(&stdin, b"through TLS", true).await;
    assert_eq!(stdout.text().await, "through TLS");
    assert!(error.text().await.contains("Success"));
}

#[tokio::test]
async fn a_certificate_that_is_none_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = Config {
        tls: Some(Tls { certificate: file.path().to_owned(), key: file.path().to_owned() }),
        ..Config::default()
    };
    let backend = Arc::new(crate::backend::nobody());
    let error = berth_streaming::Server::bind(config, backend).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Invalid);
}
