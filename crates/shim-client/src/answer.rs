//! What `start` prints: where the shim listens, and which generation of Task it speaks.

use berth_proto::bootstrap::BootstrapResult;

use crate::decode::decode;
use crate::{Address, Error, Result};

/// Which generation of the Task service a shim has: same messages, another package name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// `containerd.task.v2.Task`.
    V2,
    /// `containerd.task.v3.Task`.
    V3,
}

/// A shim's answer to `start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Where it listens.
    pub address: Address,
    /// What it speaks.
    pub generation: Generation,
}

/// Reads any of the three forms in the field: a protobuf `BootstrapResult` (containerd 2.3), JSON
/// (from 1.7), and a plain address, which means Task v2.
///
/// # Errors
/// It is none of these, or names a protocol, version or address that Berth does not speak.
pub fn parse_answer(bytes: &[u8]) -> Result<Answer> {
    let text = bytes.trim_ascii();
    if text.is_empty() {
        return Err(wrong("empty"));
    }
    // The two text forms start with `{`, `u` or `/`; as protobuf tags these would be fields 15, 14
    // and 5 of types that BootstrapResult does not have.
    if text.starts_with(b"{") {
        return json(text);
    }
    match std::str::from_utf8(text) {
        Ok(address) if address.starts_with("unix://") || address.starts_with(['/', '@']) => {
            answer(2, "ttrpc", address)
        }
        _ => protobuf(bytes),
    }
}

fn json(text: &[u8]) -> Result<Answer> {
    let value: serde_json::Value =
        serde_json::from_slice(text).map_err(|e| wrong(&format!("{e} in {}", excerpt(text))))?;
    let string = |key: &str| value.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
    let version = value.get("version").and_then(serde_json::Value::as_i64).unwrap_or_default();
    answer(version, string("protocol"), string("address"))
}

fn protobuf(bytes: &[u8]) -> Result<Answer> {
    let result = decode::<BootstrapResult>(bytes).ok().filter(|r| !r.address.is_empty());
    let result = result.ok_or_else(|| {
        let shown = excerpt(bytes);
        wrong(&format!("neither a bootstrap result nor JSON nor an address: {shown}"))
    })?;
    answer(result.version.into(), &result.protocol, &result.address)
}

fn answer(version: i64, protocol: &str, address: &str) -> Result<Answer> {
    if !matches!(protocol, "" | "ttrpc") {
        let shown = excerpt(protocol.as_bytes());
        return Err(wrong(&format!("it speaks \"{shown}\"; Berth speaks ttrpc")));
    }
    let generation = match version {
        2 => Generation::V2,
        3 => Generation::V3,
        other => return Err(wrong(&format!("version {other} of the shim API is neither 2 nor 3"))),
    };
    Ok(Answer { address: Address::parse(address)?, generation })
}

/// The beginning of what a shim printed, on one line.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).escape_debug().to_string()
}

fn wrong(problem: &str) -> Error {
    Error::Answer { problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::Message as _;

    fn is(bytes: &[u8], generation: Generation) {
        let got = parse_answer(bytes).unwrap();
        let address = Address::Path("/run/s/a.sock".into());
        assert_eq!(got, Answer { address, generation }, "{bytes:?}");
    }

    fn bootstrap(version: i32, protocol: &str) -> Vec<u8> {
        let result = BootstrapResult {
            version,
            address: "unix:///run/s/a.sock".into(),
            protocol: protocol.into(),
            ..BootstrapResult::default()
        };
        result.write_to_bytes().unwrap()
    }

    #[test]
    fn the_three_forms_in_the_field() {
        is(b"unix:///run/s/a.sock\n", Generation::V2);
        is(b"/run/s/a.sock", Generation::V2);
        is(br#"{"version":3,"address":"unix:///run/s/a.sock","protocol":"ttrpc"}"#, Generation::V3);
        is(b" {\"version\":2,\"address\":\"unix:///run/s/a.sock\"}\n", Generation::V2);
        is(&bootstrap(3, "ttrpc"), Generation::V3);
        is(&bootstrap(2, ""), Generation::V2);
    }

    #[test]
    fn an_answer_that_was_cut_short_is_no_answer() {
        let json = br#"{"version":3,"address":"unix:///run/s/a.sock","protocol":"ttrpc"}"#;
        for cut in 0..json.len() {
            assert!(parse_answer(&json[..cut]).is_err(), "{cut}");
        }
        let wire = bootstrap(3, "ttrpc");
        // Cut inside the address; a missing protocol is ttrpc.
        for cut in 0..2 + 2 + "unix:///run/s/a.sock".len() {
            assert!(parse_answer(&wire[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn an_error_repeats_no_more_than_a_message_should() {
        let long = "x".repeat(60_000);
        for text in [
            format!("{{\"version\":3}}\x14{long}"),
            format!(r#"{{"version":3,"protocol":"{long}"}}"#),
            format!(r#"{{"version":3,"address":"/{long}"}}"#),
            format!("/{long}\x1b[31m"),
            long,
        ] {
            let text = parse_answer(text.as_bytes()).unwrap_err().to_string();
            assert!(text.len() < 500 && !text.contains(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn what_berth_does_not_speak_is_refused_with_a_reason() {
        for (bytes, wanted) in [
            (b"".to_vec(), "empty"),
            (b"panic: no".to_vec(), "neither a bootstrap result"),
            (bootstrap(3, "grpc"), "speaks ttrpc"),
            (bootstrap(4, "ttrpc"), "version 4"),
            (br#"{"version":3,"address":"tcp://x"}"#.to_vec(), "neither an absolute path"),
        ] {
            let text = parse_answer(&bytes).unwrap_err().to_string();
            assert!(text.contains(wanted), "{text}");
        }
    }
}
