//! Which hosts serve an image: `certs.d/<host>/hosts.toml`, or the registry that its name says.
//!
//! The directory is looked for as `host_port_`, `host:port`, `_default`; the first that exists
//! counts. Hosts are tried in the order of the file, the server last. Without a `hosts.toml`, the
//! directory may hold certificates alone: `*.crt`, and pairs of `*.cert` and `*.key`.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::error::{Error, Result};

/// One host to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) scheme: Scheme,
    /// The name and, if given, the port.
    pub(crate) authority: String,
    /// What comes before `/<repository>/`: `/v2`, if nothing else is said.
    pub(crate) prefix: String,
    /// May say what a tag stands for.
    pub(crate) resolve: bool,
    /// May serve content.
    pub(crate) pull: bool,
    /// Whether it is the registry of the name itself; any other is told the name by `?ns=`.
    pub(crate) origin: bool,
    /// Sent with every request to this host, and to no other.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) tls: Tls,
    pub(crate) dial_timeout: Option<Duration>,
}

/// How a host is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// With TLS.
    Https,
    /// Without.
    Http,
    /// As it turns out: a registry on this machine is often without TLS.
    Either,
}

/// How the host's certificate is checked, and what is shown to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tls {
    pub(crate) skip_verify: bool,
    /// Further authorities, beside the system's.
    pub(crate) ca: Vec<PathBuf>,
    /// Certificate and key; the key may be in the same file.
    pub(crate) client: Vec<(PathBuf, Option<PathBuf>)>,
}

#[derive(Default, Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: HashMap<String, Spanned<Entry>>,
    #[serde(flatten)]
    entry: Entry,
}

#[derive(Clone, Default, Deserialize)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: Option<bool>,
    header: Option<HashMap<String, OneOrMany>>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn all(&self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::Many(many) => many.clone(),
        }
    }
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Client {
    One(String),
    Many(Vec<OneOrMany>),
}

/// Finds the hosts for the registry part of a reference, in the order to ask them.
pub(crate) fn find(directories: &[PathBuf], registry: &str) -> Result<Vec<Host>> {
    let mut names = Vec::new();
    if let Some((host, port)) = registry.rsplit_once(':') {
        names.push(format!("{host}_{port}_"));
    }
    names.push(registry.to_owned());
    names.push("_default".to_owned());
    for directory in directories {
        for name in &names {
            let path = directory.join(name);
            if path.is_dir() {
                return read(&path, registry);
            }
        }
    }
    Ok(defaults(registry, Tls::default()))
}

/// Reads the configuration of every host of a directory; one that is absent has none.
///
/// # Errors
/// The first file that cannot be used, and what is wrong with it.
pub fn check_hosts(directory: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::file("read", directory, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| Error::file("read", directory, error))?;
        if entry.path().is_dir() {
            read(&entry.path(), &entry.file_name().to_string_lossy())?;
        }
    }
    Ok(())
}

fn read(directory: &Path, registry: &str) -> Result<Vec<Host>> {
    let path = directory.join("hosts.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) => parse(&text, directory, registry)
            .map_err(|reason| Error::Configuration { path, reason }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let tls = certificates(directory)?;
            Ok(defaults(registry, tls))
        }
        Err(error) => Err(Error::file("read", &path, error)),
    }
}

/// The registry that the name says.
fn defaults(registry: &str, tls: Tls) -> Vec<Host> {
    let authority = origin_of(registry);
    let plain = is_loopback(authority) && tls == Tls::default();
    vec![Host {
        scheme: if plain { Scheme::Either } else { Scheme::Https },
        authority: authority.to_owned(),
        prefix: "/v2".to_owned(),
        resolve: true,
        pull: true,
        origin: true,
        headers: Vec::new(),
        tls,
        dial_timeout: None,
    }]
}

/// docker.io is a name, not a registry.
fn origin_of(registry: &str) -> &str {
    if registry == "docker.io" { "registry-1.docker.io" } else { registry }
}

