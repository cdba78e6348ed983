//! The node's handlers: those that pods are begun with now, and those that pods were begun with.
//!
//! A pod lives to its end by the settings that it was begun with, also when its handler is changed
//! or removed meanwhile. They are kept in `<state>/handlers/<digest>.json`, and the pod's record
//! has the digest: a pod ends with its boot, and so may the file.
//!
//! ```text
//!   configuration ──▶ Offered ──▶ choose ──▶ record{handler, settings: digest}
//!                        └──▶ kept, by digest ◀── of(record) ◀── every job of the pod
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use berth_pod::Kind;
use berth_pod::record::PodRecord;
use berth_pod::spec::{PidMode, PodOrNode, SandboxSpec};
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::settings::{Handler, ShimKind};
use crate::view::HandlerReport;

/// How many bytes of the digest name a handler's settings.
const DIGEST: usize = 16;

/// What a handler is: its settings, or why it cannot be used.
pub type Offer = Result<Arc<Handler>, String>;

/// The handlers that pods can be begun with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offered {
    /// The one that "" stands for.
    pub default: String,
    /// Each by its name. A broken one is there too: it refuses its pods with its reason.
    pub handlers: BTreeMap<String, Offer>,
}

impl Offered {
    /// The handler that a request means: "" is the default.
    pub fn get(&self, asked: &str) -> Option<&Offer> {
        self.handlers.get(self.name(asked))
    }

    fn name<'a>(&'a self, asked: &'a str) -> &'a str {
        if asked.is_empty() { &self.default } else { asked }
    }

    /// Each handler for the operator.
    pub fn report(&self) -> Vec<HandlerReport> {
        let one = |(name, offer): (&String, &Offer)| {
            let default = *name == self.default;
            match offer {
                Ok(handler) => HandlerReport::of(name, default, handler),
                Err(why) => HandlerReport {
                    name: name.clone(),
                    default,
                    broken: Some(why.clone()),
                    ..HandlerReport::default()
                },
            }
        };
        self.handlers.iter().map(one).collect()
    }
}

/// What a new pod is begun with.
pub(crate) struct Chosen {
    /// The handler's name.
    pub(crate) name: String,
    /// The digest of its settings.
    pub(crate) digest: String,
}

/// The handlers of this node.
pub(crate) struct Handlers {
    state_dir: PathBuf,
    now: RwLock<Arc<Now>>,
    kept: RwLock<HashMap<String, Arc<Handler>>>,
    /// Shared while a pod is begun, from the choice of its handler until it is registered: what is
    /// dropped for want of pods is not what a pod is being begun with.
    beginning: RwLock<()>,
}

/// What is on offer now, and under which digests.
#[derive(Default)]
struct Now {
    offered: Arc<Offered>,
    digests: HashSet<String>,
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Handlers {
    /// Reads back what pods were begun with. A file that cannot be read costs no pod but its own,
    /// and that only if its handler is gone from the configuration, too.
    pub(crate) fn open(state_dir: &Path) -> Self {
        let handlers = Self {
            state_dir: state_dir.to_owned(),
            now: RwLock::default(),
            kept: RwLock::default(),
            beginning: RwLock::default(),
        };
        let mut kept = HashMap::new();
        let files = std::fs::read_dir(handlers.dir()).into_iter().flatten().flatten();
        for path in files.map(|entry| entry.path()) {
            let digest = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = std::fs::read(&path).map_err(|why| why.to_string());
            let parse =
                |text: Vec<u8>| serde_json::from_slice(&text).map_err(|why| why.to_string());
            match text.and_then(parse) {
                Ok(handler) => drop(kept.insert(digest, Arc::new(handler))),
                Err(error) => {
                    tracing::error!(path = %path.display(), error, "what pods were begun with cannot be read");
                    let _ = std::fs::remove_file(path);
                }
            }
        }
        *write(&handlers.kept) = kept;
        handlers
    }

    fn dir(&self) -> PathBuf {
        self.state_dir.join("handlers")
    }

    /// New pods are begun with these from now on. What they are is on the disk before.
    pub(crate) fn offer(&self, offered: Offered) {
        // What is found in `kept` stays there until it is on offer.
        let _nobody_tidies = read(&self.beginning);
        let mut digests = HashSet::new();
        for handler in offered.handlers.values().flatten() {
            let (digest, text) = written(handler);
            digests.insert(digest.clone());
            if read(&self.kept).contains_key(&digest) {
                continue;
            }
            if let Err(error) = self.keep(handler, &digest, &text) {
                let shim = handler.shim.display();
                tracing::error!(%shim, %error, "a handler cannot be written down: its pods are lost if it is removed before the next start");
            }
            write(&self.kept).insert(digest, Arc::clone(handler));
        }
        *write(&self.now) = Arc::new(Now { offered: Arc::new(offered), digests });
    }

    /// Writes a handler down, and makes the directory that its runtime keeps its state in: so
    /// nothing that is there while no pod is depends on the past.
    fn keep(&self, handler: &Handler, digest: &str, text: &[u8]) -> std::io::Result<()> {
        if handler.kind == ShimKind::Berth {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&handler.runtime_root)?;
        }
        let dir = self.dir();
        std::fs::create_dir_all(&dir)?;
        let new = dir.join(format!("{digest}.new"));
        std::fs::write(&new, text)?;
        std::fs::rename(new, dir.join(format!("{digest}.json")))
    }

