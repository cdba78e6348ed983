//! Where the programs are that Berth runs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// What systemd and a bare environment leave out.
const FALLBACK_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where programs are looked for: beside our own executable, and then on PATH.
pub(crate) fn directories() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned));
    let path = std::env::var("PATH").unwrap_or_else(|_| FALLBACK_PATH.to_owned());
    beside.into_iter().chain(std::env::split_paths(&path)).collect()
}

/// Finds a program: an absolute path as it is, a name in [`directories`].
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    search(name, directories().into_iter())
}

/// The first executable of this name, or at this absolute path.
pub(crate) fn search(name: &str, directories: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    if name.starts_with('/') {
        let path = PathBuf::from(name);
        return executable(&path).then_some(path);
    }
    directories.map(|directory| directory.join(name)).find(|path| executable(path))
}

/// May it be executed?
pub(crate) fn executable(path: &Path) -> bool {
    let metadata = std::fs::metadata(path);
    metadata.is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_executable_of_that_name_is_found() {
        let temp = tempfile::tempdir().unwrap();
        let (one, two) = (temp.path().join("one"), temp.path().join("two"));
        for directory in [&one, &two] {
            std::fs::create_dir(directory).unwrap();
            std::fs::write(directory.join("tool"), "").unwrap();
        }
        let find = |name: &str| search(name, [one.clone(), two.clone()].into_iter());
        assert_eq!(find("tool"), None, "a file that nobody may execute is no program");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(two.join("tool"), mode.clone()).unwrap();
        assert_eq!(find("tool"), Some(two.join("tool")));
        std::fs::set_permissions(one.join("tool"), mode).unwrap();
        assert_eq!(find("tool"), Some(one.join("tool")));
        assert_eq!(find(two.join("tool").to_str().unwrap()), Some(two.join("tool")));
        assert_eq!(find("/no/such/tool"), None);
    }
}