/// Whether a host is this machine.
pub(crate) fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn parse(text: &str, directory: &Path, registry: &str) -> Result<Vec<Host>, String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    let mut entries: Vec<(usize, String, Entry)> = file
        .host
        .into_iter()
        .map(|(url, entry)| (entry.span().start, url, entry.into_inner()))
        .collect();
    // The table itself has no order; where each entry stands in the text has.
    entries.sort_by_key(|(position, ..)| *position);
    let mut hosts = Vec::new();
    for (_, url, entry) in entries {
        hosts.push(host(&url, &entry, directory, registry)?);
    }
    match &file.server {
        Some(server) => hosts.push(host(server, &file.entry, directory, registry)?),
        None => {
            let url = format!("https://{}", origin_of(registry));
            let plain = hosts.is_empty() && is_loopback(registry);
            match plain {
                true => hosts.extend(defaults(registry, Tls::default())),
                false => hosts.push(host(&url, &file.entry, directory, registry)?),
            }
        }
    }
    Ok(hosts)
}

fn host(url: &str, entry: &Entry, directory: &Path, registry: &str) -> Result<Host, String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let scheme = match scheme {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        _ => return Err(format!("{url:?}: a host is reached by http or https")),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.is_empty() || authority.contains('@') {
        return Err(format!("{url:?}: it must have a host, and no credentials"));
    }
    let path = match path.trim_end_matches('/') {
        "" => String::new(),
        path => format!("/{path}"),
    };
    let prefix = match entry.override_path.unwrap_or(false) || path.ends_with("/v2") {
        true => path,
        false => format!("{path}/v2"),
    };
    let (resolve, pull) = capabilities(url, entry.capabilities.as_deref())?;
    let dial_timeout = match &entry.dial_timeout {
        Some(text) => Some(duration(text).ok_or_else(|| format!("{text:?} is not a duration"))?),
        None => None,
    };
    let mut headers = Vec::new();
    for (name, values) in entry.header.iter().flatten() {
        headers.extend(values.all().into_iter().map(|value| (name.clone(), value)));
    }
    headers.sort();
    Ok(Host {
        scheme,
        origin: authority == origin_of(registry),
        authority: authority.to_owned(),
        prefix,
        resolve,
        pull,
        headers,
        tls: tls(entry, directory)?,
        dial_timeout,
    })
}

fn capabilities(url: &str, given: Option<&[String]>) -> Result<(bool, bool), String> {
    let Some(given) = given else { return Ok((true, true)) };
    let (mut resolve, mut pull) = (false, false);
    for capability in given {
        match capability.as_str() {
            "resolve" => resolve = true,
            "pull" => pull = true,
            "push" => {}
            other => return Err(format!("{url:?}: unknown capability {other:?}")),
        }
    }
    Ok((resolve, pull))
}

fn tls(entry: &Entry, directory: &Path) -> Result<Tls, String> {
    let file = |name: &String| directory.join(name);
    let ca = entry.ca.as_ref().map(OneOrMany::all).unwrap_or_default();
    let client = match &entry.client {
        None => Vec::new(),
        Some(Client::One(one)) => vec![(file(one), None)],
        Some(Client::Many(many)) => many
            .iter()
            .map(|pair| match pair.all().as_slice() {
                [both] => Ok((file(both), None)),
                [certificate, key] => Ok((file(certificate), Some(file(key)))),
                _ => Err("client: each entry is a file, or a certificate and its key".to_owned()),
            })
            .collect::<Result<_, String>>()?,
    };
    Ok(Tls {
        skip_verify: entry.skip_verify.unwrap_or(false),
        ca: ca.iter().map(file).collect(),
        client,
    })
}

/// Durations as Go writes them, as far as anybody uses them here: `500ms`, `3s`, `2m`.
fn duration(text: &str) -> Option<Duration> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let value: f64 = number.parse().ok().filter(|value| (0.0..1e6).contains(value))?;
    let unit = match &text[number.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Some(Duration::from_secs_f64(value * unit))
}

