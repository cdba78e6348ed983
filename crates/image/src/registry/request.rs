//! One request to one host: authentication, redirects, and what went wrong.

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;

use super::pace::LEAST;
use super::session::{Session, Station};
use super::token::Granted;
use super::{chain, challenge};
use crate::error::Error;

const MAX_REDIRECTS: usize = 5;
/// More than this of an error's body is not read.
const ERROR_BODY: usize = 8 << 10;
/// Nor for longer than this.
const ERROR_TIME: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    /// What comes after `/v2`: `/<repository>/manifests/<tag>`.
    pub(crate) path: String,
    pub(crate) accept: Option<&'static str>,
    /// Only what comes after so many bytes.
    pub(crate) offset: u64,
}

impl Ask {
    pub(crate) fn get(path: String) -> Self {
        Self { method: Method::GET, path, accept: None, offset: 0 }
    }
}

/// Why a host gave no answer that can be used.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It does not have it.
    Absent,
    /// It wants other credentials.
    Denied(String),
    /// It may work later, or elsewhere; after so long, if the host said so.
    Temporary(String, Option<Duration>),
    /// It cannot be reached; the next host is worth more than a second try.
    Unreachable(String),
    /// It made no progress.
    Slow(Duration),
    /// What it sent cannot be used.
    Useless(String),
    /// The request cannot even be made.
    Broken(Error),
}

impl Refusal {
    /// Whether the same host may answer better when asked again.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Temporary(..) | Self::Unreachable(_) | Self::Slow(_))
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => f.write_str("not found"),
            Self::Denied(reason) => write!(f, "access refused: {reason}"),
            Self::Temporary(reason, _) | Self::Unreachable(reason) | Self::Useless(reason) => {
                f.write_str(reason)
            }
            Self::Slow(limit) => {
                let (least, limit) = (LEAST >> 10, limit.as_secs_f32());
                write!(f, "no answer, or less than {least} KiB of it, within {limit} s")
            }
            Self::Broken(error) => write!(f, "{error}"),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

impl Session {
    /// Sends a request, with a token if one is wanted. The answer is 200 or 206.
    pub(crate) async fn send(&self, station: &Station, ask: &Ask) -> Result<Response, Refusal> {
        let mut used = station.authorization().await;
        loop {
            let Answer { response, at_home } = self.send_once(station, ask, used.as_ref()).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return check(response).await;
            }
            // Whoever a redirect leads to must not choose where credentials are sent.
            if !at_home {
                let place = shown(response.url());
                return Err(Refusal::Denied(format!("{place}: {}", reason(response).await)));
            }
            let headers = response.headers().get_all(reqwest::header::WWW_AUTHENTICATE);
            let challenges = challenge::parse(headers.iter().filter_map(|h| h.to_str().ok()));
            let said = reason(response).await;
            match self.authorize(station, &challenges, used.as_ref()).await? {
                None => return Err(Refusal::Denied(said)),
                Some(Granted::Ours(header)) => {
                    let answer = self.send_once(station, ask, Some(&header)).await?;
                    return check(answer.response).await;
                }
                // It may have ended since another layer fetched it.
                Some(Granted::Shared(header)) => used = Some(header),
            }
        }
    }

