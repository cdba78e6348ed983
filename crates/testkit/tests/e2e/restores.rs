//! Containers made of checkpoints: those of CRIU where it works with the machine's kernel, and
//! archives made here for all that happens before CRIU is asked.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use berth_testkit::bed::{Bed, busybox, eventually, on_a_node_with};
use berth_testkit::crash::{Strike, Traced};
use berth_testkit::cri::RunningPod;
use berth_testkit::image::{Compression, Image, Layer};
use berth_testkit::specs::Container;
use serde_json::{Value, json};
use tonic::Code;

use crate::badworld::executable;
use crate::checkpoints::{COUNT, config, counts, criu, looked_at_the_kernel};
use crate::resources::cgroup;

/// A pod, its checkpointed container's count before and after, and the archive.
struct Written {
    low: u64,
    high: u64,
    archive: PathBuf,
}

/// Writes the checkpoint of a container that counts, and removes its pod.
async fn written(bed: &Bed) -> Result<Written> {
    let archive = bed.node.disk().join("one.tar");
    let pod = bed.cri.run(&bed.pod("first")).await?;
    let container = Container::new("counts", &busybox()).env("SAID", "before").shell(COUNT);
    let id = bed.cri.launch(&pod, &container).await?;
    let low = counts(bed, &id).await?;
    bed.cri.checkpoint(&id, &archive, 60).await?;
    let high = counts(bed, &id).await?;
    bed.cri.clear(&pod.id).await?;
    Ok(Written { low, high, archive })
}

fn made_of(archive: &Path) -> Container {
    Container::new("restored", &archive.display().to_string())
}

#[test]
fn a_container_made_of_a_checkpoint_goes_on_where_that_was_written() -> Result<()> {
    let Some(criu) = criu() else { return Ok(()) };
    on_a_node_with(config(&criu), &["busybox"], async |bed| {
        looked_at_the_kernel(bed, &criu)?;
        let Written { low, high, archive } = written(bed).await?;
        let pod = bed.cri.run(&bed.pod("again")).await?;
        let limited = made_of(&archive).resources(|limits| {
            limits.memory_limit_in_bytes = 64 << 20;
            limits.oom_score_adj = 500;
        });
        let id = bed.cri.create(&pod, &limited).await?;
        // What it is made of must not be needed any more, nor the daemon that has read it.
        fs::remove_file(&archive)?;
        bed.crash().await?;
        bed.cri.start(&id).await?;
        counts(bed, &id).await?;
        let log = fs::read_to_string(bed.logs("again").join("restored.0.log"))?;
        let first =
            log.lines().next().and_then(|line| line.rsplit(' ').next()).context("a line")?;
        let first: u64 = first.parse()?;
        assert!((low..=high + 1).contains(&first), "{first} came after {low}, before {high}");
        assert_eq!(
            bed.cri.shell(&id, "cat /etc/added; test -e /etc/passwd || echo gone").await?,
            "was\ngone"
        );
        let said = bed.cri.shell(&id, "tr '\\0' '\\n' </proc/1/environ; echo $SAID").await?;
        assert!(said.contains("SAID=before") && said.ends_with("before"), "{said}");
        is_in(bed, &pod, &id).await?;
        let scores = bed.cri.shell(&id, "cat /proc/1/oom_score_adj").await?;
        assert_eq!(scores, "500");
        let v2 = bed.node.path("/sys/fs/cgroup/cgroup.controllers").exists();
        let file = if v2 { "memory.max" } else { "memory.limit_in_bytes" };
        assert_eq!(cgroup(bed, &id, "memory", file).await?, (64 << 20).to_string());
        let snapshot = bed.node.path("/var/lib/berth/images/snapshots").join(&id);
        assert!(!snapshot.join("checkpoint").exists(), "its memory stays on the disk");
        bed.crash().await?;
        let before = bed.identity(&id).await?;
        counts(bed, &id).await?;
        assert_eq!(bed.identity(&id).await?, before);
        bed.cri.stop(&id, 0).await?;
        assert_eq!(bed.cri.container(&id).await?.exit_code, 137);
        Ok(())
    })
}

