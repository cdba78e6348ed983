//! What holds of anything that a plugin sends. Built for tests, and with `--cfg fuzzing`.

use crate::frame::{Broken, Decoder, MAX_MESSAGE, Message, encode};

/// Takes the rest of `data` for what a plugin sends; the first byte says how many bytes come at a time.
///
/// # Panics
/// Other messages come when the bytes come in pieces, one is larger than is allowed, or is not the same when it is
/// written and read again.
pub fn frames(data: &[u8]) {
    let Some((&piece, bytes)) = data.split_first() else { return };
    let whole = decode(bytes, bytes.len());
    let pieces = decode(bytes, 1 + usize::from(piece));
    assert_eq!(whole.1, pieces.1, "the pieces change how it ends");
    // What came before the fault, in the bytes that were fed with it, is not given.
    assert!(pieces.0.starts_with(&whole.0), "the pieces change the messages");
    assert!(whole.1.is_some() || whole.0 == pieces.0, "the pieces lose messages");
    let total: usize = pieces.0.iter().map(|message| message.body.len()).sum();
    assert!(total <= bytes.len(), "more comes out than went in");
    for message in &pieces.0 {
        assert!(message.body.len() <= MAX_MESSAGE, "a message of {} bytes", message.body.len());
        let again = Decoder::default().feed(&encode(message));
        assert_eq!(again.as_deref(), Ok(std::slice::from_ref(message)), "written again");
    }
}

fn decode(bytes: &[u8], piece: usize) -> (Vec<Message>, Option<Broken>) {
    let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
    for some in bytes.chunks(piece.max(1)) {
        match decoder.feed(some) {
            Ok(more) => messages.extend(more),
            Err(broken) => return (messages, Some(broken)),
        }
    }
    (messages, None)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn all_that_fuzzing_has_found_so_far_is_well_read() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/nri");
        let files = std::fs::read_dir(&corpus).unwrap();
        let read = files.map(|file| super::frames(&std::fs::read(file.unwrap().path()).unwrap()));
        assert!(read.count() > 10, "{} is not there", corpus.display());
    }
}
