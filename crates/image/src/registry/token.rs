//! Tokens: what a registry's challenge asks for, from where the challenge says.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::challenge::Challenge;
use super::credentials::Secret;
use super::pace::Pace;
use super::request::{Refusal, reason, shown, within};
use super::session::{Session, Station};

/// A token without a lifetime lives for 60 seconds (distribution specification, "Token response").
const DEFAULT_LIFE: u64 = 60;
/// A token this near to its end is not used any more: the request still has to get there.
const MARGIN: Duration = Duration::from_secs(5);
/// More bytes than this are no token.
const TOKEN_LIMIT: u64 = 1 << 20;

/// What opens a host's doors.
pub(crate) struct Grant {
    pub(crate) header: HeaderValue,
    expires: Option<Instant>,
}

impl Grant {
    pub(crate) fn is_fresh(&self) -> bool {
        self.expires.is_none_or(|at| Instant::now() + MARGIN < at)
    }
}

/// A header to try, and whether it was fetched just now or by another request.
pub(crate) enum Granted {
    Ours(HeaderValue),
    Shared(HeaderValue),
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Session {
    /// Finds the header for a request that was answered with these challenges, after it was sent
    /// with `used`. None if there is nothing else to try.
    pub(crate) async fn authorize(
        &self,
        station: &Station,
        challenges: &[Challenge],
        used: Option<&HeaderValue>,
    ) -> Result<Option<Granted>, Refusal> {
        if matches!(station.secret, Secret::Registry(_)) {
            return Ok(None);
        }
        let mut grant = station.grant.lock().await;
        // Another layer may have fetched a token meanwhile.
        if let Some(grant) = grant.as_ref().filter(|g| g.is_fresh() && Some(&g.header) != used) {
            return Ok(Some(Granted::Shared(grant.header.clone())));
        }
        for challenge in challenges {
            let new = match (challenge, &station.secret) {
                (Challenge::Basic, Secret::Basic(user, password)) => {
                    basic(user, password).map(|header| Grant { header, expires: None })
                }
                (Challenge::Basic, _) => None,
                (Challenge::Bearer { realm, service, scope }, _) => {
                    let fallback = format!("repository:{}:pull", self.reference.path());
                    let scope = scope.as_deref().unwrap_or(&fallback);
                    Some(self.fetch_token(station, realm, (service.as_deref(), scope)).await?)
                }
            };
            if let Some(new) = new.filter(|new| Some(&new.header) != used) {
                let header = new.header.clone();
                *grant = Some(new);
                return Ok(Some(Granted::Ours(header)));
            }
        }
        Ok(None)
    }

    async fn fetch_token(
        &self,
        station: &Station,
        realm: &str,
        (service, scope): (Option<&str>, &str),
    ) -> Result<Grant, Refusal> {
        let useless = |what: &str| Refusal::Useless(format!("token server {realm:?}: {what}"));
        let mut url = Url::parse(realm).map_err(|_| useless("not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(useless("neither http nor https"));
        }
        if url.scheme() == "http" && station.secure() == Some(true) {
            return Err(useless("a registry with TLS must not send credentials without it"));
        }
        let client = self.client(station, url.scheme() == "https")?;
        let service = service.map(|service| ("service", service));
        let scopes = scope.split(' ').filter(|scope| !scope.is_empty());
        let request = match &station.secret {
            Secret::Identity(token) => {
                let form = [
                    ("grant_type", "refresh_token"),
                    ("client_id", "berth"),
                    ("refresh_token", token),
                    ("scope", scope),
                ];
                let body = encode(form.into_iter().chain(service));
                client
                    .post(url.clone())
                    .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(body)
            }
            secret => {
                url.query_pairs_mut().extend_pairs(service);
                url.query_pairs_mut().extend_pairs(scopes.map(|scope| ("scope", scope)));
                let request = client.get(url.clone());
                match secret {
                    Secret::Basic(user, password) => request.basic_auth(user, Some(password)),
                    _ => request,
                }
            }
        };
        let response = within(self.settings.progress_timeout, request.send()).await?;
        let place = shown(response.url());
        match response.status() {
            StatusCode::OK => {}
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(Refusal::Temporary(
                    format!("{place}: {}", reason(response).await),
                    None,
                ));
            }
            _ => return Err(Refusal::Denied(format!("{place}: {}", reason(response).await))),
        }
        let body = Pace::new(self.settings.progress_timeout).whole(response, TOKEN_LIMIT).await?;
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|_| useless("its answer is not a token"))?;
        let token = if answer.token.is_empty() { &answer.access_token } else { &answer.token };
        let header = bearer(token).filter(|_| !token.is_empty());
        let life = Duration::from_secs(answer.expires_in.unwrap_or(DEFAULT_LIFE));
        Ok(Grant {
            header: header.ok_or_else(|| useless("its answer has no token"))?,
            expires: Instant::now().checked_add(life.max(MARGIN * 2)),
        })
    }
}

fn encode<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    // A URL's query is encoded as a form is.
    match Url::parse("form:") {
        Ok(mut url) => {
            url.query_pairs_mut().extend_pairs(pairs);
            url.query().unwrap_or_default().to_owned()
        }
        Err(_) => String::new(),
    }
}

fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

/// The header for a token.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    secret(&format!("Bearer {token}"))
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
