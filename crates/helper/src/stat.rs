//! Looking at paths that a pod or a volume supplies.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use berth_sys::mountinfo::{Propagation, Table};
use serde::{Deserialize, Serialize};

use crate::error::Result;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    paths: Vec<Wish>,
}

/// One path and what it should be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    path: PathBuf,
    #[serde(default)]
    want: Want,
    /// How the mount it lies on must pass mounts on.
    #[serde(default)]
    propagation: Passing,
    /// Makes a directory (0755, with those above) where nothing is.
    #[serde(default)]
    create: bool,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Want {
    #[default]
    Any,
    Dir,
    Device,
}

#[derive(Deserialize, Serialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Passing {
    #[default]
    Private,
    Slave,
    Shared,
}

#[derive(Serialize)]
pub(crate) struct Answer {
    paths: Vec<Seen>,
}

/// What is there, symbolic links followed.
#[derive(Serialize, Default)]
struct Seen {
    path: PathBuf,
    exists: bool,
    /// dir, file, char, block, fifo or socket.
    kind: Option<&'static str>,
    resolved: Option<PathBuf>,
    /// Of a device node.
    major: Option<u32>,
    minor: Option<u32>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    /// How the mount it lies on passes mounts on.
    propagation: Option<Passing>,
    /// Why it is not what was wanted; absent if it is.
    problem: Option<String>,
}

pub(crate) fn stat(request: Request) -> Result<Answer> {
    let table = Table::own()?;
    Ok(Answer { paths: request.paths.iter().map(|wish| look(wish, &table)).collect() })
}

fn look(wish: &Wish, table: &Table) -> Seen {
    let mut seen = Seen { path: wish.path.clone(), ..Seen::default() };
    if let Err(error) = find(wish, table, &mut seen)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        seen.problem = Some(format!("cannot look at {}: {error}", wish.path.display()));
        return seen;
    }
    seen.problem = problem(wish, &seen);
    seen
}

fn find(wish: &Wish, table: &Table, seen: &mut Seen) -> std::io::Result<()> {
    let resolved = match wish.path.canonicalize() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && wish.create => {
            std::fs::create_dir_all(&wish.path)?;
            wish.path.canonicalize()?
        }
        other => other?,
    };
    let data = std::fs::metadata(&resolved)?;
    let kind = data.file_type();
    seen.exists = true;
    seen.kind = Some(match kind {
        _ if kind.is_dir() => "dir",
        _ if kind.is_char_device() => "char",
        _ if kind.is_block_device() => "block",
        _ if kind.is_fifo() => "fifo",
        _ if kind.is_socket() => "socket",
        _ => "file",
    });
    if kind.is_char_device() || kind.is_block_device() {
        seen.major = Some(rustix::fs::major(data.rdev()));
        seen.minor = Some(rustix::fs::minor(data.rdev()));
    }
    seen.mode = Some(data.mode() & 0o7777);
    (seen.uid, seen.gid) = (Some(data.uid()), Some(data.gid()));
    seen.propagation = passing(table, &resolved);
    seen.resolved = Some(resolved);
    Ok(())
}

fn passing(table: &Table, resolved: &Path) -> Option<Passing> {
    Some(match table.containing(resolved)?.propagation() {
        Propagation::Shared => Passing::Shared,
        Propagation::Slave => Passing::Slave,
        Propagation::Private | Propagation::Unbindable => Passing::Private,
    })
}

fn problem(wish: &Wish, seen: &Seen) -> Option<String> {
    let path = wish.path.display();
    let Some(kind) = seen.kind else { return Some(format!("{path} does not exist")) };
    let fits = match wish.want {
        Want::Any => true,
        Want::Dir => kind == "dir",
        Want::Device => kind == "char" || kind == "block",
    };
    if !fits {
        let want = if wish.want == Want::Dir { "directory" } else { "device" };
        return Some(format!("{path} is a {kind}, not a {want}"));
    }
    let passes = match wish.propagation {
        Passing::Private => true,
        Passing::Slave => matches!(seen.propagation, Some(Passing::Slave | Passing::Shared)),
        Passing::Shared => seen.propagation == Some(Passing::Shared),
    };
    if passes {
        return None;
    }
    let wanted = match wish.propagation {
        Passing::Shared => "shared",
        Passing::Slave | Passing::Private => "shared or slave",
    };
    Some(format!("{path} lies on a mount that is not {wanted}; see mount --make-shared"))
}
