//! What an API server asks of a kubelet, by TLS: logs, figures, exec, attach, port-forward.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio_rustls::TlsConnector;

use super::path::NAMESPACE;
use super::process::Kubelet;
use crate::node::Node;
use crate::streams::{Call, Duplex, Forward, Session, Transport, Wants, connect};

/// The output of a command that ran to its end.
#[derive(Clone, Debug)]
pub(super) struct Said {
    /// Standard output.
    pub(super) stdout: Vec<u8>,
    /// Standard error as text.
    pub(super) stderr: String,
    /// The exit code.
    pub(super) code: i32,
}

/// A connection for a path of the kubelet.
async fn call(node: &Node, kubelet: &Kubelet, path: &str) -> Result<Call> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(kubelet.certificate.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = connect(node, Kubelet::address())?;
    let name = ServerName::from(Kubelet::address().ip());
    let socket = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    let host = Kubelet::address().to_string();
    Ok(Call { socket: Box::new(socket), host, path: path.to_owned() })
}

/// GET, to the end of the answer.
pub(super) async fn get(node: &Node, kubelet: &Kubelet, path: &str) -> Result<String> {
    let mut body = open(node, kubelet, path).await?;
    let mut text = Vec::new();
    // TLS that ends without its own goodbye is how Go ends HTTP/1.0.
    drop(body.read_to_end(&mut text).await);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// GET, up to the body, which ends with the connection: HTTP/1.0 has no chunks.
pub(super) async fn open(
    node: &Node,
    kubelet: &Kubelet,
    path: &str,
) -> Result<BufReader<Box<dyn Duplex>>> {
    let Call { mut socket, host, path } = call(node, kubelet, path).await?;
    let head = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    socket.write_all(head.as_bytes()).await?;
    let mut socket = BufReader::new(socket);
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        if socket.read_line(&mut answer).await? == 0 {
            bail!("{path}: the answer ends: {answer}");
        }
    }
    if answer.split(' ').nth(1) != Some("200") {
        let mut text = String::new();
        drop(socket.read_to_string(&mut text).await);
        bail!("{path}: {} {text}", answer.lines().next().unwrap_or_default());
    }
    Ok(socket)
}

/// Runs a command in a container, by its pod and name.
pub(super) async fn exec(
    (node, kubelet): (&Node, &Kubelet),
    (pod, container): (&str, &str),
    command: &[&str],
    (how, wants): (Transport, Wants),
) -> Result<Session> {
    let words: String = command.iter().map(|word| format!("&command={}", escape(word))).collect();
    let path = format!("/exec/{NAMESPACE}/{pod}/{container}?output=1{}{words}", flags(wants));
    Session::over(call(node, kubelet, &path).await?, how, wants).await
}

/// Attaches to a container.
pub(super) async fn attach(
    (node, kubelet): (&Node, &Kubelet),
    (pod, container): (&str, &str),
    (how, wants): (Transport, Wants),
) -> Result<Session> {
    let path = format!("/attach/{NAMESPACE}/{pod}/{container}?output=1{}", flags(wants));
    Session::over(call(node, kubelet, &path).await?, how, wants).await
}

/// Forwards connections into a pod.
pub(super) async fn forward((node, kubelet): (&Node, &Kubelet), pod: &str) -> Result<Forward> {
    let path = format!("/portForward/{NAMESPACE}/{pod}");
    Forward::over(call(node, kubelet, &path).await?).await
}

/// Waits for a command's end.
pub(super) async fn said(session: Session) -> Result<Said> {
    let ended = session.ended().await?;
    let status = ended.status.context("the session broke off")?;
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    let code = status.map_err(|why| anyhow::anyhow!("{why} {stderr}"))?;
    Ok(Said { stdout: ended.stdout, stderr, code })
}

fn flags(wants: Wants) -> String {
    let flag = |name: &str, on: bool| if on { format!("&{name}=1") } else { String::new() };
    flag("input", wants.stdin) + &flag("error", wants.stderr) + &flag("tty", wants.tty)
}

/// Percent-encoding of everything that could mean something in a query.
fn escape(word: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    word.bytes()
        .map(
            |byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") },
        )
        .collect()
}
