//! The one thread that writes, and the one that checkpoints.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rusqlite::{Connection, params};

use crate::Error;
use crate::mirror;
use crate::store::{LeftoverId, connect};

/// Told once an operation is committed, with the rows of its leftovers, or cannot be.
pub(crate) type Done = Box<dyn FnOnce(Result<Vec<LeftoverId>, Error>) + Send>;

/// Where the writer writes.
pub(crate) struct Places {
    pub(crate) database: PathBuf,
    pub(crate) mirror: PathBuf,
}

/// What the writer is given.
pub(crate) enum Op {
    Save { id: String, record: Vec<u8>, leftovers: Vec<Vec<u8>>, done: Done },
    Forget { id: String, leftovers: Vec<Vec<u8>>, done: Done },
    Settle { leftover: LeftoverId, done: Done },
}

/// The log is folded into the database once it has grown by this since the last time. Its file is
/// not cut then, and is written from its start again: on a full disk there is room in it.
const CHECKPOINT_ABOVE: usize = 8 << 20;
/// SQLite's page: what a change of one row adds to the log at least.
const PAGE: usize = 4096;
/// Rows in one transaction at most: a burst must not make its first caller wait for its last.
const GROUP: usize = 64;
/// Enough for SQLite's deepest call, little enough to be cheap.
const STACK: usize = 256 << 10;

/// Starts both threads. The writer ends when its queue does, after its last commit.
pub(crate) fn start(
    places: Places,
    connection: Connection,
    ops: mpsc::Receiver<Op>,
    creating: Arc<AtomicUsize>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let (grown, checkpoints) = mpsc::sync_channel(1);
    let of = places.database.clone();
    let checkpointer = std::thread::Builder::new()
        .name("records-ckpt".into())
        .stack_size(STACK)
        .spawn(move || checkpoint(&of, &checkpoints, &creating))?;
    std::thread::Builder::new().name("records".into()).stack_size(STACK).spawn(move || {
        let _end = EndAll;
        write(&places, &connection, &ops, &grown);
        drop(grown);
        let _ = checkpointer.join();
    })
}

/// A daemon whose writer has panicked would wait for its saves for ever; the next one finds
/// everything as it was.
struct EndAll;

impl Drop for EndAll {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn write(
    places: &Places,
    connection: &Connection,
    ops: &mpsc::Receiver<Op>,
    grown: &mpsc::SyncSender<()>,
) {
    let mut log = 0;
    // Pods that are gone and whose rows could not be deleted: a restart must not bring them back.
    let mut stale = Vec::new();
    while let Ok(first) = ops.recv() {
        let mut group = vec![first];
        group.extend(ops.try_iter().take(GROUP - 1));
        for op in &group {
            if let Op::Forget { id, .. } = op {
                mirror::remove(&places.mirror, id);
            }
        }
        log += group.iter().map(logged).sum::<usize>();
        match commit(connection, &group) {
            Ok(rows) => {
                let mut copies = HashMap::new();
                for (op, rows) in group.into_iter().zip(rows) {
                    match op {
                        Op::Save { id, record, done, .. } => {
                            copies.insert(id, record);
                            done(Ok(rows));
                        }
                        Op::Forget { id, done, .. } => {
                            copies.remove(&id);
                            done(Ok(rows));
                        }
                        Op::Settle { done, .. } => done(Ok(rows)),
                    }
                }
                // Nobody waits for these, and of each pod only the last counts.
                for (id, record) in &copies {
                    mirror::write(&places.mirror, id, record);
                }
                delete(connection, &mut stale);
            }
            Err(why) => {
                let why = failed(&places.database, &why);
                stale.extend(group.iter().filter_map(|op| match op {
                    Op::Forget { id, .. } => Some(id.clone()),
                    _ => None,
                }));
                group.into_iter().for_each(|op| op.done()(Err(why.clone())));
            }
        }
        if log > CHECKPOINT_ABOVE && grown.try_send(()).is_ok() {
            log = 0;
        }
    }
}

/// Deletes rows as soon as the disk takes writes again; those that it does not take stay on the
/// list.
fn delete(connection: &Connection, stale: &mut Vec<String>) {
    stale.retain(|id| {
        let deleted = connection
            .prepare_cached("DELETE FROM pods WHERE id = ?1")
            .and_then(|mut delete| delete.execute([id]));
        deleted.is_err()
    });
}

/// About how much an operation adds to the log: pages are logged whole.
fn logged(op: &Op) -> usize {
    let pages = |bytes: usize| PAGE * (1 + bytes.div_ceil(PAGE));
    match op {
        Op::Save { record, leftovers, .. } => {
            pages(record.len()) + leftovers.iter().map(|l| pages(l.len())).sum::<usize>()
        }
        Op::Forget { .. } | Op::Settle { .. } => pages(0),
    }
}

/// Commits all of them or none. Gives for each the rows of what it left over.
fn commit(connection: &Connection, group: &[Op]) -> Result<Vec<Vec<LeftoverId>>, rusqlite::Error> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let written: Result<Vec<_>, _> = group.iter().map(|op| apply(connection, op)).collect();
    let ended = written.and_then(|rows| {
        connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(rows)
    });
    if ended.is_err() && !connection.is_autocommit() {
        // The failure is what is reported; a failed roll-back ends with the next BEGIN.
        let _ = connection.execute_batch("ROLLBACK");
    }
    ended
}

