//! The one error of this crate: what was attempted, on what, and why it did not work.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::digest::Digest;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error means to a caller that has to decide what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request, a reference, an image or a configuration file is wrong.
    Invalid,
    /// No such image, tag, layer or snapshot, here or in the registry.
    NotFound,
    /// The registry wants other credentials, or refuses these.
    Unauthorized,
    /// It is in use now.
    Busy,
    /// The other side made no progress within the time allowed.
    TimedOut,
    /// The caller gave up.
    Cancelled,
    /// No registry answered: the message begins with `RegistryUnavailable`, as the kubelet expects.
    /// Or our own disk takes no writes.
    Unavailable,
    /// A media type or a feature that this version does not have.
    Unimplemented,
    /// No space, descriptors or memory.
    Exhausted,
    /// Anything else.
    Broken,
}

/// Why an image operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Text that is not an image reference.
    #[error("{:?} is not an image reference: {reason}", short(text))]
    Reference {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Text that is not a digest.
    #[error("{:?} is not a digest: {reason}", short(text))]
    NotADigest {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An image that is not in the store.
    #[error("image {reference} is not present: pull or import it first")]
    NoImage {
        /// What was asked for.
        reference: String,
    },
    /// An image whose layers are not all there.
    #[error("image {image} lacks {missing} of its layers: pull it again to repair it")]
    Incomplete {
        /// The image.
        image: Digest,
        /// How many layers are missing.
        missing: usize,
    },
    /// A snapshot key or holder name that cannot be a file name.
    #[error(
        "{:?} cannot name a {what}: use letters, digits, '_', '.', '-', at most 128",
        short(name)
    )]
    Name {
        /// What it was to name.
        what: &'static str,
        /// What was given.
        name: String,
    },
    /// A file or directory of the store, or one that was given, could not be used.
    #[error("cannot {attempted} {}: {source}", path.display())]
    File {
        /// What was attempted, as a verb ("open").
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store's database refused.
    #[error("image database: cannot {attempted}: {source}")]
    Database {
        /// What was attempted.
        attempted: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A manifest, an index, a config, a layer or an archive that does not read.
    #[error("{what}: {reason}")]
    Malformed {
        /// What it is, with its name.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Content that is not what its digest says.
    #[error("{what} has digest {found}, not {expected}: the content was damaged or replaced")]
    Mismatch {
        /// What it is, with where it came from.
        what: String,
        /// The digest it should have.
        expected: Digest,
        /// The digest it has.
        found: Digest,
    },
    /// One entry of a layer could not be put in place.
    #[error("layer entry {:?}: cannot {attempted}: {source}", short(entry))]
    Entry {
        /// The name in the archive.
        entry: String,
        /// What was attempted.
        attempted: &'static str,
        /// What the system, or the archive reader, said.
        source: io::Error,
    },
    /// A layer failed; several pulls may wait for the same one.
    #[error("{source} (layer {layer})")]
    Layer {
        /// The diff id of the layer.
        layer: Digest,
        /// Why.
        source: Arc<Error>,
    },
    /// A layer of a registry that is not what it should be, or does not unpack.
    #[error(
        "{reference}: layer {blob} from {host}: {source}: pull again; if it stays so, push the image \
         again or leave that host out"
    )]
    Transferred {
        /// Which image.
        reference: String,
        /// The digest of the layer as it is transferred.
        blob: Digest,
        /// Who sent it.
        host: String,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// The disk of the store is full.
    #[error("{source}: free space or inodes on the file system of {}, or remove images", place.display())]
    Full {
        /// A directory on the disk.
        place: PathBuf,
        /// What did not fit.
        source: Box<Error>,
    },
    /// An index without a manifest for this machine.
    #[error("{reference} has no image for {wanted}, only for {found}")]
    NoPlatform {
        /// Which index.
        reference: String,
        /// The platform of this machine.
        wanted: String,
        /// Those that it has.
        found: String,
    },
    /// The registry answered that there is no such thing.
    #[error("{reference}: not found at {tried}: check the name and the tag")]
    NotInRegistry {
        /// What was asked for.
        reference: String,
        /// Where.
        tried: String,
    },
    /// The registry wants other credentials.
    #[error(
        "{reference}: {registry} refused access ({reason}): check the name and the credentials"
    )]
    Denied {
        /// What was asked for.
        reference: String,
        /// The host that refused.
        registry: String,
        /// What it said.
        reason: String,
    },
    /// No registry gave an answer that can be used.
    #[error("RegistryUnavailable: {reference}: {reason}")]
    Unavailable {
        /// What was asked for.
        reference: String,
        /// Which hosts were tried and what each did.
        reason: String,
    },
    /// The other side made no progress.
    #[error("{what}: no progress within {} s", limit.as_secs())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// The caller gave up.
    #[error("{what} was cancelled")]
    Cancelled {
        /// What was going on.
        what: String,
    },
    /// A configuration file that does not say what it must.
    #[error("{}: {reason}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A format or feature that is not there.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// What it is.
        what: String,
        /// What would do instead.
        reason: &'static str,
    },
    /// A user or group that the image does not define.
    #[error("image {image}: no {what} {name:?} in its {file}")]
    NoUser {
        /// The image.
        image: Digest,
        /// "user" or "group".
        what: &'static str,
        /// The name looked for.
        name: String,
        /// The file it was looked for in.
        file: &'static str,
    },
    /// A part of this crate ended without an answer; a bug, but never a hang.
    #[error("{what} ended without an answer")]
    Lost {
        /// Which part.
        what: &'static str,
    },
}

