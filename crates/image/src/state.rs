//! What the store knows, in memory: lists and status are answered from here.
//!
//! No lock on this is ever held over a wait, a file or the database.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::database::{Content, ImageRow, LayerRow};
use crate::digest::{self, Digest};
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::manifest;
use crate::measure::Usage;
use crate::reference::{Reference, Version};

/// An image as lists and status show it.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of its config: the one identity that every call uses.
    pub id: Digest,
    /// Its names with a tag, sorted.
    pub repo_tags: Vec<String>,
    /// Its names with a digest, sorted.
    pub repo_digests: Vec<String>,
    /// The sum of its compressed layers, in bytes.
    pub size: u64,
    /// What it says about its process.
    pub facts: Arc<Facts>,
    /// Whether it must not be collected.
    pub pinned: bool,
}

/// What is kept of an image.
#[derive(Clone)]
pub(crate) struct Record {
    pub(crate) size: u64,
    pub(crate) listed: bool,
    pub(crate) layers: Vec<Digest>,
    pub(crate) facts: Arc<Facts>,
}

/// All that is known.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) images: HashMap<Digest, Record>,
    pub(crate) names: BTreeMap<String, Digest>,
    pub(crate) layers: HashMap<Digest, LayerRow>,
    pub(crate) holds: HashMap<String, Digest>,
    /// The layers that each snapshot stands on.
    pub(crate) snapshots: HashMap<String, Vec<u64>>,
    /// References that are never collected, in full form.
    pub(crate) pinned: BTreeSet<String>,
}

/// What nothing refers to any more.
#[derive(Default)]
pub(crate) struct Dead {
    pub(crate) images: Vec<(Digest, Record)>,
    pub(crate) layers: Vec<LayerRow>,
}

impl State {
    /// Takes over what the database says; an image whose config does not read is left out.
    pub(crate) fn load(&mut self, content: Content) {
        for row in content.images {
            let facts = match manifest::Config::parse("image config", &row.config) {
                Ok(config) => Facts::of(&config),
                Err(error) => {
                    tracing::warn!(image = %row.id, %error, "image left out: pull it again");
                    continue;
                }
            };
            self.put_image(&row, Arc::new(facts));
        }
        self.layers = content.layers.into_iter().map(|row| (row.key.clone(), row)).collect();
        self.names = content.names.into_iter().collect();
        self.names.retain(|_, id| self.images.contains_key(id));
    }

    pub(crate) fn put_image(&mut self, row: &ImageRow, facts: Arc<Facts>) {
        let record =
            Record { size: row.size, listed: row.listed, layers: row.layers.clone(), facts };
        self.images.insert(row.id.clone(), record);
    }

    /// The images that are listed and whole, sorted by id.
    pub(crate) fn list(&self) -> Vec<Image> {
        let mut names: HashMap<&Digest, Vec<&str>> = HashMap::new();
        for (name, id) in &self.names {
            names.entry(id).or_default().push(name);
        }
        let mut list: Vec<Image> = self
            .images
            .iter()
            .filter(|(_, record)| self.is_shown(record))
            .map(|(id, record)| {
                self.show(id, record, names.get(id).map(Vec::as_slice).unwrap_or_default())
            })
            .collect();
        list.sort_by(|a, b| a.id.cmp(&b.id));
        list
    }

    fn is_shown(&self, record: &Record) -> bool {
        record.listed && self.missing(record) == 0
    }

    /// How many of an image's layers are not here.
    pub(crate) fn missing(&self, record: &Record) -> usize {
        record.layers.iter().filter(|key| !self.layers.contains_key(*key)).count()
    }

    fn show(&self, id: &Digest, record: &Record, names: &[&str]) -> Image {
        let of = |digests: bool| -> Vec<String> {
            names.iter().filter(|n| n.contains('@') == digests).map(|n| n.to_string()).collect()
        };
        Image {
            id: id.clone(),
            repo_tags: of(false),
            repo_digests: of(true),
            size: record.size,
            facts: Arc::clone(&record.facts),
            pinned: names.iter().any(|name| self.pinned.contains(*name)),
        }
    }

    /// One image that is listed and whole.
    pub(crate) fn image(&self, id: &Digest) -> Option<Image> {
        let record = self.images.get(id).filter(|record| self.is_shown(record))?;
        let names: Vec<&str> =
            self.names.iter().filter(|(_, i)| *i == id).map(|(n, _)| n.as_str()).collect();
        Some(self.show(id, record, &names))
    }