    /// Drops what is neither on offer nor needed by a pod: by the digests that `needed` finds, if
    /// it can tell.
    pub(crate) fn tidy(&self, needed: impl FnOnce() -> Option<HashSet<String>>) {
        let old = |digests: &HashSet<String>| {
            let mut old: Vec<String> = read(&self.kept).keys().cloned().collect();
            old.retain(|digest| !digests.contains(digest));
            old
        };
        if old(&read(&self.now).digests).is_empty() {
            return;
        }
        let _nobody_begins = write(&self.beginning);
        let (now, Some(needed)) = (Arc::clone(&read(&self.now)), needed()) else { return };
        for digest in old(&now.digests) {
            if !needed.contains(&digest) {
                self.drop(&digest);
            }
        }
    }

    fn drop(&self, digest: &str) {
        // Absent: it could not be written.
        let _ = std::fs::remove_file(self.dir().join(format!("{digest}.json")));
        let mut kept = write(&self.kept);
        let Some(gone) = kept.remove(digest) else { return };
        let root = &gone.runtime_root;
        if root.starts_with(&self.state_dir) && kept.values().all(|one| one.runtime_root != *root) {
            // Not empty, or not there: then it is not for us to remove.
            let _ = std::fs::remove_dir(root);
        }
    }

    /// The handlers on offer.
    pub(crate) fn offered(&self) -> Arc<Offered> {
        Arc::clone(&read(&self.now).offered)
    }

    /// Begins a pod with the handler that it asks for; `register` makes it known.
    pub(crate) fn begin<T>(
        &self,
        spec: &SandboxSpec,
        register: impl FnOnce(&Chosen) -> T,
    ) -> Result<T, Error> {
        let _beginning = read(&self.beginning);
        let chosen = self.choose(&spec.handler, spec.privileged)?;
        if let Some(Ok(handler)) = self.offered().handlers.get(&chosen.name) {
            refuse_what_no_guest_has(&chosen.name, handler, spec)?;
        }
        Ok(register(&chosen))
    }

    fn choose(&self, asked: &str, privileged: bool) -> Result<Chosen, Error> {
        let offered = self.offered();
        let name = offered.name(asked);
        let handler = match offered.handlers.get(name) {
            Some(Ok(handler)) => handler,
            Some(Err(why)) => {
                let text = format!("the runtime handler {name:?} cannot be used: {why}");
                return Err(Error::new(Kind::WrongState, text));
            }
            None => {
                let there: Vec<_> = offered.handlers.keys().map(String::as_str).collect();
                let there = there.join(", ");
                let text = format!(
                    "no runtime handler {name:?} is configured on this node (there is: {there}): fix the RuntimeClass, or the [handlers] of the configuration"
                );
                return Err(Error::new(Kind::Invalid, text));
            }
        };
        if privileged && !handler.privileged {
            let text = format!(
                "security_context.privileged: the runtime handler {name:?} runs no privileged pods on this node: use another RuntimeClass, or set `privileged` in [handlers.{name}]"
            );
            return Err(Error::new(Kind::Denied, text));
        }
        let (digest, _) = written(handler);
        Ok(Chosen { name: name.to_owned(), digest })
    }

    /// Whether any pod may have been begun with a runtime that gives it a kernel of its own.
    pub(crate) fn any_guests(&self) -> bool {
        read(&self.kept).values().any(|handler| handler.facts.guest_network.is_some())
    }

    /// What a pod was begun with; if that is lost, what its handler is now.
    pub(crate) fn of(&self, record: &PodRecord) -> Option<Arc<Handler>> {
        let kept = read(&self.kept).get(&record.settings).cloned();
        kept.or_else(|| self.offered().handlers.get(&record.handler)?.clone().ok())
    }
}

/// A pod with a kernel of its own has none of the node's but the network.
fn refuse_what_no_guest_has(
    name: &str,
    handler: &Handler,
    spec: &SandboxSpec,
) -> Result<(), Error> {
    if handler.facts.guest_network.is_none() {
        return Ok(());
    }
    let asked = &spec.namespaces;
    let what = match (&asked.pid, asked.ipc, &asked.user) {
        (PidMode::Node, ..) => "the node's PID namespace",
        (_, PodOrNode::Node, _) => "the node's IPC namespace",
        (.., Some(_)) => "a user namespace",
        _ => return Ok(()),
    };
    let text = format!(
        "namespace_options: the runtime handler {name:?} gives a pod a kernel of its own, which has not {what}: use another RuntimeClass"
    );
    Err(Error::new(Kind::Invalid, text))
}

