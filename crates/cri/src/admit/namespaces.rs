//! Namespace modes and the mappings of a user namespace.

use berth_pod::spec::{IdMapping, PidMode, PodNamespaces, PodOrNode, SandboxSpec, UserNamespace};
use berth_proto::cri::v1 as cri;
use berth_proto::cri::v1::NamespaceMode;

use super::{Refusal, Rules, check};

const OPTIONS: &str = "linux.security_context.namespace_options";

/// Namespaces of a pod. All modes are POD where nothing was said: proto3 has no "unset".
pub(super) fn of_sandbox(
    options: Option<&cri::NamespaceOption>,
    rules: &Rules,
) -> Result<PodNamespaces, Refusal> {
    let at = |field: &str| format!("config.{OPTIONS}.{field}");
    let options = options.cloned().unwrap_or_default();
    let pod = PodNamespaces {
        network: pod_or_node(&at("network"), options.network)?,
        pid: match check::known(&at("pid"), options.pid)? {
            NamespaceMode::Pod => PidMode::Pod,
            NamespaceMode::Container => PidMode::Container,
            NamespaceMode::Node => PidMode::Node,
            NamespaceMode::Target => {
                let advice = "TARGET is for containers: use POD, CONTAINER or NODE";
                return Err(Refusal::new(at("pid"), NamespaceMode::Target, advice));
            }
        },
        ipc: pod_or_node(&at("ipc"), options.ipc)?,
        user: user(&at("userns_options"), options.userns_options.as_ref())?,
    };
    if pod.user.is_some() {
        check_user_with_others(&at("userns_options"), &pod, rules)?;
    }
    Ok(pod)
}

/// The PID mode of a container in that pod, and that its user namespace is the pod's.
///
/// POD stands for the pod's own choice: it is what a field that was left out looks like.
pub(super) fn of_container(
    options: Option<&cri::NamespaceOption>,
    pod: &SandboxSpec,
) -> Result<PidMode, Refusal> {
    let Some(options) = options else { return Ok(pod.namespaces.pid.clone()) };
    let at = |field: &str| format!("config.{OPTIONS}.{field}");
    if options.userns_options.is_some() {
        let own = user(&at("userns_options"), options.userns_options.as_ref())?;
        if own != pod.namespaces.user {
            let advice = "it differs from the sandbox's: all containers of a pod share one";
            return Err(Refusal::new(at("userns_options"), &options.userns_options, advice));
        }
    }
    match check::known(&at("pid"), options.pid)? {
        NamespaceMode::Pod => Ok(pod.namespaces.pid.clone()),
        NamespaceMode::Container => Ok(PidMode::Container),
        NamespaceMode::Node => Ok(PidMode::Node),
        NamespaceMode::Target if options.target_id.is_empty() => {
            let advice = "with pid TARGET, name the container whose processes are to be seen";
            Err(Refusal::missing(at("target_id"), advice))
        }
        NamespaceMode::Target => {
            Ok(PidMode::Target(check::name(&at("target_id"), &options.target_id)?))
        }
    }
}

fn pod_or_node(field: &str, given: i32) -> Result<PodOrNode, Refusal> {
    match check::known(field, given)? {
        NamespaceMode::Pod => Ok(PodOrNode::Pod),
        NamespaceMode::Node => Ok(PodOrNode::Node),
        other => Err(Refusal::new(field, other, "use POD or NODE")),
    }
}

fn user(field: &str, given: Option<&cri::UserNamespace>) -> Result<Option<UserNamespace>, Refusal> {
    let Some(given) = given else { return Ok(None) };
    match check::known(&format!("{field}.mode"), given.mode)? {
        NamespaceMode::Node if given.uids.is_empty() && given.gids.is_empty() => Ok(None),
        NamespaceMode::Node => {
            let advice = "mode NODE takes no mappings: leave out uids and gids, or use POD";
            Err(Refusal::new(field, (&given.uids, &given.gids), advice))
        }
        NamespaceMode::Pod => Ok(Some(UserNamespace {
            uids: vec![root_range(&format!("{field}.uids"), &given.uids)?],
            gids: vec![root_range(&format!("{field}.gids"), &given.gids)?],
        })),
        other => Err(Refusal::new(format!("{field}.mode"), other, "use POD or NODE")),
    }
}

/// One range that starts at 0: root in the pod must be somebody outside.
fn root_range(field: &str, given: &[cri::IdMapping]) -> Result<IdMapping, Refusal> {
    let [one] = mappings(field, given)?[..] else {
        return Err(Refusal::new(field, given, "give exactly one range"));
    };
    if one.container_id != 0 {
        return Err(Refusal::new(field, given, "map container id 0: the range must start there"));
    }
    Ok(one)
}

/// Ranges of ids, each within 32 bits.
pub(super) fn mappings(field: &str, given: &[cri::IdMapping]) -> Result<Vec<IdMapping>, Refusal> {
    let mapping = |(i, one): (usize, &cri::IdMapping)| {
        let fits = |first: u32| first.checked_add(one.length).is_some();
        if one.length == 0 || !fits(one.host_id) || !fits(one.container_id) {
            let advice = "give a length of at least 1, and ids that stay below 2^32";
            return Err(Refusal::new(format!("{field}[{i}]"), one, advice));
        }
        let (host_id, container_id, length) = (one.host_id, one.container_id, one.length);
        Ok(IdMapping { host_id, container_id, length })
    };
    let ranges: Vec<IdMapping> =
        given.iter().enumerate().map(mapping).collect::<Result<_, Refusal>>()?;
    let meet = |a: u32, b: u32, of: (u32, u32)| a < b + of.1 && b < a + of.0;
    for (i, one) in ranges.iter().enumerate() {
        let other = ranges[..i].iter().find(|other| {
            let of = (one.length, other.length);
            meet(one.container_id, other.container_id, of) || meet(one.host_id, other.host_id, of)
        });
        if let Some(other) = other {
            let advice = format!("it overlaps {other:?}: no id may be in two ranges");
            return Err(Refusal::new(format!("{field}[{i}]"), one, advice));
        }
    }
    Ok(ranges)
}

fn check_user_with_others(field: &str, pod: &PodNamespaces, rules: &Rules) -> Result<(), Refusal> {
    if !rules.user_namespaces {
        let advice = "the node's kernel cannot id-map the layers of images (Linux 5.19): use mode \
                      NODE, which is hostUsers: true in a pod";
        return Err(Refusal::new(format!("{field}.mode"), NamespaceMode::Pod, advice));
    }
    let node = match (&pod.pid, pod.ipc) {
        (PidMode::Node, _) => "PID",
        (_, PodOrNode::Node) => "IPC",
        _ => return Ok(()),
    };
    let advice = format!(
        "the kernel lets nobody in it mount what shows the node's {node} namespace: use one of \
         the pod's own, or no user namespace"
    );
    Err(Refusal::new(field, &pod.user, advice))
}
