//! An image: its layers, its config, and the manifest or index that names them.

use serde_json::{Value, json};

use super::{Blob, Packed};

/// Which manifest dialect an image is published in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestKind {
    /// An OCI image manifest.
    Oci,
    /// Docker's schema 2.
    Docker,
    /// An OCI index whose other entries are for platforms that no test machine has.
    Index,
}

/// An image ready to be pushed or archived.
#[derive(Clone, Debug)]
pub struct Image {
    layers: Vec<Packed>,
    config: Value,
    kind: ManifestKind,
}

impl Image {
    /// An image of these layers, bottom first, with an empty config.
    #[must_use]
    pub fn new(layers: Vec<Packed>) -> Self {
        Self { layers, config: json!({}), kind: ManifestKind::Oci }
    }

    /// Sets one key of the image config (`User`, `Env`, `Cmd`, ...).
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// The command that a container runs if it names none.
    #[must_use]
    pub fn cmd(self, args: &[&str]) -> Self {
        self.with("Cmd", json!(args))
    }

    /// The user that a container runs as if it names none.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        self.with("User", json!(user))
    }

    /// Published in this dialect.
    #[must_use]
    pub fn published_as(mut self, kind: ManifestKind) -> Self {
        self.kind = kind;
        self
    }

    /// The image config as a blob; its digest is the image's id.
    #[must_use]
    pub fn config(&self) -> Blob {
        let diff_ids: Vec<_> = self.layers.iter().map(|layer| &layer.diff_id).collect();
        let config = json!({
            "created": "2023-11-14T22:13:20Z",
            "architecture": architecture(),
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": self.layers.iter().map(|_| json!({"created_by": "testkit"}))
                .collect::<Vec<_>>(),
        });
        let media_type = match self.kind {
            ManifestKind::Docker => "application/vnd.docker.container.image.v1+json",
            ManifestKind::Oci | ManifestKind::Index => "application/vnd.oci.image.config.v1+json",
        };
        Blob::new(media_type, config.to_string().into_bytes())
    }

    /// The image's id: the digest of its config.
    #[must_use]
    pub fn id(&self) -> String {
        self.config().digest
    }

    /// The sum of the compressed layers, which CRI reports as the image's size.
    #[must_use]
    pub fn compressed_size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.blob.bytes.len() as u64).sum()
    }

    /// The layers, bottom first.
    #[must_use]
    pub fn layers(&self) -> &[Packed] {
        &self.layers
    }

    /// The manifest that names config and layers.
    #[must_use]
    pub fn manifest(&self) -> Blob {
        let docker = self.kind == ManifestKind::Docker;
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| {
                let mut descriptor = layer.blob.descriptor();
                if docker {
                    descriptor["mediaType"] =
                        json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
                }
                descriptor
            })
            .collect();
        let media_type = if docker {
            "application/vnd.docker.distribution.manifest.v2+json"
        } else {
            "application/vnd.oci.image.manifest.v1+json"
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type,
            "config": self.config().descriptor(), "layers": layers,
        });
        Blob::new(media_type, manifest.to_string().into_bytes())
    }

    /// What a tag points to: the manifest, or the index above it. The other blobs that must be
    /// stored first come with it.
    #[must_use]
    pub fn top(&self) -> (Blob, Vec<Blob>) {
        let manifest = self.manifest();
        if self.kind != ManifestKind::Index {
            return (manifest, Vec::new());
        }
        // docker-registry wants every manifest of an index to exist: the stranger's is an
        // empty image for another architecture.
        let stranger = Image::new(Vec::new()).with("Labels", json!({"for": "nobody"}));
        let other = stranger.manifest();
        let describe = |blob: &Blob, architecture: &str| {
            let mut descriptor = blob.descriptor();
            descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
            descriptor
        };
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({
            "schemaVersion": 2, "mediaType": media_type,
            "manifests": [describe(&other, "s390x"), describe(&manifest, architecture())],
        });
        let below = vec![stranger.config(), other, manifest];
        (Blob::new(media_type, index.to_string().into_bytes()), below)
    }
}

/// This machine's architecture in Go's words, which OCI uses.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
