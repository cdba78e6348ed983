//! What an OCI runtime is told to write a checkpoint, or to make a container of one. CRIU does the
//! work, and the runtime finds it on its PATH.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::tail_of;
use crate::error::{Error, Result};
use crate::reaper::Watched;
use crate::runtime::{Call, Io, Runtime, Streams};

/// The longest that a checkpoint may take: it has the container's whole memory.
pub const LONGEST: Duration = Duration::from_secs(300);

/// How to write a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The directory that the images are written to.
    pub path: PathBuf,
    /// Where CRIU leaves its log and figures; none: the runtime's own place.
    pub work: Option<PathBuf>,
    /// Whether the container goes on.
    pub leave_running: bool,
    /// Established TCP connections are written, too.
    pub open_tcp: bool,
    /// Unix sockets whose other ends are outside may be there.
    pub external_unix_sockets: bool,
    /// Locks on files are written, too.
    pub file_locks: bool,
    /// Of which kinds of namespaces nothing is written.
    pub empty_namespaces: Vec<String>,
    /// How cgroups are dealt with; "" is as the runtime does.
    pub cgroups_mode: String,
    /// How long it may take.
    pub limit: Duration,
}

impl Checkpoint {
    /// One into this directory, after which the container goes on.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            work: None,
            leave_running: true,
            open_tcp: false,
            external_unix_sockets: false,
            file_locks: false,
            empty_namespaces: Vec::new(),
            cgroups_mode: String::new(),
            limit: LONGEST,
        }
    }

    /// The arguments of `checkpoint`.
    pub(crate) fn arguments(&self, id: &str) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = vec!["--image-path".into(), self.path.clone()];
        if let Some(work) = &self.work {
            all.extend(["--work-path".into(), work.clone()]);
        }
        for (wanted, flag) in [
            (self.leave_running, "--leave-running"),
            (self.open_tcp, "--tcp-established"),
            (self.external_unix_sockets, "--ext-unix-sk"),
            (self.file_locks, "--file-locks"),
        ] {
            if wanted {
                all.push(flag.into());
            }
        }
        for kind in &self.empty_namespaces {
            all.extend(["--empty-ns".into(), kind.into()]);
        }
        if !self.cgroups_mode.is_empty() {
            all.extend(["--manage-cgroups-mode".into(), (&self.cgroups_mode).into()]);
        }
        all.push(id.into());
        all
    }
}

/// More of CRIU's log than this is of no interest.
const LOG: u64 = 64 * 1024;

impl Runtime {
    /// Writes a container's state to a directory.
    pub(crate) async fn checkpoint(
        &self,
        id: &str,
        bundle: &Path,
        wanted: &Checkpoint,
    ) -> Result<()> {
        let call = Call { verb: "checkpoint", id, bundle, limit: wanted.limit };
        let done = self.call(&call, wanted.arguments(id), Io::Own(None)).await;
        done.map_err(|why| match &wanted.work {
            Some(work) => explained(why, &work.join("dump.log")),
            None => why,
        })
    }

    /// Makes a container of the images in a directory: its init, which runs.
    pub(crate) async fn restore(
        &self,
        (id, bundle): (&str, &Path),
        images: &Path,
        console: Option<&Path>,
        streams: Streams,
    ) -> Result<Watched> {
        let call = Call { verb: "restore", id, bundle, limit: LONGEST };
        let work = bundle.join("criu");
        std::fs::create_dir_all(&work).map_err(|e| Error::file("make", &work, e))?;
        let mut args: Vec<PathBuf> = vec!["--detach".into()];
        args.extend(["--image-path".into(), images.to_owned()]);
        args.extend(["--work-path".into(), work.clone()]);
        // Where it was not written with locks, this changes nothing.
        args.push("--file-locks".into());
        let made = self.make(&call, args, console, streams).await;
        let made = made.map_err(|why| explained(why, &work.join("restore.log")));
        // What CRIU leaves there is of interest only as long as it has failed.
        let _ = std::fs::remove_dir_all(&work);
        made
    }
}

/// A runtime says that CRIU failed; why it did, the last error of its log says.
fn explained(why: Error, log: &Path) -> Error {
    let Error::Runtime { runtime, verb, id, message } = why else { return why };
    let text = tail_of(log, LOG);
    let text = String::from_utf8_lossy(&text);
    let first = message.lines().next().unwrap_or_default();
    let message = match complaint(&text) {
        Some(said) => format!("{first}: {said}"),
        None => message,
    };
    Error::Runtime { runtime, verb, id, message }
}

/// The first error of a log: what follows is what came of it. A limit that CRIU may not raise for
/// itself is none.
fn complaint(log: &str) -> Option<String> {
    let errors = log.lines().filter_map(|line| line.split_once(" Error ("));
    let mut said = errors.filter_map(|(_, said)| said.split_once("): ")).map(|(_, said)| said);
    said.find(|said| !said.starts_with("rlimit: ")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_found_in_the_log_of_criu() {
        let log = "(00.02) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self\n\
                   (00.26) Error (criu/files-reg.c:1790): Can't lookup mount=48 for fd=2 path=/err\n\
                   (00.27) Error (criu/cr-dump.c:1545): Dump files (pid: 13) failed with -1\n\
                   (00.32) Error (criu/cr-dump.c:1975): Dumping FAILED.\n";
        assert_eq!(complaint(log).unwrap(), "Can't lookup mount=48 for fd=2 path=/err");
        assert_eq!(complaint("(00.1) Error (criu/x.c:1): alone\n").unwrap(), "alone");
        assert_eq!(complaint("(00.1) Warn (criu/x.c:1): no matter\n"), None);
    }

    #[test]
    fn a_runtime_is_told_all_that_was_asked_for_and_the_container_last() {
        let plain = Checkpoint::new("/images".into());
        let said = |checkpoint: &Checkpoint| {
            let words = checkpoint.arguments("c").into_iter();
            words.map(|word| word.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(said(&plain), "--image-path /images --leave-running c");
        let all = Checkpoint {
            work: Some("/work".into()),
            leave_running: false,
            open_tcp: true,
            external_unix_sockets: true,
            file_locks: true,
            empty_namespaces: vec!["network".into()],
            cgroups_mode: "soft".into(),
            ..plain
        };
        assert_eq!(
            said(&all),
            "--image-path /images --work-path /work --tcp-established --ext-unix-sk --file-locks \
             --empty-ns network --manage-cgroups-mode soft c"
        );
    }
}
