//! Running `berth-helper`: what touches namespaces, or paths that strangers supply, happens in a
//! process that can be killed, never in a thread of the daemon.

use std::path::PathBuf;
use std::time::Duration;

use berth_job::Job;
use berth_pod::Kind;
use berth_sys::spawn::Spawn;
use serde_json::{Value, json};

use super::{Context, Result, failed};
use crate::settings::Settings;
use crate::shared::Shared;

/// More than any answer.
const ANSWER: usize = 4 << 20;

/// Runs one verb with a JSON request, and gives its JSON answer.
pub(crate) async fn call(
    context: &Context,
    verb: &str,
    request: &Value,
    deadline: Duration,
) -> Result<Value> {
    call_for(&context.shared, verb, request, deadline).await
}

/// The same, of no pod.
pub(crate) async fn call_for(
    shared: &Shared,
    verb: &str,
    request: &Value,
    deadline: Duration,
) -> Result<Value> {
    let spawn = spawn(&shared.settings, verb).cgroups(&shared.jobs_enter);
    run(Job::new(spawn, deadline), verb, request).await
}

/// Leaves a process that holds these fifos, outside of what is killed with a daemon; it ends by
/// itself when what is in them was read.
pub(crate) async fn hold(context: &Context, fifos: &[PathBuf]) -> Result<()> {
    let spawn = spawn(context.settings(), "hold").cgroups(&context.shared.holders_enter);
    let deadline = context.settings().helper_deadline;
    run(Job::new(spawn, deadline).leave_running(), "hold", &json!({"fifos": fifos})).await?;
    Ok(())
}

fn spawn(settings: &Settings, verb: &str) -> Spawn {
    Spawn::new(&settings.helper).arg(verb).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
}

async fn run(job: Job, verb: &str, request: &Value) -> Result<Value> {
    let job = job.stdin(request.to_string().into_bytes()).capture(ANSWER);
    let outcome = match job.run().await {
        // Of the helper, not of what it was to look at.
        Err(why) if why.kind() == berth_sys::Kind::NotFound => {
            return failed(Kind::Unavailable, format!("{why}: install berth-helper"));
        }
        outcome => outcome?,
    };
    let answer: Value = serde_json::from_slice(&outcome.stdout).unwrap_or(Value::Null);
    if outcome.exit.success() {
        return Ok(answer);
    }
    let error = &answer["error"];
    let message = error["message"].as_str().or(error.as_str()).map(str::to_owned);
    let said = || String::from_utf8_lossy(&outcome.stderr).trim().to_owned();
    let kind = match error["kind"].as_str() {
        Some("invalid") => Kind::Invalid,
        Some("not_found") => Kind::NotFound,
        Some("exists") => Kind::Exists,
        Some("busy") => Kind::Busy,
        Some("unimplemented") => Kind::Unimplemented,
        Some("exhausted") => Kind::Exhausted,
        Some("read_only") => Kind::Unavailable,
        _ => Kind::Broken,
    };
    failed(kind, format!("berth-helper {verb} {}: {}", outcome.exit, message.unwrap_or_else(said)))
}
