//! Execs: their streams, their codes, their terminals, and killing all that they started.

use std::os::unix::fs::OpenOptionsExt;

use berth_proto::task_types::Status;
use berth_proto::task_v3::{CloseIORequest, ResizePtyRequest};
use ttrpc::Code;

use crate::fixture::{Exec, Pod, RUNTIMES, code, reader, soon, until};

#[tokio::test]
async fn an_exec_writes_to_its_callers_fifos_and_ends_with_its_code() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        pod.container("c", "sleep 1000").run().await;
        let (out, err) = (pod.fifo("out"), pod.fifo("err"));
        let exec = Exec {
            id: "e",
            script: "echo to-out; echo to-err >&2; exit 5",
            stdout: Some(out.clone()),
            stderr: Some(err.clone()),
            ..Default::default()
        };
        pod.exec("c", exec).await.unwrap();
        assert_eq!(pod.state_of("c", "e").await.unwrap().status, Status::CREATED.into());
        let (out, err) = (reader(out), reader(err));
        pod.start_process("c", "e").await.unwrap();
        assert_eq!(pod.wait_exec("c", "e").await, 5);
        assert_eq!(out.await.unwrap(), b"to-out\n");
        assert_eq!(err.await.unwrap(), b"to-err\n");
        assert_eq!(pod.delete("c", "e").await.unwrap(), 5);
        assert_eq!(code(pod.state_of("c", "e").await), Code::NOT_FOUND);
        assert_eq!(pod.processes("c").len(), 1, "only the container's own process is left");
        let cgroup = pod.cgroup.child("pod").unwrap().child("c").unwrap();
        let freezer = cgroup.directory(berth_cgroup::Controller::Freezer).unwrap();
        let below = std::fs::read_dir(freezer).unwrap();
        let below = below.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
        assert_eq!(below, 0, "the cgroup of the exec is gone");
    }
}

#[tokio::test]
async fn an_execs_stdin_ends_when_its_writer_and_the_shim_let_go() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        pod.container("c", "sleep 1000").run().await;
        let (stdin, out) = (pod.fifo("in"), pod.fifo("out"));
        let exec = Exec {
            id: "e",
            script: "cat; echo end",
            stdin: Some(stdin.clone()),
            stdout: Some(out.clone()),
            ..Default::default()
        };
        pod.exec("c", exec).await.unwrap();
        let out = reader(out);
        pod.start_process("c", "e").await.unwrap();
        std::fs::File::options().write(true).open(&stdin).unwrap();
        std::fs::write(&stdin, "hello\n").unwrap();
        let request = CloseIORequest {
            id: "c".into(),
            exec_id: "e".into(),
            stdin: true,
            ..Default::default()
        };
        pod.task.close_io(soon(), &request).await.unwrap();
        assert_eq!(pod.wait_exec("c", "e").await, 0);
        assert_eq!(out.await.unwrap(), b"hello\nend\n");
    }
}

#[tokio::test]
async fn killing_an_exec_kills_grandchildren_that_have_left_it() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        pod.container("c", "sleep 1000").run().await;
        // The middle process ends, so the sleeper belongs to PID 1, in a session of its own.
        let script = "(setsid sleep 2000 &) ; echo up >/tmp/up; sleep 3000; true";
        pod.exec("c", Exec { id: "e", script, ..Default::default() }).await.unwrap();
        pod.start_process("c", "e").await.unwrap();
        until("the tree is up", || {
            (pod.dir.path().join("image/tmp/up").exists() && pod.processes("c").len() == 4)
                .then_some(())
        })
        .await;
        pod.kill("c", "e", 9).await.unwrap();
        assert_eq!(pod.wait_exec("c", "e").await, 137);
        until("only the container is left", || (pod.processes("c").len() == 1).then_some(())).await;
        assert_eq!(pod.state_of("c", "").await.unwrap().status, Status::RUNNING.into());
        pod.delete("c", "e").await.unwrap();
    }
}

#[tokio::test]
async fn killing_an_exec_that_has_ended_kills_what_it_left() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        pod.container("c", "sleep 1000").run().await;
        let script = "setsid sleep 2000 & exit 0";
        pod.exec("c", Exec { id: "e", script, ..Default::default() }).await.unwrap();
        pod.start_process("c", "e").await.unwrap();
        assert_eq!(pod.wait_exec("c", "e").await, 0);
        assert_eq!(pod.processes("c").len(), 2);
        pod.kill("c", "e", 9).await.unwrap();
        assert_eq!(pod.processes("c").len(), 1);
        assert_eq!(code(pod.kill("c", "e", 9).await), Code::NOT_FOUND);
    }
}

