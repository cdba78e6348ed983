//! What a caller says about the pod that is to be attached, and how plugins are told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{Error, Result};

/// A pod to attach to the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// The sandbox id: CNI_CONTAINERID.
    pub container_id: String,
    /// The pod's network namespace: CNI_NETNS.
    pub netns: PathBuf,
    /// The pod, as plugins are told in CNI_ARGS.
    pub pod: PodIdentity,
    /// Host ports; capability `portMappings`.
    pub port_mappings: Vec<PortMapping>,
    /// Rates; capability `bandwidth`.
    pub bandwidth: Option<Bandwidth>,
    /// The pod's DNS settings; capability `dns`.
    pub dns: Option<Dns>,
    /// The pod's cgroup; capability `cgroupPath`.
    pub cgroup_path: Option<String>,
    /// Ranges to take addresses from, one set for each address; capability `ipRanges`.
    pub ip_ranges: Vec<Vec<IpRange>>,
    /// Further names of the pod; capability `aliases`.
    pub aliases: Vec<String>,
}

/// Which pod this is, in Kubernetes' words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodIdentity {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// Transport protocol of a port mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A host port that leads to the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// Port on the node.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Address on the node; none is every address.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// Rates in bits per second, bursts in bits; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// Into the pod.
    pub ingress_rate: u64,
    /// Into the pod.
    pub ingress_burst: u64,
    /// Out of the pod.
    pub egress_rate: u64,
    /// Out of the pod.
    pub egress_burst: u64,
}

/// DNS settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// A range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IpRange {
    /// The subnet.
    pub subnet: IpNet,
    /// The first address to give out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_start: Option<IpAddr>,
    /// The last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_end: Option<IpAddr>,
    /// The gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// CNI_ARGS as pairs, in order.
pub(crate) type Args = Vec<(String, String)>;

/// What each capability's plugins are told, by the capability's name.
pub(crate) type CapabilityArgs = BTreeMap<String, Value>;

impl Attachment {
    /// CNI_ARGS, in the order that runtimes have always used.
    pub(crate) fn args(&self) -> Result<Args> {
        let pairs = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", &self.pod.namespace),
            ("K8S_POD_NAME", &self.pod.name),
            ("K8S_POD_INFRA_CONTAINER_ID", &self.container_id),
            ("K8S_POD_UID", &self.pod.uid),
        ];
        for (key, value) in pairs {
            // The format has no escapes: such a value would read as further arguments.
            if value.contains([';', '=', '\0']) {
                return Err(self.refused(format!("{key} contains one of `;`, `=`, NUL: {value:?}")));
            }
        }
        Ok(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into())
    }

    /// What plugins that declare a capability are told; nothing is said of what the pod lacks.
    pub(crate) fn capability_args(&self) -> CapabilityArgs {
        let mut args = CapabilityArgs::new();
        if !self.port_mappings.is_empty() {
            args.insert("portMappings".into(), json!(self.port_mappings));
        }
        if let Some(bandwidth) = &self.bandwidth {
            args.insert("bandwidth".into(), json!(bandwidth));
        }
        if let Some(dns) = &self.dns {
            args.insert("dns".into(), json!(dns));
        }
        if let Some(path) = &self.cgroup_path {
            args.insert("cgroupPath".into(), json!(path));
        }
        if !self.ip_ranges.is_empty() {
            args.insert("ipRanges".into(), json!(self.ip_ranges));
        }
        if !self.aliases.is_empty() {
            args.insert("aliases".into(), json!(self.aliases));
        }
        args
    }

    fn refused(&self, problem: String) -> Error {
        Error::Attachment { id: self.container_id.clone(), problem }
    }
}

/// Container ids and network names alike (CNI spec, sections 1 and 2): they become file names too.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment {
            container_id: "s1".into(),
            pod: PodIdentity { namespace: "ns".into(), name: "web".into(), uid: "u-1".into() },
            ..Attachment::default()
        }
    }

    #[test]
    fn arguments_are_in_the_customary_order() {
        let text: Vec<String> =
            attachment().args().unwrap().into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            text.join(";"),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;\
             K8S_POD_INFRA_CONTAINER_ID=s1;K8S_POD_UID=u-1"
        );
    }

    #[test]
    fn a_value_cannot_smuggle_in_an_argument() {
        let mut bad = attachment();
        bad.pod.name = "web;K8S_POD_UID=other".into();
        assert_eq!(bad.args().unwrap_err().kind(), crate::Kind::Invalid);
    }

    #[test]
    fn a_pod_that_wants_nothing_says_nothing() {
        assert!(attachment().capability_args().is_empty());
    }

    #[test]
    fn capabilities_have_the_conventional_shape() {
        let full = Attachment {
            port_mappings: vec![PortMapping {
                host_port: 8080,
                container_port: 80,
                protocol: Protocol::Tcp,
                host_ip: Some("198.18.0.1".parse().unwrap()),
            }],
            bandwidth: Some(Bandwidth { ingress_rate: 1, ..Bandwidth::default() }),
            dns: Some(Dns { servers: vec!["198.18.0.53".into()], ..Dns::default() }),
            cgroup_path: Some("/kubepods/podx".into()),
            ip_ranges: vec![vec![IpRange {
                subnet: "198.18.1.0/24".parse().unwrap(),
                range_start: None,
                range_end: None,
                gateway: None,
            }]],
            aliases: vec!["a".into()],
            ..attachment()
        };
        assert_eq!(
            json!(full.capability_args()),
            json!({
                "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "198.18.0.1"}],
                "bandwidth": {"ingressRate": 1, "ingressBurst": 0, "egressRate": 0, "egressBurst": 0},
                "dns": {"servers": ["198.18.0.53"], "searches": [], "options": []},
                "cgroupPath": "/kubepods/podx",
                "ipRanges": [[{"subnet": "198.18.1.0/24"}]],
                "aliases": ["a"],
            })
        );
    }

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for good in ["a", "0ab_c.d-e"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", ".a", "a/b", "a b", "ä", "a\0"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
