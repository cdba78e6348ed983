//! Checkpoints: written by CRIU where it works with the machine's kernel, and by a stand-in that
//! fails or hangs to see what a failure leaves.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use berth_testkit::bed::{Bed, busybox, eventually, on_a_node_with};
use berth_testkit::config::Config;
use berth_testkit::paths;
use berth_testkit::specs::Container;
use serde_json::Value;
use tonic::Code;

use crate::badworld::executable;

/// Counts for ever in a file, and says each number.
pub(crate) const COUNT: &str = "echo was >/etc/added; rm /etc/passwd; i=0; \
                     while :; do i=$((i+1)); echo $i | tee /count; sleep 0.1; done";

/// A handler that can, and one that cannot: Debian's crun has no CRIU.
const HANDLERS: &str = "[handlers.berth]\nruntime = \"/usr/sbin/runc\"\n\
                        [handlers.crun]\nruntime = \"/usr/bin/crun\"\n";

pub(crate) fn config(programs: &Path) -> Config {
    Config::default().drop_in("50-handlers.toml", HANDLERS).programs(programs)
}

/// Waits until a counting container counts.
pub(crate) async fn counts(bed: &Bed, id: &str) -> Result<u64> {
    let read = async || {
        let said = bed.cri.shell(id, "cat /count").await;
        Ok(said.ok().and_then(|said| said.trim().parse::<u64>().ok()))
    };
    let what = || format!("container {id} does not count");
    let first = eventually(&what, &read).await?;
    eventually(&what, async || Ok(read().await?.filter(|now| *now > first))).await
}

/// Nothing is at the place, beside it, or gathered still.
fn nothing_is_left(bed: &Bed, location: &Path) -> Result<()> {
    let directory = location.parent().context("a directory")?;
    ensure!(fs::read_dir(directory)?.count() == 0, "something is left in {}", directory.display());
    let gathered = bed.node.path("/var/lib/berth/checkpoints");
    ensure!(fs::read_dir(&gathered)?.count() == 0, "something is left in {}", gathered.display());
    Ok(())
}

#[test]
fn a_checkpoint_that_fails_leaves_nothing_and_the_container_goes_on() -> Result<()> {
    let programs = tempfile::tempdir()?;
    on_a_node_with(config(programs.path()), &["busybox"], async |bed| {
        let directory = bed.node.disk().join("archives");
        fs::create_dir(&directory)?;
        let location = directory.join("one.tar");
        let pod = bed.cri.run(&bed.pod("fails")).await?;
        let container = Container::new("counts", &busybox()).shell(COUNT);
        let id = bed.cri.launch(&pod, &container).await?;
        let before = bed.identity(&id).await?;
        let fails = async |code: Code, says: &str, timeout: i64| {
            let why = bed.cri.checkpoint(&id, &location, timeout).await;
            let why = why.expect_err("there is no CRIU that works");
            assert_eq!(why.code(), code, "{why}");
            assert!(why.message().contains(says), "no {says:?} in {why}");
            nothing_is_left(bed, &location)?;
            counts(bed, &id).await
        };
        fails(Code::FailedPrecondition, "install it", 0).await?;
        executable(&programs.path().join("criu"), "#!/bin/sh\nexit 3\n")?;
        fails(Code::Internal, "runc checkpoint", 0).await?;
        // As good as no limit.
        fails(Code::Internal, "runc checkpoint", i64::MAX).await?;
        // Half of an archive, as a helper that is killed leaves it where a file must have a name.
        let script = format!(
            "#!/bin/sh\nhalf={}/.{}.partial\necho half >$half\n\
             ln -s $half /var/lib/berth/checkpoints/{id}/.partial\nexec sleep 1000\n",
            directory.display(),
            &id[..32]
        );
        executable(&programs.path().join("criu"), &script)?;
        fails(Code::DeadlineExceeded, "", 2).await?;
        assert_eq!(bed.identity(&id).await?, before);
        Ok(())
    })
}

