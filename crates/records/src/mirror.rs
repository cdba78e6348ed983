//! A copy of each record beside what it describes, for the case that the database is lost.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use berth_pod::record::PodRecord;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use rusqlite::Connection;

/// The copy's name in the pod's directory. It lies in memory: compressed it mostly takes one page.
const NAME: &str = "record.json.gz";
/// Its name while it is written.
const NEW: &str = "record.new";

/// Writes the copy, if the pod's directory is there: it is made with the pod's first holdings, and
/// goes with its last. A copy that cannot be written costs nothing as long as the database lives.
pub(crate) fn write(mirror: &Path, id: &str, record: &[u8]) {
    let directory = mirror.join(id);
    let new = directory.join(NEW);
    // It holds the environment of containers: nobody else may read it.
    let open =
        std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&new);
    let Ok(mut file) = open else { return };
    if compressed(record).and_then(|copy| file.write_all(&copy)).is_ok() {
        let _ = std::fs::rename(&new, directory.join(NAME));
    }
}

fn compressed(record: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(record)?;
    encoder.finish()
}

/// Removes the copy, and the pod's directory if nothing else is left in it. This comes before the
/// row goes: a daemon that dies in between finds the row, and does both again.
pub(crate) fn remove(mirror: &Path, id: &str) {
    let directory = mirror.join(id);
    let _ = std::fs::remove_file(directory.join(NEW));
    let _ = std::fs::remove_file(directory.join(NAME));
    let _ = std::fs::remove_dir(&directory);
}

/// Fills a new database from the copies. What is no record is left where it is.
pub(crate) fn read(
    mirror: &Path,
    connection: &Connection,
) -> Result<Vec<PodRecord>, rusqlite::Error> {
    let mut pods = Vec::new();
    for entry in std::fs::read_dir(mirror).into_iter().flatten().flatten() {
        let Ok(file) = std::fs::File::open(entry.path().join(NAME)) else { continue };
        let mut text = Vec::new();
        let Ok(_) = GzDecoder::new(file).read_to_end(&mut text) else { continue };
        let Ok(record) = serde_json::from_slice::<PodRecord>(&text) else { continue };
        connection.execute(
            "INSERT OR REPLACE INTO pods (id, record) VALUES (?1, ?2)",
            (record.id.as_str(), &text),
        )?;
        pods.push(record);
    }
    Ok(pods)
}
