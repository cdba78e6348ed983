//! The pod: grouping, the Sandbox API, the shared PID namespace, the shim's own end and death.

use std::os::unix::fs::PermissionsExt;

use berth_proto::sandbox::*;
use berth_proto::task_v3::{DeleteResponse, ShutdownRequest, StateRequest};
use berth_proto::{task_types::Status, task_v2_ttrpc};
use protobuf::Message;
use serde_json::json;
use ttrpc::Code;

use crate::fixture::{Exec, Pod, RUNTIMES, code, connect, shim_command, soon, until};

fn create(pod: &Pod) -> CreateSandboxRequest {
    CreateSandboxRequest {
        sandbox_id: pod.id.clone(),
        bundle_path: pod.bundle(&pod.id).display().to_string(),
        ..Default::default()
    }
}

async fn start_sandbox(pod: &Pod) -> StartSandboxResponse {
    pod.sandbox.create_sandbox(soon(), &create(pod)).await.unwrap();
    pod.sandbox.start_sandbox(soon(), &StartSandboxRequest::default()).await.unwrap()
}

async fn ready(pod: &Pod) -> bool {
    let request = SandboxStatusRequest::default();
    pod.sandbox.sandbox_status(soon(), &request).await.unwrap().state == "SANDBOX_READY"
}

/// True once nobody serves at the pod's address.
fn gone(pod: &Pod) -> Option<()> {
    let path = pod.address.strip_prefix("unix://").unwrap();
    let shim = pod.cgroup.child("shim").unwrap();
    (!std::path::Path::new(path).exists() && shim.processes().unwrap().is_empty()).then_some(())
}

#[tokio::test]
async fn one_shim_serves_all_containers_of_a_pod_in_both_generations() {
    let pod = Pod::start("crun").await;
    let container = pod.container("c", "sleep 1000");
    container.write_bundle();
    let shim = pod.shim_pid().await;
    assert_eq!(pod.start_again("c", &pod.bundle("c")).unwrap(), pod.address);
    assert_eq!(pod.start_again(&pod.id, &pod.bundle(&pod.id)).unwrap(), pod.address);
    assert_eq!(pod.shim_pid().await, shim);
    let stat = berth_sys::Pid::from_raw(shim.cast_signed()).map(berth_sys::process::stat);
    assert_eq!(stat.unwrap().unwrap().session, shim.cast_signed(), "nobody's terminal ends it");
    container.run().await;
    let old = task_v2_ttrpc::TaskClient::new(connect(&pod.address).await);
    let request = StateRequest { id: "c".into(), ..Default::default() };
    assert_eq!(old.state(soon(), &request).await.unwrap().status, Status::RUNNING.into());
}

#[tokio::test]
async fn a_container_of_a_pod_without_a_shim_is_refused() {
    let pod = Pod::start("crun").await;
    let container = pod
        .container("c", "true")
        .with(json!({"annotations": {"io.kubernetes.cri.sandbox-id": "another"}}));
    container.write_bundle();
    let error = pod.start_again("c", &pod.bundle("c")).unwrap_err();
    assert!(error.contains("another"), "{error}");
}

#[tokio::test]
async fn without_a_sandbox_the_shim_ends_when_no_task_is_left() {
    let pod = Pod::start("crun").await;
    pod.container("c", "true").run().await;
    pod.wait("c").await;
    pod.task.shutdown(soon(), &ShutdownRequest::default()).await.unwrap();
    assert!(pod.shim_pid().await > 0, "a task is left");
    pod.delete("c", "").await.unwrap();
    pod.task.shutdown(soon(), &ShutdownRequest::default()).await.unwrap();
    until("the shim has gone", || gone(&pod)).await;
}

