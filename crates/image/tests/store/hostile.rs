//! Registries that lie, stall, break off, or want what is not theirs.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use berth_image::{Credentials, Digest, Error, Kind};

use crate::fixture::{Image, Layer, Node};
use crate::pull::{assert_nothing, image, node, node_with};
use crate::registry::{INDEX, MANIFEST, Manner, Registry, Reply};

fn password() -> Option<Credentials> {
    let (username, password) = ("user".to_owned(), "hunter2".to_owned());
    Some(Credentials { username, password, ..Credentials::default() })
}

/// A pull that must fail, and what it failed with; nothing is left and no secret is told.
async fn refused(node: &Node, name: &str, credentials: Option<Credentials>) -> Error {
    let error = node.store.pull(name, credentials).await.unwrap_err();
    assert_nothing(node).await;
    let text = error.to_string();
    assert!(text.contains(name.split(':').next().unwrap()), "it names no image: {text}");
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.len() < 2000, "{} bytes of message", text.len());
    error
}

/// A registry that lets in who has the password, and sends everybody elsewhere for blobs.
async fn locked(elsewhere: &Registry) -> Registry {
    let registry = Registry::start().await;
    registry.push("a/b:1", &image());
    let to = elsewhere.address;
    registry.rule(move |request, _| {
        if !request.has_basic("user", "hunter2") {
            return Some(Reply::status(401).with("www-authenticate", "Basic realm=\"here\""));
        }
        let location = format!("http://{to}{}", request.path);
        request.is_blob().then(|| Reply::status(307).with("location", location))
    });
    registry
}

#[tokio::test]
async fn whoever_a_redirect_leads_to_gets_no_password() {
    let thief = Registry::start().await;
    let registry = locked(&thief).await;
    let name = registry.name("a/b:1");
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"mine\"", thief.address);
    for challenge in [realm.as_str(), "Basic realm=\"mine\""] {
        let (node, challenge) = (node().await, challenge.to_owned());
        thief.rule(move |request, _| {
            let token = request.path == "/token";
            Some(match token {
                true => Reply::json(r#"{"token":"t"}"#),
                false => Reply::status(401).with("www-authenticate", &challenge),
            })
        });
        let error = refused(&node, &name, password()).await;
        assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
        assert!(error.to_string().contains(&thief.address.to_string()), "{error}");
    }
    assert!(thief.count(|r| r.is_blob()) > 0, "it was never asked");
    assert_eq!(thief.count(|r| r.header("authorization").is_some()), 0);
    assert_eq!(thief.count(|r| r.path == "/token"), 0);
}

#[tokio::test]
async fn another_host_cannot_send_us_back_with_the_password() {
    let (node, thief) = (node().await, Registry::start().await);
    let registry = locked(&thief).await;
    let back = format!("http://{}/v2/secret/blobs/1", registry.address);
    thief.rule(move |_, _| Some(Reply::status(302).with("location", &back)));
    let error = refused(&node, &registry.name("a/b:1"), password()).await;
    assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
    let sent = |with| {
        registry
            .count(|r| r.path.contains("/secret/") && r.header("authorization").is_some() == with)
    };
    assert!(sent(false) > 0, "the way back was never taken");
    assert_eq!(sent(true), 0);
}

#[tokio::test]
async fn redirects_end() {
    let (node, registry) = (node().await, Registry::start().await);
    registry.push("a/b:1", &image());
    registry.rule(|request, _| {
        let location = format!("{}x", request.path);
        (request.method == "GET").then(|| Reply::status(302).with("location", location))
    });
    let error = refused(&node, &registry.name("a/b:1"), None).await;
    assert!(error.to_string().contains("too many redirects"), "{error}");
    for nowhere in ["", "ftp://127.0.0.1/x", "http://[", "//"] {
        registry.rule(move |_, _| Some(Reply::status(302).with("location", nowhere)));
        assert_eq!(refused(&node, &registry.name("a/b:1"), None).await.kind(), Kind::Invalid);
    }
}

