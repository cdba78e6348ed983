//! The HTTP upgrade: what the client's request says that it speaks, and the answer to that.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Response, StatusCode};

use crate::port_forward;
use crate::remote_command::{self, Form, Protocol, Version};
use crate::websocket::Codec;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";
const WEBSOCKET: &str = "websocket";
/// RFC 6455, section 1.3.
const ACCEPT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A protocol's name and what it means; the empty name is a client that names none.
type Offer<T> = (&'static str, T);

const fn channels(codec: Codec, closes: bool, form: Form) -> remote_command::Transport {
    remote_command::Transport::Channels(Protocol { codec, closes, form })
}

/// Best first.
const COMMAND_SPDY: &[Offer<remote_command::Transport>] = &[
    ("v4.channel.k8s.io", remote_command::Transport::Spdy(Version::V4)),
    ("v3.channel.k8s.io", remote_command::Transport::Spdy(Version::V3)),
    ("v2.channel.k8s.io", remote_command::Transport::Spdy(Version::V2)),
    ("channel.k8s.io", remote_command::Transport::Spdy(Version::V1)),
    ("", remote_command::Transport::Spdy(Version::V1)),
];

const COMMAND_WEBSOCKET: &[Offer<remote_command::Transport>] = &[
    ("v5.channel.k8s.io", channels(Codec::Binary, true, Form::Json)),
    ("v4.channel.k8s.io", channels(Codec::Binary, false, Form::Json)),
    ("v4.base64.channel.k8s.io", channels(Codec::Base64, false, Form::Json)),
    ("channel.k8s.io", channels(Codec::Binary, false, Form::Text)),
    ("base64.channel.k8s.io", channels(Codec::Base64, false, Form::Text)),
    ("", channels(Codec::Binary, false, Form::Text)),
];

const FORWARD_SPDY: &[Offer<port_forward::Transport>] =
    &[("portforward.k8s.io", port_forward::Transport::Spdy), ("", port_forward::Transport::Spdy)];

const FORWARD_WEBSOCKET: &[Offer<port_forward::Transport>] = &[
    ("SPDY/3.1+portforward.k8s.io", port_forward::Transport::Tunnel),
    ("v4.channel.k8s.io", port_forward::Transport::Channels(Codec::Binary)),
    ("v4.base64.channel.k8s.io", port_forward::Transport::Channels(Codec::Base64)),
    ("", port_forward::Transport::Channels(Codec::Binary)),
];

/// What was agreed on, and the answer that says so.
#[derive(Debug)]
pub(crate) struct Agreed<T> {
    pub(crate) transport: T,
    pub(crate) response: Response<String>,
}

/// A request that is refused, with the answer.
pub(crate) type Negotiated<T> = Result<Agreed<T>, Box<Response<String>>>;

/// For exec and attach.
pub(crate) fn command(headers: &HeaderMap) -> Negotiated<remote_command::Transport> {
    negotiate(headers, COMMAND_SPDY, COMMAND_WEBSOCKET)
}

/// For port-forward.
pub(crate) fn forward(headers: &HeaderMap) -> Negotiated<port_forward::Transport> {
    negotiate(headers, FORWARD_SPDY, FORWARD_WEBSOCKET)
}

fn negotiate<T: Copy>(
    headers: &HeaderMap,
    spdy: &[Offer<T>],
    websocket: &[Offer<T>],
) -> Negotiated<T> {
    let upgrades = words(headers, &CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"));
    let to = |name: &str| {
        upgrades && words(headers, &UPGRADE).any(|word| word.eq_ignore_ascii_case(name))
    };
    if to(WEBSOCKET) {
        let key = websocket_key(headers)?;
        let (name, transport) = choose(headers, &SEC_WEBSOCKET_PROTOCOL, websocket)?;
        let mut response = switch(WEBSOCKET, &SEC_WEBSOCKET_PROTOCOL, name);
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept(key));
        Ok(Agreed { transport, response })
    } else if to(SPDY) {
        let (name, transport) = choose(headers, &STREAM_PROTOCOL, spdy)?;
        let response = switch(SPDY, &STREAM_PROTOCOL, name);
        Ok(Agreed { transport, response })
    } else {
        let text = "this URL serves streams: ask for an upgrade to SPDY/3.1 or to websocket";
        Err(Box::new(plain(StatusCode::BAD_REQUEST, text)))
    }
}

/// The words of a header that is a list, in one line or several.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

/// The first of ours that the client names.
fn choose<T: Copy>(
    headers: &HeaderMap,
    header: &HeaderName,
    ours: &[Offer<T>],
) -> Result<Offer<T>, Box<Response<String>>> {
    let named: Vec<&str> = words(headers, header).collect();
    let fits = |(name, _): &&Offer<T>| match named.is_empty() {
        true => name.is_empty(),
        false => named.contains(name),
    };
    ours.iter().find(fits).copied().ok_or_else(|| {
        let names = ours.iter().map(|(name, _)| *name).filter(|name| !name.is_empty());
        let names = names.collect::<Vec<_>>().join(", ");
        let text = format!("none of the protocols {named:?} is spoken here; these are: {names}");
        let mut response = plain(StatusCode::FORBIDDEN, &text);
        if let Ok(names) = HeaderValue::from_str(&names) {
            response.headers_mut().insert(ACCEPTED, names);
        }
        Box::new(response)
    })
}

fn switch(to: &'static str, header: &HeaderName, protocol: &'static str) -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(to));
    if !protocol.is_empty() {
        headers.insert(header, HeaderValue::from_static(protocol));
    }
    response
}

