//! Turns the stream of a layer into a directory, in one pass, with both digests verified.
//!
//! ```text
//!  source ─▶ digest, size ─▶ gunzip / zstd / as it is ─▶ bounded queue ─▶ diff id ─▶ untar
//!  └──────────── a thread of its own ───────────────┘               └── the caller's thread ──┘
//! ```
//!
//! Decompression is the slowest part (some 400 MB/s for gzip on one core), so it has a thread to
//! itself. The compression is told from the first bytes: media types lie more often than magic.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use crate::apply::{self, Applied};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};

const CHUNK: usize = 256 * 1024;
/// Chunks between the two threads: enough to ride out a slow file system, little enough memory.
const QUEUE: usize = 4;
/// The largest window that a zstd stream may ask for: 128 MiB, as the zstd tool allows.
const ZSTD_WINDOW_LOG: u32 = 27;

/// What a layer's stream must turn out to be.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// The digest of the uncompressed archive.
    pub(crate) diff_id: Digest,
    /// The digest and size of the stream as it is transferred, where known.
    pub(crate) blob: Option<(Digest, u64)>,
}

/// Unpacks a stream into an empty directory. On an error the directory's content means nothing.
pub(crate) fn unpack(
    source: impl Read + Send,
    expected: &Expected,
    into: &Path,
) -> Result<Applied> {
    let (sender, receiver) = sync_channel(QUEUE);
    // Used chunks go back to be filled again: fresh ones would be mapped and cleared each time.
    let (used, free) = channel();
    let queue = Queue { sender, free };
    std::thread::scope(|scope| {
        let blob = expected.blob.clone();
        let pump = std::thread::Builder::new()
            .name("decompress".to_owned())
            .spawn_scoped(scope, move || pump(source, blob, &queue))
            .map_err(|e| Error::file("start a thread to unpack into", into, e))?;
        let hasher = Hasher::default();
        let mut archive = Archive { receiver, used, chunk: Vec::new(), at: 0, hasher };
        let applied = apply::apply(&mut archive, into).and_then(|applied| {
            // What follows the end of the archive belongs to the digest all the same.
            io::copy(&mut archive, &mut io::sink())
                .map_err(|e| Error::malformed(format!("layer {}", expected.diff_id), e))?;
            Ok(applied)
        });
        let found = archive.close();
        let pumped = pump.join().unwrap_or(Err(Error::Lost { what: "decompression" }));
        // A broken stream makes a broken archive: the stream's error is the one that says why.
        pumped?;
        let applied = applied?;
        match found == expected.diff_id {
            true => Ok(applied),
            false => Err(Error::Mismatch {
                what: "the uncompressed layer".to_owned(),
                expected: expected.diff_id.clone(),
                found,
            }),
        }
    })
}

/// The pump's end of the queue.
struct Queue {
    sender: SyncSender<Vec<u8>>,
    free: Receiver<Vec<u8>>,
}

/// Reads the archive that the pump sends.
struct Archive {
    receiver: Receiver<Vec<u8>>,
    used: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    hasher: Hasher,
}

