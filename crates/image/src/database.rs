//! The store's durable record: which images there are, under which names, made of which layers.
//!
//! SQLite in WAL mode with `synchronous=FULL`: what a commit lists is on disk, whatever happens
//! afterwards. So content is made durable *before* the commit that lists it, and unlinked only
//! *after* the commit that no longer does. The configs of images live here as well: they are small.
//!
//! Holds and snapshots are not in here: they are made on the way to a running pod, where nothing
//! may wait for a disk, and need not survive a power cut.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, Transaction, params};

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::measure::{Measured, Usage};
use crate::spare::Spare;

const VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE image (
    id TEXT PRIMARY KEY, config BLOB NOT NULL, size INTEGER NOT NULL, listed INTEGER NOT NULL
) STRICT;
CREATE TABLE name (name TEXT PRIMARY KEY, image TEXT NOT NULL) STRICT;
CREATE TABLE layer (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, bytes INTEGER NOT NULL,
    inodes INTEGER NOT NULL, content INTEGER NOT NULL, root INTEGER NOT NULL,
    leans INTEGER NOT NULL
) STRICT;
CREATE TABLE image_layer (
    image TEXT NOT NULL, position INTEGER NOT NULL, key TEXT NOT NULL,
    PRIMARY KEY (image, position)
) STRICT;
";

/// An image as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct ImageRow {
    pub(crate) id: Digest,
    pub(crate) config: Vec<u8>,
    pub(crate) size: u64,
    /// Whether it still has a place in lists; otherwise only holders keep it.
    pub(crate) listed: bool,
    /// The keys of its layers, from the bottom up.
    pub(crate) layers: Vec<Digest>,
}

/// A layer as it is kept. The key is its diff id, or its chain id if it leans on those below.
#[derive(Clone, Debug)]
pub(crate) struct LayerRow {
    pub(crate) number: u64,
    pub(crate) key: Digest,
    pub(crate) measured: Measured,
    /// Whether it says what the top directory is like.
    pub(crate) root: bool,
    /// Whether it was completed from the layers below, and is of use on top of those only.
    pub(crate) leans: bool,
}

/// Everything that the database says.
#[derive(Default)]
pub(crate) struct Content {
    pub(crate) images: Vec<ImageRow>,
    pub(crate) names: Vec<(String, Digest)>,
    pub(crate) layers: Vec<LayerRow>,
}

/// What one commit changes; all of it or nothing.
#[derive(Default)]
pub(crate) struct Change {
    pub(crate) put_layers: Vec<LayerRow>,
    pub(crate) put_image: Option<ImageRow>,
    pub(crate) put_names: Vec<(String, Digest)>,
    pub(crate) unlist: Vec<Digest>,
    pub(crate) drop_names: Vec<String>,
    pub(crate) drop_images: Vec<Digest>,
    pub(crate) drop_layers: Vec<u64>,
}

impl Change {
    /// Whether it only takes something away: that must go even if the disk is full.
    fn only_removes(&self) -> bool {
        self.put_layers.is_empty() && self.put_image.is_none() && self.put_names.is_empty()
    }
}

/// An open database.
pub(crate) struct Database {
    connection: Connection,
    spare: Spare,
}

fn fault(attempted: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
    move |source| Error::Database { attempted, source }
}

impl Database {
    /// Opens the database and reads it whole. One that is damaged is moved aside, and its new place
    /// is returned: layers that snapshots need are known without it, images can be pulled again.
    pub(crate) fn open(path: &Path) -> Result<(Self, Content, Option<PathBuf>)> {
        match Self::open_whole(path) {
            Ok((database, content)) => Ok((database, content, None)),
            Err(Error::Database { source, .. }) if is_damage(&source) => {
                let aside = move_aside(path)?;
                let (database, content) = Self::open_whole(path)?;
                Ok((database, content, Some(aside)))
            }
            Err(error) => Err(error),
        }
    }

