//! `[handlers.<name>]`: from the file's words to what a handler is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_lifecycle::{SandboxMode, ShimOptions};
use berth_shim_client::{Any, RuncOptions, RuntimeOptions};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Error;
use super::checked::Check;
use super::file::{File, Handler, OptionsType};

/// The name that a handler table must have to be a RuntimeClass's handler (RFC 1123 label).
const NAME_MAX: usize = 63;

/// The shim of a handler that names none: then it differs by its OCI runtime.
pub(crate) const OUR_SHIM: &str = "containerd-shim-berth-v1";

/// A handler, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HandlerConfig {
    /// A path, or the name of a binary.
    pub(crate) shim: String,
    pub(crate) runtime: Option<String>,
    pub(crate) runtime_root: PathBuf,
    pub(crate) options: Option<ShimOptions>,
    /// The OCI runtime that a shim of runc's kind drives, by its options.
    pub(crate) binary_name: Option<String>,
    pub(crate) pod_annotations: Vec<String>,
    pub(crate) container_annotations: Vec<String>,
    pub(crate) base_spec: Option<PathBuf>,
    pub(crate) cni_conf_dir: Option<PathBuf>,
    pub(crate) sandbox: SandboxMode,
    pub(crate) privileged: bool,
    pub(crate) privileged_without_host_devices: bool,
}

impl HandlerConfig {
    /// A handler of which only the shim is said.
    pub(crate) fn plain(shim: String, runtime_root: PathBuf) -> Self {
        Self {
            shim,
            runtime: None,
            runtime_root,
            options: None,
            binary_name: None,
            pod_annotations: Vec::new(),
            container_annotations: Vec::new(),
            base_spec: None,
            cni_conf_dir: None,
            sandbox: SandboxMode::Auto,
            privileged: true,
            privileged_without_host_devices: false,
        }
    }
}

/// May a handler have this name?
pub(crate) fn is_handler_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= NAME_MAX && name.chars().all(plain)
}

/// The binary of a runtime type, `io.containerd.runc.v2` → `containerd-shim-runc-v2`; none if it
/// is no runtime type. Only its last two parts count, as the shim contract has it.
fn of_runtime_type(given: &str) -> Option<String> {
    let mut parts = given.rsplit('.');
    let (version, name) = (parts.next()?, parts.next()?);
    let numbered = version.strip_prefix('v')?.parse::<u32>().is_ok();
    let whole = parts.next().is_some() && !name.is_empty() && !given.contains('/');
    (numbered && whole).then(|| format!("containerd-shim-{name}-{version}"))
}

/// `containerd-shim-runc-v2` → `runc`, `v2`; none if the file is not named so.
pub(crate) fn shim_name(binary: &str) -> Option<(&str, &str)> {
    let file = binary.rsplit('/').next().unwrap_or_default();
    file.strip_prefix("containerd-shim-")?.rsplit_once('-')
}

