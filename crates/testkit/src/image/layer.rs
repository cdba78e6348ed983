//! One layer: a tar stream written entry by entry, so that it can also hold what a sane
//! tool refuses to write (paths that leave the root, whiteouts, devices).

use std::io::Write;

use tar::{EntryType, Header};

use super::Blob;

/// How a layer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A bare tar.
    Plain,
    /// gzip, the ordinary case.
    Gzip,
    /// zstd.
    Zstd,
}

/// A finished layer: the blob, and the digest of its uncompressed tar.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The layer as a registry stores it.
    pub blob: Blob,
    /// The digest of the tar inside.
    pub diff_id: String,
}

/// A layer under construction. Each call appends an entry; [`Layer::owned`] and
/// [`Layer::xattr`] speak of the entry that follows them.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    tar: Vec<u8>,
    owner: Option<(u64, u64)>,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Layer {
    /// An empty layer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next entry belongs to this user and group.
    #[must_use]
    pub fn owned(mut self, uid: u64, gid: u64) -> Self {
        self.owner = Some((uid, gid));
        self
    }

    /// The next entry carries this extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A directory.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, &format!("{path}/"), mode, &[])
    }

    /// A regular file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Regular, path, mode, content.as_ref())
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, 0o777, target.as_bytes())
    }

    /// A hard link to a path of the same layer or of one below.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, 0o644, target.as_bytes())
    }

    /// A fifo.
    #[must_use]
    pub fn fifo(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Fifo, path, mode, &[])
    }

    /// A character device.
    #[must_use]
    pub fn device(mut self, path: &str, major: u32, minor: u32) -> Self {
        let mut header = header(EntryType::Char, path, 0o666, self.owner.take());
        let _ = header.set_device_major(major);
        let _ = header.set_device_minor(minor);
        self.finish(header, &[])
    }

    /// Hides a path of the layers below (`.wh.NAME`).
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let hidden = match path.rsplit_once('/') {
            Some((parent, name)) => format!("{parent}/.wh.{name}"),
            None => format!(".wh.{path}"),
        };
        self.entry(EntryType::Regular, &hidden, 0o644, &[])
    }

    /// Hides everything that the layers below have in this directory.
    #[must_use]
    pub fn opaque(self, dir: &str) -> Self {
        self.entry(EntryType::Regular, &format!("{dir}/.wh..wh..opq"), 0o644, &[])
    }

    /// Any entry, with its name written as it stands. The data of a link is its target.
    #[must_use]
    pub fn entry(mut self, kind: EntryType, path: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = header(kind, path, mode, self.owner.take());
        if !matches!(kind, EntryType::Symlink | EntryType::Link) {
            return self.finish(header, data);
        }
        let target = &mut header.as_old_mut().linkname;
        let length = data.len().min(target.len());
        target[..length].copy_from_slice(&data[..length]);
        self.finish(header, &[])
    }

    /// Closes the tar and compresses it.
    #[must_use]
    pub fn pack(mut self, compression: Compression) -> Packed {
        self.tar.extend_from_slice(&[0; 1024]);
        let diff_id = super::digest(&self.tar);
        let (suffix, bytes) = match compression {
            Compression::Plain => ("", self.tar),
            Compression::Gzip => ("+gzip", gzip(&self.tar)),
            Compression::Zstd => ("+zstd", zstd(&self.tar)),
        };
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        Packed { blob: Blob::new(&media_type, bytes), diff_id }
    }

    fn finish(mut self, mut header: Header, content: &[u8]) -> Self {
        if !self.xattrs.is_empty() {
            let mut records = Vec::new();
            for (name, value) in std::mem::take(&mut self.xattrs) {
                records.extend_from_slice(&pax_record(&format!("SCHILY.xattr.{name}"), &value));
            }
            let mut extended = Header::new_ustar();
            extended.set_entry_type(EntryType::XHeader);
            extended.as_old_mut().name[..9].copy_from_slice(b"PaxHeader");
            self.append(&mut extended, &records);
        }
        self.append(&mut header, content);
        self
    }

    fn append(&mut self, header: &mut Header, content: &[u8]) {
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.tar.extend_from_slice(header.as_bytes());
        self.tar.extend_from_slice(content);
        let padding = content.len().next_multiple_of(512) - content.len();
        self.tar.extend(std::iter::repeat_n(0, padding));
    }
}

fn header(kind: EntryType, path: &str, mode: u32, owner: Option<(u64, u64)>) -> Header {
    let (uid, gid) = owner.unwrap_or((0, 0));
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    // A fixed time: the same files always make the same digest.
    header.set_mtime(1_700_000_000);
    // As GNU tar does; the two setters fail only for a header that is not ustar, and ours is.
    let _ = header.set_device_major(0);
    let _ = header.set_device_minor(0);
    let name = &mut header.as_old_mut().name;
    let length = path.len().min(name.len());
    name[..length].copy_from_slice(&path.as_bytes()[..length]);
    header
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts its own digits too (POSIX pax).
fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

/// Writing to memory cannot fail, so the two compressors have no error to report.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_layer_reads_back_with_its_xattrs_and_whiteouts() {
        let packed = Layer::new()
            .dir("etc", 0o755)
            .owned(7, 8)
            .xattr("user.colour", b"blue\n\0green")
            .file("etc/motd", 0o640, "hello")
            .whiteout("etc/gone")
            .opaque("var")
            .hard_link("etc/motd2", "etc/motd")
            .pack(Compression::Gzip);
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(&packed.blob.bytes[..]).read_to_end(&mut tar).unwrap();
        assert_eq!(super::super::digest(&tar), packed.diff_id);
        let record = b"40 SCHILY.xattr.user.colour=blue\n\0green\n";
        assert!(tar.windows(record.len()).any(|window| window == record));
        let mut archive = tar::Archive::new(&tar[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            if path == "etc/motd" {
                assert_eq!(entry.header().uid().unwrap(), 7);
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                assert_eq!(text, "hello");
            }
            seen.push(path);
        }
        assert_eq!(seen, ["etc/", "etc/motd", "etc/.wh.gone", "var/.wh..wh..opq", "etc/motd2"]);
    }

    #[test]
    fn the_same_files_make_the_same_digest() {
        let make = |compression| Layer::new().file("a", 0o644, "x").pack(compression);
        assert_eq!(make(Compression::Gzip).blob.digest, make(Compression::Gzip).blob.digest);
        assert_eq!(make(Compression::Gzip).diff_id, make(Compression::Zstd).diff_id);
        assert_ne!(make(Compression::Gzip).blob.digest, make(Compression::Zstd).blob.digest);
    }
}