#[tokio::test]
async fn a_byte_now_and_then_does_not_hold_a_pull() {
    for blobs in [true, false] {
        let node = node_with(|options| {
            options.registries.progress_timeout = Duration::from_secs(4);
            options.registries.attempts = 1;
        })
        .await;
        let registry = Registry::start().await;
        registry.push("a/b:1", &image());
        registry.rule(move |request, usual| {
            let slow = request.is_blob() == blobs && request.method == "GET";
            slow.then(|| Reply { manner: Manner::Drip, ..usual(request) })
        });
        let error = refused(&node, &registry.name("a/b:1"), None).await;
        assert_eq!(error.kind(), Kind::TimedOut, "{error}");
        assert_eq!(registry.count(|r| r.is_blob()) > 0, blobs, "{error}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_in_the_headers_is_made_again() {
    let (node, registry) = (node().await, Registry::start().await);
    let image = image();
    registry.push("a/b:1", &image);
    let seen = Mutex::new(HashSet::new());
    registry.rule(move |request, usual| {
        let first = seen.lock().unwrap().insert(request.path.clone());
        first.then(|| Reply { manner: Manner::CutHead, ..usual(request) })
    });
    let name = registry.name("a/b:1");
    assert_eq!(node.store.pull(&name, None).await.unwrap(), image.id());
    node.store.remove(&name).await.unwrap();
    registry.rule(|request, usual| Some(Reply { manner: Manner::CutHead, ..usual(request) }));
    let error = refused(&node, &name, None).await;
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().starts_with("RegistryUnavailable: "), "{error}");
}

#[tokio::test]
async fn lengths_that_are_not_said_or_not_kept_are_borne_or_refused() {
    let registry = Registry::start().await;
    let image = image();
    registry.push("a/b:1", &image);
    let name = registry.name("a/b:1");
    // Not said: the end of the connection is the end.
    let node = node().await;
    registry.rule(|request, usual| Some(Reply { manner: Manner::NoLength, ..usual(request) }));
    assert_eq!(node.store.pull(&name, None).await.unwrap(), image.id());
    node.store.remove(&name).await.unwrap();
    // Not said, and every answer ends too early.
    registry.rule(|request, usual| {
        let mut reply = Reply { manner: Manner::NoLength, ..usual(request) };
        reply.body.truncate(reply.body.len().saturating_sub(1000).max(1));
        request.is_blob().then_some(reply)
    });
    let error = refused(&node, &name, None).await;
    assert!(matches!(error.kind(), Kind::Unavailable | Kind::Invalid), "{error}");
    // Not said, and more and more comes.
    let layer = Digest::of(&image.layers[0]);
    registry.rule(move |request, usual| {
        let endless = request.path.ends_with(layer.as_str());
        endless.then(|| Reply {
            manner: Manner::Endless,
            body: vec![7; 64 << 10],
            ..usual(request)
        })
    });
    let error = refused(&node, &name, None).await;
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    // Said, and wrong.
    let layer = Digest::of(&image.layers[0]);
    registry.rule(move |request, usual| {
        let mut reply = usual(request);
        reply.body.truncate(reply.body.len() / 2);
        request.path.ends_with(layer.as_str()).then_some(reply)
    });
    let error = refused(&node, &name, None).await;
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
}

#[tokio::test]
async fn wrong_content_is_told_with_image_layer_and_host() {
    let (node, registry) = (node().await, Registry::start().await);
    let image = image();
    registry.push("a/b:1", &image);
    let layer = Digest::of(&image.layers[0]);
    registry.damage(&layer, |bytes| bytes[150_000] ^= 1);
    let error = refused(&node, &registry.name("a/b:1"), None).await;
    let text = error.to_string();
    let address = registry.address.to_string();
    for part in [registry.name("a/b:1"), layer.to_string(), format!("http://{address}")] {
        assert!(text.contains(&part), "no {part} in {text}");
    }
}

#[tokio::test]
async fn token_servers_fail_in_every_way() {
    let registry = Registry::start().await;
    registry.push("a/b:1", &image());
    let endless = Reply { manner: Manner::Endless, ..Reply::json("x".repeat(64 << 10)) };
    let silent = Reply { manner: Manner::Silence, ..Reply::json("") };
    let expires = r#"{"token":"t","expires_in":-1}"#;
    let cases = [
        ("fails", Reply::status(500), Kind::Unavailable),
        ("has no time", Reply::status(429), Kind::Unavailable),
        ("refuses", Reply::status(403), Kind::Unauthorized),
        ("leads elsewhere", Reply::status(302).with("location", "/x"), Kind::Unauthorized),
        ("sends garbage", Reply::json("<html>"), Kind::Invalid),
        ("sends no token", Reply::json("{}"), Kind::Invalid),
        ("sends a line break", Reply::json(r#"{"token":"a\r\nb: c"}"#), Kind::Invalid),
        ("sends a life of less than none", Reply::json(expires), Kind::Invalid),
        ("never ends", endless, Kind::Invalid),
        ("never begins", silent, Kind::TimedOut),
    ];
    for (what, reply, kind) in cases {
        let patience = if kind == Kind::TimedOut { 2 } else { 20 };
        let node = node_with(|options| {
            options.registries.progress_timeout = Duration::from_secs(patience);
            options.registries.attempts = 1;
        })
        .await;
        let challenge = format!("Bearer realm=\"http://{}/token\"", registry.address);
        registry.rule(move |request, _| {
            let token = request.path == "/token";
            Some(if token { reply.clone() } else { challenged(&challenge) })
        });
        let error = refused(&node, &registry.name("a/b:1"), password()).await;
        assert_eq!(error.kind(), kind, "a token server that {what}: {error}");
    }
    for realm in ["", "nowhere", "ftp://127.0.0.1/token", "http://[/"] {
        let (node, challenge) = (node().await, format!("Bearer realm=\"{realm}\""));
        registry.rule(move |_, _| Some(challenged(&challenge)));
        let error = refused(&node, &registry.name("a/b:1"), password()).await;
        assert!(matches!(error.kind(), Kind::Invalid | Kind::Unauthorized), "{realm}: {error}");
    }
}

fn challenged(challenge: &str) -> Reply {
    Reply::status(401).with("www-authenticate", challenge)
}

#[tokio::test]
async fn access_that_is_refused_is_told_from_absence() {
    let registry = Registry::start().await;
    registry.push("a/b:1", &image());
    for (status, kind) in [
        (401, Kind::Unauthorized),
        (403, Kind::Unauthorized),
        (404, Kind::NotFound),
        (400, Kind::Invalid),
        (500, Kind::Unavailable),
        (429, Kind::Unavailable),
    ] {
        for blobs in [true, false] {
            let node = node().await;
            registry.rule(move |request, _| {
                (request.is_blob() == blobs).then(|| Reply::status(status))
            });
            let error = refused(&node, &registry.name("a/b:1"), None).await;
            assert_eq!(error.kind(), kind, "{status}, blobs: {blobs}: {error}");
        }
    }
}

#[tokio::test]
async fn a_host_that_asks_for_patience_gets_it() {
    let (node, registry) = (node().await, Registry::start().await);
    registry.push("a/b:1", &image());
    let asked = Mutex::new(HashSet::new());
    registry.rule(move |request, _| {
        let first = request.is_blob() && asked.lock().unwrap().insert(request.path.clone());
        first.then(|| Reply::status(429).with("retry-after", "1"))
    });
    let begin = std::time::Instant::now();
    node.store.pull(&registry.name("a/b:1"), None).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1), "it was asked again at once");
}

#[tokio::test]
async fn documents_that_are_none_are_refused() {
    let registry = Registry::start().await;
    let good = image();
    let manifest = String::from_utf8(good.manifest()).unwrap();
    let descriptor = |bytes: &[u8]| serde_json::json!({"mediaType": MANIFEST, "digest": Digest::of(bytes), "size": bytes.len()});
    let index = |entries: Vec<serde_json::Value>| {
        serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
            .to_string()
    };
    let many: Vec<_> = (0..20_000)
        .map(|i| {
            let mut entry = descriptor(b"x");
            let name = format!("os{i}");
            entry["platform"] = serde_json::json!({"os": name, "architecture": "a"});
            entry
        })
        .collect();
    let text = |value: &str| value.to_owned();
    let cases = [
        ("garbage", text("\u{1}\u{2}garbage"), Kind::Invalid),
        ("nothing", text(""), Kind::Invalid),
        ("a list", text("[]"), Kind::Invalid),
        ("deep", "[".repeat(100_000), Kind::Invalid),
        ("a digest that is none", manifest.replace("sha256:", &"x".repeat(9000)), Kind::Invalid),
        ("a negative size", manifest.replace("\"size\":", "\"size\":-"), Kind::Invalid),
        ("schema 1", text(r#"{"schemaVersion":1,"fsLayers":[]}"#), Kind::Unimplemented),
        ("another media type", manifest.replace(MANIFEST, "text/html"), Kind::Invalid),
        ("nobody's platform", index(many), Kind::NotFound),
        ("no entries", index(Vec::new()), Kind::NotFound),
        ("an index that leads nowhere", index(vec![descriptor(b"absent")]), Kind::NotFound),
        ("more than 8 MiB", format!("{}{manifest}", " ".repeat(9 << 20)), Kind::Invalid),
    ];
    for (what, document, kind) in cases {
        let node = node().await;
        registry.push("a/b:1", &good);
        registry.push_document("a/b:1", MANIFEST, document.as_bytes());
        let error = refused(&node, &registry.name("a/b:1"), None).await;
        assert_eq!(error.kind(), kind, "{what}: {error}");
    }
    let configs = [
        ("no JSON", "garbage".to_owned()),
        ("no object", "[]".to_owned()),
        ("no layers", r#"{"os":"linux","rootfs":{"diff_ids":[]}}"#.to_owned()),
        ("diff ids that are none", r#"{"os":"linux","rootfs":{"diff_ids":["x","y"]}}"#.to_owned()),
        ("no rootfs", r#"{"os":"linux"}"#.to_owned()),
    ];
    for (what, config) in configs {
        let node = node().await;
        let image = Image { config: config.into_bytes(), ..good.clone() };
        registry.push("a/b:1", &image);
        let error = refused(&node, &registry.name("a/b:1"), None).await;
        assert_eq!(error.kind(), Kind::Invalid, "{what}: {error}");
    }
}

#[tokio::test]
async fn mirrors_that_fail_are_passed_over_and_told_if_all_do() {
    let (slow, broken, server) =
        (Registry::start().await, Registry::start().await, Registry::start().await);
    let image = image();
    for registry in [&slow, &broken, &server] {
        registry.push("a/b:1", &image);
    }
    slow.rule(|request, usual| {
        request.is_blob().then(|| Reply { manner: Manner::Drip, ..usual(request) })
    });
    broken.rule(|request, usual| {
        request.is_blob().then(|| Reply { manner: Manner::CutHead, ..usual(request) })
    });
    let node = node_with(|options| {
        options.registries.progress_timeout = Duration::from_secs(4);
        options.registries.attempts = 1;
    })
    .await;
    let directory = node.temp.path().join("certs.d/r.example");
    std::fs::create_dir_all(&directory).unwrap();
    let hosts = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n[host.\"http://{}\"]\n",
        server.address, slow.address, broken.address
    );
    std::fs::write(directory.join("hosts.toml"), hosts).unwrap();
    let name = "r.example/a/b:1";
    assert_eq!(node.store.pull(name, None).await.unwrap(), image.id());
    node.store.remove(name).await.unwrap();
    server.rule(|_, _| Some(Reply::status(502)));
    let error = refused(&node, name, None).await;
    assert!(error.to_string().contains(&server.address.to_string()), "{error}");
    for registry in [&slow, &broken] {
        assert!(error.to_string().contains(&registry.address.to_string()), "{error}");
    }
}

#[tokio::test]
async fn an_empty_layer_and_one_of_no_bytes_are_told_apart() {
    let (node, registry) = (node().await, Registry::start().await);
    let image = Image::new("{}", vec![Layer::new().finish()]);
    registry.push("a/b:1", &image);
    assert_eq!(node.store.pull(&registry.name("a/b:1"), None).await.unwrap(), image.id());
    node.store.remove(&registry.name("a/b:1")).await.unwrap();
    let mut none = Image::with_diff_ids("{}", vec![Vec::new()], &[Digest::of(b"x")]);
    none.layers = vec![Vec::new()];
    registry.push("a/none:1", &none);
    assert_eq!(refused(&node, &registry.name("a/none:1"), None).await.kind(), Kind::Invalid);
}
