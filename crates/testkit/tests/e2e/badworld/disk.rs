//! Disks that are full, or have no inodes left: below the daemon's root, and below /run.

use std::time::{Duration, Instant};

use anyhow::Result;
use berth_testkit::bed::{Bed, busybox, on_a_node};
use berth_testkit::specs::Container;
use tonic::Code;

use super::{next_pod_is_fine, nothing_left_over, says, works_in};

/// Far less than any deadline of a call.
const PROMPTLY: Duration = Duration::from_secs(30);
const ROOT: &str = "/var/lib/berth";

#[test]
fn with_a_full_disk_nothing_begins_everything_ends_and_room_mends_it() -> Result<()> {
    // The last block too: what has a file open may go on for a while where `dd` could not.
    let fill = "dd if=/dev/zero of=DIR/ballast bs=64k 2>/dev/null; \
                dd if=/dev/zero of=DIR/more bs=4k 2>/dev/null; true";
    on_a_small_disk("size=96m", async |bed| without_room(bed, ROOT, fill).await)
}

#[test]
fn without_inodes_nothing_begins_everything_ends_and_room_mends_it() -> Result<()> {
    let fill =
        "mkdir DIR/ballast; (i=0; while : > DIR/ballast/$i; do i=$((i+1)); done) 2>/dev/null; true";
    on_a_small_disk("size=96m,nr_inodes=3000", async |bed| without_room(bed, ROOT, fill).await)
}

#[test]
fn with_a_full_run_nothing_begins_everything_ends_and_room_mends_it() -> Result<()> {
    let fill = "mount -o remount,size=8m /run; dd if=/dev/zero of=DIR/ballast bs=64k 2>/dev/null; \
                dd if=/dev/zero of=DIR/more bs=4k 2>/dev/null; true";
    on_a_node(async |bed| without_room(bed, "/run", fill).await)
}

#[test]
fn on_a_read_only_disk_nothing_begins_everything_ends_and_writing_mends_it() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, id) = bed.idle("there").await?;
        // What is open stays as it is; every path from now on leads to what takes no writes.
        bed.node.run("mount", &["--bind", ROOT, ROOT])?;
        bed.node.run("mount", &["-o", "remount,bind,ro", ROOT])?;

        let begin = Instant::now();
        says(bed.cri.run(&bed.pod("new")).await, Code::Unavailable, &[ROOT, "Read-only"]);
        let new = Container::idle("new", &busybox());
        says(bed.cri.create(&pod, &new).await, Code::Unavailable, &["Read-only"]);
        assert!(begin.elapsed() < PROMPTLY, "{:?}", begin.elapsed());
        bed.cri.stop(&id, 5).await?;
        assert_eq!(bed.cri.container(&id).await?.exit_code, 0);
        bed.cri.clear(&pod.id).await?;
        assert!(bed.cri.pods().await?.is_empty());

        bed.node.run("umount", &[ROOT])?;
        next_pod_is_fine(bed, "new").await?;
        nothing_left_over(bed).await
    })
}

