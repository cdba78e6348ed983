//! The configuration of a running daemon: read again on SIGHUP and when its files have changed.
//!
//! The files are looked at every other second (one `readdir` and a few `stat`s), as those of CNI
//! are on each use: no watch to lose events. A change counts once it has lasted from one look to
//! the next, so that a file is not read while it is being written.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_lifecycle::Node;
use tokio::sync::Notify as Signal;

use super::logging::Level;
use super::notify::Notify;
use crate::config::{Config, Loaded, places};
use crate::handlers;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// After how many looks a broken handler is looked at again: what it lacks may have come.
const AGAIN: u32 = 15;

/// Keeps what can change in a running daemon as the configuration says.
pub(super) struct Reload {
    path: Option<PathBuf>,
    running: Config,
    level: Level,
    notify: Arc<Notify>,
    node: Node,
    asked: Arc<Signal>,
}

/// What a file was at the last look; none if it could not be looked at.
type Seen = BTreeMap<PathBuf, Option<[i64; 6]>>;

impl Reload {
    /// `running` is what the daemon was started with, from the file at `path`.
    pub(super) fn new(
        path: Option<&Path>,
        running: &Config,
        level: Level,
        notify: Arc<Notify>,
        node: Node,
    ) -> Self {
        let (path, running) = (path.map(Path::to_owned), running.clone());
        Self { path, running, level, notify, node, asked: Arc::default() }
    }

    /// Asks for a reload now.
    pub(super) fn asked(&self) -> Arc<Signal> {
        Arc::clone(&self.asked)
    }

    /// Goes on for as long as the daemon runs.
    pub(super) async fn run(mut self) {
        let mut taken = self.look();
        let (mut before, mut looks) = (taken.clone(), 0);
        loop {
            let asked = tokio::select! {
                () = self.asked.notified() => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            let now = self.look();
            looks += 1;
            if asked || (now != taken && now == before) {
                taken = now.clone();
                looks = 0;
                self.take().await;
            } else if looks >= AGAIN {
                looks = 0;
                self.mend().await;
            }
            before = now;
        }
    }

    /// The files that a configuration is made of, base specs included.
    fn look(&self) -> Seen {
        let specs = self.running.handlers.values().filter_map(|handler| handler.base_spec.clone());
        let looked = |path: PathBuf| {
            let seen = std::fs::metadata(&path).ok().map(|file| {
                let number = |n: u64| n.cast_signed();
                [
                    number(file.dev()),
                    number(file.ino()),
                    number(file.size()),
                    file.mtime(),
                    file.mtime_nsec(),
                    file.ctime_nsec(),
                ]
            });
            (path, seen)
        };
        places(self.path.as_deref()).into_iter().chain(specs).map(looked).collect()
    }

    /// Reads the configuration again. What cannot change in a running daemon stays as it is.
    async fn take(&mut self) {
        let read = Loaded::read(self.path.as_deref());
        let config = match read.and_then(|loaded| loaded.check_running(&self.running)) {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(%error, "configuration not taken: the old one stays");
                self.notify.status("serving CRI; the configuration is wrong: the old one stays");
                return;
            }
        };
        // A level from the environment stays until the files name another than before.
        if config.log_level != self.running.log_level
            && let Err(error) = self.level.set(&config.log_level)
        {
            tracing::error!(%error, "the log's level stays as it was");
        }
        let names = needs_restart(&self.running, &config);
        if !names.is_empty() {
            tracing::warn!(keys = names.join(", "), "these take effect at the next start");
        }
        self.running.log_level.clone_from(&config.log_level);
        self.running.handlers.clone_from(&config.handlers);
        self.running.find_handlers = config.find_handlers;
        self.running.pods.default_handler.clone_from(&config.pods.default_handler);
        self.offer().await;
        let level = &config.log_level;
        tracing::info!(
            level,
            "configuration read again: handlers and the log's level are in effect"
        );
        self.notify.status("serving CRI; configuration read again");
    }

    /// Looks at the handlers again if one of them is broken.
    async fn mend(&self) {
        if self.node.handlers().handlers.values().any(Result::is_err) {
            self.offer().await;
        }
    }

    async fn offer(&self) {
        let looked = handlers::look_at_all(&self.running).await;
        let before = self.node.handlers();
        let offered = handlers::offer(looked, &self.running.pods.default_handler, &before);
        if offered != *before {
            self.node.offer(offered);
        }
    }
}

/// The tables that differ and are read at the start only.
fn needs_restart(running: &Config, new: &Config) -> Vec<&'static str> {
    let of_cgroups = |config: &Config| {
        (config.cgroup_driver, config.cgroup_parent.clone(), config.cgroup_slice.clone())
    };
    let of_pods = |config: &Config| {
        let mut pods = config.pods.clone();
        pods.default_handler.clear();
        pods
    };
    let differs = [
        ("root", running.root != new.root),
        ("api", (&running.socket, &running.group) != (&new.socket, &new.group)),
        ("log.format", running.log_format != new.log_format),
        ("metrics", running.metrics != new.metrics),
        ("cgroups", of_cgroups(running) != of_cgroups(new)),
        ("pods", of_pods(running) != of_pods(new)),
        ("helper", running.helper != new.helper),
        ("network", running.network != new.network),
        ("images", running.images != new.images),
        ("deadlines", running.deadlines != new.deadlines),
    ];
    differs.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::default_config;

    #[test]
    fn what_takes_effect_at_the_next_start_only_is_named() {
        let running = default_config();
        let mut new = running.clone();
        new.handlers.clear();
        new.pods.default_handler = "other".into();
        new.log_level = "debug".into();
        assert!(needs_restart(&running, &new).is_empty());
        new.pods.shm_size += 1;
        new.root = "/elsewhere".into();
        assert_eq!(needs_restart(&running, &new), ["root", "pods"]);
    }
}
