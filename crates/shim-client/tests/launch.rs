//! `start` and `delete` with stand-in executables.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use berth_proto::bootstrap::BootstrapParams;
use berth_shim_client::{Any, Form, Generation, Kind, Launch, info};

struct Fixture {
    dir: tempfile::TempDir,
    launch: Launch,
}

fn fixture(script: &str) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("containerd-shim-standin-v1");
    fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let bundle = dir.path().join("bundle");
    fs::create_dir(&bundle).unwrap();
    let launch = Launch {
        binary,
        bundle,
        id: "s1".into(),
        namespace: "k8s.io".into(),
        events_address: "/run/berth/events.sock".into(),
        daemon_address: String::new(),
        publish_binary: "/usr/bin/berth".into(),
        debug: false,
        env: vec![("PATH".into(), std::env::var_os("PATH").unwrap())],
        cgroups: Vec::new(),
        oom_score_adj: None,
        options: Some(Any { type_url: "t".into(), value: b"options".to_vec() }),
        form: Form::Options,
        deadline: Duration::from_secs(20),
    };
    Fixture { dir, launch }
}

const ANSWER: &str = r#"{"version":3,"address":"unix:///run/s.sock","protocol":"ttrpc"}"#;

#[tokio::test]
async fn start_is_called_as_the_contract_says_and_its_answer_stays() {
    let script =
        format!("echo \"$@\" > args; env | sort > env; cat > stdin; pwd > cwd; echo '{ANSWER}'");
    let fixture = fixture(&script);
    let answer = fixture.launch.start().await.unwrap();
    assert_eq!(answer.generation, Generation::V3);
    let bundle = &fixture.launch.bundle;
    let read = |name: &str| fs::read_to_string(bundle.join(name)).unwrap();
    assert_eq!(
        read("args").trim(),
        "-namespace k8s.io -address /run/berth/events.sock -publish-binary /usr/bin/berth -id s1 start"
    );
    assert_eq!(read("stdin"), "\n\x01t\x12\x07options", "an encoded Any");
    assert_eq!(read("cwd").trim(), bundle.to_str().unwrap());
    let env = read("env");
    for line in [
        "TTRPC_ADDRESS=/run/berth/events.sock",
        "GRPC_ADDRESS=",
        "NAMESPACE=k8s.io",
        "MAX_SHIM_VERSION=2",
        "GOMAXPROCS=2",
    ] {
        assert!(env.lines().any(|l| l == line), "{line} in {env}");
    }
    assert_eq!(Launch::earlier_answer(bundle).unwrap(), Some(answer));
    Launch::forget_answer(bundle);
    assert_eq!(Launch::earlier_answer(bundle).unwrap(), None);
    let names = fs::read_dir(bundle).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names.filter(|n| n.to_string_lossy().starts_with("shim-start")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_newer_shim_reads_bootstrap_parameters() {
    let mut fixture = fixture(&format!("cat > stdin; echo '{ANSWER}'"));
    fixture.launch.form = Form::Parameters;
    fixture.launch.start().await.unwrap();
    let bytes = fs::read(fixture.launch.bundle.join("stdin")).unwrap();
    let parameters: BootstrapParams = protobuf::Message::parse_from_bytes(&bytes).unwrap();
    assert_eq!((parameters.instance_id.as_str(), parameters.namespace.as_str()), ("s1", "k8s.io"));
    assert_eq!(parameters.containerd_ttrpc_address, "/run/berth/events.sock");
    assert_eq!(parameters.containerd_binary, "/usr/bin/berth");
    assert_eq!(parameters.extensions[0].value.type_url, "t");
    assert_eq!(parameters.extensions[0].value.value, b"options");
}

#[tokio::test]
async fn a_shim_says_what_it_is_or_does_not_know_the_question() {
    let binary = |script: &str| {
        let fixture = fixture(script);
        (fixture.launch.binary.clone(), fixture)
    };
    let limit = Duration::from_secs(20);
    // RuntimeInfo { name: "io.x.v1", version { version: "2.3.4" } }
    let (path, _dir) =
        binary(r#"[ "$1" = -info ] && printf '\012\007io.x.v1\022\007\012\0052.3.4'"#);
    let told = info(&path, None, &[], limit).await.unwrap();
    assert_eq!((told.name.as_str(), told.version.as_str()), ("io.x.v1", "2.3.4"));
    let (path, _dir) = binary("echo flag provided but not defined: -info >&2; exit 2");
    let error = info(&path, None, &[], limit).await.unwrap_err();
    assert!(error.to_string().contains("not defined"), "{error}");
    let (path, _dir) = binary("exit 0");
    assert_eq!(info(&path, None, &[], limit).await.unwrap_err().kind(), Kind::Broken);
}

#[tokio::test]
async fn what_start_leaves_running_lives_and_holds_nothing_up() {
    let script = format!("(echo $$; exec sleep 1000) 2>&1 & echo $! > pid; echo '{ANSWER}'");
    // The child would answer first: its words go elsewhere.
    let fixture = fixture(&script.replace("(echo $$; ", "("));
    fixture.launch.start().await.unwrap();
    let pid = fs::read_to_string(fixture.launch.bundle.join("pid")).unwrap();
    let pid: i32 = pid.trim().parse().unwrap();
    let pid = berth_sys::Pid::from_raw(pid).unwrap();
    let shim = berth_sys::pidfd::open(pid).unwrap();
    assert!(berth_sys::pidfd::alive(&shim).unwrap());
    berth_sys::pidfd::send(&shim, berth_sys::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_failed_start_says_what_the_shim_said() {
    for (script, wanted) in [
        ("echo from-stderr >&2; exit 1", "exited with code 1: from-stderr"),
        ("echo from-stdout; exit 2", "exited with code 2: from-stdout"),
        ("exit 3", "exited with code 3: it said nothing"),
    ] {
        let fixture = fixture(script);
        let text = fixture.launch.start().await.unwrap_err().to_string();
        assert!(text.contains(wanted), "{text}");
        assert!(text.contains("containerd-shim-standin-v1 start"), "{text}");
    }
}

#[tokio::test]
async fn a_start_that_hangs_is_killed() {
    let mut fixture = fixture("exec sleep 1000");
    fixture.launch.deadline = Duration::from_millis(500);
    let error = fixture.launch.start().await.unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut, "{error}");
    // What is left is no answer.
    assert!(Launch::earlier_answer(&fixture.launch.bundle).is_err());
}

#[tokio::test]
async fn an_earlier_answer_is_not_taken_for_this_one() {
    let fixture = fixture("true");
    let file = Launch::answer_file(&fixture.launch.bundle);
    assert_eq!(Launch::earlier_answer(&fixture.launch.bundle).unwrap(), None);
    fs::write(&file, ANSWER).unwrap();
    let error = fixture.launch.start().await.unwrap_err();
    assert!(error.to_string().contains("empty"), "{error}");
}

#[tokio::test]
async fn delete_reports_the_exit() {
    let fixture = fixture("echo \"$@\" > args; printf '\\010\\052\\020\\211\\001'");
    let outcome = fixture.launch.delete().await.unwrap();
    assert_eq!((outcome.pid, outcome.exited.status), (42, 137));
    let args = fs::read_to_string(fixture.launch.bundle.join("args")).unwrap();
    assert!(args.trim().ends_with(&format!("-bundle {} delete", fixture.launch.bundle.display())));
    drop(fixture.dir);
}

#[tokio::test]
async fn delete_that_fails_or_rambles_is_an_error() {
    for script in ["exit 1", "echo hello"] {
        assert!(fixture(script).launch.delete().await.is_err(), "{script}");
    }
}
