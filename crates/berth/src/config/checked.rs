//! Checked values: what the rest of the daemon is given.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use berth_cri::Restore;

use super::file::{self, Driver, File, Format};
use super::handlers::HandlerConfig;
use super::{Error, duration};

/// No deadline is longer: what takes more is stuck.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The longest path of a unix socket (`sun_path`, with its NUL).
const SOCKET_PATH_MAX: usize = 107;

/// Berth's configuration, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) root: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) group: Option<String>,
    pub(crate) log_level: String,
    pub(crate) log_format: Format,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) streaming: StreamingConfig,
    pub(crate) cgroup_driver: Driver,
    pub(crate) cgroup_parent: String,
    pub(crate) cgroup_slice: String,
    pub(crate) pods: file::Pods,
    pub(crate) handlers: BTreeMap<String, HandlerConfig>,
    /// What is installed is offered, too.
    pub(crate) find_handlers: bool,
    pub(crate) helper: String,
    pub(crate) network: NetworkConfig,
    pub(crate) images: ImagesConfig,
    pub(crate) restore: Restore,
    /// None: there are no plugins.
    pub(crate) nri: Option<NriConfig>,
    pub(crate) deadlines: DeadlinesConfig,
}

/// `[streaming]`, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StreamingConfig {
    pub(crate) address: SocketAddr,
    /// The certificate and its key.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    pub(crate) idle: Duration,
}

/// `[network]`, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NetworkConfig {
    pub(crate) conf_dir: PathBuf,
    pub(crate) bin_dirs: Vec<PathBuf>,
    pub(crate) template: Option<PathBuf>,
    pub(crate) owned: Vec<String>,
}

/// `[images]`, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ImagesConfig {
    pub(crate) hosts_dir: PathBuf,
    pub(crate) docker_config: Option<PathBuf>,
    pub(crate) pinned: Vec<String>,
    pub(crate) parallel_layers: usize,
    pub(crate) parallel_layers_per_pull: usize,
    pub(crate) progress_timeout: Duration,
}

/// `[nri]`, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NriConfig {
    pub(crate) socket: Option<PathBuf>,
    pub(crate) plugins_dir: PathBuf,
    pub(crate) config_dir: PathBuf,
    pub(crate) registration_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) required: Vec<String>,
    pub(crate) tolerate_missing_annotation: String,
}

/// `[deadlines]`, checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DeadlinesConfig {
    pub(crate) cni_add: Duration,
    pub(crate) cni_del: Duration,
    pub(crate) mount: Duration,
}

/// Tells which file and line set a key.
type Place<'a> = &'a dyn Fn(&str) -> String;

pub(super) struct Check<'a> {
    place: Place<'a>,
}

