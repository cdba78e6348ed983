//! Images made on the spot: layers entry by entry, layouts and docker archives around them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use berth_image::{Digest, Options, Store};

/// A layer's archive under construction.
pub(crate) struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        header
    }

    /// Adds an entry whose name is taken as it is, however wicked.
    pub(crate) fn raw(mut self, mut header: tar::Header, name: &str, content: &[u8]) -> Self {
        let old = header.as_old_mut();
        old.name = [0; 100];
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn link_to(mut header: tar::Header, target: &str) -> tar::Header {
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.file_like(name, content.as_bytes(), 0o644, (0, 0))
    }

    pub(crate) fn file_like(
        self,
        name: &str,
        content: &[u8],
        mode: u32,
        (uid, gid): (u64, u64),
    ) -> Self {
        let mut header = Self::header(tar::EntryType::Regular, mode);
        header.set_uid(uid);
        header.set_gid(gid);
        self.raw(header, name, content)
    }

    pub(crate) fn dir(self, name: &str, mode: u32, (uid, gid): (u64, u64)) -> Self {
        let mut header = Self::header(tar::EntryType::Directory, mode);
        header.set_uid(uid);
        header.set_gid(gid);
        self.raw(header, name, b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(Self::link_to(Self::header(tar::EntryType::Symlink, 0o777), target), name, b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(Self::link_to(Self::header(tar::EntryType::Link, 0o644), target), name, b"")
    }

    pub(crate) fn node(self, name: &str, kind: tar::EntryType, device: (u32, u32)) -> Self {
        let mut header = Self::header(kind, 0o620);
        header.set_device_major(device.0).unwrap();
        header.set_device_minor(device.1).unwrap();
        self.raw(header, name, b"")
    }

    /// Adds pax records for the next entry.
    pub(crate) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image: its config and its layers as they are transferred.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Vec<u8>>,
}

impl Image {
    /// An image of gzip layers, with this `config` object in its config.
    pub(crate) fn new(process: &str, archives: Vec<Vec<u8>>) -> Self {
        let diff_ids: Vec<Digest> = archives.iter().map(|a| Digest::of(a)).collect();
        Self::with_diff_ids(process, archives, &diff_ids)
    }

    pub(crate) fn with_diff_ids(
        process: &str,
        archives: Vec<Vec<u8>>,
        diff_ids: &[Digest],
    ) -> Self {
        let diff_ids = serde_json::to_string(diff_ids).unwrap();
        let config = format!(
            r#"{{"os":"linux","architecture":"amd64","config":{process},
               "rootfs":{{"type":"layers","diff_ids":{diff_ids}}}}}"#
        );
        let layers = archives.iter().map(|archive| gzip(archive)).collect();
        Self { config: config.into_bytes(), layers }
    }

    pub(crate) fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    pub(crate) fn manifest(&self) -> Vec<u8> {
        let descriptor = |kind: &str, bytes: &[u8]| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{}","size":{}}}"#,
                Digest::of(bytes),
                bytes.len()
            )
        };
        let layers: Vec<String> =
            self.layers.iter().map(|l| descriptor("layer.v1.tar+gzip", l)).collect();
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
               "config":{},"layers":[{}]}}"#,
            descriptor("config.v1+json", &self.config),
            layers.join(",")
        )
        .into_bytes()
    }

    /// Every blob by its digest.
    pub(crate) fn blobs(&self) -> BTreeMap<Digest, Vec<u8>> {
        let all = self.layers.iter().chain([&self.config]);
        all.map(|bytes| (Digest::of(bytes), bytes.clone())).collect()
    }

    /// Writes an OCI layout into a directory.
    pub(crate) fn layout(&self, at: &Path, name: Option<&str>) -> PathBuf {
        let blobs = at.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let manifest = self.manifest();
        for (digest, bytes) in self.blobs() {
            std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        }
        std::fs::write(blobs.join(Digest::of(&manifest).hex()), &manifest).unwrap();
        std::fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let annotations = match name {
            Some(name) => format!(r#","annotations":{{"io.containerd.image.name":"{name}"}}"#),
            None => String::new(),
        };
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":{},
               "mediaType":"application/vnd.oci.image.manifest.v1+json"{annotations}}}]}}"#,
            Digest::of(&manifest),
            manifest.len()
        );
        std::fs::write(at.join("index.json"), index).unwrap();
        at.to_path_buf()
    }

    /// What `docker save` would write.
    pub(crate) fn docker_archive(&self, tags: &[&str]) -> Vec<u8> {
        let config = format!("{}.json", self.id().hex());
        let names: Vec<String> = (0..self.layers.len()).map(|i| format!("{i}/layer.tar")).collect();
        let manifest = serde_json::json!([{"Config": config, "RepoTags": tags, "Layers": names}]);
        let mut layer = Layer::new().file(&config, std::str::from_utf8(&self.config).unwrap());
        for (name, bytes) in names.iter().zip(&self.layers) {
            layer = layer.file_like(name, bytes, 0o644, (0, 0));
        }
        layer.file("manifest.json", &manifest.to_string()).finish()
    }
}

/// A store in a temporary directory.
pub(crate) struct Node {
    pub(crate) temp: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Node {
    pub(crate) async fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let store = Self::open(temp.path()).await;
        Self { temp, store }
    }

    async fn open(at: &Path) -> Store {
        let mut options = Options::new(at.join("images"));
        options.platform.architecture = "amd64".to_owned();
        options.platform.variant = None;
        Store::open(options).await.unwrap()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.temp.path().join("images")
    }

    /// Opens the store again, as after the death of the daemon.
    pub(crate) async fn reopen(self) -> Self {
        self.reopen_after(|_| {}).await
    }

    /// The same, after something happened to the directory.
    pub(crate) async fn reopen_after(self, meanwhile: impl FnOnce(&Path)) -> Self {
        drop(self.store);
        meanwhile(&self.temp.path().join("images"));
        let store = Self::open(self.temp.path()).await;
        Self { temp: self.temp, store }
    }

    /// Imports an image under a name.
    pub(crate) async fn import(&self, image: &Image, name: &str) -> berth_image::Result<Digest> {
        let layout = tempfile::tempdir().unwrap();
        image.layout(layout.path(), None);
        let imported = self.store.import(layout.path(), &[name.to_owned()]).await?;
        Ok(imported[0].id.clone())
    }

    /// The layers' directories, sorted.
    pub(crate) fn layers(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> =
            std::fs::read_dir(self.root().join("l")).unwrap().map(|e| e.unwrap().path()).collect();
        found.sort();
        found
    }

    /// Nothing is left under way or to be deleted.
    pub(crate) async fn assert_clean(&self) {
        assert!(self.store.settled(std::time::Duration::from_secs(20)).await);
        for place in ["staging", "trash"] {
            let left: Vec<_> = std::fs::read_dir(self.root().join(place)).unwrap().collect();
            assert!(left.is_empty(), "{place}: {left:?}");
        }
    }
}
