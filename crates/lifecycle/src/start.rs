//! Daemon start: fence the jobs of a dead daemon, load the records, adopt what lives.

use std::collections::HashSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_cgroup::{Cgroup, Cgroups, Controller, Extent};
use berth_cni::Network;
use berth_image::Store;
use berth_pod::machine::Machine;
use berth_pod::record::PodRecord;
use berth_pod::{Kind, SandboxId};
use berth_records::{Loaded, Records};
use berth_shim_client::Events;
use futures_util::future::join_all;
use tokio::sync::mpsc;

use crate::convert::Fail as _;
use crate::effect::cancel;
use crate::effect::{Context, SHIMS, checkpoint, connection, drop_files};
use crate::handlers::{Handlers, Offered};
use crate::layout::{Layout, below, files_name};
use crate::nri::Plugins;
use crate::settings::Settings;
use crate::shared::{Made, Shared};
use crate::{Error, command, leftovers, picture, pod_task};

/// What the daemon hands over.
pub struct Parts {
    /// Places and policies.
    pub settings: Settings,
    /// The handlers.
    pub handlers: Offered,
    /// The images.
    pub images: Store,
    /// The network.
    pub network: Arc<Network>,
    /// The cgroup file systems.
    pub cgroups: Cgroups,
    /// NRI plugins, in whichever cgroup; none: there are to be none.
    pub nri: Option<berth_nri::Settings>,
}

/// v1: where jobs are members, to be found, frozen and killed. Each further hierarchy would be one
/// more turn at the lock that all of the node's cgroups share, for each plugin that is run.
const JOBS: [Controller; 1] = [Controller::Freezer];

/// How long the CNI plugins of a dead daemon may take to end by themselves.
const PLUGINS_END: Duration = Duration::from_secs(3);

/// How long the first answers of shims are waited for before CRI is served.
const FIRST_CONTACT: Duration = Duration::from_secs(1);

/// Fences, loads and adopts.
pub(crate) async fn start(parts: Parts) -> Result<Arc<Shared>, Error> {
    let settings = &parts.settings;
    let jobs_enter = fence(settings, &parts.cgroups).await?;
    furnish(settings, &parts.cgroups)?;
    let holders = fenced(&parts.cgroups, &settings.cgroup_root, "holders")?;
    let boot_id = berth_sys::small::boot_id().map_err(|e| Error::from(e.fail()))?;
    let path = settings.root_dir.join("pods.db");
    let mirror = settings.state_dir.join("sandboxes");
    let (records, loaded) =
        Records::open(&path, &mirror).map_err(|why| Error::new(Kind::Broken, why.to_string()))?;
    tell(&loaded);
    let handlers = Handlers::open(&settings.state_dir);
    handlers.offer(parts.handlers);
    // They end with this daemon, and at the latest with the next one's start.
    let nri = parts.nri.map(|nri| berth_nri::Settings { cgroups: jobs_enter.clone(), ..nri });
    let plugins = Plugins::new(nri);
    let shared = Arc::new(Shared::new(Made {
        settings: parts.settings,
        handlers,
        images: parts.images,
        network: parts.network,
        cgroups: parts.cgroups,
        records,
        plugins,
        boot_id,
        jobs_enter,
        holders_enter: holders.enter_files(),
    }));
    listen(&shared).await;
    let known: HashSet<String> = known(&loaded);
    // What a record that cannot be read holds is not known: nothing is swept beside it.
    let all_read = loaded.unreadable.is_empty();
    let stray = Stray::find(&shared, &known).await;
    let live = adopt(&shared, loaded).await;
    shared.tidy_handlers();
    tokio::spawn(leftovers::run(Arc::clone(&shared)));
    if all_read {
        tokio::spawn(sweep(Arc::clone(&shared), known, stray));
    }
    let interrupted = checkpoint::interrupted(&shared);
    thaw(&shared, &live, interrupted);
    tokio::spawn(end_orphans(Arc::clone(&shared), live.clone()));
    first_contact(&shared, live).await;
    shared.plugins.start(&shared).await;
    Ok(shared)
}

