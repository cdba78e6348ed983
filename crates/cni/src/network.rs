//! The node's pod network: attach a pod, detach it, check it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{RwLock, RwLockReadGuard};
use tokio::time::Instant;

use crate::attachment::is_name;
use crate::cache::{Cache, Entry};
use crate::discovery::Discovery;
use crate::plugin::{Call, Runner, Verb};
use crate::{Attached, Attachment, Cached, Error, NetworkList, Result, result};

/// The pod's interface: what every CRI runtime calls it.
pub const IF_NAME: &str = "eth0";

/// How plugins are found and run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where configurations lie.
    pub conf_dir: PathBuf,
    /// Where plugins lie, in order: CNI_PATH.
    pub bin_dirs: Vec<PathBuf>,
    /// Where results are kept; Berth's own.
    pub cache_dir: PathBuf,
    /// What plugins get of the environment besides CNI's own variables.
    pub env: Vec<(OsString, OsString)>,
    /// The `tasks` or `cgroup.procs` files by which a plugin enters the jobs' cgroup.
    pub cgroups: Vec<PathBuf>,
    /// Networks that only Berth uses on this node: GC is for those alone.
    pub owned: BTreeSet<String>,
    /// A template that a configuration is written from once the pod CIDR is known.
    pub template: Option<PathBuf>,
    /// How long each verb may take.
    pub deadlines: Deadlines,
}

/// How long each verb may take, for all plugins of the list together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// ADD.
    pub add: Duration,
    /// DEL.
    pub del: Duration,
    /// CHECK.
    pub check: Duration,
    /// STATUS and VERSION.
    pub status: Duration,
    /// GC.
    pub gc: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines {
            add: Duration::from_secs(60),
            del: Duration::from_secs(30),
            check: Duration::from_secs(30),
            status: Duration::from_secs(10),
            gc: Duration::from_secs(60),
        }
    }
}

/// The node's pod network. Pods are attached and detached in parallel; one pod's own calls must
/// follow one another (CNI spec, section 2).
#[derive(Debug)]
pub struct Network {
    pub(crate) settings: Settings,
    pub(crate) discovery: Discovery,
    pub(crate) runner: Runner,
    pub(crate) cache: Cache,
    /// Held while files of the cache are touched, even if the caller has gone: what a dropped ADD
    /// was about to save is saved before the DEL that follows looks, and never after.
    pub(crate) files: Arc<tokio::sync::Mutex<()>>,
    /// ADD and DEL share it, GC has it alone, as the specification demands.
    pub(crate) gate: Arc<RwLock<()>>,
    /// The list whose plugins have said that they speak its version.
    pub(crate) vetted: Mutex<Option<Arc<NetworkList>>>,
}

impl Network {
    /// A network as these settings describe it; nothing is read yet.
    #[must_use]
    pub fn new(settings: Settings) -> Network {
        Network {
            discovery: Discovery::new(settings.conf_dir.clone()),
            runner: Runner::new(&settings),
            cache: Cache::new(settings.cache_dir.clone()),
            files: Arc::default(),
            gate: Arc::default(),
            vetted: Mutex::new(None),
            settings,
        }
    }

    /// A network whose configurations lie elsewhere, with the same plugins and the same cache.
    #[must_use]
    pub fn beside(&self, conf_dir: PathBuf) -> Network {
        let settings = Settings { conf_dir, template: None, ..self.settings.clone() };
        Network {
            files: Arc::clone(&self.files),
            gate: Arc::clone(&self.gate),
            ..Network::new(settings)
        }
    }

    /// The network as it is configured now.
    ///
    /// # Errors
    /// [`Error::NoNetwork`], which says where it looked and what it found wrong.
    pub fn current(&self) -> Result<Arc<NetworkList>> {
        self.discovery.current().map_err(|absent| Error::NoNetwork(absent.to_string()))
    }

    /// Takes down what an earlier ADD of this pod left unfinished; answers what one has completed for
    /// the same netns. Not to be dropped before it answers: half a DEL leaves what no other DEL
    /// finds.
    ///
    /// # Errors
    /// A plugin failed twice.
    pub async fn clear_way(&self, attachment: &Attachment) -> Result<Option<Attached>> {
        let id = checked(&attachment.container_id)?;
        let _no_gc = self.enter(Verb::Add, self.settings.deadlines.add).await?;
        let Some(earlier) = self.load(id).await? else { return Ok(None) };
        if let Some(attached) = adoptable(&earlier, &attachment.netns) {
            return Ok(Some(attached));
        }
        // Bridge fails DEL of an ADD that died between the address and the masquerade rule, and
        // has then taken away what made it fail: the second time it works.
        if let Err(first) = self.take_down(earlier.clone()).await {
            tracing::warn!("{first}: trying again");
            self.take_down(earlier).await?;
        }
        Ok(None)
    }

