//! The first process of a shared PID namespace: it keeps it alive and reaps its orphans.

use std::process::ExitCode;

use berth_sys::{Signal, process, signal, thread};

/// Waits for SIGTERM or SIGINT, reaping meanwhile.
///
/// The kernel drops signals for the first process of a namespace that have their default action;
/// blocked ones it keeps, so these are waited for.
pub(crate) fn pause() -> ExitCode {
    let signals = [Signal::TERM, Signal::INT, Signal::CHLD];
    if let Err(error) = signal::block(&signals).and_then(|()| thread::set_name("pause")) {
        eprintln!("berth-helper pause: {error}");
        return ExitCode::FAILURE;
    }
    loop {
        // Also before the first wait: a child may have ended before the signals were blocked.
        process::reap_all();
        match signal::wait(&signals) {
            Ok(Signal::CHLD) => {}
            Ok(_) => return ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("berth-helper pause: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
}