#[tokio::test]
async fn a_sandbox_that_needs_no_process_has_none() {
    let pod = Pod::start("crun").await;
    assert_eq!(start_sandbox(&pod).await.pid, 0);
    assert!(ready(&pod).await);
    assert_eq!(code(pod.sandbox.create_sandbox(soon(), &create(&pod)).await), Code::ALREADY_EXISTS);
    let other = CreateSandboxRequest { netns_path: "/other".into(), ..create(&pod) };
    assert_eq!(code(pod.sandbox.create_sandbox(soon(), &other).await), Code::FAILED_PRECONDITION);
    pod.container("c", "sleep 1000").run().await;
    // Task's own shutdown is not the sandbox's.
    pod.task.shutdown(soon(), &ShutdownRequest::default()).await.unwrap();
    let platform = pod.sandbox.platform(soon(), &PlatformRequest::default()).await.unwrap();
    assert_eq!(platform.platform.os, "linux");
    let metrics = SandboxMetricsRequest::default();
    assert!(pod.sandbox.sandbox_metrics(soon(), &metrics).await.unwrap().metrics.data.is_some());
    pod.sandbox.stop_sandbox(soon(), &StopSandboxRequest::default()).await.unwrap();
    let wait = WaitSandboxRequest::default();
    assert_eq!(pod.sandbox.wait_sandbox(soon(), &wait).await.unwrap().exit_status, 0);
    assert!(!ready(&pod).await);
    assert_eq!(pod.wait("c").await, 137, "a stopped sandbox has no living container");
    assert_eq!(code(pod.container("d", "true").create().await), Code::FAILED_PRECONDITION);
    pod.delete("c", "").await.unwrap();
    pod.sandbox.shutdown_sandbox(soon(), &ShutdownSandboxRequest::default()).await.unwrap();
    until("the shim has gone", || gone(&pod)).await;
}

