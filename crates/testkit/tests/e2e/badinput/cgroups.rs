//! Cgroup parents that are not there, cannot be, or go.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use berth_testkit::bed::{Bed, busybox, eventually, on_a_node};
use berth_testkit::specs::Container;
use tonic::Code;

use super::{refuses, the_next_pod_is_fine};

/// The directories of a cgroup, over all hierarchies.
fn directories(bed: &Bed, path: &str) -> Vec<PathBuf> {
    let root = bed.node.path("/sys/fs/cgroup");
    let below = path.trim_start_matches('/');
    let each = fs::read_dir(&root).into_iter().flatten().flatten();
    let all = each.map(|entry| entry.path().join(below)).chain([root.join(below)]);
    // Controllers that share a hierarchy have links to it.
    let mut found: Vec<_> = all
        .filter_map(|directory| fs::canonicalize(directory).ok())
        .filter(|d| d.is_dir())
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Removes a cgroup and all below it, in every hierarchy, once its processes are gone.
pub(super) async fn remove(bed: &Bed, path: &str) -> Result<()> {
    for directory in directories(bed, path) {
        let directory = directory.display().to_string();
        // The daemon may remove some of them meanwhile.
        let script = "find \"$1\" -depth -type d -exec rmdir {} \\; 2>/dev/null; ! [ -d \"$1\" ]";
        eventually(
            || format!("{directory} cannot be removed"),
            async || Ok(bed.node.run("sh", &["-c", script, "sh", &directory]).ok()),
        )
        .await?;
    }
    Ok(())
}

#[test]
fn a_cgroup_parent_that_cannot_be_one_is_refused() -> Result<()> {
    on_a_node(async |bed| {
        let own = bed.node.parent().path();
        // A file of the kernel's, and one below it.
        for name in ["cgroup.procs", "cgroup.procs/below"] {
            let pod = bed.pod("file").cgroup_parent(&format!("{own}/{name}"));
            let words = ["cgroup.procs", "cgroup_parent"];
            refuses(name, bed.cri.run(&pod).await, (Code::InvalidArgument, &words))?;
        }
        assert!(bed.cri.pods().await?.is_empty());
        the_next_pod_is_fine(bed).await
    })
}

#[test]
fn a_cgroup_parent_that_is_absent_is_made_and_stays_the_caller_s() -> Result<()> {
    on_a_node(async |bed| {
        let parent = format!("{}/kubepods/pod-absent", bed.node.parent().path());
        let pod = bed.cri.run(&bed.pod("absent").cgroup_parent(&parent)).await?;
        let id = bed.cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        let own =
            fs::read_to_string(bed.node.path(&format!("/proc/{}/cgroup", bed.pid(&id).await?)))?;
        assert!(own.contains(&format!("{parent}/{id}")), "{own}");
        bed.cri.clear(&pod.id).await?;
        assert!(!directories(bed, &parent).is_empty(), "the kubelet's cgroups are the kubelet's");
        for directory in directories(bed, &parent) {
            assert_eq!(
                fs::read_dir(&directory)?.flatten().filter(|e| e.path().is_dir()).count(),
                0
            );
        }
        remove(bed, &format!("{}/kubepods", bed.node.parent().path())).await?;
        the_next_pod_is_fine(bed).await
    })
}

#[test]
fn a_pod_whose_cgroups_somebody_removes_is_still_stopped_and_removed() -> Result<()> {
    on_a_node(async |bed| {
        let kubepods = format!("{}/kubepods", bed.node.parent().path());
        for crash in [false, true] {
            let parent = format!("{kubepods}/pod-gone");
            let pod = bed.cri.run(&bed.pod("gone").cgroup_parent(&parent)).await?;
            let killed = bed.cri.launch(&pod, &Container::idle("a", &busybox())).await?;
            let moved = bed.cri.launch(&pod, &Container::idle("b", &busybox())).await?;
            bed.cri.create(&pod, &Container::idle("c", &busybox())).await?;
            // One container's processes are put elsewhere, the other's are killed.
            for directory in directories(bed, &format!("{parent}/{moved}")) {
                // On v2 one that gives its controllers on takes no process.
                let script = "for pid in $(cat \"$1/cgroup.procs\"); do for to in berth elsewhere; do \
                              to=$1/../../../$to; mkdir -p $to; echo $pid >$to/cgroup.procs && break; \
                              done 2>/dev/null; done; true";
                bed.node.run("sh", &["-c", script, "sh", &directory.display().to_string()])?;
            }
            let pid = bed.pid(&killed).await?;
            bed.node.run("sh", &["-c", &format!("kill -9 {pid}")])?;
            bed.cri.exited(&killed).await?;
            remove(bed, &kubepods).await?;
            if crash {
                bed.crash().await?;
            }
            let moved = bed.pid(&moved).await.ok();
            bed.cri.stop_pod(&pod.id).await.context("stop without cgroups")?;
            if let Some(pid) = moved {
                assert!(!bed.node.path(&format!("/proc/{pid}")).exists(), "it goes on, unseen");
            }
            bed.cri.remove_pod(&pod.id).await.context("remove without cgroups")?;
            remove(bed, &kubepods).await?;
            remove(bed, &format!("{}/elsewhere", bed.node.parent().path())).await?;
        }
        the_next_pod_is_fine(bed).await
    })
}
