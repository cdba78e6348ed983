//! A copy of each record beside what it describes, for the case that the database is lost.

use std::path::Path;

use berth_pod::record::PodRecord;
use rusqlite::Connection;

/// The copy's name in the pod's directory.
const NAME: &str = "record.json";

/// Writes the copy, if the pod's directory is there: it is made with the pod's first holdings, and
/// goes with its last. A copy that cannot be written costs nothing as long as the database lives.
pub(crate) fn write(mirror: &Path, id: &str, record: &[u8]) {
    let (new, last) = (mirror.join(id).join("record.new"), mirror.join(id).join(NAME));
    if std::fs::write(&new, record).is_ok() {
        let _ = std::fs::rename(&new, &last);
    }
}

/// Removes the copy, and the pod's directory if nothing else is left in it. This comes before the
/// row goes: a daemon that dies in between finds the row, and does both again.
pub(crate) fn remove(mirror: &Path, id: &str) {
    let directory = mirror.join(id);
    let _ = std::fs::remove_file(directory.join("record.new"));
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
        let Ok(text) = std::fs::read(entry.path().join(NAME)) else { continue };
        let Ok(record) = serde_json::from_slice::<PodRecord>(&text) else { continue };
        connection.execute(
            "INSERT OR REPLACE INTO pods (id, record) VALUES (?1, ?2)",
            (record.id.as_str(), &text),
        )?;
        pods.push(record);
    }
    Ok(pods)
}