impl Error {
    /// What this error means.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Reference { .. }
            | Self::NotADigest { .. }
            | Self::Name { .. }
            | Self::Malformed { .. }
            | Self::Mismatch { .. }
            | Self::Configuration { .. }
            | Self::NoUser { .. } => Kind::Invalid,
            Self::NoImage { .. } | Self::Incomplete { .. } => Kind::NotFound,
            Self::NoPlatform { .. } | Self::NotInRegistry { .. } => Kind::NotFound,
            Self::Denied { .. } => Kind::Unauthorized,
            Self::Unavailable { .. } => Kind::Unavailable,
            Self::TimedOut { .. } => Kind::TimedOut,
            Self::Cancelled { .. } => Kind::Cancelled,
            Self::Unsupported { .. } => Kind::Unimplemented,
            Self::File { source, .. } | Self::Entry { source, .. } => io_kind(source),
            Self::Database { source, .. } => database_kind(source),
            Self::Layer { source, .. } => source.kind(),
            Self::Transferred { source, .. } => source.kind(),
            Self::Full { .. } => Kind::Exhausted,
            Self::Lost { .. } => Kind::Broken,
        }
    }

    /// Makes the error of a failed call on a path.
    pub(crate) fn file(
        attempted: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::File { attempted, path: path.as_ref().to_path_buf(), source: source.into() }
    }

    /// Makes the error of content that does not read. The reason may quote a stranger at length.
    pub(crate) fn malformed(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Malformed { what: what.into(), reason: short(&reason.to_string()) }
    }

    /// Adds what to do if this is for want of space below `place`.
    pub(crate) fn on_disk(self, place: &Path) -> Self {
        match self.is_full() {
            true => Self::Full { place: place.to_path_buf(), source: Box::new(self) },
            false => self,
        }
    }

    fn is_full(&self) -> bool {
        match self {
            Self::File { source, .. } | Self::Entry { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Database { .. } => self.kind() == Kind::Exhausted,
            Self::Layer { source, .. } => source.is_full(),
            Self::Transferred { source, .. } => source.is_full(),
            _ => false,
        }
    }
}

/// The beginning of a text that a stranger chose: an error travels in a header of bounded length.
pub(crate) fn short(text: &str) -> String {
    const MOST: usize = 300;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn io_kind(source: &io::Error) -> Kind {
    match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem => Kind::Unavailable,
        io::ErrorKind::StorageFull
        | io::ErrorKind::QuotaExceeded
        | io::ErrorKind::OutOfMemory
        | io::ErrorKind::FileTooLarge => Kind::Exhausted,
        io::ErrorKind::NotFound => Kind::NotFound,
        io::ErrorKind::ResourceBusy => Kind::Busy,
        io::ErrorKind::TimedOut => Kind::TimedOut,
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => Kind::Invalid,
        io::ErrorKind::UnexpectedEof => Kind::Invalid,
        _ => match source.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => Kind::Exhausted,
            // What a layer asks of the file system, and no file system has.
            Some(
                rustix::io::Errno::NAMETOOLONG
                | rustix::io::Errno::LOOP
                | rustix::io::Errno::MLINK
                | rustix::io::Errno::RANGE
                | rustix::io::Errno::TOOBIG
                | rustix::io::Errno::NOTDIR,
            ) => Kind::Invalid,
            // Not the system's: a reader of archives or of compressed data found a mistake.
            None => Kind::Invalid,
            _ => Kind::Broken,
        },
    }
}

fn database_kind(source: &rusqlite::Error) -> Kind {
    match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => Kind::Exhausted,
        Some(rusqlite::ErrorCode::ReadOnly) => Kind::Unavailable,
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => Kind::Busy,
        _ => Kind::Broken,
    }
}
