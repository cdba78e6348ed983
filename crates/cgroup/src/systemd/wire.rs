//! D-Bus messages, as far as systemd's manager is spoken to (dbus.freedesktop.org, "Message Protocol").
//!
//! Little-endian only: it is the caller's choice, and the daemon answers in the order of whoever sent
//! the message; systemd runs on the same machine.

use super::Property;

/// The kinds of messages that matter here; what is neither of them is an answer.
pub(super) const CALL: u8 = 1;
pub(super) const FAILURE: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

/// The length of what stands before the fields of a header.
pub(super) const FIXED: usize = 16;

/// What is being written, aligned from its own begin.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    fn number(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    fn long(&mut self, value: u64) {
        self.align(8);
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(length(text.len()));
        self.0.extend(text.as_bytes());
        self.byte(0);
    }

    pub(super) fn flag(&mut self, value: bool) {
        self.number(value.into());
    }

    fn signature(&mut self, signature: &str) {
        // The longest that is written here has eleven characters.
        self.byte(signature.len().to_le_bytes()[0]);
        self.0.extend(signature.as_bytes());
        self.byte(0);
    }

    /// An array: its length, padding that does not count, its elements.
    fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Self)) {
        self.number(0);
        let at = self.0.len() - 4;
        self.align(alignment);
        let begin = self.0.len();
        elements(self);
        let length = length(self.0.len() - begin);
        self.0[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// `a(sv)`.
    pub(super) fn properties(&mut self, properties: &[Property]) {
        self.array(8, |array| {
            for property in properties {
                array.align(8);
                array.property(property);
            }
        });
    }

    /// `a(sa(sv))` without an element.
    pub(super) fn no_units(&mut self) {
        self.array(8, |_| {});
    }

    fn property(&mut self, property: &Property) {
        match property {
            Property::Number(name, value) => {
                self.text(name);
                self.signature("t");
                self.long(*value);
            }
            Property::Mask(name, bits) => {
                self.text(name);
                self.signature("ay");
                self.array(1, |array| array.0.extend(bits));
            }
            Property::Flag(name, value) => {
                self.text(name);
                self.signature("b");
                self.flag(*value);
            }
            Property::Text(name, text) => {
                self.text(name);
                self.signature("s");
                self.text(text);
            }
        }
    }
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A call of a method of an object.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) to: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) method: &'a str,
    /// The types of the body.
    pub(super) signature: &'a str,
}

impl Call<'_> {
    /// The whole message.
    pub(super) fn message(&self, serial: u32, body: &Writer) -> Vec<u8> {
        let mut out = Writer::default();
        for byte in [b'l', CALL, 0, 1] {
            out.byte(byte);
        }
        out.number(length(body.0.len()));
        out.number(serial);
        // PATH, INTERFACE, MEMBER, DESTINATION and SIGNATURE.
        let fields = [
            (1, "o", self.path),
            (2, "s", self.interface),
            (3, "s", self.method),
            (6, "s", self.to),
            (8, "g", self.signature),
        ];
        out.array(8, |array| {
            for (code, kind, value) in fields.iter().filter(|(_, _, value)| !value.is_empty()) {
                array.align(8);
                array.byte(*code);
                array.signature(kind);
                if *kind == "g" { array.signature(value) } else { array.text(value) }
            }
        });
        out.align(8);
        out.0.extend(&body.0);
        out.0
    }
}

/// A message with these fields, as the bus hands it on.
#[cfg(test)]
pub(super) fn whole(message: &Message, body: &Writer) -> Vec<u8> {
    let mut out = Writer::default();
    for byte in [b'l', message.kind, 0, 1] {
        out.byte(byte);
    }
    out.number(length(body.0.len()));
    out.number(1);
    out.array(8, |array| {
        if message.answers != 0 {
            array.byte(5);
            array.signature("u");
            array.number(message.answers);
        }
        let texts = [
            (3, "s", &message.member),
            (4, "s", &message.error),
            (7, "s", &message.sender),
            (8, "g", &message.signature),
        ];
        for (code, kind, value) in texts.into_iter().filter(|(.., value)| !value.is_empty()) {
            array.align(8);
            array.byte(code);
            array.signature(kind);
            if kind == "g" { array.signature(value) } else { array.text(value) }
        }
    });
    out.align(8);
    out.0.extend(&body.0);
    out.0
}

/// What came, as far as it matters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// [`FAILURE`], [`SIGNAL`] or another.
    pub(super) kind: u8,
    /// The serial of the call that it answers.
    pub(super) answers: u32,
    /// The connection that sent it, as the bus says.
    pub(super) sender: String,
    /// The name of a failure.
    pub(super) error: String,
    /// The name of a signal.
    pub(super) member: String,
    /// The types of the body.
    pub(super) signature: String,
    /// The body.
    pub(super) body: Vec<u8>,
}

