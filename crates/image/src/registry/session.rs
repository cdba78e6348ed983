//! The conversation of one pull with the hosts of its image.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Method, Url};

use super::hosts::{self, Host, Scheme};
use super::pace::Pace;
use super::request::{Ask, Refusal};
use super::tls::Clients;
use super::token::Grant;
use super::{Registries, credentials};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::Document;
use crate::reference::{Reference, Version};
use crate::registry::credentials::{Credentials, Secret};

/// Documents (indexes, manifests, configs) larger than this are refused.
const DOCUMENT_LIMIT: u64 = crate::import::DOCUMENT_LIMIT;
/// A host that asks for patience gets no more than this.
const PATIENCE: Duration = Duration::from_secs(10);

/// A host, and where we stand with it.
pub(crate) struct Station {
    pub(crate) host: Host,
    pub(crate) secret: Secret,
    /// The token in use. Held while one is fetched, so that parallel layers ask once.
    pub(crate) grant: tokio::sync::Mutex<Option<Grant>>,
    /// Whether it failed before: then it is asked last.
    failed: AtomicBool,
    /// Whether it speaks TLS, once that is known.
    secure: OnceLock<bool>,
}

impl Station {
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether it speaks TLS; none if that has still to be found out.
    pub(crate) fn secure(&self) -> Option<bool> {
        match self.host.scheme {
            Scheme::Https => Some(true),
            Scheme::Http => Some(false),
            Scheme::Either => self.secure.get().copied(),
        }
    }

    /// Notes that it answered in this way.
    pub(crate) fn found_secure(&self, secure: bool) {
        // Parallel requests find the same.
        let _ = self.secure.set(secure);
    }

    /// The URL of a path below this host's prefix.
    pub(crate) fn url(
        &self,
        secure: bool,
        path: &str,
        namespace: Option<&str>,
    ) -> Result<Url, Refusal> {
        let Host { authority, prefix, .. } = &self.host;
        let scheme = if secure { "https" } else { "http" };
        let text = format!("{scheme}://{authority}{prefix}{path}");
        let mut url = Url::parse(&text).map_err(|e| Refusal::Useless(format!("{text}: {e}")))?;
        if let Some(namespace) = namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// How it is named in messages.
    pub(crate) fn name(&self) -> String {
        let scheme = if self.secure() == Some(false) { "http" } else { "https" };
        format!("{scheme}://{}", self.host.authority)
    }
}

/// All that one pull needs to ask its hosts.
pub(crate) struct Session {
    pub(crate) settings: Registries,
    pub(crate) reference: Reference,
    pub(crate) stations: Vec<Station>,
    clients: Clients,
}

/// A document, verified.
pub(crate) struct Fetched {
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
}

impl Session {
    /// Reads the configuration for the hosts of a reference. Blocks on our own disk only.
    pub(crate) fn new(
        settings: &Registries,
        reference: &Reference,
        given: Option<&Credentials>,
    ) -> Result<Self> {
        let mut stations = Vec::new();
        for host in hosts::find(&settings.certs_d, reference.host())? {
            let authority = &host.authority;
            let given = given.filter(|given| given.are_for(authority, host.origin));
            let mut secret = match given {
                Some(given) => given.secret().map_err(|reason| Error::Denied {
                    reference: reference.to_string(),
                    registry: authority.clone(),
                    reason: format!("the credentials cannot be used: {reason}"),
                })?,
                None => Secret::Anonymous,
            };
            if secret == Secret::Anonymous
                && let Some(path) = &settings.docker_config
                && let Some(found) = credentials::from_docker_config(path, authority)?
            {
                secret = found.secret().map_err(|reason| Error::Configuration {
                    path: path.clone(),
                    reason: format!("{authority}: {reason}"),
                })?;
            }
            let (grant, failed) = (tokio::sync::Mutex::default(), AtomicBool::new(false));
            stations.push(Station { host, secret, grant, failed, secure: OnceLock::new() });
        }
        let (settings, reference) = (settings.clone(), reference.clone());
        Ok(Self { settings, reference, stations, clients: Clients::default() })
    }

    pub(crate) fn client(&self, station: &Station, secure: bool) -> Result<reqwest::Client> {
        self.clients.get(&station.host, secure, self.settings.connect_timeout)
    }

    /// What a mirror has to be told: whose image it is.
    pub(crate) fn namespace(&self, station: &Station) -> Option<&str> {
        (!station.host.origin).then(|| self.reference.host())
    }

    /// The hosts that have not failed, then those that have; each in the configured order.
    pub(crate) fn in_order(&self, wanted: impl Fn(&Host) -> bool) -> Vec<&Station> {
        let mut stations: Vec<&Station> =
            self.stations.iter().filter(|station| wanted(&station.host)).collect();
        stations.sort_by_key(|station| station.has_failed());
        stations
    }

    /// The digest that the reference stands for now, if a host says so without sending the document.
    pub(crate) async fn digest(&self) -> Option<Digest> {
        let ask = Ask { method: Method::HEAD, ..self.manifest_ask(self.reference.version_text()) };
        let station = *self.in_order(|host| host.resolve).first()?;
        let response = self.send(station, &ask).await.ok()?;
        let header = response.headers().get("docker-content-digest")?;
        let digest: Digest = header.to_str().ok()?.parse().ok()?;
        match self.reference.version() {
            Version::Digest(expected) if *expected != digest => None,
            _ => Some(digest),
        }
    }

    fn manifest_ask(&self, version: &str) -> Ask {
        let path = format!("/{}/manifests/{version}", self.reference.path());
        Ask { accept: Some(ACCEPT), ..Ask::get(path) }
    }

