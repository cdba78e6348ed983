//! Which streams of a client belong together.

use std::collections::{HashMap, VecDeque};
use std::num::NonZero;

use tokio::time::Instant;

use crate::spdy::headers::Headers;

/// What a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Error,
}

/// What a stream's headers say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) kind: Kind,
    pub(super) port: u16,
    /// What the two streams of a connection have in common.
    pub(super) request: String,
}

impl Label {
    /// Reads the headers of stream `id`; nothing if they do not say what is needed.
    pub(super) fn parse(headers: &Headers, id: u32) -> Option<Self> {
        let kind = match headers.get("streamtype")? {
            "data" => Kind::Data,
            "error" => Kind::Error,
            _ => return None,
        };
        let port: NonZero<u16> = headers.get("port")?.parse().ok()?;
        let request = match headers.get("requestid") {
            Some(request) if !request.is_empty() => request.to_owned(),
            // An old client opens the error stream and then, with the next number, the one for the bytes.
            _ => match kind {
                Kind::Error => format!("stream {id}"),
                Kind::Data => format!("stream {}", id.checked_sub(2)?),
            },
        };
        Some(Self { kind, port: port.get(), request })
    }
}

/// Streams that wait for their other half.
pub(super) struct Pairs<S> {
    halves: HashMap<String, (u64, Kind, S)>,
    deadlines: VecDeque<(Instant, u64, String)>,
    next: u64,
}

/// What came of a stream.
pub(super) enum Paired<S> {
    /// It waits.
    Waiting,
    /// Its other half was there.
    Whole { data: S, error: S },
    /// There is one of its kind already.
    Twice(S),
}

impl<S> Pairs<S> {
    pub(super) fn new() -> Self {
        Self { halves: HashMap::new(), deadlines: VecDeque::new(), next: 0 }
    }

    /// Enters a stream, which waits until `deadline`; deadlines do not shrink.
    pub(super) fn add(&mut self, label: &Label, stream: S, deadline: Instant) -> Paired<S> {
        match self.halves.remove(&label.request) {
            None => {
                let number = self.next;
                self.next += 1;
                let half = (number, label.kind, stream);
                self.halves.insert(label.request.clone(), half);
                self.deadlines.push_back((deadline, number, label.request.clone()));
                Paired::Waiting
            }
            Some((number, kind, other)) if kind == label.kind => {
                let half = (number, kind, other);
                self.halves.insert(label.request.clone(), half);
                Paired::Twice(stream)
            }
            Some((number, kind, other)) => {
                self.deadlines.retain(|(_, waiting, _)| *waiting != number);
                match kind {
                    Kind::Data => Paired::Whole { data: other, error: stream },
                    Kind::Error => Paired::Whole { data: stream, error: other },
                }
            }
        }
    }

    /// When the first stream has waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(deadline, ..)| *deadline)
    }

    /// The stream that has waited longest.
    pub(super) fn give_up(&mut self) -> Option<(Kind, S)> {
        let (_, _, request) = self.deadlines.pop_front()?;
        let (_, kind, stream) = self.halves.remove(&request)?;
        Some((kind, stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Headers(pairs.iter().map(own).collect())
    }

    fn label(kind: Kind, request: &str) -> Label {
        Label { kind, port: 80, request: request.to_owned() }
    }

    #[test]
    fn headers_say_what_a_stream_is_for() {
        let all = [("streamtype", "data"), ("port", "80"), ("requestid", "7")];
        assert_eq!(Label::parse(&headers(&all), 3), Some(label(Kind::Data, "7")));
        assert_eq!(Label::parse(&headers(&all[..2]), 3), Some(label(Kind::Data, "stream 1")));
        let error = [("streamtype", "error"), ("port", "80")];
        assert_eq!(Label::parse(&headers(&error), 1), Some(label(Kind::Error, "stream 1")));
        assert_eq!(Label::parse(&headers(&all[..2]), 1), None);
        assert_eq!(Label::parse(&headers(&all[1..]), 1), None);
        for port in ["", "0", "65536", "-1", "x"] {
            let wrong = [("streamtype", "error"), ("port", port)];
            assert_eq!(Label::parse(&headers(&wrong), 1), None, "{port}");
        }
        assert_eq!(Label::parse(&headers(&[("streamtype", "stdin"), ("port", "80")]), 1), None);
    }

    #[test]
    fn the_halves_of_a_connection_find_each_other() {
        let (mut pairs, now) = (Pairs::new(), Instant::now());
        assert!(matches!(pairs.add(&label(Kind::Error, "1"), 10, now), Paired::Waiting));
        assert!(matches!(pairs.add(&label(Kind::Data, "2"), 20, now), Paired::Waiting));
        assert!(matches!(pairs.add(&label(Kind::Error, "1"), 11, now), Paired::Twice(11)));
        assert!(matches!(
            pairs.add(&label(Kind::Data, "1"), 12, now),
            Paired::Whole { data: 12, error: 10 }
        ));
        assert!(matches!(
            pairs.add(&label(Kind::Error, "2"), 21, now),
            Paired::Whole { data: 20, error: 21 }
        ));
        assert_eq!(pairs.deadline(), None);
    }

    #[test]
    fn a_half_that_stays_alone_is_given_up() {
        let (mut pairs, now) = (Pairs::new(), Instant::now());
        pairs.add(&label(Kind::Error, "1"), 10, now);
        pairs.add(&label(Kind::Data, "1"), 11, now);
        pairs.add(&label(Kind::Error, "1"), 12, now);
        assert_eq!(pairs.deadline(), Some(now));
        assert_eq!(pairs.give_up(), Some((Kind::Error, 12)));
        assert_eq!(pairs.give_up(), None);
    }
}
