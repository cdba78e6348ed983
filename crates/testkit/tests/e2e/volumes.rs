//! Images as volumes, and volumes with the ids of a user namespace, as seen from inside.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, eventually, on_a_node, on_a_node_with, reference};
use berth_testkit::config::Config;
use berth_testkit::cri::RunningPod;
use berth_testkit::specs::{Container, Pod};
use tonic::Code;

/// A container that sees what is at a path in the image `content`, at `/v`.
fn with_image(name: &str, image: &str, sub_path: &str) -> Container {
    Container::idle(name, &busybox()).mount_with("", "/v", |mount| {
        mount.image = Some(berth_testkit::cri::image(image));
        mount.image_sub_path = sub_path.to_owned();
        mount.readonly = true;
    })
}

/// What a container of a pod with a user namespace says of namespaces: what the pod does.
fn like_its_pod(container: Container, pod: &RunningPod) -> Container {
    let context = pod.config.linux.clone().and_then(|linux| linux.security_context);
    let options = context.and_then(|context| context.namespace_options);
    container.security(|security| security.namespace_options = options)
}

async fn gone(bed: &Bed, pod: &str) -> Result<()> {
    bed.cri.clear(pod).await?;
    bed.is_clean()
}

#[test]
fn an_image_is_a_volume_that_nobody_can_change() -> Result<()> {
    on_a_node_with(Config::default(), &["busybox", "content"], async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("image")).await?;
        let container = with_image("a", &reference("content"), "");
        let id = cri.launch(&pod, &container).await?;
        // Its layers, put together as in a root file system.
        assert_eq!(cri.shell(&id, "cat /v/data/text").await?, "upper");
        assert_eq!(cri.shell(&id, "ls -A /v/data").await?, "inner\nrun\ntext");
        assert_eq!(cri.shell(&id, "stat -c '%a %u' /v/data/inner").await?, "750 1000");
        for line in ["touch /v/x", "rm /v/data/text", "mount -o remount,rw /v"] {
            assert!(cri.shell(&id, line).await.is_err(), "{line}");
        }
        assert_eq!(cri.shell(&id, "/v/data/run").await?, "ran");
        let options = cri.shell(&id, "grep ' /v ' /proc/mounts | cut -d' ' -f4").await?;
        for option in ["ro", "nosuid", "nodev"] {
            assert!(options.split(',').any(|one| one == option), "{option} of {options}");
        }
        let told = cri.container(&id).await?.mounts;
        let image = told[0].image.clone().context("an image in the status")?;
        assert_eq!(image.image, reference("content"));
        // The same word that PullImage gives, so that whoever pulled it knows it again.
        assert_eq!(image.image_ref, cri.pull(&image.image).await?);
        assert!(told[0].readonly);
        Ok(())
    })
}

#[test]
fn a_sub_path_is_found_in_the_image_and_nowhere_else() -> Result<()> {
    on_a_node_with(Config::default(), &["busybox", "content"], async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("sub")).await?;
        let at = |name: &str, path: &str| with_image(name, &reference("content"), path);
        for (name, path, line, sees) in [
            ("directory", "data/inner", "cat /v/deep", "deep"),
            ("file", "data/text", "cat /v", "upper"),
            // Links are followed as they are in the image: from its own root.
            ("absolute", "absolute", "cat /v/deep", "deep"),
            ("climbing", "climbing/text", "cat /v", "upper"),
        ] {
            let id = cri.launch(&pod, &at(name, path)).await?;
            assert_eq!(cri.shell(&id, line).await?, sees, "{name}");
            assert!(cri.shell(&id, "touch /v/x 2>&1 || echo x >> /v").await.is_err(), "{name}");
        }
        // On the node these are there; in the image they are not.
        assert!(bed.node.path("/etc/passwd").exists());
        for path in ["escape/passwd", "data/none"] {
            let error = cri.create(&pod, &at("bad", path)).await.expect_err(path);
            assert!(error.message().starts_with("ImageVolumeMountFailed"), "{error}");
            assert!(error.message().contains(path), "{error}");
            assert_eq!(error.code(), Code::NotFound, "{error}");
        }
        assert_eq!(cri.containers().await?.len(), 4, "nothing is left of those that failed");
        gone(bed, &pod.id).await
    })
}

#[test]
fn the_image_of_a_volume_stays_whole_while_the_container_needs_it() -> Result<()> {
    on_a_node_with(Config::default(), &["busybox", "content"], async |bed| {
        let pod = bed.cri.run(&bed.pod("pinned")).await?;
        let container = with_image("a", &reference("content"), "data");
        let id = bed.cri.launch(&pod, &container).await?;
        bed.cri.remove_image(&reference("content")).await?;
        let error = bed.cri.create(&pod, &with_image("b", &reference("content"), "")).await;
        let error = error.expect_err("the image is not there any more");
        assert!(error.message().starts_with("ImageVolumeMountFailed"), "{error}");
        assert!(error.message().contains(&reference("content")), "{error}");
        assert_eq!(error.code(), Code::NotFound, "{error}");
        // A daemon that comes up knows who holds it, and what is mounted stays.
        bed.crash().await?;
        assert_eq!(bed.cri.shell(&id, "cat /v/text").await?, "upper");
        assert!(holds_an_image(bed, &format!("{id}.0")));
        bed.cri.clear(&pod.id).await?;
        eventually(
            || "the image is still held".to_owned(),
            async || Ok((!holds_an_image(bed, &format!("{id}.0"))).then_some(())),
        )
        .await?;
        bed.settle()
    })
}