/// The container is in this pod, and not in the one that it was in.
async fn is_in(bed: &Bed, pod: &RunningPod, id: &str) -> Result<()> {
    let other = bed.cri.launch(pod, &Container::idle("other", &busybox())).await?;
    for kind in ["net", "ipc", "uts"] {
        let of = |pid: u32| bed.node.run("readlink", &[&format!("/proc/{pid}/ns/{kind}")]);
        assert_eq!(of(bed.pid(id).await?)?, of(bed.pid(&other).await?)?, "{kind}");
    }
    for id in [&other, id] {
        assert_eq!(bed.cri.shell(id, "hostname; cat /etc/hostname").await?, "again\nagain");
    }
    let ip = bed.cri.pod_status(&pod.id).await?.network.context("a network")?.ip;
    let inside = bed.cri.shell(id, "ip addr show eth0; cat /etc/hosts").await?;
    assert!(inside.contains(&format!("{ip}/")), "{inside}");
    bed.cri.stop(&other, 0).await?;
    Ok(())
}

/// An image of an archive, as `buildah add` makes it: one layer, which has the entries.
fn push(bed: &mut Bed, archive: &Path, tag: &str) -> Result<String> {
    let mut layer = Layer::new();
    for entry in tar::Archive::new(fs::File::open(archive)?).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        layer = match entry.header().entry_type() {
            tar::EntryType::Directory => layer.dir(&name, 0o700),
            _ => layer.file(&name, 0o600, content),
        };
    }
    let image = Image::new(vec![layer.pack(Compression::Gzip)]);
    let registry = bed.node.registry()?;
    let push = registry.push();
    let name = format!("{}/checkpoint:{tag}", registry.address());
    bed.node.place()?.visit(|| push.image("checkpoint", &[tag], &image))?;
    Ok(name)
}

const IMAGES: &str = "[checkpoints]\nrestore_images = true\n";

#[test]
fn a_container_is_made_of_an_image_of_a_checkpoint_and_its_own_image_is_pulled() -> Result<()> {
    let Some(criu) = criu() else { return Ok(()) };
    let config = config(&criu).drop_in("60-checkpoints.toml", IMAGES);
    on_a_node_with(config, &["busybox"], async |bed| {
        looked_at_the_kernel(bed, &criu)?;
        let Written { low, archive, .. } = written(bed).await?;
        let name = push(bed, &archive, "one")?;
        let id = bed.cri.pull(&name).await?;
        let base = bed.cri.image_status(&busybox()).await?.context("an image")?.id;
        bed.cri.remove_image(&busybox()).await?;
        let pod = bed.cri.run(&bed.pod("again")).await?;
        let id_of = bed.cri.create(&pod, &Container::new("restored", &name)).await?;
        assert!(bed.cri.image_status(&base).await?.is_some(), "it is pulled");
        // Nothing of the checkpoint's image is needed any more.
        bed.cri.remove_image(&id).await?;
        bed.cri.start(&id_of).await?;
        assert!(counts(bed, &id_of).await? > low);
        assert_eq!(bed.cri.shell(&id_of, "cat /etc/added; hostname").await?, "was\nagain");
        let status = bed.cri.container(&id_of).await?;
        let image = status.image.context("an image")?;
        assert_eq!(image.user_specified_image, name, "{image:?}");
        bed.cri.clear_all().await?;
        bed.settle()
    })
}

