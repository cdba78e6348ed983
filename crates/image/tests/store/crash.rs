//! What the store makes of a disk that a crash, a power cut or an operator left behind.

use berth_image::Kind;

use crate::fixture::{Image, Layer, Node};

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
    for left in ["staging/1-0/etc", "l/4711/etc", "trash/x/y/z"] {
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
