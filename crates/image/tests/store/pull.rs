//! Pulls, against a registry that behaves and one that does not.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_image::{Credentials, Digest, Error, Kind, Options, Registries, Store};
use tokio::sync::Semaphore;

use crate::fixture::{Image, Layer, Node};
use crate::registry::{INDEX, Registry, Reply};

pub(crate) fn image() -> Image {
    // Not compressible: large enough to be cut and gated in the middle.
    let mut seed = 1u32;
    let noise: Vec<u8> = (0..200_000)
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        })
        .collect();
    let base = Layer::new().file_like("noise", &noise, 0o644, (0, 0)).finish();
    let top = Layer::new().dir("d", 0o755, (0, 0)).file("d/f", "content").finish();
    Image::new(r#"{"Cmd":["x"]}"#, vec![base, top])
}

/// A store whose pulls give up quickly.
pub(crate) async fn node() -> Node {
    node_with(|_| {}).await
}

pub(crate) async fn node_with(change: impl FnOnce(&mut Options)) -> Node {
    let temp = tempfile::tempdir().unwrap();
    let mut options = Options::new(temp.path().join("images"));
    options.platform.architecture = "amd64".to_owned();
    options.platform.variant = None;
    options.registries = Registries {
        certs_d: vec![temp.path().join("certs.d")],
        docker_config: Some(temp.path().join("config.json")),
        connect_timeout: Duration::from_secs(5),
        progress_timeout: Duration::from_secs(5),
        attempts: 3,
        backoff: Duration::from_millis(1),
    };
    change(&mut options);
    let store = Store::open(options).await.unwrap();
    Node { temp, store }
}

/// Nothing of a failed or cancelled pull is there.
pub(crate) async fn assert_nothing(node: &Node) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let empty = |place: &str| std::fs::read_dir(node.root().join(place)).unwrap().count() == 0;
    while !["staging", "trash", "l"].iter().all(|place| empty(place)) {
        assert!(Instant::now() < deadline, "{:?}", node.layers());
        tokio::task::yield_now().await;
        node.store.settled(Duration::from_secs(1)).await;
    }
    assert!(node.store.list().is_empty());
}

#[tokio::test]
async fn an_image_is_pulled_once_and_listed_under_its_names() {
    let (node, registry) = (node().await, Registry::start().await);
    let image = image();
    let digest = registry.push("a/b:1", &image);
    let name = registry.name("a/b:1");
    assert_eq!(node.store.pull(&name, None).await.unwrap(), image.id());
    let listed = node.store.resolve(&name).unwrap();
    assert_eq!(listed.repo_tags, std::slice::from_ref(&name));
    assert_eq!(listed.repo_digests, [registry.name(&format!("a/b@{digest}"))]);
    assert_eq!(listed.size, image.layers.iter().map(|l| l.len() as u64).sum::<u64>());
    let requests = registry.log().len();
    node.store.pull(&name, None).await.unwrap();
    let again = &registry.log()[requests..];
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!(again[0].method, "HEAD");
    node.assert_clean().await;
}

