//! A stand-in OCI runtime: it runs the real one, unless its directory says how a verb is to go
//! wrong.
//!
//! | first word of the file `VERB` | then |
//! |---|---|
//! | `fail`, with a message | the verb fails with that message, and does nothing |
//! | `fail-after`, with a message | it does its work, and then fails |
//! | `die`, `die-after` | it is killed before or after its work |
//! | `hang`, `hang-after` | it never ends, before or after its work, and its pid is in `VERB.hangs` |
//! | `late` | it does its work, and ends once the file is gone |
//! | `garbage` | it prints what is neither text nor JSON, and fails |
//! | `flood` | it says 64 MiB on stderr, then does its work |
//! | `lie` | it succeeds without its work |
//! | `leave` | it leaves a process of its own behind, and does its work |
//! | `claim`, with a number | it does its work, and names that pid |

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, raise};

/// Runs as the runtime, `real` being the true one; returns the exit code.
///
/// # Errors
/// If the real runtime cannot be run, or a file not be written.
pub fn run(dir: &Path, real: &Path, arguments: &[String]) -> Result<u8> {
    let call = Call { real, arguments, log: value_of(arguments, "--log") };
    let verb = verb(arguments);
    let lever = fs::read_to_string(dir.join(verb)).unwrap_or_default();
    let (lever, rest) = lever.trim().split_once(' ').unwrap_or((lever.trim(), ""));
    match lever {
        "fail" => call.fail(rest),
        "fail-after" => call.pass().and_then(|_| call.fail(rest)),
        "die" => die(),
        "die-after" => call.pass().and_then(|_| die()),
        "hang" => hang(&dir.join(format!("{verb}.hangs"))),
        "hang-after" => call.pass().and_then(|_| hang(&dir.join(format!("{verb}.hangs")))),
        "late" => {
            let code = call.pass()?;
            while dir.join(verb).exists() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Ok(code)
        }
        "garbage" => call.garbage(),
        "flood" => flood().and_then(|()| call.pass()),
        "lie" => Ok(0),
        "leave" => leave().and_then(|()| call.pass()),
        "claim" => {
            let code = call.pass()?;
            let file = value_of(arguments, "--pid-file").context("a --pid-file")?;
            fs::write(file, rest).context("name another pid")?;
            Ok(code)
        }
        _ => call.pass(),
    }
}

struct Call<'a> {
    real: &'a Path,
    arguments: &'a [String],
    log: Option<PathBuf>,
}

impl Call<'_> {
    fn pass(&self) -> Result<u8> {
        let status = Command::new(self.real).args(self.arguments).status();
        let status = status.with_context(|| format!("run {}", self.real.display()))?;
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255))
    }

    fn fail(&self, message: &str) -> Result<u8> {
        let line = serde_json::json!({"level": "error", "msg": message}).to_string();
        self.say(line.as_bytes())?;
        Ok(1)
    }

    fn garbage(&self) -> Result<u8> {
        let noise: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        self.say(&noise)?;
        Ok(1)
    }

    fn say(&self, bytes: &[u8]) -> Result<()> {
        // Of `create` and `exec`, standard error is the container's own: nobody need read it.
        let log = self.log.as_ref().context("a --log")?;
        fs::write(log, bytes).with_context(|| format!("write {}", log.display()))
    }
}

/// The first word that is neither an option nor the value of one.
fn verb(arguments: &[String]) -> &str {
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--root" | "--log" | "--log-format" => drop(words.next()),
            word if word.starts_with("--") => {}
            word => return word,
        }
    }
    "none"
}

fn value_of(arguments: &[String], option: &str) -> Option<PathBuf> {
    let at = arguments.iter().position(|word| word == option)?;
    arguments.get(at + 1).map(PathBuf::from)
}

fn die() -> Result<u8> {
    raise(Signal::SIGKILL).context("die")?;
    Ok(137)
}

/// Leaves its pid in a file first: whoever waits for the hang sees it.
fn hang(file: &Path) -> Result<u8> {
    let new = file.with_extension("new");
    fs::write(&new, std::process::id().to_string())?;
    fs::rename(&new, file).context("say that it hangs")?;
    loop {
        std::thread::park();
    }
}

fn flood() -> Result<()> {
    let line = [b'x'; 4095];
    let mut stderr = std::io::stderr().lock();
    for _ in 0..16 * 1024 {
        stderr.write_all(&line).and_then(|()| stderr.write_all(b"\n")).context("say much")?;
    }
    Ok(())
}

fn leave() -> Result<()> {
    let mut command = Command::new("sleep");
    command.arg("1000").stdin(Stdio::null());
    command.spawn().map(drop).context("leave a process behind")
}
