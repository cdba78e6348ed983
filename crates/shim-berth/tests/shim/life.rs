//! The life of a container: create, start, its log, its end.

use berth_proto::task_types::Status;
use ttrpc::Code;

use crate::fixture::{Pod, RUNTIMES, code, until};

#[tokio::test]
async fn a_container_runs_logs_and_ends_with_its_code() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        let container = pod.container("c", "echo one; echo two >&2; printf three; exit 7");
        let pid = container.create().await.unwrap();
        let state = pod.state_of("c", "").await.unwrap();
        assert_eq!(state.status, Status::CREATED.into());
        assert_eq!(state.pid, pid);
        assert!(!pod.log("c").exists(), "the log is not there before the start");
        assert_eq!(code(container.create().await), Code::ALREADY_EXISTS);
        assert_eq!(pod.start_process("c", "").await.unwrap(), pid);
        assert_eq!(pod.wait("c").await, 7);
        assert_eq!(pod.lines("c", "stdout"), ["one", "three"]);
        assert_eq!(pod.lines("c", "stderr"), ["two"]);
        assert_eq!(pod.state_of("c", "").await.unwrap().status, Status::STOPPED.into());
        assert_eq!(pod.exit_facts("c").await.unwrap().exit_status, 7);
        assert_eq!(pod.delete("c", "").await.unwrap(), 7);
        assert_eq!(code(pod.state_of("c", "").await), Code::NOT_FOUND);
        let below = pod.bundle("c").join("rootfs");
        let mounts = berth_sys::mountinfo::Table::own().unwrap();
        assert!(mounts.below(&below).is_empty(), "the root file system is unmounted");
        assert!(!pod.dir.path().join("oci/c").exists(), "the runtime has forgotten it");
    }
}

#[tokio::test]
async fn a_program_that_is_missing_fails_and_leaves_nothing() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        let args = serde_json::json!({"process": {"args": ["/no/such/program"]}});
        let container = pod.container("c", "").with(args);
        let error = container.create().await.unwrap_err().to_string();
        assert!(error.contains("/no/such/program"), "the runtime's own words: {error}");
        assert_eq!(code(pod.state_of("c", "").await), Code::NOT_FOUND);
        let below = pod.bundle("c").join("rootfs");
        let mounts = berth_sys::mountinfo::Table::own().unwrap();
        assert!(mounts.below(&below).is_empty());
        assert!(pod.processes("c").is_empty());
    }
}

#[tokio::test]
async fn a_signal_right_after_start_reaches_the_program() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        for n in 0..5 {
            let id = format!("c{n}");
            // The shell has no handler yet: the signal must end it, and not meet the runtime.
            pod.container(&id, "sleep 1000").run().await;
            pod.kill(&id, "", 10).await.unwrap();
            // PID 1 of a PID namespace ignores what it has no handler for.
            pod.kill(&id, "", 9).await.unwrap();
            assert_eq!(pod.wait(&id).await, 137);
            assert_eq!(code(pod.kill(&id, "", 15).await), Code::NOT_FOUND);
            pod.delete(&id, "").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_handled_signal_ends_the_container_its_own_way() {
    let pod = Pod::start("runc").await;
    let script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done";
    pod.container("c", script).run().await;
    until("the trap is set", || (pod.lines("c", "stdout") == ["up"]).then_some(())).await;
    pod.kill("c", "", 15).await.unwrap();
    assert_eq!(pod.wait("c").await, 3);
    assert_eq!(pod.lines("c", "stdout"), ["up", "bye"]);
}
