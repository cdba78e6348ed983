//! What an idle shim costs: the price of a pod. Means something only for the static build:
//! `BERTH_TEST_SHIM=target/static/.../small/containerd-shim-berth-v1 cargo test -- --ignored`.

use crate::fixture::{Exec, Pod, until};

/// Kilobytes of a process, by the line's name in smaps_rollup.
fn kilobytes(pid: u32, names: &[&str]) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = |name: &str| {
        let found = text.lines().find(|line| line.starts_with(name))?;
        found.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    };
    names.iter().map(|name| line(name).unwrap()).sum()
}

fn private(pid: u32) -> u64 {
    kilobytes(pid, &["Private_Clean:", "Private_Dirty:"])
}

async fn report(what: &str, pid: u32) -> u64 {
    // Buffers are given back after a second of silence.
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    let (all, dirty) = (private(pid), kilobytes(pid, &["Private_Dirty:"]));
    let pss = kilobytes(pid, &["Pss:"]);
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    eprintln!("{what}: private {all} KiB, of it dirty {dirty}; PSS {pss}; {threads} threads");
    dirty
}

#[tokio::test]
#[ignore = "of the static build only"]
async fn an_idle_shim_is_small() {
    let pod = Pod::start("crun").await;
    let pid = pod.shim_pid().await;
    report("no container", pid).await;
    pod.container("c0", "sleep 1000").run().await;
    let one = report("1 container", pid).await;
    for n in 1..10 {
        pod.container(&format!("c{n}"), "sleep 1000").run().await;
    }
    report("10 containers", pid).await;
    pod.container("noise", "seq 1 200000").run().await;
    pod.wait("noise").await;
    pod.delete("noise", "").await.unwrap();
    for n in 0..50 {
        let id = format!("e{n}");
        pod.exec("c0", Exec { id: &id, script: "true", ..Default::default() }).await.unwrap();
        pod.start_process("c0", &id).await.unwrap();
        pod.wait_exec("c0", &id).await;
        pod.delete("c0", &id).await.unwrap();
    }
    let worn = report("10 containers, after a flood of lines and 50 execs", pid).await;
    until("the log is there", || (pod.lines("noise", "stdout").len() == 200_000).then_some(()))
        .await;
    assert!(one < 300, "{one} KiB with one container");
    assert!(worn < 500, "{worn} KiB after use");
}