#[test]
fn on_a_disk_that_fails_under_it_everything_ends_and_a_repair_mends_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let image = dir.path().join("ext4");
    let image = image.display();
    let mount = format!("mount -o loop,errors=remount-ro {image} {ROOT}");
    let make = format!("truncate -s 128M {image} && mkfs.ext4 -q {image} && {mount}");
    on_a_disk(&make, async |bed| {
        let (pod, id) = bed.idle("there").await?;
        // As after an error of the device: what is open takes no writes any more either.
        let fail = format!(
            "source=$(findmnt -no SOURCE {ROOT}); echo 1 >/sys/fs/ext4/${{source##*/}}/trigger_fs_error"
        );
        bed.node.run("sh", &["-c", &fail])?;

        let begin = Instant::now();
        says(bed.cri.run(&bed.pod("new")).await, Code::Unavailable, &[ROOT, "takes writes"]);
        let new = Container::idle("new", &busybox());
        says(bed.cri.create(&pod, &new).await, Code::Unavailable, &[ROOT, "takes writes"]);
        assert!(begin.elapsed() < PROMPTLY, "{:?}", begin.elapsed());
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        bed.cri.stop(&id, 5).await?;
        assert_eq!(bed.cri.container(&id).await?.exit_code, 0);
        bed.cri.clear(&pod.id).await?;
        assert!(bed.cri.pods().await?.is_empty());

        bed.node.stop_daemon()?;
        let repair = format!("umount {ROOT} && {{ e2fsck -fy {image}; [ $? -le 1 ]; }} && {mount}");
        bed.node.run("sh", &["-c", &repair])?;
        bed.start().await?;
        // That it was removed could not be saved.
        bed.cri.clear_all().await?;
        next_pod_is_fine(bed, "new").await?;
        nothing_left_over(bed).await
    })
}

/// What must be true on a node one of whose disks takes no more.
async fn without_room(bed: &mut Bed, dir: &str, fill: &str) -> Result<()> {
    let (pod, id) = bed.idle("there").await?;
    let created = bed.cri.create(&pod, &Container::idle("created", &busybox())).await?;
    let spare = bed.cri.run(&bed.pod("spare")).await?;
    bed.node.run("sh", &["-c", &fill.replace("DIR", dir)])?;

    let begin = Instant::now();
    says(bed.cri.run(&bed.pod("new")).await, Code::ResourceExhausted, &[]);
    let new = Container::idle("new", &busybox());
    says(bed.cri.create(&pod, &new).await, Code::ResourceExhausted, &[]);
    says(bed.cri.start(&created).await, Code::ResourceExhausted, &[]);
    assert!(begin.elapsed() < PROMPTLY, "{:?}", begin.elapsed());
    assert_eq!(bed.cri.pods().await?.len(), 2, "what could not begin is not there");

    // What runs goes on, and a daemon that dies comes back.
    assert_eq!(bed.cri.container(&id).await?.exit_code, 0);
    bed.crash().await?;
    assert_eq!(bed.cri.pods().await?.len(), 2);

    bed.cri.stop(&id, 5).await?;
    bed.cri.remove(&id).await?;
    bed.cri.clear(&spare.id).await?;
    bed.cri.clear(&pod.id).await?;
    assert!(bed.cri.pods().await?.is_empty());

    bed.node.run("sh", &["-c", &format!("rm -rf {dir}/ballast {dir}/more")])?;
    let pod = bed.cri.run(&bed.pod("new")).await?;
    works_in(bed, &pod, "new").await?;
    bed.crash().await?;
    assert_eq!(bed.cri.pods().await?.len(), 1, "what was removed stays so");
    bed.cri.clear(&pod.id).await?;
    next_pod_is_fine(bed, "next").await?;
    nothing_left_over(bed).await
}

/// Runs a test with a disk of its own, in memory, below the daemon's root.
fn on_a_small_disk(options: &str, test: impl AsyncFnOnce(&mut Bed) -> Result<()>) -> Result<()> {
    let mount = format!("mount -t tmpfs -o {options} tmpfs {ROOT}");
    on_a_disk(&mount, test)
}

/// Runs a test with what this command mounts as the daemon's root.
fn on_a_disk(mount: &str, test: impl AsyncFnOnce(&mut Bed) -> Result<()>) -> Result<()> {
    on_a_node(async |bed| {
        bed.node.stop_daemon()?;
        bed.node.run("sh", &["-c", mount])?;
        bed.start().await?;
        bed.cri.pull(&busybox()).await?;
        next_pod_is_fine(bed, "first").await?;
        let outcome = test(bed).await;
        bed.node.stop_daemon()?;
        bed.node.run("umount", &[ROOT])?;
        bed.start().await?;
        outcome
    })
}
