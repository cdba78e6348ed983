//! The gateway, tested by itself: it wants tokens, passes on, and misbehaves as told.

use anyhow::{Context as _, Result};
use berth_testkit::bed::push;
use berth_testkit::config::Config;
use berth_testkit::gateway::{Gateway, Manner};
use berth_testkit::http::{Request, Response};
use berth_testkit::image::samples;
use berth_testkit::node::Node;
use berth_testkit::push::basic;
use berth_testkit::registry::{PASSWORD, USER};

fn ask(node: &Node, gateway: &Gateway, path: &str, authorization: &str) -> Result<Response> {
    let request = Request::new("GET", path).header("authorization", authorization);
    node.place()?.visit(|| request.send(gateway.address()))
}

#[test]
fn a_gateway_asks_for_tokens_and_changes_blobs_as_told() -> Result<()> {
    let mut node = Node::prepare(Config::default())?;
    push(&mut node, &["busybox"])?;
    let backend = node.registry()?.address();
    let layer = samples::one("busybox")?.image.layers()[0].blob.clone();
    let blob = format!("/v2/testing/busybox/blobs/{}", layer.digest);
    let plain = Gateway::start(node.place()?, backend, Manner::Plain)?;
    assert_eq!(ask(&node, &plain, &blob, "")?.body, layer.bytes);
    assert_eq!(plain.requests(), [format!("GET {blob}")]);
    let head = Request::new("HEAD", &blob);
    let head = node.place()?.visit(|| head.send(plain.address()))?;
    assert_eq!(head.get("content-length"), Some(layer.bytes.len().to_string().as_str()));

    let locked = Gateway::start(node.place()?, backend, Manner::TokenForUser)?;
    let challenge = ask(&node, &locked, &blob, "")?;
    assert_eq!(challenge.status, 401);
    let challenge = challenge.get("www-authenticate").context("a challenge")?.to_owned();
    assert!(challenge.contains(r#"scope="repository:testing/busybox:pull""#), "{challenge}");
    let token = "/token?service=testkit&scope=repository:testing/busybox:pull";
    assert_eq!(ask(&node, &locked, token, &basic(USER, "wrong"))?.status, 401);
    let answer = ask(&node, &locked, token, &basic(USER, PASSWORD))?;
    let answer: serde_json::Value = serde_json::from_slice(&answer.body)?;
    let token = answer["token"].as_str().context("a token")?;
    assert_eq!(ask(&node, &locked, &blob, &format!("Bearer {token}"))?.body, layer.bytes);

    let corrupt = Gateway::start(node.place()?, backend, Manner::Corrupt)?;
    let changed = ask(&node, &corrupt, &blob, "")?.body;
    let differ = changed.iter().zip(&layer.bytes).filter(|(a, b)| a != b).count();
    assert_eq!((changed.len(), differ), (layer.bytes.len(), 1));
    let cut = Gateway::start(node.place()?, backend, Manner::Truncate)?;
    assert!(ask(&node, &cut, &blob, "").is_err());
    let flaky = Gateway::start(node.place()?, backend, Manner::Flaky)?;
    let statuses = (0..3).map(|_| ask(&node, &flaky, &blob, "").map(|answer| answer.status));
    assert_eq!(statuses.collect::<Result<Vec<_>>>()?, [503, 503, 200]);
    Ok(())
}