#[test]
fn what_can_have_no_checkpoint_is_refused_by_its_reason() -> Result<()> {
    let programs = tempfile::tempdir()?;
    executable(&programs.path().join("criu"), "#!/bin/sh\nexit 3\n")?;
    on_a_node_with(config(programs.path()), &["busybox"], async |bed| {
        let directory = bed.node.disk().join("archives");
        fs::create_dir(&directory)?;
        let location = directory.join("one.tar");
        let refuses = async |id: &str, location: &Path, code: Code, says: &str| {
            let why = bed.cri.checkpoint(id, location, 0).await.expect_err(says);
            assert_eq!(why.code(), code, "{why}");
            assert!(why.message().contains(says), "no {says:?} in {why}");
        };
        refuses("nobody", &location, Code::NotFound, "nobody").await;
        let (pod, id) = bed.idle("refused").await?;
        refuses(&id, Path::new(""), Code::InvalidArgument, "location is missing").await;
        refuses(&id, Path::new("one.tar"), Code::InvalidArgument, "absolute").await;
        refuses(&id, &directory, Code::AlreadyExists, "exists already").await;
        let nowhere = directory.join("no/one.tar");
        refuses(&id, &nowhere, Code::NotFound, "make it first").await;
        // Before CRIU is asked, which says something else.
        let file = bed.node.disk().join("file");
        fs::write(&file, "")?;
        refuses(&id, &file.join("one.tar"), Code::InvalidArgument, "not a directory").await;
        let negative = bed.cri.checkpoint(&id, &location, -1).await.expect_err("a time before");
        assert_eq!(negative.code(), Code::InvalidArgument);
        let created = bed.cri.create(&pod, &Container::idle("created", &busybox())).await?;
        refuses(&created, &location, Code::FailedPrecondition, "not started").await;
        bed.cri.stop(&id, 0).await?;
        refuses(&id, &location, Code::FailedPrecondition, "not running").await;
        let by_crun = bed.cri.run(&bed.pod("crun").by("crun")).await?;
        let by_crun = bed.cri.launch(&by_crun, &Container::idle("main", &busybox())).await?;
        refuses(&by_crun, &location, Code::Unimplemented, "handler \"crun\"").await;
        let mapped = bed.cri.run(&bed.pod("mapped").user_namespace(1 << 20)).await?;
        let mapped = bed.cri.launch(&mapped, &Container::idle("main", &busybox())).await?;
        refuses(&mapped, &location, Code::Unimplemented, "user namespace").await;
        nothing_is_left(bed, &location)
    })
}

#[test]
fn a_daemon_that_dies_over_a_checkpoint_leaves_no_container_frozen() -> Result<()> {
    let programs = tempfile::tempdir()?;
    let hangs = programs.path().join("hangs");
    let script = format!("#!/bin/sh\necho >{}\nexec sleep 1000\n", hangs.display());
    executable(&programs.path().join("criu"), &script)?;
    on_a_node_with(config(programs.path()), &["busybox"], async |bed| {
        let directory = bed.node.disk().join("archives");
        fs::create_dir(&directory)?;
        let location = directory.join("one.tar");
        let pod = bed.cri.run(&bed.pod("dies")).await?;
        let container = Container::new("counts", &busybox()).shell(COUNT);
        let id = bed.cri.launch(&pod, &container).await?;
        let before = bed.identity(&id).await?;
        let (cri, of, at) = (bed.cri.clone(), id.clone(), location.clone());
        let call = tokio::spawn(async move { cri.checkpoint(&of, &at, 8).await });
        let begun = async || Ok(hangs.exists().then_some(()));
        eventually(|| "CRIU is not run".to_owned(), begun).await?;
        let busy = bed.cri.checkpoint(&id, &location, 1).await.expect_err("one is under way");
        assert_eq!(busy.code(), Code::Aborted, "{busy}");
        // What a helper that dies with the daemon leaves where a file must have a name.
        let half = directory.join(format!(".{}.partial", &id[..32]));
        fs::write(&half, "half")?;
        let gathered = bed.node.path("/var/lib/berth/checkpoints").join(&id);
        symlink(&half, gathered.join(".partial"))?;
        bed.crash().await?;
        call.await?.expect_err("its daemon is dead");
        counts(bed, &id).await?;
        assert_eq!(bed.identity(&id).await?, before);
        let gone = async || Ok(nothing_is_left(bed, &location).is_ok().then_some(()));
        eventually(|| "what was gathered stays".to_owned(), gone).await
    })
}

