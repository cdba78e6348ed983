//! Sysctls of namespaces.

use std::collections::BTreeMap;

use rustix::fs::CWD;

use crate::error::{Error, Kind, Result, kind_of};
use crate::namespace::Namespace;
use crate::small;

/// A user namespace need not have the group ids of the usual range.
const PING_GROUPS: &str = "net/ipv4/ping_group_range";

/// Writes sysctls, by name and value, in the namespaces this thread is in. Returns the names that
/// were left out: those that a user namespace of its own lacks the ids for.
///
/// # Errors
/// Invalid if a sysctl belongs to none of `made`, because it would change the node, and if the kernel
/// has no such name or takes no such value.
pub fn write_all(sysctls: &BTreeMap<String, String>, made: &[Namespace]) -> Result<Vec<String>> {
    let mut skipped = Vec::new();
    for (name, value) in sysctls {
        let path = path_of(name)?;
        if !namespace_of(&path).is_some_and(|kind| made.contains(&kind)) {
            return Err(Error::Argument {
                what: "sysctl",
                value: name.clone(),
                reason: "belongs to no namespace that is made here, so it would change the node",
            });
        }
        match small::write_at(CWD, format!("/proc/sys/{path}").as_str(), value) {
            Ok(()) => {}
            Err(error)
                if path == PING_GROUPS
                    && made.contains(&Namespace::User)
                    && error.raw_os_error() == Some(EINVAL) =>
            {
                skipped.push(name.clone());
            }
            Err(source) if matches!(kind_of(&source), Kind::NotFound | Kind::Denied) => {
                return Err(Error::Argument {
                    what: "sysctl",
                    value: name.clone(),
                    reason: "the kernel has no such parameter there, or none that may be written",
                });
            }
            Err(source) => {
                return Err(Error::on("write sysctl", format!("{name} = {value:?}"), source));
            }
        }
    }
    Ok(skipped)
}

const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();

/// `net.ipv4.ip_forward` and `net/ipv4/ip_forward` mean the same; if the first separator is a
/// slash, dots belong to the names (`net/ipv4/conf/eth0.1/forwarding`; sysctl.d(5)).
fn path_of(name: &str) -> Result<String> {
    let slashes = match name.find(['.', '/']) {
        Some(at) => name[at..].starts_with('/'),
        None => true,
    };
    let path = if slashes {
        name.to_owned()
    } else {
        name.chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect()
    };
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if path.split('/').all(plain) && !path.contains('\0') {
        return Ok(path);
    }
    Err(Error::Argument {
        what: "sysctl",
        value: name.to_owned(),
        reason: "is no name such as net.ipv4.ip_forward",
    })
}

/// Which namespace a sysctl belongs to (namespaces(7), ipc_namespaces(7)).
fn namespace_of(path: &str) -> Option<Namespace> {
    let kernel = path.strip_prefix("kernel/");
    if path.starts_with("net/") {
        Some(Namespace::Net)
    } else if path.starts_with("fs/mqueue/")
        || kernel
            .is_some_and(|name| name.starts_with("shm") || name.starts_with("msg") || name == "sem")
    {
        Some(Namespace::Ipc)
    } else if matches!(kernel, Some("hostname" | "domainname")) {
        Some(Namespace::Uts)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_name_the_same_file() {
        for (name, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ] {
            assert_eq!(path_of(name).unwrap(), path);
        }
        for name in ["", "a..b", "../x", "net/../kernel/panic", "/etc/passwd", "a/"] {
            assert!(path_of(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn what_belongs_to_the_node_has_no_namespace() {
        assert_eq!(namespace_of("net/core/somaxconn"), Some(Namespace::Net));
        assert_eq!(namespace_of("kernel/shm_rmid_forced"), Some(Namespace::Ipc));
        assert_eq!(namespace_of("kernel/sem"), Some(Namespace::Ipc));
        for path in ["kernel/panic", "vm/swappiness", "kernel/semantics", "fs/file-max"] {
            assert_eq!(namespace_of(path), None, "{path}");
        }
    }
}
