//! Image references as users write them, brought to their full form.
//!
//! `busybox` means `docker.io/library/busybox:latest`. The first component is a host when it has a
//! dot, a colon or an upper-case letter, or is `localhost`; everything else belongs to docker.io.
//! When a reference has both a tag and a digest, the digest decides and the tag is dropped.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{Error, Result};

const DEFAULT_HOST: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const NAME_LIMIT: usize = 255;

/// What follows the repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// A tag, which the registry may move.
    Tag(String),
    /// A digest, which says exactly what the content is.
    Digest(Digest),
}

/// A full image reference: host, repository path and version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    host: String,
    path: String,
    version: Version,
}

impl Reference {
    /// The host and, if given, the port: `docker.io`, `localhost:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path of the repository on its host: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The host and the path: `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// The tag or digest.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The tag or digest as a registry's URL has it.
    pub fn version_text(&self) -> &str {
        match &self.version {
            Version::Tag(tag) => tag,
            Version::Digest(digest) => digest.as_str(),
        }
    }

    /// The same repository, with a digest.
    pub fn at(&self, digest: &Digest) -> Self {
        Self { version: Version::Digest(digest.clone()), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}/{}:{tag}", self.host, self.path),
            Version::Digest(digest) => write!(f, "{}/{}@{digest}", self.host, self.path),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).map_err(|reason| Error::Reference { text: text.to_owned(), reason })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() == 64 && crate::digest::is_hex(text) {
        return Err("64 hexadecimal digits are an image id, not a name");
    }
    let (rest, digest) = match text.split_once('@') {
        None => (text, None),
        Some((rest, digest)) => {
            let digest = digest.parse().map_err(|_| "what follows '@' is not a sha256 digest")?;
            (rest, Some(digest))
        }
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (host, path) = split_host(name);
    check_host(&host)?;
    check_path(&path)?;
    if host.len() + 1 + path.len() > NAME_LIMIT {
        return Err("the name is longer than 255 characters");
    }
    let version = match digest {
        Some(digest) => Version::Digest(digest),
        None => Version::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()),
    };
    Ok(Reference { host, path, version })
}

fn split_host(name: &str) -> (String, String) {
    let (host, path) = match name.split_once('/') {
        Some((first, rest)) if looks_like_host(first) => (first, rest),
        _ => (DEFAULT_HOST, name),
    };
    let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
    let path = match host == DEFAULT_HOST && !path.contains('/') {
        true => format!("library/{path}"),
        false => path.to_owned(),
    };
    (host.to_owned(), path)
}

fn looks_like_host(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "the host is not an IPv6 address")?;
            ("", port.strip_prefix(':'))
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err("the port is not a number");
    }
    let labels = !host.starts_with('[');
    if labels && !name.split('.').all(is_label) {
        return Err("the host has characters that a host name cannot have");
    }
    Ok(())
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository must be lower-case");
    }
    match path.split('/').all(is_component) {
        true => Ok(()),
        false => Err("the repository has components that are not letters, digits, '.', '_', '-'"),
    }
}

/// A component is runs of letters and digits with one separator between two runs: `.`, `_`, `__` or
/// any number of `-` (distribution specification, "Pulling manifests").
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = bytes.first().zip(bytes.last());
    if !ends.is_some_and(|(first, last)| alphanumeric(*first) && alphanumeric(*last)) {
        return false;
    }
    component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(|between| {
        matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-')
    })
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let first = tag.bytes().next();
    if tag.len() > 128 || !tag.bytes().all(valid) || matches!(first, None | Some(b'.' | b'-')) {
        return Err(
            "a tag is at most 128 letters, digits, '_', '.', '-' and begins with a letter, \
                    digit or '_'",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn short_names_get_their_full_form() {
        for (given, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            (
                "registry.k8s.io/e2e-test-images/busybox:1.29-2",
                "registry.k8s.io/e2e-test-images/busybox:1.29-2",
            ),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f:latest"),
        ] {
            assert_eq!(given.parse::<Reference>().unwrap().to_string(), full, "{given}");
        }
    }

    #[test]
    fn a_digest_drops_the_tag() {
        let reference: Reference = format!("a/b:c@sha256:{HEX}").parse().unwrap();
        assert_eq!(reference.to_string(), format!("docker.io/a/b@sha256:{HEX}"));
        assert_eq!(reference.version_text(), format!("sha256:{HEX}"));
    }

    #[test]
    fn what_is_not_a_reference_is_refused_with_the_reason() {
        for text in [
            "",
            ":",
            "a:",
            "UPPER",
            "a/B",
            "a//b",
            "a/",
            "/a",
            "a:b:c",
            "a@sha256:12",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a b",
            "a:.b",
            "../../etc/passwd",
            "http://x/y",
            HEX,
            "host:port/a",
            "a.b:99999/c",
        ] {
            let error = text.parse::<Reference>().expect_err(text);
            assert_eq!(error.kind(), crate::Kind::Invalid);
        }
        let long = format!("{}:x", "a/".repeat(140));
        assert!(long.parse::<Reference>().is_err());
    }

    #[test]
    fn the_full_form_parses_to_itself() {
        let once: Reference = "busybox".parse().unwrap();
        assert_eq!(once.to_string().parse::<Reference>().unwrap(), once);
    }
}
