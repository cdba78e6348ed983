//! The C library's heap: how much of what is freed it keeps.

#![allow(unsafe_code)]

/// What is this large has pages of its own, which go back when it is freed. It is glibc's own first
/// value: set, it stays, and does not grow with the largest buffer that was ever freed.
#[cfg(target_env = "gnu")]
const LARGE: i32 = 128 << 10;

/// Lets threads share this many heaps, and keeps large pieces out of them.
///
/// glibc gives each thread one of its own, up to eight for each processor, and what is freed in one
/// is not used by another. To be called before there are threads; other C libraries ignore it.
pub fn share(heaps: u16) {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers by value and has no precondition (mallopt(3)).
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, i32::from(heaps));
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = heaps;
}

/// Gives what is free back to the kernel. Takes a millisecond or so: after work that needed much.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a number by value, locks each heap itself and has no precondition
    // (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_goes_back_to_the_kernel() {
        share(1);
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
        };
        // Many small pieces, with one kept at the end: nothing but a trim gives them back.
        let mut pieces: Vec<Box<[u8; 1000]>> = (0..20_000).map(|_| Box::new([1; 1000])).collect();
        let last = pieces.pop();
        drop(pieces);
        let before = resident();
        trim();
        assert!(resident() < before, "{before} pages and {} after", resident());
        drop(last);
    }
}
