//! Compares layers with what was measured when they were unpacked.
//!
//! What is listed was synced before; but disks lie, and operators delete. So after every boot all
//! layers are looked through once, in the background, and on demand. A damaged layer is taken off
//! the record: its images count as absent, and the next pull fetches just this layer again.

use std::sync::Arc;

use crate::database::{Change, LayerRow};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::measure;
use crate::shelf::Shelf;

impl Shelf {
    /// Looks through all layers; gives the keys of those that were damaged.
    pub(crate) fn verify(&self) -> Result<Vec<Digest>> {
        let rows: Vec<LayerRow> = self.state().layers.values().cloned().collect();
        let mut damaged = Vec::new();
        for row in rows {
            let whole = match measure::measure(&self.paths.layer(row.number)) {
                Ok(found) => {
                    found.content == row.measured.content
                        && found.usage.inodes == row.measured.usage.inodes
                }
                Err(error) => {
                    tracing::debug!(layer = %row.key, %error, "layer does not read");
                    false
                }
            };
            if !whole && self.withdraw(&row)? {
                tracing::warn!(layer = %row.key, "layer damaged: the next pull repairs it");
                damaged.push(row.key);
            }
        }
        Ok(damaged)
    }

    /// Takes a damaged layer off the record. Not so if it went away by itself meanwhile.
    fn withdraw(&self, row: &LayerRow) -> Result<bool> {
        let change = Change { drop_layers: vec![row.number], ..Change::default() };
        let withdrawn = self.change(&change, |state| {
            let there = state.layers.get(&row.key).is_some_and(|now| now.number == row.number);
            if there {
                state.layers.remove(&row.key);
            }
            there
        })?;
        let standing = self.state().snapshots.values().any(|lower| lower.contains(&row.number));
        if withdrawn && !standing {
            self.dispose(&self.paths.layer(row.number));
        }
        Ok(withdrawn)
    }

    /// Verifies in the background if the machine was booted since the last time.
    pub(crate) fn verify_after_boot(self: &Arc<Self>) {
        let path = self.paths.root.join("verified");
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let last = std::fs::read_to_string(&path).unwrap_or_default();
        if last == boot {
            return;
        }
        let shelf = Arc::clone(self);
        let work = move || match shelf.verify() {
            Ok(_) => {
                let noted = std::fs::write(&path, boot);
                if let Err(error) = noted.map_err(|e| Error::file("write", &path, e)) {
                    tracing::warn!(%error, "layers are verified again at the next start");
                }
            }
            Err(error) => tracing::warn!(%error, "layers could not be verified"),
        };
        if let Err(error) = std::thread::Builder::new().name("verify".to_owned()).spawn(work) {
            tracing::warn!(%error, "no thread to verify layers; the next start does it");
        }
    }
}
