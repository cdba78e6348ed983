//! The image store as the rest of the node uses it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::import::{Bundle, Found, Unwant, Wanted};
use crate::job::{self, Job, Spec, Transfer, blocking};
use crate::measure::Usage;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::Registries;
use crate::shelf::{NewImage, Shelf, lock};
use crate::snapshot::Mount;
use crate::stack::Stack;
use crate::state::Image;
use crate::usage::Usages;
use crate::users::Users;

/// How a store is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory that it owns.
    pub root: PathBuf,
    /// The platform that images are chosen for.
    pub platform: Platform,
    /// Names of images that must not be collected.
    pub pinned: Vec<String>,
    /// How many layers are fetched and unpacked at the same time, over all pulls.
    pub parallel_layers: usize,
    /// How many of them may belong to one pull.
    pub parallel_layers_per_pull: usize,
    /// How registries are reached.
    pub registries: Registries,
}

impl Options {
    /// The defaults, for a store in this directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            platform: Platform::here(),
            pinned: Vec::new(),
            parallel_layers: 8,
            parallel_layers_per_pull: 4,
            registries: Registries::default(),
        }
    }
}

/// What images and containers take of their file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsInfo {
    /// A directory on the file system.
    pub mountpoint: PathBuf,
    /// What is used.
    pub used: Usage,
}

/// An image that an import brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Its id.
    pub id: Digest,
    /// The names that it got.
    pub names: Vec<String>,
}

/// Images, their layers, and the writable layers of containers. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) options: Arc<Options>,
    pub(crate) slots: Arc<Semaphore>,
    usages: Arc<Usages>,
}

impl Store {
    /// Opens a store, makes it if there is none, and cleans up what an earlier run left behind.
    pub async fn open(options: Options) -> Result<Self> {
        let mut pinned = Vec::new();
        for name in &options.pinned {
            pinned.push(name.parse::<Reference>()?.to_string());
        }
        let root = options.root.clone();
        let shelf = Arc::new(blocking(move || Shelf::open(&root, &pinned)).await?);
        shelf.verify_after_boot();
        let slots = Arc::new(Semaphore::new(options.parallel_layers.max(1)));
        Ok(Self { shelf, options: Arc::new(options), slots, usages: Arc::default() })
    }

    /// Every image that is whole, sorted by id. Answered from memory.
    pub fn list(&self) -> Vec<Image> {
        self.shelf.state().list()
    }

    /// One image, by a reference of any form. Answered from memory.
    pub fn status(&self, reference: &str) -> Result<Option<Image>> {
        let state = self.shelf.state();
        Ok(state.find(reference)?.and_then(|id| state.image(&id)))
    }

    /// The same, where absence is an error.
    pub fn resolve(&self, reference: &str) -> Result<Image> {
        let absent = || Error::NoImage { reference: reference.to_owned() };
        self.status(reference)?.ok_or_else(absent)
    }

    /// What an image says about its process; held images answer, too, when they are not listed.
    pub fn facts(&self, id: &Digest) -> Result<Arc<Facts>> {
        let state = self.shelf.state();
        let record = state.images.get(id);
        let absent = || Error::NoImage { reference: id.to_string() };
        record.map(|record| Arc::clone(&record.facts)).ok_or_else(absent)
    }

    /// The config of an image, byte for byte.
    pub async fn config(&self, id: &Digest) -> Result<Vec<u8>> {
        let (shelf, id) = (Arc::clone(&self.shelf), id.clone());
        blocking(move || {
            let absent = || Error::NoImage { reference: id.to_string() };
            shelf.config(&id)?.ok_or_else(absent)
        })
        .await
    }

    /// The users and groups of an image.
    pub async fn users(&self, id: &Digest) -> Result<Users> {
        let (shelf, id) = (Arc::clone(&self.shelf), id.clone());
        blocking(move || {
            let rows = shelf.state().layers_of(&id)?;
            let paths: Vec<PathBuf> =
                rows.iter().map(|row| shelf.paths.layer(row.number)).collect();
            let fault = |e| Error::file("open the layers below", &shelf.paths.root, e);
            Users::read(&id, &Stack::open(&paths).map_err(fault)?)
        })
        .await
    }

    /// Removes an image, by any of its names: all of them go. Absent is well. Its layers go when
    /// nothing needs them any more.
    pub async fn remove(&self, reference: &str) -> Result<()> {
        let (shelf, reference) = (Arc::clone(&self.shelf), reference.to_owned());
        blocking(move || {
            if shelf.unlist(&reference)?.is_some() {
                shelf.sweep()?;
            }
            Ok(())
        })
        .await
    }

