//! Attaching and detaching pods with stand-in plugins.

mod standin;

use std::fs;

use berth_cni::{Kind, PortMapping, Protocol};
use serde_json::json;
use standin::{GOOD, Node, PASS, pod};

#[tokio::test]
async fn a_chain_gets_its_environment_its_capabilities_and_the_result_before_it() {
    let node = Node::new();
    node.configure(
        "1.0.0",
        &[("main", r#","mtu":1400"#), ("ports", r#","capabilities":{"portMappings":true}"#)],
    );
    node.plugin("main", GOOD);
    node.plugin("ports", PASS);
    let mut web = pod("s1");
    web.port_mappings = vec![PortMapping {
        host_port: 8080,
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
    }];
    web.aliases = vec!["nobody-declares-this".into()];

    let attached = node.network.attach(&web).await.unwrap();
    assert_eq!(attached.pod_ips(), ["198.18.0.5"]);
    assert_eq!(attached.network, "pods");

    let calls = node.calls();
    assert_eq!(node.log(), ["ADD main", "ADD ports"]);
    for call in &calls {
        let mut cni: Vec<&str> =
            call.env.iter().map(String::as_str).filter(|line| line.starts_with("CNI_")).collect();
        cni.sort_unstable();
        let path =
            format!("CNI_PATH={}:{}", node.path("nothing").display(), node.path("bin").display());
        assert_eq!(
            cni,
            [
                "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;\
                 K8S_POD_INFRA_CONTAINER_ID=s1;K8S_POD_UID=u1",
                "CNI_COMMAND=ADD",
                "CNI_CONTAINERID=s1",
                "CNI_IFNAME=eth0",
                "CNI_NETNS=/proc/self/ns/net",
                path.as_str(),
            ]
        );
    }
    assert_eq!(
        calls[0].stdin,
        json!({"cniVersion": "1.0.0", "name": "pods", "type": "main", "mtu": 1400})
    );
    assert_eq!(
        calls[1].stdin["runtimeConfig"],
        json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]})
    );
    assert_eq!(calls[1].stdin["prevResult"]["ips"][0]["address"], "198.18.0.5/24");
}