    fn open_whole(path: &Path) -> Result<(Self, Content)> {
        let connection = Connection::open(path).map_err(fault("open"))?;
        // Nobody else reads it, so the index of its log is in memory: a file for it would not fit on
        // a disk that is full.
        connection
            .execute_batch(
                "PRAGMA locking_mode=EXCLUSIVE; PRAGMA temp_store=MEMORY; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-256;
                 PRAGMA busy_timeout=5000;",
            )
            .map_err(fault("configure"))?;
        let version: i64 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(fault("read the version"))?;
        match version {
            0 => {
                let schema = format!("BEGIN; {SCHEMA} PRAGMA user_version={VERSION}; COMMIT;");
                connection.execute_batch(&schema).map_err(fault("make the tables"))?;
            }
            VERSION => {
                let verdict: String = connection
                    .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
                    .map_err(fault("check"))?;
                if verdict != "ok" {
                    return Err(fault("check")(rusqlite::Error::SqliteFailure(
                        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
                        Some(verdict),
                    )));
                }
            }
            other => {
                return Err(Error::Unsupported {
                    what: format!("{}: database version {other}", path.display()),
                    reason: "it was written by a later version; use that one",
                });
            }
        }
        let spare = Spare::new(path.with_extension("spare"));
        let database = Self { connection, spare };
        let content = database.read()?;
        Ok((database, content))
    }

    fn read(&self) -> Result<Content> {
        let mut content = Content {
            images: self.rows("SELECT id, config, size, listed FROM image", |row| {
                Ok(ImageRow {
                    id: digest(row, 0)?,
                    config: row.get(1)?,
                    size: row.get::<_, i64>(2)?.unsigned_abs(),
                    listed: row.get(3)?,
                    layers: Vec::new(),
                })
            })?,
            names: self
                .rows("SELECT name, image FROM name", |row| Ok((row.get(0)?, digest(row, 1)?)))?,
            layers: self.rows(
                "SELECT number, key, bytes, inodes, content, root, leans FROM layer",
                |row| {
                    let count = |at| row.get::<_, i64>(at).map(i64::unsigned_abs);
                    let usage = Usage { bytes: count(2)?, inodes: count(3)? };
                    Ok(LayerRow {
                        number: count(0)?,
                        key: digest(row, 1)?,
                        measured: Measured { usage, content: count(4)? },
                        root: row.get(5)?,
                        leans: row.get(6)?,
                    })
                },
            )?,
        };
        let uses = "SELECT image, key FROM image_layer ORDER BY image, position";
        for (image, key) in self.rows(uses, |row| Ok((digest(row, 0)?, digest(row, 1)?)))? {
            if let Some(image) = content.images.iter_mut().find(|found| found.id == image) {
                image.layers.push(key);
            }
        }
        Ok(content)
    }

    fn rows<T>(
        &self,
        sql: &str,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let mut statement = self.connection.prepare(sql).map_err(fault("read"))?;
        let rows = statement.query_map([], read).map_err(fault("read"))?;
        rows.collect::<rusqlite::Result<_>>().map_err(fault("read"))
    }

    /// The config of an image, as it was pulled.
    pub(crate) fn config(&self, image: &Digest) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT config FROM image WHERE id = ?1";
        let mut found = self.connection.prepare(sql).map_err(fault("read"))?;
        let mut rows = found.query(params![image.as_str()]).map_err(fault("read"))?;
        match rows.next().map_err(fault("read"))? {
            Some(row) => Ok(Some(row.get(0).map_err(fault("read"))?)),
            None => Ok(None),
        }
    }

    /// Applies a change; when this returns, it is on disk.
    pub(crate) fn commit(&mut self, change: &Change) -> Result<()> {
        let mut committed = self.try_commit(change);
        let full = |error: &Error| error.kind() == Kind::Exhausted;
        if committed.as_ref().is_err_and(full) && change.only_removes() && self.spare.give_up() {
            committed = self.try_commit(change);
        } else if committed.is_ok() {
            self.spare.keep();
        }
        committed
    }

    fn try_commit(&mut self, change: &Change) -> Result<()> {
        let write = |transaction: &Transaction<'_>| -> rusqlite::Result<()> {
            write_drops(transaction, change)?;
            write_puts(transaction, change)
        };
        let transaction = self.connection.transaction().map_err(fault("begin"))?;
        write(&transaction).map_err(fault("write"))?;
        transaction.commit().map_err(fault("commit"))
    }
}