    /// Keeps an image whole for a holder, even if it is removed meanwhile. A repeat is well.
    pub async fn hold(&self, holder: &str, id: &Digest) -> Result<()> {
        let (shelf, holder, id) = (Arc::clone(&self.shelf), holder.to_owned(), id.clone());
        blocking(move || shelf.hold(&holder, &id)).await
    }

    /// Lets go of what a holder holds. Nothing held is well.
    pub async fn unhold(&self, holder: &str) -> Result<()> {
        let (shelf, holder) = (Arc::clone(&self.shelf), holder.to_owned());
        blocking(move || {
            if shelf.unhold(&holder)? {
                shelf.sweep_in_background();
            }
            Ok(())
        })
        .await
    }

    /// Everyone who holds an image, with the image's id.
    pub fn holders(&self) -> Vec<(String, Digest)> {
        let state = self.shelf.state();
        state.holds.iter().map(|(holder, id)| (holder.clone(), id.clone())).collect()
    }

    /// Makes the writable layer of a container, or finds the one of an earlier try, and says how to
    /// mount it.
    pub async fn prepare(&self, key: &str, id: &Digest) -> Result<Mount> {
        let (shelf, key, id) = (Arc::clone(&self.shelf), key.to_owned(), id.clone());
        blocking(move || shelf.prepare(&key, &id)).await
    }

    /// Makes changes in a writable layer that was prepared and never mounted: what is in this tar, and
    /// paths of the image that are gone. No name in either leads out of the layer. A repeat begins
    /// anew.
    pub async fn fill_snapshot(&self, key: &str, changes: &Path, gone: Vec<String>) -> Result<()> {
        let (shelf, key, changes) = (Arc::clone(&self.shelf), key.to_owned(), changes.to_owned());
        blocking(move || shelf.fill_snapshot(&key, &changes, &gone)).await
    }

    /// The directory of the uppermost layer of an image that has a checkpoint of CRI-O's form at its
    /// top; none if it is an image like any other.
    pub async fn checkpoint(&self, id: &Digest) -> Result<Option<PathBuf>> {
        let layers = self.lower_dirs(id)?;
        // Nothing that a link leads to is one.
        let is = |layer: &Path, name: &str, dir: bool| {
            let found = layer.join(name).symlink_metadata();
            found.is_ok_and(|found| if dir { found.is_dir() } else { found.is_file() })
        };
        let one = move |layer: &PathBuf| {
            is(layer, "config.dump", false)
                && is(layer, "spec.dump", false)
                && is(layer, "checkpoint", true)
        };
        blocking(move || Ok(layers.into_iter().find(one))).await
    }

    /// The directories that an image is made of, for an overlay that is only read: the topmost first,
    /// each once, and last an empty one, since overlay wants two at least. Answered from memory.
    pub fn lower_dirs(&self, id: &Digest) -> Result<Vec<PathBuf>> {
        let mut seen = HashSet::new();
        let rows = self.shelf.state().layers_of(id)?;
        let once = rows.iter().rev().map(|row| row.number).filter(|number| seen.insert(*number));
        let paths = &self.shelf.paths;
        Ok(once.map(|number| paths.layer(number)).chain([paths.empty()]).collect())
    }

    /// The mount of a writable layer that was prepared earlier.
    pub async fn snapshot(&self, key: &str) -> Result<Option<Mount>> {
        let (shelf, key) = (Arc::clone(&self.shelf), key.to_owned());
        blocking(move || shelf.find_snapshot(&key)).await
    }

    /// Lets a writable layer be mounted that was mounted before, and is not any more. Absent is well.
    pub async fn let_mount_again(&self, key: &str) -> Result<()> {
        let (shelf, key) = (Arc::clone(&self.shelf), key.to_owned());
        blocking(move || shelf.let_mount_again(&key)).await
    }

    /// The keys of all writable layers.
    pub fn snapshots(&self) -> Vec<String> {
        self.shelf.state().snapshots.keys().cloned().collect()
    }

    /// Removes the writable layer of a container, which must not be mounted any more. Absent is
    /// well.
    pub async fn drop_snapshot(&self, key: &str) -> Result<()> {
        let (shelf, key) = (Arc::clone(&self.shelf), key.to_owned());
        self.usages.forget(&key);
        blocking(move || {
            if shelf.drop_snapshot(&key)? {
                shelf.sweep_in_background();
            }
            Ok(())
        })
        .await
    }

    /// What a writable layer takes. A background figure: the first call answers nothing and has it
    /// measured, later ones answer the last measurement and renew it if it is old.
    pub fn usage(&self, key: &str) -> Option<Usage> {
        if !self.shelf.state().snapshots.contains_key(key) {
            return None;
        }
        self.usages.get(key, self.shelf.upper(key))
    }

