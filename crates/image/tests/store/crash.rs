//! What the store makes of a disk that a crash, a power cut or an operator left behind.

use std::time::{Duration, Instant};

use berth_image::{Kind, Options, Store};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use crate::fixture::{Image, Layer, Node};
use crate::pull::until;
use crate::races::images;
use crate::registry::Registry;

fn image() -> Image {
    let base = Layer::new().dir("d", 0o755, (0, 0)).file("d/f", "1").finish();
    let top = Layer::new().file("g", "2").finish();
    Image::new("{}", vec![base, top])
}

#[tokio::test]
async fn leftovers_of_an_import_that_was_cut_off_are_removed() {
    let node = Node::new().await;
    let id = node.import(&image(), "a").await.unwrap();
    let root = node.root();
    // After a reboot a daemon may get the process number it had: its names are used already.
    let own = std::process::id();
    let kept = [
        format!("staging/{own}-0/etc"),
        format!("trash/{own}-0/etc"),
        format!("trash/{own}-1/etc"),
    ];
    for left in ["staging/1-0/etc", "l/4711/etc", "trash/x/y/z"]
        .into_iter()
        .chain(kept.iter().map(String::as_str))
    {
        std::fs::create_dir_all(root.join(left)).unwrap();
    }
    let node = node.reopen().await;
    node.assert_clean().await;
    assert_eq!(node.layers().len(), 2);
    assert_eq!(node.store.list()[0].id, id);
}

#[tokio::test]
async fn an_image_whose_layer_is_gone_is_absent_until_it_is_repaired() {
    let node = Node::new().await;
    let id = node.import(&image(), "a").await.unwrap();
    let lost = node.layers()[0].clone();
    std::fs::remove_dir_all(lost).unwrap();
    let node = node.reopen().await;
    assert!(node.store.list().is_empty());
    assert!(node.store.status("a").unwrap().is_none());
    let error = node.store.prepare("c1", &id).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    let kept = node.layers();
    node.import(&image(), "a").await.unwrap();
    assert_eq!(node.store.list().len(), 1);
    assert!(kept.iter().all(|layer| node.layers().contains(layer)), "the rest was kept");
    let node = node.reopen().await;
    node.store.prepare("c1", &id).await.unwrap();
}

#[tokio::test]
async fn a_lost_database_costs_the_names_but_no_running_container() {
    let node = Node::new().await;
    let id = node.import(&image(), "a").await.unwrap();
    let mount = node.store.prepare("c1", &id).await.unwrap();
    let overwrite = |root: &std::path::Path| {
        std::fs::write(root.join("images.db"), vec![0x5a; 5000]).unwrap();
    };
    let node = node.reopen_after(overwrite).await;
    assert!(node.store.list().is_empty());
    assert_eq!(node.layers().len(), 2, "a snapshot stands on them");
    assert_eq!(node.store.snapshot("c1").await.unwrap(), Some(mount.clone()));
    node.import(&image(), "a").await.unwrap();
    assert_eq!(node.store.prepare("c1", &id).await.unwrap(), mount);
    node.store.drop_snapshot("c1").await.unwrap();
    node.assert_clean().await;
    assert_eq!(node.layers().len(), 2, "only the image's own are left");
}

#[tokio::test]
async fn a_half_made_snapshot_is_completed() {
    let node = Node::new().await;
    let id = node.import(&image(), "a").await.unwrap();
    std::fs::create_dir_all(node.root().join("snapshots/c1/upper")).unwrap();
    let node = node.reopen().await;
    assert!(node.store.snapshot("c1").await.unwrap().is_none());
    let mount = node.store.prepare("c1", &id).await.unwrap();
    assert_eq!(node.store.snapshot("c1").await.unwrap(), Some(mount));
}

