//! Who a pod's processes are, and what of the kernel is theirs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result, ensure};

use crate::kubelet::world::World;

pub(super) async fn groups(world: &World) -> Result<String> {
    world.run(include_str!("../manifests/groups.yaml"), &["groups", "strict"]).await?;
    let groups = "id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '";
    // The image's own group of user 1000 is 50000: Merge adds it, Strict does not.
    world.says("groups", "main", groups, "2000 3000 4000 50000 ").await?;
    world.says("strict", "main", groups, "2000 4000 ").await?;
    let own = "touch /data/x /memory/x; stat -c %u:%g /data/x /memory/x";
    world.says("groups", "main", own, "1000:3000\n1000:3000").await?;
    world.delete("groups").await?;
    world.delete("strict").await?;
    Ok("groups of the pod, the image (Merge) or not (Strict); volumes are the fsGroup's".to_owned())
}

pub(super) async fn users(world: &World) -> Result<String> {
    world.run(include_str!("../manifests/users.yaml"), &["users"]).await?;
    let map = world.sh("users", "main", "cat /proc/self/uid_map").await?;
    let words: Vec<_> = map.split_whitespace().collect();
    ensure!(words.len() == 3 && words[0] == "0" && words[1] != "0", "the mapping is {map:?}");
    world.says("users", "main", "id -u; cat /settings/colour", "0\nred").await?;
    world.sh("users", "main", "echo mine > /data/file").await?;
    let pod = world.ready("users").await?;
    let uid = pod["metadata"]["uid"].as_str().context("a uid")?;
    let volumes = format!("root/pods/{uid}/volumes/kubernetes.io~empty-dir/data/file");
    let file = world.kubelet.log().with_file_name(volumes);
    let file = fs::metadata(&file).with_context(|| format!("{}", file.display()))?;
    ensure!((file.uid(), file.gid()) == (0, 3000), "on disk {}:{}", file.uid(), file.gid());
    world.delete("users").await?;
    Ok(format!("ids from {} on; volumes are id-mapped", words[1]))
}

pub(super) async fn sysctls(world: &World) -> Result<String> {
    world.run(include_str!("../manifests/sysctls.yaml"), &["sysctls"]).await?;
    let read =
        "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/msgmax net/core/somaxconn";
    world.says("sysctls", "main", read, "81\n12345\n321").await?;
    let refused = |pod: &serde_json::Value| pod["status"]["reason"] == "SysctlForbidden";
    world.until("sysctl-forbidden", "SysctlForbidden", refused).await?;
    world.delete("sysctls").await?;
    world.delete("sysctl-forbidden").await?;
    Ok("safe and allowed ones are set; another is SysctlForbidden".to_owned())
}
