//! The options of shims by others, two messages of which each shim takes one; and what a shim says
//! of itself.

use berth_proto::{runc_options, runtime_options, types};
use protobuf::Message as _;

use crate::decode::decode;
use crate::{Any, Error, Result};

/// `containerd.runc.v1.Options`: what shims of the runc kind take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuncOptions {
    /// Do not `pivot_root` (a root file system in memory).
    pub no_pivot_root: bool,
    /// Containers keep the daemon's session keyring.
    pub no_new_keyring: bool,
    /// The cgroup of the shim, if it is to have one of its own.
    pub shim_cgroup: String,
    /// Owner of the stdio pipes.
    pub io_uid: u32,
    /// Their group.
    pub io_gid: u32,
    /// The OCI runtime; "" is `runc` on PATH.
    pub binary_name: String,
    /// Where the OCI runtime keeps its state; "" is the shim's own choice.
    pub root: String,
    /// Cgroups are made through systemd.
    pub systemd_cgroup: bool,
    /// Where CRIU puts images.
    pub criu_image_path: String,
    /// Where CRIU works.
    pub criu_work_path: String,
}

impl RuncOptions {
    /// The message's type.
    pub const TYPE: &'static str = "containerd.runc.v1.Options";

    /// The options as a message.
    ///
    /// # Errors
    /// They cannot be encoded (more than 2 GiB).
    pub fn into_any(self) -> Result<Any> {
        encode(
            Self::TYPE,
            &runc_options::Options {
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
                ..runc_options::Options::default()
            },
        )
    }
}

/// The options of a pod whose cgroups systemd makes: a shim of the runc kind is told to have them made
/// by systemd, any other gets what it was to get.
///
/// # Errors
/// The options cannot be read, though they are said to be of that kind.
pub fn with_systemd(options: Option<Any>, shim: &std::path::Path) -> Result<Option<Any>> {
    let name = shim.file_name().unwrap_or_default().to_string_lossy();
    let mut message = match &options {
        Some(options) if options.type_url == RuncOptions::TYPE => {
            runc_options::Options::parse_from_bytes(&options.value)
                .map_err(|e| Error::Answer { problem: format!("as its own options: {e}") })?
        }
        None if name.starts_with("containerd-shim-runc-v") => runc_options::Options::default(),
        _ => return Ok(options),
    };
    message.systemd_cgroup = true;
    encode(RuncOptions::TYPE, &message).map(Some)
}

/// `runtimeoptions.v1.Options`: what every other shim takes, if it takes any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// What the configuration is, in the shim's own words.
    pub type_url: String,
    /// Its configuration file.
    pub config_path: String,
    /// The configuration itself, in place of a file.
    pub config_body: Vec<u8>,
}

impl RuntimeOptions {
    /// The message's type.
    pub const TYPE: &'static str = "runtimeoptions.v1.Options";

    /// The options as a message.
    ///
    /// # Errors
    /// They cannot be encoded (more than 2 GiB).
    pub fn into_any(self) -> Result<Any> {
        encode(
            Self::TYPE,
            &runtime_options::Options {
                type_url: self.type_url,
                config_path: self.config_path,
                config_body: self.config_body,
                ..runtime_options::Options::default()
            },
        )
    }
}

/// What a shim says of itself when it is run with `-info`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// Its name: a runtime type.
    pub name: String,
    /// What its runtime can do: the OCI features structure, as JSON.
    pub features: Option<Any>,
}

impl RuntimeInfo {
    /// Reads the answer.
    ///
    /// # Errors
    /// It is no such message.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let info = decode::<types::RuntimeInfo>(bytes)
            .map_err(|e| Error::Answer { problem: format!("to -info: {e}") })?;
        Ok(Self { name: info.name, features: info.features.into_option().map(Any::from) })
    }
}

impl Any {
    /// Encoded, as a shim reads its options on stdin; nothing of an empty one.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        // Fails only beyond 2 GiB.
        self.into_wire().write_to_bytes().unwrap_or_default()
    }
}

fn encode(type_url: &str, message: &impl protobuf::Message) -> Result<Any> {
    let value = message.write_to_bytes().map_err(|e| Error::Request {
        call: "Create",
        id: String::new(),
        why: format!("its options: {e}"),
    })?;
    Ok(Any { type_url: type_url.to_owned(), value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shims_of_the_runc_kind_are_told_of_systemd() {
        let read = |any: &Any| runc_options::Options::parse_from_bytes(&any.value).unwrap();
        let shim = std::path::Path::new("/usr/bin/containerd-shim-runc-v2");
        let told = with_systemd(None, shim).unwrap().unwrap();
        assert!(told.type_url == RuncOptions::TYPE && read(&told).systemd_cgroup);
        let own = RuncOptions { binary_name: "crun".into(), ..RuncOptions::default() };
        let told = with_systemd(Some(own.into_any().unwrap()), "x".as_ref()).unwrap().unwrap();
        assert!(read(&told).systemd_cgroup && read(&told).binary_name == "crun");
        assert_eq!(with_systemd(None, "/a/containerd-shim-kata-v2".as_ref()).unwrap(), None);
        let other = RuntimeOptions::default().into_any().unwrap();
        assert_eq!(with_systemd(Some(other.clone()), shim).unwrap(), Some(other));
    }

    #[test]
    fn options_stand_in_the_fields_that_their_shims_read() {
        let runc = RuncOptions {
            binary_name: "crun".into(),
            systemd_cgroup: true,
            ..RuncOptions::default()
        };
        let any = runc.into_any().unwrap();
        assert_eq!(any.type_url, "containerd.runc.v1.Options");
        // Field 6, text; field 9, true.
        assert_eq!(any.value, b"\x32\x04crun\x48\x01");
        let other = RuntimeOptions { config_path: "/r".into(), ..RuntimeOptions::default() };
        let any = other.into_any().unwrap();
        assert_eq!(any.type_url, "runtimeoptions.v1.Options");
        assert_eq!(any.value, b"\x12\x02/r");
    }
}
