//! Bearer tokens: from where the registry says, with the credentials that there are, as seldom as
//! possible.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use berth_image::{Credentials, Kind};

use crate::fixture::{Image, Layer, Node};
use crate::registry::{Registry, Reply, Request};

fn image() -> Image {
    let layers = (0..6).map(|i| Layer::new().file(&format!("f{i}"), "x").finish()).collect();
    Image::new("{}", layers)
}

/// A registry that gives tokens to those who may have them, each for some seconds or uses.
async fn registry(
    uses: usize,
    may: impl Fn(&Request) -> bool + Send + 'static,
) -> (Registry, Arc<AtomicUsize>) {
    let registry = Registry::start().await;
    registry.push("a/b:1", &image());
    let address = registry.address;
    let given = Arc::new(AtomicUsize::new(0));
    let (count, used) = (Arc::clone(&given), AtomicUsize::new(0));
    registry.rule(move |request, _| {
        if request.path == "/token" {
            if !may(request) {
                let body = r#"{"errors":[{"code":"DENIED","message":"not you"}]}"#;
                return Some(Reply { status: 401, ..Reply::json(body) });
            }
            used.store(0, Ordering::Relaxed);
            let number = count.fetch_add(1, Ordering::Relaxed) + 1;
            return Some(Reply::json(format!(r#"{{"access_token":"t{number}"}}"#)));
        }
        let current = format!("Bearer t{}", count.load(Ordering::Relaxed));
        let fresh = used.fetch_add(1, Ordering::Relaxed) < uses;
        let open = request.header("authorization") == Some(&current) && fresh;
        let challenge = format!(
            "Bearer realm=\"http://{address}/token\",service=\"reg\",scope=\"repository:a/b:pull\""
        );
        (!open).then(|| Reply::status(401).with("www-authenticate", challenge))
    });
    (registry, given)
}

#[tokio::test]
async fn an_anonymous_token_is_fetched_once_for_all_layers() {
    let node = Node::new().await;
    let (registry, given) = registry(1000, |request| {
        request.method == "GET" && request.query == "service=reg&scope=repository%3Aa%2Fb%3Apull"
    })
    .await;
    node.store.pull(&registry.name("a/b:1"), None).await.unwrap();
    assert_eq!(given.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_token_that_ends_in_the_middle_is_renewed() {
    let node = Node::new().await;
    let (registry, given) = registry(6, |_| true).await;
    node.store.pull(&registry.name("a/b:1"), None).await.unwrap();
    assert!(given.load(Ordering::Relaxed) >= 2);
}

#[tokio::test]
async fn name_and_password_go_to_the_token_server_only() {
    let node = Node::new().await;
    let (registry, _) = registry(1000, |request| request.has_basic("user", "pass")).await;
    let name = registry.name("a/b:1");
    let error = node.store.pull(&name, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
    assert!(error.to_string().contains("not you"), "{error}");
    let (username, password) = ("user".to_owned(), "pass".to_owned());
    let given = Credentials { username, password, ..Credentials::default() };
    node.store.pull(&name, Some(given)).await.unwrap();
    let leaked = |r: &Request| r.path != "/token" && r.has_basic("user", "pass");
    assert_eq!(registry.count(leaked), 0);
}

#[tokio::test]
async fn an_identity_token_is_exchanged_and_a_registry_token_is_sent() {
    let node = Node::new().await;
    let (exchanging, _) = registry(1000, |request| {
        request.method == "POST"
            && request.body.contains("grant_type=refresh_token")
            && request.body.contains("refresh_token=id+entity")
            && request.body.contains("service=reg")
    })
    .await;
    let identity = Credentials { identity_token: "id entity".to_owned(), ..Credentials::default() };
    node.store.pull(&exchanging.name("a/b:1"), Some(identity)).await.unwrap();

    let taking = Registry::start().await;
    taking.push("a/b:1", &image());
    taking.rule(|request, _| {
        let open = request.header("authorization") == Some("Bearer direct");
        (!open).then(|| Reply::status(401).with("www-authenticate", "Basic"))
    });
    let direct = Credentials { registry_token: "direct".to_owned(), ..Credentials::default() };
    node.store.pull(&taking.name("a/b:1"), Some(direct)).await.unwrap();
    let wrong = Credentials { registry_token: "wrong".to_owned(), ..Credentials::default() };
    let error = node.store.pull(&taking.name("a/b:1"), Some(wrong)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
}
