//! Limits, figures, freezing, and running out of memory.

use berth_proto::cgroups_v1::Metrics;
use berth_proto::task_types::Status;
use berth_proto::task_v3::*;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use serde_json::json;
use ttrpc::Code;

use crate::fixture::{Exec, Pod, RUNTIMES, code, soon};

const LIMIT: i64 = 32 << 20;

/// Fills memory with text until somebody stops it.
const HOG: &str = "x=0123456789abcdef; while :; do x=$x$x; done";

#[tokio::test]
async fn running_out_of_memory_is_told() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        let limit = json!({"linux": {"resources": {"memory": {"limit": LIMIT, "swap": LIMIT}}}});
        pod.container("c", HOG).with(limit).run().await;
        assert_eq!(pod.wait("c").await, 137);
        let facts = pod.exit_facts("c").await.unwrap();
        assert!(facts.oom_killed && facts.oom_count >= 1, "{facts:?}");
        pod.container("d", "exit 0").run().await;
        pod.wait("d").await;
        assert!(!pod.exit_facts("d").await.unwrap().oom_killed);
        assert_eq!(code(pod.exit_facts("x").await), Code::NOT_FOUND);
    }
}

async fn update(pod: &Pod, resources: serde_json::Value) -> ttrpc::Result<()> {
    let request = UpdateTaskRequest {
        id: "c".into(),
        resources: MessageField::some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
            value: resources.to_string().into_bytes(),
            ..Default::default()
        }),
        ..Default::default()
    };
    pod.task.update(soon(), &request).await.map(|_| ())
}

#[tokio::test]
async fn an_update_changes_the_limits() {
    use berth_cgroup::Controller::{Cpu, Cpuset, Memory, Pids};
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        let limit = json!({"linux": {"resources": {"memory": {"limit": LIMIT, "swap": LIMIT}}}});
        pod.container("c", "sleep 1000").with(limit).run().await;
        let cgroup = pod.cgroup.child("pod").unwrap().child("c").unwrap();
        let read = |controller, name: &str| {
            let directory = cgroup.directory(controller).unwrap();
            std::fs::read_to_string(directory.join(name)).unwrap().trim().to_owned()
        };
        // Up, where memory and swap together must go first, and down, where they must go last.
        for limit in [LIMIT * 2, LIMIT / 2] {
            let resources = json!({
                "memory": {"limit": limit, "swap": limit},
                "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"},
                "pids": {"limit": 77},
                "hugepageLimits": [{"pageSize": "3MB", "limit": 0}],
            });
            update(&pod, resources).await.unwrap();
            assert_eq!(read(Memory, "memory.limit_in_bytes"), limit.to_string());
            assert_eq!(read(Memory, "memory.memsw.limit_in_bytes"), limit.to_string());
        }
        assert_eq!(read(Cpu, "cpu.shares"), "512");
        assert_eq!(read(Cpu, "cpu.cfs_quota_us"), "50000");
        assert_eq!(read(Cpuset, "cpuset.cpus"), "0");
        assert_eq!(read(Pids, "pids.max"), "77");
        assert_eq!(code(update(&pod, json!(["not resources"])).await), Code::INVALID_ARGUMENT);
        // What only v2 has is refused on v1, and not dropped in silence.
        let unified = json!({"unified": {"memory.high": "1000000"}});
        assert!(update(&pod, unified).await.is_err());
    }
}

