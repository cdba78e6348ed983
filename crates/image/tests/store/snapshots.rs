//! Writable layers, held images, and real overlay mounts over them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use berth_image::{Kind, Mount};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use crate::fixture::{Image, Layer, Node};

fn image() -> Image {
    let base = Layer::new()
        .dir("./", 0o751, (11, 12))
        .dir("d", 0o755, (0, 0))
        .file("d/below", "below")
        .file("d/gone", "gone")
        .finish();
    let top = Layer::new()
        .dir("d", 0o700, (0, 0))
        .file("d/.wh.gone", "")
        .file("d/above", "above")
        .finish();
    Image::new("{}", vec![base, top])
}

/// Mounts in a mount namespace of this thread alone, and looks.
fn mounted<T: Send>(mount: &Mount, look: impl FnOnce(&Path) -> T + Send) -> T {
    std::thread::scope(|scope| {
        let work = || {
            #[allow(deprecated)] // Its replacement is unsafe; only the mounts are unshared here.
            rustix::thread::unshare(UnshareFlags::NEWNS | UnshareFlags::FS).unwrap();
            let private = rustix::mount::MountPropagationFlags::PRIVATE
                | rustix::mount::MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            let target = tempfile::tempdir().unwrap();
            let data = std::ffi::CString::new(mount.options.join(",")).unwrap();
            let (kind, source) = (mount.kind.as_str(), mount.source.as_str());
            rustix::mount::mount(source, target.path(), kind, MountFlags::empty(), &*data).unwrap();
            let seen = look(target.path());
            rustix::mount::unmount(target.path(), UnmountFlags::empty()).unwrap();
            seen
        };
        scope.spawn(work).join().unwrap()
    })
}

#[tokio::test]
async fn a_prepared_snapshot_mounts_and_shows_the_image() {
    let node = Node::new().await;
    let id = node.import(&image(), "a").await.unwrap();
    let mount = node.store.prepare("c1", &id).await.unwrap();
    mounted(&mount, |root| {
        let top = root.metadata().unwrap();
        assert_eq!((top.mode() & 0o7777, top.uid(), top.gid()), (0o751, 11, 12));
        assert_eq!(std::fs::read_to_string(root.join("d/below")).unwrap(), "below");
        assert_eq!(std::fs::read_to_string(root.join("d/above")).unwrap(), "above");
        assert!(!root.join("d/gone").exists());
        assert_eq!(root.join("d").metadata().unwrap().mode() & 0o7777, 0o700);
        std::fs::write(root.join("d/written"), "w").unwrap();
    });
    // The same again: what was written is there, although the first mount was volatile.
    let again = node.store.prepare("c1", &id).await.unwrap();
    assert_eq!(again, mount);
    assert_eq!(node.store.snapshot("c1").await.unwrap(), Some(mount.clone()));
    mounted(&mount, |root| assert!(root.join("d/written").exists()));
    let node = node.reopen().await;
    assert_eq!(node.store.prepare("c1", &id).await.unwrap(), mount);
    mounted(&mount, |root| assert!(root.join("d/written").exists()));
    node.store.drop_snapshot("c1").await.unwrap();
    node.store.drop_snapshot("c1").await.unwrap();
    assert!(node.store.snapshot("c1").await.unwrap().is_none());
    assert_eq!(std::fs::read_dir(node.root().join("snapshots")).unwrap().count(), 0);
    node.assert_clean().await;
}

#[tokio::test]
async fn an_image_without_layers_mounts_as_an_empty_root() {
    let node = Node::new().await;
    let id = node.import(&Image::new("{}", vec![]), "scratch").await.unwrap();
    let mount = node.store.prepare("c1", &id).await.unwrap();
    mounted(&mount, |root| assert_eq!(std::fs::read_dir(root).unwrap().count(), 0));
}

#[tokio::test]
async fn an_image_may_have_the_same_layer_twice() {
    let node = Node::new().await;
    let same = Layer::new().file("f", "same").finish();
    let between = Layer::new().file(".wh.f", "").file("g", "between").finish();
    let layers = vec![same.clone(), between, same];
    let id = node.import(&Image::new("{}", layers), "twice").await.unwrap();
    assert_eq!(node.layers().len(), 2);
    let mount = node.store.prepare("c1", &id).await.unwrap();
    mounted(&mount, |root| {
        assert_eq!(std::fs::read_to_string(root.join("f")).unwrap(), "same");
        assert_eq!(std::fs::read_to_string(root.join("g")).unwrap(), "between");
    });
    node.assert_clean().await;
}