/// The file by which the kernel freezes a container (cgroup v1), as the node has it.
async fn freezer(bed: &Bed, id: &str) -> Result<PathBuf> {
    let table = fs::read_to_string(bed.node.path(&format!("/proc/{}/cgroup", bed.pid(id).await?)))?;
    let path = table.lines().find_map(|line| line.split_once(":freezer:").map(|(_, path)| path));
    let path = path.with_context(|| format!("a freezer in {table}"))?;
    Ok(PathBuf::from(format!("/sys/fs/cgroup/freezer{path}/freezer.state")))
}

#[test]
fn a_container_goes_on_after_a_dump_that_outlives_its_daemon() -> Result<()> {
    let programs = tempfile::tempdir()?;
    let at = |name: &str| programs.path().join(name).display().to_string();
    // CRIU thaws what it writes, and freezes it again at its end if it was frozen.
    let script = format!(
        "#!/bin/sh\necho >{}\nwhile [ ! -e {} ]; do sleep 0.05; done\necho FROZEN >$(cat {})\nexit 3\n",
        at("hangs"),
        at("go"),
        at("freezer")
    );
    executable(&programs.path().join("criu"), &script)?;
    on_a_node_with(config(programs.path()), &["busybox"], async |bed| {
        let location = bed.node.disk().join("one.tar");
        let pod = bed.cri.run(&bed.pod("outlives")).await?;
        let container = Container::new("counts", &busybox()).shell(COUNT);
        let id = bed.cri.launch(&pod, &container).await?;
        let before = bed.identity(&id).await?;
        fs::write(programs.path().join("freezer"), freezer(bed, &id).await?.display().to_string())?;
        let (cri, of, place) = (bed.cri.clone(), id.clone(), location.clone());
        let call = tokio::spawn(async move { cri.checkpoint(&of, &place, 60).await });
        let begun = async || Ok(programs.path().join("hangs").exists().then_some(()));
        eventually(|| "CRIU is not run".to_owned(), begun).await?;
        bed.crash().await?;
        call.await?.expect_err("its daemon is dead");
        fs::write(programs.path().join("go"), "")?;
        let gathered = bed.node.path("/var/lib/berth/checkpoints");
        let undone = async || Ok((fs::read_dir(&gathered)?.count() == 0).then_some(()));
        eventually(|| "what was gathered stays".to_owned(), undone).await?;
        counts(bed, &id).await?;
        assert_eq!(bed.identity(&id).await?, before);
        Ok(())
    })
}

#[test]
fn a_container_that_cannot_be_thawed_is_thawed_once_it_can_be() -> Result<()> {
    let programs = tempfile::tempdir()?;
    executable(&programs.path().join("criu"), "#!/bin/sh\nexit 3\n")?;
    // A runc that thaws nothing as long as a file is there.
    let stuck = programs.path().join("stuck");
    let script = format!(
        "#!/bin/sh\nfor word; do [ \"$word\" = resume ] && [ -e {} ] && exit 1; done\n\
         exec /usr/sbin/runc \"$@\"\n",
        stuck.display()
    );
    let runc = programs.path().join("runc");
    executable(&runc, &script)?;
    let handler = format!("[handlers.berth]\nruntime = {runc:?}\n");
    let config = Config::default().drop_in("50-handlers.toml", &handler).programs(programs.path());
    on_a_node_with(config, &["busybox"], async |bed| {
        let directory = bed.node.disk().join("archives");
        fs::create_dir(&directory)?;
        let location = directory.join("one.tar");
        let pod = bed.cri.run(&bed.pod("stuck")).await?;
        let container = Container::new("counts", &busybox()).shell(COUNT);
        let id = bed.cri.launch(&pod, &container).await?;
        let before = bed.identity(&id).await?;
        let kept = bed.node.path(&format!("/var/lib/berth/checkpoints/{id}"));
        let stays = || "what was gathered stays".to_owned();
        for crash in [false, true] {
            fs::write(&stuck, "")?;
            bed.cri.checkpoint(&id, &location, 0).await.expect_err("no CRIU works");
            // That tells of the container, to this daemon and to the next.
            ensure!(kept.exists(), "nothing tells of a frozen container");
            let busy = bed.cri.checkpoint(&id, &location, 0).await.expect_err("it is frozen");
            assert_eq!(busy.code(), Code::Aborted, "{busy}");
            if crash {
                bed.crash().await?;
                ensure!(kept.exists(), "nothing tells of a frozen container any more");
            }
            fs::remove_file(&stuck)?;
            let gone = async || Ok(nothing_is_left(bed, &location).is_ok().then_some(()));
            eventually(stays, gone).await?;
            counts(bed, &id).await?;
        }
        assert_eq!(bed.identity(&id).await?, before);
        // Nor is one held on to that ends meanwhile.
        fs::write(&stuck, "")?;
        bed.cri.checkpoint(&id, &location, 0).await.expect_err("no CRIU works");
        bed.cri.clear(&pod.id).await?;
        let gone = async || Ok(nothing_is_left(bed, &location).is_ok().then_some(()));
        eventually(stays, gone).await
    })
}

