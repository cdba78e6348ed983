//! Bytes of a stream → lines of a CRI log: `<time> <stdout|stderr> <P|F> <text>\n`.
//!
//! A line longer than [`LINE`] is cut into `P` lines; its end is an `F` line. Text that no newline
//! has ended yet is held back (at most [`LINE`] bytes), so that a line written in two goes is one.

use std::time::SystemTime;

use super::stamp;

/// The longest text of one log line.
pub const LINE: usize = 16 * 1024;

/// [`Framer::push`] stops after this much output, so that a flood of short lines cannot make the
/// buffer grow to twenty times the input.
const OUTPUT: usize = 128 * 1024;

/// Which of a process's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output; also the one stream of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Stdout => b"stdout",
            Self::Stderr => b"stderr",
        }
    }
}

/// The state of one stream between reads.
#[derive(Debug)]
pub struct Framer {
    stream: Stream,
    held: Vec<u8>,
}

impl Framer {
    /// A framer for a stream of which nothing has been read.
    pub fn new(stream: Stream) -> Self {
        Self { stream, held: Vec::new() }
    }

    /// Appends to `out` the lines that `input` completes, all with the same time, and says how
    /// many bytes of it were taken. Call again with the rest after writing `out`.
    pub fn push(&mut self, time: SystemTime, input: &[u8], out: &mut Vec<u8>) -> usize {
        let head = Head::new(time, self.stream);
        let mut rest = input;
        while !rest.is_empty() && out.len() < OUTPUT {
            let room = LINE - self.held.len();
            // One byte beyond the room decides: a newline there still ends a full line.
            let window = &rest[..rest.len().min(room + 1)];
            let Some(end) = memchr::memchr(b'\n', window) else {
                if window.len() <= room {
                    self.held.extend_from_slice(window);
                    rest = &rest[window.len()..];
                } else {
                    head.line(b'P', &self.held, &window[..room], out);
                    self.held.clear();
                    rest = &rest[room..];
                }
                continue;
            };
            head.line(b'F', &self.held, &window[..end], out);
            self.held.clear();
            rest = &rest[end + 1..];
        }
        input.len() - rest.len()
    }

    /// Appends what no newline has ended yet, as a part: the rest of the line follows.
    pub fn part(&mut self, time: SystemTime, out: &mut Vec<u8>) {
        if !self.held.is_empty() {
            Head::new(time, self.stream).line(b'P', &self.held, b"", out);
            self.held = Vec::new();
        }
    }

    /// Appends what no newline ended, at the end of the stream.
    pub fn finish(&mut self, time: SystemTime, out: &mut Vec<u8>) {
        if !self.held.is_empty() {
            Head::new(time, self.stream).line(b'F', &self.held, b"", out);
            self.held = Vec::new();
        }
    }

    /// Gives memory back while nothing is read.
    pub fn rest(&mut self) {
        self.held.shrink_to_fit();
    }
}

/// `<time> <stream> F `: the same for all lines of one read, but for the tag.
struct Head(Vec<u8>);

impl Head {
    fn new(time: SystemTime, stream: Stream) -> Self {
        let mut text = Vec::with_capacity(40);
        stamp::append(time, &mut text);
        text.push(b' ');
        text.extend_from_slice(stream.name());
        text.extend_from_slice(b" F ");
        Self(text)
    }

    fn line(&self, tag: u8, first: &[u8], second: &[u8], out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&self.0);
        out[begin + self.0.len() - 2] = tag;
        if !first.is_empty() {
            out.extend_from_slice(first);
        }
        out.extend_from_slice(second);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const HEAD: &str = "1970-01-01T00:00:00.000000000Z stdout ";

    /// What comes of `input` when it arrives in pieces of `piece` bytes.
    fn framed(input: &[u8], piece: usize) -> Vec<u8> {
        let (mut framer, mut all) = (Framer::new(Stream::Stdout), Vec::new());
        for mut chunk in input.chunks(piece) {
            while !chunk.is_empty() {
                let mut out = Vec::new();
                let taken = framer.push(UNIX_EPOCH, chunk, &mut out);
                chunk = &chunk[taken..];
                assert!(out.len() < OUTPUT + LINE + 64);
                all.extend(out);
            }
        }
        framer.finish(UNIX_EPOCH, &mut all);
        all
    }

