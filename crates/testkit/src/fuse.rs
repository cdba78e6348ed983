//! A FUSE file system with one file, which stops answering when it is told to: a volume whose
//! server is gone. What it has read and does not answer waits in the kernel, and cannot be killed.
//!
//! Numbers and layouts are those of linux/fuse.h, version 7.31.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};

/// The only file of the file system, in its root.
pub const FILE: &str = "file";

const ROOT: u64 = 1;
const ONE: u64 = 2;
const HEADER: usize = 40;
/// Replies say so where a call is unknown, and the kernel does without from then on.
const ENOSYS: i32 = 38;
const ENOENT: i32 = 2;

/// Mounts it at `at`, says `mounted` on stdout, and serves until it is killed. While the file
/// `silent` exists, nothing is answered; not even the first message if it exists from the beginning.
///
/// # Errors
/// If it cannot be mounted.
pub fn run(at: &Path, silent: &Path) -> Result<()> {
    let mut device =
        File::options().read(true).write(true).open("/dev/fuse").context("/dev/fuse")?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("berth-test"), at, Some("fuse"), flags, Some(options.as_str()))
        .with_context(|| format!("mount a FUSE file system on {}", at.display()))?;
    std::io::stdout().write_all(b"mounted\n").context("say that it is mounted")?;
    let mut request = vec![0; 256 << 10];
    loop {
        let length = match device.read(&mut request) {
            Ok(length) if length >= HEADER => length,
            Ok(_) => continue,
            // Unmounted.
            Err(error) if error.raw_os_error() == Some(19) => return Ok(()),
            Err(error) => return Err(error).context("read a request"),
        };
        if silent.exists() {
            continue;
        }
        if let Some(reply) = answer(&request[..length]) {
            // The caller may have been killed: then nobody wants it.
            let _ = device.write(&reply);
        }
    }
}

fn answer(request: &[u8]) -> Option<Vec<u8>> {
    let number = |at: usize| -> u64 {
        request[at..at + 8].iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
    };
    let (opcode, unique, node) = (number(0) >> 32, number(8), number(16));
    let name = request[HEADER..].split(|byte| *byte == 0).next().unwrap_or_default();
    let body = match opcode {
        1 if name == FILE.as_bytes() => Ok(entry()),
        1 => Err(ENOENT),
        // FORGET, INTERRUPT and BATCH_FORGET have no reply.
        2 | 36 | 42 => return None,
        3 => Ok([vec![0; 16], attributes(node)].concat()),
        // OPEN and OPENDIR.
        14 | 27 => Ok(vec![0; 16]),
        15 => Ok(b"content\n".to_vec()),
        26 => Ok(first()),
        // READDIR: nothing more. FLUSH and RELEASE: done.
        28 | 18 | 25 | 29 => Ok(Vec::new()),
        _ => Err(ENOSYS),
    };
    let (error, body) = match body {
        Ok(body) => (0, body),
        Err(error) => (-error, Vec::new()),
    };
    let length = u32::try_from(16 + body.len()).ok()?;
    let mut reply = length.to_le_bytes().to_vec();
    reply.extend(error.to_le_bytes());
    reply.extend(unique.to_le_bytes());
    reply.extend(body);
    Some(reply)
}

/// `fuse_init_out`.
fn first() -> Vec<u8> {
    let mut out = Vec::new();
    for word in [7u32, 31, 0, 0, 0, 4096, 1] {
        out.extend(word.to_le_bytes());
    }
    out.resize(64, 0);
    out
}

/// `fuse_entry_out`; nothing of it may be kept.
fn entry() -> Vec<u8> {
    let mut out = ONE.to_le_bytes().to_vec();
    out.resize(40, 0);
    out.extend(attributes(ONE));
    out
}

/// `fuse_attr`.
fn attributes(node: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let size: u64 = if node == ROOT { 0 } else { 8 };
    for word in [node, size, 0, 0, 0, 0] {
        out.extend(word.to_le_bytes());
    }
    let mode: u32 = if node == ROOT { 0o40755 } else { 0o100_644 };
    for word in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
        out.extend(word.to_le_bytes());
    }
    out
}
