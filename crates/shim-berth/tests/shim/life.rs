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
async fn a_call_repeated_while_it_is_under_way_is_answered_when_that_is_settled() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        let container = pod.container("c", "sleep 1000");
        let (first, second) = tokio::join!(container.create(), container.create());
        let pid = first.unwrap();
        assert_eq!(code(second), Code::ALREADY_EXISTS);
        // It could be asked about from then on, and started.
        assert_eq!(pod.state_of("c", "").await.unwrap().status, Status::CREATED.into());
        let (first, second) = tokio::join!(pod.start_process("c", ""), pod.start_process("c", ""));
        assert_eq!(first.unwrap(), pid);
        assert_eq!(code(second), Code::FAILED_PRECONDITION);
        assert_eq!(pod.state_of("c", "").await.unwrap().status, Status::RUNNING.into());
        pod.kill("c", "", 9).await.unwrap();
        assert_eq!(pod.wait("c").await, 137);
        pod.delete("c", "").await.unwrap();
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

#[tokio::test]
async fn an_overlay_is_mounted_and_unmounted_by_the_shim() {
    let pod = Pod::start("crun").await;
    let dir = |name: &str| {
        let dir = pod.dir.path().join("disk").join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir.display().to_string()
    };
    // The upper layer must not be on an overlay itself, which a temporary directory may be.
    std::fs::create_dir_all(pod.dir.path().join("disk")).unwrap();
    let (lower, upper, work) = (pod.dir.path().join("image"), dir("upper"), dir("work"));
    pod.container("c", "echo new >/tmp/file; cat /tmp/file")
        .request(|request| {
            request.rootfs[0].type_ = "overlay".into();
            request.rootfs[0].source = "overlay".into();
            request.rootfs[0].options = vec![
                format!("lowerdir={}", lower.display()),
                format!("upperdir={upper}"),
                format!("workdir={work}"),
                "volatile".into(),
            ];
        })
        .run()
        .await;
    assert_eq!(pod.wait("c").await, 0);
    assert_eq!(pod.lines("c", "stdout"), ["new"]);
    pod.delete("c", "").await.unwrap();
    assert!(std::path::Path::new(&upper).join("tmp/file").exists());
    assert!(!lower.join("tmp/file").exists());
}

#[tokio::test]
async fn stdin_is_kept_open_until_it_is_closed() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        pod.container("c", "cat; echo end")
            .request(|request| request.stdin = "berth-stdin:open".into())
            .run()
            .await;
        assert_eq!(pod.state_of("c", "").await.unwrap().stdin, "berth-stdin:open");
        assert_eq!(pod.state_of("c", "").await.unwrap().status, Status::RUNNING.into());
        let request = berth_proto::task_v3::CloseIORequest {
            id: "c".into(),
            stdin: true,
            ..Default::default()
        };
        pod.task.close_io(crate::fixture::soon(), &request).await.unwrap();
        assert_eq!(pod.wait("c").await, 0);
        assert_eq!(pod.lines("c", "stdout"), ["end"]);
        // Nobody's stdin is at its end from the beginning.
        pod.container("d", "cat; echo end").run().await;
        assert_eq!(pod.wait("d").await, 0);
        assert_eq!(pod.lines("d", "stdout"), ["end"]);
    }
}

#[tokio::test]
async fn what_is_not_understood_is_refused_before_anything_is_made() {
    let pod = Pod::start("crun").await;
    let bad = |change: fn(&mut berth_proto::task_v3::CreateTaskRequest)| {
        pod.container("c", "true").request(change)
    };
    let binary = bad(|request| request.stdout = "binary:///bin/logger".into());
    assert_eq!(code(binary.create().await), Code::UNIMPLEMENTED);
    let options = bad(|request| {
        let options = request.options.as_mut().unwrap();
        options.type_url = "unknown.Options".into();
    });
    assert_eq!(code(options.create().await), Code::INVALID_ARGUMENT);
    let relative = bad(|request| request.bundle = "c".into());
    let answer = pod.task.create(crate::fixture::soon(), &relative.request).await;
    assert_eq!(code(answer), Code::INVALID_ARGUMENT);
    assert_eq!(code(pod.state_of("c", "").await), Code::NOT_FOUND);
    assert!(!pod.dir.path().join("oci").exists(), "no runtime has been run");
}
