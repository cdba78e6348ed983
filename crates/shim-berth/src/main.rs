//! Berth's own shim: OCI containers in namespaces, made by crun, runc or runsc.

mod namespaces;

use std::path::Path;
use std::process::ExitCode;

use berth_shim::process::{netstack, pause};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [pause::VERB, helper] => pause_in(helper, None, None),
        [pause::VERB, helper, user] => pause_in(helper, Some(user), None),
        [pause::VERB, helper, user, own] => {
            pause_in(helper, Some(*user).filter(|user| !user.is_empty()), Some(own))
        }
        [netstack::VERB, program, args @ ..] => become_program(program, args),
        _ => berth_shim::run::<namespaces::Factory>(),
    }
}

/// See [`pause`]: not for users.
fn pause_in(helper: &str, user: Option<&str>, own: Option<&str>) -> ExitCode {
    use std::io::Write;
    match pause::in_the_middle(Path::new(helper), user.map(Path::new), own) {
        Ok(pid) if writeln!(std::io::stdout(), "{pid}").is_ok() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// See [`netstack`]: not for users.
fn become_program(program: &str, args: &[&str]) -> ExitCode {
    match netstack::become_program(Path::new(program), args) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