#[tokio::test]
async fn a_container_with_execs_left_in_it_still_ends_and_goes() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        pod.container("c", "sleep 1000").run().await;
        for id in ["e1", "e2"] {
            let script = "(setsid sleep 2000 &); sleep 3000";
            pod.exec("c", Exec { id, script, ..Default::default() }).await.unwrap();
            pod.start_process("c", id).await.unwrap();
        }
        pod.kill("c", "", 9).await.unwrap();
        assert_eq!(pod.wait("c").await, 137);
        assert!(pod.processes("c").is_empty(), "the end is certain when it is reported");
        assert_eq!(pod.wait_exec("c", "e1").await, 137);
        pod.delete("c", "").await.unwrap();
        let cgroup = pod.cgroup.child("pod").unwrap().child("c").unwrap();
        assert!(!cgroup.exists(), "the cgroup is gone with those of the execs");
    }
}

#[tokio::test]
async fn an_exec_whose_program_is_missing_fails_to_start() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        pod.container("c", "sleep 1000").run().await;
        let exec = Exec { id: "e", script: "exec /no/such/program", ..Default::default() };
        pod.exec("c", exec).await.unwrap();
        pod.start_process("c", "e").await.unwrap();
        assert_eq!(pod.wait_exec("c", "e").await, 127);
        let bad = pod.fifo("nobody-reads");
        let exec = Exec { id: "f", script: "true", stdout: Some(bad), ..Default::default() };
        pod.exec("c", exec).await.unwrap();
        assert_eq!(code(pod.start_process("c", "f").await), Code::DEADLINE_EXCEEDED);
        assert_eq!(pod.state_of("c", "f").await.unwrap().status, Status::STOPPED.into());
        pod.delete("c", "f").await.unwrap();
        assert_eq!(
            code(pod.exec("c", Exec { id: "e", ..Default::default() }).await),
            Code::ALREADY_EXISTS
        );
    }
}

#[tokio::test]
async fn a_terminal_is_one_stream_with_a_size_and_an_input() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        pod.container("c", "sleep 1000").run().await;
        let (stdin, out) = (pod.fifo("in"), pod.fifo("out"));
        let exec = Exec {
            id: "e",
            script: "stty -echo; read go; stty size; echo err >&2; exit 4",
            terminal: true,
            stdin: Some(stdin.clone()),
            stdout: Some(out.clone()),
            ..Default::default()
        };
        pod.exec("c", exec).await.unwrap();
        let out = reader(out);
        pod.start_process("c", "e").await.unwrap();
        let request = ResizePtyRequest {
            id: "c".into(),
            exec_id: "e".into(),
            width: 123,
            height: 45,
            ..Default::default()
        };
        pod.task.resize_pty(soon(), &request).await.unwrap();
        let mut keyboard = std::fs::File::options();
        keyboard.write(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
        std::io::Write::write_all(&mut keyboard.open(&stdin).unwrap(), b"go\n").unwrap();
        assert_eq!(pod.wait_exec("c", "e").await, 4);
        let said = String::from_utf8(out.await.unwrap()).unwrap();
        assert!(said.ends_with("45 123\r\nerr\r\n"), "{said:?}");
        let plain = ResizePtyRequest { id: "c".into(), ..Default::default() };
        assert_eq!(code(pod.task.resize_pty(soon(), &plain).await), Code::FAILED_PRECONDITION);
    }
}

#[tokio::test]
async fn a_containers_terminal_is_logged_as_stdout() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        pod.container("c", "echo out; echo err >&2; [ -t 0 ] && echo terminal")
            .with(serde_json::json!({"process": {"terminal": true}}))
            .request(|request| request.terminal = true)
            .run()
            .await;
        assert_eq!(pod.wait("c").await, 0);
        assert_eq!(pod.lines("c", "stdout"), ["out", "err", "terminal"]);
    }
}

#[tokio::test]
async fn a_containers_fifos_outlive_their_reader() {
    let pod = Pod::start("crun").await;
    let out = pod.fifo("out");
    pod.container("c", "while [ ! -e /tmp/go ]; do echo x; sleep 0.01; done; echo last")
        .request(|request| request.stdout = out.display().to_string())
        .run()
        .await;
    // A reader that goes away must not end the container.
    let first = berth_sys::pipe::open_fifo(&out, berth_sys::pipe::FifoEnd::Read).unwrap();
    until("it writes", || {
        let mut space = [0; 16];
        rustix::io::read(&first, &mut space).is_ok_and(|n| n > 0).then_some(())
    })
    .await;
    drop(first);
    let second = reader(out);
    std::fs::write(pod.dir.path().join("image/tmp/go"), "").unwrap();
    assert_eq!(pod.wait("c").await, 0);
    assert!(second.await.unwrap().ends_with(b"last\n"));
}
