//! Mounts of the node's paths: propagation, read-only, and paths that are not there.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, on_a_node, on_a_node_with, reference};
use berth_testkit::config::Config;
use berth_testkit::network::run;
use berth_testkit::place::Guest;
use berth_testkit::specs::Container;
use cri::MountPropagation;

/// A shared mount of its own on the node.
fn shared(bed: &Bed, name: &str) -> Result<std::path::PathBuf> {
    let dir = bed.node.disk().join(name);
    fs::create_dir_all(&dir)?;
    let path = dir.display().to_string();
    let line = format!("mount --bind {path} {path} && mount --make-shared {path}");
    bed.node.run("sh", &["-c", &line])?;
    Ok(dir)
}

fn unmount(bed: &Bed, dir: &std::path::Path) -> Result<()> {
    let line = format!("umount -R {}", dir.display());
    bed.node.run("sh", &["-c", &line]).map(drop)
}

#[test]
fn propagation_goes_as_far_as_was_asked_for() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let source = shared(bed, "shared")?;
        for name in ["node", "container"] {
            fs::create_dir_all(source.join(name))?;
        }
        let pod =
            cri.run(&bed.pod("mounts").security(|security| security.privileged = true)).await?;
        let with = |name: &str, propagation: MountPropagation| {
            Container::idle(name, &busybox())
                .security(|security| security.privileged = true)
                .mount_with(&source, "/m", |mount| mount.propagation = propagation as i32)
        };
        let private = cri.launch(&pod, &with("p", MountPropagation::PropagationPrivate)).await?;
        let slave =
            cri.launch(&pod, &with("s", MountPropagation::PropagationHostToContainer)).await?;
        let both = cri.launch(&pod, &with("b", MountPropagation::PropagationBidirectional)).await?;

        let inside = source.join("node").display().to_string();
        bed.node
            .run("sh", &["-c", &format!("mount -t tmpfs t {inside} && touch {inside}/seen")])?;
        let sees = async |id: &str, what: &str| {
            Ok::<_, anyhow::Error>(cri.exec(id, &["test", "-e", what]).await?.code == 0)
        };
        assert!(!sees(&private, "/m/node/seen").await?);
        assert!(sees(&slave, "/m/node/seen").await?);
        assert!(sees(&both, "/m/node/seen").await?);

        for (id, reaches) in [(&private, false), (&slave, false), (&both, true)] {
            let line = "mount -t tmpfs t /m/container && touch /m/container/made";
            cri.shell(id, line).await?;
            let made = bed.node.path(&source.join("container/made").display().to_string());
            assert_eq!(made.exists(), reaches);
            cri.shell(id, "umount /m/container").await?;
        }
        cri.clear(&pod.id).await?;
        unmount(bed, &source)
    })
}

#[test]
fn bidirectional_needs_a_shared_source() -> Result<()> {
    on_a_node(async |bed| {
        let dir = shared(bed, "private")?;
        bed.node.run("mount", &["--make-private", &dir.display().to_string()])?;
        let pod =
            bed.cri.run(&bed.pod("p").security(|security| security.privileged = true)).await?;
        for propagation in [
            MountPropagation::PropagationBidirectional,
            MountPropagation::PropagationHostToContainer,
        ] {
            let container = Container::idle("a", &busybox())
                .security(|security| security.privileged = true)
                .mount_with(&dir, "/m", |mount| mount.propagation = propagation as i32);
            let error = bed.cri.create(&pod, &container).await.expect_err("the source is private");
            assert!(error.message().contains("private"), "{error}");
        }
        unmount(bed, &dir)
    })
}

#[test]
fn read_only_mounts_are_so_and_recursively_where_asked() -> Result<()> {
    on_a_node(async |bed| {
        let dir = bed.node.disk().join("ro");
        fs::create_dir_all(dir.join("below"))?;
        let below = dir.join("below").display().to_string();
        bed.node.run("mount", &["-t", "tmpfs", "t", &below])?;
        let pod = bed.cri.run(&bed.pod("ro")).await?;
        let with = |name: &str, recursive: bool| {
            Container::idle(name, &busybox()).mount_with(&dir, "/m", |mount| {
                mount.readonly = true;
                mount.recursive_read_only = recursive;
            })
        };
        let plain = bed.cri.launch(&pod, &with("plain", false)).await?;
        assert!(bed.cri.shell(&plain, "touch /m/x").await.is_err());
        bed.cri.shell(&plain, "touch /m/below/x").await?;
        let deep = bed.cri.launch(&pod, &with("deep", true)).await?;
        assert!(bed.cri.shell(&deep, "touch /m/x").await.is_err());
        assert!(bed.cri.shell(&deep, "touch /m/below/x").await.is_err());
        std::fs::write(dir.join("file"), "one")?;
        let file =
            Container::idle("file", &busybox()).mount_with(dir.join("file"), "/f", |mount| {
                (mount.readonly, mount.recursive_read_only) = (true, true);
            });
        let file = bed.cri.launch(&pod, &file).await?;
        assert_eq!(bed.cri.shell(&file, "cat /f; echo x >> /f || true").await?, "one");
        bed.cri.clear(&pod.id).await?;
        bed.node.run("umount", &[&below]).map(drop)
    })
}

