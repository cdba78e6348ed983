//! What every pod's task shares: the parts of the node, and the clock.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use berth_cgroup::Cgroups;
use berth_cni::Network;
use berth_image::Store;
use berth_pod::machine::{Nanos, Token};
use berth_pod::{ContainerId, SandboxId};
use berth_records::Records;
use berth_shim_client::{Event, Events, Form, Shim};

use crate::carry::Carriers;
use crate::effect::checkpoint::UnderWay;
use crate::events::Feed;
use crate::figures::Figures;
use crate::handlers::Handlers;
use crate::kept::Budget;
use crate::leftovers::Leftovers;
use crate::nri::Plugins;
use crate::registry::Registry;
use crate::settings::Settings;
use crate::shim_log::ShimLogs;

/// The parts of the node.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) handlers: Handlers,
    pub(crate) images: Store,
    pub(crate) network: Arc<Network>,
    pub(crate) cgroups: Cgroups,
    pub(crate) records: Records,
    pub(crate) registry: Registry,
    /// Plugins that change containers and are told of them.
    pub(crate) plugins: Plugins,
    /// Who listens to what happens.
    pub(crate) feed: Feed,
    pub(crate) leftovers: Leftovers,
    pub(crate) figures: Figures,
    /// What commands have said and nobody has been told yet.
    pub(crate) said: Arc<Budget>,
    pub(crate) boot_id: String,
    /// The files by which a job enters the jobs' cgroup.
    pub(crate) jobs_enter: Vec<std::path::PathBuf>,
    /// The same of those who hold fifos, and outlive daemons.
    pub(crate) holders_enter: Vec<std::path::PathBuf>,
    /// One stage of id-mapped layers is made at a time.
    pub(crate) staging: tokio::sync::Mutex<()>,
    /// Who changes a pod's resources now; no other pod waits for it.
    pub(crate) resizing: Turns,
    /// The output that shims by others leave to the daemon.
    pub(crate) carriers: Carriers,
    /// What they say themselves.
    pub(crate) shim_logs: ShimLogs,
    /// Checkpoints under way.
    pub(crate) checkpoints: UnderWay,
    /// The built-in pause has been made.
    pub(crate) pause: tokio::sync::OnceCell<()>,
    /// Containers that shims by others have told to lack memory, until their ends are known.
    ooms: Mutex<HashSet<String>>,
    /// Where shims by others tell what happens; open as long as this daemon is.
    ear: std::sync::OnceLock<Events>,
    /// What each shim's binary reads on stdin, where it is not the usual.
    forms: Mutex<HashMap<PathBuf, Form>>,
    /// The networks of handlers with CNI configurations of their own, by their directory.
    networks: Mutex<HashMap<PathBuf, Arc<Network>>>,
    /// One connection per pod.
    shims: Mutex<HashMap<SandboxId, Shim>>,
    /// Who dials a pod's shim now; the others wait for it.
    dials: Turns,
    tokens: AtomicU64,
    started: (Instant, Nanos),
}

/// The parts that the caller makes.
pub(crate) struct Made {
    pub(crate) settings: Settings,
    pub(crate) handlers: Handlers,
    pub(crate) images: Store,
    pub(crate) network: Arc<Network>,
    pub(crate) cgroups: Cgroups,
    pub(crate) records: Records,
    pub(crate) plugins: Plugins,
    pub(crate) boot_id: String,
    pub(crate) jobs_enter: Vec<std::path::PathBuf>,
    pub(crate) holders_enter: Vec<std::path::PathBuf>,
}

/// One at a time for each pod.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<SandboxId, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// The turn of this pod, to be locked.
    pub(crate) fn of(&self, id: &SandboxId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A turn that nobody else has is over.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(id.clone()).or_default())
    }
}

