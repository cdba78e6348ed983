//! Port mappings.

use std::net::IpAddr;

use berth_pod::spec::{PortMapping, Protocol};
use berth_proto::cri::v1 as cri;

use super::{Refusal, check};

/// Parses the mappings; those without a host port ask for nothing and are left out.
pub(super) fn admit(given: &[cri::PortMapping]) -> Result<Vec<PortMapping>, Refusal> {
    let mut mappings: Vec<PortMapping> = Vec::with_capacity(given.len());
    for (i, one) in given.iter().enumerate() {
        let at = format!("config.port_mappings[{i}]");
        let Some(mapping) = mapping(&at, one)? else { continue };
        if mappings.contains(&mapping) {
            continue;
        }
        let clash = |other: &PortMapping| {
            (other.host_port, other.protocol, &other.host_ip)
                == (mapping.host_port, mapping.protocol, &mapping.host_ip)
        };
        if mappings.iter().any(clash) {
            let advice = "an earlier mapping of this pod has that host port: use another";
            return Err(Refusal::new(format!("{at}.host_port"), mapping.host_port, advice));
        }
        mappings.push(mapping);
    }
    Ok(mappings)
}

fn mapping(at: &str, given: &cri::PortMapping) -> Result<Option<PortMapping>, Refusal> {
    if given.host_port == 0 {
        return Ok(None);
    }
    let protocol = match check::known(&format!("{at}.protocol"), given.protocol)? {
        cri::Protocol::Tcp => Protocol::Tcp,
        cri::Protocol::Udp => Protocol::Udp,
        cri::Protocol::Sctp => Protocol::Sctp,
    };
    if !given.host_ip.is_empty() && given.host_ip.parse::<IpAddr>().is_err() {
        let advice = "give an IP address of the node, or leave it empty for every address";
        return Err(Refusal::new(format!("{at}.host_ip"), &given.host_ip, advice));
    }
    Ok(Some(PortMapping {
        protocol,
        container_port: port(&format!("{at}.container_port"), given.container_port)?,
        host_port: port(&format!("{at}.host_port"), given.host_port)?,
        host_ip: given.host_ip.clone(),
    }))
}

fn port(field: &str, given: i32) -> Result<u16, Refusal> {
    match u16::try_from(given) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Refusal::new(field, given, "give a port from 1 to 65535")),
    }
}
