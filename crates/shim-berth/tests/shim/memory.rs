//! What an idle shim costs: the price of a pod.
//!
//! The static build is what is installed; `BERTH_TEST_SHIM=<its path>` measures that one.

use crate::fixture::{Exec, Pod, until};

/// Kilobytes of memory that only this process has. Pages of its file are not counted: all shims
/// share them.
fn own(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Private_Dirty:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Waits for a shim to be idle and small: buffers are given back after a second of silence.
async fn small(what: &str, pid: u32, bound: u64) {
    let size = until(what, || Some(own(pid)).filter(|size| *size < bound)).await;
    eprintln!("{what}: {size} KiB");
}

#[tokio::test]
async fn an_idle_shim_is_small() {
    // Linked dynamically and with all its symbols' relocations, the same shim takes more.
    let bound = if std::env::var_os("BERTH_TEST_SHIM").is_some() { 300 } else { 700 };
    let pod = Pod::start("crun").await;
    let pid = pod.shim_pid().await;
    pod.container("c0", "sleep 1000").run().await;
    small("one container", pid, bound).await;
    for n in 1..10 {
        pod.container(&format!("c{n}"), "sleep 1000").run().await;
    }
    small("10 containers", pid, bound + 80).await;
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
    small("10 containers, after a flood of lines and 50 execs", pid, bound + 120).await;
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    assert_eq!(threads, 1, "a thread's stack is memory too");
}
