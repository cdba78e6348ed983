//! The container's task in the shim: created and started, or adopted; killed and deleted.

use berth_pod::record::{ContainerFact, PodWish, TaskFact};
use berth_pod::spec::{ContainerSpec, Stdin};
use berth_pod::{ContainerId, Kind};
use berth_shim_client::{Any, Create, Kind as ShimKind, Mount, Options, Shim, State, Status};

use super::{
    Context, Result, Trouble, cgroup, connection, exit, failed, limits, restore, shim, stdio,
};
use crate::carry::Paths;
use crate::nri;

/// How long a killed task may take to be reported as ended.
const END: std::time::Duration = std::time::Duration::from_secs(10);

pub(super) async fn acquire(context: &Context, id: &ContainerId) -> Result<ContainerFact> {
    let container = context.container(id)?;
    let shim = connection(context).await?;
    let create = create(context, id).await?;
    let brought_up = bring_up(context, &shim, create, Some(id)).await;
    if brought_up.is_err() {
        stdio::end(context, id).await;
    }
    let (pid, started_at) = brought_up?;
    limits::restored(context, id).await?;
    restore::served(container).await;
    Ok(ContainerFact::Task(TaskFact { pid, started_at }))
}

/// Creates and starts a task, or adopts what an earlier try has begun. Its pid, and when it was
/// started, ns since the epoch. `container`: it is one's, of which plugins are asked.
pub(super) async fn bring_up(
    context: &Context,
    shim: &Shim,
    create: Create,
    container: Option<&ContainerId>,
) -> Result<(u32, i64)> {
    let name = create.id.clone();
    let (pid, status) = made(context, shim, create).await?;
    if status != Status::Created {
        // An earlier try has started it.
        return Ok((pid, context.shared.now()));
    }
    if let Some(id) = container {
        nri::start_container(context, id, pid).await?;
    }
    // The kubelet counts a container's starts by its log files: none before this.
    if let Ok(id) = ContainerId::parse(&name) {
        stdio::begin(context, &id).await?;
    }
    // Taken before: what ends at once must not have ended before it was started.
    let at = context.shared.now();
    match shim.start(&name, None).await {
        Ok(pid) => Ok((pid, at)),
        // The start of a daemon that died meanwhile was still under way.
        Err(why) if why.kind() == ShimKind::WrongState => {
            let state = shim.state(&name, None).await?;
            match state.status {
                Status::Created | Status::Unknown => Err(why.into()),
                _ => Ok((state.pid, at)),
            }
        }
        Err(why) => Err(why.into()),
    }
}

/// Creates a task, or finds the one that an earlier try has made.
async fn made(context: &Context, shim: &Shim, create: Create) -> Result<(u32, Status)> {
    let found = |state: State| (state.pid, state.status);
    let name = create.id.clone();
    // Some shims by others do not look whether they have it: they create it over the one that runs,
    // fail, and unmount its rootfs. This waits for a Create that is still under way, too.
    if shim::foreign(context) {
        match shim.state(&name, None).await {
            Ok(state) => return Ok(found(state)),
            Err(why) if unheard(why.kind()) => return Err(why.into()),
            // Not all of them say NotFound before they have a task.
            Err(_) => {}
        }
        // A Create whose caller died may have mounted it, and been undone.
        context.shared.images.let_mount_again(&name).await?;
    }
    match shim.create(create).await {
        Ok(pid) => Ok((pid, Status::Created)),
        Err(why) if why.kind() == ShimKind::Exists => Ok(found(shim.state(&name, None).await?)),
        Err(why) => Err(why.into()),
    }
}

/// Has the shim not answered?
fn unheard(kind: ShimKind) -> bool {
    matches!(kind, ShimKind::Unavailable | ShimKind::TimedOut | ShimKind::Cancelled)
}

async fn create(context: &Context, id: &ContainerId) -> Result<Create> {
    let c = context.container(id)?;
    let Some(rootfs) = c.rootfs.held().cloned() else {
        return failed(Kind::Broken, "the rootfs is not held");
    };
    let foreign = shim::foreign(context);
    let spec = &c.spec.spec;
    let streams = if foreign { stdio::open(context, id).await? } else { own_streams(spec) };
    let checkpoint = restore::images(c)?;
    Ok(Create {
        id: id.to_string(),
        bundle: context.layout().bundle(id.as_str()),
        rootfs: vec![Mount {
            kind: rootfs.kind,
            source: rootfs.source,
            target: String::new(),
            options: rootfs.options,
        }],
        terminal: spec.tty,
        stdin: streams.stdin,
        stderr: streams.stderr,
        stdout: streams.stdout,
        options: options(context, id.as_str())?,
        checkpoint,
    })
}

/// Our own shim writes the log itself.
fn own_streams(spec: &ContainerSpec) -> Paths {
    let log = spec.log_path.as_ref().map(|path| format!("berth-log://{}", path.display()));
    // Without a log, what it says is for whoever attaches.
    let log = log.unwrap_or_else(|| "berth-live:".to_owned());
    let stdin = match spec.stdin {
        Stdin::Closed => "",
        Stdin::Open => "berth-stdin:open",
        Stdin::Once => "berth-stdin:once",
    };
    let stderr = if spec.tty { String::new() } else { log.clone() };
    Paths { stdin: stdin.to_owned(), stdout: log, stderr }
}

