//! The bench measures a Berth and the bare commands, shortly: so that it does not rot.

use std::fs;
use std::process::Command;

use serde_json::Value;

/// The rows that even a short run has of both, and those of Berth alone.
const BOTH: [&str; 5] =
    ["rpc/running", "rpc/ExecSync", "rpc/stop + remove", "rate/pods", "memory/pod kernel"];
const BERTH: [&str; 9] = [
    "rpc/StartContainer",
    "memory/daemon all",
    "lists/ListContainerStats",
    "lists/ListPodSandboxMetrics",
    "events/start",
    "events/exit",
    "idle/cpu",
    "restart/listed",
    "logs/seconds",
];

#[test]
fn a_short_run_measures_every_part_checks_the_work_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [json, document] = ["bench.json", "bench.md"].map(|name| dir.path().join(name));
    let daemon = berth_testkit::paths::daemon().unwrap();
    let only = "rpc,events,rates,memory,lists,idle,restart,logs";
    let short = ["-n", "2", "--pods", "2", "--turns", "1", "--held", "3", "--settle", "0"];
    let shorter = ["--restarts", "1", "--polling", "1", "--log-megabytes", "10"];
    let output = Command::new(env!("CARGO_BIN_EXE_berth-bench"))
        .args(["--subjects", "bare,berth", "--only", only])
        .args(short)
        .args(shorter)
        .arg("--daemon")
        .arg(&daemon)
        .arg("--json")
        .arg(&json)
        .arg("--document")
        .arg(&document)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("LEAK"), "{said}");
    let all: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let rows = all["report"]["rows"].as_array().unwrap();
    let figure = |key: &str, subject: &str| {
        let row = rows.iter().find(|row| row["key"] == key);
        let row = row.unwrap_or_else(|| panic!("no row {key}: {all:#}"));
        row["figures"][subject]["value"].as_f64().unwrap_or_else(|| panic!("{key}: {row:#}"))
    };
    for key in BOTH {
        assert!(figure(key, "bare").is_finite(), "{key}");
    }
    for key in BOTH.into_iter().chain(BERTH) {
        assert!(figure(key, "berth").is_finite(), "{key}");
    }
    assert!(figure("rpc/running", "berth") > figure("rpc/RunPodSandbox", "berth"));
    let text = fs::read_to_string(&document).unwrap();
    assert!(text.contains("berth : bare"), "{text}");
    assert!(dir.path().join("bench/rpc-running.svg").exists());
}
