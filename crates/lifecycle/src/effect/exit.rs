//! The end of a container: waited for, made certain, and only then reported.

use std::os::fd::OwnedFd;
use std::time::{Duration, UNIX_EPOCH};

use berth_cgroup::Cgroup;
use berth_pod::ContainerId;
use berth_pod::job::Outcome;
use berth_pod::record::{Exit, Failure, ShimFact};
use berth_shim_client::{Exited, Kind as ShimKind, Shim};
use berth_sys::{Pid, Signal, pidfd, process};
use tokio::io::Interest;

use super::{Context, Result, Trouble, blocking, cgroup, connection, shim, stdio};

/// How long a shim whose connection was lost may take to be gone.
const SOON: Duration = Duration::from_secs(2);

/// How long a shim may take to tell of the end of a process that is seen to have ended.
const UNTOLD: Duration = Duration::from_secs(5);

/// How long the log of a container that has ended may take to be opened.
const LOG: Duration = Duration::from_secs(5);

/// How often a leaf is looked at meanwhile: nothing announces that it is empty.
const LOOK: Duration = Duration::from_millis(20);

/// How a wait for an exit ends.
enum End {
    /// The shim has told.
    Told(Shim, Exited),
    /// The process has ended, and the shim tells nothing of it.
    Untold,
    /// The shim cannot be asked.
    Unanswered(Trouble),
}

/// Waits for the exit, then sees that nothing of the container is alive. What comes before and after
/// the wait is boxed: room for it would be kept as long as the container runs.
pub(super) async fn watch(context: &Context, id: &ContainerId) -> Result<Outcome> {
    match end_beside_log(context, id).await {
        End::Told(shim, exited) => Box::pin(told(context, id, &shim, exited)).await,
        End::Untold => {
            let text = "the container has ended, and its shim has not told how".to_owned();
            Box::pin(lost(context, id, text)).await
        }
        End::Unanswered(why) => Box::pin(unanswered(context, id, why)).await,
    }
}

/// The end, while the log is opened again: a disk that hangs must not hide it.
async fn end_beside_log(context: &Context, id: &ContainerId) -> End {
    let mut resumed = Box::pin(stdio::resume(context, id));
    let mut ended = std::pin::pin!(end(context, id));
    tokio::select! {
        () = &mut resumed => {
            drop(resumed);
            ended.await
        }
        end = &mut ended => {
            if Box::pin(tokio::time::timeout(LOG, resumed)).await.is_err() {
                tracing::warn!(container = %id, "its log could not be opened within {LOG:?}");
            }
            end
        }
    }
}

async fn end(context: &Context, id: &ContainerId) -> End {
    let shim = match connection(context).await {
        Ok(shim) => shim,
        Err(why) => return End::Unanswered(why),
    };
    let waited = tokio::select! {
        waited = shim.wait(id.as_str(), None) => waited,
        () = ended_untold(context, id) => match Box::pin(asked(context, id, &shim)).await {
            Some(answer) => answer,
            None => return End::Untold,
        },
    };
    match waited {
        Ok(exited) => End::Told(shim, exited),
        Err(why) => End::Unanswered(why.into()),
    }
}

/// What a shim says of a process that has ended and of whose end it did not tell: nothing, if it
/// says that it runs.
async fn asked(
    context: &Context,
    id: &ContainerId,
    shim: &Shim,
) -> Option<berth_shim_client::Result<Exited>> {
    match shim.state(id.as_str(), None).await {
        Ok(state) => match state.exited {
            Some(exited) => Some(Ok(exited)),
            // The pid may be one of a guest, which this node cannot know: the shim tells.
            None if !has_cgroup(context, id) => Some(shim.wait(id.as_str(), None).await),
            None => None,
        },
        Err(why) if why.kind() == ShimKind::TimedOut => None,
        Err(why) => Some(Err(why)),
    }
}

fn has_cgroup(context: &Context, id: &ContainerId) -> bool {
    context.shared.cgroups.at(&cgroup::path_of(context, id)).is_ok_and(|cgroup| cgroup.exists())
}

