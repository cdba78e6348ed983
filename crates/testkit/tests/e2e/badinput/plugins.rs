//! CNI plugins that do what no plugin should, at ADD and at DEL.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use berth_testkit::bed::{Bed, busybox};
use berth_testkit::config::Config;
use berth_testkit::specs::{Container, Pod};
use tokio::task::JoinSet;
use tonic::Code;

use super::{all, refuses, the_next_pod_is_fine};
use crate::standin::{Plugin, on_a_node_with_plugin};

/// What the plugin does instead of its work: a name for the pod that it is done to, a shell
/// script, the code of the refusal, and words of its message.
type Fault = (&'static str, &'static str, Code, &'static [&'static str]);

/// An address that a result may name.
const RESULT: &str = r#"{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}], "ips": [{"interface": 0, "address": "198.18.200.9/24"}]}"#;

const AT_ADD: [Fault; 15] = [
    ("fails", "exit 3", Code::Internal, &["stand-in", "ADD", "3", "no error"]),
    ("complains", "echo no cables >&2; exit 1", Code::Internal, &["stand-in", "no cables"]),
    (
        "error",
        r#"echo '{"code": 107, "msg": "no switch", "details": "port 4"}'; exit 1"#,
        Code::Internal,
        &["stand-in", "no switch", "107", "port 4"],
    ),
    (
        "invalid",
        r#"echo '{"code": 7, "msg": "no such mode"}'; exit 1"#,
        Code::InvalidArgument,
        &["no such mode"],
    ),
    (
        "later",
        r#"echo '{"code": 11, "msg": "try again later"}'; exit 1"#,
        Code::Aborted,
        &["try again later", "11"],
    ),
    ("garbage", r"printf 'GIF89a\001\377\000'", Code::Internal, &["stand-in", "GIF89a"]),
    ("array", "echo '[1, 2]'", Code::Internal, &["stand-in", "not a JSON object"]),
    ("half", r#"printf '{"cniVersion": "1.0.0", "ips": ['"#, Code::Internal, &["stand-in"]),
    (
        "gigabyte",
        r"exec head -c 1073741824 /dev/zero",
        Code::Internal,
        &["stand-in", "more than 1048576 bytes"],
    ),
    ("silent", "exit 0", Code::Internal, &["stand-in", "printed nothing"]),
    (
        "nothing",
        r#"echo '{"cniVersion": "1.0.0", "interfaces": [], "ips": []}'"#,
        Code::Internal,
        &["testnet", "no address"],
    ),
    (
        "nonsense",
        r#"echo '{"cniVersion": "1.0.0", "ips": [{"address": "300.1.2.3/99"}]}'"#,
        Code::Internal,
        &["testnet", "invalid IP address"],
    ),
    ("types", r#"echo '{"ips": "none", "interfaces": 5}'"#, Code::Internal, &["testnet"]),
    ("killed", "kill -9 $$", Code::Internal, &["stand-in", "SIGKILL"]),
    (
        "endless-error",
        r#"yes 'really sorry' | head -c 50000000 >&2; exit 1"#,
        Code::Internal,
        &["stand-in", "really sorry"],
    ),
];

#[test]
fn whatever_a_plugin_does_at_add_its_pod_is_refused_and_others_go_on() -> Result<()> {
    on_a_node_with_plugin(Config::default(), async |bed, plugin: &Plugin| {
        let (_, bystander) = bed.idle("bystander").await?;
        let mut calls = JoinSet::new();
        for (name, script, code, words) in AT_ADD {
            plugin.script("ADD", name, script)?;
            let (cri, pod) = (bed.cri.clone(), bed.pod(name));
            calls.spawn(async move { (name, code, words, cri.run(&pod).await) });
        }
        // One that leaves a process behind, which holds the pipe of its answer.
        plugin.script("ADD", "holder", &format!("setsid sleep 2 & echo '{RESULT}'"))?;
        let pod = bed.cri.run(&Pod::new("holder")).await?;
        bed.cri.clear(&pod.id).await?;
        // While all of these go wrong, the daemon answers, and what runs is served.
        assert_eq!(bed.cri.shell(&bystander, "echo served").await?, "served");
        let answers = calls.join_all().await.into_iter();
        all(answers.map(|(name, code, words, answer)| refuses(name, answer, (code, words))))?;
        assert_eq!(bed.cri.pods().await?.len(), 1);
        let status = bed.node.path(&format!("/proc/{}/status", inside(bed)?));
        let peak = std::fs::read_to_string(status)?;
        let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().context("VmHWM")?;
        ensure!(kilobytes < 400 << 10, "the daemon grew to {kilobytes} kB");
        plugin.unscripted()?;
        the_next_pod_is_fine(bed).await
    })
}

/// The daemon's pid inside the node.
fn inside(bed: &Bed) -> Result<u32> {
    let status: serde_json::Value = serde_json::from_str(&bed.berth(&["status", "--json"])?)?;
    let pid = status["pid"].as_u64().context("a pid")?;
    Ok(u32::try_from(pid)?)
}

/// The same at DEL, where the words are those of the leftover; none, if there is to be none.
const AT_DEL: [(&str, &str, &[&str]); 9] = [
    ("fails", "exit 3", &["stand-in", "DEL", "3"]),
    ("error", r#"echo '{"code": 107, "msg": "fire"}'; exit 1"#, &["fire", "107"]),
    ("later", r#"echo '{"code": 11, "msg": "patience"}'; exit 1"#, &["patience"]),
    ("hangs", "trap '' TERM; sleep 1000", &["stand-in", "had not finished DEL", "killed"]),
    ("garbage", "echo GIF89a; exit 1", &["GIF89a"]),
    ("gigabyte", "head -c 100000000 /dev/zero; exit 1", &["stand-in", "bytes more"]),
    ("killed", "kill -9 $$", &["stand-in", "SIGKILL"]),
    ("complains", "echo unplugged >&2; exit 1", &["unplugged"]),
    // Whatever it prints, a DEL that succeeds has succeeded.
    ("talks", "echo GIF89a", &[]),
];

#[test]
fn whatever_a_plugin_does_at_del_its_pod_is_let_go_and_del_is_repeated() -> Result<()> {
    let config = Config::default().drop_in("50-short.toml", "[deadlines]\ncni_del = \"15s\"\n");
    on_a_node_with_plugin(config, async |bed, plugin: &Plugin| {
        let mut pods = Vec::new();
        for (name, script, _) in AT_DEL {
            let pod = bed.cri.run(&bed.pod(name)).await?;
            bed.cri.create(&pod, &Container::idle("a", &busybox())).await?;
            plugin.script("DEL", name, script)?;
            pods.push(pod);
        }
        let mut calls = JoinSet::new();
        for pod in pods {
            let cri = bed.cri.clone();
            calls.spawn(async move { cri.clear(&pod.id).await });
        }
        for answer in calls.join_all().await {
            answer.context("a pod is let go whatever its plugins do")?;
        }
        assert!(bed.cri.pods().await?.is_empty());
        let status: serde_json::Value = serde_json::from_str(&bed.berth(&["status", "--json"])?)?;
        let left = status["leftovers"].as_array().context("leftovers")?;
        let told: Vec<_> = left.iter().filter_map(|one| one["error"].as_str()).collect();
        all(AT_DEL.map(|(name, _, words)| {
            let told = told.iter().any(|error| words.iter().all(|word| error.contains(word)));
            ensure!(words.is_empty() || told, "{name}: no {words:?} in {told:#?}");
            Ok(())
        }))?;
        assert_eq!(left.len(), AT_DEL.len() - 1, "{left:#?}");
        // Leftovers outlive the daemon, and go once the plugin works again.
        plugin.unscripted()?;
        bed.crash().await?;
        nothing_left_over(bed).await?;
        the_next_pod_is_fine(bed).await
    })
}

/// Waits until every leftover has been released.
pub(super) async fn nothing_left_over(bed: &Bed) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status: serde_json::Value = serde_json::from_str(&bed.berth(&["status", "--json"])?)?;
        let left = &status["leftovers"];
        if left.as_array().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("still left over: {left:#}");
        }
        // They are tried again after pauses; nothing announces their end.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn without_its_plugin_a_pod_waits_for_the_network_and_one_of_the_node_s_does_not() -> Result<()> {
    on_a_node_with_plugin(Config::default(), async |bed, plugin: &Plugin| {
        let pod = bed.cri.run(&bed.pod("early")).await?;
        let away = plugin.program().with_extension("away");
        std::fs::rename(plugin.program(), &away)?;
        let answer = bed.cri.run(&bed.pod("late")).await;
        refuses("ADD", answer, (Code::Unavailable, &["stand-in", "missing", "looked in"]))?;
        // What has been attached is let go all the same, and detached when that can be done.
        bed.cri.clear(&pod.id).await?;
        let host = bed.cri.run(&Pod::new("host").host_network()).await?;
        bed.cri.launch(&host, &Container::idle("a", &busybox())).await?;
        std::fs::rename(&away, plugin.program())?;
        nothing_left_over(bed).await?;
        the_next_pod_is_fine(bed).await
    })
}
