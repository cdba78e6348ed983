//! Layers made to break whoever unpacks them.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use berth_image::{Digest, Kind};
use tar::EntryType;

use crate::fixture::{Image, Layer, Node, gzip};

/// Imports an image of these layers and gives their directories, from the bottom up.
async fn unpack(node: &Node, layers: Vec<Vec<u8>>) -> berth_image::Result<Vec<PathBuf>> {
    let id = node.import(&Image::new("{}", layers), "image").await?;
    let mount = node.store.prepare("test", &id).await?;
    let lower = mount.options.iter().find_map(|o| o.strip_prefix("lowerdir=")).unwrap();
    let mut dirs: Vec<PathBuf> = lower.split(':').map(PathBuf::from).collect();
    dirs.reverse();
    Ok(dirs)
}

/// An entry with this name, however long it is.
fn named(layer: Layer, name: &str, content: &str) -> Layer {
    layer.pax(&[("path", name.as_bytes())]).file("short", content)
}

#[tokio::test]
async fn names_of_a_thousand_components_are_no_burden() {
    let node = Node::new().await;
    // Every level is implied, in both layers, and has a file: each must be found in the layer below.
    // Whoever walks each name for each of its directories is not done within minutes.
    let deep = |content: &str| {
        let mut name = String::new();
        let mut layer = Layer::new();
        for level in 0..1000 {
            name.push_str("d/");
            if level % 10 == 9 {
                layer = named(layer, &format!("{name}f"), content);
            }
        }
        layer.finish()
    };
    let base = Layer::new().dir("d", 0o711, (5, 6)).finish();
    let dirs = unpack(&node, vec![base, deep("1"), deep("2")]).await.unwrap();
    let home = std::fs::symlink_metadata(dirs[2].join("d")).unwrap();
    assert_eq!((home.mode() & 0o7777, home.uid(), home.gid()), (0o711, 5, 6));
    let bottom = dirs[2].join("d/".repeat(1000)).join("f");
    assert_eq!(std::fs::read_to_string(bottom).unwrap(), "2");
    node.store.drop_snapshot("test").await.unwrap();
    node.store.remove("image").await.unwrap();
    node.assert_clean().await;
    assert!(node.layers().is_empty());
}

#[tokio::test]
async fn what_no_file_system_has_is_refused_with_the_entry_and_leaves_nothing() {
    let node = Node::new().await;
    let file = || Layer::new().file("f", "x");
    let long = "n".repeat(300);
    let flood: Vec<(String, Vec<u8>)> =
        (0..300).map(|i| (format!("SCHILY.xattr.user.{i}"), vec![7; 4000])).collect();
    let flood: Vec<(&str, &[u8])> = flood.iter().map(|(k, v)| (k.as_str(), &v[..])).collect();
    let big = vec![7; 100_000];
    let attribute = format!("SCHILY.xattr.user.{}", "n".repeat(300));
    let cases: Vec<(&str, Layer)> = vec![
        ("a component of 300 bytes", named(Layer::new(), &long, "x")),
        ("a name of 5000 bytes", named(Layer::new(), &"ab/".repeat(1700), "x")),
        ("a name of 3 MB", named(Layer::new(), &"ab/".repeat(1_000_000), "x")),
        ("a target of 5000 bytes", {
            let target = "t/".repeat(2500);
            Layer::new().pax(&[("linkpath", target.as_bytes())]).symlink("l", "short")
        }),
        ("a link without a target", Layer::new().symlink("l", "")),
        ("a NUL in a name", Layer::new().pax(&[("path", b"a\0b")]).file("s", "x")),
        ("more attributes than fit", file().pax(&flood).file("g", "x")),
        ("an attribute of 100 KB", file().pax(&[("SCHILY.xattr.user.a", &big)]).file("g", "x")),
        ("an attribute with a long name", file().pax(&[(&*attribute, b"v")]).file("g", "x")),
        ("the id that means nobody", Layer::new().file_like("f", b"x", 0o644, (4_294_967_295, 0))),
        ("an id of 33 bits", Layer::new().pax(&[("gid", b"4294967296")]).file("f", "x")),
        ("an id that is no number", Layer::new().pax(&[("uid", b"-1")]).file("f", "x")),
        ("a size that is no number", Layer::new().pax(&[("size", b"1e9")]).file("f", "x")),
        (
            "more content than there is",
            Layer::new().pax(&[("size", b"999999999999")]).file("f", "x"),
        ),
        ("a hard link to a directory", Layer::new().dir("d", 0o755, (0, 0)).hard_link("l", "d")),
        ("a hard link to itself", Layer::new().hard_link("l", "./l")),
        ("a hard link out", Layer::new().hard_link("l", "../../etc/shadow")),
        ("a file below a file", file().file("f/g", "x")),
        ("a file below a fifo", Layer::new().node("p", EntryType::Fifo, (0, 0)).file("p/g", "x")),
        ("a file below a link to itself", Layer::new().symlink("l", "l").file("l/g", "x")),
        ("the root as a file", Layer::new().file("./", "x").file(".", "x")),
        ("a whiteout of nothing", Layer::new().file(".wh.", "")),
        ("a whiteout of here", Layer::new().file("d/.wh..", "")),
        ("a whiteout of above", Layer::new().file("d/.wh...", "")),
        ("a whiteout of nothing, as a directory", Layer::new().dir(".wh./", 0o755, (0, 0))),
        ("sparse pax", Layer::new().pax(&[("GNU.sparse.major", b"1")]).file("f", "x")),
    ];
    for (what, layer) in cases {
        let error = match unpack(&node, vec![layer.finish()]).await {
            Err(error) => error,
            Ok(_) => panic!("{what} was taken"),
        };
        assert_eq!(error.kind(), Kind::Invalid, "{what}: {error}");
        assert!(error.to_string().contains("entry"), "{what}: {error}");
        assert!(error.to_string().len() < 2000, "{what}: {} bytes", error.to_string().len());
        assert!(node.store.settled(std::time::Duration::from_secs(20)).await);
        assert!(node.layers().is_empty(), "{what}");
    }
    node.assert_clean().await;
}

