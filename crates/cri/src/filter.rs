//! Which entries a list is to show. All parts of a filter must fit; an id may be a prefix.

use std::collections::BTreeMap;

use berth_lifecycle::{ContainerView, PodView};
use berth_proto::cri::v1 as cri;

use crate::describe;

/// A filter of sandboxes.
pub(crate) struct Pods<'a> {
    id: &'a str,
    state: Option<i32>,
    labels: Option<&'a BTreeMap<String, String>>,
}

impl<'a> Pods<'a> {
    pub(crate) fn new(filter: Option<&'a cri::PodSandboxFilter>) -> Self {
        Self {
            id: filter.map_or("", |f| &f.id),
            state: filter.and_then(|f| f.state.as_ref()).map(|state| state.state),
            labels: filter.map(|f| &f.label_selector),
        }
    }

    pub(crate) fn of_stats(filter: Option<&'a cri::PodSandboxStatsFilter>) -> Self {
        Self {
            id: filter.map_or("", |f| &f.id),
            state: None,
            labels: filter.map(|f| &f.label_selector),
        }
    }

    pub(crate) fn admits(&self, pod: &PodView) -> bool {
        pod.id().as_str().starts_with(self.id)
            && self.state.is_none_or(|state| state == describe::pod_state(pod) as i32)
            && fits(self.labels, &pod.spec().labels)
    }
}

/// A filter of containers.
pub(crate) struct Containers<'a> {
    id: &'a str,
    pod: &'a str,
    state: Option<i32>,
    labels: Option<&'a BTreeMap<String, String>>,
}

impl<'a> Containers<'a> {
    pub(crate) fn new(filter: Option<&'a cri::ContainerFilter>) -> Self {
        Self {
            id: filter.map_or("", |f| &f.id),
            pod: filter.map_or("", |f| &f.pod_sandbox_id),
            state: filter.and_then(|f| f.state.as_ref()).map(|state| state.state),
            labels: filter.map(|f| &f.label_selector),
        }
    }

    pub(crate) fn of_stats(filter: Option<&'a cri::ContainerStatsFilter>) -> Self {
        Self {
            id: filter.map_or("", |f| &f.id),
            pod: filter.map_or("", |f| &f.pod_sandbox_id),
            state: None,
            labels: filter.map(|f| &f.label_selector),
        }
    }

    pub(crate) fn admits(&self, container: &ContainerView) -> bool {
        container.id().as_str().starts_with(self.id)
            && container.sandbox.as_str().starts_with(self.pod)
            && self.state.is_none_or(|state| state == describe::container_state(container) as i32)
            && fits(self.labels, &container.spec().labels)
    }
}

/// Every label asked for is there, with that value.
fn fits(asked: Option<&BTreeMap<String, String>>, labels: &BTreeMap<String, String>) -> bool {
    asked.is_none_or(|asked| asked.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_fit_when_all_that_are_asked_for_are_equal() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<BTreeMap<_, _>>()
        };
        let labels = map(&[("app", "web"), ("tier", "front")]);
        assert!(fits(None, &labels));
        assert!(fits(Some(&map(&[])), &labels));
        assert!(fits(Some(&map(&[("app", "web")])), &labels));
        assert!(!fits(Some(&map(&[("app", "we")])), &labels));
        assert!(!fits(Some(&map(&[("app", "web"), ("zone", "a")])), &labels));
    }
}
