//! Log directories and files that cannot be, or cannot be any more.

use anyhow::Result;
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, on_a_node};
use berth_testkit::cri::in_time;
use berth_testkit::specs::Container;
use tonic::Code;

use super::{next_pod_is_fine, says};

#[test]
fn a_log_that_cannot_be_fails_the_start_and_names_the_path() -> Result<()> {
    on_a_node(async |bed| {
        let logs = bed.logs("odd");
        let pod = bed.cri.run(&bed.pod("odd")).await?;
        std::fs::create_dir_all(logs.join("a-directory"))?;
        bed.node.run("mkfifo", &[&logs.join("a-fifo").display().to_string()])?;
        std::fs::write(logs.join("a-file"), "")?;
        for path in ["a-directory", "a-fifo", "a-file/0.log"] {
            let name = path.replace('/', "-");
            let container = Container::idle(&name, &busybox())
                .with(|config| path.clone_into(&mut config.log_path));
            let id = bed.cri.create(&pod, &container).await?;
            let named = logs.join(path.split('/').next().unwrap_or_default());
            says(
                bed.cri.start(&id).await,
                Code::InvalidArgument,
                &[&named.display().to_string(), "log"],
            );
            assert_eq!(bed.cri.exited(&id).await?.reason, "StartError");
            bed.cri.remove(&id).await?;
        }
        // A missing directory is made.
        std::fs::remove_dir_all(&logs)?;
        bed.cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        assert!(logs.join("a.0.log").exists());
        Ok(())
    })
}

#[test]
fn a_container_goes_on_when_its_log_cannot() -> Result<()> {
    on_a_node(async |bed| {
        let logs = bed.logs("full");
        std::fs::create_dir_all(&logs)?;
        let at = logs.display().to_string();
        bed.node.run("mount", &["-t", "tmpfs", "-o", "size=256k", "tmpfs", &at])?;
        let (pod, id) = talker(bed, "full").await?;
        // It says a megabyte and goes on, whatever becomes of it.
        bed.cri.shell(&id, "mkdir /say; until [ -e /said ]; do usleep 10000; done").await?;
        let inside = bed.node.path(&at);
        let log = std::fs::read(inside.join("a.0.log"))?;
        assert!(log.len() <= 256 << 10, "{}", log.len());
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");

        // Rotated away on a disk without room, and into a place where no log can be.
        bed.node.run("sh", &["-c", &format!("mv {at}/a.0.log {at}/old; mkdir {at}/a.0.log")])?;
        let reopen = || in_time(cri::ReopenContainerLogRequest { container_id: id.clone() });
        says(
            bed.cri.runtime.clone().reopen_container_log(reopen()).await,
            Code::InvalidArgument,
            &["a.0.log"],
        );
        bed.node.run("sh", &["-c", &format!("rmdir {at}/a.0.log; rm {at}/old")])?;
        bed.cri.runtime.clone().reopen_container_log(reopen()).await?;
        bed.cri
            .shell(&id, "rm -f /said; mkdir /again; until [ -e /over ]; do usleep 10000; done")
            .await?;
        bed.file_says(&inside.join("a.0.log"), "and that was all").await?;
        bed.cri.stop(&id, 5).await?;
        let status = bed.cri.container(&id).await?;
        assert!(status.message.contains("lines"), "dropped lines are told: {status:?}");
        bed.cri.clear(&pod.id).await?;
        bed.node.run("umount", &[&at])?;
        next_pod_is_fine(bed, "full").await
    })
}

/// A container that says a megabyte when it is told to, and then a last line.
async fn talker(bed: &Bed, name: &str) -> Result<(berth_testkit::cri::RunningPod, String)> {
    let pod = bed.cri.run(&bed.pod(name)).await?;
    let line = "trap 'exit 0' TERM; until [ -e /say ]; do usleep 10000; done; \
                i=0; while [ $i -lt 10000 ]; do \
                echo 0123456789012345678901234567890123456789012345678901234567890123456789; \
                i=$((i+1)); done; touch /said; until [ -e /again ]; do usleep 10000; done; \
                echo and that was all; touch /over; while :; do sleep 1000 & wait $!; done";
    let id = bed.cri.launch(&pod, &Container::new("a", &busybox()).shell(line)).await?;
    Ok((pod, id))
}