fn holds_an_image(bed: &Bed, holder: &str) -> bool {
    let holds = bed.node.path("/var/lib/berth/images/holds");
    holds.join(holder).symlink_metadata().is_ok()
}

#[test]
fn image_volumes_of_a_user_namespace_belong_to_its_ids() -> Result<()> {
    on_a_node_with(Config::default(), &["busybox", "content"], async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("mapped").user_namespace(1_000_000)).await?;
        let container = like_its_pod(with_image("a", &reference("content"), "data"), &pod);
        let id = cri.launch(&pod, &container).await?;
        assert_eq!(cri.shell(&id, "stat -c %u /v/text /v/inner").await?, "0\n1000");
        assert_eq!(cri.shell(&id, "cat /v/inner/deep").await?, "deep");
        assert!(cri.shell(&id, "touch /v/x").await.is_err());
        gone(bed, &pod.id).await
    })
}

/// Says of a mount that the pod's own ids are to be seen in it, as the kubelet does.
fn mapped(mount: &mut cri::Mount) {
    let map = || vec![cri::IdMapping { host_id: 1_000_000, container_id: 0, length: 65536 }];
    (mount.uid_mappings, mount.gid_mappings) = (map(), map());
}

async fn volumes_are_mapped(bed: &Bed, pod: Pod, disk: &Path) -> Result<()> {
    let cri = &bed.cri;
    let pod = cri.run(&pod.user_namespace(1_000_000)).await?;
    fs::create_dir_all(disk)?;
    fs::write(disk.join("from-the-node"), "seen")?;
    let container = Container::idle("a", &busybox()).mount_with(disk, "/v", mapped).mount_with(
        disk.join("from-the-node"),
        "/file",
        mapped,
    );
    let id = cri.launch(&pod, &like_its_pod(container, &pod)).await?;
    assert_eq!(cri.shell(&id, "stat -c %u /v/from-the-node; cat /file").await?, "0\nseen");
    cri.shell(&id, "echo x > /v/from-the-pod && chown 7:8 /v/from-the-pod").await?;
    let made = fs::metadata(disk.join("from-the-pod"))?;
    assert_eq!((made.uid(), made.gid()), (7, 8), "on the node it is as in the pod");
    cri.shell(&id, "echo more >> /file").await?;
    assert_eq!(fs::read_to_string(disk.join("from-the-node"))?, "seenmore\n");
    gone(bed, &pod.id).await
}

#[test]
fn volumes_of_a_user_namespace_are_id_mapped_whatever_the_runtime_can() -> Result<()> {
    let drop_in = "[handlers.with-runc]\nruntime = \"runc\"\n\
                   [handlers.with-crun]\nruntime = \"crun\"\n";
    let config = Config::default().drop_in("handlers.toml", drop_in);
    on_a_node_with(config, &["busybox"], async |bed| {
        let features = bed.cri.status().await?.runtime_handlers;
        for name in ["with-runc", "with-crun"] {
            let handler = features.iter().find(|handler| handler.name == name);
            let told = handler.and_then(|handler| handler.features).context(name)?;
            assert!(told.user_namespaces, "{name}");
            let disk = bed.node.disk().join(name);
            volumes_are_mapped(bed, bed.pod(name).by(name), &disk).await?;
        }
        Ok(())
    })
}

#[test]
fn a_user_namespace_goes_with_the_network_of_the_node() -> Result<()> {
    on_a_node(async |bed| {
        let features = bed.cri.status().await?.features.context("features")?;
        assert!(features.user_namespaces_host_network);
        let pod = bed.pod("both").user_namespace(1_000_000).host_network();
        let pod = bed.cri.run(&pod).await?;
        let container = like_its_pod(Container::idle("a", &busybox()), &pod);
        let id = bed.cri.launch(&pod, &container).await?;
        let map = bed.cri.shell(&id, "cat /proc/self/uid_map").await?;
        assert!(map.split_whitespace().eq(["0", "1000000", "65536"]), "{map}");
        let pid = bed.pid(&id).await?;
        let of_the_pod = fs::read_link(bed.node.path(&format!("/proc/{pid}/ns/net")))?;
        assert_eq!(of_the_pod, fs::read_link(format!("/proc/{}/ns/net", bed.node.keeper()))?);
        // Its root is nobody to that network, and nothing of its own mounts comes to the node.
        assert!(bed.cri.shell(&id, "ip link set lo down").await.is_err());
        gone(bed, &pod.id).await
    })
}
