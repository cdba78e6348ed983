//! Calls to a shim that is a stand-in on ttrpc's own server, in this process.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use berth_proto::{berth_shim, berth_shim_ttrpc, sandbox, sandbox_ttrpc, task_v2_ttrpc, task_v3};
use berth_proto::{task_types, task_v3_ttrpc};
use berth_shim_client::{
    Address, Answer, Any, Create, CreateSandbox, Deadlines, Exec, Generation, Kind, Mount, Shim,
    Status,
};
use protobuf::well_known_types::empty::Empty;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{EnumOrUnknown, MessageField};
use tokio::sync::Notify;
use ttrpc::r#async::{Server, TtrpcContext};
use ttrpc::{Code, get_status};

/// What the stand-in was asked, and when its containers end.
#[derive(Default)]
struct Standin {
    seen: Mutex<Vec<String>>,
    created: Mutex<Option<task_v3::CreateTaskRequest>>,
    ended: Notify,
    pid: u32,
}

impl Standin {
    fn note(&self, ctx: &TtrpcContext, call: &str) {
        let namespace = ctx.metadata.get("containerd-namespace-ttrpc").cloned().unwrap_or_default();
        self.seen.lock().unwrap().push(format!("{call} {}", namespace.join(",")));
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn refuse<T>(code: Code, message: &str) -> ttrpc::Result<T> {
    Err(ttrpc::Error::RpcStatus(get_status(code, message)))
}

fn stamp(seconds: i64) -> MessageField<Timestamp> {
    Some(Timestamp { seconds, ..Timestamp::default() }).into()
}

struct V3(Arc<Standin>);
struct V2(Arc<Standin>);
struct Sandbox(Arc<Standin>);
struct Own;

#[async_trait]
impl task_v3_ttrpc::Task for V3 {
    async fn create(
        &self,
        ctx: &TtrpcContext,
        req: task_v3::CreateTaskRequest,
    ) -> ttrpc::Result<task_v3::CreateTaskResponse> {
        self.0.note(ctx, "create");
        *self.0.created.lock().unwrap() = Some(req);
        Ok(task_v3::CreateTaskResponse { pid: 41, ..Default::default() })
    }

    async fn state(
        &self,
        _: &TtrpcContext,
        req: task_v3::StateRequest,
    ) -> ttrpc::Result<task_v3::StateResponse> {
        let known = task_types::Status::STOPPED.into();
        let status = if req.id == "new" { EnumOrUnknown::from_i32(99) } else { known };
        Ok(task_v3::StateResponse {
            bundle: "/b".into(),
            pid: 41,
            status,
            exit_status: 137,
            exited_at: stamp(5),
            ..Default::default()
        })
    }

    async fn kill(&self, _: &TtrpcContext, req: task_v3::KillRequest) -> ttrpc::Result<Empty> {
        match req.id.as_str() {
            "none" => refuse(Code::NOT_FOUND, "container none is not there"),
            "twice" => refuse(Code::ALREADY_EXISTS, "it is"),
            "early" => refuse(Code::FAILED_PRECONDITION, "not started"),
            "odd" => refuse(Code::INTERNAL, "oops"),
            "late" => refuse(Code::DEADLINE_EXCEEDED, "too slow"),
            "full" => refuse(Code::RESOURCE_EXHAUSTED, "no pids"),
            _ => Ok(Empty::default()),
        }
    }

    async fn exec(
        &self,
        _: &TtrpcContext,
        req: task_v3::ExecProcessRequest,
    ) -> ttrpc::Result<Empty> {
        assert_eq!(req.spec.type_url, Any::PROCESS);
        Ok(Empty::default())
    }

    async fn wait(
        &self,
        ctx: &TtrpcContext,
        req: task_v3::WaitRequest,
    ) -> ttrpc::Result<task_v3::WaitResponse> {
        assert_eq!(ctx.timeout_nano, 0);
        self.0.seen.lock().unwrap().push(format!("wait {}", req.id));
        self.0.ended.notified().await;
        Ok(task_v3::WaitResponse { exit_status: 7, exited_at: stamp(9), ..Default::default() })
    }

    async fn pids(
        &self,
        _: &TtrpcContext,
        _: task_v3::PidsRequest,
    ) -> ttrpc::Result<task_v3::PidsResponse> {
        std::future::pending().await
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        _: task_v3::ConnectRequest,
    ) -> ttrpc::Result<task_v3::ConnectResponse> {
        Ok(task_v3::ConnectResponse { shim_pid: self.0.pid, ..Default::default() })
    }
}

#[async_trait]
impl task_v2_ttrpc::Task for V2 {
    async fn start(
        &self,
        ctx: &TtrpcContext,
        req: task_v3::StartRequest,
    ) -> ttrpc::Result<task_v3::StartResponse> {
        self.0.note(ctx, &format!("start {} {}", req.id, req.exec_id));
        Ok(task_v3::StartResponse { pid: 42, ..Default::default() })
    }
}

#[async_trait]
impl sandbox_ttrpc::Sandbox for Sandbox {
    async fn create_sandbox(
        &self,
        ctx: &TtrpcContext,
        req: sandbox::CreateSandboxRequest,
    ) -> ttrpc::Result<sandbox::CreateSandboxResponse> {
        self.0.note(ctx, &format!("create_sandbox {} {}", req.sandbox_id, req.netns_path));
        Ok(Default::default())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        _: sandbox::StartSandboxRequest,
    ) -> ttrpc::Result<sandbox::StartSandboxResponse> {
        Ok(sandbox::StartSandboxResponse { pid: 9, created_at: stamp(3), ..Default::default() })
    }
}

#[async_trait]
impl berth_shim_ttrpc::Facts for Own {
    async fn exit(
        &self,
        _: &TtrpcContext,
        _: berth_shim::ExitRequest,
    ) -> ttrpc::Result<berth_shim::ExitResponse> {
        Ok(berth_shim::ExitResponse { oom_killed: true, oom_count: 2, ..Default::default() })
    }
}

struct Fixture {
    standin: Arc<Standin>,
    _server: Server,
    shim: Shim,
    _dir: tempfile::TempDir,
}

async fn fixture(generation: Generation) -> Fixture {
    with_pid(generation, std::process::id()).await
}

async fn with_pid(generation: Generation, pid: u32) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let standin = Arc::new(Standin { pid, ..Standin::default() });
    let server = Server::new().bind(&format!("unix://{}", path.display())).unwrap();
    let mut server = match generation {
        Generation::V3 => server
            .register_service(task_v3_ttrpc::create_task(Arc::new(V3(Arc::clone(&standin)))))
            .register_service(berth_shim_ttrpc::create_facts(Arc::new(Own))),
        Generation::V2 => server
            .register_service(task_v2_ttrpc::create_task(Arc::new(V2(Arc::clone(&standin)))))
            .register_service(sandbox_ttrpc::create_sandbox(Arc::new(Sandbox(Arc::clone(
                &standin,
            ))))),
    };
    server.start().await.unwrap();
    let deadlines = Deadlines { call: Duration::from_millis(500), ..Deadlines::default() };
    let answer = Answer { address: Address::Path(path), generation };
    let shim = Shim::connect(&answer, "k8s.io", deadlines).await.unwrap();
    Fixture { standin, _server: server, shim, _dir: dir }
}

#[tokio::test]
async fn each_generation_is_spoken_to_by_its_name() {
    let v3 = fixture(Generation::V3).await;
    let create = Create {
        id: "c1".into(),
        bundle: "/run/b/c1".into(),
        rootfs: vec![Mount { kind: "overlay".into(), ..Mount::default() }],
        stdout: "berth-log:///l".into(),
        options: Some(Any { type_url: "t".into(), value: vec![1] }),
        ..Create::default()
    };
    assert_eq!(v3.shim.create(create).await.unwrap(), 41);
    let created = v3.standin.created.lock().unwrap().take().unwrap();
    assert_eq!((created.id.as_str(), created.bundle.as_str()), ("c1", "/run/b/c1"));
    assert_eq!((created.rootfs[0].type_.as_str(), created.options.value[0]), ("overlay", 1));
    assert_eq!(created.stdout, "berth-log:///l");
    assert_eq!(v3.standin.seen(), ["create k8s.io"]);

    let v2 = fixture(Generation::V2).await;
    assert_eq!(v2.shim.start("c1", Some("e1")).await.unwrap(), 42);
    assert_eq!(v2.standin.seen(), ["start c1 e1 k8s.io"]);
}

#[tokio::test]
async fn sandboxes_and_berths_own_services() {
    let v2 = fixture(Generation::V2).await;
    let create = CreateSandbox {
        id: "s1".into(),
        netns: Some("/run/netns/x".into()),
        ..CreateSandbox::default()
    };
    v2.shim.create_sandbox(create).await.unwrap();
    assert_eq!(v2.standin.seen(), ["create_sandbox s1 /run/netns/x k8s.io"]);
    let started = v2.shim.start_sandbox("s1").await.unwrap();
    assert_eq!((started.pid, started.created.is_some()), (9, true));

    let v3 = fixture(Generation::V3).await;
    let facts = v3.shim.exit_facts("c1").await.unwrap();
    assert!(facts.oom_killed);
    assert_eq!(facts.oom_count, 2);
}

#[tokio::test]
async fn state_tells_how_it_ended_and_owns_up_to_what_it_does_not_know() {
    let v3 = fixture(Generation::V3).await;
    let state = v3.shim.state("c1", None).await.unwrap();
    assert_eq!((state.status, state.pid), (Status::Stopped, 41));
    assert_eq!(state.exited.unwrap().status, 137);
    let state = v3.shim.state("new", None).await.unwrap();
    assert_eq!((state.status, state.exited), (Status::Unknown, None));
}

#[tokio::test]
async fn errors_have_a_kind_and_the_shims_words() {
    let v3 = fixture(Generation::V3).await;
    for (id, kind) in [
        ("none", Kind::NotFound),
        ("twice", Kind::Exists),
        ("early", Kind::WrongState),
        ("odd", Kind::Broken),
        ("late", Kind::TimedOut),
        ("full", Kind::Exhausted),
    ] {
        assert_eq!(v3.shim.kill(id, None, 15, false).await.unwrap_err().kind(), kind, "{id}");
    }
    v3.shim.kill("there", None, 15, false).await.unwrap();
    let error = v3.shim.kill("none", None, 15, false).await.unwrap_err();
    assert_eq!(error.to_string(), "shim: Kill of none: container none is not there");
}

#[tokio::test]
async fn a_call_that_is_not_answered_ends_at_its_deadline() {
    let v3 = fixture(Generation::V3).await;
    let error = v3.shim.pids("c1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut, "{error}");
    // The connection serves on.
    v3.shim.kill("there", None, 15, false).await.unwrap();
}

#[tokio::test]
async fn many_waits_share_a_connection_and_may_be_dropped() {
    let v3 = fixture(Generation::V3).await;
    let (shim, standin) = (&v3.shim, &v3.standin);
    let mut waits = Vec::new();
    for n in 0..100 {
        let shim = shim.clone();
        waits.push(tokio::spawn(async move { shim.wait(&format!("c{n}"), None).await }));
    }
    let all_there = async {
        while standin.seen().len() < 100 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all_there).await.unwrap();
    for wait in waits.drain(..50) {
        wait.abort();
        assert!(wait.await.unwrap_err().is_cancelled());
    }
    let exec = Exec {
        id: "c1".into(),
        exec_id: "e".into(),
        process: Any { type_url: Any::PROCESS.into(), value: b"{}".to_vec() },
        ..Exec::default()
    };
    shim.exec(exec).await.unwrap();
    standin.ended.notify_waiters();
    for wait in waits {
        let exited = wait.await.unwrap().unwrap();
        assert_eq!((exited.status, exited.at.is_some()), (7, true));
    }
}

#[tokio::test]
async fn the_process_is_known_by_its_pidfd() {
    let v3 = fixture(Generation::V3).await;
    let process = v3.shim.process("c1").await.unwrap();
    assert_eq!(process.pid, std::process::id());
    assert!(berth_sys::pidfd::alive(&process).unwrap());
    for pid in [0, u32::MAX, 4_194_305] {
        let v3 = with_pid(Generation::V3, pid).await;
        assert_eq!(v3.shim.process("c1").await.unwrap_err().kind(), Kind::Broken, "{pid}");
    }
}

#[tokio::test]
async fn a_message_beyond_ttrpcs_limit_is_refused_here() {
    let v3 = fixture(Generation::V3).await;
    let resources = Any { type_url: Any::RESOURCES.into(), value: vec![0; 5 << 20] };
    let error = v3.shim.update("c1", resources).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    v3.shim.kill("there", None, 15, false).await.unwrap();
}
