//! How many processes of each container the kernel has killed for want of memory, also where its cgroup
//! is gone by the time that it is asked.
//!
//! systemd removes a scope as soon as nobody is in it any more, which may be before we learn that its
//! last process has ended. The pod's slice stays, and on v2 it has counted all that its containers have
//! (cgroup-v2.rst, memory.events): what of it is no other container's is this one's.

use std::collections::BTreeMap;
use std::sync::Mutex;

use berth_cgroup::Version;

use crate::place::Place;
use crate::pump::lock;

/// How often it is counted anew when something is killed while it is counted.
const TRIES: u32 = 100;

/// The counts of one pod.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// The pod's cgroup, and what it had counted for nobody here.
    pod: Option<(Place, u64)>,
    living: BTreeMap<String, Place>,
    /// Of all that have ended.
    ended: u64,
}

impl Ledger {
    /// A container is there, in this cgroup.
    pub(crate) fn begin(&self, id: &str, place: &Place) {
        if place.version() == Version::V1 {
            return;
        }
        let mut counts = lock(&self.0);
        if counts.pod.is_none() {
            let pod = place.above();
            let base = pod.as_ref().map_or(0, Place::oom_kills);
            counts.pod = pod.map(|pod| (pod, base.saturating_sub(place.oom_kills())));
        }
        counts.living.insert(id.to_owned(), place.clone());
    }

    /// A container has ended, and its cgroup had this count, or was gone.
    pub(crate) fn end(&self, id: &str, own: Option<u64>) -> u64 {
        let mut counts = lock(&self.0);
        let there = counts.living.remove(id);
        let kills = own.unwrap_or_else(|| there.map_or(0, |_| counts.rest()));
        counts.ended += kills;
        kills
    }
}

impl Counts {
    /// What the pod has counted beside those that are known. Of two whose cgroups are gone at once the
    /// first to end gets both counts: the kernel keeps a removed cgroup's only in the sum of those above.
    fn rest(&self) -> u64 {
        let Some((pod, base)) = &self.pod else { return 0 };
        let others = || self.living.values().map(Place::oom_kills).sum::<u64>();
        let mut before = others();
        for _ in 0..TRIES {
            let all = pod.oom_kills();
            let after = others();
            if before == after {
                return all.saturating_sub(base + self.ended + after);
            }
            before = after;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use berth_cgroup::Cgroups;

    use super::*;

    #[test]
    fn what_no_other_container_had_is_that_of_the_one_whose_cgroup_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::v2_at(root.path());
        let count = |name: &str, kills: u64| {
            let at = root.path().join(name);
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join("memory.events"), format!("oom {kills}\noom_kill {kills}\n"))
                .unwrap();
        };
        let place = |name: &str| Place::at(&cgroups, Path::new(name)).unwrap();
        // One was killed in the pod before.
        for (name, kills) in [("p", 1), ("p/a", 0), ("p/b", 0), ("p/c", 0)] {
            count(name, kills);
        }
        let ledger = Ledger::default();
        for id in ["a", "b", "c"] {
            ledger.begin(id, &place(&format!("/p/{id}")));
        }
        // One each in a and b, and b lives.
        count("p/b", 1);
        count("p", 3);
        fs::remove_dir_all(root.path().join("p/a")).unwrap();
        assert_eq!(place("/p/a").counted(), None);
        assert_eq!(ledger.end("a", place("/p/a").counted()), 1);
        fs::remove_dir_all(root.path().join("p/c")).unwrap();
        assert_eq!(ledger.end("c", None), 0, "nobody was killed in it");
        count("p/b", 2);
        count("p", 4);
        assert_eq!(ledger.end("b", place("/p/b").counted()), 2);
        assert_eq!(ledger.end("b", None), 0, "it is not known any more");
    }
}
