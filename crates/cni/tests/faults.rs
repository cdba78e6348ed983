//! Plugins that fail, hang, talk nonsense or are not there.

mod standin;

use std::time::{Duration, Instant};

use berth_cni::{Deadlines, Error, Kind};
use standin::{GOOD, Node, PASS, pod};

async fn add_fails(body: &str) -> Error {
    let node = Node::new();
    node.configure("1.0.0", &[("main", "")]);
    node.plugin("main", body);
    node.network.attach(&pod("s1")).await.unwrap_err()
}

#[tokio::test]
async fn the_plugins_own_words_are_kept() {
    let error = add_fails(r#"echo '{"code":7,"msg":"bad","details":"no bridge"}'; exit 1"#).await;
    assert_eq!(error.kind(), Kind::Invalid);
    let Error::Plugin { error, .. } = error else { panic!("{error}") };
    assert_eq!((error.code, error.msg.as_str(), error.details.as_str()), (7, "bad", "no bridge"));
}

#[tokio::test]
async fn nonsense_is_an_error_with_an_excerpt() {
    for (body, wanted) in [
        ("echo hello", "expected value at line 1 column 1: hello"),
        ("true", "it printed nothing"),
        ("echo '[1]'", "not a JSON object: [1]"),
        ("echo oops >&2; exit 3", "exited with code 3 and printed no error object but: oops"),
        ("exit 4", "exited with code 4 and printed no error"),
        ("kill -9 $$", "was killed by"),
        ("printf 'a\\033[31mb'", r"a\u{1b}[31mb"),
    ] {
        let error = add_fails(body).await;
        let text = error.to_string();
        assert!(text.contains(wanted), "{body}: {text}");
        assert!(text.len() < 600, "{}", text.len());
        assert_eq!(error.kind(), Kind::Broken);
    }
}

#[tokio::test]
async fn an_answer_without_an_address_is_an_error_that_says_so() {
    let error = add_fails(r#"echo '{"cniVersion":"1.0.0","interfaces":[{"name":"br0"}]}'"#).await;
    assert!(matches!(error, Error::NoAddress { .. }), "{error}");
    assert!(error.to_string().contains("no \"ips\""), "{error}");
}

#[tokio::test]
async fn a_gigabyte_is_not_kept() {
    let begin = resident();
    let error = add_fails("head -c 1000000000 /dev/zero").await;
    assert!(error.to_string().contains("printed more than 1048576 bytes"), "{error}");
    assert!(resident() < begin + (64 << 20), "{} -> {}", begin, resident());
}

#[tokio::test]
async fn a_plugin_that_hangs_is_killed_with_its_children() {
    let deadlines = Deadlines { add: Duration::from_millis(1500), ..Deadlines::default() };
    let node = Node::with(|settings| settings.deadlines = deadlines);
    node.configure("1.0.0", &[("main", "")]);
    let pids = node.path("pids");
    node.plugin("main", &format!("sleep 1000 & echo $$ $! > {}; wait", pids.display()));
    let begin = Instant::now();
    let error = node.network.attach(&pod("s1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut, "{error}");
    assert!(begin.elapsed() < Duration::from_secs(15));
    for pid in std::fs::read_to_string(pids).unwrap().split_whitespace() {
        gone(pid).await;
    }
}

#[tokio::test]
async fn an_attach_that_is_dropped_takes_its_plugin_along() {
    let node = Node::new();
    node.configure("1.0.0", &[("main", "")]);
    let pids = node.path("pids");
    node.plugin(
        "main",
        &format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", pids.display()),
    );
    let web = pod("s1");
    let attach = node.network.attach(&web);
    tokio::select! {
        done = attach => panic!("{done:?}"),
        () = exists(&pids) => {}
    }
    gone(std::fs::read_to_string(pids).unwrap().trim()).await;
    let cached = node.network.cached().await.unwrap();
    assert!(!cached[0].complete);
}

#[tokio::test]
async fn a_hanging_del_leaves_the_others_their_time() {
    let deadlines = Deadlines { del: Duration::from_secs(4), ..Deadlines::default() };
    let node = Node::with(|settings| settings.deadlines = deadlines);
    node.configure("1.0.0", &[("main", ""), ("stuck", "")]);
    node.plugin("main", GOOD);
    node.plugin("stuck", PASS);
    node.network.attach(&pod("s1")).await.unwrap();
    node.plugin("stuck", "exec sleep 1000");
    let error = node.network.detach(&pod("s1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut, "{error}");
    assert_eq!(node.log()[2..], ["DEL stuck", "DEL main"]);
    // Kept for the next try.
    assert_eq!(node.network.cached().await.unwrap().len(), 1);
    node.plugin("stuck", PASS);
    node.network.detach(&pod("s1")).await.unwrap();
    assert_eq!(node.network.cached().await.unwrap(), []);
}

#[tokio::test]
async fn an_unknown_container_is_detached_already() {
    let node = Node::new();
    node.configure("1.0.0", &[("main", "")]);
    node.plugin("main", GOOD);
    node.network.attach(&pod("s1")).await.unwrap();
    node.plugin("main", r#"echo '{"code":3,"msg":"unknown"}'; exit 1"#);
    node.network.detach(&pod("s1")).await.unwrap();
    assert_eq!(node.network.cached().await.unwrap(), []);
}

#[tokio::test]
async fn a_missing_plugin_says_where_it_was_looked_for() {
    let node = Node::new();
    node.configure("1.0.0", &[("absent", "")]);
    let error = node.network.attach(&pod("s1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let dirs = format!("{}, {}", node.path("nothing").display(), node.path("bin").display());
    assert_eq!(error.to_string(), format!("CNI plugin \"absent\" is missing: looked in {dirs}"));
}

#[tokio::test]
async fn without_a_network_nothing_is_run_or_kept() {
    let node = Node::new();
    let error = node.network.attach(&pod("s1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("net.d holds no .conflist"), "{error}");
    assert_eq!(node.network.cached().await.unwrap(), []);
}

#[tokio::test]
async fn ids_that_are_no_names_are_refused() {
    let node = Node::new();
    for id in ["", "../x", "a b"] {
        assert_eq!(node.network.attach(&pod(id)).await.unwrap_err().kind(), Kind::Invalid);
        assert_eq!(node.network.detach_cached(id).await.unwrap_err().kind(), Kind::Invalid);
    }
}

#[tokio::test]
async fn what_add_refuses_can_be_detached_all_the_same() {
    let node = Node::new();
    node.configure("1.0.0", &[("main", "")]);
    node.plugin("main", GOOD);
    let mut odd = pod("s1");
    odd.pod.name = "a;b=c".into();
    assert_eq!(node.network.attach(&odd).await.unwrap_err().kind(), Kind::Invalid);
    node.network.detach(&odd).await.unwrap();
    assert_eq!(node.log(), ["DEL main"]);
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Waits until a process is dead: gone, or a zombie that its parent has yet to reap.
async fn gone(pid: &str) {
    let stat = format!("/proc/{pid}/stat");
    let dead = async {
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), dead).await.expect(pid);
}

async fn exists(path: &std::path::Path) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