#[tokio::test]
async fn detaching_goes_backwards_with_what_attaching_was_told() {
    let node = Node::new();
    node.configure("1.0.0", &[("main", ""), ("ports", r#","capabilities":{"aliases":true}"#)]);
    node.plugin("main", GOOD);
    node.plugin("ports", PASS);
    let mut web = pod("s1");
    web.aliases = vec!["a".into()];
    node.network.attach(&web).await.unwrap();
    node.forget_calls();

    // The configuration changes, then goes; DEL still speaks to the plugins of ADD.
    node.configure("1.0.0", &[("other", "")]);
    assert_eq!(node.network.current().unwrap().plugins.len(), 1);
    fs::remove_file(node.path("net.d/10-pods.conflist")).unwrap();
    node.network.detach_cached("s1").await.unwrap();

    assert_eq!(node.log(), ["DEL ports", "DEL main"]);
    let calls = node.calls();
    for call in &calls {
        assert_eq!(call.stdin["prevResult"]["ips"][0]["address"], "198.18.0.5/24");
        assert_eq!(call.env("CNI_NETNS"), "/proc/self/ns/net");
        assert!(call.env("CNI_ARGS").ends_with("K8S_POD_UID=u1"));
    }
    assert_eq!(calls[0].stdin["runtimeConfig"], json!({"aliases": ["a"]}));
    assert_eq!(node.network.cached().await.unwrap(), []);
    // Once more: nothing is there, and that is well.
    node.network.detach_cached("s1").await.unwrap();
    assert_eq!(node.log().len(), 2);
}

#[tokio::test]
async fn detaching_works_when_the_netns_is_gone() {
    let node = Node::new();
    node.configure("0.4.0", &[("main", "")]);
    node.plugin("main", GOOD);
    let netns = tempfile::NamedTempFile::new().unwrap();
    let mut web = pod("s1");
    web.netns = netns.path().to_owned();
    node.network.attach(&web).await.unwrap();
    drop(netns);
    node.network.detach(&web).await.unwrap();
    assert_eq!(node.calls()[1].env("CNI_NETNS"), "");
}

#[tokio::test]
async fn versions_before_0_4_get_no_result_at_del() {
    let node = Node::new();
    node.configure("0.3.1", &[("main", "")]);
    node.plugin("main", GOOD);
    node.network.attach(&pod("s1")).await.unwrap();
    node.network.detach(&pod("s1")).await.unwrap();
    assert_eq!(node.calls()[1].stdin.get("prevResult"), None);
    node.network.attach(&pod("s1")).await.unwrap();
    let error = node.network.check("s1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unimplemented, "{error}");
}

#[tokio::test]
async fn a_repeated_attach_takes_over_what_is_complete() {
    let node = Node::new();
    node.configure("1.0.0", &[("main", "")]);
    node.plugin("main", GOOD);
    let first = node.network.attach(&pod("s1")).await.unwrap();
    let second = node.network.attach(&pod("s1")).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(node.log(), ["ADD main"]);
    assert_eq!(node.network.attached("s1").await.unwrap(), Some(first));
    assert_eq!(node.network.attached("s2").await.unwrap(), None);
}

#[tokio::test]
async fn a_repeated_attach_takes_down_what_is_incomplete() {
    let node = Node::new();
    node.configure("1.0.0", &[("main", ""), ("fussy", "")]);
    node.plugin("main", GOOD);
    node.plugin(
        "fussy",
        r#"[ $CNI_COMMAND = DEL ] || { echo '{"code":11,"msg":"later"}'; exit 1; }"#,
    );
    let error = node.network.attach(&pod("s1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    let cached = node.network.cached().await.unwrap();
    assert_eq!((cached.len(), cached[0].complete), (1, false));
    node.forget_calls();

    node.plugin("fussy", PASS);
    node.network.attach(&pod("s1")).await.unwrap();
    assert_eq!(node.log(), ["DEL fussy", "DEL main", "ADD main", "ADD fussy"]);
}

#[tokio::test]
async fn a_del_of_what_is_incomplete_that_fails_is_tried_once_more() {
    let node = Node::new();
    node.configure("1.0.0", &[("main", "")]);
    node.plugin("main", r#"echo '{"code":11,"msg":"later"}'; exit 1"#);
    node.network.attach(&pod("s1")).await.unwrap_err();
    node.forget_calls();

    // Like bridge after an ADD that died half-way: the first DEL fails and clears the way.
    let mark = node.path("mark");
    let body = format!(
        r#"if [ $CNI_COMMAND = DEL ] && [ ! -e {0} ]; then : > {0}; echo '{{"code":999,"msg":"no chain"}}'; exit 1; fi
{GOOD}"#,
        mark.display()
    );
    node.plugin("main", &body);
    node.network.attach(&pod("s1")).await.unwrap();
    assert_eq!(node.log(), ["DEL main", "DEL main", "ADD main"]);
}

#[tokio::test]
async fn another_netns_at_the_same_path_is_attached_anew() {
    let node = Node::new();
    node.configure("1.0.0", &[("main", "")]);
    node.plugin("main", GOOD);
    let path = node.path("netns");
    let mut web = pod("s1");
    web.netns = path.clone();
    fs::write(&path, "").unwrap();
    node.network.attach(&web).await.unwrap();
    fs::write(node.path("netns2"), "").unwrap();
    fs::rename(node.path("netns2"), &path).unwrap();
    node.network.attach(&web).await.unwrap();
    assert_eq!(node.log(), ["ADD main", "DEL main", "ADD main"]);
    // DEL must not touch what the path names now.
    assert_eq!(node.calls()[1].env("CNI_NETNS"), "");
}

#[tokio::test]
async fn del_without_a_trace_uses_the_configuration_of_today() {
    let node = Node::new();
    node.network.detach(&pod("s1")).await.unwrap();
    node.configure("1.0.0", &[("main", "")]);
    node.plugin("main", GOOD);
    node.network.detach(&pod("s1")).await.unwrap();
    let calls = node.calls();
    assert_eq!(node.log(), ["DEL main"]);
    assert_eq!(calls[0].env("CNI_CONTAINERID"), "s1");
    assert_eq!(calls[0].stdin.get("prevResult"), None);
}

#[tokio::test]
async fn a_spoilt_cache_entry_is_listed_and_can_be_detached() {
    let node = Node::new();
    node.configure("1.0.0", &[("main", "")]);
    node.plugin("main", GOOD);
    node.network.attach(&pod("s1")).await.unwrap();
    fs::write(node.path("cache/s1-eth0.json"), "").unwrap();
    let cached = node.network.cached().await.unwrap();
    assert_eq!((cached[0].container_id.as_str(), cached[0].complete), ("s1", false));
    node.network.detach_cached("s1").await.unwrap();
    assert_eq!(node.network.cached().await.unwrap(), []);
    assert_eq!(node.log(), ["ADD main", "DEL main"]);
}

#[tokio::test]
async fn check_gives_every_plugin_the_cached_result() {
    let node = Node::new();
    node.configure("1.0.0", &[("main", ""), ("second", "")]);
    node.plugin("main", GOOD);
    node.plugin("second", PASS);
    assert_eq!(node.network.check("s1").await.unwrap_err().kind(), Kind::NotFound);
    node.network.attach(&pod("s1")).await.unwrap();
    node.network.check("s1").await.unwrap();
    assert_eq!(node.log()[2..], ["CHECK main", "CHECK second"]);
    assert_eq!(node.calls()[2].stdin["prevResult"]["ips"][0]["address"], "198.18.0.5/24");

    node.plugin("main", r#"echo '{"code":103,"msg":"gone","details":"eth0"}'; exit 1"#);
    let error = node.network.check("s1").await.unwrap_err();
    assert_eq!(error.to_string(), "CNI plugin \"main\" failed CHECK: gone (code 103; eth0)");
}

#[tokio::test]
async fn a_changed_configuration_holds_for_the_next_pod() {
    let node = Node::new();
    node.configure("1.0.0", &[("main", "")]);
    node.plugin("main", GOOD);
    node.plugin("other", GOOD);
    node.network.attach(&pod("s1")).await.unwrap();
    node.configure("1.0.0", &[("other", "")]);
    node.network.attach(&pod("s2")).await.unwrap();
    assert_eq!(node.log(), ["ADD main", "ADD other"]);
}