/// Checks every value; `place` tells where a key was set, for refusals.
pub(crate) fn check(file: &File, find_handlers: bool, place: Place<'_>) -> Result<Config, Error> {
    let check = Check { place };
    let state = check.absolute("state", &file.state)?;
    Ok(Config {
        root: check.absolute("root", &file.root)?,
        socket: check.socket(&file.api.socket)?,
        group: some(&file.api.group),
        log_level: check.level(&file.log.level)?,
        log_format: file.log.format,
        metrics: check.address(&file.metrics.address)?,
        streaming: check.streaming(&file.streaming)?,
        cgroup_driver: file.cgroups.driver,
        cgroup_parent: check.cgroups(&file.cgroups)?,
        cgroup_slice: check.slice(&file.cgroups.slice)?,
        pods: check.pods(file)?,
        handlers: check.handlers(file, &state)?,
        find_handlers,
        helper: check.program("helper.path", &file.helper.path)?,
        network: check.network(&file.network)?,
        images: check.images(&file.images)?,
        restore: Restore {
            archives: file.checkpoints.restore_archives,
            images: file.checkpoints.restore_images,
        },
        nri: check.nri(&file.nri)?,
        deadlines: check.deadlines(&file.deadlines)?,
        state,
    })
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl Check<'_> {
    pub(super) fn refuse<T>(
        &self,
        key: &str,
        value: impl std::fmt::Debug,
        advice: &str,
    ) -> Result<T, Error> {
        Err(Error::Value {
            at: (self.place)(key),
            key: key.to_owned(),
            value: format!("{value:?}"),
            advice: advice.to_owned(),
        })
    }

    pub(super) fn absolute(&self, key: &str, given: &str) -> Result<PathBuf, Error> {
        if !given.starts_with('/') || given.contains('\0') {
            return self.refuse(key, given, "give an absolute path");
        }
        Ok(PathBuf::from(given))
    }

    fn socket(&self, given: &str) -> Result<PathBuf, Error> {
        // It is bound under a longer, temporary name first.
        if given.len() + super::super::serve::TEMPORARY.len() > SOCKET_PATH_MAX {
            return self.refuse("api.socket", given, "a unix socket's path ends at 107 bytes");
        }
        self.absolute("api.socket", given)
    }

    fn level(&self, given: &str) -> Result<String, Error> {
        if given.is_empty() || given.parse::<tracing_subscriber::filter::Targets>().is_err() {
            let advice = "give off, error, warn, info, debug, trace, or directives target=level";
            return self.refuse("log.level", given, advice);
        }
        Ok(given.to_owned())
    }

    fn address(&self, given: &str) -> Result<Option<SocketAddr>, Error> {
        if given.is_empty() {
            return Ok(None);
        }
        match given.parse() {
            Ok(address) => Ok(Some(address)),
            Err(_) => self.refuse("metrics.address", given, "give ip:port, or \"\" to serve none"),
        }
    }

    fn streaming(&self, given: &file::Streaming) -> Result<StreamingConfig, Error> {
        let tls = match (given.tls_cert.as_str(), given.tls_key.as_str()) {
            ("", "") => None,
            ("", _) => {
                let advice = "give the certificate of streaming.tls_key, or \"\" for both";
                return self.refuse("streaming.tls_cert", "", advice);
            }
            (_, "") => {
                let advice = "give the key of streaming.tls_cert, or \"\" for both";
                return self.refuse("streaming.tls_key", "", advice);
            }
            (cert, key) => Some((
                self.absolute("streaming.tls_cert", cert)?,
                self.absolute("streaming.tls_key", key)?,
            )),
        };
        let Ok(address) = given.address.parse() else {
            let advice = "give ip:port; port 0 takes a free one";
            return self.refuse("streaming.address", &given.address, advice);
        };
        Ok(StreamingConfig { address, tls, idle: self.duration("streaming.idle", &given.idle)? })
    }

    fn cgroups(&self, given: &file::Cgroups) -> Result<String, Error> {
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        let below = given.parent.strip_prefix('/');
        if !below.is_some_and(|below| below.split('/').all(plain)) {
            let advice = "give the path of a cgroup below the root, such as /berth";
            return self.refuse("cgroups.parent", &given.parent, advice);
        }
        Ok(given.parent.clone())
    }

    fn slice(&self, given: &str) -> Result<String, Error> {
        match berth_cgroup::systemd::slice_path(given) {
            Ok(_) => Ok(given.to_owned()),
            Err(_) => self.refuse("cgroups.slice", given, "name a slice, such as berth.slice"),
        }
    }

    fn pods(&self, file: &File) -> Result<file::Pods, Error> {
        let name = &file.pods.default_handler;
        if !file.handlers.contains_key(name) {
            let advice = "name a handler that has a table [handlers.<name>]";
            return self.refuse("pods.default_handler", name, advice);
        }
        Ok(file.pods.clone())
    }

    pub(super) fn program(&self, key: &str, given: &str) -> Result<String, Error> {
        if given.is_empty() || (given.contains('/') && !given.starts_with('/')) {
            return self.refuse(key, given, "give an absolute path, or a name to be looked for");
        }
        Ok(given.to_owned())
    }

    fn network(&self, given: &file::Network) -> Result<NetworkConfig, Error> {
        if given.bin_dirs.is_empty() {
            return self.refuse("network.bin_dirs", &given.bin_dirs, "give at least one directory");
        }
        let directory = |directory: &String| self.absolute("network.bin_dirs", directory);
        Ok(NetworkConfig {
            conf_dir: self.absolute("network.conf_dir", &given.conf_dir)?,
            bin_dirs: given.bin_dirs.iter().map(directory).collect::<Result<_, _>>()?,
            template: match given.template.as_str() {
                "" => None,
                path => Some(self.absolute("network.template", path)?),
            },
            owned: given.owned.clone(),
        })
    }

    fn images(&self, given: &file::Images) -> Result<ImagesConfig, Error> {
        let number = |key: &str, given: u64| match usize::try_from(given) {
            Ok(number @ 1..=64) => Ok(number),
            _ => self.refuse(&format!("images.{key}"), given, "give a number from 1 to 64"),
        };
        Ok(ImagesConfig {
            hosts_dir: self.absolute("images.hosts_dir", &given.hosts_dir)?,
            docker_config: match given.docker_config.as_str() {
                "" => None,
                path => Some(self.absolute("images.docker_config", path)?),
            },
            pinned: given.pinned.clone(),
            parallel_layers: number("parallel_layers", given.parallel_layers)?,
            parallel_layers_per_pull: number(
                "parallel_layers_per_pull",
                given.parallel_layers_per_pull,
            )?,
            progress_timeout: self.duration("images.progress_timeout", &given.progress_timeout)?,
        })
    }

    fn nri(&self, given: &file::Nri) -> Result<Option<NriConfig>, Error> {
        if !given.enabled {
            return match given.required.is_empty() {
                true => Ok(None),
                false => {
                    let advice = "no plugin can be there with nri.enabled = false: leave it empty";
                    self.refuse("nri.required", &given.required, advice)
                }
            };
        }
        if given.socket.len() > SOCKET_PATH_MAX {
            let advice = "a unix socket's path ends at 107 bytes";
            return self.refuse("nri.socket", &given.socket, advice);
        }
        if given.required.iter().any(String::is_empty) {
            return self.refuse("nri.required", &given.required, "give names of plugins");
        }
        let socket = some(&given.socket).map(|path| self.absolute("nri.socket", &path));
        Ok(Some(NriConfig {
            socket: socket.transpose()?,
            plugins_dir: self.absolute("nri.plugins_dir", &given.plugins_dir)?,
            config_dir: self.absolute("nri.config_dir", &given.config_dir)?,
            registration_timeout: self
                .duration("nri.registration_timeout", &given.registration_timeout)?,
            request_timeout: self.duration("nri.request_timeout", &given.request_timeout)?,
            required: given.required.clone(),
            tolerate_missing_annotation: given.tolerate_missing_annotation.clone(),
        }))
    }

    fn deadlines(&self, given: &file::Deadlines) -> Result<DeadlinesConfig, Error> {
        Ok(DeadlinesConfig {
            cni_add: self.duration("deadlines.cni_add", &given.cni_add)?,
            cni_del: self.duration("deadlines.cni_del", &given.cni_del)?,
            mount: self.duration("deadlines.mount", &given.mount)?,
        })
    }

    fn duration(&self, key: &str, given: &str) -> Result<Duration, Error> {
        match duration::parse(given) {
            Some(duration) if !duration.is_zero() && duration <= LONGEST => Ok(duration),
            _ => self.refuse(
                key,
                given,
                "give a number and a unit, up to a day: 500ms, 60s, 4m or 1h",
            ),
        }
    }
}