impl Shared {
    pub(crate) fn new(made: Made) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = Nanos::try_from(since_epoch.as_nanos()).unwrap_or(Nanos::MAX);
        Self {
            settings: made.settings,
            handlers: made.handlers,
            images: made.images,
            network: made.network,
            cgroups: made.cgroups,
            records: made.records,
            boot_id: made.boot_id,
            jobs_enter: made.jobs_enter,
            holders_enter: made.holders_enter,
            registry: Registry::default(),
            plugins: made.plugins,
            feed: Feed::default(),
            leftovers: Leftovers::default(),
            figures: Figures::default(),
            said: Arc::default(),
            staging: tokio::sync::Mutex::new(()),
            resizing: Turns::default(),
            carriers: Carriers::default(),
            shim_logs: ShimLogs::default(),
            checkpoints: UnderWay::default(),
            pause: tokio::sync::OnceCell::new(),
            ooms: Mutex::default(),
            ear: std::sync::OnceLock::new(),
            forms: Mutex::default(),
            networks: Mutex::new(HashMap::new()),
            shims: Mutex::new(HashMap::new()),
            dials: Turns::default(),
            tokens: AtomicU64::new(1),
            started: (Instant::now(), wall),
        }
    }

    /// Nanoseconds since the epoch, by a clock that never goes back while the daemon runs.
    pub(crate) fn now(&self) -> Nanos {
        let run = Nanos::try_from(self.started.0.elapsed().as_nanos()).unwrap_or(Nanos::MAX);
        self.started.1.saturating_add(run)
    }

    /// When this daemon started, nanoseconds since the epoch: tells it from its predecessors.
    pub(crate) fn born(&self) -> Nanos {
        self.started.1
    }

    /// How long it is until then.
    pub(crate) fn until(&self, at: Nanos) -> Duration {
        Duration::from_nanos(u64::try_from(at - self.now()).unwrap_or(0))
    }

    /// A token for a caller.
    pub(crate) fn token(&self) -> Token {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    /// Drops the settings of handlers that are not on offer any more and have no pods left.
    pub(crate) fn tidy_handlers(&self) {
        self.handlers.tidy(|| {
            let mut needed = self.registry.settings()?;
            needed.extend(self.leftovers.settings());
            Some(needed)
        });
    }

    /// The network whose configurations lie here.
    pub(crate) fn network_of(&self, conf_dir: &Path) -> Arc<Network> {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(self.network.beside(conf_dir.to_owned()));
        Arc::clone(networks.entry(conf_dir.to_owned()).or_insert_with(make))
    }

    fn shims(&self) -> std::sync::MutexGuard<'_, HashMap<SandboxId, Shim>> {
        self.shims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a shim has told: only of containers that there are, or it could fill the memory.
    pub(crate) fn hear(&self, event: Event) {
        match event {
            Event::Oom { container } => {
                let view = self.registry.container_view(&container);
                // The registry takes the beginning of an id for the whole.
                if view.is_ok_and(|view| view.id().as_str() == container) {
                    let mut ooms = self.ooms.lock().unwrap_or_else(PoisonError::into_inner);
                    ooms.insert(container);
                }
            }
            // Wait tells this, for certain.
            Event::Exit { container, process, .. } => {
                tracing::debug!(container, process, "a shim tells of an exit");
            }
            Event::Other { topic } => tracing::debug!(topic, "a shim tells of something"),
        }
    }

    /// Keeps the endpoint open.
    pub(crate) fn hold_ear(&self, events: Events) {
        // There is one daemon, and it listens once.
        let _ = self.ear.set(events);
    }

    /// Has a shim told that this container lacked memory? It is forgotten with this.
    pub(crate) fn lacked_memory(&self, container: &ContainerId) -> bool {
        let mut ooms = self.ooms.lock().unwrap_or_else(PoisonError::into_inner);
        ooms.remove(container.as_str())
    }

    /// What this shim's binary reads on stdin, as far as is known.
    pub(crate) fn form_of(&self, binary: &Path) -> Form {
        let forms = self.forms.lock().unwrap_or_else(PoisonError::into_inner);
        forms.get(binary).copied().unwrap_or_default()
    }

    /// This shim's binary has been seen to read this.
    pub(crate) fn takes(&self, binary: PathBuf, form: Form) {
        self.forms.lock().unwrap_or_else(PoisonError::into_inner).insert(binary, form);
    }

    /// The connection to a pod's shim, if there is one.
    pub(crate) fn connected(&self, id: &SandboxId) -> Option<Shim> {
        self.shims().get(id).cloned()
    }

    /// The turn to dial a pod's shim.
    pub(crate) fn dial(&self, id: &SandboxId) -> Arc<tokio::sync::Mutex<()>> {
        self.dials.of(id)
    }

    /// Keeps the connection to a pod's shim.
    pub(crate) fn connect(&self, id: &SandboxId, shim: &Shim) {
        self.shims().insert(id.clone(), shim.clone());
    }

    /// Lets go of the connection to a pod's shim.
    pub(crate) fn disconnect(&self, id: &SandboxId) {
        self.shims().remove(id);
    }
}
