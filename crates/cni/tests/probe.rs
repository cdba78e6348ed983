//! STATUS, VERSION and GC, with stand-ins that speak 1.1.0.

mod standin;

use berth_cni::{Kind, Readiness};
use serde_json::json;
use standin::{GOOD, Node, pod};

fn message(readiness: Readiness) -> String {
    match readiness {
        Readiness::NotReady { message } => message,
        Readiness::Ready { network } => panic!("{network} is ready"),
    }
}

fn owned() -> Node {
    Node::with(|settings| settings.owned = ["pods".to_owned()].into())
}

#[tokio::test]
async fn ready_means_that_every_plugin_says_so() {
    let node = Node::new();
    node.configure("1.1.0", &[("main", ""), ("second", "")]);
    node.plugin("main", GOOD);
    node.plugin("second", GOOD);
    let ready = Readiness::Ready { network: "pods".into() };
    assert_eq!(node.network.status().await, ready);
    assert_eq!(node.log(), ["STATUS main", "STATUS second"]);
    let status = node.calls().into_iter().find(|call| call.verb == "STATUS").unwrap();
    assert_eq!((status.env("CNI_CONTAINERID"), status.env("CNI_NETNS")), ("", ""));
    assert_eq!(status.stdin, json!({"cniVersion": "1.1.0", "name": "pods", "type": "main"}));

    node.plugin("second", r#"echo '{"code":50,"msg":"no route to the controller"}'; exit 1"#);
    let text = message(node.network.status().await);
    assert!(text.contains("\"second\" failed STATUS: no route to the controller"), "{text}");
}

#[tokio::test]
async fn plugins_before_1_1_are_not_asked() {
    let node = Node::new();
    node.configure("1.0.0", &[("main", "")]);
    node.plugin("main", GOOD);
    for _ in 0..3 {
        assert!(matches!(node.network.status().await, Readiness::Ready { .. }));
    }
    // VERSION once, and STATUS never.
    assert_eq!(node.calls().len(), 1);
    let version = &node.calls()[0];
    assert_eq!((version.verb.as_str(), version.env("CNI_IFNAME")), ("VERSION", "dummy"));
}

#[tokio::test]
async fn not_ready_says_why() {
    let node = Node::new();
    let text = message(node.network.status().await);
    assert!(text.contains("net.d holds no .conflist"), "{text}");

    node.configure("1.0.0", &[("main", "")]);
    let text = message(node.network.status().await);
    assert!(text.contains("\"main\" is missing: looked in"), "{text}");

    node.plugin("main", r#"echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}'"#);
    let text = message(node.network.status().await);
    assert!(text.contains("plugin \"main\" speaks 0.3.1, 0.4.0, not 1.0.0"), "{text}");

    // Fixed: the next look finds it.
    node.plugin("main", GOOD);
    assert!(matches!(node.network.status().await, Readiness::Ready { .. }));
}

#[tokio::test]
async fn a_plugin_without_version_may_serve_all_the_same() {
    let node = Node::new();
    node.configure("1.0.0", &[("main", "")]);
    node.plugin("main", "echo garbage");
    assert!(matches!(node.network.status().await, Readiness::Ready { .. }));
}

#[tokio::test]
async fn gc_names_what_is_kept_and_what_the_cache_holds() {
    let node = owned();
    node.configure("1.1.0", &[("main", ""), ("second", "")]);
    node.plugin("main", GOOD);
    node.plugin("second", GOOD);
    node.network.attach(&pod("in-creation")).await.unwrap();
    node.forget_calls();
    assert!(node.network.collect(&["running".into()]).await.unwrap());
    assert_eq!(node.log(), ["GC main", "GC second"]);
    let valid = json!([
        {"containerID": "in-creation", "ifname": "eth0"},
        {"containerID": "running", "ifname": "eth0"}]);
    for call in node.calls() {
        assert_eq!(call.stdin["cni.dev/valid-attachments"], valid);
        assert_eq!(call.stdin["cni.dev/attachments"], valid);
    }
}

#[tokio::test]
async fn gc_is_only_for_networks_that_berth_owns() {
    let shared = Node::new();
    shared.configure("1.1.0", &[("main", "")]);
    let disabled = owned();
    disabled.configure_with("1.1.0", r#","disableGC":true"#, &[("main", "")]);
    let old = owned();
    old.configure("1.0.0", &[("main", "")]);
    for node in [shared, disabled, old] {
        node.plugin("main", GOOD);
        assert!(!node.network.collect(&[]).await.unwrap());
        assert_eq!(node.log(), [] as [&str; 0]);
    }
}

#[tokio::test]
async fn gc_that_fails_calls_the_others_and_says_so() {
    let node = owned();
    node.configure("1.1.0", &[("main", ""), ("second", "")]);
    node.plugin("main", r#"echo '{"code":11,"msg":"later"}'; exit 1"#);
    node.plugin("second", GOOD);
    assert_eq!(node.network.collect(&[]).await.unwrap_err().kind(), Kind::Busy);
    assert_eq!(node.log(), ["GC main", "GC second"]);
}

#[tokio::test]
async fn gc_has_the_network_alone() {
    let node = owned();
    node.configure("1.1.0", &[("main", "")]);
    let (began, go_on) = (node.path("began"), node.path("go-on"));
    let wait = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.05; done",
        began.display(),
        go_on.display()
    );
    node.plugin("main", &format!("if [ $CNI_COMMAND = GC ]; then {wait}; fi\n{GOOD}"));
    let collect = node.network.collect(&[]);
    let attach = async {
        while !began.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let web = pod("s1");
        let attach = node.network.attach(&web);
        tokio::pin!(attach);
        // ADD does not begin while GC runs, however often it is polled.
        let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut attach).await;
        assert!(early.is_err());
        assert_eq!(node.log(), ["GC main"]);
        std::fs::write(&go_on, "").unwrap();
        attach.await.unwrap();
    };
    let (collected, ()) = tokio::join!(collect, attach);
    assert!(collected.unwrap());
    assert_eq!(node.log(), ["GC main", "ADD main"]);
}
