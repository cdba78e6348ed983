//! What the daemon must not do itself: namespaces, and whatever touches paths of strangers.
//!
//! `berth-helper VERB` reads one JSON object from stdin and answers with one on stdout. On failure
//! that is `{"error":{"kind":...,"message":...}}`, and the exit code is 1. It runs as a short-lived
//! child with a deadline: a path on a dead network file system may block it for ever, and then only
//! it. Two stay: `pause`, as the first process of a PID namespace, and what `hold` leaves behind.
//!
//! The program is one static file of one thread: forking is safe in it.

mod cdi;
mod changes;
mod error;
mod hold;
mod idmap;
mod mounts;
mod namespaces;
mod pack;
mod pause;
mod read;
mod relabel;
mod stat;
mod unpack;

use std::io::{Read, Write};
use std::process::ExitCode;

use error::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest request that is read.
const REQUEST: u64 = 16 << 20;

/// The answer of a verb that has nothing to tell.
#[derive(Serialize)]
struct Done {}

fn main() -> ExitCode {
    let verb = std::env::args().nth(1).unwrap_or_default();
    let answer = match verb.as_str() {
        "namespaces" => answer(namespaces::namespaces),
        "unpin" => answer(namespaces::unpin),
        "stat" => answer(stat::stat),
        "unmount" => answer(mounts::unmount),
        "idmap" => answer(idmap::idmap),
        "mount" => answer(mounts::mount),
        "read" => answer(read::read),
        "cdi" => answer(cdi::cdi),
        "relabel" => answer(relabel::relabel),
        "changes" => answer(changes::changes),
        "pack" => answer(pack::pack),
        "discard" => answer(pack::discard),
        "peek" => answer(unpack::peek),
        "unpack" => answer(unpack::unpack),
        "hold" => answer(hold::hold),
        "pause" => return pause::pause(),
        _ => Err(Error::Verb { verb }),
    };
    let (text, code) = match answer {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.to_json(), ExitCode::FAILURE),
    };
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")) {
        Ok(()) => code,
        // Nobody reads: the work is done or not, and the exit code is all that is left to say so.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Reads the request of a verb, does it, and writes its answer as JSON.
fn answer<Request: DeserializeOwned, Answer: Serialize>(
    verb: impl FnOnce(Request) -> Result<Answer>,
) -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(REQUEST).read_to_string(&mut text);
    read.map_err(|source| Error::Request { reason: source.to_string() })?;
    let request = serde_json::from_str(&text)
        .map_err(|source| Error::Request { reason: source.to_string() })?;
    let answer = verb(request)?;
    serde_json::to_string(&answer).map_err(|source| Error::Request { reason: source.to_string() })
}