    /// The document that the reference stands for.
    pub(crate) async fn resolve(&self) -> Result<Fetched> {
        let expected = match self.reference.version() {
            Version::Digest(digest) => Some(digest),
            Version::Tag(_) => None,
        };
        let ask = self.manifest_ask(self.reference.version_text());
        self.document(&ask, |host| host.resolve, (expected, None)).await
    }

    /// A manifest of an index.
    pub(crate) async fn manifest(&self, digest: &Digest, size: u64) -> Result<Fetched> {
        let ask = self.manifest_ask(digest.as_str());
        self.document(&ask, |host| host.pull, (Some(digest), Some(size))).await
    }

    /// A small blob: the config.
    pub(crate) async fn blob(&self, digest: &Digest, size: u64) -> Result<Fetched> {
        let ask = Ask::get(self.blob_path(digest));
        self.document(&ask, |host| host.pull, (Some(digest), Some(size))).await
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> String {
        format!("/{}/blobs/{digest}", self.reference.path())
    }

    async fn document(
        &self,
        ask: &Ask,
        wanted: impl Fn(&Host) -> bool,
        expected: (Option<&Digest>, Option<u64>),
    ) -> Result<Fetched> {
        let stations = self.in_order(wanted);
        let mut refusals = Vec::new();
        for (at, station) in stations.iter().enumerate() {
            // A mirror that fails is passed over; only the last host is asked again.
            let attempts = if at + 1 == stations.len() { self.settings.attempts.max(1) } else { 1 };
            for attempt in 1..=attempts {
                match self.document_once(station, ask, expected).await {
                    Ok(found) => return Ok(found),
                    Err(refusal) if refusal.is_passing() && attempt < attempts => {
                        self.pause(attempt, &refusal).await;
                    }
                    Err(refusal) => {
                        if refusal.is_passing() {
                            station.fail();
                        }
                        tracing::debug!(host = station.name(), %refusal, "next host");
                        refusals.push((station.name(), refusal));
                        break;
                    }
                }
            }
        }
        Err(self.failure(refusals))
    }

    async fn document_once(
        &self,
        station: &Station,
        ask: &Ask,
        (digest, size): (Option<&Digest>, Option<u64>),
    ) -> Result<Fetched, Refusal> {
        let response = self.send(station, ask).await?;
        let announced = response.headers().get("docker-content-digest").cloned();
        let bytes =
            Pace::new(self.settings.progress_timeout).whole(response, DOCUMENT_LIMIT).await?;
        let found = Digest::of(&bytes);
        let announced = announced.and_then(|header| header.to_str().ok()?.parse::<Digest>().ok());
        let expected = digest.or(announced.as_ref());
        if size.is_some_and(|size| size != bytes.len() as u64)
            || expected.is_some_and(|d| *d != found)
        {
            let expected = expected.map_or("another size".to_owned(), Digest::to_string);
            let text = format!("{}: damaged or replaced: {found} instead of {expected}", ask.path);
            return Err(Refusal::Useless(text));
        }
        // A host that sends a page instead of a manifest is no better than one that sends nothing.
        if ask.accept.is_some()
            && let Err(error @ Error::Malformed { .. }) = Document::parse(&ask.path, &bytes)
        {
            return Err(Refusal::Useless(error.to_string()));
        }
        Ok(Fetched { digest: found, bytes })
    }

    /// Waits before another try: longer each time, or as long as the host asks for.
    pub(crate) async fn pause(&self, attempt: u32, refusal: &Refusal) {
        let doubled = self.settings.backoff.saturating_mul(1 << attempt.saturating_sub(1).min(6));
        let asked = match refusal {
            Refusal::Temporary(_, Some(after)) => *after,
            _ => Duration::ZERO,
        };
        tokio::time::sleep(doubled.max(asked).min(PATIENCE)).await;
    }

    /// What all hosts together come to. The registry itself knows best; a mirror that lacks the
    /// image, or is down, only matters if there is nobody else.
    pub(crate) fn failure(&self, mut refusals: Vec<(String, Refusal)>) -> Error {
        let reference = self.reference.to_string();
        if let Some(at) = refusals.iter().position(|(_, r)| matches!(r, Refusal::Broken(_)))
            && let (_, Refusal::Broken(error)) = refusals.swap_remove(at)
        {
            return error;
        }
        let told: Vec<String> =
            refusals.iter().map(|(host, refusal)| format!("{host}: {refusal}")).collect();
        let reason = told.join("; ");
        let answered =
            refusals.iter().rev().find(|(_, refusal)| !refusal.is_passing()).or(refusals.last());
        match answered {
            Some((_, Refusal::Absent)) => Error::NotInRegistry {
                reference,
                tried: refusals.iter().map(|(host, _)| &host[..]).collect::<Vec<_>>().join(", "),
            },
            Some((host, Refusal::Denied(_))) => {
                Error::Denied { reference, registry: host.clone(), reason }
            }
            Some((_, Refusal::Useless(_))) => Error::Malformed { what: reference, reason },
            Some((_, Refusal::Slow(limit))) => {
                Error::TimedOut { what: format!("{reference}: {reason}"), limit: *limit }
            }
            Some(_) => Error::Unavailable { reference, reason },
            None => Error::Unavailable {
                reference,
                reason: "hosts.toml leaves no host that may be asked".to_owned(),
            },
        }
    }
}

/// Every document that is understood; a registry may convert what is not asked for.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

impl Station {
    /// The header that the next request needs, as far as it is known.
    pub(crate) async fn authorization(&self) -> Option<HeaderValue> {
        if let Secret::Registry(token) = &self.secret {
            return super::token::bearer(token);
        }
        let grant = self.grant.lock().await;
        grant.as_ref().filter(|grant| grant.is_fresh()).map(|grant| grant.header.clone())
    }
}