#[tokio::test]
async fn a_hundred_and_twenty_layers_fit_a_page_under_the_usual_root() {
    let node = Node::new().await;
    let layers: Vec<_> =
        (0..120).map(|i| Layer::new().file(&format!("f{i}"), "x").finish()).collect();
    let id = node.import(&Image::new("{}", layers), "deep").await.unwrap();
    let key = "c".repeat(64);
    let mount = node.store.prepare(&key, &id).await.unwrap();
    let here = node.root().to_str().unwrap().to_owned();
    let options = mount.options.join(",").replace(&here, "/var/lib/berth/images");
    assert!(options.len() < 4096, "{}", options.len());
}

#[tokio::test]
async fn a_held_image_stays_whole_until_the_last_holder_lets_go() {
    let node = Node::new().await;
    let id = node.import(&image(), "a").await.unwrap();
    for holder in ["one", "two", "two"] {
        node.store.hold(holder, &id).await.unwrap();
    }
    node.store.remove("a").await.unwrap();
    assert!(node.store.list().is_empty());
    assert!(node.store.status(id.as_str()).unwrap().is_none());
    let node = node.reopen().await;
    assert!(node.store.list().is_empty());
    assert!(node.store.facts(&id).is_ok());
    let mount = node.store.prepare("c1", &id).await.unwrap();
    mounted(&mount, |root| assert!(root.join("d/below").exists()));
    node.store.drop_snapshot("c1").await.unwrap();
    node.store.unhold("one").await.unwrap();
    assert_eq!(node.layers().len(), 2);
    node.store.unhold("two").await.unwrap();
    node.store.unhold("two").await.unwrap();
    node.assert_clean().await;
    assert!(node.layers().is_empty());
    assert_eq!(node.store.facts(&id).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(node.store.hold("x", &id).await.unwrap_err().kind(), Kind::NotFound);
    node.assert_clean().await;
}

#[tokio::test]
async fn an_image_that_comes_back_while_held_is_listed_again() {
    let node = Node::new().await;
    let id = node.import(&image(), "a").await.unwrap();
    node.store.hold("one", &id).await.unwrap();
    node.store.remove("a").await.unwrap();
    let layers = node.layers();
    node.import(&image(), "b").await.unwrap();
    assert_eq!(node.layers(), layers, "nothing was unpacked again");
    assert_eq!(node.store.list()[0].repo_tags, ["docker.io/library/b:latest"]);
    node.store.unhold("one").await.unwrap();
    assert_eq!(node.store.list().len(), 1);
}

#[tokio::test]
async fn a_snapshot_keeps_the_layers_that_it_stands_on() {
    let node = Node::new().await;
    let id = node.import(&image(), "a").await.unwrap();
    let mount = node.store.prepare("c1", &id).await.unwrap();
    node.store.remove("a").await.unwrap();
    let node = node.reopen().await;
    mounted(&mount, |root| assert!(root.join("d/below").exists()));
    node.store.drop_snapshot("c1").await.unwrap();
    node.assert_clean().await;
    assert!(node.layers().is_empty());
}

#[tokio::test]
async fn usage_is_a_figure_that_comes_later() {
    let node = Node::new().await;
    let id = node.import(&image(), "a").await.unwrap();
    node.store.prepare("c1", &id).await.unwrap();
    assert_eq!(node.store.usage("absent"), None);
    std::fs::write(node.root().join("snapshots/c1/upper/f"), vec![1; 100_000]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let usage = loop {
        match node.store.usage("c1") {
            Some(usage) => break usage,
            None if Instant::now() < deadline => tokio::task::yield_now().await,
            None => panic!("never measured"),
        }
    };
    assert_eq!(usage.inodes, 2);
    assert!(usage.bytes >= 100_000);
    assert_eq!(node.store.container_fs().used, usage);
    node.store.drop_snapshot("c1").await.unwrap();
    assert_eq!(node.store.container_fs().used.bytes, 0);
}

#[tokio::test]
async fn keys_and_holders_cannot_leave_their_directory() {
    let node = Node::new().await;
    let id = node.import(&image(), "a").await.unwrap();
    for bad in ["", "..", "a/b", "/etc"] {
        assert_eq!(node.store.prepare(bad, &id).await.unwrap_err().kind(), Kind::Invalid);
        assert_eq!(node.store.hold(bad, &id).await.unwrap_err().kind(), Kind::Invalid);
        assert_eq!(node.store.drop_snapshot(bad).await.unwrap_err().kind(), Kind::Invalid);
    }
}
