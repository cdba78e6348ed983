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

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|&e| e.to_owned()).collect()
    }

    #[test]
    fn resolv_conf_has_one_line_for_each_server() {
        let dns = Dns {
            servers: list(&["10.0.0.1", "fd00::1"]),
            searches: list(&["a.example", "b.example"]),
            options: list(&["ndots:5", "edns0"]),
        };
        assert_eq!(
            resolv_conf(&dns).unwrap(),
            "search a.example b.example\nnameserver 10.0.0.1\nnameserver fd00::1\n\
             options ndots:5 edns0\n"
        );
        assert_eq!(resolv_conf(&Dns::default()).unwrap(), "");
    }

    #[test]
    fn an_entry_cannot_smuggle_in_another_line() {
        let dns = Dns { options: list(&["ndots:5\nnameserver 6.6.6.6"]), ..Dns::default() };
        let error = resolv_conf(&dns).unwrap_err();
        assert!(error.to_string().starts_with("dns_config.options:"), "{error}");
    }

    #[test]
    fn the_hostname_file_ends_its_line() {
        assert_eq!(hostname_file("web-0"), "web-0\n");
    }
}
