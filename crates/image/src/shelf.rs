//! The store on disk and its mirror in memory; everything here may block on our own disk.
//!
//! ```text
//!  images.db      what is listed (see [`crate::database`])
//!  l/<number>     layers, in overlay's own form; short names: a mount's options must fit a page
//!  snapshots/<key>/{lower,upper,work}    one per container
//!  holds/<holder> a symbolic link to the id of the image that the holder needs
//!  staging/, trash/  layers under way, trees to be deleted; emptied at every start
//!  empty/         what an image without layers stands on
//! ```
//!
//! A layer's life: staging → `l/` (renamed, both digests verified) → listed (after one `syncfs`) →
//! not listed (committed) → trash → gone. A crash at any point leaves an unlisted directory, which
//! the next start removes.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::confined;
use crate::database::{Change, Database, ImageRow};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::job::{Job, Landed};
use crate::state::{Dead, State};

/// The directories of a store.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) root: PathBuf,
}

impl Paths {
    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("l")
    }

    pub(crate) fn layer(&self, number: u64) -> PathBuf {
        self.root.join(format!("l/{number}"))
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(crate) fn snapshot(&self, key: &str) -> PathBuf {
        self.root.join("snapshots").join(key)
    }

    pub(crate) fn holds(&self) -> PathBuf {
        self.root.join("holds")
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    pub(crate) fn empty(&self) -> PathBuf {
        self.root.join("empty")
    }

    fn make(&self) -> Result<()> {
        let made = [
            self.layers(),
            self.snapshots(),
            self.holds(),
            self.staging(),
            self.trash(),
            self.empty(),
        ];
        for path in made {
            std::fs::create_dir_all(&path).map_err(|e| Error::file("create", &path, e))?;
        }
        // Set-uid programs of images must not be reachable for users of the node.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&self.root, private)
            .map_err(|e| Error::file("set the mode of", &self.root, e))
    }
}

/// The store's disk and memory.
pub(crate) struct Shelf {
    pub(crate) paths: Paths,
    state: Mutex<State>,
    /// Also the order of commits: whoever changes what is listed holds it meanwhile.
    database: Mutex<Database>,
    pub(crate) jobs: Mutex<HashMap<Digest, Weak<Job>>>,
    next_number: AtomicU64,
    next_staging: AtomicU64,
    background: Arc<Background>,
}

/// How much clean-up is going on, each in a thread of its own.
#[derive(Default)]
struct Background {
    pending: Mutex<usize>,
    changed: Condvar,
}

/// An image to be listed, with the layers that it stands on, from the bottom up.
pub(crate) struct NewImage {
    pub(crate) id: Digest,
    pub(crate) config: Vec<u8>,
    pub(crate) facts: Facts,
    pub(crate) size: u64,
    pub(crate) names: Vec<String>,
    pub(crate) layers: Vec<Arc<Landed>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is changed by plain assignments: a panic leaves it consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shelf {
    /// Opens a store, makes it if it is not there, and cleans up after whatever ended the last run.
    pub(crate) fn open(root: &Path, pinned: &[String]) -> Result<Self> {
        let paths = Paths { root: root.to_path_buf() };
        paths.make()?;
        let (database, content, aside) = Database::open(&root.join("images.db"))?;
        if let Some(aside) = aside {
            tracing::error!(moved_to = %aside.display(),
                "the image database was damaged: images are pulled again as they are needed");
        }
        let mut state = State { pinned: pinned.iter().cloned().collect(), ..State::default() };
        state.load(content);
        state.holds = crate::hold::read(&paths)?;
        state.snapshots = crate::snapshot::read(&paths)?;
        let found = reconcile(&paths, &mut state)?;
        let shelf = Self {
            paths,
            state: Mutex::new(state),
            database: Mutex::new(database),
            jobs: Mutex::default(),
            next_number: AtomicU64::new(found.highest + 1),
            next_staging: AtomicU64::new(0),
            background: Arc::default(),
        };
        shelf.empty_leftovers()?;
        for number in found.unlisted {
            shelf.dispose(&shelf.paths.layer(number));
        }
        // On a full disk, too, the images that there are can be used.
        shelf.sweep().unwrap_or_else(|error| tracing::warn!(%error, "unused layers stay"));
        Ok(shelf)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A number for a new layer, never used before in this store's life as far as disk shows.
    pub(crate) fn new_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// An empty staging directory that is removed unless it is taken out.
    pub(crate) fn stage(self: &Arc<Self>) -> Result<Staging> {
        let number = self.next_staging.fetch_add(1, Ordering::Relaxed);
        let path = self.paths.staging().join(format!("{}-{number}", std::process::id()));
        std::fs::create_dir(&path).map_err(|e| Error::file("create", &path, e))?;
        Ok(Staging { shelf: Arc::clone(self), path, taken: false })
    }

    /// Lists an image: what it consists of is made durable first.
    pub(crate) fn commit(&self, new: NewImage) -> Result<()> {
        // Before the lock: this can take long, and nothing that is leased goes away meanwhile.
        if new.layers.iter().any(|landed| !landed.is_listed()) {
            self.sync()?;
        }
        let mut database = lock(&self.database);
        let mut change = Change::default();
        {
            let state = self.state();
            for landed in &new.layers {
                if !state.layers.contains_key(&landed.row.key)
                    && !change.put_layers.iter().any(|row| row.key == landed.row.key)
                {
                    change.put_layers.push(landed.row.clone());
                }
            }
        }
        let row = ImageRow {
            id: new.id.clone(),
            config: new.config,
            size: new.size,
            listed: true,
            layers: new.layers.iter().map(|landed| landed.row.key.clone()).collect(),
        };
        change.put_names = new.names.iter().map(|n| (n.clone(), new.id.clone())).collect();
        change.put_image = Some(row);
        database.commit(&change)?;
        let mut state = self.state();
        for row in change.put_layers {
            if let Some(landed) = new.layers.iter().find(|l| l.row.number == row.number) {
                landed.set_listed();
            }
            state.layers.insert(row.key.clone(), row);
        }
        if let Some(row) = &change.put_image {
            state.put_image(row, Arc::new(new.facts));
        }
        state.names.extend(change.put_names);
        Ok(())
    }

    /// Gives an image further names.
    pub(crate) fn add_names(&self, id: &Digest, names: &[String]) -> Result<()> {
        let mut database = lock(&self.database);
        let new: Vec<(String, Digest)> = {
            let state = self.state();
            if !state.images.get(id).is_some_and(|record| record.listed) {
                return Err(Error::NoImage { reference: id.to_string() });
            }
            let known = |name: &&String| state.names.get(*name) != Some(id);
            names.iter().filter(known).map(|name| (name.clone(), id.clone())).collect()
        };
        if new.is_empty() {
            return Ok(());
        }
        let change = Change { put_names: new, ..Change::default() };
        database.commit(&change)?;
        self.state().names.extend(change.put_names);
        Ok(())
    }

    /// Takes an image and all its names off the list. Absent is well.
    pub(crate) fn unlist(&self, reference: &str) -> Result<Option<Digest>> {
        let mut database = lock(&self.database);
        let (id, names) = {
            let state = self.state();
            let Some(id) = state.find(reference)? else { return Ok(None) };
            let of = |(name, i): (&String, &Digest)| (*i == id).then(|| name.clone());
            let names: Vec<String> = state.names.iter().filter_map(of).collect();
            (id, names)
        };
        let change = Change { unlist: vec![id.clone()], drop_names: names, ..Change::default() };
        database.commit(&change)?;
        let mut state = self.state();
        state.names.retain(|_, i| *i != id);
        if let Some(record) = state.images.get_mut(&id) {
            record.listed = false;
        }
        Ok(Some(id))
    }

    /// Changes the memory, and if it had to be changed, the record.
    pub(crate) fn change(
        &self,
        change: &Change,
        apply: impl FnOnce(&mut State) -> bool,
    ) -> Result<bool> {
        let mut database = lock(&self.database);
        let changed = apply(&mut self.state());
        if changed {
            database.commit(change)?;
        }
        Ok(changed)
    }

    /// Removes what nothing refers to: first from the record, then from the disk.
    pub(crate) fn sweep(&self) -> Result<()> {
        let mut database = lock(&self.database);
        let dead = self.take_dead();
        if dead.images.is_empty() && dead.layers.is_empty() {
            return Ok(());
        }
        let change = Change {
            drop_images: dead.images.iter().map(|(id, _)| id.clone()).collect(),
            drop_layers: dead.layers.iter().map(|row| row.number).collect(),
            ..Change::default()
        };
        if let Err(error) = database.commit(&change) {
            self.state().put_back(dead);
            return Err(error);
        }
        drop(database);
        for row in &dead.layers {
            self.dispose(&self.paths.layer(row.number));
        }
        Ok(())
    }

    /// Takes out what nothing refers to; what pulls and imports under way stand on is referred to.
    fn take_dead(&self) -> Dead {
        // Held until the end: a job that finds a layer present registers under the same lock.
        let mut jobs = lock(&self.jobs);
        jobs.retain(|_, job| job.strong_count() > 0);
        let running: Vec<Arc<Job>> = jobs.values().filter_map(Weak::upgrade).collect();
        let landed = running.iter().filter_map(|job| job.landed());
        let leased: HashSet<u64> = landed.map(|landed| landed.row.number).collect();
        self.state().take_dead(&leased)
    }

    /// The config of an image, byte for byte.
    pub(crate) fn config(&self, id: &Digest) -> Result<Option<Vec<u8>>> {
        lock(&self.database).config(id)
    }

    /// Makes everything written so far durable.
    fn sync(&self) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = self.paths.layers();
        let fd = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|e| Error::file("open", &path, e))?;
        rustix::fs::syncfs(&fd).map_err(|e| Error::file("sync the file system of", &path, e))
    }

    /// Removes what nothing refers to, if there is anything, without making the caller wait for the
    /// record: a pull's commit may be syncing.
    pub(crate) fn sweep_in_background(self: &Arc<Self>) {
        if !self.state().has_dead() {
            return;
        }
        let shelf = Arc::clone(self);
        self.in_background("sweep", move || {
            if let Err(error) = shelf.sweep() {
                tracing::warn!(%error, "unused layers stay until the next removal");
            }
        });
    }

    /// Moves a tree out of the way at once and deletes it in the background.
    pub(crate) fn dispose(&self, path: &Path) {
        self.dispose_of(path);
    }

    /// The same, but waits a little: small trees, which is most of them, are gone afterwards.
    pub(crate) fn dispose_and_wait(&self, path: &Path, limit: Duration) {
        if let Some(done) = self.dispose_of(path) {
            // Too late, or the thread did not start: the trash is emptied all the same.
            let _ = done.recv_timeout(limit);
        }
    }

    fn dispose_of(&self, path: &Path) -> Option<Receiver<()>> {
        let number = self.next_staging.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", std::process::id());
        match std::fs::rename(path, self.paths.trash().join(&name)) {
            Ok(()) => Some(self.delete_in_background(vec![name.into_bytes()])),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot move it to the trash");
                None
            }
        }
    }

    fn delete_in_background(&self, names: Vec<Vec<u8>>) -> Receiver<()> {
        let trash = self.paths.trash();
        let (done, deleted) = channel();
        self.in_background("dispose", move || {
            if let Err(error) = delete(&trash, &names) {
                tracing::warn!(path = %trash.display(), %error, "cannot empty the trash");
            }
            // Mostly nobody waits.
            let _ = done.send(());
        });
        deleted
    }

    fn in_background(&self, name: &str, work: impl FnOnce() + Send + 'static) {
        let background = Arc::clone(&self.background);
        *lock(&background.pending) += 1;
        let counted = move || {
            work();
            *lock(&background.pending) -= 1;
            background.changed.notify_all();
        };
        if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(counted) {
            tracing::warn!(%error, "no thread to clean up; the next start does it");
            *lock(&self.background.pending) -= 1;
        }
    }

    /// Waits until all clean-up has ended; says whether it has.
    pub(crate) fn wait_for_background(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut pending = lock(&self.background.pending);
        while *pending > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.background.changed.wait_timeout(pending, left);
            pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Deletes what an earlier run left in the trash and under way.
    fn empty_leftovers(&self) -> Result<()> {
        // Listed before anything is added to it: what comes in from here on has a thread of its own.
        let trash = names_in(&self.paths.trash())?;
        let staging = names_in(&self.paths.staging())?;
        // The earlier run may have had this very process number.
        let numbers = trash.iter().chain(&staging).filter_map(|name| {
            let (_, number) = name.to_str()?.rsplit_once('-')?;
            number.parse::<u64>().ok()
        });
        let free = numbers.max().map_or(0, |highest| highest.wrapping_add(1));
        self.next_staging.store(free, Ordering::Relaxed);
        for name in staging {
            self.dispose(&self.paths.staging().join(name));
        }
        if !trash.is_empty() {
            self.delete_in_background(trash.into_iter().map(OsString::into_vec).collect());
        }
        Ok(())
    }
}

fn names_in(directory: &Path) -> Result<Vec<OsString>> {
    let names = std::fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
    names.map_err(|error| Error::file("read", directory, error))
}

/// Deletes every one of the names that can be deleted; gives the first error.
fn delete(trash: &Path, names: &[Vec<u8>]) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(trash, flags, Mode::empty())?;
    let mut outcome = Ok(());
    for name in names {
        outcome = outcome.and(confined::remove_tree(fd.as_fd(), name));
    }
    outcome
}

