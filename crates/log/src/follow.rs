//! Who follows an output as it comes, beside its log.
//!
//! A follower is the writing end of a pipe or fifo, whose size is all that it may be behind: one that
//! is further behind is cut off, and is told so by a byte in another one. Neither the container nor its
//! log ever waits for it.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How far behind a follower may be: bytes, the first size that the kernel allows a pipe to have (it
/// allows CAP_SYS_RESOURCE any).
const BEHIND: [usize; 2] = [4 << 20, 1 << 20];

/// The followers of one output.
#[derive(Debug, Default)]
pub struct Followers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Nothing more will be said.
    ended: bool,
    followers: Vec<Follower>,
}

#[derive(Debug)]
struct Follower {
    id: Arc<str>,
    to: OwnedFd,
    cut: Arc<OwnedFd>,
}

impl Followers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives what comes from now on to `to` as well: the writing end of a pipe, which must not block.
    /// Of an output that has ended nothing comes: `to` is closed. Where `to` is closed because it is too
    /// far behind, a byte has been written to `cut` before, another pipe that must not block.
    pub fn add(&self, id: &str, to: OwnedFd, cut: &Arc<OwnedFd>) {
        let mut state = self.state();
        if state.ended {
            return;
        }
        // The size that it has is little, and works all the same.
        let _ = BEHIND.iter().any(|size| rustix::pipe::fcntl_setpipe_size(&to, *size).is_ok());
        // Those that went without a word, with their daemon, are seen only by looking.
        state.followers.retain(|follower| !follower.is_gone());
        state.followers.push(Follower { id: id.into(), to, cut: Arc::clone(cut) });
    }

    /// Forgets a follower.
    pub fn remove(&self, id: &str) {
        self.state().followers.retain(|follower| follower.id.as_ref() != id);
    }

    /// Something has been said.
    pub fn tell(&self, text: &[u8]) {
        let mut state = self.state();
        if !state.followers.is_empty() {
            state.followers.retain(|follower| follower.tell(text));
        }
    }

    /// Nothing more will be said.
    pub fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.followers = Vec::new();
    }
}

impl Follower {
    /// False if it has gone, or is too far behind.
    fn tell(&self, mut text: &[u8]) -> bool {
        while !text.is_empty() {
            match rustix::io::write(&self.to, text) {
                Ok(count) => text = &text[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // It fails only where nobody would read it.
                    let _ = rustix::io::write(&self.cut, b"!");
                    return false;
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// Nobody holds the other end.
    fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.to, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::ERR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn ends() -> (std::fs::File, OwnedFd) {
        let (read, write) = berth_sys::pipe::pipe().unwrap();
        berth_sys::pipe::set_nonblocking(&write, true).unwrap();
        (read.into(), write)
    }

    fn cut() -> (std::fs::File, Arc<OwnedFd>) {
        let (read, write) = ends();
        (read, Arc::new(write))
    }

    fn all_of(mut from: std::fs::File) -> String {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn each_gets_what_comes_while_it_is_there() {
        let followers = Followers::default();
        let ((one, to_one), (two, to_two)) = (ends(), ends());
        let (told, cut) = cut();
        followers.tell(b"nobody ");
        followers.add("one", to_one, &cut);
        followers.tell(b"first ");
        followers.add("two", to_two, &cut);
        followers.tell(b"second ");
        followers.remove("one");
        followers.tell(b"third ");
        followers.end();
        let (late, to_late) = ends();
        followers.add("late", to_late, &cut);
        assert_eq!(all_of(one), "first second ");
        assert_eq!(all_of(two), "second third ");
        assert_eq!(all_of(late), "");
        drop(cut);
        assert_eq!(all_of(told), "");
    }

    #[test]
    fn one_that_does_not_read_is_cut_off_and_the_others_lose_nothing() {
        let followers = Followers::default();
        let ((slow, to_slow), (fast, to_fast)) = (ends(), ends());
        let ((slow_told, slow_cut), (fast_told, fast_cut)) = (cut(), cut());
        followers.add("slow", to_slow, &slow_cut);
        followers.add("fast", to_fast, &fast_cut);
        drop((slow_cut, fast_cut));
        let behind = rustix::pipe::fcntl_getpipe_size(&slow).unwrap();
        let reader = std::thread::spawn(move || {
            let (mut fast, mut total) = (fast, 0);
            let mut space = vec![0; 1 << 20];
            while let Ok(count @ 1..) = fast.read(&mut space) {
                total += count;
                if total == behind * 2 {
                    break;
                }
            }
            total
        });
        // No more at a time than the one who reads can have taken.
        let chunk = vec![b'x'; 1 << 10];
        let room = |followers: &Followers| {
            let state = followers.state();
            let fast = state.followers.iter().find(|f| f.id.as_ref() == "fast");
            let to = &fast.expect("it reads").to;
            usize::try_from(rustix::io::ioctl_fionread(to).unwrap()).unwrap() < behind / 2
        };
        for _ in 0..behind * 2 / chunk.len() {
            while !room(&followers) {
                std::thread::yield_now();
            }
            followers.tell(&chunk);
        }
        assert_eq!(reader.join().unwrap(), behind * 2);
        followers.end();
        let got = all_of(slow).len();
        assert!(got > 0 && got <= behind, "{got}");
        assert_eq!((all_of(slow_told), all_of(fast_told)), ("!".to_owned(), String::new()));
    }

    #[test]
    fn one_that_went_without_a_word_is_forgotten_with_the_next() {
        let followers = Followers::default();
        let ((gone, to_gone), (here, to_here)) = (ends(), ends());
        let (_told, cut) = cut();
        followers.add("gone", to_gone, &cut);
        drop(gone);
        followers.add("here", to_here, &cut);
        assert_eq!(followers.state().followers.len(), 1);
        followers.end();
        assert_eq!(all_of(here), "");
    }
}