/// The entries of an archive, and the content of the small ones.
fn entries(archive: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for entry in tar::Archive::new(fs::File::open(archive)?).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content)?;
        all.insert(name, content);
    }
    Ok(all)
}

/// The directory of a CRIU that works here. Debian 12's does not with each kernel: without one,
/// what it takes to see a checkpoint is not there, and that is said.
pub(crate) fn criu() -> Option<PathBuf> {
    let criu = paths::criu();
    if criu.is_none() {
        eprintln!("skipped: no CRIU works with this kernel (put one in target/testkit/criu)");
    }
    criu.and_then(|criu| criu.parent().map(Path::to_owned))
}

/// What CRIU finds out of the kernel it keeps in /run, and that is no leak.
pub(crate) fn looked_at_the_kernel(bed: &mut Bed, criu: &Path) -> Result<()> {
    bed.node.run(&criu.join("criu").display().to_string(), &["check"])?;
    bed.settle()
}

#[test]
fn a_checkpoint_is_an_archive_as_others_write_it() -> Result<()> {
    let Some(criu) = criu() else { return Ok(()) };
    on_a_node_with(config(&criu), &["busybox"], async |bed| {
        looked_at_the_kernel(bed, &criu)?;
        let location = bed.node.disk().join("one.tar");
        let pod = bed.cri.run(&bed.pod("written")).await?;
        let container = Container::new("counts", &busybox()).shell(COUNT);
        let id = bed.cri.launch(&pod, &container).await?;
        let (before, counted) = (bed.identity(&id).await?, counts(bed, &id).await?);
        bed.cri.checkpoint(&id, &location, 60).await?;
        assert!(counts(bed, &id).await? > counted, "it goes on");
        assert_eq!(bed.identity(&id).await?, before);
        assert_eq!(fs::metadata(&location)?.permissions().mode() & 0o777, 0o600);
        let all = entries(&location)?;
        let json = |name: &str| -> Result<Value> {
            Ok(serde_json::from_slice(all.get(name).with_context(|| format!("no {name}"))?)?)
        };
        let config = json("config.dump")?;
        assert_eq!((&config["id"], &config["name"]), (&id.clone().into(), &"counts".into()));
        assert_eq!(config["rootfsImage"], busybox());
        let spec = json("spec.dump")?;
        assert_eq!(spec["annotations"]["io.kubernetes.cri.container-name"], "counts");
        assert!(json("status")?["StartedAt"].as_i64().is_some_and(|at| at > 0));
        assert_eq!(json("deleted.files")?, serde_json::json!(["/etc/passwd"]));
        for name in ["checkpoint/inventory.img", "checkpoint/pstree.img", "dump.log", "stats-dump"]
        {
            assert!(all.contains_key(name), "no {name}: {:?}", all.keys());
        }
        let changes = bed.node.disk().join("rootfs-diff.tar");
        fs::write(&changes, &all["rootfs-diff.tar"])?;
        let changes = entries(&changes)?;
        assert_eq!(changes["etc/added"], b"was\n");
        assert!(changes.contains_key("count"));
        let again = bed.cri.checkpoint(&id, &location, 60).await.expect_err("it is there");
        assert_eq!(again.code(), Code::AlreadyExists);
        assert_eq!(fs::read_dir(bed.node.path("/var/lib/berth/checkpoints"))?.count(), 0);
        Ok(())
    })
}
