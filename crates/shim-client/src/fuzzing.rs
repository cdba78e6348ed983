//! What holds of anything that a shim sends or prints. Built for tests, and with `--cfg fuzzing`.

use berth_proto::bootstrap::BootstrapResult;
use berth_proto::types::Envelope;
use protobuf::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use crate::decode::decode;
use crate::events::event;
use crate::frame::{HEADER, MAX_MESSAGE, Next, append_request, next};
use crate::{Answer, Generation, Shim, parse_answer};

thread_local! {
    static RUNTIME: std::io::Result<Runtime> = Builder::new_current_thread().enable_all().build();
}

/// How many calls are under way at once.
const CALLS: u32 = 9;

/// The longest message that names what a shim printed, bytes.
const MESSAGE: usize = 4 << 10;

/// Takes the rest of `data` for what a shim prints at its start, for an event, and for what it sends to nine calls.
/// The first byte says whether that is the stream of frames or the payload of each answer, and how many bytes come
/// at a time.
///
/// # Panics
/// What is understood is not the same in another of its forms; an error repeats more than a message should; the
/// calls end otherwise when the bytes come in pieces; or a frame is not what its header says.
pub fn shim(data: &[u8]) {
    let Some((&how, bytes)) = data.split_first() else { return };
    bootstrap(bytes);
    heard(bytes);
    answers(how, bytes);
}

fn bootstrap(bytes: &[u8]) {
    let answer = match parse_answer(bytes) {
        Ok(answer) => answer,
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() <= MESSAGE, "a message of {} bytes", text.len());
            assert!(!text.contains(char::is_control), "control characters: {text:?}");
            return;
        }
    };
    let Answer { address, generation } = &answer;
    let (address, version) =
        (address.to_string(), if *generation == Generation::V2 { 2 } else { 3 });
    let json = serde_json::json!({"version": version, "protocol": "ttrpc", "address": address});
    let result = BootstrapResult { version, address, ..BootstrapResult::default() };
    let again = parse_answer(json.to_string().as_bytes());
    assert_eq!(again.ok().as_ref(), Some(&answer), "as JSON");
    let again = parse_answer(&result.write_to_bytes().unwrap_or_default());
    assert_eq!(again.ok().as_ref(), Some(&answer), "as protobuf");
}

fn heard(bytes: &[u8]) {
    if let Ok(envelope) = decode::<Envelope>(bytes) {
        let heard = event(&envelope);
        let again = envelope.write_to_bytes().ok();
        let again = again.and_then(|bytes| decode::<Envelope>(&bytes).ok());
        assert_eq!(again.as_ref().map(event), Some(heard), "the same event, written again");
    }
}

fn answers(how: u8, bytes: &[u8]) {
    let stream = if how & 1 == 0 { bytes.to_vec() } else { answering(bytes) };
    frames(&stream);
    // Each piece costs two system calls.
    let piece = (1 + usize::from(how >> 1)).max(stream.len() / 64);
    RUNTIME.with(|runtime| {
        let runtime = runtime.as_ref().expect("a runtime");
        let whole = runtime.block_on(calls(&stream, stream.len()));
        assert_eq!(whole, runtime.block_on(calls(&stream, piece)), "the pieces change it");
    });
}

/// An answer to each of the calls, with this payload.
fn answering(payload: &[u8]) -> Vec<u8> {
    let response = ttrpc::proto::Response { payload: payload.to_vec(), ..Default::default() };
    let message = response.write_to_bytes().unwrap_or_default();
    let mut stream = Vec::new();
    for id in (0..CALLS).map(|call| 2 * call + 1) {
        let start = stream.len();
        append_request(&mut stream, id, &message);
        stream[start + 8] = 2;
    }
    stream
}

fn frames(mut stream: &[u8]) {
    loop {
        let taken = match next(stream) {
            Next::Incomplete => return,
            Next::Oversized(length) => return assert!(length > MAX_MESSAGE),
            Next::Other(taken) => taken,
            Next::Response(incoming, taken) => {
                assert_eq!((incoming.message.len(), stream[8]), (taken - HEADER, 2));
                assert!(incoming.message.len() <= MAX_MESSAGE, "a message beyond the limit");
                let mut again = Vec::new();
                append_request(&mut again, incoming.stream, &incoming.message);
                assert_eq!((&again[..8], &again[HEADER..]), (&stream[..8], &stream[HEADER..taken]));
                taken
            }
        };
        stream = &stream[taken..];
    }
}

/// How nine calls end when a shim sends `stream`, so many bytes at a time, and goes.
async fn calls(stream: &[u8], piece: usize) -> Vec<String> {
    let Ok((ours, mut theirs)) = UnixStream::pair() else { return Vec::new() };
    let shim = Shim::over(ours, Generation::V3);
    let says = async {
        // The first call is written when it is made, and so are the others before anything is awaited.
        let mut request = [0; 1];
        let _first = theirs.read(&mut request).await;
        for piece in stream.chunks(piece.max(1)) {
            // Whoever does not speak ttrpc is not listened to.
            if theirs.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let _gone = theirs.shutdown().await;
        let mut rest = Vec::new();
        let _requests = theirs.read_to_end(&mut rest).await;
    };
    let asks = async {
        let ends = tokio::join!(
            biased;
            async { format!("{:?}", shim.state("c", None).await) },
            async { format!("{:?}", shim.wait("c", None).await) },
            async { format!("{:?}", shim.delete("c", None).await) },
            async { format!("{:?}", shim.pids("c").await) },
            async { format!("{:?}", shim.counted("c").await) },
            async { format!("{:?}", shim.exit_facts("c").await) },
            async { format!("{:?}", shim.start_sandbox("c").await) },
            async { format!("{:?}", shim.sandbox_status("c", true).await) },
            async { format!("{:?}", shim.sandbox_metrics("c").await) },
        );
        let why = shim.closed().await.to_string();
        drop(shim);
        let (a, b, c, d, e, f, g, h, i) = ends;
        vec![a, b, c, d, e, f, g, h, i, why]
    };
    let (ends, ()) = tokio::join!(biased; asks, says);
    ends
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn all_that_fuzzing_has_found_so_far_is_well_read() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/shim");
        let files = std::fs::read_dir(&corpus).unwrap();
        let read = files.map(|file| super::shim(&std::fs::read(file.unwrap().path()).unwrap()));
        assert!(read.count() > 10, "{} is not there", corpus.display());
    }
}