/// What the shim is told about a task: a container's, or the sandbox's.
pub(super) fn options(context: &Context, id: &str) -> Result<Option<Any>> {
    if shim::foreign(context) {
        return Ok(shim::options(context));
    }
    let handler = context.handler()?;
    let options = Options {
        runtime_binary: handler.runtime.clone(),
        runtime_root: Some(handler.runtime_root.clone()),
        systemd_cgroup: cgroup::by_systemd(context),
        cgroup_path: Some(cgroup::path_below(context, id)),
    };
    Ok(Some(options.into_any()?))
}

/// Kills what may run, and deletes the task. If it cannot be deleted, what it was about is dead all
/// the same, or it is said who lives.
pub(super) async fn release(context: &Context, id: &ContainerId) -> Result<()> {
    let done = delete(context, id.as_str(), &cgroup::path_of(context, id)).await;
    stdio::end(context, id).await;
    match done {
        Err(Trouble::Failed(why)) => {
            exit::settle(context, id).await?;
            Err(Trouble::Dead(why))
        }
        done => done,
    }
}

/// Kills and deletes a task, the sandbox perhaps, whose cgroup has this path. A dead shim's binary
/// does it in the shim's place.
pub(super) async fn delete(context: &Context, id: &str, cgroup: &str) -> Result<()> {
    if context.rebooted() {
        return Ok(());
    }
    let done = match connection(context).await {
        Ok(shim) => end(&shim, id).await,
        Err(why) => Err(why),
    };
    let why = match done {
        Ok(true) => return Ok(()),
        Ok(false) => return without_task(context, id, cgroup).await,
        Err(Trouble::Failed(why)) => why,
        Err(why) => return Err(why),
    };
    // A pod that ends does not wait for a shim that lives and says nothing, or not what it must.
    let ending = context.record.wish >= PodWish::Stop;
    let unheard = matches!(why.kind, Kind::Unavailable | Kind::TimedOut);
    let killed = ending && unheard && shim::put_down_at_the_end(context, id).await?;
    if why.kind == Kind::Unavailable {
        context.shared.disconnect(&context.record.id);
    } else if !killed {
        return Err(Trouble::Failed(why));
    }
    without_shim(context, id, cgroup, Trouble::Failed(why)).await
}

async fn without_shim(context: &Context, id: &str, path: &str, why: Trouble) -> Result<()> {
    if !exit::gone_soon(context).await {
        return Err(why);
    }
    // An OCI runtime that the shim had begun would go on making what is cleaned up here.
    let leaf = context.layout().shim_cgroup(&context.record.id);
    cgroup::empty(context.shared.cgroups.at(&leaf)?).await?;
    cgroup::clear_of_pod(context, path).await?;
    shim::delete(context, id).await
}

/// The shim knows of no such task. One by others that was creating it when its caller died has killed
/// its OCI runtime then, and that may have left its notes: those are its binary's to remove.
async fn without_task(context: &Context, id: &str, path: &str) -> Result<()> {
    let record = &context.record;
    let container = record.containers.values().find(|c| c.id.as_str() == id);
    let had = container.map_or(record.sandbox.held().is_some(), |c| c.task.held().is_some());
    if had || !shim::foreign(context) {
        return Ok(());
    }
    cgroup::clear_of_pod(context, path).await?;
    shim::delete(context, id).await
}

/// False if the shim knows of no such task.
async fn end(shim: &Shim, name: &str) -> Result<bool> {
    let absent = |kind| kind == ShimKind::NotFound;
    let state = match shim.state(name, None).await {
        // It is being made: killed, it is unmade.
        Err(why) if why.kind() == ShimKind::WrongState => {
            match shim.kill(name, None, 9, true).await {
                Err(why) if !absent(why.kind()) => return Err(why.into()),
                _ => shim.state(name, None).await,
            }
        }
        state => state,
    };
    match state {
        Err(why) if absent(why.kind()) => return Ok(false),
        Err(why) => return Err(why.into()),
        Ok(state) if state.status == Status::Stopped => {}
        Ok(_) => {
            match shim.kill(name, None, 9, true).await {
                Err(why) if !absent(why.kind()) && why.kind() != ShimKind::WrongState => {
                    return Err(why.into());
                }
                _ => {}
            }
            match tokio::time::timeout(END, shim.wait(name, None)).await {
                Ok(Err(why)) if !absent(why.kind()) => return Err(why.into()),
                Ok(_) => {}
                Err(_) => {
                    let text = format!("task {name} was killed and has not ended within {END:?}");
                    return failed(Kind::TimedOut, text);
                }
            }
        }
    }
    match shim.delete(name, None).await {
        Err(why) if !absent(why.kind()) => Err(why.into()),
        _ => Ok(true),
    }
}