/// A stand-in for the helper where it is not built beside the shim.
fn helper(pod: &Pod) {
    let path = pod.state().join("bin/berth-helper");
    std::fs::write(&path, "#!/bin/sh\nexec sleep 100000\n").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn a_shared_pid_namespace_has_a_pause_whose_death_is_the_sandboxes() {
    for runtime in RUNTIMES {
        let shared = json!({"linux": {"namespaces": [{"type": "pid"}]}});
        let pod = Pod::start_with(runtime, shared).await;
        helper(&pod);
        let pause = start_sandbox(&pod).await.pid;
        assert!(pause > 0);
        let pin = pod.bundle(&pod.id).join("pidns");
        let own = format!("/proc/{pause}/ns/pid");
        assert!(berth_sys::namespace::same(&pin, &own).unwrap());
        let join = json!({"linux": {"namespaces": [
            {"type": "pid", "path": pin}, {"type": "mount"}, {"type": "ipc"},
        ]}});
        let pid = pod.container("c", "sleep 1000").with(join).run().await;
        assert!(berth_sys::namespace::same(&pin, format!("/proc/{pid}/ns/pid")).unwrap());
        let orphan = Exec { id: "e", script: "(setsid sleep 0.01 &)", ..Default::default() };
        pod.exec("c", orphan).await.unwrap();
        pod.start_process("c", "e").await.unwrap();
        assert!(ready(&pod).await);
        let pause = berth_sys::Pid::from_raw(pause.cast_signed()).unwrap();
        berth_sys::signal::send(pause, berth_sys::Signal::KILL).unwrap();
        let wait = WaitSandboxRequest::default();
        assert_eq!(pod.sandbox.wait_sandbox(soon(), &wait).await.unwrap().exit_status, 137);
        assert!(!ready(&pod).await);
        assert_eq!(pod.wait("c").await, 137, "PID 1's death is everybody's");
        pod.sandbox.shutdown_sandbox(soon(), &ShutdownSandboxRequest::default()).await.unwrap();
        until("the shim has gone", || gone(&pod)).await;
    }
}

#[tokio::test]
async fn a_pause_lives_in_the_pods_user_namespace_as_its_root() {
    use std::os::unix::fs::MetadataExt;
    for runtime in RUNTIMES {
        let user = pinned_user_namespace();
        let joined = json!({"type": "user", "path": user.path()});
        let sandbox = json!({"linux": {"namespaces": [{"type": "pid"}, joined]}});
        let pod = Pod::start_with(runtime, sandbox).await;
        helper(&pod);
        // The pod's root must reach its root file system.
        std::fs::set_permissions(pod.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let pause = start_sandbox(&pod).await.pid;
        assert!(berth_sys::namespace::same(user.path(), format!("/proc/{pause}/ns/user")).unwrap());
        assert_eq!(std::fs::metadata(format!("/proc/{pause}/stat")).unwrap().uid(), 100_000);
        let pin = pod.bundle(&pod.id).join("pidns");
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        let spec = json!({"linux": {
            "namespaces": [joined, {"type": "pid", "path": pin}, {"type": "mount"}, {"type": "ipc"}],
            "uidMappings": map, "gidMappings": map,
        }});
        pod.container("c", "id -u; [ $$ != 1 ] && kill -0 1 && echo seen").with(spec).run().await;
        assert_eq!(pod.wait("c").await, 0);
        assert_eq!(pod.lines("c", "stdout"), ["0", "seen"], "{:?}", pod.lines("c", "stderr"));
        pod.sandbox.stop_sandbox(soon(), &StopSandboxRequest::default()).await.unwrap();
        assert!(!pin.exists());
    }
}

/// A user namespace, held by a process of its own.
struct User(std::process::Child);

impl User {
    fn path(&self) -> String {
        format!("/proc/{}/ns/user", self.0.id())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pinned_user_namespace() -> User {
    let mut child = std::process::Command::new("unshare");
    child.args(["--user", "sleep", "1000"]);
    let user = User(child.spawn().unwrap());
    let own = std::fs::read_link("/proc/self/ns/user").unwrap();
    while std::fs::read_link(user.path()).unwrap() == own {
        std::thread::yield_now();
    }
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{}/{map}", user.0.id()), "0 100000 65536").unwrap();
    }
    user
}

#[tokio::test]
async fn after_the_shims_death_delete_leaves_nothing() {
    for runtime in RUNTIMES {
        let shared = json!({"linux": {"namespaces": [{"type": "pid"}]}});
        let pod = Pod::start_with(runtime, shared).await;
        helper(&pod);
        let pause = start_sandbox(&pod).await.pid;
        pod.container("c", "(setsid sleep 1000 &); sleep 1000").run().await;
        let shim = berth_sys::Pid::from_raw(pod.shim_pid().await.cast_signed()).unwrap();
        berth_sys::signal::send(shim, berth_sys::Signal::KILL).unwrap();
        until("the shim is dead", || {
            berth_sys::process::stat(shim).map_or(true, |stat| stat.state.is_over()).then_some(())
        })
        .await;
        assert!(!pod.processes("c").is_empty(), "the container outlives its shim");
        // What a shim of before has mounted is seen in the namespace of whoever cleans up.
        let bundle = pod.bundle("c");
        for _again in 0..2 {
            let arguments = ["-id", "c", "-bundle", bundle.to_str().unwrap(), "delete"];
            let answer = shim_command(&pod.state(), &pod.cgroup, &bundle, &arguments).unwrap();
            let response = DeleteResponse::parse_from_bytes(&answer).unwrap();
            assert_eq!(response.exit_status, 137);
            assert!(pod.processes("c").is_empty());
            let mounts = berth_sys::mountinfo::Table::own().unwrap();
            assert!(mounts.below(bundle.join("rootfs")).is_empty());
            assert!(!pod.dir.path().join("oci/c").exists());
        }
        let bundle = pod.bundle(&pod.id);
        let arguments = ["-id", &pod.id, "-bundle", bundle.to_str().unwrap(), "delete"];
        shim_command(&pod.state(), &pod.cgroup, &bundle, &arguments).unwrap();
        let pause = berth_sys::Pid::from_raw(pause.cast_signed()).unwrap();
        until("the pause is dead", || {
            berth_sys::process::stat(pause).map_or(true, |stat| stat.state.is_over()).then_some(())
        })
        .await;
        assert!(!bundle.join("pidns").exists());
        let path = pod.address.strip_prefix("unix://").unwrap();
        assert!(!std::path::Path::new(path).exists());
    }
}

#[tokio::test]
async fn a_shim_that_nobody_talks_to_goes_on() {
    let pod = Pod::start("crun").await;
    let script = "n=0; while [ $n -lt 400 ]; do n=$((n+1)); echo $n; sleep 0.001; done";
    pod.container("c", script).run().await;
    // A caller that waits and goes away in the middle of things.
    {
        let client = berth_proto::task_v3_ttrpc::TaskClient::new(connect(&pod.address).await);
        let request = berth_proto::task_v3::WaitRequest { id: "c".into(), ..Default::default() };
        let wait = client.wait(soon(), &request);
        let _ = tokio::time::timeout(std::time::Duration::from_millis(20), wait).await;
    }
    assert_eq!(pod.wait("c").await, 0);
    assert_eq!(pod.lines("c", "stdout").len(), 400);
}

#[tokio::test]
async fn a_task_with_the_pods_id_is_the_sandbox() {
    let pod = Pod::start("crun").await;
    let bundle = pod.bundle("task");
    let id = pod.id.clone();
    pod.container(&id, "sleep 1000")
        .request(|request| request.bundle = bundle.display().to_string())
        .run()
        .await;
    assert!(ready(&pod).await);
    pod.kill(&id, "", 9).await.unwrap();
    let wait = WaitSandboxRequest::default();
    assert_eq!(pod.sandbox.wait_sandbox(soon(), &wait).await.unwrap().exit_status, 137);
    pod.delete(&id, "").await.unwrap();
    pod.task.shutdown(soon(), &ShutdownRequest::default()).await.unwrap();
    until("the shim has gone", || gone(&pod)).await;
}

#[tokio::test]
async fn orphans_become_the_shims_children_and_are_reaped() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        // Without a PID namespace there is no other PID 1 that would reap them.
        let namespaces = json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "ipc"}]}});
        let script = "for n in 1 2 3 4 5; do (sleep 0.01 &); done; sleep 0.2; exit 6";
        pod.container("c", script).with(namespaces).run().await;
        assert_eq!(pod.wait("c").await, 6);
        pod.delete("c", "").await.unwrap();
        let shim = berth_sys::Pid::from_raw(pod.shim_pid().await.cast_signed()).unwrap();
        until("the shim has no children", || {
            berth_sys::process::children(shim).unwrap().is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn many_things_at_once_do_not_disturb_each_other() {
    for runtime in RUNTIMES {
        let pod = std::sync::Arc::new(Pod::start(runtime).await);
        let mut running = tokio::task::JoinSet::new();
        for n in 0..6_u32 {
            let pod = std::sync::Arc::clone(&pod);
            running.spawn(async move {
                let id = format!("c{n}");
                pod.container(&id, &format!("echo {n}; sleep 1000")).run().await;
                for e in 0..4_u32 {
                    let (exec, script) = (format!("e{e}"), format!("exit {}", n * 10 + e));
                    let request = Exec { id: &exec, script: &script, ..Default::default() };
                    pod.exec(&id, request).await.unwrap();
                    pod.start_process(&id, &exec).await.unwrap();
                    assert_eq!(pod.wait_exec(&id, &exec).await, n * 10 + e);
                    pod.delete(&id, &exec).await.unwrap();
                }
                pod.kill(&id, "", 9).await.unwrap();
                assert_eq!(pod.wait(&id).await, 137);
                assert_eq!(pod.lines(&id, "stdout"), [n.to_string()]);
                pod.delete(&id, "").await.unwrap();
            });
        }
        while let Some(done) = running.join_next().await {
            done.unwrap();
        }
    }
}

#[tokio::test]
async fn a_second_create_joins_nothing_and_breaks_nothing() {
    let pod = Pod::start("runc").await;
    let container = pod.container("c", "sleep 1000");
    let (one, two) = tokio::join!(container.create(), container.create());
    let refused = if one.is_ok() { two } else { one };
    assert_eq!(code(refused), Code::ALREADY_EXISTS);
    let other = pod.container("c", "sleep 1000").request(|request| request.stdout.clear());
    assert_eq!(code(other.create().await), Code::FAILED_PRECONDITION);
    pod.start_process("c", "").await.unwrap();
    assert_eq!(code(pod.start_process("c", "").await), Code::FAILED_PRECONDITION);
    assert_eq!(code(pod.delete("c", "").await), Code::FAILED_PRECONDITION);
    assert_eq!(pod.state_of("c", "").await.unwrap().status, Status::RUNNING.into());
}

#[tokio::test]
async fn a_container_that_was_never_started_is_killed_and_deleted() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        pod.container("c", "true").create().await.unwrap();
        assert_eq!(code(pod.kill("c", "", 15).await), Code::FAILED_PRECONDITION);
        pod.kill("c", "", 9).await.unwrap();
        assert_eq!(pod.wait("c").await, 137);
        assert!(!pod.log("c").exists());
        pod.delete("c", "").await.unwrap();
    }
}