fn certificates(directory: &Path) -> Result<Tls> {
    let fault = |e| Error::file("read", directory, e);
    let mut tls = Tls::default();
    for entry in std::fs::read_dir(directory).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                if !key.is_file() {
                    let reason = format!("it has no key: {} is missing", key.display());
                    return Err(Error::Configuration { path, reason });
                }
                tls.client.push((path, Some(key)));
            }
            _ => {}
        }
    }
    tls.ca.sort();
    tls.client.sort();
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(text: &str, registry: &str) -> Vec<Host> {
        parse(text, Path::new("/certs"), registry).unwrap()
    }

    fn urls(hosts: &[Host]) -> Vec<String> {
        let scheme = |h: &Host| format!("{:?}", h.scheme).to_lowercase();
        hosts.iter().map(|h| format!("{}://{}{}", scheme(h), h.authority, h.prefix)).collect()
    }

    #[test]
    fn hosts_come_in_the_order_of_the_file_and_the_server_last() {
        let text = r#"
            server = "https://origin.example"
            [host."https://zeta.example"]
              capabilities = ["pull"]
            [host."http://alpha.example:5000/mirror/"]
              capabilities = ["pull", "resolve", "push"]
            [host."https://beta.example/api/docker"]
              override_path = true
        "#;
        let hosts = hosts(text, "origin.example");
        assert_eq!(
            urls(&hosts),
            [
                "https://zeta.example/v2",
                "http://alpha.example:5000/mirror/v2",
                "https://beta.example/api/docker",
                "https://origin.example/v2",
            ]
        );
        assert!(!hosts[0].resolve && hosts[0].pull && !hosts[0].origin);
        assert!(hosts[3].resolve && hosts[3].pull && hosts[3].origin);
    }

    #[test]
    fn every_key_is_understood() {
        let text = r#"
            ca = "root.pem"
            [host."https://m.example"]
              skip_verify = true
              ca = ["a.pem", "/abs/b.pem"]
              client = [["c.cert", "c.key"], "both.pem"]
              dial_timeout = "1.5s"
              [host."https://m.example".header]
                x-one = "1"
                x-two = ["2", "3"]
        "#;
        let hosts = hosts(text, "docker.io");
        let tls = &hosts[0].tls;
        assert!(tls.skip_verify);
        assert_eq!(tls.ca, [Path::new("/certs/a.pem"), Path::new("/abs/b.pem")]);
        assert_eq!(tls.client[0].1.as_deref(), Some(Path::new("/certs/c.key")));
        assert_eq!(tls.client[1], (PathBuf::from("/certs/both.pem"), None));
        assert_eq!(hosts[0].dial_timeout, Some(Duration::from_millis(1500)));
        assert_eq!(hosts[0].headers.len(), 3);
        assert_eq!(urls(&hosts[1..]), ["https://registry-1.docker.io/v2"]);
        assert_eq!(hosts[1].tls.ca, [Path::new("/certs/root.pem")]);
        assert!(hosts[1].origin);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("server = 3", "server"),
            ("[host.\"ftp://x\"]", "ftp"),
            ("[host.\"https://x\"]\ncapabilities = [\"fly\"]", "fly"),
            ("[host.\"https://u:p@x\"]", "credentials"),
            ("[host.\"https://x\"]\ndial_timeout = \"soon\"", "soon"),
        ] {
            let error = parse(text, Path::new("/"), "a.b").unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_directory_is_looked_for_under_three_names() {
        let temp = tempfile::tempdir().unwrap();
        let write = |name: &str, server: &str| {
            let directory = temp.path().join(name);
            std::fs::create_dir(&directory).unwrap();
            std::fs::write(directory.join("hosts.toml"), format!("server = \"{server}\"")).unwrap();
        };
        let find = || find(&[temp.path().to_path_buf()], "r.example:5000").unwrap();
        assert_eq!(urls(&find()), ["https://r.example:5000/v2"]);
        write("_default", "https://default.example");
        assert_eq!(urls(&find()), ["https://default.example/v2"]);
        write("r.example:5000", "https://colon.example");
        assert_eq!(urls(&find()), ["https://colon.example/v2"]);
        write("r.example_5000_", "https://under.example");
        assert_eq!(urls(&find()), ["https://under.example/v2"]);
    }

    #[test]
    fn a_registry_on_this_machine_may_be_without_tls() {
        for registry in ["localhost:5000", "127.0.0.1:5000", "[::1]:5000", "localhost"] {
            assert_eq!(find(&[], registry).unwrap()[0].scheme, Scheme::Either);
        }
        assert_eq!(find(&[], "10.0.0.1:5000").unwrap()[0].scheme, Scheme::Https);
    }

    #[test]
    fn certificates_alone_are_enough() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("r.example");
        std::fs::create_dir(&directory).unwrap();
        for name in ["ca.crt", "me.cert", "me.key"] {
            std::fs::write(directory.join(name), "").unwrap();
        }
        let hosts = find(&[temp.path().to_path_buf()], "r.example").unwrap();
        assert_eq!(hosts[0].tls.ca, [directory.join("ca.crt")]);
        assert_eq!(hosts[0].tls.client[0].0, directory.join("me.cert"));
        std::fs::remove_file(directory.join("me.key")).unwrap();
        assert!(find(&[temp.path().to_path_buf()], "r.example").is_err());
    }
}