/// How many bytes follow the fixed part of a header; `None` if it is none.
pub(super) fn rest(fixed: &[u8; FIXED]) -> Option<usize> {
    let mut reader = Reader { bytes: fixed, at: 4 };
    let (body, _, fields) = (reader.number()?, reader.number()?, reader.number()?);
    let (body, fields) = (usize::try_from(body).ok()?, usize::try_from(fields).ok()?);
    // Both bounds are the specification's (64 MiB and 128 MiB).
    let whole = fixed[0] == b'l' && fields <= 1 << 26 && body <= 1 << 27;
    whole.then(|| fields.next_multiple_of(8) + body)
}

/// Reads a whole message; `None` if it is none.
pub(super) fn parse(bytes: &[u8]) -> Option<Message> {
    let mut reader = Reader { bytes, at: 12 };
    let end = FIXED + usize::try_from(reader.number()?).ok()?;
    let mut message = Message { kind: *bytes.get(1)?, ..Message::default() };
    while reader.at < end {
        reader.align(8);
        let code = reader.byte()?;
        let kind = reader.signature()?;
        match (code, kind) {
            (5, "u") => message.answers = reader.number()?,
            (3, "s") => message.member = reader.text()?.to_owned(),
            (4, "s") => message.error = reader.text()?.to_owned(),
            (7, "s") => message.sender = reader.text()?.to_owned(),
            (8, "g") => message.signature = reader.signature()?.to_owned(),
            (_, "s" | "o") => drop(reader.text()?),
            (_, "u") => drop(reader.number()?),
            (_, "g") => drop(reader.signature()?),
            _ => return None,
        }
    }
    message.body = bytes.get(end.next_multiple_of(8)..)?.to_owned();
    Some(message)
}

impl Message {
    /// The first text of the body, if it begins with one.
    pub(super) fn text(&self) -> Option<&str> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        self.signature.starts_with(['s', 'o']).then(|| reader.text()).flatten()
    }

    /// Of the signal JobRemoved (`uoss`): the job's path, and its result.
    pub(super) fn job(&self) -> Option<(&str, &str)> {
        let of_a_job = self.kind == SIGNAL && self.member == "JobRemoved";
        if !of_a_job || self.signature != "uoss" {
            return None;
        }
        let mut reader = Reader { bytes: &self.body, at: 0 };
        reader.number()?;
        let path = reader.text()?;
        reader.text()?;
        Some((path, reader.text()?))
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken[0])
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4);
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.number()?).ok()?;
        let text = self.take(length)?;
        self.byte()?;
        std::str::from_utf8(text).ok()
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = self.byte()?;
        let text = self.take(length.into())?;
        self.byte()?;
        std::str::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the other side would write it: the same bytes, with the kind and fields of an answer.
    fn whole(call: &Call<'_>, body: &Writer) -> Message {
        let bytes = call.message(7, body);
        let fixed = bytes[..FIXED].try_into().unwrap();
        assert_eq!(rest(fixed), Some(bytes.len() - FIXED));
        parse(&bytes).unwrap()
    }

    const CALL_OF: Call<'_> =
        Call { to: "a.b", path: "/x", interface: "a.b", method: "JobRemoved", signature: "uoss" };

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let mut body = Writer::default();
        body.number(3);
        for text in ["/job/3", "a.slice", "done"] {
            body.text(text);
        }
        let message = whole(&CALL_OF, &body);
        assert_eq!((message.kind, message.member.as_str()), (CALL, "JobRemoved"));
        assert_eq!(message.job(), None, "a call is no signal");
        let signal = Message { kind: SIGNAL, ..message };
        assert_eq!(signal.job(), Some(("/job/3", "done")));
    }

    #[test]
    fn properties_are_aligned_as_the_specification_has_it() {
        let mut body = Writer::default();
        body.properties(&[Property::Number("Ab", 5), Property::Flag("C", true)]);
        let expected: &[u8] = &[
            41, 0, 0, 0, 0, 0, 0, 0, // its length, then padding to the first structure
            2, 0, 0, 0, b'A', b'b', 0, 1, b't', 0, 0, 0, 0, 0, 0, 0, // "Ab", "t", padding
            5, 0, 0, 0, 0, 0, 0, 0, // the number
            1, 0, 0, 0, b'C', 0, 1, b'b', 0, 0, 0, 0, 1, 0, 0, 0,
        ];
        assert_eq!(body.0[8..], expected[8..]);
        assert_eq!(usize::from(body.0[0]), body.0.len() - 8);
        let mut empty = Writer::default();
        empty.no_units();
        assert_eq!(empty.0, [0; 8], "the padding is there without an element too");
    }

    #[test]
    fn what_is_cut_off_is_no_message() {
        let mut body = Writer::default();
        body.text("x");
        let bytes = CALL_OF.message(1, &body);
        for end in 0..FIXED + 8 {
            assert_eq!(parse(&bytes[..end]), None, "{end}");
        }
        let mut foreign = [0; FIXED];
        foreign[0] = b'B';
        assert_eq!(rest(&foreign), None);
    }
}
