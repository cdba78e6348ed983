//! HTTP/1.1, just enough for a registry: one request per connection, blocking, so that it can
//! run on a thread inside a node's network.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

const DEADLINE: Duration = Duration::from_secs(20);

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// GET, PUT, ...
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A request without a body.
    #[must_use]
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    /// Adds a body.
    #[must_use]
    pub fn body(mut self, media_type: &str, body: &[u8]) -> Self {
        self.body = body.to_owned();
        self.header("content-type", media_type)
    }

    /// The value of a header.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Errors
    /// If the server does not answer in HTTP within 20 seconds.
    pub fn send(&self, to: SocketAddr) -> Result<Response> {
        let what = || format!("{} http://{to}{}", self.method, self.path);
        let stream =
            TcpStream::connect_timeout(&to, crate::patience::here(DEADLINE)).with_context(what)?;
        stream.set_read_timeout(Some(crate::patience::here(DEADLINE)))?;
        stream.set_write_timeout(Some(crate::patience::here(DEADLINE)))?;
        self.exchange(&stream, to).with_context(what)
    }

    fn exchange(&self, stream: &TcpStream, to: SocketAddr) -> Result<Response> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if self.get("host").is_none() {
            head.push_str(&format!("host: {to}\r\n"));
        }
        for (name, value) in &self.headers {
            if name != "content-length" && name != "connection" {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", self.body.len()));
        let mut writer = stream;
        writer.write_all(head.as_bytes())?;
        writer.write_all(&self.body)?;
        let mut reader = BufReader::new(stream);
        let (first, headers) = read_head(&mut reader)?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("a status line, not {first:?}"))?;
        let body = match (self.method.as_str(), status) {
            ("HEAD", _) | (_, 204 | 304) => Vec::new(),
            _ => read_body(&mut reader, &headers, true)?,
        };
        Ok(Response { status, headers, body })
    }

    /// Reads a request from a client's connection; `None` if the client closed it.
    pub(crate) fn read(stream: &TcpStream) -> Result<Option<Self>> {
        let mut reader = BufReader::new(stream);
        let (first, headers) = match read_head(&mut reader) {
            Ok(head) => head,
            Err(_) => return Ok(None),
        };
        let mut words = first.split(' ');
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            bail!("a request line, not {first:?}");
        };
        let body = read_body(&mut reader, &headers, false)?;
        Ok(Some(Self { method: method.to_owned(), path: path.to_owned(), headers, body }))
    }
}

impl Response {
    /// A response with a text body.
    #[must_use]
    pub fn new(status: u16, body: &str) -> Self {
        Self { status, headers: Vec::new(), body: body.as_bytes().to_owned() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    /// The value of a header.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Refuses any status but these.
    ///
    /// # Errors
    /// With the body, which says what a registry dislikes.
    pub fn expect(self, allowed: &[u16]) -> Result<Self> {
        if allowed.contains(&self.status) {
            return Ok(self);
        }
        bail!("status {} where {allowed:?} was expected: {}", self.status, self.text())
    }

    /// The length to announce: an answer to HEAD has one without a body.
    pub(crate) fn length(&self) -> usize {
        let announced = self.get("content-length").and_then(|value| value.parse().ok());
        if self.body.is_empty() { announced.unwrap_or(0) } else { self.body.len() }
    }

    /// The head as it goes over the wire, `length` bytes of body announced.
    pub(crate) fn head(&self, length: usize) -> String {
        let mut head = format!("HTTP/1.1 {} testkit\r\n", self.status);
        for (name, value) in &self.headers {
            if !["content-length", "transfer-encoding", "connection"].contains(&&**name) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str(&format!("content-length: {length}\r\nconnection: close\r\n\r\n"));
        head
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
}

type Head = (String, Vec<(String, String)>);

fn read_head(reader: &mut impl BufRead) -> Result<Head> {
    let mut first = String::new();
    reader.read_line(&mut first)?;
    if first.is_empty() {
        bail!("the connection was closed");
    }
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            return Ok((first.trim_end().to_owned(), headers));
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
}

fn read_body(
    reader: &mut impl BufRead,
    headers: &[(String, String)],
    until_end: bool,
) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    if find(headers, "transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = u64::from_str_radix(size.trim(), 16).context("a chunk size")?;
            reader.by_ref().take(size).read_to_end(&mut body)?;
            let mut end = String::new();
            reader.read_line(&mut end)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    match find(headers, "content-length") {
        Some(length) => {
            let length: u64 = length.parse().context("a content length")?;
            reader.take(length).read_to_end(&mut body)?;
            if body.len() as u64 != length {
                bail!("the body ended after {} of {length} bytes", body.len());
            }
        }
        None if until_end => {
            reader.read_to_end(&mut body)?;
        }
        None => {}
    }
    Ok(body)
}