#[test]
fn a_missing_host_path_is_an_error_and_nothing_is_created() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("missing")).await?;
        let absent = bed.node.disk().join("absent");
        let container = Container::idle("a", &busybox()).mount(&absent, "/m");
        let error = bed.cri.create(&pod, &container).await.expect_err("the path is not there");
        assert!(error.message().contains("absent"), "{error}");
        assert!(!absent.exists());
        assert!(bed.cri.containers().await?.is_empty());
        Ok(())
    })
}

#[test]
fn symbolic_links_files_and_devices_are_mounted_as_what_they_are() -> Result<()> {
    on_a_node(async |bed| {
        let dir = bed.node.disk().join("kinds");
        fs::create_dir_all(dir.join("real"))?;
        fs::write(dir.join("real/file"), "through the link")?;
        std::os::unix::fs::symlink("real", dir.join("link"))?;
        let pod = bed.cri.run(&bed.pod("kinds")).await?;
        let container = Container::idle("a", &busybox())
            .mount(dir.join("link"), "/by-link")
            .mount(dir.join("real/file"), "/one-file")
            .with(|config| {
                config.devices.push(cri::Device {
                    container_path: "/dev/nothing".to_owned(),
                    host_path: "/dev/null".to_owned(),
                    permissions: "rw".to_owned(),
                });
            });
        let id = bed.cri.launch(&pod, &container).await?;
        assert_eq!(bed.cri.shell(&id, "cat /by-link/file").await?, "through the link");
        assert_eq!(bed.cri.shell(&id, "cat /one-file").await?, "through the link");
        bed.cri.shell(&id, "echo x > /dev/nothing").await?;
        assert_eq!(bed.cri.shell(&id, "stat -c %t:%T /dev/nothing").await?, "1:3");
        Ok(())
    })
}

#[test]
fn a_volume_of_the_image_is_filled_from_it_and_goes_with_the_container() -> Result<()> {
    on_a_node_with(Config::default(), &["volume"], async |bed| {
        let pod = bed.cri.run(&bed.pod("volume")).await?;
        let container = Container::idle("a", &reference("volume"));
        let id = bed.cri.launch(&pod, &container).await?;
        assert_eq!(bed.cri.shell(&id, "cat /data/seed").await?, "seed");
        assert_eq!(bed.cri.shell(&id, "stat -c '%a %u' /data").await?, "750 1000");
        bed.cri.shell(&id, "echo new > /data/new").await?;
        Ok(())
    })
}

#[test]
fn a_path_that_hangs_holds_up_its_own_container_alone() -> Result<()> {
    on_a_node(async |bed| {
        // A FUSE mount whose server never answers, as a dead network share: every stat of it
        // waits. The server is a shell that holds /dev/fuse open and reads nothing.
        let dir = bed.node.disk().join("hung");
        fs::create_dir_all(&dir)?;
        let target = dir.display().to_string();
        let hang = format!(
            "exec 3<>/dev/fuse && mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 \
             hung {target} && echo mounted && exec sleep 1000"
        );
        let mut server = bed.node.place()?.visit(|| {
            Command::new("sh")
                .args(["-c", &hang])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .map(Guest)
                .context("start the server")
        })?;
        let mut said = [0; 8];
        let mut stdout = server.0.stdout.take().context("stdout")?;
        std::io::Read::read_exact(&mut stdout, &mut said).context("/dev/fuse is needed")?;

        let (pod, other) = bed.idle("hung").await?;
        let cri = bed.cri.clone();
        let container = Container::idle("stuck", &busybox()).mount(dir.join("below"), "/m");
        let stuck_pod = pod.clone();
        let stuck = tokio::spawn(async move { cri.create(&stuck_pod, &container).await });
        for _ in 0..20 {
            bed.cri.pods().await?;
            assert_eq!(bed.cri.shell(&other, "echo fine").await?, "fine");
        }
        let error = stuck.await?.expect_err("the path never answers");
        assert!(error.message().contains("below"), "{error}");
        bed.cri.clear(&pod.id).await?;
        drop(server);
        let line = format!("umount -l {target}");
        bed.node.place()?.visit(|| run(Command::new("sh").args(["-c", &line]), b""))?;
        Ok(())
    })
}
