//! Pulls, removals, creations and callers that go away, all at once.

use std::time::Duration;

use berth_image::{Kind, Store};

use crate::fixture::{Image, Layer};
use crate::pull::{hold_layers, image, node, until};
use crate::registry::Registry;

/// Two images that share their lower layers.
pub(crate) fn images() -> [Image; 2] {
    let base = Layer::new().dir("d", 0o711, (0, 0)).file_like("d/f", &[7; 50_000], 0o644, (0, 0));
    let base = base.finish();
    // It leans on the layer below, so it is kept by its chain.
    let middle = Layer::new().file("d/g", "2").hard_link("d/h", "d/f").finish();
    let top = Layer::new().file("top", "3").finish();
    [
        Image::new(r#"{"Cmd":["a"]}"#, vec![base.clone(), middle.clone()]),
        Image::new(r#"{"Cmd":["b"]}"#, vec![base, middle, top]),
    ]
}

/// What each worker does, over and over, in an order and at times that its seed decides.
async fn work(store: Store, names: [String; 2], worker: u64) {
    let mut seed = worker;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for turn in 0..15 {
        let name = &names[usize::try_from(random(2)).unwrap()];
        let patience = Duration::from_millis(random(60));
        // A caller that goes away is a pull that is dropped.
        let pulled = tokio::time::timeout(patience, store.pull(name, None)).await;
        if let Ok(pulled) = pulled {
            let id = pulled.unwrap();
            let key = format!("c{worker}-{turn}");
            // Somebody else may have removed it since; what is there must be whole.
            match store.hold(&key, &id).await {
                Ok(()) => {
                    let mount = store.prepare(&key, &id).await.unwrap();
                    let lower = mount.options.iter().find_map(|o| o.strip_prefix("lowerdir="));
                    let lower = lower.unwrap();
                    assert!(
                        lower.split(':').any(|l| std::fs::metadata(format!("{l}/d/h")).is_ok())
                    );
                    store.drop_snapshot(&key).await.unwrap();
                    store.unhold(&key).await.unwrap();
                }
                Err(error) => assert_eq!(error.kind(), Kind::NotFound, "{error}"),
            }
        }
        if random(3) == 0 {
            store.remove(name).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_at_once_what_is_there_is_whole_and_nothing_stays() {
    let (node, registry) = (node().await, Registry::start().await);
    let names = ["a/one:1", "a/two:1"].map(|name| registry.name(name));
    for (image, name) in images().iter().zip(["a/one:1", "a/two:1"]) {
        registry.push(name, image);
    }
    let mut workers = tokio::task::JoinSet::new();
    for worker in 1..=4 {
        workers.spawn(work(node.store.clone(), names.clone(), worker));
    }
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
    // And after all of it, a pull works as on the first day.
    let id = node.store.pull(&names[1], None).await.unwrap();
    node.store.prepare("last", &id).await.unwrap();
    assert!(node.store.verify().await.unwrap().is_empty());
    node.store.drop_snapshot("last").await.unwrap();
    for name in &names {
        node.store.remove(name).await.unwrap();
    }
    let store = node.store.clone();
    until("all transfers ended", || store.transfers().is_empty()).await;
    let (root, store) = (node.root(), node.store.clone());
    let left = |place: &str| std::fs::read_dir(root.join(place)).unwrap().count();
    until("all layers gone", || ["l", "staging", "trash"].iter().all(|place| left(place) == 0))
        .await;
    assert!(store.list().is_empty() && store.holders().is_empty());
}

#[tokio::test]
async fn an_image_removed_while_it_is_pulled_again_is_there_afterwards() {
    let (node, registry) = (node().await, Registry::start().await);
    let image = image();
    registry.push("a/b:1", &image);
    let name = registry.name("a/b:1");
    let gate = hold_layers(&registry, &image);
    let (store, pulled) = (node.store.clone(), name.clone());
    let pull = tokio::spawn(async move { store.pull(&pulled, None).await });
    let asked = registry.clone();
    until("both layers asked for", || asked.count(|r| r.is_blob()) == 3).await;
    // It is not listed yet: there is nothing to remove, and the pull goes on.
    node.store.remove(&name).await.unwrap();
    gate.add_permits(100);
    let id = pull.await.unwrap().unwrap();
    assert_eq!(node.store.resolve(&name).unwrap().id, id);
    node.store.prepare("c1", &id).await.unwrap();
    // Removed under a container: absent for everybody else, whole for the container.
    node.store.remove(&name).await.unwrap();
    assert_eq!(node.store.prepare("c2", &id).await.unwrap_err().kind(), Kind::NotFound);
    let node = node.reopen().await;
    assert!(node.store.snapshot("c1").await.unwrap().is_some());
    assert_eq!(node.layers().len(), 2);
    node.store.drop_snapshot("c1").await.unwrap();
    assert!(node.store.settled(Duration::from_secs(20)).await);
    assert!(node.layers().is_empty());
}