#[tokio::test]
async fn figures_and_processes_are_told() {
    let pod = Pod::start("runc").await;
    let pid = pod.container("c", "sleep 1000").run().await;
    pod.exec("c", Exec { id: "e", script: "sleep 1000", ..Default::default() }).await.unwrap();
    let exec = pod.start_process("c", "e").await.unwrap();
    let request = PidsRequest { id: "c".into(), ..Default::default() };
    let processes = pod.task.pids(soon(), &request).await.unwrap().processes;
    assert!(processes.iter().any(|process| process.pid == pid && process.info.is_none()));
    let named = processes.iter().find(|process| process.pid == exec).unwrap();
    let details =
        berth_proto::runc_options::ProcessDetails::parse_from_bytes(&named.info.value).unwrap();
    assert_eq!(details.exec_id, "e");
    let request = StatsRequest { id: "c".into(), ..Default::default() };
    let stats = pod.task.stats(soon(), &request).await.unwrap().stats.unwrap();
    assert_eq!(stats.type_url, "io.containerd.cgroups.v1.Metrics");
    let metrics = Metrics::parse_from_bytes(&stats.value).unwrap();
    assert!(metrics.cpu.usage.total > 0);
    assert!(metrics.memory.usage.usage > 0);
    assert!(metrics.pids.current >= 2, "{}", metrics.pids.current);
}

#[tokio::test]
async fn a_frozen_container_can_be_thawed_and_killed() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        pod.container("c", "sleep 1000").run().await;
        let pause = PauseRequest { id: "c".into(), ..Default::default() };
        let resume = ResumeRequest { id: "c".into(), ..Default::default() };
        let command = Exec { id: "e", script: "exit 0", ..Default::default() };
        pod.exec("c", command).await.unwrap();
        pod.task.pause(soon(), &pause).await.unwrap();
        assert_eq!(pod.state_of("c", "").await.unwrap().status, Status::PAUSED.into());
        let refused = code(pod.start_process("c", "e").await);
        assert_eq!(refused, Code::FAILED_PRECONDITION, "it could not get as far as its program");
        pod.task.resume(soon(), &resume).await.unwrap();
        assert_eq!(pod.state_of("c", "").await.unwrap().status, Status::RUNNING.into());
        pod.task.pause(soon(), &pause).await.unwrap();
        pod.kill("c", "", 9).await.unwrap();
        assert_eq!(pod.wait("c").await, 137);
        pod.delete("c", "").await.unwrap();
    }
}

#[tokio::test]
async fn whoever_is_left_in_the_cgroup_dies_with_init() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        // Without a PID namespace of its own nobody but the shim kills them.
        let namespaces = json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "ipc"}]}});
        let script = "for n in 1 2 3; do (setsid sleep 1000 &); done; exit 6";
        pod.container("c", script).with(namespaces).run().await;
        assert_eq!(pod.wait("c").await, 6);
        assert!(pod.processes("c").is_empty(), "the end is certain when it is reported");
        pod.delete("c", "").await.unwrap();
    }
}

#[tokio::test]
async fn an_exec_dies_for_want_of_memory_as_readily_as_its_container() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        let score =
            |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        std::fs::write(format!("/proc/{}/oom_score_adj", pod.shim_pid().await), "50").unwrap();
        let spec = json!({"process": {"oomScoreAdj": 100}});
        pod.container("c", "sleep 1000").with(spec).run().await;
        pod.exec("c", Exec { id: "e", script: "sleep 1000", ..Default::default() }).await.unwrap();
        let exec = pod.start_process("c", "e").await.unwrap();
        assert_eq!(score(exec).trim(), "100");
    }
}

#[tokio::test]
async fn an_exec_that_ran_out_of_memory_is_counted_for_its_container() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        let limit = json!({"linux": {"resources": {"memory": {"limit": LIMIT, "swap": LIMIT}}}});
        pod.container("c", "sleep 1000").with(limit).run().await;
        pod.exec("c", Exec { id: "e", script: HOG, ..Default::default() }).await.unwrap();
        pod.start_process("c", "e").await.unwrap();
        assert_eq!(pod.wait_exec("c", "e").await, 137);
        pod.delete("c", "e").await.unwrap();
        pod.kill("c", "", 9).await.unwrap();
        pod.wait("c").await;
        assert!(pod.exit_facts("c").await.unwrap().oom_count >= 1);
    }
}