/// Compares the record with the disk: a listed layer without its directory is forgotten, so that its
/// images count as incomplete.
fn reconcile(paths: &Paths, state: &mut State) -> Result<Reconciled> {
    let layers = paths.layers();
    let mut found = HashSet::new();
    for entry in std::fs::read_dir(&layers).map_err(|e| Error::file("read", &layers, e))? {
        let entry = entry.map_err(|e| Error::file("read", &layers, e))?;
        if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.insert(number);
        }
    }
    state.layers.retain(|key, row| {
        let there = found.contains(&row.number);
        if !there {
            tracing::warn!(layer = %key, "its directory is gone: the next pull repairs it");
        }
        there
    });
    let listed: HashSet<u64> = state.layers.values().map(|row| row.number).collect();
    let standing: HashSet<u64> = state.snapshots.values().flatten().copied().collect();
    let highest = found.iter().chain(&standing).copied().max().unwrap_or(0);
    found.retain(|number| !listed.contains(number) && !standing.contains(number));
    Ok(Reconciled { highest, unlisted: found })
}

/// What the disk has of layers.
struct Reconciled {
    /// The highest number in use, 0 if there is none.
    highest: u64,
    /// Directories that neither the record nor a container refers to.
    unlisted: HashSet<u64>,
}

/// A directory under way.
pub(crate) struct Staging {
    shelf: Arc<Shelf>,
    pub(crate) path: PathBuf,
    taken: bool,
}

impl Staging {
    /// Gives the directory its place among the layers.
    pub(crate) fn land(mut self, number: u64) -> Result<()> {
        let to = self.shelf.paths.layer(number);
        std::fs::rename(&self.path, &to).map_err(|e| Error::file("rename", &self.path, e))?;
        self.taken = true;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.taken {
            self.shelf.dispose(&self.path);
        }
    }
}