#[tokio::test]
async fn a_reference_with_a_digest_gets_no_tag_and_must_match() {
    let (node, registry) = (node().await, Registry::start().await);
    let image = image();
    let digest = registry.push("a/b:1", &image);
    let name = registry.name(&format!("a/b:ignored@{digest}"));
    node.store.pull(&name, None).await.unwrap();
    assert!(node.store.list()[0].repo_tags.is_empty());
    assert!(node.store.status(&name).unwrap().is_some());
    let other = Digest::of(b"other");
    registry.push_document(&format!("a/b:{other}"), INDEX, b"{}");
    let error = node.store.pull(&registry.name(&format!("a/b@{other}")), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
}

#[tokio::test]
async fn the_manifest_for_this_machine_is_chosen() {
    let (node, registry) = (node().await, Registry::start().await);
    let image = image();
    let manifest = registry.push("a/b:amd64", &image);
    let size = image.manifest().len();
    let entry = |os: &str, architecture: &str, digest: &Digest| {
        serde_json::json!({"mediaType": crate::registry::MANIFEST, "digest": digest, "size": size,
            "platform": {"os": os, "architecture": architecture}})
    };
    let other = Digest::of(b"other");
    let index = |entries: serde_json::Value| {
        serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
            .to_string()
    };
    let both = index(serde_json::json!([
        entry("linux", "arm64", &other),
        entry("unknown", "unknown", &other),
        entry("linux", "amd64", &manifest)
    ]));
    let digest = registry.push_document("a/b:multi", INDEX, both.as_bytes());
    node.store.pull(&registry.name("a/b:multi"), None).await.unwrap();
    let listed = &node.store.list()[0];
    assert_eq!(listed.id, image.id());
    assert_eq!(listed.repo_digests, [registry.name(&format!("a/b@{digest}"))]);
    let none = index(serde_json::json!([entry("linux", "arm64", &other)]));
    registry.push_document("a/b:none", INDEX, none.as_bytes());
    let error = node.store.pull(&registry.name("a/b:none"), None).await.unwrap_err();
    assert!(matches!(error, Error::NoPlatform { .. }), "{error}");
}

#[tokio::test]
async fn what_is_not_there_and_who_is_not_there_are_different_errors() {
    let (node, registry) = (node().await, Registry::start().await);
    let error = node.store.pull(&registry.name("no/such:1"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    assert!(error.to_string().contains(&registry.address.to_string()), "{error}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = node.store.pull(&format!("{closed}/a/b:1"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().starts_with("RegistryUnavailable: "), "{error}");
    assert_nothing(&node).await;
}

#[tokio::test]
async fn basic_credentials_come_from_the_call_or_from_docker_config() {
    let (node, registry) = (node().await, Registry::start().await);
    registry.push("a/b:1", &image());
    registry.rule(|request, _| {
        let open = request.has_basic("user", "pass");
        (!open).then(|| Reply::status(401).with("www-authenticate", "Basic realm=\"r\""))
    });
    let name = registry.name("a/b:1");
    let error = node.store.pull(&name, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
    let wrong = Credentials {
        username: "user".to_owned(),
        password: "hunter2".to_owned(),
        ..Credentials::default()
    };
    let error = node.store.pull(&name, Some(wrong)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
    let auth = "dXNlcjpwYXNz".to_owned();
    let right = Credentials { auth, ..Credentials::default() };
    node.store.pull(&name, Some(right)).await.unwrap();
    node.store.remove(&name).await.unwrap();
    let config = format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#, registry.address);
    std::fs::write(node.temp.path().join("config.json"), config).unwrap();
    node.store.pull(&name, None).await.unwrap();
}

#[tokio::test]
async fn a_layer_that_breaks_off_is_taken_up_where_it_ended() {
    let (node, registry) = (node().await, Registry::start().await);
    let image = image();
    registry.push("a/b:1", &image);
    let noise = Digest::of(&image.layers[0]);
    let failures = AtomicUsize::new(0);
    registry.rule(move |request, usual| {
        let first =
            request.path.ends_with(noise.as_str()) && failures.fetch_add(1, Ordering::Relaxed) < 2;
        first.then(|| Reply { cut: Some(60_000), ..usual(request) })
    });
    node.store.pull(&registry.name("a/b:1"), None).await.unwrap();
    let ranges: Vec<Option<String>> = registry
        .log()
        .iter()
        .filter(|request| request.path.ends_with(Digest::of(&image.layers[0]).as_str()))
        .map(|request| request.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges.len(), 3);
    assert_eq!(ranges[0], None);
    assert_eq!(ranges[1].as_deref(), Some("bytes=60000-"));
    assert_eq!(ranges[2].as_deref(), Some("bytes=120000-"));
    node.assert_clean().await;
}

#[tokio::test]
async fn a_registry_without_ranges_is_read_from_the_start_again() {
    let (node, registry) = (node().await, Registry::start().await);
    let image = image();
    registry.push("a/b:1", &image);
    let failed = AtomicUsize::new(0);
    registry.rule(move |request, usual| {
        let mut plain = request.clone();
        plain.headers.remove("range");
        let cut =
            (request.is_blob() && failed.fetch_add(1, Ordering::Relaxed) < 3).then_some(9_000);
        Some(Reply { cut, ..usual(&plain) })
    });
    node.store.pull(&registry.name("a/b:1"), None).await.unwrap();
}

#[tokio::test]
async fn passing_failures_are_outlasted_and_lasting_ones_end() {
    let (node, registry) = (node().await, Registry::start().await);
    registry.push("a/b:1", &image());
    let failed = Mutex::new(HashMap::<String, u16>::new());
    registry.rule(move |request, _| {
        let mut failed = failed.lock().unwrap();
        let count = failed.entry(request.path.clone()).or_default();
        *count += 1;
        (*count < 3).then(|| Reply::status([503, 429][usize::from(*count % 2)]))
    });
    node.store.pull(&registry.name("a/b:1"), None).await.unwrap();
    node.store.remove(&registry.name("a/b:1")).await.unwrap();
    registry.rule(|request, _| request.is_blob().then(|| Reply::status(500)));
    let error = node.store.pull(&registry.name("a/b:1"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().starts_with("RegistryUnavailable: "), "{error}");
    assert_nothing(&node).await;
}

#[tokio::test]
async fn wrong_content_of_every_sort_is_refused_and_leaves_nothing() {
    let registry = Registry::start().await;
    let flip: fn(&mut Vec<u8>) = |bytes| bytes[150_000] ^= 1;
    let cut: fn(&mut Vec<u8>) = |bytes| bytes.truncate(150_000);
    let grow: fn(&mut Vec<u8>) = |bytes| bytes.extend([0; 1000]);
    let swap: fn(&mut Vec<u8>) = |bytes| *bytes = vec![7; bytes.len()];
    for (what, change) in [("flip", flip), ("cut", cut), ("grow", grow), ("swap", swap)] {
        let node = node().await;
        let image = image();
        registry.push("a/b:1", &image);
        registry.damage(&Digest::of(&image.layers[0]), change);
        let error = node.store.pull(&registry.name("a/b:1"), None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{what}: {error}");
        assert_nothing(&node).await;
    }
    let node = node().await;
    let archive = Layer::new().file("f", "x").finish();
    registry.push("a/lying:1", &Image::with_diff_ids("{}", vec![archive], &[Digest::of(b"no")]));
    let error = node.store.pull(&registry.name("a/lying:1"), None).await.unwrap_err();
    assert!(error.to_string().contains("uncompressed"), "{error}");
    let image = image();
    registry.push("a/config:1", &image);
    registry.damage(&image.id(), |bytes| bytes[3] ^= 1);
    let error = node.store.pull(&registry.name("a/config:1"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert_nothing(&node).await;
}

#[tokio::test]
async fn a_registry_that_stalls_is_given_up() {
    let node = node_with(|options| {
        options.registries.progress_timeout = Duration::from_millis(100);
        options.registries.attempts = 1;
    })
    .await;
    let registry = Registry::start().await;
    registry.push("a/b:1", &image());
    let never = Arc::new(Semaphore::new(0));
    registry.rule(move |request, usual| {
        let gate = Some(Arc::clone(&never));
        request.is_blob().then(|| Reply { gate, ..usual(request) })
    });
    let error = node.store.pull(&registry.name("a/b:1"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut, "{error}");
    assert_nothing(&node).await;
}

fn noise_id(image: &Image) -> Digest {
    let config: serde_json::Value = serde_json::from_slice(&image.config).unwrap();
    config["rootfs"]["diff_ids"][0].as_str().unwrap().parse().unwrap()
}

/// Holds every layer (not the config) back in its middle until permits are added.
pub(crate) fn hold_layers(registry: &Registry, image: &Image) -> Arc<Semaphore> {
    let gate = Arc::new(Semaphore::new(0));
    let given = Arc::clone(&gate);
    let layers: Vec<String> = image.layers.iter().map(|l| Digest::of(l).to_string()).collect();
    registry.rule(move |request, usual| {
        let layer = layers.iter().any(|layer| request.path.ends_with(layer));
        layer.then(|| Reply { gate: Some(Arc::clone(&gate)), ..usual(request) })
    });
    given
}

pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_dropped_pull_leaves_nothing_behind() {
    let (node, registry) = (node().await, Registry::start().await);
    let image = image();
    registry.push("a/b:1", &image);
    let gate = hold_layers(&registry, &image);
    let (store, name) = (node.store.clone(), registry.name("a/b:1"));
    let pull = tokio::spawn(async move { store.pull(&name, None).await });
    let asked = registry.clone();
    until("both layers asked for", || asked.count(|r| r.is_blob()) == 3).await;
    pull.abort();
    assert!(pull.await.unwrap_err().is_cancelled());
    assert_nothing(&node).await;
    gate.add_permits(100);
    node.store.pull(&registry.name("a/b:1"), None).await.unwrap();
    node.assert_clean().await;
}

#[tokio::test]
async fn pulls_of_the_same_image_share_their_layers() {
    let (node, registry) = (node().await, Registry::start().await);
    let image = image();
    registry.push("a/b:1", &image);
    registry.push("c/d:2", &image);
    let gate = hold_layers(&registry, &image);
    let start = |name: &str| {
        let (store, name) = (node.store.clone(), registry.name(name));
        tokio::spawn(async move { store.pull(&name, None).await })
    };
    let first = start("a/b:1");
    let asked = registry.clone();
    let layer = Digest::of(&image.layers[0]).to_string();
    until("the layer asked for", || asked.count(|r| r.path.ends_with(&layer)) == 1).await;
    let others = [start("a/b:1"), start("c/d:2"), start("c/d:2")];
    let (store, diff_id) = (node.store.clone(), noise_id(&image));
    let joined = || store.transfers().iter().any(|t| t.layer == diff_id && t.waiting == 4);
    until("the others joined", joined).await;
    // The one that started the transfer gives up; those that joined it do not notice.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    gate.add_permits(100);
    for pull in others {
        assert_eq!(pull.await.unwrap().unwrap(), image.id());
    }
    assert_eq!(registry.count(|r| r.path.ends_with(&layer)), 1);
    assert_eq!(node.store.list()[0].repo_tags.len(), 2);
    assert_eq!(node.layers().len(), 2);
    node.assert_clean().await;
}

#[tokio::test]
async fn an_image_removed_during_a_pull_of_the_same_layers_does_not_hurt() {
    let (node, registry) = (node().await, Registry::start().await);
    let base = image();
    registry.push("a/base:1", &base);
    node.store.pull(&registry.name("a/base:1"), None).await.unwrap();
    let mut archives = Vec::new();
    for layer in &base.layers {
        let mut archive = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(&layer[..]);
        std::io::Read::read_to_end(&mut decoder, &mut archive).unwrap();
        archives.push(archive);
    }
    archives.push(Layer::new().file("third", "3").finish());
    let image = Image::new("{}", archives);
    registry.push("a/more:1", &image);
    let gate = hold_layers(&registry, &image);
    let (store, name) = (node.store.clone(), registry.name("a/more:1"));
    let pull = tokio::spawn(async move { store.pull(&name, None).await });
    let (asked, third) = (registry.clone(), Digest::of(&image.layers[2]).to_string());
    until("the third layer asked for", || asked.count(|r| r.path.ends_with(&third)) == 1).await;
    node.store.remove(&registry.name("a/base:1")).await.unwrap();
    gate.add_permits(100);
    let id = pull.await.unwrap().unwrap();
    node.store.prepare("c1", &id).await.unwrap();
    let node = node.reopen().await;
    assert_eq!(node.store.list().len(), 1);
    assert_eq!(node.layers().len(), 3);
}

#[tokio::test]
async fn only_what_is_missing_is_pulled_again() {
    let (node, registry) = (node().await, Registry::start().await);
    let image = image();
    registry.push("a/b:1", &image);
    let name = registry.name("a/b:1");
    node.store.pull(&name, None).await.unwrap();
    std::fs::remove_dir_all(&node.layers()[1]).unwrap();
    let node = node.reopen().await;
    assert!(node.store.status(&name).unwrap().is_none());
    let before = registry.log().len();
    node.store.pull(&name, None).await.unwrap();
    let blobs = registry.log()[before..].iter().filter(|r| r.is_blob()).count();
    assert_eq!(blobs, 1);
    assert!(node.store.status(&name).unwrap().is_some());
}