/// Opens the endpoint for what shims by others tell. What they tell is a help and no more: without
/// it the daemon works.
async fn listen(shared: &Arc<Shared>) {
    let path = Layout(&shared.settings).events();
    let heard = Arc::downgrade(shared);
    let hear = move |event| {
        if let Some(shared) = heard.upgrade() {
            shared.hear(event);
        }
    };
    match Events::listen(&path, hear).await {
        Ok(events) => shared.hold_ear(events),
        Err(why) => tracing::warn!(error = %why, "cannot take what shims tell"),
    }
}

/// Makes what all pods share, so that what is there while no pod is does not depend on the past.
fn furnish(settings: &Settings, cgroups: &Cgroups) -> Result<(), Error> {
    let (state, root) = (&settings.state_dir, &settings.root_dir);
    let shared = [
        (state, "bundles"),
        (state, "sandboxes"),
        (state, "s"), // the sockets of our shims
        (root, "cni"),
        (root, "files"),
        (root, "checkpoints"),
    ];
    for directory in shared.map(|(above, name)| above.join(name)) {
        // Their names are ids, which nobody else needs.
        std::fs::create_dir_all(&directory)
            .and_then(|()| std::fs::set_permissions(&directory, Permissions::from_mode(0o711)))
            .map_err(|e| Error::from(("make", directory.as_path(), e).fail()))?;
    }
    let layout = Layout(settings);
    let make = |path: &str, extent| cgroups.at(path).and_then(|cgroup| cgroup.create(extent));
    make(&layout.pods_cgroup(), Extent::All).map_err(|e| Error::from(e.fail()))?;
    make(&layout.shims_cgroup(), Extent::Only(&SHIMS)).map_err(|e| Error::from(e.fail()))
}

/// The cgroup that every CNI plugin starts in, made if there is none. What a dead daemon left in it
/// is ended by [`crate::Node::start`]: run no plugin before.
///
/// # Errors
/// It cannot be made.
pub fn plugins_cgroup(cgroups: &Cgroups, cgroup_root: &str) -> Result<Cgroup, Error> {
    fenced(cgroups, cgroup_root, "plugins")
}

fn fenced(cgroups: &Cgroups, cgroup_root: &str, name: &str) -> Result<Cgroup, Error> {
    let cgroup = cgroups.at(&below(cgroup_root, name)).map_err(|e| Error::from(e.fail()))?;
    cgroup.create(Extent::Only(&JOBS)).map_err(|e| Error::from(e.fail()))?;
    Ok(cgroup)
}