#[test]
fn an_image_of_a_checkpoint_is_restored_only_where_that_is_allowed() -> Result<()> {
    let programs = tempfile::tempdir()?;
    executable(&programs.path().join("criu"), "#!/bin/sh\nexit 3\n")?;
    let mut config = config(programs.path());
    for allowed in [false, true] {
        if allowed {
            config = config.drop_in("60-checkpoints.toml", IMAGES);
        }
        on_a_node_with(config.clone(), &["busybox"], async |bed| {
            let (pod, like) = bed.idle("like").await?;
            let archive = bed.node.disk().join("one.tar");
            Forged::of(bed, &like)?.write(&archive)?;
            let name = push(bed, &archive, "one")?;
            bed.cri.pull(&name).await?;
            let made = bed.cri.create(&pod, &Container::new("restored", &name)).await;
            if allowed {
                let id = made?;
                let snapshot = bed.node.path("/var/lib/berth/images/snapshots").join(&id);
                assert_eq!(fs::read_to_string(snapshot.join("upper/etc/added"))?, "was");
                let memory = snapshot.join("checkpoint/checkpoint/inventory.img");
                assert_eq!(fs::read(memory)?, b"no image");
                let why = bed.cri.start(&id).await.expect_err("CRIU fails");
                assert!(why.message().contains("runc restore"), "{why}");
                bed.cri.remove(&id).await?;
                let none = &fs::read_dir(bed.node.path("/var/lib/berth/images/holds"))?.count();
                assert_eq!(*none, 1, "only that of the other container");
            } else {
                let why = made.expect_err("nobody has allowed it");
                assert_eq!(why.code(), Code::PermissionDenied, "{why}");
                assert!(why.message().contains("checkpoints.restore_images"), "{why}");
            }
            assert_eq!((bed.cri.containers().await?.len(), snapshots(bed)?), (1, 1));
            bed.cri.clear_all().await?;
            bed.settle()
        })?;
    }
    Ok(())
}

#[test]
fn a_container_is_made_of_a_checkpoint_more_than_once() -> Result<()> {
    let Some(criu) = criu() else { return Ok(()) };
    on_a_node_with(config(&criu), &["busybox"], async |bed| {
        looked_at_the_kernel(bed, &criu)?;
        let Written { low, archive, .. } = written(bed).await?;
        let pod = bed.cri.run(&bed.pod("twins")).await?;
        let [one, other] =
            ["one", "other"].map(|name| Container::new(name, &archive.display().to_string()));
        let one = bed.cri.launch(&pod, &one).await?;
        let other = bed.cri.launch(&pod, &other).await?;
        assert!(counts(bed, &one).await? > low && counts(bed, &other).await? > low);
        // A checkpoint of what was made of one.
        let archive = bed.node.disk().join("two.tar");
        bed.cri.checkpoint(&one, &archive, 60).await?;
        let low = counts(bed, &other).await?;
        bed.cri.stop(&one, 0).await?;
        let third = bed.cri.launch(&pod, &made_of(&archive)).await?;
        assert!(counts(bed, &third).await? > 0 && low > 0);
        Ok(())
    })
}

/// The entries of an archive that looks like one of this container's.
struct Forged {
    config: Value,
    spec: Value,
    deleted: Value,
    changes: Vec<u8>,
}

