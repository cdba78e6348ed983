//! What all fuzz targets have in common: a bound on the memory that one input may cost.

use std::alloc::System;
use std::panic;
use std::sync::Once;

use cap::Cap;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// Does `check`, which may have `limit` bytes of memory at once; more of it ends the process.
///
/// # Panics
/// It panics.
pub fn bounded(limit: usize, check: impl FnOnce()) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // To say what is wrong may cost more.
        let say = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let _ended = MEMORY.set_limit(usize::MAX);
            say(info);
        }));
    });
    let set = |limit| assert!(MEMORY.set_limit(limit).is_ok(), "there is less than is in use");
    set(MEMORY.allocated() + limit);
    check();
    set(usize::MAX);
}
