//! Reading the node's CDI specifications, in YAML or JSON.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use berth_oci::cdi::{Library, parse};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::read::NONBLOCK;

/// The most that all of them may have, in bytes. One for eight accelerators of the largest kind has less
/// than 100 KiB.
const LARGEST: u64 = 2 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// What a later one has comes before what an earlier one has.
    directories: Vec<PathBuf>,
}

#[derive(Serialize)]
pub(crate) struct Answer {
    library: Library,
}

pub(crate) fn cdi(request: Request) -> Result<Answer> {
    let (mut library, mut room) = (Library::default(), LARGEST);
    for (number, directory) in request.directories.iter().enumerate() {
        for path in specifications(directory)? {
            let read = read(&path, &mut room).map_err(|why| why.to_string());
            let read = read.and_then(|text| parse(&text).map_err(|why| why.to_string()));
            library.add(number, path, read);
        }
    }
    Ok(Answer { library })
}

fn specifications(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::io(format!("list {}", directory.display()), e))?,
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "json" || end == "yaml"));
    paths.sort();
    Ok(paths)
}

fn read(path: &Path, room: &mut u64) -> Result<String> {
    let failed = |source| Error::io(format!("read {}", path.display()), source);
    let mut options = File::options();
    let file = std::os::unix::fs::OpenOptionsExt::custom_flags(options.read(true), NONBLOCK);
    let mut text = String::new();
    let took = file.open(path).map_err(failed)?.take(*room + 1).read_to_string(&mut text);
    let Some(left) = room.checked_sub(took.map_err(failed)? as u64) else {
        let value = path.display().to_string();
        let reason = "with those before it, it has more than 2 MiB";
        return Err(Error::Refused { what: "CDI specification", value, reason });
    };
    *room = left;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIFICATION: &str = "cdiVersion: '1.0.0'\nkind: vendor.com/thing\ndevices: [{name: a, \
                                 containerEdits: {env: [A=1], deviceNodes: [{path: /dev/a, type: c, \
                                 major: 1, minor: 3, fileMode: 384}]}}]\n";

    fn answer(directories: Vec<PathBuf>) -> Result<Library> {
        let text = serde_json::to_string(&cdi(Request { directories })?).unwrap();
        let mut answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        Ok(serde_json::from_value(answer["library"].take()).unwrap())
    }

    #[test]
    fn what_the_files_say_is_handed_on_and_so_is_what_is_wrong_with_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), SPECIFICATION).unwrap();
        std::fs::write(dir.path().join("b.json"), "{}").unwrap();
        std::fs::write(dir.path().join("c.txt"), "no specification").unwrap();
        let library = answer(vec![dir.path().join("absent"), dir.path().to_owned()]).unwrap();
        let edits = library.edits(&["vendor.com/thing=a".to_owned()]).unwrap();
        assert_eq!(edits.nodes().count(), 0, "its numbers are given");
        let mut spec = berth_oci::spec::Spec::default();
        edits.apply(&mut spec, &[]).unwrap();
        let device = &spec.linux.devices[0];
        assert_eq!((device.major, device.minor, device.file_mode), (1, 3, Some(0o600)));
        let absent = library.edits(&["vendor.com/thing=b".to_owned()]).unwrap_err().to_string();
        assert!(absent.contains("b.json") && absent.contains("cdiVersion"), "{absent}");
        assert!(!absent.contains("c.txt"), "{absent}");
    }

    #[test]
    fn more_than_there_may_be_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let much = format!("# {}\n{SPECIFICATION}", "x".repeat(LARGEST as usize));
        std::fs::write(dir.path().join("much.yaml"), much).unwrap();
        let library = answer(vec![dir.path().to_owned()]).unwrap();
        let why = library.edits(&["vendor.com/thing=a".to_owned()]).unwrap_err().to_string();
        assert!(why.contains("much.yaml") && why.contains("2 MiB"), "{why}");
    }
}