impl Forged {
    /// One of a container as it stands.
    fn of(bed: &Bed, id: &str) -> Result<Self> {
        let spec = bed.node.path(&format!("/run/berth/bundles/{id}/config.json"));
        let mut changes = tar::Builder::new(Vec::new());
        for (name, content) in [("etc/added", "was"), ("tmp/deep/er", "x")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            changes.append_data(&mut header, name, content.as_bytes())?;
        }
        Ok(Self {
            config: json!({"name": "like", "rootfsImageName": busybox()}),
            spec: serde_json::from_slice(&fs::read(spec)?)?,
            deleted: json!(["/etc/passwd"]),
            changes: changes.into_inner()?,
        })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let mut archive = tar::Builder::new(fs::File::create(path)?);
        let [config, spec, deleted] =
            [&self.config, &self.spec, &self.deleted].map(ToString::to_string);
        let parts: [(&str, &[u8]); 6] = [
            ("config.dump", config.as_bytes()),
            ("spec.dump", spec.as_bytes()),
            ("checkpoint/inventory.img", b"no image"),
            ("checkpoint/descriptors.json", br#"["/dev/null", "/dev/null", "/dev/null"]"#),
            ("deleted.files", deleted.as_bytes()),
            ("rootfs-diff.tar", &self.changes),
        ];
        for (name, content) in parts {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            archive.append_data(&mut header, name, content)?;
        }
        archive.into_inner()?;
        Ok(())
    }
}

/// The writable layers that there are.
fn snapshots(bed: &Bed) -> Result<usize> {
    Ok(fs::read_dir(bed.node.path("/var/lib/berth/images/snapshots"))?.count())
}

#[test]
fn what_would_not_be_what_was_asked_for_is_not_restored() -> Result<()> {
    let programs = tempfile::tempdir()?;
    executable(&programs.path().join("criu"), "#!/bin/sh\nexit 3\n")?;
    on_a_node_with(config(programs.path()), &["busybox"], async |bed| {
        let (pod, id) = bed.idle("like").await?;
        let archive = bed.node.disk().join("one.tar");
        let like = Forged::of(bed, &id)?;
        like.write(&archive)?;
        let refuses = async |container: Container, code: Code, says: &str| -> Result<()> {
            let why = bed.cri.create(&pod, &container).await.expect_err(says);
            assert_eq!(why.code(), code, "{why}");
            assert!(why.message().contains(says), "no {says:?} in {why}");
            assert_eq!(bed.cri.containers().await?.len(), 1, "after {says:?}");
            assert_eq!(snapshots(bed)?, 1, "after {says:?}");
            Ok(())
        };
        let directory = bed.node.disk().join("mounted");
        fs::create_dir(&directory)?;
        let more = made_of(&archive).mount(&directory, "/more");
        refuses(more, Code::InvalidArgument, "has no mount at /more").await?;
        let weaker = made_of(&archive).security(|security| security.no_new_privs = true);
        refuses(weaker, Code::InvalidArgument, "no_new_privs").await?;
        let user = made_of(&archive).security(|security| {
            security.run_as_user = Some(berth_proto::cri::v1::Int64Value { value: 7 });
        });
        refuses(user, Code::InvalidArgument, "run_as_user").await?;
        let mut strange = Forged::of(bed, &id)?;
        strange.config["rootfsImageName"] = json!(format!("{}-gone", busybox()));
        strange.write(&archive)?;
        refuses(made_of(&archive), Code::NotFound, "pull that first").await?;
        strange.config["rootfsImageRef"] = json!(format!("sha256:{}", "0".repeat(64)));
        strange.config["rootfsImageName"] = json!(busybox());
        strange.write(&archive)?;
        refuses(made_of(&archive), Code::NotFound, "is another image by now").await?;
        like.write(&archive)?;
        let mut changed = Forged::of(bed, &id)?;
        changed.changes = b"no archive".repeat(100);
        changed.write(&archive)?;
        refuses(made_of(&archive), Code::InvalidArgument, "layer entry").await?;
        let mut outside = Forged::of(bed, &id)?;
        outside.deleted = json!(["/../../upper"]);
        outside.write(&archive)?;
        refuses(made_of(&archive), Code::InvalidArgument, "a \"..\" component").await
    })
}

#[test]
fn what_is_no_checkpoint_or_not_root_s_is_refused_by_its_reason() -> Result<()> {
    let programs = tempfile::tempdir()?;
    executable(&programs.path().join("criu"), "#!/bin/sh\nexit 3\n")?;
    on_a_node_with(config(programs.path()), &["busybox"], async |bed| {
        let (pod, id) = bed.idle("like").await?;
        let archive = bed.node.disk().join("one.tar");
        Forged::of(bed, &id)?.write(&archive)?;
        let refuses = async |pod: &RunningPod, path: &Path, code: Code, says: &str| {
            let why = bed.cri.create(pod, &made_of(path)).await.expect_err(says);
            assert_eq!(why.code(), code, "{why}");
            assert!(why.message().contains(says), "no {says:?} in {why}");
        };
        refuses(&pod, Path::new("/no/such.tar"), Code::NotFound, "/no/such.tar").await;
        refuses(&pod, bed.node.disk(), Code::InvalidArgument, "is no file").await;
        let text = bed.node.disk().join("text");
        fs::write(&text, "no archive")?;
        refuses(&pod, &text, Code::InvalidArgument, "is no checkpoint").await;
        bed.node.run("mkfifo", &[&bed.node.disk().join("fifo").display().to_string()])?;
        refuses(&pod, &bed.node.disk().join("fifo"), Code::InvalidArgument, "is no file").await;
        fs::set_permissions(&archive, fs::Permissions::from_mode(0o602))?;
        refuses(&pod, &archive, Code::InvalidArgument, "is not root's alone to write").await;
        fs::set_permissions(&archive, fs::Permissions::from_mode(0o600))?;
        chown(&archive, Some(7), None)?;
        refuses(&pod, &archive, Code::InvalidArgument, "is not root's alone to write").await;
        chown(&archive, Some(0), None)?;
        let cut = fs::read(&archive)?;
        fs::write(&text, &cut[..cut.len() * 3 / 4])?;
        refuses(&pod, &text, Code::InvalidArgument, "cut off").await;
        let by_crun = bed.cri.run(&bed.pod("crun").by("crun")).await?;
        refuses(&by_crun, &archive, Code::Unimplemented, "handler \"crun\"").await;
        let mapped = bed.cri.run(&bed.pod("mapped").user_namespace(1 << 20)).await?;
        refuses(&mapped, &archive, Code::Unimplemented, "user namespace").await;
        let of_ipc = bed.cri.run(&bed.pod("ipc").sysctl("kernel.shm_rmid_forced", "1")).await?;
        refuses(&of_ipc, &archive, Code::Unimplemented, "kernel.shm_rmid_forced").await;
        fs::remove_file(programs.path().join("criu"))?;
        refuses(&pod, &archive, Code::FailedPrecondition, "install it").await;
        assert_eq!((bed.cri.containers().await?.len(), snapshots(bed)?), (1, 1));
        Ok(())
    })
}

#[test]
fn the_configuration_can_forbid_archives() -> Result<()> {
    let programs = tempfile::tempdir()?;
    let forbids = "[checkpoints]\nrestore_archives = false\n";
    let config = config(programs.path()).drop_in("60-checkpoints.toml", forbids);
    on_a_node_with(config, &["busybox"], async |bed| {
        let pod = bed.cri.run(&bed.pod("forbids")).await?;
        let why = bed.cri.create(&pod, &made_of(Path::new("/one.tar"))).await;
        let why = why.expect_err("it is forbidden");
        assert_eq!(why.code(), Code::PermissionDenied);
        assert!(why.message().contains("checkpoints.restore_archives"), "{why}");
        Ok(())
    })
}

#[test]
fn a_restore_that_fails_or_hangs_leaves_nothing() -> Result<()> {
    let programs = tempfile::tempdir()?;
    let criu = programs.path().join("criu");
    executable(&criu, "#!/bin/sh\nexit 3\n")?;
    on_a_node_with(config(programs.path()), &["busybox"], async |bed| {
        let (pod, like) = bed.idle("like").await?;
        let archive = bed.node.disk().join("one.tar");
        Forged::of(bed, &like)?.write(&archive)?;
        let id = bed.cri.create(&pod, &made_of(&archive)).await?;
        let snapshot = bed.node.path("/var/lib/berth/images/snapshots").join(&id);
        assert_eq!(fs::read_to_string(snapshot.join("upper/etc/added"))?, "was");
        let gone = fs::symlink_metadata(snapshot.join("upper/etc/passwd"))?;
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0, "overlay's mark");
        // Directories that the archive only implies are as the image has them.
        let mode = fs::metadata(snapshot.join("upper/tmp"))?.permissions().mode();
        assert_eq!(mode & 0o7777, 0o1777);
        assert_eq!(fs::read(snapshot.join("checkpoint/checkpoint/inventory.img"))?, b"no image");
        // The same request is the same container, also where its archive is gone.
        let away = bed.node.disk().join("away.tar");
        fs::rename(&archive, &away)?;
        assert_eq!(bed.cri.create(&pod, &made_of(&archive)).await?, id);
        let other = made_of(&archive).env("SAID", "other");
        let why = bed.cri.create(&pod, &other).await.expect_err("it is another request");
        assert_eq!(why.code(), Code::NotFound, "{why}");
        fs::rename(&away, &archive)?;
        let why = bed.cri.start(&id).await.expect_err("CRIU fails");
        assert_eq!(why.code(), Code::Internal, "{why}");
        assert!(why.message().contains("runc restore"), "{why}");
        bed.cri.remove(&id).await?;
        assert!(!snapshot.exists());
        let hangs = programs.path().join("hangs");
        let script = format!("#!/bin/sh\necho >{}\nexec sleep 1000\n", hangs.display());
        executable(&criu, &script)?;
        let id = bed.cri.create(&pod, &made_of(&archive)).await?;
        let (cri, of) = (bed.cri.clone(), id.clone());
        let call = tokio::spawn(async move { cri.start(&of).await });
        let begun = async || Ok(hangs.exists().then_some(()));
        eventually(|| "CRIU is not run".to_owned(), begun).await?;
        bed.crash().await?;
        call.await?.expect_err("its daemon is dead");
        bed.cri.remove(&id).await?;
        assert_eq!((bed.cri.containers().await?.len(), snapshots(bed)?), (1, 1));
        Ok(())
    })
}

