//! Import, and the ways to name, list and remove what was imported.

use berth_image::{Digest, ImageUser, Kind};

use crate::fixture::{Image, Layer, Node, gzip};

fn busybox() -> Image {
    let process = r#"{"Entrypoint":["/bin/sh"],"Cmd":["-c","true"],"Env":["A=b"],"User":"7:8",
        "WorkingDir":"/w","StopSignal":"SIGINT","Volumes":{"/v":{}},"Labels":{"l":"m"}}"#;
    let base = Layer::new().dir("bin", 0o755, (0, 0)).file("bin/sh", "#!").finish();
    let top = Layer::new().dir("etc", 0o755, (0, 0)).file("etc/issue", "top").finish();
    Image::new(process, vec![base, top])
}

#[tokio::test]
async fn an_oci_layout_is_listed_with_its_names_and_facts() {
    let node = Node::new().await;
    let image = busybox();
    let layout = tempfile::tempdir().unwrap();
    image.layout(layout.path(), Some("example.org/a/busybox:1"));
    let imported = node.store.import(layout.path(), &[]).await.unwrap();
    assert_eq!(imported[0].id, image.id());
    let list = node.store.list();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].repo_tags, ["example.org/a/busybox:1"]);
    let digest = Digest::of(&image.manifest());
    assert_eq!(list[0].repo_digests, [format!("example.org/a/busybox@{digest}")]);
    assert_eq!(list[0].size, image.layers.iter().map(|l| l.len() as u64).sum::<u64>());
    let facts = node.store.facts(&image.id()).unwrap();
    assert_eq!(facts.entrypoint, ["/bin/sh"]);
    assert_eq!(facts.image_user(), ImageUser::Uid(7));
    assert_eq!(facts.volumes, ["/v"]);
    assert_eq!(facts.labels["l"], "m");
    assert_eq!(node.store.config(&image.id()).await.unwrap(), image.config);
    node.assert_clean().await;
}

#[tokio::test]
async fn docker_archives_plain_and_compressed_are_the_same_image() {
    let node = Node::new().await;
    let image = busybox();
    let archive = image.docker_archive(&["busybox:1", "busybox:2"]);
    for (name, bytes) in [("a.tar", archive.clone()), ("a.tar.gz", gzip(&archive))] {
        let path = node.temp.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let imported = node.store.import(&path, &["more:3".to_owned()]).await.unwrap();
        assert_eq!(imported[0].id, image.id());
    }
    let list = node.store.list();
    assert_eq!(list.len(), 1);
    let expected =
        ["docker.io/library/busybox:1", "docker.io/library/busybox:2", "docker.io/library/more:3"];
    assert_eq!(list[0].repo_tags, expected);
    assert_eq!(node.layers().len(), 2);
    node.assert_clean().await;
}

#[tokio::test]
async fn an_archive_of_a_layout_is_read_in_place() {
    let node = Node::new().await;
    let image = busybox();
    let layout = node.temp.path().join("layout");
    image.layout(&layout, Some("a.b/c:d"));
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(".", &layout).unwrap();
    let path = node.temp.path().join("layout.tar");
    std::fs::write(&path, builder.into_inner().unwrap()).unwrap();
    node.store.import(&path, &[]).await.unwrap();
    assert_eq!(node.store.resolve("a.b/c:d").unwrap().id, image.id());
}

#[tokio::test]
async fn every_form_of_reference_finds_the_image() {
    let node = Node::new().await;
    let image = busybox();
    let id = node.import(&image, "busybox:1").await.unwrap();
    let forms = [
        "busybox:1".to_owned(),
        "docker.io/library/busybox:1".to_owned(),
        id.to_string(),
        id.hex().to_owned(),
        id.hex()[..12].to_owned(),
        id.as_str()[..20].to_owned(),
        format!("busybox@{id}"),
    ];
    for form in &forms {
        assert_eq!(node.store.status(form).unwrap().map(|i| i.id), Some(id.clone()), "{form}");
    }
    for absent in ["busybox", "busybox:2", "other:1", &"0".repeat(64)] {
        assert!(node.store.status(absent).unwrap().is_none(), "{absent}");
    }
    assert_eq!(node.store.status("NOT A NAME").unwrap_err().kind(), Kind::Invalid);
    let error = node.store.resolve("absent:1").unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test]
