//! The documents that make an image: index, manifest and config, OCI and Docker alike.
//!
//! Only what is acted on is parsed; the bytes themselves are kept by digest where they are needed.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::platform::Platform;

/// More layers than overlay can stack (500) can never be mounted.
pub(crate) const MAX_LAYERS: usize = 500;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A pointer to content: its digest and size.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// Either document that a tag can point to.
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

/// The manifest of one image.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads an index or a manifest.
    ///
    /// What it is follows from the media type inside it and from its fields, never from the header
    /// that came with it: a document that is both could mean two things to two readers.
    pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Self> {
        let wire: Wire = serde_json::from_slice(bytes).map_err(|e| Error::malformed(what, e))?;
        if wire.schema_version == 1 {
            return Err(Error::Unsupported {
                what: format!("{what}: manifest schema 1"),
                reason: "push the image again with a current tool",
            });
        }
        match (wire.manifests, wire.config, wire.media_type.as_deref()) {
            (Some(manifests), None, None | Some(OCI_INDEX | DOCKER_INDEX)) => {
                Ok(Self::Index(manifests))
            }
            (None, Some(config), None | Some(OCI_MANIFEST | DOCKER_MANIFEST)) => {
                let layers = wire.layers.unwrap_or_default();
                check_layers(what, &layers)?;
                Ok(Self::Manifest(Manifest { config, layers }))
            }
            (_, _, media_type) => Err(Error::malformed(
                what,
                format!("neither an image index nor an image manifest ({media_type:?})"),
            )),
        }
    }
}

fn check_layers(what: &str, layers: &[Descriptor]) -> Result<()> {
    if layers.len() > MAX_LAYERS {
        return Err(Error::malformed(what, format!("{} layers; overlay has 500", layers.len())));
    }
    match layers.iter().find(|layer| layer.media_type.ends_with("+encrypted")) {
        None => Ok(()),
        Some(layer) => Err(Error::Unsupported {
            what: format!("{what}: layer media type {}", layer.media_type),
            reason: "push the image without encryption",
        }),
    }
}

/// Picks the entry of an index that fits this machine best; the first of equals wins.
pub(crate) fn choose<'a>(
    what: &str,
    entries: &'a [Descriptor],
    here: &Platform,
) -> Result<&'a Descriptor> {
    let mut best: Option<(u8, &Descriptor)> = None;
    for entry in entries {
        // An entry without a platform can only be told by its config; take it if nothing fits.
        let fit = match &entry.platform {
            Some(platform) => here.fit(platform),
            None => Some(0),
        };
        if let Some(fit) = fit
            && best.is_none_or(|(other, _)| fit > other)
        {
            best = Some((fit, entry));
        }
    }
    match best {
        Some((_, entry)) => Ok(entry),
        None => Err(Error::NoPlatform {
            reference: what.to_owned(),
            wanted: here.to_string(),
            found: offered(entries),
        }),
    }
}

fn offered(entries: &[Descriptor]) -> String {
    let names: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .filter(|platform| platform.os != "unknown")
        .map(ToString::to_string)
        .collect();
    if names.is_empty() { "no platform".to_owned() } else { crate::error::short(&names.join(", ")) }
}

/// What the config of an image says, as far as it is acted on.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) config: Option<Process>,
    pub(crate) rootfs: RootFs,
}

/// The part of the config that describes the process.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Process {
    #[serde(default)]
    pub(crate) user: Option<String>,
    #[serde(default)]
    pub(crate) env: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) entrypoint: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) cmd: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) working_dir: Option<String>,
    #[serde(default)]
    pub(crate) stop_signal: Option<String>,
    #[serde(default)]
    pub(crate) volumes: Option<BTreeMap<String, serde_json::Value>>,
    #[serde(default)]
    pub(crate) labels: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default)]
    pub(crate) diff_ids: Option<Vec<Digest>>,
}

impl Config {
    pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Self> {
        let config: Self = serde_json::from_slice(bytes).map_err(|e| Error::malformed(what, e))?;
        if !matches!(config.os.as_str(), "" | "linux") {
            return Err(Error::Unsupported {
                what: format!("{what}: an image for {}", config.os),
                reason: "this node runs Linux images",
            });
        }
        Ok(config)
    }

    pub(crate) fn diff_ids(&self) -> &[Digest] {
        self.rootfs.diff_ids.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(extra: &str) -> String {
        format!(r#"{{"mediaType":"m","digest":"sha256:{HEX}","size":3{extra}}}"#)
    }

    #[test]
    fn a_manifest_and_an_index_are_told_by_their_fields() {
        let manifest =
            format!(r#"{{"schemaVersion":2,"config":{d},"layers":[{d}]}}"#, d = descriptor(""));
        let parsed = Document::parse("x", manifest.as_bytes()).unwrap();
        assert!(matches!(parsed, Document::Manifest(m) if m.layers.len() == 1));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor(""));
        assert!(matches!(Document::parse("x", index.as_bytes()).unwrap(), Document::Index(_)));
    }

    #[test]
    fn a_document_that_is_both_is_refused() {
        let both = format!(
            r#"{{"schemaVersion":2,"manifests":[],"config":{d},"layers":[]}}"#,
            d = descriptor("")
        );
        assert!(Document::parse("x", both.as_bytes()).is_err());
        let lying = format!(r#"{{"mediaType":"{OCI_INDEX}","config":{}}}"#, descriptor(""));
        assert!(Document::parse("x", lying.as_bytes()).is_err());
    }

    #[test]
    fn the_entry_for_this_machine_is_chosen_and_attestations_are_not() {
        let entry = |os: &str, arch: &str| -> Descriptor {
            let platform = format!(r#","platform":{{"os":"{os}","architecture":"{arch}"}}"#);
            serde_json::from_str(&descriptor(&platform)).unwrap()
        };
        let here = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
        let entries =
            [entry("unknown", "unknown"), entry("linux", "arm64"), entry("linux", "amd64")];
        assert_eq!(choose("x", &entries, &here).unwrap(), &entries[2]);
        let error = choose("x", &entries[..2], &here).unwrap_err();
        assert!(error.to_string().contains("only for linux/arm64"), "{error}");
    }

    #[test]
    fn null_lists_in_a_config_are_empty_lists() {
        let text = r#"{"os":"linux","config":{"Env":null,"Labels":null,"Volumes":null},
                       "rootfs":{"type":"layers","diff_ids":null}}"#;
        let config = Config::parse("x", text.as_bytes()).unwrap();
        assert!(config.diff_ids().is_empty());
        assert!(Config::parse("x", br#"{"os":"windows","rootfs":{}}"#).is_err());
    }
}