/// The numbers of the lines that tell of a step's begin and end, once there are both.
async fn points(traced: &Traced, step: &str) -> Result<[usize; 2]> {
    let both = async || {
        let lines = traced.lines();
        let of_step = (1..).zip(&lines).filter(|(_, line)| line.contains(step));
        let numbers: Vec<usize> = of_step.map(|(number, _)| number).collect();
        Ok(<[usize; 2]>::try_from(numbers).ok())
    };
    eventually(|| format!("{step} does not begin and end once"), both).await
}

#[test]
fn a_daemon_that_dies_while_it_unpacks_a_checkpoint_goes_on_with_the_next_call() -> Result<()> {
    let programs = tempfile::tempdir()?;
    executable(&programs.path().join("criu"), "#!/bin/sh\nexit 3\n")?;
    on_a_node_with(config(programs.path()), &["busybox"], async |bed| {
        let (pod, like) = bed.idle("like").await?;
        let archive = bed.node.disk().join("one.tar");
        Forged::of(bed, &like)?.write(&archive)?;
        let traced = Traced::attach(bed.node.daemon().context("a daemon")?, None)?;
        let id = bed.cri.create(&pod, &made_of(&archive)).await?;
        let points = points(&traced, "acquire.rootfs").await?;
        drop(traced);
        bed.cri.remove(&id).await?;
        for strike in Strike::all(points[1]).filter(|strike| points.contains(&strike.number)) {
            let daemon = bed.node.daemon().context("a daemon")?;
            let traced = Traced::attach(daemon, Some(strike))?;
            bed.cri.create(&pod, &made_of(&archive)).await.expect_err("its daemon is dead");
            assert!(traced.killed()?, "{strike:?}");
            bed.node.wait_for_daemon()?;
            bed.start().await?;
            let id = bed.cri.create(&pod, &made_of(&archive)).await?;
            assert_eq!((bed.cri.containers().await?.len(), snapshots(bed)?), (2, 2));
            let upper = bed.node.path("/var/lib/berth/images/snapshots").join(&id).join("upper");
            assert_eq!(fs::read_to_string(upper.join("etc/added"))?, "was");
            bed.cri.remove(&id).await?;
        }
        Ok(())
    })
}