fn write_drops(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    for name in &change.drop_names {
        transaction.execute("DELETE FROM name WHERE name = ?1", [name])?;
    }
    for id in &change.unlist {
        transaction.execute("UPDATE image SET listed = 0 WHERE id = ?1", [id.as_str()])?;
    }
    for id in &change.drop_images {
        transaction.execute("DELETE FROM image WHERE id = ?1", [id.as_str()])?;
        transaction.execute("DELETE FROM image_layer WHERE image = ?1", [id.as_str()])?;
        transaction.execute("DELETE FROM name WHERE image = ?1", [id.as_str()])?;
    }
    for number in &change.drop_layers {
        transaction.execute("DELETE FROM layer WHERE number = ?1", [integer(*number)])?;
    }
    Ok(())
}

fn write_puts(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    for layer in &change.put_layers {
        let usage = layer.measured.usage;
        transaction.execute(
            "INSERT OR REPLACE INTO layer VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                integer(layer.number),
                layer.key.as_str(),
                integer(usage.bytes),
                integer(usage.inodes),
                integer(layer.measured.content),
                layer.root,
                layer.leans
            ],
        )?;
    }
    if let Some(image) = &change.put_image {
        let id = image.id.as_str();
        transaction.execute(
            "INSERT OR REPLACE INTO image VALUES (?1, ?2, ?3, ?4)",
            params![id, image.config, integer(image.size), image.listed],
        )?;
        transaction.execute("DELETE FROM image_layer WHERE image = ?1", [id])?;
        for (position, key) in image.layers.iter().enumerate() {
            transaction.execute(
                "INSERT INTO image_layer VALUES (?1, ?2, ?3)",
                params![id, integer(position as u64), key.as_str()],
            )?;
        }
    }
    for (name, id) in &change.put_names {
        transaction
            .execute("INSERT OR REPLACE INTO name VALUES (?1, ?2)", params![name, id.as_str()])?;
    }
    Ok(())
}

fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn digest(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Digest> {
    let text: String = row.get(at)?;
    text.parse().map_err(|error: Error| {
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn is_damage(source: &rusqlite::Error) -> bool {
    matches!(
        source.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
    ) || matches!(source, rusqlite::Error::FromSqlConversionFailure(..))
}

fn move_aside(path: &Path) -> Result<PathBuf> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    let named = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    let aside = named(&format!(".damaged-{seconds}"));
    std::fs::rename(path, &aside).map_err(|e| Error::file("move aside", path, e))?;
    for suffix in ["-wal", "-shm"] {
        match std::fs::remove_file(named(suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove", named(suffix), error));
            }
            _ => {}
        }
    }
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> Change {
        let (id, key) = (Digest::of(b"image"), Digest::of(b"layer"));
        let measured = Measured { usage: Usage { bytes: 4096, inodes: 2 }, content: 7 };
        Change {
            put_layers: vec![LayerRow {
                number: 5,
                key: key.clone(),
                measured,
                root: true,
                leans: false,
            }],
            put_image: Some(ImageRow {
                id: id.clone(),
                config: b"{}".to_vec(),
                size: 99,
                listed: true,
                layers: vec![key.clone(), key],
            }),
            put_names: vec![("docker.io/library/a:latest".to_owned(), id)],
            ..Change::default()
        }
    }

    #[test]
    fn what_is_committed_is_read_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("images.db");
        let (mut database, content, aside) = Database::open(&path).unwrap();
        assert!(content.images.is_empty() && aside.is_none());
        database.commit(&change()).unwrap();
        drop(database);
        let (mut database, content, _) = Database::open(&path).unwrap();
        assert_eq!(content.images[0].layers.len(), 2);
        assert_eq!(content.images[0].size, 99);
        assert_eq!(content.layers[0].measured.content, 7);
        assert_eq!(content.names.len(), 1);
        let id = content.images[0].id.clone();
        assert_eq!(database.config(&id).unwrap().as_deref(), Some(&b"{}"[..]));
        let gone = Change { drop_images: vec![id], drop_layers: vec![5], ..Change::default() };
        database.commit(&gone).unwrap();
        let content = database.read().unwrap();
        assert!(content.images.is_empty() && content.names.is_empty());
        assert!(content.layers.is_empty());
    }

    #[test]
    fn a_damaged_database_is_moved_aside() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("images.db");
        std::fs::write(&path, vec![0x5a; 8192]).unwrap();
        let (_database, content, aside) = Database::open(&path).unwrap();
        assert!(content.images.is_empty());
        assert!(aside.unwrap().exists());
    }
}