/// A handler's digest, and the text that it is the digest of.
fn written(handler: &Handler) -> (String, Vec<u8>) {
    // Nothing in it has no JSON form.
    let text = serde_json::to_vec(handler).unwrap_or_default();
    let mut digest = String::new();
    for byte in &Sha256::digest(&text)[..DIGEST] {
        let _ = write!(digest, "{byte:02x}");
    }
    (digest, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SandboxMode;

    fn handler(shim: &str) -> Arc<Handler> {
        Arc::new(Handler {
            shim: shim.into(),
            kind: ShimKind::Berth,
            runtime: None,
            runtime_root: std::env::temp_dir(),
            options: None,
            sandbox: SandboxMode::Auto,
            privileged: true,
            cni_conf_dir: None,
            base_spec: None,
            facts: berth_oci::facts::HandlerFacts::default(),
        })
    }

    fn offered(handlers: &[(&str, Offer)]) -> Offered {
        let handlers = handlers.iter().map(|(name, offer)| ((*name).to_owned(), offer.clone()));
        Offered { default: "one".to_owned(), handlers: handlers.collect() }
    }

    fn record(chosen: &Chosen) -> PodRecord {
        let mut record = crate::pod_task::tests::pod();
        record.handler.clone_from(&chosen.name);
        record.settings = chosen.digest.clone();
        record
    }

    #[test]
    fn a_pod_keeps_what_it_was_begun_with_also_in_the_next_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let handlers = Handlers::open(dir.path());
        handlers.offer(offered(&[("one", Ok(handler("/a"))), ("two", Ok(handler("/b")))]));
        let record = record(&handlers.choose("two", false).unwrap());
        // Changed, and then removed.
        handlers.offer(offered(&[("one", Ok(handler("/a"))), ("two", Ok(handler("/c")))]));
        assert_eq!(handlers.of(&record).unwrap().shim, Path::new("/b"));
        handlers.offer(offered(&[("one", Ok(handler("/a")))]));
        assert_eq!(handlers.of(&record).unwrap().shim, Path::new("/b"));
        assert_eq!(handlers.choose("two", false).map(drop).unwrap_err().kind(), Kind::Invalid);

        let next = Handlers::open(dir.path());
        next.offer(offered(&[("one", Ok(handler("/a")))]));
        assert_eq!(next.of(&record).unwrap().shim, Path::new("/b"));
        next.tidy(|| Some(HashSet::from([record.settings.clone()])));
        assert_eq!(next.of(&record).unwrap().shim, Path::new("/b"));
        next.tidy(|| None);
        assert_eq!(next.of(&record).unwrap().shim, Path::new("/b"), "nobody could tell");
        // Its last pod is gone: what is on offer stays.
        next.tidy(|| Some(HashSet::new()));
        assert!(next.of(&record).is_none());
        assert_eq!(std::fs::read_dir(dir.path().join("handlers")).unwrap().count(), 1);
    }

    #[test]
    fn a_pod_whose_settings_are_lost_goes_by_its_handler_s_name() {
        let dir = tempfile::tempdir().unwrap();
        let handlers = Handlers::open(dir.path());
        handlers.offer(offered(&[("one", Ok(handler("/a")))]));
        let mut record = record(&handlers.choose("", false).unwrap());
        record.settings = String::new();
        assert_eq!(handlers.of(&record).unwrap().shim, Path::new("/a"));
        record.handler = "gone".to_owned();
        assert!(handlers.of(&record).is_none());
    }

    #[test]
    fn a_broken_handler_and_one_that_forbids_it_refuse_their_pods_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let handlers = Handlers::open(dir.path());
        let mut strict = (*handler("/s")).clone();
        strict.privileged = false;
        handlers.offer(offered(&[
            ("one", Err("the shim is on leave".to_owned())),
            ("strict", Ok(Arc::new(strict))),
        ]));
        let refusal = |asked, privileged| {
            let why = handlers.choose(asked, privileged).map(drop).unwrap_err();
            (why.kind(), why.to_string())
        };
        let (kind, text) = refusal("", false);
        assert_eq!(kind, Kind::WrongState);
        assert!(text.contains("\"one\"") && text.contains("on leave"), "{text}");
        let (kind, text) = refusal("strict", true);
        assert_eq!(kind, Kind::Denied);
        assert!(text.contains("[handlers.strict]"), "{text}");
        assert!(handlers.choose("strict", false).is_ok());
        let report = handlers.offered().report();
        assert_eq!(report[0].broken.as_deref(), Some("the shim is on leave"));
        assert!(report[0].default && report[1].broken.is_none());
    }
}
