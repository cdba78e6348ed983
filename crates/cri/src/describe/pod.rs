//! Sandboxes.

use berth_lifecycle::PodView;
use berth_pod::spec::{IdMapping, PidMode, PodName, PodNamespaces, PodOrNode};
use berth_proto::cri::v1 as cri;
use berth_proto::cri::v1::{NamespaceMode, PodSandboxState};

/// READY or not.
pub(crate) fn pod_state(pod: &PodView) -> PodSandboxState {
    if pod.record.ready() {
        PodSandboxState::SandboxReady
    } else {
        PodSandboxState::SandboxNotready
    }
}

/// A name, in CRI's words.
pub(crate) fn pod_metadata(name: &PodName) -> cri::PodSandboxMetadata {
    cri::PodSandboxMetadata {
        name: name.name.clone(),
        uid: name.uid.clone(),
        namespace: name.namespace.clone(),
        attempt: name.attempt,
    }
}

/// An entry of ListPodSandbox. The handler is the one asked for: the kubelet compares it.
pub(crate) fn pod_entry(pod: &PodView) -> cri::PodSandbox {
    let spec = pod.spec();
    cri::PodSandbox {
        id: pod.id().to_string(),
        metadata: Some(pod_metadata(&spec.name)),
        state: pod_state(pod) as i32,
        created_at: pod.record.created_at,
        labels: spec.labels.clone(),
        annotations: spec.annotations.clone(),
        runtime_handler: spec.handler.clone(),
    }
}

/// The answer to PodSandboxStatus.
pub(crate) fn pod_status(pod: &PodView) -> cri::PodSandboxStatus {
    let spec = pod.spec();
    let mut ips = pod.ips().iter().map(ToString::to_string);
    cri::PodSandboxStatus {
        id: pod.id().to_string(),
        metadata: Some(pod_metadata(&spec.name)),
        state: pod_state(pod) as i32,
        created_at: pod.record.created_at,
        network: Some(cri::PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
        }),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace { options: Some(namespaces(&spec.namespaces)) }),
        }),
        labels: spec.labels.clone(),
        annotations: spec.annotations.clone(),
        runtime_handler: spec.handler.clone(),
    }
}

fn namespaces(pod: &PodNamespaces) -> cri::NamespaceOption {
    let mode = |which: PodOrNode| match which {
        PodOrNode::Pod => NamespaceMode::Pod as i32,
        PodOrNode::Node => NamespaceMode::Node as i32,
    };
    let (pid, target_id) = match &pod.pid {
        PidMode::Pod => (NamespaceMode::Pod, String::new()),
        PidMode::Container => (NamespaceMode::Container, String::new()),
        PidMode::Node => (NamespaceMode::Node, String::new()),
        PidMode::Target(id) => (NamespaceMode::Target, id.clone()),
    };
    let userns_options = pod.user.as_ref().map(|user| cri::UserNamespace {
        mode: NamespaceMode::Pod as i32,
        uids: mappings(&user.uids),
        gids: mappings(&user.gids),
    });
    cri::NamespaceOption {
        network: mode(pod.network),
        pid: pid as i32,
        ipc: mode(pod.ipc),
        target_id,
        userns_options,
    }
}

/// Id mappings, in CRI's words.
pub(super) fn mappings(given: &[IdMapping]) -> Vec<cri::IdMapping> {
    let one = |m: &IdMapping| cri::IdMapping {
        host_id: m.host_id,
        container_id: m.container_id,
        length: m.length,
    };
    given.iter().map(one).collect()
}