/// As the options have it, which are checked elsewhere.
fn binary_name(options: &toml::Table) -> Option<String> {
    let given = ["binary_name", "BinaryName"].iter().find_map(|key| options.get(*key))?;
    given.as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

impl Check<'_> {
    /// Every handler of a file.
    pub(super) fn handlers(
        &self,
        file: &File,
        state: &Path,
    ) -> Result<BTreeMap<String, HandlerConfig>, Error> {
        let mut handlers = BTreeMap::new();
        for (name, given) in &file.handlers {
            if !is_handler_name(name) {
                let advice = "name it with at most 63 lower-case letters, digits and '-'";
                return self.refuse(&format!("handlers.{name}"), name, advice);
            }
            handlers.insert(name.clone(), self.handler(name, given, state)?);
        }
        Ok(handlers)
    }

    fn handler(&self, name: &str, given: &Handler, state: &Path) -> Result<HandlerConfig, Error> {
        let key = |word: &str| format!("handlers.{name}.{word}");
        let shim = match given.shim.as_str() {
            "" => OUR_SHIM.to_owned(),
            shim => match of_runtime_type(shim) {
                Some(binary) => binary,
                None => self.program(&key("shim"), shim)?,
            },
        };
        let path = |word: &str, given: &str| match given {
            "" => Ok(None),
            path => self.absolute(&key(word), path).map(Some),
        };
        Ok(HandlerConfig {
            runtime: match given.runtime.as_str() {
                "" => None,
                runtime => Some(self.program(&key("runtime"), runtime)?),
            },
            runtime_root: match path("runtime_root", &given.runtime_root)? {
                None => state.join("oci").join(name),
                Some(path) => path,
            },
            options: self.options(name, given, &shim)?,
            binary_name: binary_name(&given.options),
            pod_annotations: self.patterns(&key("pod_annotations"), &given.pod_annotations)?,
            container_annotations: self
                .patterns(&key("container_annotations"), &given.container_annotations)?,
            base_spec: path("base_spec", &given.base_spec)?,
            cni_conf_dir: path("cni_conf_dir", &given.cni_conf_dir)?,
            sandbox: given.sandbox,
            privileged: given.privileged,
            privileged_without_host_devices: given.privileged_without_host_devices,
            shim,
        })
    }

    fn patterns(&self, key: &str, given: &[String]) -> Result<Vec<String>, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./*?".contains(c);
        match given.iter().find(|p| p.is_empty() || !p.chars().all(plain)) {
            Some(bad) => {
                let advice = "give names of annotations, in which * and ? stand for other text";
                self.refuse(key, bad, advice)
            }
            None => Ok(given.to_vec()),
        }
    }

    fn options(
        &self,
        name: &str,
        given: &Handler,
        shim: &str,
    ) -> Result<Option<ShimOptions>, Error> {
        let key = format!("handlers.{name}.options");
        let kind = shim_name(shim).map(|(kind, _)| kind);
        let asked = given.options_type != OptionsType::Found || !given.options.is_empty();
        if kind == Some("berth") && asked {
            let advice = "Berth's own shim is told by `runtime` and `runtime_root`: leave it out";
            let at = if given.options.is_empty() { key + "_type" } else { key };
            return self.refuse(&at, &given.options, advice);
        }
        let encoded = match (given.options_type, kind) {
            _ if !asked => return Ok(None),
            (OptionsType::Runc, _) | (OptionsType::Found, Some("runc")) => {
                self.table::<Runc>(&key, given, RuncOptions::TYPE)?.into_any()
            }
            (OptionsType::Runtime | OptionsType::Found, _) => {
                self.table::<Runtime>(&key, given, RuntimeOptions::TYPE)?.into_any()
            }
        };
        match encoded {
            Ok(options) => Ok(Some(options.into())),
            Err(why) => self.refuse(&key, &given.options, &why.to_string()),
        }
    }

    /// The options, typed. Each key is first looked at by itself, so that a refusal names it.
    fn table<T: DeserializeOwned>(
        &self,
        key: &str,
        given: &Handler,
        message: &str,
    ) -> Result<T, Error> {
        for (word, value) in &given.options {
            let alone = toml::Table::from_iter([(word.clone(), value.clone())]);
            if let Err(why) = alone.try_into::<T>() {
                let why = why.message().trim_end();
                let advice = format!(
                    "{why}: it is to be a key of {message}, which options_type can name instead"
                );
                return self.refuse(&format!("{key}.{word}"), value, &advice);
            }
        }
        match given.options.clone().try_into() {
            Ok(typed) => Ok(typed),
            // One key under two of its names.
            Err(why) => self.refuse(key, &given.options, why.message()),
        }
    }
}

/// `containerd.runc.v1.Options`, by the fields' names or as containerd's own files spell them.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Runc {
    #[serde(alias = "NoPivotRoot")]
    no_pivot_root: bool,
    #[serde(alias = "NoNewKeyring")]
    no_new_keyring: bool,
    #[serde(alias = "ShimCgroup")]
    shim_cgroup: String,
    #[serde(alias = "IoUid")]
    io_uid: u32,
    #[serde(alias = "IoGid")]
    io_gid: u32,
    #[serde(alias = "BinaryName")]
    binary_name: String,
    #[serde(alias = "Root")]
    root: String,
    #[serde(alias = "SystemdCgroup")]
    systemd_cgroup: bool,
    #[serde(alias = "CriuImagePath")]
    criu_image_path: String,
    #[serde(alias = "CriuWorkPath")]
    criu_work_path: String,
}

impl Runc {
    fn into_any(self) -> berth_shim_client::Result<Any> {
        RuncOptions {
            no_pivot_root: self.no_pivot_root,
            no_new_keyring: self.no_new_keyring,
            shim_cgroup: self.shim_cgroup,
            io_uid: self.io_uid,
            io_gid: self.io_gid,
            binary_name: self.binary_name,
            root: self.root,
            systemd_cgroup: self.systemd_cgroup,
            criu_image_path: self.criu_image_path,
            criu_work_path: self.criu_work_path,
        }
        .into_any()
    }
}

/// `runtimeoptions.v1.Options`, likewise.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Runtime {
    #[serde(alias = "TypeUrl")]
    type_url: String,
    #[serde(alias = "ConfigPath")]
    config_path: String,
    #[serde(alias = "ConfigBody")]
    config_body: String,
}

impl Runtime {
    fn into_any(self) -> berth_shim_client::Result<Any> {
        RuntimeOptions {
            type_url: self.type_url,
            config_path: self.config_path,
            config_body: self.config_body.into_bytes(),
        }
        .into_any()
    }
}
