//! Device nodes of a container, and the rules of the device controller.

use std::path::{Path, PathBuf};

use berth_pod::spec::Device;

use crate::error::Error;
use crate::facts::{ContainerInput, DeviceNode};
use crate::paths;
use crate::spec::{DeviceKind, DeviceRule, LinuxDevice};

/// null, zero, full, random, urandom, tty, ptmx: the runtime makes the nodes. 136 is every pty.
const ALWAYS: [(i64, Option<i64>); 8] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
];

/// Nodes and rules of one container.
pub(crate) struct Devices {
    pub(crate) nodes: Vec<LinuxDevice>,
    pub(crate) rules: Vec<DeviceRule>,
}

/// What a container that names no device has: nothing but the harmless ones.
pub(crate) fn default_rules() -> Vec<DeviceRule> {
    let any = |allow, kind, access: &str| DeviceRule {
        allow,
        kind,
        major: None,
        minor: None,
        access: access.to_owned(),
    };
    let mut rules = vec![
        any(false, None, "rwm"),
        any(true, Some(DeviceKind::Char), "m"),
        any(true, Some(DeviceKind::Block), "m"),
    ];
    rules.extend(ALWAYS.iter().map(|&(major, minor)| DeviceRule {
        allow: true,
        kind: Some(DeviceKind::Char),
        major: Some(major),
        minor,
        access: "rwm".to_owned(),
    }));
    rules
}

/// The devices of a container. A privileged one has every node of the host and no rule.
pub(crate) fn of_container(input: &ContainerInput<'_>) -> Result<Devices, Error> {
    let spec = input.spec;
    if spec.devices.len() != input.devices.len() {
        return Err(Error::Missing("devices were not all looked up".to_owned()));
    }
    let all =
        DeviceRule { allow: true, kind: None, major: None, minor: None, access: "rwm".to_owned() };
    let privileged = spec.security.privileged;
    let mut devices = Devices { nodes: Vec::new(), rules: default_rules() };
    if privileged {
        devices.rules = vec![all];
        if !input.pod.handler.privileged_without_host_devices {
            let host = input.pod.node.devices.iter().filter(|d| !of_the_runtime(&d.path));
            devices.nodes = host.map(|d| node(d, d.path.clone())).collect();
        }
    }
    for (at, (asked, found)) in spec.devices.iter().zip(input.devices).enumerate() {
        let field = format!("devices[{at}]");
        let access = access(&field, &asked.permissions)?;
        for device in found {
            let path = container_path(&field, asked, device)?;
            devices.nodes.retain(|other| other.path != path);
            devices.nodes.push(node(device, path));
            if !privileged {
                devices.rules.push(rule(device, &access));
            }
        }
    }
    devices.nodes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(devices)
}

/// What the runtime sets up for each container, from its own devpts and the container's mounts.
fn of_the_runtime(path: &Path) -> bool {
    let own = ["/dev/console", "/dev/ptmx", "/dev/pts", "/dev/shm", "/dev/mqueue"];
    own.iter().any(|own| path.starts_with(own))
}

pub(crate) fn node(device: &DeviceNode, path: PathBuf) -> LinuxDevice {
    LinuxDevice {
        path,
        kind: device.kind,
        major: device.major,
        minor: device.minor,
        file_mode: Some(device.mode & 0o7777),
        uid: Some(device.uid),
        gid: Some(device.gid),
    }
}

pub(crate) fn rule(device: &DeviceNode, access: &str) -> DeviceRule {
    DeviceRule {
        allow: true,
        kind: Some(device.kind),
        major: Some(device.major),
        minor: Some(device.minor),
        access: access.to_owned(),
    }
}

/// Where a found node goes: below the asked path as it lay below the asked directory.
fn container_path(field: &str, asked: &Device, found: &DeviceNode) -> Result<PathBuf, Error> {
    let base = paths::absolute(&format!("{field}.container_path"), &asked.container_path)?;
    Ok(match found.path.strip_prefix(&asked.host_path) {
        Ok(below) if below.as_os_str().is_empty() => base,
        Ok(below) => paths::clean(&base.join(below)),
        Err(_) => base,
    })
}

pub(crate) fn access(field: &str, asked: &str) -> Result<String, Error> {
    let fine = !asked.is_empty() && asked.chars().all(|c| "rwm".contains(c));
    if !fine {
        let text = format!("{asked:?} must be one or more of r, w and m");
        return Err(Error::invalid(format!("{field}.permissions"), text));
    }
    Ok("rwm".chars().filter(|&c| asked.contains(c)).collect())
}
