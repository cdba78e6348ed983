//! One-time tokens: what a URL stands for until its client comes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::{Attach, Error, Exec, PortForward, Result};

/// How many requests may wait for their clients.
pub(crate) const OUTSTANDING: usize = 1000;

/// What a token was given for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Exec(Exec),
    Attach(Attach),
    PortForward(PortForward),
}

/// The tokens that were given out and not used. Every token lives equally long, so the oldest stands first.
pub(crate) struct Tokens {
    lifetime: Duration,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    requests: HashMap<String, Request>,
    order: VecDeque<(Instant, String)>,
}

impl Tokens {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self { lifetime, table: Mutex::default() }
    }

    /// Keeps `request` and gives the token for it.
    pub(crate) fn give(&self, request: Request, now: Instant) -> Result<String> {
        let token = random()?;
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.expire(now, self.lifetime);
        if table.requests.len() >= OUTSTANDING {
            return Err(Error::Tokens(OUTSTANDING));
        }
        table.order.push_back((now, token.clone()));
        table.requests.insert(token.clone(), request);
        Ok(token)
    }

    /// What the token stands for, once.
    pub(crate) fn take(&self, token: &str, now: Instant) -> Option<Request> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.expire(now, self.lifetime);
        let request = table.requests.remove(token)?;
        table.order.retain(|(_, other)| other != token);
        Some(request)
    }
}

impl Table {
    fn expire(&mut self, now: Instant, lifetime: Duration) {
        let old = |given: &Instant| now.saturating_duration_since(*given) >= lifetime;
        while self.order.front().is_some_and(|(given, _)| old(given)) {
            if let Some((_, token)) = self.order.pop_front() {
                self.requests.remove(&token);
            }
        }
    }
}

/// 192 random bits in 32 letters that need no escaping in a URL.
fn random() -> Result<String> {
    let mut bytes = [0; 24];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        match rustix::rand::getrandom(&mut bytes[filled..], flags) {
            Ok(more) => filled += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::Random(errno.into())),
        }
    }
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: &str) -> Request {
        Request::PortForward(PortForward { pod: name.to_owned(), ports: Vec::new() })
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_token_is_taken_once() {
        let (tokens, now) = (Tokens::new(MINUTE), Instant::now());
        let one = tokens.give(request("a"), now).unwrap();
        let two = tokens.give(request("b"), now).unwrap();
        assert_eq!(one.len(), 32);
        assert_ne!(one, two);
        assert_eq!(tokens.take(&one, now), Some(request("a")));
        assert_eq!(tokens.take(&one, now), None);
        assert_eq!(tokens.take("unknown", now), None);
        assert_eq!(tokens.take(&two, now), Some(request("b")));
    }

    #[test]
    fn a_token_expires() {
        let (tokens, now) = (Tokens::new(MINUTE), Instant::now());
        let early = tokens.give(request("a"), now).unwrap();
        let late = tokens.give(request("b"), now + MINUTE / 2).unwrap();
        assert_eq!(tokens.take(&early, now + MINUTE), None);
        assert_eq!(tokens.take(&late, now + MINUTE), Some(request("b")));
    }

    #[test]
    fn their_number_is_bounded_until_they_expire() {
        let (tokens, now) = (Tokens::new(MINUTE), Instant::now());
        for _ in 0..OUTSTANDING {
            tokens.give(request("a"), now).unwrap();
        }
        let more = tokens.give(request("b"), now);
        assert!(matches!(more, Err(Error::Tokens(_))));
        let token = tokens.give(request("b"), now + MINUTE).unwrap();
        assert_eq!(tokens.take(&token, now + MINUTE), Some(request("b")));
    }
}