/// Waits a little until nobody is in a cgroup any more.
fn let_end(cgroup: &Cgroup) -> berth_cgroup::Result<()> {
    let deadline = Instant::now() + PLUGINS_END;
    while !cgroup.processes()?.is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Ends what a dead daemon's jobs still run, so that nothing of theirs takes effect any more. A
/// plugin may come to its end: one that is cut short leaves rules that no later DEL finds.
async fn fence(settings: &Settings, cgroups: &Cgroups) -> Result<Vec<PathBuf>, Error> {
    let jobs = fenced(cgroups, &settings.cgroup_root, "jobs")?;
    let plugins = plugins_cgroup(cgroups, &settings.cgroup_root)?;
    let work = tokio::task::spawn_blocking(move || {
        let mut remaining = jobs.kill(Duration::from_secs(10))?;
        let_end(&plugins)?;
        remaining.extend(plugins.kill(Duration::from_secs(10))?);
        for process in &remaining {
            tracing::warn!(
                pid = process.pid, name = process.name, state = %process.state,
                waiting_in = process.wait_channel,
                "a job of an earlier daemon cannot be killed"
            );
        }
        Ok::<_, berth_cgroup::Error>(jobs.enter_files())
    });
    match work.await {
        Ok(done) => done.map_err(|e| Error::from(e.fail())),
        Err(why) => Err(Error::new(Kind::Broken, format!("a worker thread ended: {why}"))),
    }
}

fn tell(loaded: &Loaded) {
    if let Some(aside) = &loaded.moved_aside {
        tracing::error!(path = %aside.display(), "the record database was corrupt and has been moved aside; a new one holds what runs");
    }
    for (id, why) in &loaded.unreadable {
        tracing::error!(row = id, error = why, "a record could not be read and has been put aside");
    }
    tracing::info!(pods = loaded.pods.len(), leftovers = loaded.leftovers.len(), "records loaded");
}

fn known(loaded: &Loaded) -> HashSet<String> {
    let left = loaded.leftovers.iter().map(|(_, l)| &*l.record);
    let mut known = HashSet::new();
    for record in loaded.pods.iter().chain(left) {
        known.insert(record.id.to_string());
        known.extend(record.containers.keys().map(ToString::to_string));
    }
    known
}

/// Starts a task for each record, each shown before any call is served. The newest creation has the
/// name, also while it is being removed; what a removal that could not be saved left behind is
/// released.
async fn adopt(shared: &Arc<Shared>, loaded: Loaded) -> Vec<Arc<PodRecord>> {
    let mut pods = loaded.pods;
    pods.sort_by_key(|record| std::cmp::Reverse(record.created_at));
    let mut names = HashSet::new();
    let mut live = Vec::new();
    for record in pods {
        let loaded = record.clone();
        let lives = record.boot_id == shared.boot_id && record.shim.held().is_some();
        let mut machine = Machine::restore(record, &shared.boot_id, shared.now());
        if !names.insert(loaded.spec.spec.name.clone()) {
            machine.remove();
        }
        let record = machine.record();
        if lives {
            live.push(Arc::clone(record));
        }
        shared.plugins.restored(record);
        let (own, queue) = mpsc::unbounded_channel();
        shared.registry.insert(picture::view(&machine, false, None), own.clone());
        // Mostly the same, and then there is only one of it.
        let same = **record == loaded;
        let saved = if same { Arc::clone(record) } else { Arc::new(loaded) };
        pod_task::start(shared, machine, Some(saved), (own, queue));
    }
    shared.leftovers.add(loaded.leftovers.into_iter().map(|(row, l)| (Some(row), l)).collect());
    live
}

/// Waits a little for the shims, all at once: what ended while the daemon was down is then known
/// before the first list. The slowest shim holds nobody up.
async fn first_contact(shared: &Arc<Shared>, live: Vec<Arc<PodRecord>>) {
    let mut contacts = tokio::task::JoinSet::new();
    for record in live {
        let shared = Arc::clone(shared);
        contacts.spawn(async move { contact(shared, record).await });
    }
    let all = async { while contacts.join_next().await.is_some() {} };
    if tokio::time::timeout(FIRST_CONTACT, all).await.is_err() {
        tracing::warn!("some shims have not answered yet: their containers are shown as unknown");
    }
}

/// Ends the commands that dead daemons have left running in containers.
async fn end_orphans(shared: Arc<Shared>, live: Vec<Arc<PodRecord>>) {
    let mut pods = tokio::task::JoinSet::new();
    for record in live {
        let shared = Arc::clone(&shared);
        pods.spawn(async move {
            let (queue, _) = mpsc::unbounded_channel();
            let (_cancel, canceled) = cancel();
            let context = Context::new(&shared, &record, queue, canceled);
            let running = record.containers.values().filter(|c| c.running());
            join_all(running.map(|c| command::end_orphans(&context, &c.id))).await;
        });
    }
    while pods.join_next().await.is_some() {}
}

/// Has the containers go on that a dead daemon has frozen for their checkpoints.
fn thaw(shared: &Arc<Shared>, live: &[Arc<PodRecord>], interrupted: Vec<(String, PathBuf)>) {
    for (id, work) in interrupted {
        let runs = |record: &&Arc<PodRecord>| {
            record.containers.values().any(|c| c.id.as_str() == id && c.running())
        };
        let (queue, _) = mpsc::unbounded_channel();
        let (_, canceled) = cancel();
        let of = live.iter().find(runs);
        let context = of.map(|record| Context::new(shared, record, queue, canceled));
        let shared = Arc::clone(shared);
        tokio::spawn(async move { checkpoint::undo(context.as_ref(), &shared, &id, work).await });
    }
}

/// Asks a shim for its tasks; one that has ended is waited for until the pod's task knows.
async fn contact(shared: Arc<Shared>, record: Arc<PodRecord>) {
    let (queue, _) = mpsc::unbounded_channel();
    let (_cancel, canceled) = cancel();
    let context = Context::new(&shared, &record, queue, canceled);
    let reached = connection(&context).await;
    for c in record.containers.values().filter(|c| c.running()) {
        let ended = match &reached {
            Ok(shim) => shim.state(c.id.as_str(), None).await.is_ok_and(|s| s.exited.is_some()),
            Err(_) => true,
        };
        if ended {
            shown_as_ended(&context.shared, &record.id, c.id.as_str()).await;
        }
    }
}

async fn shown_as_ended(shared: &Shared, pod: &SandboxId, container: &str) {
    loop {
        let changed = shared.registry.changed();
        let views = shared.registry.sandbox(pod.as_str()).ok().and_then(|(_, e)| e.view);
        let ended =
            |c: &Arc<crate::ContainerView>| c.id().as_str() == container && c.exit().is_some();
        if views.is_none_or(|view| view.containers.iter().any(ended)) {
            return;
        }
        changed.await;
    }
}

/// What no record holds. It is looked for before any call is served: what is made later belongs to
/// new pods.
struct Stray {
    attachments: Vec<String>,
    snapshots: Vec<String>,
    holders: Vec<String>,
    /// The directories of sandboxes' files.
    files: Vec<String>,
}

impl Stray {
    async fn find(shared: &Shared, known: &HashSet<String>) -> Self {
        let unknown = |all: Vec<String>| all.into_iter().filter(|id| !known.contains(id)).collect();
        // That of a container's image volume has the container's id before its number.
        let holder = |name: &str| known.contains(name.split('.').next().unwrap_or_default());
        let holders = shared.images.holders().into_iter().map(|(name, _)| name);
        let cached = shared.network.cached().await.unwrap_or_else(|why| {
            tracing::warn!(error = %why, "the cache of network attachments cannot be read");
            Vec::new()
        });
        Self {
            attachments: unknown(cached.into_iter().map(|a| a.container_id).collect()),
            snapshots: unknown(shared.images.snapshots()),
            holders: holders.filter(|name| !holder(name)).collect(),
            files: strays(&Layout(&shared.settings).all_files(), known),
        }
    }
}

/// The files of sandboxes that nobody knows.
fn strays(all: &Path, known: &HashSet<String>) -> Vec<String> {
    let known: HashSet<&str> = known.iter().map(|id| files_name(id)).collect();
    let entries = std::fs::read_dir(all).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !known.contains(name.as_str())).collect()
}

