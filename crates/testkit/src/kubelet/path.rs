//! Where objects are: the paths of Kubernetes' API.

use anyhow::{Context as _, Result};

/// Resources that the kubelet asks for, their kinds, and whether they have namespaces.
const RESOURCES: [(&str, &str, bool); 14] = [
    ("pods", "Pod", true),
    ("nodes", "Node", false),
    ("services", "Service", true),
    ("configmaps", "ConfigMap", true),
    ("secrets", "Secret", true),
    ("serviceaccounts", "ServiceAccount", true),
    ("events", "Event", true),
    ("leases", "Lease", true),
    ("runtimeclasses", "RuntimeClass", false),
    ("csidrivers", "CSIDriver", false),
    ("csinodes", "CSINode", false),
    ("volumeattachments", "VolumeAttachment", false),
    ("resourceslices", "ResourceSlice", false),
    ("podcertificaterequests", "PodCertificateRequest", true),
];

/// The namespace of every pod here.
pub(super) const NAMESPACE: &str = "default";

/// An object's place, or that of a collection if it has no name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    /// Empty for the core group.
    group: String,
    /// `v1` and the like.
    release: String,
    /// `pods` and the like.
    pub(super) resource: String,
    /// Empty for all, or where there are none.
    pub(super) namespace: String,
    /// Empty for a collection.
    pub(super) name: String,
}

impl Address {
    /// A pod of the only namespace.
    pub(super) fn pod(name: &str) -> Self {
        Self::core("pods", NAMESPACE, name)
    }

    /// An object of the core group.
    pub(super) fn core(resource: &str, namespace: &str, name: &str) -> Self {
        Self {
            group: String::new(),
            release: "v1".to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// As in an object's `apiVersion`.
    pub(super) fn version(&self) -> String {
        match self.group.as_str() {
            "" => self.release.clone(),
            group => format!("{group}/{}", self.release),
        }
    }

    /// The same collection or place, with this name.
    pub(super) fn named(&self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self.clone() }
    }

    /// Whether an object belongs to this collection.
    pub(super) fn holds(&self, other: &Self) -> bool {
        self.group == other.group
            && self.resource == other.resource
            && (self.namespace.is_empty() || self.namespace == other.namespace)
            && (self.name.is_empty() || self.name == other.name)
    }
}

/// The kind of a resource's objects.
pub(super) fn kind(resource: &str) -> &'static str {
    RESOURCES.iter().find(|(own, ..)| *own == resource).map_or("", |(_, kind, _)| kind)
}

/// The place of an object of a manifest.
pub(super) fn of_object(version: &str, kind: &str, name: &str) -> Result<Address> {
    let (group, release) = version.rsplit_once('/').unwrap_or(("", version));
    let (resource, _, namespaced) = RESOURCES
        .iter()
        .find(|(_, own, _)| *own == kind)
        .with_context(|| format!("no resource is known for the kind {kind}"))?;
    Ok(Address {
        group: group.to_owned(),
        release: release.to_owned(),
        resource: (*resource).to_owned(),
        namespace: if *namespaced { NAMESPACE.to_owned() } else { String::new() },
        name: name.to_owned(),
    })
}

/// The place of a request's path, and the subresource; none if nothing of the kind is kept here.
pub(super) fn parse(path: &str) -> Option<(Address, String)> {
    let words: Vec<_> = path.trim_matches('/').split('/').collect();
    let (group, release, rest) = match words[..] {
        ["api", release, ref rest @ ..] => ("", release, rest),
        ["apis", group, release, ref rest @ ..] => (group, release, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let (resource, name, below) = match rest {
        [resource] => (*resource, "", ""),
        [resource, name] => (*resource, *name, ""),
        [resource, name, below] => (*resource, *name, *below),
        _ => return None,
    };
    RESOURCES.iter().find(|(own, ..)| *own == resource)?;
    let address = Address {
        group: group.to_owned(),
        release: release.to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    Some((address, below.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_objects_and_collections() {
        let (pod, below) = parse("/api/v1/namespaces/default/pods/a/status").unwrap();
        assert_eq!((pod.clone(), below.as_str()), (Address::pod("a"), "status"));
        let (pods, _) = parse("/api/v1/pods").unwrap();
        assert!(pods.holds(&pod) && !pod.holds(&Address::pod("b")));
        let class = of_object("node.k8s.io/v1", "RuntimeClass", "runc").unwrap();
        assert_eq!(parse("/apis/node.k8s.io/v1/runtimeclasses/runc").unwrap().0, class);
        assert_eq!(class.version(), "node.k8s.io/v1");
        assert_eq!(parse("/api/v1/widgets"), None);
    }
}