#[test]
fn a_daemon_that_dies_while_criu_restores_goes_on_with_the_next_call() -> Result<()> {
    let Some(criu) = criu() else { return Ok(()) };
    on_a_node_with(config(&criu), &["busybox"], async |bed| {
        looked_at_the_kernel(bed, &criu)?;
        let Written { low, archive, .. } = written(bed).await?;
        let pod = bed.cri.run(&bed.pod("again")).await?;
        let id = bed.cri.create(&pod, &made_of(&archive)).await?;
        let traced = Traced::attach(bed.node.daemon().context("a daemon")?, None)?;
        bed.cri.start(&id).await?;
        let points = points(&traced, "acquire.task").await?;
        drop(traced);
        bed.cri.stop(&id, 0).await?;
        bed.cri.remove(&id).await?;
        for strike in Strike::all(points[1]).filter(|strike| points.contains(&strike.number)) {
            let id = bed.cri.create(&pod, &made_of(&archive)).await?;
            let traced = Traced::attach(bed.node.daemon().context("a daemon")?, Some(strike))?;
            bed.cri.start(&id).await.expect_err("its daemon is dead");
            assert!(traced.killed()?, "{strike:?}");
            bed.node.wait_for_daemon()?;
            bed.start().await?;
            bed.cri.start(&id).await.with_context(|| format!("{strike:?}"))?;
            let before = bed.identity(&id).await?;
            assert!(counts(bed, &id).await? > low, "{strike:?}");
            bed.cri.start(&id).await?;
            assert_eq!(bed.identity(&id).await?, before, "it is restored once");
            bed.cri.stop(&id, 0).await?;
            bed.cri.remove(&id).await?;
        }
        Ok(())
    })
}

