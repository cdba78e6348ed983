//! What a pod and its containers hold, what each holding needs, and when it ends.
//!
//! Two rules follow from the table of needs, and there are no others: a holding is acquired once
//! everything that it needs is held; it is released once nothing that needs it is held.
//!
//! ```text
//!   pod         namespaces ──▶ network ──┐          container   image ──▶ rootfs ──▶ bundle ──┐
//!               files ───────────────────┼─▶ sandbox                       cgroup ────────────┼─▶ task
//!               cgroup ────▶ shim ───────┘                                 (pod's sandbox) ───┘
//! ```
//!
//! A name is held by the record itself: it is reserved from the first save to the last.

use serde::{Deserialize, Serialize};

/// What a pod holds, in the order of acquisition; release goes the other way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodHolding {
    /// The pod's cgroup: ours to make and remove only when the kubelet names none.
    Cgroup,
    /// The pinned user, network, IPC and UTS namespaces, with host name and sysctls set.
    Namespaces,
    /// /dev/shm, resolv.conf, hostname and hosts.
    Files,
    /// The attachment to the pod network (CNI).
    Network,
    /// The shim process, in a leaf cgroup of its own.
    Shim,
    /// The sandbox in the shim.
    Sandbox,
}

/// What a container holds, in the order of acquisition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerHolding {
    /// A reference that keeps the image's layers whole.
    Image,
    /// The prepared snapshot.
    Rootfs,
    /// The bundle directory and its config.json.
    Bundle,
    /// The container's cgroup: the OCI runtime makes it, we kill in it and remove it.
    Cgroup,
    /// The task in the shim: created, started, watched.
    Task,
}

/// When a holding ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ends {
    /// When the container's first process has exited.
    AtExit,
    /// When the pod is stopped.
    AtStop,
    /// When the pod or container is removed.
    AtRemove,
}

/// A table of holdings: the rules that the loop is made of.
pub trait Holding: Copy + Ord + 'static {
    /// All of them, in the order of acquisition.
    const ALL: &'static [Self];
    /// What must be held before this can be acquired, and stay held until this is released.
    fn needs(self) -> &'static [Self];
    /// When it ends.
    fn ends(self) -> Ends;
    /// May its intent be saved before what it needs is?
    fn may_be_ahead(self) -> bool;
    /// Its name in logs, metrics and status.
    fn name(self) -> &'static str;
}

impl Holding for PodHolding {
    const ALL: &'static [Self] =
        &[Self::Cgroup, Self::Namespaces, Self::Files, Self::Network, Self::Shim, Self::Sandbox];

    fn needs(self) -> &'static [Self] {
        match self {
            Self::Cgroup | Self::Namespaces | Self::Files => &[],
            Self::Network => &[Self::Namespaces],
            Self::Shim => &[Self::Cgroup],
            Self::Sandbox => &[Self::Namespaces, Self::Files, Self::Network, Self::Shim],
        }
    }

    fn ends(self) -> Ends {
        match self {
            Self::Files => Ends::AtRemove,
            _ => Ends::AtStop,
        }
    }

    /// The network may not: namespaces that a restarted daemon does not know of are made anew, and in
    /// the new ones a plugin's DEL finds no address whose rules it could take away.
    fn may_be_ahead(self) -> bool {
        self != Self::Network
    }

    fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Namespaces => "namespaces",
            Self::Files => "files",
            Self::Network => "network",
            Self::Shim => "shim",
            Self::Sandbox => "sandbox",
        }
    }
}

impl Holding for ContainerHolding {
    const ALL: &'static [Self] =
        &[Self::Image, Self::Rootfs, Self::Bundle, Self::Cgroup, Self::Task];

    fn needs(self) -> &'static [Self] {
        match self {
            Self::Image | Self::Cgroup => &[],
            Self::Rootfs => &[Self::Image],
            Self::Bundle => &[Self::Rootfs],
            Self::Task => &[Self::Bundle, Self::Cgroup],
        }
    }

    fn ends(self) -> Ends {
        match self {
            Self::Task | Self::Cgroup => Ends::AtExit,
            Self::Image | Self::Rootfs | Self::Bundle => Ends::AtRemove,
        }
    }

    fn may_be_ahead(self) -> bool {
        true
    }

    fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Rootfs => "rootfs",
            Self::Bundle => "bundle",
            Self::Cgroup => "cgroup",
            Self::Task => "task",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each_need_comes_earlier<H: Holding + std::fmt::Debug>() {
        for (at, h) in H::ALL.iter().enumerate() {
            for need in h.needs() {
                let before = H::ALL.iter().position(|x| x == need).unwrap();
                assert!(before < at, "{h:?} needs {need:?}, which comes later");
                assert!(need.ends() >= h.ends(), "{need:?} ends before {h:?}, which needs it");
            }
        }
    }

    /// Each of these stands for something that goes wrong without it.
    #[test]
    fn what_must_not_be_turned_round() {
        use ContainerHolding as C;
        use PodHolding as P;
        let pod = |holding: P, need| assert!(holding.needs().contains(&need), "{holding:?}");
        pod(P::Network, P::Namespaces); // DEL without a netns leaves masquerade rules
        pod(P::Sandbox, P::Network); // StartSandbox finds the network as it will be
        pod(P::Sandbox, P::Files);
        pod(P::Sandbox, P::Shim);
        pod(P::Shim, P::Cgroup);
        assert!(!P::Shim.needs().contains(&P::Network), "it starts while CNI runs");
        let container = |holding: C, need| assert!(holding.needs().contains(&need), "{holding:?}");
        container(C::Rootfs, C::Image); // the layers below a mounted overlay stay whole
        container(C::Task, C::Bundle);
        container(C::Task, C::Cgroup); // what to kill in is saved before there is anybody to kill
        assert_eq!(C::Task.ends(), Ends::AtExit);
        assert_eq!(P::Network.ends(), Ends::AtStop);
    }

    #[test]
    fn the_tables_are_in_order_of_acquisition_and_nothing_outlives_what_it_needs() {
        each_need_comes_earlier::<PodHolding>();
        each_need_comes_earlier::<ContainerHolding>();
    }
}