#[tokio::test]
async fn a_damaged_layer_is_found_and_repaired() {
    let node = Node::new().await;
    let id = node.import(&image(), "a").await.unwrap();
    assert!(node.store.verify().await.unwrap().is_empty());
    let victim = node.layers().into_iter().find(|layer| layer.join("d/f").exists()).unwrap();
    std::fs::write(victim.join("d/f"), "").unwrap();
    let damaged = node.store.verify().await.unwrap();
    assert_eq!(damaged.len(), 1);
    assert!(node.store.list().is_empty());
    let node = node.reopen().await;
    assert!(node.store.status("a").unwrap().is_none());
    node.import(&image(), "a").await.unwrap();
    assert_eq!(node.store.resolve("a").unwrap().id, id);
    assert!(node.store.verify().await.unwrap().is_empty());
    node.assert_clean().await;
}

#[tokio::test]
async fn layers_are_verified_once_after_a_boot() {
    let node = Node::new().await;
    node.import(&image(), "a").await.unwrap();
    let victim = node.layers().into_iter().find(|layer| layer.join("d/f").exists()).unwrap();
    let node = node
        .reopen_after(|root| {
            std::fs::write(root.join("verified"), "another boot").unwrap();
            std::fs::remove_file(victim.join("d/f")).unwrap();
        })
        .await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !node.store.list().is_empty() {
        assert!(Instant::now() < deadline, "never noticed");
        tokio::task::yield_now().await;
    }
}

/// What the test below runs in a process of its own: imports and removals until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_without_end() {
    let Some(root) = std::env::var_os("BERTH_TEST_STORE") else { return };
    let store = Store::open(Options::new(root)).await.unwrap();
    let layout = tempfile::tempdir().unwrap();
    image().layout(layout.path(), None);
    for turn in 0.. {
        let name = format!("turn:{turn}");
        let imported = store.import(layout.path(), &[name]).await.unwrap();
        let id = imported[0].id.clone();
        store.hold("holder", &id).await.unwrap();
        store.prepare("snapshot", &id).await.unwrap();
        store.remove(id.as_str()).await.unwrap();
        store.unhold("holder").await.unwrap();
        store.drop_snapshot("snapshot").await.unwrap();
    }
}

#[tokio::test]
async fn a_store_whose_daemon_is_killed_anywhere_is_whole() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("images");
    let me = std::env::current_exe().unwrap();
    for turn in 0..15u64 {
        let mut child = std::process::Command::new(&me)
            .args(["--exact", "crash::imports_without_end"])
            .env("BERTH_TEST_STORE", &root)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !root.join("images.db").exists() {
            assert!(Instant::now() < deadline, "the child does not start");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Not to wait for anything: to be somewhere else in the cycle each time.
        tokio::time::sleep(Duration::from_millis(turn * 7 % 50)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open(Options::new(&root)).await.unwrap();
        for image in store.list() {
            store.prepare("probe", &image.id).await.unwrap();
            store.drop_snapshot("probe").await.unwrap();
        }
        assert!(store.verify().await.unwrap().is_empty(), "turn {turn}");
        for (holder, _) in store.holders() {
            store.unhold(&holder).await.unwrap();
        }
        store.drop_snapshot("snapshot").await.unwrap();
        for image in store.list() {
            store.remove(image.id.as_str()).await.unwrap();
        }
        assert!(store.settled(Duration::from_secs(20)).await);
        for place in ["l", "snapshots", "staging", "trash", "holds"] {
            let left: Vec<_> = std::fs::read_dir(root.join(place)).unwrap().collect();
            assert!(left.is_empty(), "turn {turn}, {place}: {left:?}");
        }
    }
}

/// The same with pulls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_without_end() {
    let Some(root) = std::env::var_os("BERTH_TEST_STORE") else { return };
    let Ok(name) = std::env::var("BERTH_TEST_IMAGE") else { return };
    let mut options = Options::new(root);
    options.platform.architecture = "amd64".to_owned();
    options.platform.variant = None;
    let store = Store::open(options).await.unwrap();
    loop {
        let id = store.pull(&name, None).await.unwrap();
        store.hold("holder", &id).await.unwrap();
        store.prepare("snapshot", &id).await.unwrap();
        store.remove(&name).await.unwrap();
        store.unhold("holder").await.unwrap();
        store.drop_snapshot("snapshot").await.unwrap();
    }
}