async fn told(context: &Context, id: &ContainerId, shim: &Shim, exited: Exited) -> Result<Outcome> {
    let ours = match shim::foreign(context) {
        true => None,
        false => shim.exit_facts(id.as_str()).await.ok(),
    };
    let counted = lacked_memory(context, id).await?;
    let carried = context.shared.carriers.finish(id).await;
    let dropped = ours.as_ref().map_or(carried, |facts| facts.dropped_log_lines);
    let oom = ours.map_or(counted, |facts| facts.oom_killed || counted);
    let at = exited.at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let at = at.and_then(|at| i64::try_from(at.as_nanos()).ok());
    let code = i32::try_from(exited.status).unwrap_or(255);
    // The shim's clock may have been set back meanwhile.
    let started = context.container(id)?.started_at.unwrap_or_default();
    let at = at.unwrap_or_else(|| context.shared.now()).max(started);
    Ok(Outcome::Exited(exit(code, at, oom, dropped)))
}

/// Returns some time after the end of the container's first process, if a shim by others has not
/// told of it by then. What cannot be watched from here, the guest of a VM, is left to the shim.
async fn ended_untold(context: &Context, id: &ContainerId) {
    let task = context.container(id).ok().and_then(|c| c.task.held());
    match task.filter(|_| shim::foreign(context)).map(|task| task.pid) {
        Some(pid) => Box::pin(ended(context, id, pid)).await,
        None => std::future::pending().await,
    }
}

async fn ended(context: &Context, id: &ContainerId, pid: u32) {
    match process_of(context, id, pid) {
        Process::Runs(pidfd) => {
            let Ok(watched) = berth_job::watch(pidfd, Interest::READABLE) else {
                return std::future::pending().await;
            };
            // An error is as good as an end: State is asked then.
            let _ = watched.readable().await;
        }
        Process::Ended => {}
        Process::Elsewhere => return std::future::pending().await,
    }
    tokio::time::sleep(UNTOLD).await;
}

fn exit(code: i32, at: i64, oom: bool, dropped: u64) -> Exit {
    let reason = match (oom, code) {
        (true, 137) => "OOMKilled",
        (_, 0) => "Completed",
        _ => "Error",
    };
    let message = match dropped {
        0 => String::new(),
        1 => "a line of its log could not be written".to_owned(),
        count => format!("{count} lines of its log could not be written"),
    };
    Exit { code, at, reason: reason.into(), message }
}

/// What the pid is that a shim has named as a container's or the sandbox's first process.
enum Process {
    Runs(OwnedFd),
    Ended,
    /// Not in this cgroup: in a guest, or its number's next owner.
    Elsewhere,
}

fn process_of(context: &Context, id: &ContainerId, pid: u32) -> Process {
    match context.shared.cgroups.at(&cgroup::path_of(context, id)) {
        Ok(cgroup) => process_in(&cgroup, pid),
        Err(_) => Process::Elsewhere,
    }
}

fn process_in(cgroup: &Cgroup, pid: u32) -> Process {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Process::Elsewhere;
    };
    let pidfd = match pidfd::open(pid) {
        Ok(pidfd) => pidfd,
        Err(why) if why.kind() == berth_sys::Kind::NotFound => return Process::Ended,
        Err(_) => return Process::Elsewhere,
    };
    if !pidfd::alive(&pidfd).unwrap_or(true) {
        return Process::Ended;
    }
    // Compared after the open: a number may have come to name another process.
    let members = cgroup.processes().unwrap_or_default();
    if members.contains(&pid) { Process::Runs(pidfd) } else { Process::Elsewhere }
}

/// The shim cannot say: if it is dead, so is the container once its cgroup is empty.
async fn unanswered(context: &Context, id: &ContainerId, why: Trouble) -> Result<Outcome> {
    let Trouble::Failed(failure) = &why else { return Err(why) };
    if failure.kind == berth_pod::Kind::NotFound {
        let text = format!("the shim does not know the container any more: {}", failure.message);
        return lost(context, id, text).await;
    }
    context.shared.disconnect(&context.record.id);
    if !gone_soon(context).await {
        return Err(why);
    }
    end_sandbox(context).await?;
    lost(context, id, format!("the pod's shim died: {}", failure.message)).await
}

