//! Opening, loading and handing saves to the writer.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use berth_pod::SandboxId;
use berth_pod::record::{Leftover, PodRecord};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension};

use crate::Error;
use crate::mirror;
use crate::spare;
use crate::writer::{self, Done, Op, Places};

/// The format of the rows; a newer one is refused.
const FORMAT: i64 = 1;

/// Names a leftover in the database.
pub type LeftoverId = i64;

/// What the database held when it was opened.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Every pod.
    pub pods: Vec<PodRecord>,
    /// Every leftover.
    pub leftovers: Vec<(LeftoverId, Leftover)>,
    /// Rows that could not be read: their ids and why. They are kept aside.
    pub unreadable: Vec<(String, String)>,
    /// Where a corrupt database was moved, if it was.
    pub moved_aside: Option<PathBuf>,
}

/// A save: a pod's record as it stands, and what it left over, in one transaction.
#[derive(Debug)]
pub struct Save<'a> {
    /// The record.
    pub record: &'a PodRecord,
    /// What could not be released.
    pub leftovers: &'a [Leftover],
}

/// The record database. Dropping it waits for the writer to finish what it was given.
#[derive(Debug)]
pub struct Records {
    queue: Option<mpsc::Sender<Op>>,
    creating: Arc<AtomicUsize>,
    writer: Option<std::thread::JoinHandle<()>>,
}

/// While one of these lives, a creation is in flight and no checkpoint begins.
#[derive(Debug)]
pub struct Creating(Arc<AtomicUsize>);

impl Drop for Creating {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Records {
    /// Opens the database at `path`, making it when it is absent, and loads what it holds.
    ///
    /// Every pod's record is also kept as `<mirror>/<id>/record.json.gz`, in directories that
    /// somebody else makes and removes, on a file system that a reboot empties. A corrupt database is moved
    /// aside to `<path>.corrupt-<n>`, and a new one is filled from there: so pods that run now are
    /// not forgotten with it.
    ///
    /// # Errors
    /// When the file cannot be opened or made.
    pub fn open(path: &Path, mirror: &Path) -> Result<(Self, Loaded), Error> {
        let (connection, loaded) = match spare::with_room(path, open_and_load) {
            Ok(opened) => opened,
            Err(why) if is_corrupt(&why) => {
                let aside = move_aside(path)?;
                let (connection, mut loaded) =
                    open_and_load(path).map_err(|e| open_failed(path, &e))?;
                loaded.moved_aside = Some(aside);
                loaded.pods =
                    mirror::read(mirror, &connection).map_err(|e| open_failed(path, &e))?;
                (connection, loaded)
            }
            Err(why) => return Err(open_failed(path, &why)),
        };
        spare::keep(path);
        let creating = Arc::new(AtomicUsize::new(0));
        let (queue, ops) = mpsc::channel();
        let places = Places { database: path.to_owned(), mirror: mirror.to_owned() };
        let writer = writer::start(places, connection, ops, Arc::clone(&creating))
            .map_err(|why| Error::Open { path: path.to_owned(), why: why.to_string() })?;
        Ok((Self { queue: Some(queue), creating, writer: Some(writer) }, loaded))
    }

    /// Marks a creation as being in flight until the answer is dropped.
    pub fn creating(&self) -> Creating {
        self.creating.fetch_add(1, Ordering::Relaxed);
        Creating(Arc::clone(&self.creating))
    }

    /// Saves a pod; `done` is called on the writer's thread once it is committed, with the names of
    /// what it left over, in order, or cannot be.
    pub fn save(
        &self,
        save: &Save<'_>,
        done: impl FnOnce(Result<Vec<LeftoverId>, Error>) + Send + 'static,
    ) {
        let encoded = encode(save.record).and_then(|record| {
            let leftovers = save.leftovers.iter().map(encode).collect::<Result<_, _>>()?;
            Ok((record, leftovers))
        });
        match encoded {
            Ok((record, leftovers)) => {
                let id = save.record.id.to_string();
                self.send(Op::Save { id, record, leftovers, done: Box::new(done) });
            }
            Err(why) => done(Err(why)),
        }
    }

    /// Deletes a pod's row, and saves what it left over; `done` is as for [`Records::save`].
    pub fn forget(
        &self,
        id: &SandboxId,
        leftovers: &[Leftover],
        done: impl FnOnce(Result<Vec<LeftoverId>, Error>) + Send + 'static,
    ) {
        match leftovers.iter().map(encode).collect() {
            Ok(leftovers) => {
                self.send(Op::Forget { id: id.to_string(), leftovers, done: Box::new(done) });
            }
            Err(why) => done(Err(why)),
        }
    }

