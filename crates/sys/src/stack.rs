//! The calling thread's stack: what deep calls have touched of it stays with the process.

#![allow(unsafe_code)]

use std::ffi::c_void;

use crate::error::{Attempt, Result};

/// No further down than this is given back: the kernel makes a program's own stack twice as large.
const REACH: usize = 64 << 10;

/// More than the frame of [`discard`], and of the system call in it.
const FRAME: usize = 1 << 10;

/// Gives the pages below what is in use now back to the kernel; they are zero when they are used
/// next. Costs two or three system calls and the page faults of the next deep call.
///
/// # Errors
/// The C library does not know the stack, or the kernel refuses.
pub fn give_back() -> Result<()> {
    let lowest = lowest().on_thing("find", "the stack")?;
    discard(lowest, page()).on_thing("give back", "the stack")
}

#[inline(never)]
fn discard(lowest: usize, page: usize) -> std::io::Result<()> {
    let here = 0_u8;
    let end = (&raw const here as usize).saturating_sub(FRAME) & !(page - 1);
    let start = lowest.max(end.saturating_sub(REACH));
    if start >= end {
        return Ok(());
    }
    // SAFETY: the range lies in this thread's stack, below every frame: nothing there is read before
    // it is written. Of a program's own stack, which grows, the kernel keeps at least 128 KiB.
    let result = unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// The lowest address of the calling thread's stack, page-aligned.
#[inline(never)]
fn lowest() -> std::io::Result<usize> {
    let check = |errno| match errno {
        0 => Ok(()),
        errno => Err(std::io::Error::from_raw_os_error(errno)),
    };
    let (mut low, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: pthread_attr_t is plain data that pthread_getattr_np fills in; it is destroyed once,
    // and only if it was filled in. All pointers are valid for the calls.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        check(libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes))?;
        let found = libc::pthread_attr_getstack(&raw const attributes, &raw mut low, &raw mut size);
        libc::pthread_attr_destroy(&raw mut attributes);
        check(found)?;
    }
    Ok((low as usize).next_multiple_of(page()))
}

fn page() -> usize {
    // SAFETY: sysconf takes a number by value and has no precondition.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // POSIX has this value everywhere; 64 KiB is the largest page of Linux.
    usize::try_from(size).unwrap_or(64 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes to 48 KiB of stack.
    #[inline(never)]
    fn deep() -> usize {
        let mut space = [0_u8; 48 << 10];
        for byte in space.iter_mut().step_by(1024) {
            *byte = 1;
        }
        std::hint::black_box(&space).iter().map(|byte| usize::from(*byte)).sum()
    }

    /// The resident KiB of the mapping that the caller's stack is in.
    fn resident() -> u64 {
        let here = 0_u8;
        let here = &raw const here as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let address = |text| usize::from_str_radix(text, 16);
            if let Some((Ok(start), Ok(end))) = range.map(|(s, e)| (address(s), address(e))) {
                inside = (start..end).contains(&here);
            } else if let Some(rss) = line.strip_prefix("Rss:").filter(|_| inside) {
                return rss.trim().trim_end_matches(" kB").parse().unwrap();
            }
        }
        panic!("no mapping holds {here:x}");
    }

    #[test]
    fn what_a_deep_call_touched_goes_back_to_the_kernel() {
        // The stack of a thread that does nothing else.
        let (before, after) = std::thread::spawn(|| {
            assert_eq!(deep(), 48);
            let before = resident();
            give_back().unwrap();
            let after = resident();
            assert_eq!(deep(), 48, "and can be used again");
            (before, after)
        })
        .join()
        .unwrap();
        assert!(after + 24 <= before, "{before} KiB and {after} after");
    }
}
