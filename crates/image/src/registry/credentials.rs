//! Who we are to a registry: what came with the request, or what the node's docker config says.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::{Error, Result};

/// Credentials as CRI's `AuthConfig` and docker's config file have them; what is not given is empty.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Credentials {
    /// The account.
    #[serde(default)]
    pub username: String,
    /// Its password.
    #[serde(default)]
    pub password: String,
    /// `account:password` in base64, instead of both.
    #[serde(default)]
    pub auth: String,
    /// The registry that they are for; empty means the registry of the image.
    #[serde(default, skip)]
    pub server_address: String,
    /// A refresh token, exchanged for an access token (OAuth2).
    #[serde(default, rename = "identitytoken")]
    pub identity_token: String,
    /// An access token, sent as it is.
    #[serde(default, rename = "registrytoken")]
    pub registry_token: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nothing of this may reach a log.
        f.debug_struct("Credentials").field("server_address", &self.server_address).finish()
    }
}

/// The one of the forms that is used.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    /// No credentials.
    Anonymous,
    /// An account and its password.
    Basic(String, String),
    /// A refresh token.
    Identity(String),
    /// An access token.
    Registry(String),
}

impl Credentials {
    /// The form that is used, or why none can be.
    pub(crate) fn secret(&self) -> Result<Secret, &'static str> {
        if !self.registry_token.is_empty() {
            return Ok(Secret::Registry(self.registry_token.clone()));
        }
        if !self.identity_token.is_empty() {
            return Ok(Secret::Identity(self.identity_token.clone()));
        }
        if !self.username.is_empty() {
            return Ok(Secret::Basic(self.username.clone(), self.password.clone()));
        }
        if self.auth.is_empty() {
            return Ok(Secret::Anonymous);
        }
        // Some tools pad what they encode with NUL bytes.
        let decoded = STANDARD.decode(self.auth.trim()).ok();
        let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or("its \"auth\" is not base64")?;
        let (user, password) =
            text.split_once(':').ok_or("its \"auth\" is not account:password in base64")?;
        Ok(Secret::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned()))
    }

    /// Whether they are meant for a host. Without an address they are for the image's own registry
    /// only: a mirror is somebody else, and gets what is configured for it.
    pub(crate) fn are_for(&self, authority: &str, origin: bool) -> bool {
        match self.server_address.as_str() {
            "" => origin,
            address => same_registry(address, authority),
        }
    }
}

/// Docker's config file, as far as it holds credentials.
#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, Credentials>,
}

/// Finds the credentials for a host in docker's config file; no file is no credentials.
pub(crate) fn from_docker_config(path: &Path, authority: &str) -> Result<Option<Credentials>> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|e| Error::file("read", path, e))?,
    };
    let config: DockerConfig = serde_json::from_slice(&text).map_err(|error| {
        // The position, not the text: it has secrets.
        let reason = format!("not a docker config (line {})", error.line());
        Error::Configuration { path: path.to_path_buf(), reason }
    })?;
    let mut auths = config.auths.into_iter();
    Ok(auths.find(|(host, _)| same_registry(host, authority)).map(|(_, found)| found))
}

/// Whether a key of docker's config, often a URL, names this host.
fn same_registry(key: &str, authority: &str) -> bool {
    let host = key.split_once("://").map_or(key, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    let full = |host: &str| match host {
        "index.docker.io" | "docker.io" => "registry-1.docker.io".to_owned(),
        other => other.strip_suffix(":443").unwrap_or(other).to_ascii_lowercase(),
    };
    full(host) == full(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_credentials_is_understood() {
        let auth = STANDARD.encode("user:pass:word\0\0");
        let secret = Credentials { auth, ..Credentials::default() }.secret();
        assert!(secret == Ok(Secret::Basic("user".to_owned(), "pass:word".to_owned())));
        let broken = Credentials { auth: "%".to_owned(), ..Credentials::default() };
        assert!(broken.secret().is_err());
        assert!(Credentials::default().secret() == Ok(Secret::Anonymous));
    }

    #[test]
    fn credentials_go_to_their_own_registry_only() {
        let plain = Credentials::default();
        assert!(plain.are_for("a.b", true));
        assert!(!plain.are_for("mirror.c", false));
        let meant =
            Credentials { server_address: "https://mirror.c/v2".to_owned(), ..plain.clone() };
        assert!(meant.are_for("mirror.c", false));
        assert!(!meant.are_for("a.b", true));
    }

    #[test]
    fn docker_config_keys_come_in_many_shapes() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("config.json");
        assert!(from_docker_config(&path, "a.b").unwrap().is_none());
        let text = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},
            "a.b:5000":{"username":"u","password":"p"},"https://c.d/":{"identitytoken":"t"}}}"#;
        std::fs::write(&path, text).unwrap();
        let find = |host: &str| from_docker_config(&path, host).unwrap();
        assert_eq!(find("registry-1.docker.io").unwrap().auth, "dTpw");
        assert_eq!(find("a.b:5000").unwrap().password, "p");
        assert_eq!(find("c.d").unwrap().identity_token, "t");
        assert!(find("a.b").is_none());
        std::fs::write(&path, r#"{"auths":{"x":{"auth":42}}}"#).unwrap();
        let error = from_docker_config(&path, "x").unwrap_err();
        assert!(!error.to_string().contains("42"), "{error}");
    }

    #[test]
    fn no_secret_is_printed() {
        let credentials = Credentials { password: "hunter2".to_owned(), ..Credentials::default() };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