    /// Deletes a leftover that has been released after all.
    pub fn settle(&self, leftover: LeftoverId) {
        self.send(Op::Settle { leftover, done: Box::new(|_| {}) });
    }

    fn send(&self, op: Op) {
        let Some(queue) = &self.queue else { return };
        if let Err(mpsc::SendError(op)) = queue.send(op) {
            op.done()(Err(Error::Closed));
        }
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.queue = None;
        // What is told of a save may hold the last of this: that thread cannot wait for itself.
        if let Some(writer) = self.writer.take()
            && writer.thread().id() != std::thread::current().id()
        {
            let _ = writer.join();
        }
    }
}

fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|why| Error::Encode(why.to_string()))
}

fn open_failed(path: &Path, why: &rusqlite::Error) -> Error {
    Error::Open { path: path.to_owned(), why: why.to_string() }
}

fn is_corrupt(why: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(why.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// The name of a file beside the database.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn move_aside(path: &Path) -> Result<PathBuf, Error> {
    let failed = |why: std::io::Error| Error::Open { path: path.to_owned(), why: why.to_string() };
    let named = |suffix: &str| beside(path, suffix);
    let free = |n: &u32| !named(&format!(".corrupt-{n}")).exists();
    let n = (1..).find(free).unwrap_or(1);
    let aside = named(&format!(".corrupt-{n}"));
    std::fs::rename(path, &aside).map_err(failed)?;
    for companion in ["-wal", "-shm"] {
        match std::fs::rename(named(companion), named(&format!(".corrupt-{n}{companion}"))) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(failed(why)),
            _ => {}
        }
    }
    Ok(aside)
}

/// Opens a connection with the settings that every connection here has.
pub(crate) fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    // Records hold the environment of containers: nobody else reads them. SQLite gives the log and
    // the index the database's own mode.
    let _ = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    let connection = Connection::open(path)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0;
         PRAGMA busy_timeout=5000; PRAGMA cache_size=-128; PRAGMA temp_store=MEMORY;",
    )?;
    Ok(connection)
}

fn open_and_load(path: &Path) -> Result<(Connection, Loaded), rusqlite::Error> {
    let connection = connect(path)?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS pods (id TEXT PRIMARY KEY, record BLOB NOT NULL);
         CREATE TABLE IF NOT EXISTS leftovers (id INTEGER PRIMARY KEY, leftover BLOB NOT NULL);
         CREATE TABLE IF NOT EXISTS unreadable (id TEXT, record BLOB, why TEXT);
         CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL);",
    )?;
    let format: Option<i64> = connection
        .query_row("SELECT value FROM meta WHERE key = 'format'", [], |row| row.get(0))
        .optional()?;
    match format {
        None => {
            connection.execute("INSERT INTO meta VALUES ('format', ?1)", [FORMAT])?;
        }
        Some(FORMAT) => {}
        Some(other) => {
            let text = format!("it has format {other}, this daemon knows {FORMAT}");
            return Err(rusqlite::Error::InvalidParameterName(text));
        }
    }
    let loaded = load(&connection)?;
    Ok((connection, loaded))
}

fn load(connection: &Connection) -> Result<Loaded, rusqlite::Error> {
    let mut loaded = Loaded::default();
    {
        let mut rows = connection.prepare("SELECT id, record FROM pods")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let id: String = row.get(0)?;
            match serde_json::from_slice(bytes(row)?) {
                Ok(record) => loaded.pods.push(record),
                Err(why) => loaded.unreadable.push((id, why.to_string())),
            }
        }
        let mut rows = connection.prepare("SELECT id, leftover FROM leftovers")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let id: LeftoverId = row.get(0)?;
            match serde_json::from_slice(bytes(row)?) {
                Ok(leftover) => loaded.leftovers.push((id, leftover)),
                Err(why) => loaded.unreadable.push((format!("leftover {id}"), why.to_string())),
            }
        }
    }
    for (id, why) in &loaded.unreadable {
        connection.execute(
            "INSERT INTO unreadable SELECT id, record, ?2 FROM pods WHERE id = ?1",
            [id, why],
        )?;
        connection.execute("DELETE FROM pods WHERE id = ?1", [id])?;
    }
    Ok(loaded)
}

/// The row's second column, text or blob.
fn bytes<'r>(row: &'r rusqlite::Row<'_>) -> Result<&'r [u8], rusqlite::Error> {
    Ok(row.get_ref(1)?.as_bytes().unwrap_or_default())
}

impl Op {
    pub(crate) fn done(self) -> Done {
        match self {
            Self::Save { done, .. } | Self::Forget { done, .. } | Self::Settle { done, .. } => done,
        }
    }
}
