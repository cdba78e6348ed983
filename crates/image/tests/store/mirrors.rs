//! Several hosts for one image: who is asked, in which order, and what is kept from whom.

use std::path::Path;
use std::sync::Arc;

use berth_image::{Credentials, Digest, Kind};

use tokio::sync::Semaphore;

use crate::fixture::Node;
use crate::pull::{image, node};
use crate::registry::{Registry, Reply};

fn hosts(here: &Node, registry: &str, text: &str) {
    let directory = here.temp.path().join("certs.d").join(registry);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("hosts.toml"), text).unwrap();
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_the_server_when_it_cannot() {
    let (mirror, server) = (Registry::start().await, Registry::start().await);
    let image = image();
    server.push("a/b:1", &image);
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}/proxy\"]\noverride_path = true\n",
        server.address, mirror.address
    );
    // The mirror has nothing.
    let here = node().await;
    hosts(&here, "r.example", &text);
    here.store.pull("r.example/a/b:1", None).await.unwrap();
    assert!(mirror.count(|r| r.path == "/proxy/a/b/manifests/1" && r.query == "ns=r.example") > 0);
    assert!(here.store.status("r.example/a/b:1").unwrap().is_some());
    // The mirror sends a page of its own.
    mirror.rule(|_, _| Some(Reply::json("<html>please log in</html>")));
    let here = node().await;
    hosts(&here, "r.example", &text);
    here.store.pull("r.example/a/b:1", None).await.unwrap();
    mirror.rule(|_, _| None);
    // The mirror has everything: the server is not asked.
    let here = node().await;
    hosts(&here, "r.example", &text.replace("/proxy\"]\noverride_path = true", "\"]"));
    mirror.push("a/b:1", &image);
    let before = server.log().len();
    here.store.pull("r.example/a/b:1", None).await.unwrap();
    assert_eq!(server.log().len(), before);
    // The mirror has a damaged layer: the server's is taken.
    let here = node().await;
    hosts(&here, "r.example", &text.replace("/proxy\"]\noverride_path = true", "\"]"));
    mirror.damage(&Digest::of(&image.layers[1]), |bytes| bytes[20] ^= 1);
    here.store.pull("r.example/a/b:1", None).await.unwrap();
    assert_eq!(server.count(|r| r.path.ends_with(Digest::of(&image.layers[1]).as_str())), 3);
    here.assert_clean().await;
}

#[tokio::test]
async fn wrong_content_is_noticed_while_the_mirror_still_sends() {
    let (mirror, server) = (Registry::start().await, Registry::start().await);
    let image = image();
    for registry in [&mirror, &server] {
        registry.push("a/b:1", &image);
    }
    let layer = Digest::of(&image.layers[0]);
    mirror.damage(&layer, |bytes| bytes[2] ^= 0xff);
    let never = Arc::new(Semaphore::new(0));
    mirror.rule(move |request, usual| {
        let gate = Some(Arc::clone(&never));
        request.path.ends_with(layer.as_str()).then(|| Reply { gate, ..usual(request) })
    });
    let here = node().await;
    let text =
        format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", server.address, mirror.address);
    hosts(&here, "r.example", &text);
    here.store.pull("r.example/a/b:1", None).await.unwrap();
    assert_eq!(server.count(|r| r.is_blob()), 1);
    here.assert_clean().await;
}

#[tokio::test]
async fn a_mirror_that_is_down_or_may_only_pull_is_worked_around() {
    let server = Registry::start().await;
    server.push("a/b:1", &image());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let here = node().await;
    let text = format!("server = \"http://{}\"\n[host.\"http://{closed}\"]\n", server.address);
    hosts(&here, "r.example", &text);
    here.store.pull("r.example/a/b:1", None).await.unwrap();

    let mirror = Registry::start().await;
    mirror.push("a/b:1", &image());
    let here = node().await;
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
        server.address, mirror.address
    );
    hosts(&here, "r.example", &text);
    here.store.pull("r.example/a/b:1", None).await.unwrap();
    assert_eq!(mirror.count(|r| r.path.contains("/manifests/")), 0);
    assert_eq!(mirror.count(|r| r.is_blob()), 3);
}

#[tokio::test]
async fn credentials_and_headers_stay_with_their_host() {
    let (mirror, server, store) =
        (Registry::start().await, Registry::start().await, Registry::start().await);
    let image = image();
    server.push("a/b:1", &image);
    store.push("a/b:1", &image);
    let elsewhere = store.address;
    server.rule(move |request, _| {
        if !request.has_basic("user", "pass") {
            return Some(Reply::status(401).with("www-authenticate", "Basic"));
        }
        request.is_blob().then(|| {
            let location = format!("http://{elsewhere}{}?signature=secret", request.path);
            Reply::status(307).with("location", location)
        })
    });
    mirror.rule(|request, usual| {
        let open = request.header("x-mirror") == Some("key");
        Some(if open { usual(request) } else { Reply::status(500) })
    });
    let here = node().await;
    let text = format!(
        "server = \"http://{0}\"\n[host.\"http://{1}\"]\n[host.\"http://{1}\".header]\n\
         x-mirror = \"key\"\n",
        server.address, mirror.address
    );
    hosts(&here, &server.address.to_string(), &text);
    let given = Credentials {
        username: "user".to_owned(),
        password: "pass".to_owned(),
        ..Credentials::default()
    };
    here.store.pull(&server.name("a/b:1"), Some(given)).await.unwrap();
    assert_eq!(mirror.count(|r| r.header("authorization").is_some()), 0);
    assert!(mirror.count(|r| r.header("x-mirror") == Some("key")) > 0);
    assert_eq!(server.count(|r| r.header("x-mirror").is_some()), 0);
    assert_eq!(store.count(|_| true), 3);
    assert_eq!(store.count(|r| r.header("authorization").is_some()), 0);
}

#[tokio::test]
async fn a_signed_url_is_not_shown_in_errors() {
    let (here, registry) = (node().await, Registry::start().await);
    registry.push("a/b:1", &image());
    let address = registry.address;
    registry.rule(move |request, _| match request.path.as_str() {
        "/elsewhere" => Some(Reply::status(500)),
        _ if request.is_blob() => Some(
            Reply::status(302).with("location", format!("http://{address}/elsewhere?sig=secret")),
        ),
        _ => None,
    });
    let error = here.store.pull(&registry.name("a/b:1"), None).await.unwrap_err();
    assert!(error.to_string().contains("/elsewhere"), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn a_mistake_in_hosts_toml_is_an_error_that_names_the_file() {
    let here = node().await;
    hosts(&here, "r.example", "server = [");
    let error = here.store.pull("r.example/a/b:1", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("r.example/hosts.toml"), "{error}");
    assert!(Path::new(&here.root()).exists());
}