    /// The directory whose entries are the lower directories of every mount that [`Store::prepare`]
    /// answers: for whoever shows them all in another way (id-mapped).
    pub fn layers_dir(&self) -> PathBuf {
        self.shelf.paths.layers()
    }

    /// What the images take. Answered from memory.
    pub fn image_fs(&self) -> FsInfo {
        let used = self.shelf.state().layer_usage();
        FsInfo { mountpoint: self.options.root.clone(), used }
    }

    /// What the writable layers take, as far as it was measured. Answered from memory.
    pub fn container_fs(&self) -> FsInfo {
        FsInfo { mountpoint: self.options.root.clone(), used: self.usages.sum() }
    }

    /// Compares every layer on disk with what was unpacked, and takes damaged ones off the record:
    /// their images are absent until they are pulled again. Gives the damaged layers.
    pub async fn verify(&self) -> Result<Vec<Digest>> {
        let shelf = Arc::clone(&self.shelf);
        blocking(move || shelf.verify()).await
    }

    /// The layers that are being fetched or unpacked now.
    pub fn transfers(&self) -> Vec<Transfer> {
        let jobs: Vec<Arc<Job>> =
            lock(&self.shelf.jobs).values().filter_map(Weak::upgrade).collect();
        jobs.iter().filter_map(|job| job.transfer()).collect()
    }

    /// Waits until what was removed is gone from the disk; says whether it is.
    pub async fn settled(&self, limit: Duration) -> bool {
        let shelf = Arc::clone(&self.shelf);
        blocking(move || Ok(shelf.wait_for_background(limit))).await.unwrap_or(false)
    }

    /// Takes in an OCI layout, as a directory or an archive, or a docker archive. Given names are
    /// added to those in the file, if it has only one image.
    pub async fn import(&self, path: &Path, names: &[String]) -> Result<Vec<Imported>> {
        let imported = self.take_in(path, names).await;
        imported.map_err(|error| error.on_disk(&self.options.root))
    }

    async fn take_in(&self, path: &Path, names: &[String]) -> Result<Vec<Imported>> {
        let mut given = Vec::new();
        for name in names {
            given.push(name.parse::<Reference>()?.to_string());
        }
        let (path, scratch) = (path.to_path_buf(), self.shelf.paths.staging());
        let platform = self.options.platform.clone();
        let (bundle, mut images) = blocking(move || {
            let bundle = Bundle::open(&path, &scratch)?;
            let images = bundle.images(&platform)?;
            Ok((Arc::new(bundle), images))
        })
        .await?;
        match images.as_mut_slice() {
            [one] => one.names.extend(given),
            _ if given.is_empty() => {}
            many => {
                let reason = format!("it has {} images; names are given for one", many.len());
                return Err(Error::malformed("the given file", reason));
            }
        }
        let mut imported = Vec::new();
        for image in images {
            imported.push(self.import_image(&bundle, image).await?);
        }
        Ok(imported)
    }

    async fn import_image(&self, bundle: &Arc<Bundle>, image: Found) -> Result<Imported> {
        let mut below: Option<Arc<Job>> = None;
        let mut chain = None;
        for layer in image.layers {
            let id = layer.expected.diff_id.chain(chain.as_ref());
            let spec = Spec { expected: layer.expected, chain: id.clone(), below: below.take() };
            let (bundle, slots) = (Arc::clone(bundle), Arc::clone(&self.slots));
            let shelf = Arc::clone(&self.shelf);
            let (job, _) = Job::obtain(&self.shelf, spec, |expected| async move {
                let _slot = slots.acquire_owned().await;
                let unwanted = Arc::new(AtomicBool::new(false));
                let _unwant = Unwant(Arc::clone(&unwanted));
                let (reader, _) = bundle.member(&layer.member)?;
                job::unpack(shelf, expected, Wanted { reader, unwanted }).await
            });
            (below, chain) = (Some(job), Some(id));
        }
        let layers = match &below {
            Some(top) => top.wait_for_stack().await?,
            None => Vec::new(),
        };
        let mut names = image.names;
        names.sort();
        names.dedup();
        let imported = Imported { id: image.id.clone(), names: names.clone() };
        let new = NewImage {
            id: image.id,
            config: image.config_bytes,
            facts: Facts::of(&image.config),
            size: image.size,
            names,
            layers,
        };
        let shelf = Arc::clone(&self.shelf);
        blocking(move || shelf.commit(new)).await?;
        Ok(imported)
    }
}
