//! What commands say is kept until their callers are told: all of it together within a budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is kept of each stream; the rest is read and dropped (CRI).
pub(crate) const STREAM: usize = 16 << 20;

/// What all commands that run at the same time may say together.
pub(crate) const TOGETHER: usize = 128 << 20;

/// How much is kept by all.
#[derive(Debug, Default)]
pub(crate) struct Budget(AtomicUsize);

/// The beginning of one stream.
#[derive(Debug)]
pub(crate) struct Kept {
    bytes: Vec<u8>,
    of: Arc<Budget>,
}

/// The budget is used up.
#[derive(Debug)]
pub(crate) struct TooMuch;

impl Kept {
    /// Nothing yet.
    pub(crate) fn new(of: &Arc<Budget>) -> Self {
        Self { bytes: Vec::new(), of: Arc::clone(of) }
    }

    /// Keeps what there is room for in the stream.
    pub(crate) fn take_in(&mut self, more: &[u8]) -> Result<(), TooMuch> {
        let room = STREAM.saturating_sub(self.bytes.len()).min(more.len());
        let before = self.of.0.fetch_add(room, Ordering::Relaxed);
        if before + room > TOGETHER {
            self.of.0.fetch_sub(room, Ordering::Relaxed);
            return Err(TooMuch);
        }
        self.bytes.extend_from_slice(&more[..room]);
        Ok(())
    }

    /// What was kept; its part of the budget is free again.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        self.give_back();
        std::mem::take(&mut self.bytes)
    }

    fn give_back(&mut self) {
        self.of.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stream_is_cut_and_all_together_are_refused() {
        let budget = Arc::new(Budget::default());
        let chunk = vec![b'x'; 1 << 20];
        let full = || {
            let mut kept = Kept::new(&budget);
            for _ in 0..20 {
                kept.take_in(&chunk).unwrap();
            }
            assert_eq!(kept.bytes.len(), STREAM);
            kept
        };
        let all: Vec<_> = (0..TOGETHER / STREAM).map(|_| full()).collect();
        let mut late = Kept::new(&budget);
        late.take_in(&chunk).unwrap_err();
        drop(late);
        let told: usize = all.into_iter().map(|kept| kept.into_bytes().len()).sum();
        assert_eq!(told, TOGETHER);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }
}