/// The key of a WebSocket request that is one.
fn websocket_key(headers: &HeaderMap) -> Result<&HeaderValue, Box<Response<String>>> {
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let text = "this version of WebSocket is not spoken here: use 13";
        let mut response = plain(StatusCode::UPGRADE_REQUIRED, text);
        let version = HeaderValue::from_static("13");
        response.headers_mut().insert(SEC_WEBSOCKET_VERSION, version);
        return Err(Box::new(response));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY);
    key.filter(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == 16)).ok_or_else(|| {
        let text = "Sec-WebSocket-Key is not 16 bytes in base64";
        Box::new(plain(StatusCode::BAD_REQUEST, text))
    })
}

fn accept(key: &HeaderValue) -> HeaderValue {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(ACCEPT);
    let text = STANDARD.encode(digest.finish());
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// An answer that is a sentence.
pub(crate) fn plain(status: StatusCode, text: &str) -> Response<String> {
    let mut response = Response::new(format!("{text}\n"));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut map = HeaderMap::new();
        for (name, value) in pairs.iter().map(pair) {
            map.append(name, value);
        }
        map
    }

    const UP: (&str, &str) = ("connection", "keep-alive, Upgrade");
    const VERSION: (&str, &str) = ("sec-websocket-version", "13");
    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");

    #[test]
    fn the_best_version_is_chosen() {
        let all = headers(&[
            UP,
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v2.channel.k8s.io"),
            ("x-stream-protocol-version", "v9.channel.k8s.io, v3.channel.k8s.io"),
        ]);
        let agreed = command(&all).unwrap();
        assert_eq!(agreed.transport, remote_command::Transport::Spdy(Version::V3));
        assert_eq!(agreed.response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(agreed.response.headers()[STREAM_PROTOCOL], "v3.channel.k8s.io");
        let none = command(&headers(&[UP, ("upgrade", "spdy/3.1")])).unwrap();
        assert_eq!(none.transport, remote_command::Transport::Spdy(Version::V1));
        assert!(none.response.headers().get(STREAM_PROTOCOL).is_none());
    }

    #[test]
    fn websocket_answers_the_key() {
        let request = headers(&[
            UP,
            ("upgrade", "websocket"),
            VERSION,
            KEY,
            ("sec-websocket-protocol", "v4.channel.k8s.io, v5.channel.k8s.io"),
        ]);
        let agreed = command(&request).unwrap();
        assert_eq!(agreed.transport, channels(Codec::Binary, true, Form::Json));
        // The example of RFC 6455, section 1.3.
        assert_eq!(agreed.response.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(agreed.response.headers()[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
    }

    #[test]
    fn what_cannot_be_spoken_is_refused() {
        let refused = |pairs: &[(&'static str, &'static str)]| {
            let response = forward(&headers(pairs)).unwrap_err();
            response.status()
        };
        assert_eq!(refused(&[]), StatusCode::BAD_REQUEST);
        assert_eq!(refused(&[("upgrade", "SPDY/3.1")]), StatusCode::BAD_REQUEST);
        assert_eq!(refused(&[UP, ("upgrade", "h2c")]), StatusCode::BAD_REQUEST);
        let other = ("x-stream-protocol-version", "v4.channel.k8s.io");
        assert_eq!(refused(&[UP, ("upgrade", "SPDY/3.1"), other]), StatusCode::FORBIDDEN);
        let websocket = ("upgrade", "websocket");
        assert_eq!(refused(&[UP, websocket, KEY]), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(refused(&[UP, websocket, VERSION]), StatusCode::BAD_REQUEST);
        let short = ("sec-websocket-key", "dGhl");
        assert_eq!(refused(&[UP, websocket, VERSION, short]), StatusCode::BAD_REQUEST);
    }
}