/// The node's network, and those of handlers with CNI configurations of their own.
fn networks(shared: &Shared) -> Vec<Arc<Network>> {
    let offered = shared.handlers.offered();
    let own = offered.handlers.values().flatten().filter_map(|h| h.cni_conf_dir.as_ref());
    let own: HashSet<&PathBuf> = own.collect();
    let own = own.into_iter().map(|directory| shared.network_of(directory));
    std::iter::once(Arc::clone(&shared.network)).chain(own).collect()
}

/// Lets go of what no record holds: attachments, image references, snapshots and files.
async fn sweep(shared: Arc<Shared>, known: HashSet<String>, stray: Stray) {
    for id in &stray.attachments {
        match shared.network.detach_cached(id).await {
            Ok(()) => tracing::info!(pod = id, "detached a pod that no record knows"),
            Err(why) => {
                tracing::warn!(pod = id, error = %why, "cannot detach a pod that no record knows");
            }
        }
    }
    // Attachments that are made meanwhile are in the cache, which is kept as well.
    let keep: Vec<String> = known.into_iter().collect();
    for network in networks(&shared) {
        match network.collect(&keep).await {
            Ok(_) => {}
            Err(why) if why.kind() == berth_cni::Kind::NotFound => {}
            Err(why) => tracing::warn!(error = %why, "CNI GC failed"),
        }
    }
    for key in &stray.snapshots {
        if let Err(why) = shared.images.drop_snapshot(key).await {
            tracing::warn!(container = key, error = %why, "cannot drop a snapshot that no record knows");
        }
    }
    for holder in &stray.holders {
        if let Err(why) = shared.images.unhold(holder).await {
            tracing::warn!(container = holder, error = %why, "cannot let go of an image that no record holds");
        }
    }
    for name in &stray.files {
        tokio::spawn(drop_files(Layout(&shared.settings).all_files().join(name)));
    }
}