    /// ADD: attaches a pod, or takes over what an earlier try completed for the same netns. What an
    /// earlier try left unfinished is taken down first: see [`Network::clear_way`].
    ///
    /// # Errors
    /// No network, a plugin failed or the pod got no address. [`Network::detach`] is due then.
    pub async fn attach(&self, attachment: &Attachment) -> Result<Attached> {
        match self.clear_way(attachment).await? {
            Some(attached) => Ok(attached),
            None => self.attach_anew(attachment).await,
        }
    }

    /// ADD for a pod of which nothing is there: [`Network::clear_way`] has been called. It may be
    /// dropped half-way; [`Network::detach`] is due then.
    ///
    /// # Errors
    /// As [`Network::attach`].
    pub async fn attach_anew(&self, attachment: &Attachment) -> Result<Attached> {
        checked(&attachment.container_id)?;
        let deadline = Instant::now() + self.settings.deadlines.add;
        let _no_gc = self.enter(Verb::Add, self.settings.deadlines.add).await?;
        let network = self.current()?;
        let mut entry = Entry::intent(&network, attachment, IF_NAME)?;
        entry = self.save(entry).await?;
        let result = self.add(&network, &entry, deadline).await?;
        // One that cannot be read is not kept: as prevResult it would make every DEL fail.
        let attached = Attached::parse(&network.name, IF_NAME, &result)?;
        entry.result = Some(result);
        self.save(entry).await?;
        Ok(attached)
    }

    /// DEL: detaches a pod, by what was kept of its ADD; without that, by the configuration of
    /// today. The netns may be gone. A pod that is not attached is detached already.
    ///
    /// # Errors
    /// A plugin failed; every plugin was called nevertheless, and a repeat calls them all again.
    pub async fn detach(&self, attachment: &Attachment) -> Result<()> {
        let id = checked(&attachment.container_id)?;
        let _no_gc = self.enter(Verb::Del, self.settings.deadlines.del).await?;
        if let Some(entry) = self.load(id).await? {
            return self.take_down(entry).await;
        }
        match self.current() {
            Ok(network) => {
                // What ADD refused must not keep DEL from its turn: the id alone will do.
                let bare = || {
                    let container_id = id.to_owned();
                    Attachment { container_id, ..Attachment::default() }
                };
                let entry = Entry::intent(&network, attachment, IF_NAME)
                    .or_else(|_| Entry::intent(&network, &bare(), IF_NAME))?;
                self.take_down(entry).await
            }
            // Neither cache nor configuration: there is nobody to ask.
            Err(Error::NoNetwork(_)) => self.forget(id).await,
            Err(other) => Err(other),
        }
    }

    /// DEL for an attachment of which only the cache knows.
    ///
    /// # Errors
    /// As [`Network::detach`].
    pub async fn detach_cached(&self, container_id: &str) -> Result<()> {
        let attachment =
            Attachment { container_id: container_id.to_owned(), ..Attachment::default() };
        self.detach(&attachment).await
    }

    /// CHECK: is the pod still attached as the cached result says?
    ///
    /// # Errors
    /// Nothing is cached, the network has no CHECK, or a plugin found something amiss.
    pub async fn check(&self, container_id: &str) -> Result<()> {
        let id = checked(container_id)?;
        let deadline = Instant::now() + self.settings.deadlines.check;
        let not_attached = || Error::NotAttached { id: id.to_owned() };
        let entry = self.load(id).await?.ok_or_else(not_attached)?;
        let network = self.cache.network(&entry)?;
        let unimplemented =
            |why| Error::Unimplemented { network: network.name.clone(), verb: Verb::Check, why };
        if network.disable_check {
            return Err(unimplemented("its configuration sets disableCheck"));
        }
        if !network.version.has_check() {
            return Err(unimplemented("its version has no CHECK"));
        }
        let result = entry.result.as_ref().ok_or_else(not_attached)?;
        for plugin in &network.plugins {
            let stdin = network.stdin(plugin, &entry.capability_args, Some(result));
            let call = Call::of(Verb::Check, &entry);
            self.runner.run(&plugin.kind, &call, stdin, deadline).await?;
        }
        Ok(())
    }

    /// The attachments that the cache knows of: those that no pod holds are for
    /// [`Network::detach_cached`].
    ///
    /// # Errors
    /// The cache cannot be read.
    pub async fn cached(&self) -> Result<Vec<Cached>> {
        let list = self.files(|cache| cache.list(IF_NAME)).await?;
        Ok(list
            .into_iter()
            .map(|(container_id, entry)| Cached {
                container_id,
                complete: entry.as_ref().is_some_and(|entry| entry.result.is_some()),
                network: entry.map(|entry| entry.network_name),
            })
            .collect())
    }

