//! `PodSandboxConfig` → `SandboxSpec`.

use std::net::IpAddr;

use berth_pod::spec::{Admitted, Dns, PodName, PodOrNode, SandboxSpec};
use berth_proto::cri::v1 as cri;
use prost::Message as _;

use super::{Refusal, Rules, check, digest, namespaces, ports, resources, security, sysctls};

/// Longest host name that the kernel takes (`__NEW_UTS_LEN`).
const HOST_NAME_MAX: usize = 64;

/// Longest name of a directory (`NAME_MAX`), and so of a cgroup.
const CGROUP_NAME_MAX: usize = 255;

/// Parses the configuration of a sandbox.
///
/// # Errors
/// A refusal that names the field.
pub fn admit_sandbox(
    config: Option<&cri::PodSandboxConfig>,
    handler: &str,
    rules: &Rules,
) -> Result<Admitted<SandboxSpec>, Refusal> {
    let config = config.ok_or_else(|| Refusal::missing("config", "send the pod's config"))?;
    if config.windows.is_some() {
        return Err(Refusal::new("config.windows", "set", "this node runs Linux pods only"));
    }
    let linux = config.linux.clone().unwrap_or_default();
    let context = linux.security_context.clone().unwrap_or_default();
    security::check_sandbox(&context)?;
    let namespaces = namespaces::of_sandbox(context.namespace_options.as_ref(), rules)?;
    let on_node = namespaces.network == PodOrNode::Node;
    let resources = |part: &str, given: Option<&cri::LinuxContainerResources>| {
        let at = format!("config.linux.{part}");
        given.map(|given| resources::admit_resources(&at, given)).transpose()
    };
    let spec = SandboxSpec {
        name: name(config.metadata.as_ref())?,
        handler: check_handler(handler)?,
        hostname: if on_node { String::new() } else { hostname(&config.hostname)? },
        log_directory: match config.log_directory.as_str() {
            "" => None,
            given => Some(check::absolute("config.log_directory", given)?),
        },
        dns: config.dns_config.as_ref().map(dns).transpose()?.filter(|dns| *dns != Dns::default()),
        port_mappings: if on_node { Vec::new() } else { ports::admit(&config.port_mappings)? },
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        cgroup_parent: cgroup_parent(&linux.cgroup_parent, rules)?,
        sysctls: sysctls::admit(&linux.sysctls, &namespaces)?,
        namespaces,
        privileged: context.privileged,
        selinux: security::selinux(context.selinux_options.as_ref()),
        overhead: resources("overhead", linux.overhead.as_ref())?,
        resources: resources("resources", linux.resources.as_ref())?,
    };
    Ok(Admitted { spec, digest: digest::digest(handler, config), original: config.encode_to_vec() })
}

fn name(metadata: Option<&cri::PodSandboxMetadata>) -> Result<PodName, Refusal> {
    let given = metadata
        .ok_or_else(|| Refusal::missing("config.metadata", "send name, namespace and uid"))?;
    Ok(PodName {
        name: check::name("config.metadata.name", &given.name)?,
        namespace: check::name("config.metadata.namespace", &given.namespace)?,
        uid: check::name("config.metadata.uid", &given.uid)?,
        attempt: given.attempt,
    })
}

fn check_handler(handler: &str) -> Result<String, Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if handler.chars().all(plain) {
        return Ok(handler.to_owned());
    }
    let advice = "name a handler of this node's configuration, or leave it empty";
    Err(Refusal::new("runtime_handler", handler, advice))
}

fn hostname(given: &str) -> Result<String, Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if given.len() > HOST_NAME_MAX || !given.chars().all(plain) {
        let advice = "give at most 64 letters, digits, '-', '_' and '.'";
        return Err(Refusal::new("config.hostname", given, advice));
    }
    Ok(given.to_owned())
}

fn dns(given: &cri::DnsConfig) -> Result<Dns, Refusal> {
    let words = |part: &str, given: &[String]| {
        let at = |i| format!("config.dns_config.{part}[{i}]");
        given.iter().enumerate().map(|(i, w)| check::word(&at(i), w)).collect::<Result<Vec<_>, _>>()
    };
    let servers = words("servers", &given.servers)?;
    for (i, server) in servers.iter().enumerate() {
        // A link-local address carries its interface: fe80::1%eth0.
        let address = server.split_once('%').map_or(server.as_str(), |(address, _)| address);
        if address.parse::<IpAddr>().is_err() {
            let at = format!("config.dns_config.servers[{i}]");
            return Err(Refusal::new(at, server, "give the server's IP address"));
        }
    }
    Ok(Dns {
        servers,
        searches: words("searches", &given.searches)?,
        options: words("options", &given.options)?,
    })
}

fn cgroup_parent(given: &str, rules: &Rules) -> Result<Option<String>, Refusal> {
    const FIELD: &str = "config.linux.cgroup_parent";
    if given.is_empty() {
        return Ok(None);
    }
    check::text(FIELD, given)?;
    let parts: Vec<&str> = given.split('/').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() || parts.iter().any(|part| matches!(*part, "." | "..")) {
        let advice = "give the path of a cgroup below the root, without '.' and '..'";
        return Err(Refusal::new(FIELD, given, advice));
    }
    if given.chars().any(char::is_control) || parts.iter().any(|part| part.len() > CGROUP_NAME_MAX)
    {
        let advice =
            "give each cgroup on it a name of at most 255 bytes, without control characters";
        return Err(Refusal::new(FIELD, given, advice));
    }
    let slice = parts.last().is_some_and(|last| last.ends_with(".slice"));
    if slice != rules.systemd_cgroups {
        let (kubelet, berth) =
            if slice { ("systemd", "cgroupfs") } else { ("cgroupfs", "systemd") };
        let advice = format!(
            "it is a name of the {kubelet} cgroup driver, and Berth uses {berth}: set the \
             kubelet's cgroupDriver to {berth}"
        );
        return Err(Refusal::new(FIELD, given, advice));
    }
    Ok(Some(format!("/{}", parts.join("/"))))
}
