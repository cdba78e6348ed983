//! Kernel parameters: only those that belong to a namespace of the pod's own.

use berth_pod::spec::{PodNamespaces, PodOrNode, StringMap};

use super::{Refusal, check};

/// Which namespace a parameter belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Network,
    Ipc,
}

/// Checks names and values, and writes names with dots.
pub(super) fn admit(given: &StringMap, pod: &PodNamespaces) -> Result<StringMap, Refusal> {
    let mut sysctls = StringMap::new();
    for (name, value) in given {
        let field = format!("config.linux.sysctls[{name:?}]");
        let dotted = dotted(name);
        if !dotted.split('.').all(plain) {
            return Err(Refusal::new(field, value, "the name is not one of a kernel parameter"));
        }
        let (kind, shared) = match owner(&dotted) {
            Some(Owner::Network) => ("network", pod.network == PodOrNode::Node),
            Some(Owner::Ipc) => ("IPC", pod.ipc == PodOrNode::Node),
            None => {
                let advice = "it is not namespaced: set it on the node. A pod may set net.*, \
                              kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.*";
                return Err(Refusal::new(field, value, advice));
            }
        };
        if shared {
            let advice = format!(
                "the pod uses the node's {kind} namespace: setting it would change the node"
            );
            return Err(Refusal::new(field, value, advice));
        }
        if value.contains('\n') {
            return Err(Refusal::new(field, value, "give one line"));
        }
        sysctls.insert(dotted, check::text(&field, value)?);
    }
    Ok(sysctls)
}

/// `net/ipv4/conf/eth0.1/forwarding` → `net.ipv4.conf.eth0/1.forwarding`, as sysctl(8) has it: the
/// first separator says which of the two is the separator.
fn dotted(name: &str) -> String {
    if name.find(['.', '/']).is_none_or(|at| name.as_bytes()[at] == b'.') {
        return name.to_owned();
    }
    name.chars()
        .map(|c| match c {
            '/' => '.',
            '.' => '/',
            other => other,
        })
        .collect()
}

fn plain(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/' | ':' | '@');
    // A '/' here stands for a '.' in the file's name: doubled, it would be "..".
    !part.is_empty() && part.chars().all(allowed) && !part.contains("//")
}

fn owner(name: &str) -> Option<Owner> {
    const IPC: [&str; 3] = ["kernel.shm", "kernel.msg", "fs.mqueue."];
    if name.starts_with("net.") {
        Some(Owner::Network)
    } else if name == "kernel.sem" || IPC.iter().any(|prefix| name.starts_with(prefix)) {
        Some(Owner::Ipc)
    } else {
        None
    }
}