impl Archive {
    /// Ends the pump, if it still runs, and gives the digest of what was read.
    fn close(self) -> Digest {
        drop(self.receiver);
        self.hasher.finish()
    }
}

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.receiver.recv() {
                Ok(chunk) => {
                    self.hasher.update(&chunk);
                    // A pump that has ended needs no more chunks.
                    let _ = self.used.send(std::mem::replace(&mut self.chunk, chunk));
                    self.at = 0;
                }
                Err(_) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn pump(source: impl Read, expected: Option<(Digest, u64)>, queue: &Queue) -> Result<()> {
    let counted = Counted {
        source,
        hasher: Hasher::default(),
        count: 0,
        limit: expected.as_ref().map(|(_, size)| *size),
    };
    let mut source = BufReader::with_capacity(CHUNK, counted);
    let sent = decompress(&mut source, queue);
    let open = match sent {
        Ok(open) => open,
        Err(error) => return Err(stream_error(error, source.get_ref(), expected.as_ref())),
    };
    if !open {
        // The archive's reader gave up and says itself why.
        return Ok(());
    }
    // A decoder stops at the end of its stream; the digest covers what comes after it, too.
    io::copy(&mut source, &mut io::sink())
        .map_err(|e| stream_error(e, source.get_ref(), expected.as_ref()))?;
    let counted = source.into_inner();
    let (count, found) = (counted.count, counted.hasher.finish());
    match expected {
        Some((digest, size)) if count != size => {
            Err(Error::malformed(format!("blob {digest}"), short(count, size)))
        }
        Some((digest, _)) if found != digest => Err(Error::Mismatch {
            what: "the transferred layer".to_owned(),
            expected: digest,
            found,
        }),
        _ => Ok(()),
    }
}

fn short(count: u64, size: u64) -> String {
    format!("it has {count} bytes, the manifest says {size}")
}

/// A source may carry an error of this crate inside its own.
fn stream_error<R>(
    error: io::Error,
    counted: &Counted<R>,
    expected: Option<&(Digest, u64)>,
) -> Error {
    let error = match error.downcast::<Error>() {
        Ok(ours) => return ours,
        Err(error) => error,
    };
    match expected {
        Some((digest, size)) if counted.count != *size && counted.ended() => {
            Error::malformed(format!("blob {digest}"), short(counted.count, *size))
        }
        _ => Error::malformed("the compressed layer", error),
    }
}

/// Counts and hashes what is read, and reads no more than it may.
struct Counted<R> {
    source: R,
    hasher: Hasher,
    count: u64,
    limit: Option<u64>,
}

impl<R> Counted<R> {
    fn ended(&self) -> bool {
        self.limit.is_some_and(|limit| self.count != limit)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        if self.limit.is_some_and(|limit| self.count > limit) {
            let reason = "it is longer than the manifest says";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(count)
    }
}

/// Sends the uncompressed stream; says whether anyone still listens.
fn decompress(source: &mut (impl BufRead + Sized), queue: &Queue) -> io::Result<bool> {
    let head = source.fill_buf()?;
    match head {
        [0x1f, 0x8b, ..] => send(flate2::bufread::MultiGzDecoder::new(source), queue),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            send(decoder, queue)
        }
        _ => send(source, queue),
    }
}

fn send(mut from: impl Read, queue: &Queue) -> io::Result<bool> {
    loop {
        let mut chunk = queue.free.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let count = apply::fill(&mut from, &mut chunk)?;
        if count == 0 {
            return Ok(true);
        }
        chunk.truncate(count);
        if queue.sender.send(chunk).is_err() {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, "file", &b"hello"[..]).unwrap();
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn run(stream: &[u8], diff_id: &Digest) -> Result<String> {
        let temp = tempfile::tempdir().unwrap();
        let blob = Some((Digest::of(stream), stream.len() as u64));
        unpack(stream, &Expected { diff_id: diff_id.clone(), blob }, temp.path())?;
        Ok(std::fs::read_to_string(temp.path().join("file")).unwrap())
    }

    #[test]
    fn every_compression_is_told_by_its_first_bytes() {
        let plain = archive();
        let diff_id = Digest::of(&plain);
        let mut members = gzip(&plain[..700]);
        members.extend(gzip(&plain[700..]));
        let streams =
            [plain.clone(), gzip(&plain), members, zstd::encode_all(&plain[..], 1).unwrap()];
        for stream in streams {
            assert_eq!(run(&stream, &diff_id).unwrap(), "hello");
        }
    }

    #[test]
    fn a_wrong_digest_on_either_side_is_an_error() {
        let plain = archive();
        let stream = gzip(&plain);
        let error = run(&stream, &Digest::of(b"other")).unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{error}");
        let temp = tempfile::tempdir().unwrap();
        let blob = Some((Digest::of(b"other"), stream.len() as u64));
        let expected = Expected { diff_id: Digest::of(&plain), blob };
        let error = unpack(&stream[..], &expected, temp.path()).unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    }

    #[test]
    fn short_and_long_streams_are_errors_that_say_so() {
        let plain = archive();
        let stream = gzip(&plain);
        for (given, size) in [(stream.len() - 9, stream.len()), (stream.len(), stream.len() - 1)] {
            let temp = tempfile::tempdir().unwrap();
            let blob = Some((Digest::of(&stream), size as u64));
            let expected = Expected { diff_id: Digest::of(&plain), blob };
            let error = unpack(&stream[..given], &expected, temp.path()).unwrap_err();
            assert!(matches!(error, Error::Malformed { .. }), "{error}");
        }
    }

    #[test]
    fn the_sources_own_error_is_the_one_reported() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other(Error::Cancelled { what: "the pull".to_owned() }))
            }
        }
        let temp = tempfile::tempdir().unwrap();
        let expected = Expected { diff_id: Digest::of(b""), blob: None };
        let error = unpack(Failing, &expected, temp.path()).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Cancelled);
    }
}