/// What `start` for a pod that has its shim answers to this stdin.
fn answer(pod: &Pod, stdin: &[u8], newest: Option<&str>) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), stdin).unwrap();
    let mut start = std::process::Command::new(crate::fixture::shim());
    start.args(["-namespace", "test", "-id", &pod.id, "start"]);
    start.current_dir(pod.bundle(&pod.id)).env("BERTH_SHIM_STATE", pod.state());
    if let Some(newest) = newest {
        start.env("MAX_SHIM_VERSION", newest);
    }
    let output = start.stdin(file.reopen().unwrap()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

#[tokio::test]
async fn start_answers_in_the_form_that_its_caller_knows() {
    use berth_proto::bootstrap::{BootstrapParams, BootstrapResult};
    let pod = Pod::start("crun").await;
    let parameters =
        BootstrapParams { instance_id: pod.id.clone(), ..Default::default() }.write_to_bytes();
    let protobuf = answer(&pod, &parameters.unwrap(), None);
    let result = BootstrapResult::parse_from_bytes(&protobuf).unwrap();
    assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
    assert_eq!(result.address, pod.address);
    let options = pod.options().write_to_bytes().unwrap();
    for (most, version) in [("4", 3), ("3", 3), ("2", 2)] {
        let json = answer(&pod, &options, Some(most));
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json, json!({"version": version, "address": pod.address, "protocol": "ttrpc"}));
    }
    let noted = pod.bundle(&pod.id).join("address");
    assert!(!noted.exists());
    for stdin in [&options[..], b""] {
        assert_eq!(answer(&pod, stdin, None), pod.address.as_bytes());
    }
    assert_eq!(std::fs::read_to_string(noted).unwrap(), pod.address);
}

#[tokio::test]
async fn a_container_that_is_made_while_the_sandbox_stops_does_not_outlive_it() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        start_sandbox(&pod).await;
        let container = pod.container("c", "sleep 1000");
        container.write_bundle();
        let request = StopSandboxRequest::default();
        let (created, stopped) =
            tokio::join!(container.create(), pod.sandbox.stop_sandbox(soon(), &request));
        stopped.unwrap();
        assert!(pod.processes("c").is_empty());
        if created.is_ok() {
            assert_eq!(pod.wait("c").await, 137);
            assert_eq!(code(pod.start_process("c", "").await), Code::FAILED_PRECONDITION);
            pod.delete("c", "").await.unwrap();
        }
    }
}
