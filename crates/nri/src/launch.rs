//! Pre-installed plugins: their programs, started with a socket that is connected already.

use std::io::ErrorKind;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_job::Job;
use berth_sys::spawn::Spawn;
use tokio::net::UnixStream;

use crate::plugin::{Incoming, Program, check_name};
use crate::{Error, Settings};

/// The number under which a program finds its socket.
const SOCKET: i32 = 3;

/// A plugin runs as long as the daemon does.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The largest configuration that is read: more does not fit into a message.
const LARGEST_CONFIG: u64 = 1 << 20;

/// A program that is to be started.
#[derive(Debug)]
pub(crate) struct Installed {
    path: PathBuf,
    index: String,
    name: String,
}

/// The programs in the plugins' directory. Files that nobody may execute, and directories, are none;
/// a program without an index in its name is told and passed over.
pub(crate) fn find(directory: &Path) -> Vec<Installed> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(why) => {
            if why.kind() != ErrorKind::NotFound {
                let directory = directory.display();
                tracing::error!(%directory, error = %why, "cannot look for NRI plugins");
            }
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let executable = |path: &Path| {
            let file = std::fs::metadata(path).ok()?;
            Some(file.is_file() && file.permissions().mode() & 0o111 != 0)
        };
        if executable(&path) != Some(true) {
            continue;
        }
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let named = file.split_once('-').map(|(index, name)| (index.to_owned(), name.to_owned()));
        match named.filter(|(index, name)| check_name(index, name).is_ok()) {
            Some((index, name)) => found.push(Installed { path, index, name }),
            None => {
                let advice = "call it NN-name, with two digits";
                tracing::error!(path = %path.display(), advice, "an NRI plugin's name has no index");
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

impl Installed {
    /// Its index and name.
    pub(crate) fn full_name(&self) -> String {
        format!("{}-{}", self.index, self.name)
    }

    /// Starts it.
    ///
    /// # Errors
    /// Its configuration cannot be read, or its program cannot be run.
    pub(crate) fn start(self, settings: &Settings) -> Result<Incoming, Error> {
        let failed = |why: String| Error::Launch { path: self.path.clone(), why };
        let config = self.config(&settings.configs).map_err(&failed)?;
        let no_socket = |why: std::io::Error| failed(format!("it gets no socket: {why}"));
        let (ours, its) = std::os::unix::net::UnixStream::pair().map_err(no_socket)?;
        ours.set_nonblocking(true).map_err(no_socket)?;
        let socket = UnixStream::from_std(ours).map_err(no_socket)?;
        // What it says goes where our own log goes.
        let said: OwnedFd = std::io::stderr().as_fd().try_clone_to_owned().map_err(no_socket)?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let spawn = Spawn::new(&self.path)
            .env("PATH", path)
            .env("NRI_PLUGIN_NAME", &self.name)
            .env("NRI_PLUGIN_IDX", &self.index)
            .env("NRI_PLUGIN_SOCKET", SOCKET.to_string())
            .cwd("/")
            .inherit(OwnedFd::from(its), SOCKET)
            .cgroups(&settings.cgroups);
        let also = said.try_clone().map_err(no_socket)?;
        let job = Job::new(spawn, FOREVER).stdout_to(said).stderr_to(also);
        let plugin = self.full_name();
        let watch = tokio::spawn(async move {
            match job.run().await {
                Ok(ended) => {
                    tracing::warn!(plugin, exit = %ended.exit, "an NRI plugin's program has ended");
                }
                Err(why) => {
                    tracing::error!(plugin, error = %why, "an NRI plugin's program cannot be run");
                }
            }
        });
        let named = Some((self.index.clone(), self.name.clone()));
        Ok(Incoming { socket, named, config, program: Some(Program(watch)) })
    }

    /// Its own configuration, or that of all plugins of its name.
    fn config(&self, directory: &Path) -> Result<String, String> {
        for name in [self.full_name(), self.name.clone()] {
            let path = directory.join(format!("{name}.conf"));
            let wrong = |why: String| format!("its configuration {}: {why}", path.display());
            match std::fs::metadata(&path) {
                Err(why) if why.kind() == ErrorKind::NotFound => continue,
                Err(why) => return Err(wrong(why.to_string())),
                Ok(file) if file.len() > LARGEST_CONFIG => {
                    return Err(wrong(format!("it is larger than {LARGEST_CONFIG} bytes")));
                }
                Ok(_) => {}
            }
            return std::fs::read_to_string(&path).map_err(|why| wrong(why.to_string()));
        }
        Ok(String::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_with_an_index_are_found_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, mode| {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        for (name, mode) in
            [("20-b", 0o755), ("10-a-c", 0o755), ("noindex", 0o755), ("30-x", 0o644)]
        {
            make(name, mode);
        }
        std::fs::create_dir(dir.path().join("40-directory")).unwrap();
        let names: Vec<_> = find(dir.path()).iter().map(Installed::full_name).collect();
        assert_eq!(names, ["10-a-c", "20-b"]);
        assert!(find(&dir.path().join("nothing")).is_empty());
    }

    #[test]
    fn a_configuration_is_its_own_or_that_of_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let one = Installed { path: "/x".into(), index: "10".into(), name: "a".into() };
        assert_eq!(one.config(dir.path()).unwrap(), "");
        std::fs::write(dir.path().join("a.conf"), "all").unwrap();
        assert_eq!(one.config(dir.path()).unwrap(), "all");
        std::fs::write(dir.path().join("10-a.conf"), "own").unwrap();
        assert_eq!(one.config(dir.path()).unwrap(), "own");
        std::fs::write(dir.path().join("10-a.conf"), [0xff]).unwrap();
        assert!(one.config(dir.path()).unwrap_err().contains("10-a.conf"));
    }
}
