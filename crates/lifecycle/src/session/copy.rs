//! Between a client and a fifo, at the pace of the slower one.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{BoxRead, BoxWrite};

/// What is moved at a time.
const CHUNK: usize = 32 << 10;

/// The most that is taken after the end: what fifos and a shim may hold, however large they are.
/// Who goes on writing is not part of the command any more.
const REST: usize = 4 << 20;

/// How often it is looked whether somebody reads: nothing announces it.
const LOOK: Duration = Duration::from_millis(10);

/// The client takes nothing any more.
#[derive(Debug)]
pub(super) struct Gone;

/// Takes what comes out of a fifo to the client, until nobody writes to it. Once it is `over`, what
/// comes is waited for as long as the patience lasts: a grandchild may hold the fifo for ever.
pub(super) async fn to_client(
    from: OwnedFd,
    mut to: Option<BoxWrite>,
    (over, mut patience): (&CancellationToken, Duration),
) -> Result<(), Gone> {
    let Ok(from) = berth_job::watch(from, Interest::READABLE) else { return Ok(()) };
    let mut buffer = Vec::new();
    let mut rest = REST;
    while rest > 0 && readable(&from, over, &mut patience).await {
        buffer.resize(CHUNK, 0);
        let got = from.try_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut buffer)?));
        match got {
            Ok(0) => break,
            Ok(count) => {
                if over.is_cancelled() {
                    rest = rest.saturating_sub(count);
                }
                if let Some(to) = &mut to {
                    to.write_all(&buffer[..count]).await.map_err(|_| Gone)?;
                }
            }
            Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => {
                // Silence: what waits in a buffer goes out, and the space is given back.
                buffer = Vec::new();
                if let Some(to) = &mut to {
                    to.flush().await.map_err(|_| Gone)?;
                }
            }
            Err(why) if why.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    if let Some(to) = &mut to {
        to.shutdown().await.map_err(|_| Gone)?;
    }
    Ok(())
}

/// Waits until something can be read; false if it is over and nothing comes within the patience that
/// is left. Time in which the client is waited for does not count.
async fn readable(
    from: &AsyncFd<OwnedFd>,
    over: &CancellationToken,
    patience: &mut Duration,
) -> bool {
    let mut ready = std::pin::pin!(from.readable());
    let first = tokio::select! {
        ready = &mut ready => Some(ready),
        () = over.cancelled() => None,
    };
    let ready = match first {
        Some(ready) => ready,
        None => {
            let begin = Instant::now();
            let waited = tokio::time::timeout(*patience, ready).await;
            *patience = patience.saturating_sub(begin.elapsed());
            match waited {
                Ok(ready) => ready,
                Err(_) => return false,
            }
        }
    };
    match ready {
        Ok(mut ready) => {
            ready.retain_ready();
            true
        }
        Err(_) => false,
    }
}

/// The writing end of a fifo, and both ends of it until the reader is known to have come: shims by
/// others open theirs some time after they have answered.
pub(super) struct Input {
    pub(super) to: OwnedFd,
    pub(super) both: Option<OwnedFd>,
}

/// Takes what the client sends to a fifo, until there is no more. What nobody reads is dropped: the
/// client's other streams must not wait behind it.
pub(super) async fn from_client(mut from: BoxRead, input: Input) {
    let Input { to, mut both } = input;
    let mut to = berth_job::watch(to, Interest::WRITABLE).ok();
    let mut buffer = vec![0; CHUNK];
    let mut written = 0;
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let Some(fifo) = &to else { continue };
        if !write(fifo, &buffer[..count]).await {
            to = None;
            continue;
        }
        written += count as u64;
        if both.as_ref().is_some_and(|both| is_read(both, written)) {
            both = None;
        }
    }
    // What is in a fifo goes with its last end.
    while written > 0 && both.as_ref().is_some_and(|both| !is_read(both, written)) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Has somebody read of what was written?
fn is_read(fifo: &OwnedFd, written: u64) -> bool {
    rustix::io::ioctl_fionread(fifo).map_or(true, |unread| unread < written)
}

/// False if nobody reads any more.
async fn write(to: &AsyncFd<OwnedFd>, mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let Ok(mut ready) = to.writable().await else { return false };
        match rustix::io::write(to.get_ref(), rest) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::DRAIN;
    use berth_sys::pipe::{FifoEnd, pipe, set_nonblocking};

    fn ends() -> (OwnedFd, OwnedFd) {
        let (read, write) = pipe().unwrap();
        set_nonblocking(&read, true).unwrap();
        set_nonblocking(&write, true).unwrap();
        (read, write)
    }

    #[tokio::test]
    async fn all_is_carried_to_a_client_that_reads_late_also_after_the_end() {
        let (read, write) = ends();
        let (client, mut there) = tokio::io::duplex(100);
        let over = CancellationToken::new();
        rustix::io::write(&write, &[b'x'; 60_000]).unwrap();
        over.cancel();
        let carried =
            tokio::spawn(
                async move { to_client(read, Some(Box::new(client)), (&over, DRAIN)).await },
            );
        tokio::time::sleep(DRAIN * 2).await;
        let mut all = Vec::new();
        there.read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len(), 60_000);
        // The writer is still there.
        carried.await.unwrap().unwrap();
        drop(write);
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_told() {
        let (read, write) = ends();
        let (client, there) = tokio::io::duplex(100);
        drop(there);
        rustix::io::write(&write, b"x").unwrap();
        to_client(read, Some(Box::new(client)), (&CancellationToken::new(), DRAIN))
            .await
            .unwrap_err();
    }

    #[tokio::test]
    async fn what_a_client_has_sent_waits_for_a_reader_that_comes_late() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in");
        berth_sys::pipe::make_fifo(&path, 0o600).unwrap();
        let open = |end| berth_sys::pipe::open_fifo(&path, end).unwrap();
        let both = open(FifoEnd::Both);
        let input = Input { to: open(FifoEnd::Write), both: Some(both) };
        let (mut client, there) = tokio::io::duplex(100);
        client.write_all(b"early").await.unwrap();
        drop(client);
        let sent = tokio::spawn(from_client(Box::new(there), input));
        while rustix::io::ioctl_fionread(open(FifoEnd::Read)).unwrap() < 5 {
            tokio::task::yield_now().await;
        }
        let reader = open(FifoEnd::Read);
        let mut space = [0; 10];
        assert_eq!(rustix::io::read(&reader, &mut space), Ok(5));
        sent.await.unwrap();
        assert_eq!(rustix::io::read(&reader, &mut space), Ok(0));
    }

    #[tokio::test]
    async fn what_nobody_reads_is_taken_from_the_client_all_the_same() {
        let (read, write) = ends();
        drop(read);
        let (mut client, there) = tokio::io::duplex(100);
        let input = Input { to: write, both: None };
        let taken = tokio::spawn(from_client(Box::new(there), input));
        client.write_all(&[b'x'; 10_000]).await.unwrap();
        drop(client);
        taken.await.unwrap();
    }
}
