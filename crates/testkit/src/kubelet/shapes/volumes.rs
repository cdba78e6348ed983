//! What pods have mounted.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::kubelet::path::{Address, NAMESPACE};
use crate::kubelet::world::World;

pub(super) async fn empty(world: &World) -> Result<String> {
    world.run(include_str!("../manifests/emptydir.yaml"), &["emptydir"]).await?;
    for volume in ["disk", "memory"] {
        world.will_say("emptydir", "reader", &format!("cat /{volume}/file"), "shared").await?;
        let refused = format!("touch /{volume}/other 2>/dev/null || echo refused");
        world.says("emptydir", "reader", &refused, "refused").await?;
    }
    let size = "grep ' /memory ' /proc/mounts | tr ', ' '\\n' | grep -E '^(tmpfs|size=)' | sort -u";
    let said = world.sh("emptydir", "writer", size).await?;
    ensure!(said == "size=8192k\ntmpfs", "the memory is {said:?}");
    world.delete("emptydir").await?;
    Ok("shared, read-only where asked, 8 MiB of tmpfs".to_owned())
}

pub(super) async fn host_path(world: &World) -> Result<String> {
    world.run(include_str!("../manifests/hostpath.yaml"), &["hostpath"]).await?;
    let node = &world.bed.node;
    fs::write(node.path("/run/node-dir/hello"), "from the node")?;
    world.says("hostpath", "main", "cat /dir/hello", "from the node").await?;
    world.sh("hostpath", "main", "echo -n back > /file; touch /below/here").await?;
    ensure!(fs::read_to_string(node.path("/run/node-file"))? == "back");
    ensure!(node.path("/run/node-dir/sub/path/here").exists());
    // What the node mounts below a directory that a container has already.
    fs::create_dir(node.path("/run/node-dir/later"))?;
    node.run("mount", &["-t", "tmpfs", "tmpfs", "/run/node-dir/later"])?;
    fs::write(node.path("/run/node-dir/later/file"), "later")?;
    world.says("hostpath", "main", "cat /dir/later/file", "later").await?;
    let refused = "touch /plain/x 2>/dev/null || echo refused";
    world.says("hostpath", "main", refused, "refused").await?;
    world.delete("hostpath").await?;
    node.run("umount", &["/run/node-dir/later"])?;
    node.run("rm", &["-r", "/run/node-dir", "/run/node-file"])?;
    Ok("both ways; a sub path; what the node mounts later shows".to_owned())
}

pub(super) async fn projected(world: &World) -> Result<String> {
    world.run(include_str!("../manifests/projected.yaml"), &["projected"]).await?;
    let says = async |line: &str, text: &str| world.says("projected", "main", line, text).await;
    says("cat /all/colour /all/hidden/word /all/labels", "bluesesameshape=\"projected\"").await?;
    says("cat /all/token", "a-token-of-the-testkit").await?;
    says("stat -Lc %a /all/hidden/word", "400").await?;
    says("echo $COLOUR $WORD", "blue sesame").await?;
    says("test $ADDRESS = $(hostname -i) && echo same", "same").await?;
    let settings = Address::core("configmaps", NAMESPACE, "settings");
    world.change(&settings, |own| own["data"] = json!({"colour": "green"}))?;
    let password = Address::core("secrets", NAMESPACE, "password");
    world.change(&password, |own| own["data"] = json!({"word": "b3Blbg=="}))?;
    let will = async |line: &str, text: &str| world.will_say("projected", "main", line, text).await;
    will("cat /all/colour /settings/colour", "greengreen").await?;
    will("cat /all/hidden/word /password/word", "openopen").await?;
    // A sub path is what was there at the start, and so is the environment.
    says("echo $(cat /colour) $COLOUR", "blue blue").await?;
    world.delete("projected").await?;
    Ok("files, modes, environment; changes show, not by a sub path".to_owned())
}

pub(super) async fn image(world: &World) -> Result<String> {
    world.run(include_str!("../manifests/image.yaml"), &["image"]).await?;
    world.says("image", "main", "cat /content/data/text /inner/deep", "upperdeep").await?;
    let refused = "touch /content/x 2>/dev/null || echo refused";
    world.says("image", "main", refused, "refused").await?;
    world.delete("image").await?;
    Ok("the image's files, whole and by a sub path, read-only".to_owned())
}

pub(super) async fn read_only(world: &World) -> Result<String> {
    world.run(include_str!("../manifests/readonly.yaml"), &["readonly"]).await?;
    let tries = "touch /x 2>/dev/null || echo refused; touch /tmp/x && echo allowed";
    world.says("readonly", "main", tries, "refused\nallowed").await?;
    world.delete("readonly").await?;
    Ok("the root refuses, a volume does not".to_owned())
}