/// Kills a store that pulls, at other points each time, and looks at what it left.
async fn killed_while_it_pulls(turns: u64) {
    let registry = Registry::start().await;
    let [_, image] = images();
    registry.push("a/b:1", &image);
    let name = registry.name("a/b:1");
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("images");
    let me = std::env::current_exe().unwrap();
    for turn in 0..turns {
        let before = registry.log().len();
        let mut child = std::process::Command::new(&me)
            .args(["--exact", "crash::pulls_without_end"])
            .env("BERTH_TEST_STORE", &root)
            .env("BERTH_TEST_IMAGE", &name)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let asked = registry.clone();
        until("the child pulls", || asked.log().len() > before).await;
        // Not to wait for anything: to be somewhere else in the cycle each time.
        tokio::time::sleep(Duration::from_micros(turn * 7_919 % 60_000)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open(Options::new(&root)).await.unwrap();
        for image in store.list() {
            let mount = store.prepare("probe", &image.id).await.unwrap();
            let lower = mount.options.iter().find_map(|o| o.strip_prefix("lowerdir=")).unwrap();
            let base = lower.rsplit(':').next().unwrap();
            let content = std::fs::read(format!("{base}/d/f")).unwrap();
            assert!(content.len() == 50_000 && content.iter().all(|byte| *byte == 7));
            store.drop_snapshot("probe").await.unwrap();
        }
        assert!(store.verify().await.unwrap().is_empty(), "turn {turn}");
        for (holder, _) in store.holders() {
            store.unhold(&holder).await.unwrap();
        }
        store.drop_snapshot("snapshot").await.unwrap();
        store.remove(&name).await.unwrap();
        assert!(store.settled(Duration::from_secs(20)).await);
        for place in ["l", "snapshots", "staging", "trash", "holds"] {
            let left: Vec<_> = std::fs::read_dir(root.join(place)).unwrap().collect();
            assert!(left.is_empty(), "turn {turn}, {place}: {left:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_killed_in_a_pull_lists_what_is_whole() {
    killed_while_it_pulls(12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_store_killed_in_five_hundred_pulls_lists_what_is_whole() {
    killed_while_it_pulls(500).await;
}

#[test]
fn a_full_disk_is_said_and_leaves_no_trace() {
    // A file system of 4 MiB, in a mount namespace of this thread and those that it starts.
    #[allow(deprecated)] // Its replacement is unsafe; only the mounts are unshared here.
    rustix::thread::unshare(UnshareFlags::NEWNS | UnshareFlags::FS).unwrap();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    let temp = tempfile::tempdir().unwrap();
    rustix::mount::mount("tmpfs", temp.path(), "tmpfs", MountFlags::empty(), c"size=4m").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let root = temp.path().join("images");
        let store = Store::open(Options::new(&root)).await.unwrap();
        let layout = tempfile::tempdir().unwrap();
        let large = Layer::new().file_like("large", &vec![7; 8 << 20], 0o644, (0, 0)).finish();
        let small = Layer::new().file("small", "s").finish();
        Image::new("{}", vec![small, large]).layout(layout.path(), Some("a.b/full:1"));
        let error = store.import(layout.path(), &[]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted, "{error}");
        assert!(store.settled(Duration::from_secs(20)).await);
        for place in ["l", "staging", "trash"] {
            assert_eq!(std::fs::read_dir(root.join(place)).unwrap().count(), 0, "{place}");
        }
        let layout = tempfile::tempdir().unwrap();
        image().layout(layout.path(), Some("a.b/fits:1"));
        store.import(layout.path(), &[]).await.unwrap();
        assert_eq!(store.list().len(), 1);
    });
    drop(runtime);
    rustix::mount::unmount(temp.path(), UnmountFlags::DETACH).unwrap();
}
