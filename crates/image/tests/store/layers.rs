//! What layers become on disk, and what wicked ones do not.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use berth_image::{Digest, Kind};
use tar::EntryType;

use crate::fixture::{Image, Layer, Node};

/// Imports an image of these layers and gives the layers' directories, from the bottom up.
async fn unpack(node: &Node, layers: Vec<Vec<u8>>) -> berth_image::Result<Vec<PathBuf>> {
    let id = node.import(&Image::new("{}", layers), "image").await?;
    let mount = node.store.prepare("test", &id).await?;
    let lower = mount.options.iter().find_map(|o| o.strip_prefix("lowerdir=")).unwrap();
    let mut dirs: Vec<PathBuf> = lower.split(':').map(PathBuf::from).collect();
    dirs.reverse();
    Ok(dirs)
}

fn at(dir: &Path, name: &str) -> Metadata {
    let path = if name.is_empty() { dir.to_path_buf() } else { dir.join(name) };
    path.symlink_metadata().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn is_whiteout(meta: &Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

fn is_opaque(dir: &Path) -> bool {
    xattr(dir, "trusted.overlay.opaque").as_deref() == Some(b"y")
}

#[tokio::test]
async fn metadata_of_every_kind_of_file_is_kept() {
    let node = Node::new().await;
    let long = format!("d/{}", "n".repeat(150));
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = Layer::new()
        .dir("d", 0o1777, (3, 4))
        .file_like("d/suid", b"x", 0o4755, (1000, 1001))
        .symlink("d/link", "/suid")
        .hard_link("d/hard", "d/suid")
        .node("d/null", EntryType::Char, (1, 3))
        .node("d/disk", EntryType::Block, (7, 0))
        .node("d/fifo", EntryType::Fifo, (0, 0))
        .pax(&[
            ("mtime", b"1234567890.25"),
            ("SCHILY.xattr.user.note", b"ke\npt\0"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("path", long.as_bytes()),
        ])
        .file_like("short", b"long name", 0o755, (0, 0))
        .finish();
    let dirs = unpack(&node, vec![layer]).await.unwrap();
    let d = dirs[0].join("d");
    assert_eq!((at(&d, "").mode() & 0o7777, at(&d, "").uid(), at(&d, "").gid()), (0o1777, 3, 4));
    assert_eq!(at(&d, "").mtime(), 1_000_000_000);
    let suid = at(&d, "suid");
    assert_eq!((suid.mode() & 0o7777, suid.uid(), suid.gid()), (0o4755, 1000, 1001));
    assert_eq!((suid.nlink(), suid.ino()), (2, at(&d, "hard").ino()));
    assert_eq!(std::fs::read_link(d.join("link")).unwrap(), Path::new("/suid"));
    assert_eq!(at(&d, "null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(at(&d, "null").mode() & 0o7777, 0o620);
    assert!(at(&d, "disk").file_type().is_block_device());
    assert!(at(&d, "fifo").file_type().is_fifo());
    let long = dirs[0].join(&long);
    assert_eq!(std::fs::read_to_string(&long).unwrap(), "long name");
    assert_eq!((at(&long, "").mtime(), at(&long, "").mtime_nsec()), (1_234_567_890, 250_000_000));
    assert_eq!(xattr(&long, "user.note").as_deref(), Some(&b"ke\npt\0"[..]));
    assert_eq!(xattr(&long, "security.capability").map(|v| v.len()), Some(20));
    assert_eq!(xattr(&long, "trusted.overlay.redirect"), None);
}

#[tokio::test]
async fn whiteouts_speak_of_the_layers_below_whatever_the_order() {
    let node = Node::new().await;
    let base = Layer::new()
        .dir("a", 0o755, (0, 0))
        .file("a/gone", "1")
        .file("a/replaced", "1")
        .dir("a/before", 0o755, (0, 0))
        .dir("a/after", 0o755, (0, 0))
        .dir("a/opaque", 0o755, (0, 0))
        .finish();
    let top = Layer::new()
        .dir("a", 0o755, (0, 0))
        .file("a/.wh.gone", "")
        .file("a/replaced", "2")
        .file("a/.wh.replaced", "")
        .file("a/.wh.before", "")
        .dir("a/before", 0o700, (0, 0))
        .dir("a/after", 0o711, (0, 0))
        .file("a/.wh.after", "")
        .dir("a/opaque", 0o755, (0, 0))
        .file("a/opaque/new", "n")
        .file("a/opaque/.wh..wh..opq", "")
        .dir("a/.wh..wh.plnk", 0o700, (0, 0))
        .finish();
    let dirs = unpack(&node, vec![base, top]).await.unwrap();
    let a = dirs[1].join("a");
    assert!(is_whiteout(&at(&a, "gone")));
    assert_eq!(std::fs::read_to_string(a.join("replaced")).unwrap(), "2");
    for (name, mode) in [("before", 0o700), ("after", 0o711), ("opaque", 0o755)] {
        assert_eq!(at(&a, name).mode() & 0o7777, mode, "{name}");
        assert!(is_opaque(&a.join(name)), "{name}");
    }
    assert!(!is_opaque(&a));
    assert!(a.join("opaque/new").exists());
    assert_eq!(std::fs::read_dir(&a).unwrap().count(), 5);
}

#[tokio::test]
async fn an_opaque_root_hides_every_name_below() {
    let node = Node::new().await;
    let base = Layer::new().dir("etc", 0o755, (0, 0)).file("f", "1").dir("d", 0o755, (0, 0));
    let top = Layer::new().file(".wh..wh..opq", "").dir("d", 0o700, (0, 0)).file("new", "n");
    let dirs = unpack(&node, vec![base.finish(), top.finish()]).await.unwrap();
    assert!(is_whiteout(&at(&dirs[1], "etc")) && is_whiteout(&at(&dirs[1], "f")));
    assert!(is_opaque(&dirs[1].join("d")));
}

#[tokio::test]
async fn implied_directories_inherit_from_below_and_key_the_layer_by_its_chain() {
    let node = Node::new().await;
    let base = |mode| {
        Layer::new()
            .pax(&[("SCHILY.xattr.user.mark", b"m")])
            .dir("home", mode, (5, 6))
            .dir("home/user", 0o750, (1000, 1000))
            .finish()
    };
    let top = Layer::new().file("home/user/.profile", "p").file("srv/new/f", "f").finish();
    let dirs = unpack(&node, vec![base(0o711), top.clone()]).await.unwrap();
    let home = at(&dirs[1], "home");
    assert_eq!((home.mode() & 0o7777, home.uid(), home.gid()), (0o711, 5, 6));
    assert_eq!(home.mtime(), 1_000_000_000);
    assert_eq!(xattr(&dirs[1].join("home"), "user.mark").as_deref(), Some(&b"m"[..]));
    assert_eq!(at(&dirs[1], "home/user").uid(), 1000);
    assert_eq!(at(&dirs[1], "srv/new").mode() & 0o7777, 0o755);
    // The same layer on another base is another directory.
    let other = Image::new("{}", vec![base(0o700), top]);
    let id = node.import(&other, "other").await.unwrap();
    assert_eq!(node.layers().len(), 4);
    let mount = node.store.prepare("other", &id).await.unwrap();
    let lower = mount.options.iter().find_map(|o| o.strip_prefix("lowerdir=")).unwrap();
    let top = Path::new(lower.split(':').next().unwrap());
    assert_eq!(at(top, "home").mode() & 0o7777, 0o700);
}

#[tokio::test]
async fn a_leaning_layer_that_once_was_the_lowest_is_not_taken_for_one_on_a_base() {
    let node = Node::new().await;
    let leaning = Layer::new().file("home/f", "f").finish();
    node.import(&Image::new("{}", vec![leaning.clone()]), "alone").await.unwrap();
    let base = Layer::new().dir("home", 0o711, (5, 6)).finish();
    let dirs = unpack(&node, vec![base, leaning]).await.unwrap();
    assert_eq!(at(&dirs[1], "home").mode() & 0o7777, 0o711);
}

#[tokio::test]
async fn a_hard_link_to_a_file_of_a_lower_layer_brings_it_up() {
    let node = Node::new().await;
    let base = Layer::new()
        .dir("bin", 0o711, (0, 0))
        .file_like("bin/tool", b"tool", 0o4755, (1, 2))
        .finish();
    let top = Layer::new().dir("opt", 0o755, (0, 0)).hard_link("opt/tool", "/bin/tool").finish();
    let dirs = unpack(&node, vec![base, top]).await.unwrap();
    let link = at(&dirs[1], "opt/tool");
    assert_eq!(std::fs::read_to_string(dirs[1].join("opt/tool")).unwrap(), "tool");
    assert_eq!((link.mode() & 0o7777, link.uid(), link.nlink()), (0o4755, 1, 2));
    assert_eq!(link.ino(), at(&dirs[1], "bin/tool").ino());
    assert_eq!(at(&dirs[1], "bin").mode() & 0o7777, 0o711);
    let lonely = Layer::new().hard_link("x", "nowhere").finish();
    let error = node.import(&Image::new("{}", vec![lonely]), "lonely").await.unwrap_err();
    assert!(error.to_string().contains("\"x\""), "{error}");
}

#[tokio::test]
async fn later_entries_replace_earlier_ones() {
    let node = Node::new().await;
    let layer = Layer::new()
        .file("f", "first")
        .file("f", "second")
        .dir("d", 0o755, (0, 0))
        .file("d/inside", "x")
        .file("d", "a file now")
        .symlink("l", "d")
        .dir("l", 0o700, (0, 0))
        .file("l/inside", "y")
        .finish();
    let dirs = unpack(&node, vec![layer]).await.unwrap();
    assert_eq!(std::fs::read_to_string(dirs[0].join("f")).unwrap(), "second");
    assert_eq!(std::fs::read_to_string(dirs[0].join("d")).unwrap(), "a file now");
    assert!(at(&dirs[0], "l").is_dir() && dirs[0].join("l/inside").exists());
}

#[tokio::test]
async fn nothing_ever_leaves_the_root() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap().to_owned();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let fifth = "../".repeat(12);
    let wicked: Vec<(&str, Layer)> = vec![
        ("climbing name", raw(&format!("{fifth}tmp/x"))),
        ("absolute name", raw(&format!("{target}/absolute"))),
        ("link, then through it", Layer::new().symlink("l", &target).file("l/through", "x")),
        (
            "climbing link",
            Layer::new().symlink("l", &format!("{fifth}{target}")).file("l/through", "x"),
        ),
        (
            "link over link",
            Layer::new()
                .symlink("a", "/")
                .symlink("b", "a/../..")
                .file(&format!("b{target}/through"), "x"),
        ),
        (
            "hard link to outside, then over it",
            Layer::new().hard_link("h", &format!("{target}/secret")).file("h", "overwritten"),
        ),
        ("hard link through a link", Layer::new().symlink("l", &target).hard_link("h", "l/secret")),
        ("whiteout through a link", Layer::new().symlink("l", &target).file("l/.wh.secret", "")),
        ("whiteout of the parent", raw(".wh...")),
        ("opaque through a link", Layer::new().symlink("l", &target).file("l/.wh..wh..opq", "")),
        ("proc", Layer::new().symlink("l", "/proc/self/root").file(&format!("l{target}/t"), "")),
        (
            "file replaced by a link and written",
            Layer::new().symlink("f", &format!("{target}/secret")).file("f", "overwritten"),
        ),
    ];
    for (what, layer) in wicked {
        let node = Node::new().await;
        let outcome = unpack(&node, vec![layer.finish()]).await;
        let text = std::fs::read_to_string(&secret).unwrap();
        assert_eq!(text, "secret", "{what}: {outcome:?}");
        assert_eq!(std::fs::metadata(&secret).unwrap().nlink(), 1, "{what}: {outcome:?}");
        let names = std::fs::read_dir(outside.path()).unwrap().count();
        assert_eq!(names, 1, "{what}: {outcome:?}");
        assert!(!is_opaque(outside.path()), "{what}");
        node.assert_clean().await;
    }
}

fn raw(name: &str) -> Layer {
    Layer::new().file(name, "x")
}

#[tokio::test]
async fn a_broken_archive_names_the_entry_and_leaves_nothing() {
    let node = Node::new().await;
    for (layer, expected) in [
        (raw("a/../../x"), ".."),
        (Layer::new().file("f", "x").file("f/below", "y"), "f/below"),
        (Layer::new().node("odd", EntryType::new(b'Z'), (0, 0)), "odd"),
    ] {
        let error = unpack(&node, vec![layer.finish()]).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let mut cut = Layer::new().file_like("big", &[7; 5000], 0o644, (0, 0)).finish();
    cut.truncate(2000);
    let error = unpack(&node, vec![cut]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(node.layers().is_empty());
    node.assert_clean().await;
}

#[tokio::test]
async fn headers_that_would_fill_the_memory_are_refused() {
    let node = Node::new().await;
    let huge = vec![b'n'; 5 << 20];
    let layer = Layer::new().pax(&[("SCHILY.xattr.user.n", &huge)]).file("f", "x").finish();
    let error = unpack(&node, vec![layer]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(error.to_string().contains("4 MiB"), "{error}");
    let many = (0..3000).fold(Layer::new(), |layer, i| {
        layer.pax(&[("SCHILY.xattr.user.n", &[7; 2000])]).file(&format!("f{i}"), "x")
    });
    unpack(&node, vec![many.finish()]).await.unwrap();
}

#[tokio::test]
async fn holes_stay_holes() {
    let node = Node::new().await;
    // An old GNU sparse entry: 4096 bytes at 1 MiB of a file of 2 MiB.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o600);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.sparse[0].offset.copy_from_slice(b"00004000000\0");
    gnu.sparse[0].numbytes.copy_from_slice(b"00000010000\0");
    gnu.sparse[1].offset.copy_from_slice(b"00010000000\0");
    gnu.sparse[1].numbytes.copy_from_slice(b"00000000000\0");
    gnu.realsize.copy_from_slice(b"00010000000\0");
    let layer = Layer::new().raw(header, "sparse", &[7; 4096]).finish();
    let dirs = unpack(&node, vec![layer]).await.unwrap();
    let meta = at(&dirs[0], "sparse");
    assert_eq!(meta.len(), 2 << 20);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    let content = std::fs::read(dirs[0].join("sparse")).unwrap();
    assert!(content[1 << 20..(1 << 20) + 4096].iter().all(|byte| *byte == 7));
    assert_eq!(content.iter().filter(|byte| **byte != 0).count(), 4096);
}

#[tokio::test]
async fn users_are_read_through_the_layers() {
    let node = Node::new().await;
    let base = Layer::new()
        .dir("etc", 0o755, (0, 0))
        .file("etc/passwd", "old:x:1:1::/:\n")
        .file("etc/group", "g:x:50000:new\n")
        .finish();
    let moved = Layer::new()
        .dir("etc", 0o755, (0, 0))
        .symlink("etc/passwd", "../../usr/lib/passwd")
        .dir("usr", 0o755, (0, 0))
        .dir("usr/lib", 0o755, (0, 0))
        .file("usr/lib/passwd", "new:x:1000:1001::/home/new:\n")
        .finish();
    let image = Image::new("{}", vec![base, moved]);
    let id = node.import(&image, "users").await.unwrap();
    let users = node.store.users(&id).await.unwrap();
    assert!(users.by_name("old").is_none());
    let identity = users.resolve("new").unwrap();
    assert_eq!((identity.uid, identity.gid, &identity.groups[..]), (1000, 1001, &[50000][..]));
    let whited = Layer::new().dir("etc", 0o755, (0, 0)).file("etc/.wh.group", "").finish();
    let mut archives = Vec::new();
    for layer in &image.layers {
        let mut archive = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&layer[..]), &mut archive)
            .unwrap();
        archives.push(archive);
    }
    archives.push(whited);
    let id = node.import(&Image::new("{}", archives), "fewer").await.unwrap();
    let users = node.store.users(&id).await.unwrap();
    assert!(users.resolve("new").unwrap().groups.is_empty());
    let absent = Digest::of(b"absent");
    assert_eq!(node.store.users(&absent).await.unwrap_err().kind(), Kind::NotFound);
}