#[test]
fn a_terminal_goes_on_too() -> Result<()> {
    let Some(criu) = criu() else { return Ok(()) };
    on_a_node_with(config(&criu), &["busybox"], async |bed| {
        looked_at_the_kernel(bed, &criu)?;
        let archive = bed.node.disk().join("one.tar");
        let pod = bed.cri.run(&bed.pod("first")).await?;
        let tty = |container: Container| container.with(|config| config.tty = true);
        let container = tty(Container::new("counts", &busybox()).shell(COUNT));
        let id = bed.cri.launch(&pod, &container).await?;
        let low = counts(bed, &id).await?;
        bed.cri.checkpoint(&id, &archive, 60).await?;
        bed.cri.clear(&pod.id).await?;
        let pod = bed.cri.run(&bed.pod("again")).await?;
        let why = bed.cri.create(&pod, &made_of(&archive)).await.expect_err("it has a terminal");
        assert!(why.message().contains("tty"), "{why}");
        let id = bed.cri.launch(&pod, &tty(made_of(&archive))).await?;
        let high = counts(bed, &id).await?;
        assert!(high > low);
        bed.file_says(&bed.logs("again").join("restored.0.log"), &high.to_string()).await
    })
}

#[test]
fn what_criu_cannot_restore_is_refused_with_its_reason() -> Result<()> {
    let Some(criu) = criu() else { return Ok(()) };
    on_a_node_with(config(&criu), &["busybox"], async |bed| {
        looked_at_the_kernel(bed, &criu)?;
        let (pod, like) = bed.idle("like").await?;
        let archive = bed.node.disk().join("one.tar");
        Forged::of(bed, &like)?.write(&archive)?;
        let id = bed.cri.create(&pod, &made_of(&archive)).await?;
        let why = bed.cri.start(&id).await.expect_err("there is nothing in it");
        assert_eq!(why.code(), Code::Internal, "{why}");
        assert!(why.message().contains("inventory"), "what CRIU says: {why}");
        bed.cri.remove(&id).await?;
        assert_eq!((bed.cri.containers().await?.len(), snapshots(bed)?), (1, 1));
        Ok(())
    })
}

#[test]
fn the_shim_of_containerd_restores_as_well() -> Result<()> {
    let Some(criu) = criu() else { return Ok(()) };
    let shim = berth_testkit::paths::cache().join("containerd/usr/bin/containerd-shim-runc-v2");
    let handler = format!("[handlers.theirs]\nshim = {shim:?}\n");
    let config = config(&criu).drop_in("60-theirs.toml", &handler);
    on_a_node_with(config, &["busybox"], async |bed| {
        looked_at_the_kernel(bed, &criu)?;
        let Written { low, archive, .. } = written(bed).await?;
        // The directories of shims by others are made with the first of them, and stay.
        let first = bed.cri.run(&bed.pod("theirs").by("theirs")).await?;
        bed.cri.clear(&first.id).await?;
        bed.settle()?;
        let pod = bed.cri.run(&bed.pod("again").by("theirs")).await?;
        let id = bed.cri.launch(&pod, &made_of(&archive)).await?;
        let high = counts(bed, &id).await?;
        assert!(high > low);
        bed.file_says(&bed.logs("again").join("restored.0.log"), &high.to_string()).await?;
        bed.crash().await?;
        let high = counts(bed, &id).await?;
        bed.file_says(&bed.logs("again").join("restored.0.log"), &high.to_string()).await?;
        bed.cri.stop(&id, 0).await?;
        assert_eq!(bed.cri.container(&id).await?.exit_code, 137);
        Ok(())
    })
}
