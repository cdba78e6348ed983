//! Disks that are full, have no inodes left, or take no writes.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_image::{Kind, Options, Store};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use crate::fixture::{Image, Layer};
use crate::pull::{image, until};
use crate::registry::Registry;

/// Runs a test on a small file system of its own, seen by its thread and those that it starts only.
fn on_a_disk(options: &std::ffi::CStr, test: impl AsyncFnOnce(PathBuf)) {
    #[allow(deprecated)] // Its replacement is unsafe; only the mounts are unshared here.
    rustix::thread::unshare(UnshareFlags::NEWNS | UnshareFlags::FS).unwrap();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    let temp = tempfile::tempdir().unwrap();
    rustix::mount::mount("tmpfs", temp.path(), "tmpfs", MountFlags::empty(), options).unwrap();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(test(temp.path().to_path_buf()));
    drop(runtime);
    rustix::mount::unmount(temp.path(), UnmountFlags::DETACH).unwrap();
}

async fn open(disk: &Path) -> berth_image::Result<Store> {
    let mut options = Options::new(disk.join("images"));
    options.platform.architecture = "amd64".to_owned();
    options.platform.variant = None;
    options.registries.attempts = 1;
    Store::open(options).await
}

/// Takes all room but what is already promised.
fn fill(disk: &Path) {
    let mut file = std::fs::File::create(disk.join("filler")).unwrap();
    for size in [64 << 10, 4 << 10] {
        while std::io::Write::write_all(&mut file, &vec![1; size]).is_ok() {}
    }
}

/// Nothing of any layer stays below the store.
async fn assert_empty(store: &Store, disk: &Path) {
    let empty =
        |place: &str| std::fs::read_dir(disk.join("images").join(place)).unwrap().next().is_none();
    // The other layers of a pull that failed end a little later than it does.
    until("all layers gone", || ["l", "staging", "trash"].iter().all(|place| empty(place))).await;
    assert!(store.settled(Duration::from_secs(20)).await);
}

/// The room that a fresh store leaves, once it has written what it writes in the background.
async fn at_rest(disk: &Path) -> (u64, u64) {
    let noted = disk.join("images/verified");
    until("layers verified", || noted.metadata().is_ok_and(|meta| meta.len() > 0)).await;
    free(disk)
}

fn free(disk: &Path) -> (u64, u64) {
    let room = rustix::fs::statvfs(disk).unwrap();
    (room.f_bavail, room.f_favail)
}

#[test]
fn a_pull_that_does_not_fit_says_so_and_gives_all_room_back() {
    on_a_disk(c"size=6m", async |disk| {
        let registry = Registry::start().await;
        let large = Layer::new().file_like("large", &vec![7; 9 << 20], 0o644, (0, 0)).finish();
        registry.push("a/large:1", &Image::new("{}", vec![image_layer(), large]));
        registry.push("a/b:1", &image());
        let store = open(&disk).await.unwrap();
        let before = at_rest(&disk).await;
        let error = store.pull(&registry.name("a/large:1"), None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted, "{error}");
        let text = error.to_string();
        assert!(text.contains("free space or inodes") && text.contains("images"), "{text}");
        assert_empty(&store, &disk).await;
        assert!(store.list().is_empty());
        assert_eq!(free(&disk), before);
        store.pull(&registry.name("a/b:1"), None).await.unwrap();
        assert_eq!(store.list().len(), 1);
    });
}

fn image_layer() -> Vec<u8> {
    Layer::new().dir("d", 0o755, (0, 0)).file("d/small", "s").finish()
}

#[test]
fn a_disk_without_inodes_is_a_full_disk() {
    on_a_disk(c"size=8m,nr_inodes=100", async |disk| {
        let registry = Registry::start().await;
        let many = (0..200).fold(Layer::new(), |layer, i| layer.file(&format!("f{i}"), "x"));
        registry.push("a/many:1", &Image::new("{}", vec![image_layer(), many.finish()]));
        registry.push("a/b:1", &image());
        let store = open(&disk).await.unwrap();
        let before = at_rest(&disk).await;
        let error = store.pull(&registry.name("a/many:1"), None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted, "{error}");
        assert!(error.to_string().contains("inodes"), "{error}");
        assert_empty(&store, &disk).await;
        assert_eq!(free(&disk), before);
        store.pull(&registry.name("a/b:1"), None).await.unwrap();
        assert_eq!(store.list().len(), 1);
    });
}

#[test]
fn images_are_removed_from_a_full_disk() {
    on_a_disk(c"size=8m", async |disk| {
        let registry = Registry::start().await;
        registry.push("a/b:1", &image());
        let name = registry.name("a/b:1");
        let store = open(&disk).await.unwrap();
        store.pull(&name, None).await.unwrap();
        fill(&disk);
        assert_eq!(free(&disk).0, 0);
        store.remove(&name).await.unwrap();
        assert!(store.list().is_empty());
        assert_empty(&store, &disk).await;
        assert!(free(&disk).0 > 0);
        // The record is not only in memory.
        drop(store);
        assert!(open(&disk).await.unwrap().list().is_empty());
    });
}

#[test]
fn a_store_on_a_full_disk_is_opened_and_emptied() {
    on_a_disk(c"size=8m", async |disk| {
        let registry = Registry::start().await;
        let image = image();
        registry.push("a/b:1", &image);
        let name = registry.name("a/b:1");
        let store = open(&disk).await.unwrap();
        store.pull(&name, None).await.unwrap();
        drop(store);
        fill(&disk);
        let store = open(&disk).await.unwrap();
        assert_eq!(store.list().len(), 1);
        let error = store.pull(&registry.name("a/none:1"), None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
        store.remove(&name).await.unwrap();
        assert_empty(&store, &disk).await;
        std::fs::remove_file(disk.join("filler")).unwrap();
        assert_eq!(store.pull(&name, None).await.unwrap(), image.id());
    });
}

#[test]
fn a_disk_that_takes_no_writes_still_shows_what_it_has() {
    on_a_disk(c"size=8m", async |disk| {
        let registry = Registry::start().await;
        registry.push("a/b:1", &image());
        registry.push("a/c:1", &Image::new("{}", vec![image_layer()]));
        let store = open(&disk).await.unwrap();
        let id = store.pull(&registry.name("a/b:1"), None).await.unwrap();
        // What is open for writing keeps the kernel from it, so the mount changes, not the disk.
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        rustix::mount::mount_bind(&disk, &disk).unwrap();
        rustix::mount::mount_remount(&disk, flags, "").unwrap();
        let error = store.pull(&registry.name("a/c:1"), None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert!(error.to_string().contains("Read-only"), "{error}");
        let error = store.prepare("c1", &id).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert_eq!(store.list().len(), 1);
        assert!(store.facts(&id).is_ok());
        rustix::mount::unmount(&disk, UnmountFlags::DETACH).unwrap();
        store.pull(&registry.name("a/c:1"), None).await.unwrap();
        store.prepare("c1", &id).await.unwrap();
        assert_eq!(store.list().len(), 2);
    });
}

#[test]
fn a_place_that_is_no_directory_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    std::fs::write(temp.path().join("images"), "a file").unwrap();
    let Err(error) = runtime.block_on(open(temp.path())) else { panic!("it was opened") };
    assert!(error.to_string().contains("images"), "{error}");
    std::fs::remove_file(temp.path().join("images")).unwrap();
    std::fs::DirBuilder::new().mode(0o755).create(temp.path().join("images")).unwrap();
    runtime.block_on(open(temp.path())).unwrap();
}