#[tokio::test]
async fn what_is_odd_but_honest_is_kept() {
    let node = Node::new().await;
    let zero = |what: &str| (what.to_owned(), Vec::new());
    let many: Vec<(String, Vec<u8>)> =
        (0..20).map(|i| zero(&format!("SCHILY.xattr.user.{i}"))).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|(k, v)| (k.as_str(), &v[..])).collect();
    let component = "c".repeat(255);
    let layer = Layer::new()
        .pax(&[("mtime", b"-1.5"), ("comment", b"\n\n"), ("unknown.key", b"\0")])
        .file_like("old", b"x", 0o6755, (4_294_967_294, 65_534))
        .pax(&[("mtime", b"-9223372036854775808.9")])
        .file("oldest", "x")
        .pax(&[("mtime", b"never")])
        .file("timeless", "x")
        .pax(&many)
        .file("decorated", "x")
        .dir("d", 0o2770, (1, 2))
        .file("d/.wh.gone", "")
        .file("d/.wh.with/slash", "")
        .file("d/.wh..wh.aufs", "")
        .file(".wh..wh..opq", "")
        .node("zero", EntryType::Char, (0, 0))
        .node("fifo", EntryType::Fifo, (7, 7))
        .file("\u{e4} \n\t*", "x");
    let layer = named(layer, &component, "x").finish();
    let dirs = unpack(&node, vec![layer]).await.unwrap();
    let at = |name: &str| dirs[0].join(name).symlink_metadata().unwrap();
    assert_eq!((at("old").mtime(), at("old").mtime_nsec()), (-2, 500_000_000));
    assert_eq!((at("old").mode() & 0o7777, at("old").uid()), (0o6755, 4_294_967_294));
    assert_eq!((at("d").mode() & 0o7777, at("d").gid()), (0o2770, 2));
    assert!(at("d/gone").file_type().is_char_device() && at("d/gone").rdev() == 0);
    assert!(at("fifo").file_type().is_fifo() && at("fifo").rdev() == 0);
    assert_eq!(at("timeless").mtime(), 1_000_000_000);
    assert!(at(&component).is_file() && at("\u{e4} \n\t*").is_file() && at("oldest").is_file());
    assert!(!dirs[0].join("d/.wh..wh.aufs").exists());
}

#[tokio::test]
async fn compressed_streams_of_several_parts_are_whole_and_garbage_is_none() {
    let plain = Layer::new().file("f", &"x".repeat(100_000)).finish();
    let frames: Vec<u8> =
        plain.chunks(9_000).flat_map(|c| zstd::encode_all(c, 1).unwrap()).collect();
    let members: Vec<u8> = plain.chunks(9_000).flat_map(gzip).collect();
    let with = |mut bytes: Vec<u8>, more: &[u8]| {
        bytes.extend_from_slice(more);
        bytes
    };
    let without = |mut bytes: Vec<u8>, less: usize| {
        bytes.truncate(bytes.len() - less);
        bytes
    };
    let zstd = || zstd::encode_all(&plain[..], 1).unwrap();
    let cases = [
        ("zstd frames", frames, true),
        ("gzip members", members, true),
        ("gzip and an empty member", with(gzip(&plain), &gzip(b"")), true),
        ("gzip and garbage", with(gzip(&plain), b"garbage"), false),
        ("zstd and garbage", with(zstd(), b"garbage"), false),
        ("gzip without its end", without(gzip(&plain), 5), false),
        ("zstd without its end", without(zstd(), 5), false),
        ("half a member", with(gzip(&plain), &gzip(b"")[..7]), false),
        ("bzip2", b"BZh91AY&SY".repeat(100), false),
    ];
    for (what, stream, whole) in cases {
        let node = Node::new().await;
        let mut image = Image::with_diff_ids("{}", vec![Vec::new()], &[Digest::of(&plain)]);
        image.layers = vec![stream];
        let imported = node.import(&image, "image").await;
        assert_eq!(imported.is_ok(), whole, "{what}: {imported:?}");
        if let Err(error) = imported {
            assert_eq!(error.kind(), Kind::Invalid, "{what}: {error}");
        }
        assert_eq!(node.layers().len(), usize::from(whole), "{what}");
        node.assert_clean().await;
    }
}