    /// Sends a request as the host is spoken to. Where that is not known, plain HTTP is tried first:
    /// a server that wants TLS answers it with status 400, or with what is no HTTP.
    async fn send_once(
        &self,
        station: &Station,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Refusal> {
        if let Some(secure) = station.secure() {
            return self.send_as((station, secure), ask, authorization).await;
        }
        let plain = self.send_as((station, false), ask, authorization).await;
        let wants_tls = match &plain {
            Ok(answer) => answer.response.status() == StatusCode::BAD_REQUEST,
            Err(refusal) => matches!(refusal, Refusal::Temporary(..)),
        };
        if !wants_tls {
            if plain.is_ok() {
                station.found_secure(false);
            }
            return plain;
        }
        match (self.send_as((station, true), ask, authorization).await, plain) {
            (Ok(answer), _) => {
                station.found_secure(true);
                Ok(answer)
            }
            (Err(secure), Err(plain)) => {
                let text = format!("without TLS: {plain}; with TLS: {secure}");
                Err(Refusal::Temporary(text, None))
            }
            (Err(_), plain) => plain,
        }
    }

    async fn send_as(
        &self,
        (station, secure): (&Station, bool),
        ask: &Ask,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Refusal> {
        let first = station.url(secure, &ask.path, self.namespace(station))?;
        let mut url = first.clone();
        let mut at_home = true;
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = HeaderMap::new();
            if let Some(accept) = ask.accept {
                headers.insert(ACCEPT, HeaderValue::from_static(accept));
            }
            if ask.offset > 0
                && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", ask.offset))
            {
                headers.insert(RANGE, range);
            }
            // What is secret is for the host itself, by the same scheme and port, and no other; nor
            // for a way back to it that another host chose.
            at_home &= url.origin() == first.origin();
            if at_home {
                if let Some(authorization) = authorization {
                    headers.insert(AUTHORIZATION, authorization.clone());
                }
                add_headers(&mut headers, &station.host.headers)?;
            }
            let client = self.client(station, url.scheme() == "https")?;
            let request = client.request(ask.method.clone(), url.clone()).headers(headers).send();
            let response = within(self.settings.progress_timeout, request).await?;
            if !response.status().is_redirection() {
                return Ok(Answer { response, at_home });
            }
            url = target(&url, &response)?;
        }
        Err(Refusal::Useless(format!("{}: too many redirects", shown(&first))))
    }
}

/// An answer, and whether the host gave it itself: not so after a redirect to elsewhere.
struct Answer {
    response: Response,
    at_home: bool,
}

/// Waits for an answer, but not for ever.
pub(crate) async fn within<T>(
    limit: Duration,
    request: impl Future<Output = reqwest::Result<T>>,
) -> Result<T, Refusal> {
    match tokio::time::timeout(limit, request).await {
        Err(_) => Err(Refusal::Slow(limit)),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            let connect = error.is_connect();
            let place = error.url().map(shown).unwrap_or_default();
            // The URL of a redirect carries signatures in its query: only the place is shown.
            let text = format!("{place}: {}", chain(&error.without_url()));
            Err(if connect { Refusal::Unreachable(text) } else { Refusal::Temporary(text, None) })
        }
    }
}

fn add_headers(headers: &mut HeaderMap, more: &[(String, String)]) -> Result<(), Refusal> {
    for (name, value) in more {
        let bad = |_| Refusal::Useless(format!("hosts.toml: {name:?} cannot be a header"));
        let name = HeaderName::try_from(name.as_str()).map_err(|_| bad(()))?;
        let mut value = HeaderValue::try_from(value.as_str()).map_err(|_| bad(()))?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(())
}

fn target(from: &Url, response: &Response) -> Result<Url, Refusal> {
    let useless = |what: &str| Refusal::Useless(format!("{}: {what}", shown(from)));
    let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
    let location = location.ok_or_else(|| useless("a redirect to nowhere"))?;
    let to = from.join(location).map_err(|_| useless("a redirect to what is no URL"))?;
    match to.scheme() {
        "https" => Ok(to),
        "http" if from.scheme() == "http" => Ok(to),
        _ => Err(useless("a redirect away from TLS")),
    }
}

/// A URL without its query, which may hold signatures, and without credentials.
pub(crate) fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

async fn check(response: Response) -> Result<Response, Refusal> {
    let status = response.status();
    let place = shown(response.url());
    match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
        StatusCode::NOT_FOUND => Err(Refusal::Absent),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(Refusal::Denied(reason(response).await))
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            let after = retry_after(&response);
            let said = reason(response).await;
            Err(Refusal::Temporary(format!("{place}: {said}"), after))
        }
        _ if status.is_server_error() => {
            let after = retry_after(&response);
            let said = reason(response).await;
            Err(Refusal::Temporary(format!("{place}: {said}"), after))
        }
        _ => Err(Refusal::Useless(format!("{place}: {}", reason(response).await))),
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(reqwest::header::RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What an error response says, in one short line.
pub(crate) async fn reason(mut response: Response) -> String {
    let status = response.status();
    let mut body = Vec::new();
    let read = async {
        while body.len() < ERROR_BODY
            && let Ok(Some(chunk)) = response.chunk().await
        {
            body.extend_from_slice(&chunk);
        }
    };
    // What came until then has to do.
    let _ = tokio::time::timeout(ERROR_TIME, read).await;
    let parsed: Option<Errors> = serde_json::from_slice(&body).ok();
    let first = parsed.and_then(|errors| errors.errors.into_iter().next());
    let said = first.map(|error| format!(": {}: {}", error.code, error.message));
    let said: String = said.unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
    let short: String = said.chars().take(300).collect();
    format!("HTTP {}{short}", status.as_u16())
}
