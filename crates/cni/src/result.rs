//! What plugins answer to ADD: parsed from any version's shape, and handed on to the next plugin.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::plugin::excerpt;
use crate::{Error, Result, Version};

/// A pod's attachment to a network, as the last plugin of the list reported it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The network's name.
    pub network: String,
    /// All interfaces, in the pod and on the node.
    pub interfaces: Vec<Interface>,
    /// The pod's addresses, in the plugin's order, never empty: the first is the pod's IP.
    pub ips: Vec<Ip>,
    /// Routes in the pod.
    pub routes: Vec<Route>,
    /// Name servers that the network offers.
    pub nameservers: Vec<String>,
    /// Search domains that the network offers.
    pub searches: Vec<String>,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address; may be empty.
    #[serde(default)]
    pub mac: String,
    /// Its MTU, where the plugin says (spec 1.1).
    #[serde(default)]
    pub mtu: Option<u32>,
    /// The netns that it is in; empty on the node.
    #[serde(default)]
    pub sandbox: String,
}

/// An address of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// Address and prefix length.
    pub address: IpNet,
    /// The gateway, where there is one.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// Index into the result's interfaces.
    #[serde(default)]
    pub interface: Option<usize>,
}

/// A route in the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: IpNet,
    /// By which gateway; none is the address's.
    #[serde(default)]
    pub gw: Option<IpAddr>,
}

/// The common shape of results from 0.3.0 to 1.1.0: they differ in `version` of an address, which
/// its text tells as well.
#[derive(Deserialize)]
struct Wire {
    #[serde(default, deserialize_with = "or_default")]
    interfaces: Vec<Interface>,
    #[serde(default, deserialize_with = "or_default")]
    ips: Vec<Ip>,
    #[serde(default, deserialize_with = "or_default")]
    routes: Vec<Route>,
    #[serde(default, deserialize_with = "or_default")]
    dns: WireDns,
}

#[derive(Default, Deserialize)]
struct WireDns {
    #[serde(default, deserialize_with = "or_default")]
    nameservers: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    search: Vec<String>,
}

/// Go writes a nil slice as `null`.
fn or_default<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Attached {
    /// Reads a result; `if_name` is the interface that was asked for in the pod.
    pub(crate) fn parse(network: &str, if_name: &str, result: &Value) -> Result<Attached> {
        let lacking = |problem: String| Error::NoAddress { network: network.to_owned(), problem };
        let wire = Wire::deserialize(result)
            .map_err(|e| {
                format!("its result cannot be read: {}", excerpt(e.to_string().as_bytes()))
            })
            .map_err(lacking)?;
        let ips = pod_ips(&wire, if_name).map_err(lacking)?;
        Ok(Attached {
            network: network.to_owned(),
            interfaces: wire.interfaces,
            ips,
            routes: wire.routes,
            nameservers: wire.dns.nameservers,
            searches: wire.dns.search,
        })
    }

    /// The pod's IPs as text, the first one being the pod's own, as CRI lists them.
    #[must_use]
    pub fn pod_ips(&self) -> Vec<String> {
        self.ips.iter().map(|ip| ip.address.addr().to_string()).collect()
    }
}

/// The addresses of the interface that was asked for; of any in the sandbox if that one has none.
/// An address without an index belongs to the interface asked for (many plugins leave it out).
fn pod_ips(wire: &Wire, if_name: &str) -> std::result::Result<Vec<Ip>, String> {
    if let Some(lost) =
        wire.ips.iter().find(|ip| ip.interface.is_some_and(|at| at >= wire.interfaces.len()))
    {
        let at = lost.interface.unwrap_or_default();
        return Err(format!("{} is of interface {at}, which is not listed", lost.address));
    }
    let of = |ip: &&Ip, wanted: fn(&Interface, &str) -> bool| {
        ip.interface.is_none_or(|at| wanted(&wire.interfaces[at], if_name))
    };
    let in_sandbox = |i: &Interface, _: &str| !i.sandbox.is_empty();
    let asked_for = |i: &Interface, name: &str| !i.sandbox.is_empty() && i.name == name;
    let mut ips: Vec<Ip> = wire.ips.iter().filter(|ip| of(ip, asked_for)).cloned().collect();
    if ips.is_empty() {
        ips = wire.ips.iter().filter(|ip| of(ip, in_sandbox)).cloned().collect();
    }
    if !ips.is_empty() {
        return Ok(ips);
    }
    Err(if wire.ips.is_empty() {
        "its result has no \"ips\"".to_owned()
    } else {
        format!("none of its {} addresses is of an interface in the pod", wire.ips.len())
    })
}

