//! The one thread that writes, and the one that checkpoints.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rusqlite::{Connection, params};

use crate::Error;
use crate::mirror;
use crate::store::{LeftoverId, connect};

/// Told once an operation is committed, or cannot be.
pub(crate) type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

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

/// The log is folded into the database once it has grown past this.
const CHECKPOINT_ABOVE: u64 = 8 << 20;
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
        write(&places, &connection, &ops, &grown);
        drop(grown);
        let _ = checkpointer.join();
    })
}

fn write(
    places: &Places,
    connection: &Connection,
    ops: &mpsc::Receiver<Op>,
    grown: &mpsc::SyncSender<()>,
) {
    let path = &places.database;
    let log = {
        let mut name = path.as_os_str().to_owned();
        name.push("-wal");
        PathBuf::from(name)
    };
    while let Ok(first) = ops.recv() {
        let mut group = vec![first];
        group.extend(ops.try_iter().take(GROUP - 1));
        for op in &group {
            if let Op::Forget { id, .. } = op {
                mirror::remove(&places.mirror, id);
            }
        }
        let result = commit(connection, &group).map_err(|why| failed(path, &why));
        for op in group {
            match op {
                Op::Save { id, record, done, .. } => {
                    done(result.clone());
                    mirror::write(&places.mirror, &id, &record);
                }
                Op::Forget { done, .. } | Op::Settle { done, .. } => done(result.clone()),
            }
        }
        if std::fs::metadata(&log).is_ok_and(|m| m.len() > CHECKPOINT_ABOVE) {
            let _ = grown.try_send(());
        }
    }
}

fn commit(connection: &Connection, group: &[Op]) -> Result<(), rusqlite::Error> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let written = group.iter().try_for_each(|op| apply(connection, op));
    let ended = match written {
        Ok(()) => connection.prepare_cached("COMMIT")?.execute([]).map(|_| ()),
        Err(why) => Err(why),
    };
    if ended.is_err() && !connection.is_autocommit() {
        // The failure is what is reported; a failed roll-back ends with the next BEGIN.
        let _ = connection.execute_batch("ROLLBACK");
    }
    ended
}

fn apply(connection: &Connection, op: &Op) -> Result<(), rusqlite::Error> {
    let save_leftovers = |leftovers: &[Vec<u8>]| -> Result<(), rusqlite::Error> {
        for leftover in leftovers {
            connection
                .prepare_cached("INSERT INTO leftovers (leftover) VALUES (?1)")?
                .execute([leftover])?;
        }
        Ok(())
    };
    match op {
        Op::Save { id, record, leftovers, .. } => {
            connection
                .prepare_cached("INSERT OR REPLACE INTO pods (id, record) VALUES (?1, ?2)")?
                .execute(params![id, record])?;
            save_leftovers(leftovers)
        }
        Op::Forget { id, leftovers, .. } => {
            connection.prepare_cached("DELETE FROM pods WHERE id = ?1")?.execute([id])?;
            save_leftovers(leftovers)
        }
        Op::Settle { leftover, .. } => connection
            .prepare_cached("DELETE FROM leftovers WHERE id = ?1")?
            .execute([leftover])
            .map(|_| ()),
    }
}

fn failed(path: &Path, why: &rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{DiskFull, ReadOnly, SystemIoFailure};
    let (path, text) = (path.to_owned(), why.to_string());
    match why.sqlite_error_code() {
        Some(DiskFull | ReadOnly | SystemIoFailure) => Error::Full { path, why: text },
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
