//! The contents of a pod's files.

use berth_pod::spec::Dns;

use crate::error::Error;

/// `resolv.conf` for these settings (resolv.conf(5)).
///
/// # Errors
/// When an entry contains white space or a line break: it would be read as something else.
pub fn resolv_conf(dns: &Dns) -> Result<String, Error> {
    let lists = [("searches", &dns.searches), ("servers", &dns.servers), ("options", &dns.options)];
    for (field, list) in lists {
        if let Some(bad) =
            list.iter().find(|e| e.contains(|c: char| c.is_whitespace() || c == '\0'))
        {
            let text = format!("{bad:?} contains white space");
            return Err(Error::invalid(format!("dns_config.{field}"), text));
        }
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok(text)
}

/// `/etc/hostname` for this name.
pub fn hostname_file(name: &str) -> String {
    format!("{name}\n")
}