/// A plugin's result as the next plugin is to read it: in the version of the network.
pub(crate) fn as_version(mut result: Value, version: Version) -> Value {
    let Some(object) = result.as_object_mut() else { return result };
    object.insert("cniVersion".into(), json!(version.as_str()));
    if let Some(Value::Array(ips)) = object.get_mut("ips") {
        for ip in ips.iter_mut().filter_map(Value::as_object_mut) {
            if version >= Version::V1_0_0 {
                ip.remove("version");
            } else if !ip.contains_key("version") {
                let six =
                    ip.get("address").and_then(Value::as_str).is_some_and(|a| a.contains(':'));
                ip.insert("version".into(), json!(if six { "6" } else { "4" }));
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &Value) -> Result<Attached> {
        Attached::parse("net", "eth0", value)
    }

    #[test]
    fn the_order_of_a_dual_stack_is_kept() {
        let value = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "br0"}, {"name": "eth0", "mac": "02:00", "sandbox": "/n"}],
            "ips": [
                {"address": "2001:db8::5/64", "interface": 1},
                {"address": "198.18.0.5/24", "gateway": "198.18.0.1", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "2001:db8::1"}],
            "dns": {"nameservers": ["198.18.0.53"], "search": ["x"]}
        });
        let got = parse(&value).unwrap();
        assert_eq!(got.pod_ips(), ["2001:db8::5", "198.18.0.5"]);
        assert_eq!(got.routes.len(), 2);
        assert_eq!((got.nameservers.len(), got.searches.len()), (1, 1));
        let kept: Attached = serde_json::from_value(json!(got)).unwrap();
        assert_eq!(kept, got);
    }

    #[test]
    fn old_and_terse_results_are_understood() {
        for value in [
            json!({"cniVersion": "0.3.1", "interfaces": null, "dns": null, "routes": null,
                   "ips": [{"version": "4", "address": "198.18.0.5/24"}]}),
            json!({"ips": [{"address": "198.18.0.5/24", "interface": null, "gateway": null}]}),
            json!({"cniVersion": "1.1.0", "ips": [{"address": "198.18.0.5/24", "interface": 0}],
                   "interfaces": [{"name": "eth0", "sandbox": "/n", "mtu": 1400, "pciID": "x"}],
                   "routes": [{"dst": "0.0.0.0/0", "mtu": 1400, "scope": 0}]}),
            json!({"ips": [{"address": "198.18.0.5/24", "interface": 0}],
                   "interfaces": [{"name": "net1", "sandbox": "/n"}]}),
        ] {
            assert_eq!(parse(&value).unwrap().pod_ips(), ["198.18.0.5"], "{value}");
        }
    }

    #[test]
    fn addresses_of_the_node_are_not_the_pods() {
        let value = json!({
            "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/n"}, {"name": "x", "sandbox": "/n"}],
            "ips": [{"address": "198.18.0.1/24", "interface": 0},
                    {"address": "198.18.0.9/24", "interface": 2},
                    {"address": "198.18.0.5/24", "interface": 1}]});
        assert_eq!(parse(&value).unwrap().pod_ips(), ["198.18.0.5"]);
    }

    #[test]
    fn a_result_without_an_address_says_what_it_lacks() {
        for (value, wanted) in [
            (json!({}), "no \"ips\""),
            (json!({"ips": []}), "no \"ips\""),
            (json!({"ips": [{"address": "198.18.0.5/24", "interface": 3}]}), "not listed"),
            (
                json!({"interfaces": [{"name": "br0"}],
                       "ips": [{"address": "198.18.0.5/24", "interface": 0}]}),
                "none of its 1 addresses",
            ),
            (json!({"ips": [{"address": "198.18.0.5"}]}), "cannot be read"),
            (json!({"ips": [{"address": "198.18.0.5/24", "interface": -1}]}), "cannot be read"),
        ] {
            let text = parse(&value).unwrap_err().to_string();
            assert!(text.contains(wanted), "{value}: {text}");
        }
    }

    #[test]
    fn the_next_plugin_reads_the_networks_version() {
        let old = json!({"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "198.18.0.5/24"}],
                         "extra": 1});
        let new = as_version(old.clone(), Version::V1_0_0);
        assert_eq!(
            new,
            json!({"cniVersion": "1.0.0", "ips": [{"address": "198.18.0.5/24"}], "extra": 1})
        );
        assert_eq!(as_version(new, Version::V0_3_1), old);
        let six = json!({"ips": [{"address": "2001:db8::5/64"}]});
        assert_eq!(as_version(six, Version::V0_4_0)["ips"][0]["version"], "6");
    }

    #[test]
    fn an_error_repeats_no_more_than_a_message_should() {
        let value = json!({"ips": "x".repeat(100_000)});
        let text = parse(&value).unwrap_err().to_string();
        assert!(text.len() < 1000, "{} bytes", text.len());
    }
}
