//! The HTTP side of a client.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// The head of an answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (other, value) = line.split_once(": ")?;
            other.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Address and path of a URL.
pub(crate) fn split(url: &str) -> (&str, &str) {
    let (_, rest) = url.split_once("://").unwrap();
    rest.split_at(rest.find('/').unwrap())
}

pub(crate) async fn connect(url: &str) -> TcpStream {
    let stream = TcpStream::connect(split(url).0).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends a request and reads the head of the answer; the connection goes on after it.
pub(crate) async fn request<T: Io>(
    mut io: T,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (Answer, T) {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: berth\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    io.write_all((text + "\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (Answer { status, head }, io)
}

pub(crate) async fn ask(url: &str, headers: &[(&str, &str)]) -> (Answer, TcpStream) {
    request(connect(url).await, "POST", split(url).1, headers).await
}

/// The headers of a client that speaks SPDY.
pub(crate) fn spdy<'a>(versions: &'a [&'a str]) -> Vec<(&'a str, &'a str)> {
    let mut headers = vec![("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];
    headers.extend(versions.iter().map(|version| ("X-Stream-Protocol-Version", *version)));
    headers
}