async fn removal_by_one_tag_takes_all_names_and_the_layers() {
    let node = Node::new().await;
    let image = busybox();
    for name in ["busybox:1", "busybox:2", "example.org/x:3"] {
        node.import(&image, name).await.unwrap();
    }
    assert_eq!(node.store.list()[0].repo_tags.len(), 3);
    node.store.remove("busybox:2").await.unwrap();
    assert!(node.store.list().is_empty());
    assert!(node.store.status("example.org/x:3").unwrap().is_none());
    assert!(node.layers().is_empty());
    node.store.remove("busybox:2").await.unwrap();
    node.store.remove("never-seen").await.unwrap();
    node.assert_clean().await;
}

#[tokio::test]
async fn layers_that_another_image_needs_stay() {
    let node = Node::new().await;
    let one = busybox();
    let base = Layer::new().dir("bin", 0o755, (0, 0)).file("bin/sh", "#!").finish();
    let two = Image::new("{}", vec![base]);
    node.import(&one, "one").await.unwrap();
    node.import(&two, "two").await.unwrap();
    assert_eq!(node.layers().len(), 2);
    node.store.remove("one").await.unwrap();
    assert_eq!(node.layers().len(), 1);
    let node = node.reopen().await;
    assert_eq!(node.store.list().len(), 1);
    assert_eq!(node.layers().len(), 1);
}

#[tokio::test]
async fn a_moved_tag_leaves_the_old_image_without_it() {
    let node = Node::new().await;
    let old = node.import(&busybox(), "a:1").await.unwrap();
    let other = Image::new("{}", vec![Layer::new().file("f", "x").finish()]);
    let new = node.import(&other, "a:1").await.unwrap();
    assert_eq!(node.store.resolve("a:1").unwrap().id, new);
    assert_eq!(node.store.resolve(old.as_str()).unwrap().repo_tags.len(), 0);
}

#[tokio::test]
async fn what_is_no_image_is_refused_and_leaves_nothing() {
    let node = Node::new().await;
    let file = node.temp.path().join("junk");
    std::fs::write(&file, "junk").unwrap();
    assert_eq!(node.store.import(&file, &[]).await.unwrap_err().kind(), Kind::Invalid);
    let absent = node.temp.path().join("absent");
    assert_eq!(node.store.import(&absent, &[]).await.unwrap_err().kind(), Kind::NotFound);
    let image = busybox();
    let wrong = Image::with_diff_ids(
        "{}",
        vec![Layer::new().file("f", "x").finish()],
        &[Digest::of(b"something else")],
    );
    let error = node.import(&wrong, "wrong").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    let mut damaged = image.clone();
    damaged.layers[1][40] ^= 1;
    let layout = node.temp.path().join("damaged");
    image.layout(&layout, Some("damaged"));
    let blob = layout.join("blobs/sha256").join(Digest::of(&image.layers[1]).hex());
    std::fs::write(blob, &damaged.layers[1]).unwrap();
    assert_eq!(node.store.import(&layout, &[]).await.unwrap_err().kind(), Kind::Invalid);
    assert!(node.store.list().is_empty());
    node.assert_clean().await;
    assert!(node.layers().is_empty());
}

#[tokio::test]
async fn used_space_is_known_without_looking() {
    let node = Node::new().await;
    assert_eq!(node.store.image_fs().used.bytes, 0);
    node.import(&busybox(), "a").await.unwrap();
    let fs = node.store.image_fs();
    assert_eq!(fs.used.inodes, 6);
    assert!(fs.used.bytes >= 6 * 512);
    assert!(fs.mountpoint.is_dir());
    node.store.remove("a").await.unwrap();
    assert_eq!(node.store.image_fs().used.inodes, 0);
}