fn apply(connection: &Connection, op: &Op) -> Result<Vec<LeftoverId>, rusqlite::Error> {
    let save_leftovers = |leftovers: &[Vec<u8>]| {
        let save = |leftover| {
            connection
                .prepare_cached("INSERT INTO leftovers (leftover) VALUES (?1)")?
                .execute([leftover])?;
            Ok(connection.last_insert_rowid())
        };
        leftovers.iter().map(save).collect()
    };
    match op {
        Op::Save { id, record, leftovers, .. } => {
            // In its old place: a replaced row would be a new one in the table and in its index.
            connection
                .prepare_cached(
                    "INSERT INTO pods (id, record) VALUES (?1, ?2)
                     ON CONFLICT (id) DO UPDATE SET record = excluded.record",
                )?
                .execute(params![id, record])?;
            save_leftovers(leftovers)
        }
        Op::Forget { id, leftovers, .. } => {
            connection.prepare_cached("DELETE FROM pods WHERE id = ?1")?.execute([id])?;
            save_leftovers(leftovers)
        }
        Op::Settle { leftover, .. } => {
            connection
                .prepare_cached("DELETE FROM leftovers WHERE id = ?1")?
                .execute([leftover])?;
            Ok(Vec::new())
        }
    }
}

fn failed(path: &Path, why: &rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{DiskFull, ReadOnly, SystemIoFailure};
    let (path, text) = (path.to_owned(), why.to_string());
    match why.sqlite_error_code() {
        Some(DiskFull) => Error::Full { path, why: text },
        Some(ReadOnly | SystemIoFailure) => Error::Unwritable { path, why: text },
        _ => Error::Failed { path, why: text },
    }
}

/// Folds the log into the database while nobody creates a pod. A checkpoint makes the next commit
/// start the log anew, and that commit syncs: it is made here, so that no pod pays for it.
fn checkpoint(path: &Path, grown: &mpsc::Receiver<()>, creating: &AtomicUsize) {
    let Ok(connection) = connect(path) else { return };
    while grown.recv().is_ok() {
        let mut patience = 600;
        while creating.load(Ordering::Relaxed) > 0 && patience > 0 {
            // Bounded: a node that never stops creating must still bound its log.
            match grown.recv_timeout(Duration::from_millis(100)) {
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                _ => patience -= 1,
            }
        }
        // A reader or the writer may be in the way; the next growth tries again. PASSIVE copies and
        // syncs beside the writer, so that RESTART, which locks it out, finds next to nothing left.
        let _ = connection.execute_batch(
            "PRAGMA wal_checkpoint(PASSIVE);
             PRAGMA wal_checkpoint(RESTART);
             INSERT OR REPLACE INTO meta VALUES ('checkpoints',
                 1 + COALESCE((SELECT value FROM meta WHERE key = 'checkpoints'), 0));",
        );
    }
}