    /// What ADD answered for this pod; none if it is not attached.
    ///
    /// # Errors
    /// The cache cannot be read, or the result in it has no address.
    pub async fn attached(&self, container_id: &str) -> Result<Option<Attached>> {
        let Some(entry) = self.load(checked(container_id)?).await? else { return Ok(None) };
        let Some(result) = &entry.result else { return Ok(None) };
        Attached::parse(&entry.network_name, IF_NAME, result).map(Some)
    }

    async fn add(&self, network: &NetworkList, entry: &Entry, deadline: Instant) -> Result<Value> {
        let mut result = None;
        for plugin in &network.plugins {
            let stdin = network.stdin(plugin, &entry.capability_args, result.as_ref());
            let call = Call::of(Verb::Add, entry);
            let answer = self.runner.run(&plugin.kind, &call, stdin, deadline).await?;
            let answer = call.object(&plugin.kind, &answer)?;
            result = Some(result::as_version(answer, network.version));
        }
        Ok(result.unwrap_or_default())
    }

    /// DEL in reverse order. A plugin that fails does not spare the others their turn: each frees
    /// something that the next pod may need.
    async fn take_down(&self, entry: Entry) -> Result<()> {
        let deadline = Instant::now() + self.settings.deadlines.del;
        let network = match self.cache.network(&entry) {
            Ok(network) => Arc::new(network),
            Err(spoilt) => {
                tracing::warn!("{spoilt}: calling DEL by the configuration of today");
                match self.current() {
                    Ok(network) => network,
                    Err(_) => return self.forget(&entry.container_id).await,
                }
            }
        };
        let prev = entry.result.as_ref().filter(|_| network.version.has_check());
        let mut failure = None;
        for (left, plugin) in network.plugins.iter().enumerate().rev() {
            let stdin = network.stdin(plugin, &entry.capability_args, prev);
            let share = share(deadline, left + 1);
            let call = Call::of(Verb::Del, &entry);
            match self.runner.run(&plugin.kind, &call, stdin, share).await {
                Ok(_) => {}
                // Code 3: the container is unknown, so there is nothing to clean up.
                Err(Error::Plugin { error, .. }) if error.code == 3 => {}
                Err(error) if failure.is_none() => failure = Some(error),
                Err(error) => tracing::warn!(container = entry.container_id, "{error}"),
            }
        }
        match failure {
            Some(error) => Err(error),
            None => self.forget(&entry.container_id).await,
        }
    }

    /// Whether an ADD, a DEL or a GC is in progress.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.gate.try_write().is_err()
    }

    /// Waits until no ADD, DEL or GC is in progress; while the answer is held, none begins.
    pub async fn quiet(&self) -> impl Sized + use<'_> {
        self.gate.write().await
    }

    /// Keeps GC out while ADD or DEL is in progress.
    async fn enter(&self, verb: Verb, after: Duration) -> Result<RwLockReadGuard<'_, ()>> {
        tokio::time::timeout(after, self.gate.read())
            .await
            .map_err(|_| Error::Collecting { verb, after })
    }

    async fn load(&self, id: &str) -> Result<Option<Entry>> {
        let id = id.to_owned();
        self.files(move |cache| cache.load_sound(&id, IF_NAME)).await
    }

    async fn save(&self, entry: Entry) -> Result<Entry> {
        self.files(move |cache| cache.save(&entry).map(|()| entry)).await
    }

    async fn forget(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        self.files(move |cache| cache.remove(&id, IF_NAME)).await
    }

    /// Our own disk, but not on a thread that serves others.
    async fn files<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Cache) -> Result<T> + Send + 'static,
    {
        let alone = Arc::clone(&self.files).lock_owned().await;
        let cache = self.cache.clone();
        let work = tokio::task::spawn_blocking(move || {
            let done = work(&cache);
            drop(alone);
            done
        });
        match work.await {
            Ok(done) => done,
            Err(lost) => match lost.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(lost) => Err(Error::cache("reach", &self.settings.cache_dir, lost.into())),
            },
        }
    }
}

/// A completed ADD for this very netns need not be repeated.
fn adoptable(entry: &Entry, netns: &Path) -> Option<Attached> {
    let result = entry.result.as_ref().filter(|_| entry.is_of(netns))?;
    Attached::parse(&entry.network_name, IF_NAME, result).ok()
}

fn checked(id: &str) -> Result<&str> {
    if is_name(id) {
        return Ok(id);
    }
    let problem = "a container id starts with a letter or digit and holds only those and `_.-`";
    Err(Error::Attachment { id: id.to_owned(), problem: problem.to_owned() })
}

/// An equal share of the time left: a plugin that hangs leaves the others theirs.
fn share(deadline: Instant, plugins: usize) -> Instant {
    let now = Instant::now();
    let plugins = u32::try_from(plugins).unwrap_or(u32::MAX).max(1);
    now + deadline.saturating_duration_since(now) / plugins
}
