//! Images as files: an OCI layout tar and a docker archive, as `berth image import` reads them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::read::GzDecoder;
use serde_json::json;

use super::{Image, Layer};

/// Writes an OCI image layout as a tar; `reference` becomes `org.opencontainers.image.ref.name`.
///
/// # Errors
/// If the file cannot be written.
pub fn oci_layout(image: &Image, reference: &str, to: &Path) -> Result<()> {
    let (top, below) = image.top();
    let mut descriptor = top.descriptor();
    descriptor["annotations"] = json!({
        "org.opencontainers.image.ref.name": reference,
        "io.containerd.image.name": reference,
    });
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor],
    });
    let mut layer = Layer::new()
        .file("oci-layout", 0o644, r#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", 0o644, index.to_string())
        .dir("blobs", 0o755)
        .dir("blobs/sha256", 0o755);
    let layers = image.layers().iter().map(|packed| packed.blob.clone());
    for blob in below.into_iter().chain([top, image.config()]).chain(layers) {
        layer = layer.file(&blob_path(&blob.digest), 0o644, &blob.bytes);
    }
    write(layer, to)
}

/// Writes a docker archive (`docker save`), whose layers are plain tars; those of the image must
/// be plain or gzip.
///
/// # Errors
/// If the file cannot be written.
pub fn docker_archive(image: &Image, tags: &[&str], to: &Path) -> Result<()> {
    let config = image.config();
    let config_name = format!("{}.json", config.digest.trim_start_matches("sha256:"));
    let mut layer = Layer::new().file(&config_name, 0o644, &config.bytes);
    let mut names = Vec::new();
    for packed in image.layers() {
        let name = format!("{}.tar", packed.diff_id.trim_start_matches("sha256:"));
        let bytes = &packed.blob.bytes;
        layer = if packed.blob.media_type.ends_with("+gzip") {
            let mut tar = Vec::new();
            GzDecoder::new(&bytes[..]).read_to_end(&mut tar).context("unpack a layer")?;
            layer.file(&name, 0o644, tar)
        } else {
            layer.file(&name, 0o644, bytes)
        };
        names.push(name);
    }
    let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]);
    write(layer.file("manifest.json", 0o644, manifest.to_string()), to)
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn write(layer: Layer, to: &Path) -> Result<()> {
    let packed = layer.pack(super::Compression::Plain);
    File::create(to)
        .and_then(|mut file| file.write_all(&packed.blob.bytes))
        .with_context(|| format!("write {}", to.display()))
}
