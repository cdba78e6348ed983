//! Putting an image into a registry: the half of the distribution API that Berth does not need.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use base64::Engine as _;

use crate::http::Request;
use crate::image::samples::Sample;
use crate::image::{Blob, Image};

/// A registry to push to, as seen from the calling thread's network.
#[derive(Clone, Debug)]
pub struct Push {
    /// Its address.
    pub address: SocketAddr,
    /// User and password, if it wants any.
    pub credentials: Option<(String, String)>,
}

impl Push {
    /// Pushes a sample under all its tags.
    ///
    /// # Errors
    /// If the registry refuses a blob or a manifest.
    pub fn sample(&self, sample: &Sample) -> Result<()> {
        let tags: Vec<_> = sample.tags.iter().map(String::as_str).collect();
        self.image(&sample.name, &tags, &sample.image)
    }

    /// Pushes an image under these tags.
    ///
    /// # Errors
    /// If the registry refuses a blob or a manifest.
    pub fn image(&self, name: &str, tags: &[&str], image: &Image) -> Result<()> {
        for layer in image.layers() {
            self.blob(name, &layer.blob)?;
        }
        self.blob(name, &image.config())?;
        let (top, below) = image.top();
        for blob in &below {
            if blob.media_type.contains("manifest") {
                self.manifest(name, &blob.digest, blob)?;
            } else {
                self.blob(name, blob)?;
            }
        }
        tags.iter().try_for_each(|tag| self.manifest(name, tag, &top))
    }

    fn blob(&self, name: &str, blob: &Blob) -> Result<()> {
        let head = self.request("HEAD", &format!("/v2/{name}/blobs/{}", blob.digest));
        if head.send(self.address)?.status == 200 {
            return Ok(());
        }
        let start = self.request("POST", &format!("/v2/{name}/blobs/uploads/"));
        let started = start.send(self.address)?.expect(&[202])?;
        let location = started.get("location").context("an upload without a location")?;
        // The location may be absolute; only its path is ours to use.
        let path = match location.split_once("://") {
            Some((_, rest)) => &rest[rest.find('/').unwrap_or(rest.len())..],
            None => location,
        };
        let joint = if path.contains('?') { '&' } else { '?' };
        self.request("PUT", &format!("{path}{joint}digest={}", blob.digest))
            .body("application/octet-stream", &blob.bytes)
            .send(self.address)?
            .expect(&[201])
            .with_context(|| format!("upload {} to {name}", blob.digest))?;
        Ok(())
    }

    fn manifest(&self, name: &str, reference: &str, manifest: &Blob) -> Result<()> {
        self.request("PUT", &format!("/v2/{name}/manifests/{reference}"))
            .body(&manifest.media_type, &manifest.bytes)
            .send(self.address)?
            .expect(&[201])
            .with_context(|| format!("put the manifest {name}:{reference}"))?;
        Ok(())
    }

    fn request(&self, method: &str, path: &str) -> Request {
        let request = Request::new(method, path);
        match &self.credentials {
            Some((user, password)) => request.header("authorization", &basic(user, password)),
            None => request,
        }
    }
}

/// The value of a Basic authorization header.
#[must_use]
pub fn basic(user: &str, password: &str) -> String {
    let text = format!("{user}:{password}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
}