/// A sandbox that is a task ends with its shim. The containers may be in it and nowhere else: in a
/// kernel of its own.
async fn end_sandbox(context: &Context) -> Result<()> {
    let Some(sandbox) = context.record.sandbox.held().filter(|sandbox| sandbox.as_task) else {
        return Ok(());
    };
    let path = cgroup::path_below(context, context.record.id.as_str());
    cgroup::empty(context.shared.cgroups.at(&path)?).await?;
    // Some runtimes have no cgroup for the sandbox: its process is in the pod's.
    let (Some(pid), Some(pod)) = (sandbox.pid, context.record.cgroup.held()) else {
        return Ok(());
    };
    let Process::Runs(pidfd) = process_in(&context.shared.cgroups.at(&pod.path)?, pid) else {
        return Ok(());
    };
    let dead = blocking(move || {
        pidfd::send(&pidfd, Signal::KILL)?;
        Ok(pidfd::wait_exited(&pidfd, cgroup::KILL)?)
    });
    if dead.await? {
        return Ok(());
    }
    let text = format!("the sandbox, pid {pid} in cgroup {}, cannot be killed", pod.path);
    Err(Trouble::Living(Failure::new(berth_pod::Kind::TimedOut, text)))
}

/// The exit of a container of which nobody can tell more than that it is dead now.
async fn lost(context: &Context, id: &ContainerId, mut message: String) -> Result<Outcome> {
    if lacked_memory(context, id).await? {
        message.push_str("; the kernel had killed in the container for lack of memory");
    }
    context.shared.carriers.finish(id).await;
    let at = context.shared.now();
    Ok(Outcome::Exited(Exit { code: 255, at, reason: "Error".into(), message }))
}

/// Sees to it that nothing of the container is alive; was it short of memory, by its cgroup or by
/// what its shim has told?
async fn lacked_memory(context: &Context, id: &ContainerId) -> Result<bool> {
    let counted = settle(context, id).await?;
    Ok(context.shared.lacked_memory(id) || counted)
}

/// Kills what is left in the container's cgroup and sees it gone; says if the kernel had killed in
/// it for lack of memory.
pub(super) async fn settle(context: &Context, id: &ContainerId) -> Result<bool> {
    let cgroup = context.shared.cgroups.at(&cgroup::path_of(context, id))?;
    blocking(move || {
        if !cgroup.exists() {
            return Ok(false);
        }
        cgroup::nobody(&cgroup, cgroup.kill(cgroup::KILL)?)?;
        Ok(cgroup.oom_kills().unwrap_or(0) > 0)
    })
    .await
}

/// The shim's process, if that very one is still there.
pub(super) fn shim_pidfd(fact: &ShimFact) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(fact.pid?).ok()?)?;
    let fd = pidfd::open(pid).ok()?;
    // Compared after the open: the pid cannot have come to name another one since.
    (process::start_time(pid).ok() == fact.pid_start).then_some(fd)
}

/// Is the shim gone for certain? One whose pid is not known is, once its leaf is empty.
pub(super) fn is_dead(context: &Context) -> bool {
    match context.record.shim.held() {
        Some(fact) if fact.pid.is_some() => {
            shim_pidfd(fact).is_none_or(|fd| !pidfd::alive(&fd).unwrap_or(false))
        }
        Some(_) => leaf_is_empty(context),
        None => true,
    }
}

fn leaf_is_empty(context: &Context) -> bool {
    let leaf = context.shared.cgroups.at(&context.layout().shim_cgroup(&context.record.id));
    leaf.is_ok_and(|leaf| !leaf.exists() || leaf.processes().is_ok_and(|all| all.is_empty()))
}

/// The same, waiting a little: a connection breaks before its process is gone.
pub(super) async fn gone_soon(context: &Context) -> bool {
    let Some(fact) = context.record.shim.held() else { return true };
    if fact.pid.is_none() {
        let begin = tokio::time::Instant::now();
        while !leaf_is_empty(context) {
            if begin.elapsed() > SOON {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        return true;
    }
    let Some(fd) = shim_pidfd(fact) else { return true };
    let waited = blocking(move || Ok(pidfd::wait_exited(&fd, SOON)?)).await;
    waited.unwrap_or(false)
}