    /// The id that a reference of any form stands for: a name with a tag or a digest, an id with or
    /// without its algorithm, or the beginning of one if it is the only one.
    pub(crate) fn find(&self, text: &str) -> Result<Option<Digest>> {
        let listed = |id: &Digest| self.images.get(id).is_some_and(|record| record.listed);
        let bare = text.strip_prefix("sha256:").unwrap_or(text);
        if bare.len() == 64 && digest::is_hex(bare) {
            let id: Digest = format!("sha256:{bare}").parse()?;
            return Ok(listed(&id).then_some(id));
        }
        let by_prefix = || {
            let mut found =
                self.images.keys().filter(|id| id.hex().starts_with(bare) && listed(id));
            match (found.next(), found.next()) {
                (Some(one), None) => Some(one.clone()),
                _ => None,
            }
        };
        let is_prefix = bare.len() >= 4 && digest::is_hex(bare);
        if text.starts_with("sha256:") {
            return match is_prefix {
                true => Ok(by_prefix()),
                false => Err(Error::NotADigest {
                    text: text.to_owned(),
                    reason: "an id is hexadecimal digits, at least 4 of them",
                }),
            };
        }
        let reference: Reference = text.parse()?;
        match self.by_name(&reference) {
            Some(id) => Ok(Some(id)),
            None if is_prefix => Ok(by_prefix()),
            None => Ok(None),
        }
    }

    fn by_name(&self, reference: &Reference) -> Option<Digest> {
        if let Some(id) = self.names.get(&reference.to_string()) {
            return Some(id.clone());
        }
        // `name@<image id>` is how some tools write an image that has no digest of its own.
        match reference.version() {
            Version::Digest(id) => {
                let known = self.images.get(id).is_some_and(|record| record.listed);
                let repository = reference.repository();
                let named = self.names.iter().any(|(name, of)| {
                    of == id
                        && name.strip_prefix(&repository).is_some_and(|r| r.starts_with([':', '@']))
                });
                (known && named).then(|| id.clone())
            }
            Version::Tag(_) => None,
        }
    }

    /// Whether a sweep may find something.
    pub(crate) fn has_dead(&self) -> bool {
        let held: HashSet<&Digest> = self.holds.values().collect();
        let used: HashSet<&Digest> = self.images.values().flat_map(|r| &r.layers).collect();
        self.images.iter().any(|(id, record)| !record.listed && !held.contains(id))
            || self.layers.keys().any(|key| !used.contains(key))
    }

    /// Takes everything out that no list, hold, snapshot or `leased` layer needs.
    pub(crate) fn take_dead(&mut self, leased: &HashSet<u64>) -> Dead {
        let held: HashSet<&Digest> = self.holds.values().collect();
        let images: Vec<Digest> = self
            .images
            .iter()
            .filter(|(id, record)| !record.listed && !held.contains(id))
            .map(|(id, _)| id.clone())
            .collect();
        let mut dead = Dead::default();
        for id in images {
            if let Some(record) = self.images.remove(&id) {
                dead.images.push((id, record));
            }
        }
        let used: HashSet<&Digest> = self.images.values().flat_map(|r| &r.layers).collect();
        let standing: HashSet<u64> = self.snapshots.values().flatten().copied().collect();
        let unused: Vec<Digest> = self
            .layers
            .values()
            .filter(|row| !used.contains(&row.key))
            .filter(|row| !standing.contains(&row.number) && !leased.contains(&row.number))
            .map(|row| row.key.clone())
            .collect();
        for key in unused {
            if let Some(row) = self.layers.remove(&key) {
                dead.layers.push(row);
            }
        }
        dead
    }

    /// Undoes [`Self::take_dead`] when it could not be saved.
    pub(crate) fn put_back(&mut self, dead: Dead) {
        self.images.extend(dead.images);
        self.layers.extend(dead.layers.into_iter().map(|row| (row.key.clone(), row)));
    }

    /// What all layers take together.
    pub(crate) fn layer_usage(&self) -> Usage {
        let mut sum = Usage::default();
        for row in self.layers.values() {
            sum.bytes += row.measured.usage.bytes;
            sum.inodes += row.measured.usage.inodes;
        }
        sum
    }

    /// The layers of an image, from the bottom up, if they are all there.
    pub(crate) fn layers_of(&self, id: &Digest) -> Result<Vec<LayerRow>> {
        let record =
            self.images.get(id).ok_or_else(|| Error::NoImage { reference: id.to_string() })?;
        let missing = self.missing(record);
        if missing > 0 {
            return Err(Error::Incomplete { image: id.clone(), missing });
        }
        Ok(record.layers.iter().filter_map(|key| self.layers.get(key)).cloned().collect())
    }
}