    /// Reads a log back: the text, and the length and tag of each line.
    fn parsed(log: &[u8]) -> (Vec<u8>, Vec<(usize, char)>) {
        let (mut text, mut lines) = (Vec::new(), Vec::new());
        for line in log.split_inclusive(|b| *b == b'\n') {
            let body = line.strip_prefix(HEAD.as_bytes()).unwrap().strip_suffix(b"\n").unwrap();
            assert_eq!(body[1], b' ');
            lines.push((body.len() - 2, char::from(body[0])));
            text.extend_from_slice(&body[2..]);
            if body[0] == b'F' {
                text.push(b'\n');
            }
        }
        (text, lines)
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        let input = b"one\n\ntwo and a half\nthe end\n".repeat(3);
        let whole = framed(&input, input.len());
        assert!(whole.starts_with(format!("{HEAD}F one\n{HEAD}F \n{HEAD}F two").as_bytes()));
        for piece in [1, 2, 3, 7] {
            assert_eq!(framed(&input, piece), whole, "in pieces of {piece}");
        }
    }

    #[test]
    fn long_lines_are_cut_at_the_limit_and_not_before() {
        for (length, expected) in [
            (LINE - 1, vec![(LINE - 1, 'F')]),
            (LINE, vec![(LINE, 'F')]),
            (LINE + 1, vec![(LINE, 'P'), (1, 'F')]),
            (2 * LINE, vec![(LINE, 'P'), (LINE, 'F')]),
            (3 * LINE + 5, vec![(LINE, 'P'), (LINE, 'P'), (LINE, 'P'), (5, 'F')]),
        ] {
            let mut input = vec![b'x'; length];
            input.push(b'\n');
            for piece in [input.len(), 4096, LINE, LINE + 1, 1000] {
                let (text, lines) = parsed(&framed(&input, piece));
                assert_eq!(lines, expected, "{length} bytes in pieces of {piece}");
                assert_eq!(text, input);
            }
        }
    }

    #[test]
    fn the_end_of_the_stream_ends_a_line() {
        let (_, lines) = parsed(&framed(b"no newline", 4));
        assert_eq!(lines, [(10, 'F')]);
        assert!(framed(b"", 1).is_empty());
    }

    #[test]
    fn a_line_may_be_given_out_in_parts() {
        let (mut framer, mut out) = (Framer::new(Stream::Stdout), Vec::new());
        framer.push(UNIX_EPOCH, b"login: ", &mut out);
        assert!(out.is_empty());
        framer.part(UNIX_EPOCH, &mut out);
        framer.part(UNIX_EPOCH, &mut out);
        framer.push(UNIX_EPOCH, b"me\n", &mut out);
        let (text, lines) = parsed(&out);
        assert_eq!((text.as_slice(), lines), (&b"login: me\n"[..], vec![(7, 'P'), (2, 'F')]));
    }

    #[test]
    fn a_flood_of_short_lines_comes_out_in_bounded_pieces() {
        let input = b"\n".repeat(64 * 1024);
        let (text, lines) = parsed(&framed(&input, input.len()));
        assert_eq!((text, lines.len()), (input, 64 * 1024));
    }

    #[test]
    fn bytes_that_are_not_text_pass_unchanged() {
        let input = b"\x00\xff\xfe\r\n\x1b[0m\n";
        let (text, _) = parsed(&framed(input, 3));
        assert_eq!(text, input);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

        /// Runs of one byte, lengths around the limit, newlines anywhere, reads of any size.
        #[test]
        fn no_byte_is_lost_or_moved(
            runs in proptest::collection::vec((0_u8..4, 0_usize..LINE + 10), 0..12),
            reads in proptest::collection::vec(1_usize..40_000, 1..8),
        ) {
            let mut input = Vec::new();
            for (kind, length) in runs {
                match kind {
                    0 => input.extend(std::iter::repeat_n(b'\n', length % 7)),
                    kind => input.extend(std::iter::repeat_n(b'a' + kind, length)),
                }
            }
            let (mut framer, mut log, mut at) = (Framer::new(Stream::Stdout), Vec::new(), 0);
            for size in reads.iter().cycle() {
                let end = input.len().min(at + size);
                log.append(&mut framed_rest(&mut framer, &input[at..end]));
                at = end;
                if at == input.len() {
                    break;
                }
            }
            framer.finish(UNIX_EPOCH, &mut log);
            let (mut text, lines) = parsed(&log);
            if !input.is_empty() && !input.ends_with(b"\n") {
                proptest::prop_assert_eq!(text.pop(), Some(b'\n'));
            }
            proptest::prop_assert_eq!(text, input);
            for (length, tag) in lines {
                proptest::prop_assert!(length <= LINE);
                proptest::prop_assert!(tag == 'F' || length == LINE, "cut before the limit");
            }
        }
    }

    fn framed_rest(framer: &mut Framer, mut chunk: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        while !chunk.is_empty() {
            let mut out = Vec::new();
            let taken = framer.push(UNIX_EPOCH, chunk, &mut out);
            chunk = &chunk[taken..];
            all.extend(out);
        }
        all
    }
}
