//! Commands with a client's streams.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_testkit::bed::{Bed, busybox, nobody_runs, somebody_runs};
use berth_testkit::cri::refused;
use berth_testkit::specs::Container;
use berth_testkit::streams::{Session, Transport, Wants};
use sha2::{Digest as _, Sha256};
use tonic::Code;

use super::{exec, no_fifos, texts, with_each_shim};

/// 100 MiB.
const LARGE: usize = 100 << 20;

with_each_shim! {
    streams_and_exit_codes
    the_end_of_the_input
    a_terminal_and_its_size
    large_transfers
    a_client_that_reads_late
    a_container_that_dies
    a_client_that_vanishes
    a_daemon_that_dies
    what_is_refused
}

async fn streams_and_exit_codes(bed: &mut Bed) -> Result<()> {
    let (_, id) = bed.idle("codes").await?;
    for how in Transport::ALL {
        let line = "echo out; echo err >&2; exit 7";
        let ended = exec(bed, &id, line, how, Wants::OUTPUT).await?.ended().await?;
        assert_eq!(texts(&ended), ("out\n".to_owned(), "err\n".to_owned(), Some(Ok(7))));
        let ended = exec(bed, &id, "true", how, Wants::OUTPUT).await?.ended().await?;
        assert_eq!(ended.status, Some(Ok(0)));
        let ended = exec(bed, &id, "kill -9 $$", how, Wants::OUTPUT).await?.ended().await?;
        assert_eq!(ended.status, Some(Ok(137)));
        let url = bed.cri.exec_url(&id, &["/no/such/program"], Wants::OUTPUT).await?;
        let ended = Session::open(&bed.node, &url, how, Wants::OUTPUT).await?.ended().await?;
        match ended.status.context("a status")? {
            Err(message) => assert!(message.contains("/no/such/program"), "{message}"),
            Ok(code) => assert_ne!(code, 0),
        }
        // A grandchild that keeps the pipe holds nobody up.
        let begin = Instant::now();
        let line = "sleep 30 & echo said";
        let ended = exec(bed, &id, line, how, Wants::OUTPUT).await?.ended().await?;
        assert_eq!(texts(&ended), ("said\n".to_owned(), String::new(), Some(Ok(0))));
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
    no_fifos(bed, &id).await
}

async fn the_end_of_the_input(bed: &mut Bed) -> Result<()> {
    let (_, id) = bed.idle("input").await?;
    for how in Transport::ALL {
        let mut session = exec(bed, &id, "cat; echo that was all", how, Wants::ALL).await?;
        session.send(b"one\n").await?;
        session.says("one\n").await?;
        session.send(b"two\n").await?;
        session.end().await?;
        let ended = session.ended().await?;
        assert_eq!(texts(&ended).0, "one\ntwo\nthat was all\n");
        assert_eq!(ended.status, Some(Ok(0)));
        // Nobody reads what is sent.
        let mut session = exec(bed, &id, "exec <&-; echo deaf; exit 4", how, Wants::ALL).await?;
        session.says("deaf").await?;
        // It may have ended.
        let _ = session.send(&vec![b'x'; 1 << 20]).await;
        assert_eq!(session.ended().await?.status, Some(Ok(4)));
    }
    no_fifos(bed, &id).await
}

async fn a_terminal_and_its_size(bed: &mut Bed) -> Result<()> {
    let (_, id) = bed.idle("tty").await?;
    let until =
        |size: &str| format!("until [ \"$(stty size)\" = '{size}' ]; do usleep 10000; done");
    for how in Transport::ALL {
        let line = format!(
            "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] || exit 99; {}; echo first; {}; echo second; \
             read line; echo got $line; exit 3",
            until("43 132"),
            until("24 80")
        );
        let mut session = exec(bed, &id, &line, how, Wants::TTY).await?;
        session.resize(132, 43).await?;
        session.says("first\r\n").await?;
        session.resize(80, 24).await?;
        session.says("second\r\n").await?;
        session.send(b"it\n").await?;
        session.says("got it\r\n").await?;
        assert_eq!(session.ended().await?.status, Some(Ok(3)));
    }
    no_fifos(bed, &id).await
}

async fn large_transfers(bed: &mut Bed) -> Result<()> {
    let (_, id) = bed.idle("large").await?;
    let daemon = bed.node.daemon().context("a daemon")?;
    let most = || -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{daemon}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        Ok(line.context("VmHWM")?.trim().trim_end_matches(" kB").parse()?)
    };
    // The first one of each kind makes what all share.
    for how in Transport::ALL {
        exec(bed, &id, "true", how, Wants::ALL).await?.ended().await?;
    }
    let before = most()?;
    for how in Transport::ALL {
        let line = format!("yes 0123456789abcde | head -c {LARGE}");
        let ended = exec(bed, &id, &line, how, Wants::OUTPUT).await?.ended().await?;
        assert_eq!(ended.status, Some(Ok(0)));
        assert_eq!(ended.stdout.len(), LARGE);
        assert!(ended.stdout.chunks(16).all(|line| line == b"0123456789abcde\n"), "{how:?}");

        let mut session = exec(bed, &id, "sha256sum", how, Wants::ALL).await?;
        let piece = b"0123456789abcde\n".repeat(2048);
        let mut sent = Sha256::new();
        for _ in 0..LARGE / piece.len() {
            session.send(&piece).await?;
            sent.update(&piece);
        }
        session.end().await?;
        let ended = session.ended().await?;
        let sum: String = sent.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(texts(&ended), (format!("{sum}  -\n"), String::new(), Some(Ok(0))), "{how:?}");
    }
    let grown = most()?.saturating_sub(before);
    assert!(grown < 16 << 10, "the daemon has grown by {grown} KiB");
    Ok(())
}

async fn a_client_that_reads_late(bed: &mut Bed) -> Result<()> {
    let (_, id) = bed.idle("late").await?;
    for how in Transport::ALL {
        let line = "head -c 30000000 /dev/zero; echo written > /tmp/written; exit 6";
        let mut session = exec(bed, &id, line, how, Wants::OUTPUT).await?;
        // Some of it has come: from here on, the client does not read.
        session.says("\0").await?;
        session.read(false);
        let waits = "[ ! -e /tmp/written ] && echo it waits";
        assert_eq!(bed.cri.shell(&id, waits).await?, "it waits");
        session.read(true);
        let ended = session.ended().await?;
        assert_eq!((ended.stdout.len(), ended.status), (30_000_000, Some(Ok(6))));
        bed.cri.shell(&id, "rm /tmp/written").await?;
    }
    Ok(())
}

#[test]
fn fifty_at_once_by_our_shim() -> Result<()> {
    crate::anyshim::Subject::berth()?.on_a_node(async |bed| fifty_at_once(bed).await)
}

/// Debian's shim is stuck for a minute when it is told to start so many together.
#[test]
fn fifty_at_once_by_runc_v2() -> Result<()> {
    crate::anyshim::Subject::runc_v2()?.on_a_node(async |bed| fifty_at_once(bed).await)
}

async fn fifty_at_once(bed: &mut Bed) -> Result<()> {
    let (_, id) = bed.idle("fifty").await?;
    let mut sessions = Vec::new();
    for number in 0..50 {
        let how = Transport::ALL[number % 2];
        let line = format!("read line; echo {number} $line; exit {number}");
        sessions.push(exec(bed, &id, &line, how, Wants::ALL).await?);
    }
    for session in &mut sessions {
        session.send(b"heard\n").await?;
    }
    for (number, session) in sessions.into_iter().enumerate() {
        let ended = session.ended().await?;
        assert_eq!(texts(&ended).0, format!("{number} heard\n"));
        assert_eq!(ended.status, Some(Ok(i32::try_from(number)?)));
    }
    no_fifos(bed, &id).await
}

async fn a_container_that_dies(bed: &mut Bed) -> Result<()> {
    for (number, how) in Transport::ALL.into_iter().enumerate() {
        let (_, id) = bed.idle(&format!("dies{number}")).await?;
        let mut session = exec(bed, &id, "echo begun; sleep 4900", how, Wants::ALL).await?;
        session.says("begun").await?;
        bed.cri.stop(&id, 0).await?;
        match session.ended().await?.status.context("a status")? {
            Ok(code) => assert_eq!(code, 137),
            Err(message) => assert!(message.contains("not running"), "{message}"),
        }
        nobody_runs(bed, "sleep 4900").await?;
    }
    Ok(())
}

async fn a_client_that_vanishes(bed: &mut Bed) -> Result<()> {
    let (_, id) = bed.idle("vanishes").await?;
    for how in Transport::ALL {
        for wants in [Wants::OUTPUT, Wants::ALL, Wants::TTY] {
            let session = exec(bed, &id, "sleep 4901; true", how, wants).await?;
            somebody_runs(bed, "sleep 4901").await?;
            drop(session);
            nobody_runs(bed, "sleep 4901").await?;
        }
        // One that has sent and been sent more than anybody takes.
        let mut session = exec(bed, &id, "yes & sleep 4901; true", how, Wants::ALL).await?;
        session.says("y\n").await?;
        session.read(false);
        somebody_runs(bed, "sleep 4901").await?;
        drop(session);
        nobody_runs(bed, "sleep 4901").await?;
        nobody_runs(bed, "yes").await?;
    }
    no_fifos(bed, &id).await?;
    assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
    Ok(())
}

async fn a_daemon_that_dies(bed: &mut Bed) -> Result<()> {
    let (_, id) = bed.idle("daemon").await?;
    let mut sessions = Vec::new();
    for how in Transport::ALL {
        let mut session = exec(bed, &id, "echo begun; sleep 4902; true", how, Wants::ALL).await?;
        session.says("begun").await?;
        sessions.push(session);
    }
    bed.crash().await?;
    for session in sessions {
        assert_eq!(session.ended().await?.status, None);
    }
    nobody_runs(bed, "sleep 4902").await?;
    no_fifos(bed, &id).await?;
    let ended = exec(bed, &id, "echo works", Transport::Spdy, Wants::OUTPUT).await?.ended().await?;
    assert_eq!(texts(&ended).0, "works\n");
    Ok(())
}

async fn what_is_refused(bed: &mut Bed) -> Result<()> {
    let (pod, id) = bed.idle("refused").await?;
    let cri = &bed.cri;
    let url = |id: String, command: &'static [&'static str], wants| async move {
        refused(cri.exec_url(&id, command, wants).await)
    };
    let both = Wants { stderr: true, ..Wants::TTY };
    assert_eq!(url(id.clone(), &["sh"], both).await, Code::InvalidArgument);
    assert_eq!(url(id.clone(), &[], Wants::ALL).await, Code::InvalidArgument);
    assert_eq!(url("nobody".to_owned(), &["sh"], Wants::ALL).await, Code::NotFound);
    assert_eq!(url(String::new(), &["sh"], Wants::ALL).await, Code::InvalidArgument);
    let created = cri.create(&pod, &Container::idle("b", &busybox())).await?;
    assert_eq!(url(created, &["sh"], Wants::ALL).await, Code::FailedPrecondition);
    // It ends between the URL and its client.
    let late = cri.exec_url(&id, &["true"], Wants::OUTPUT).await?;
    cri.stop(&id, 0).await?;
    assert_eq!(url(id.clone(), &["sh"], Wants::ALL).await, Code::FailedPrecondition);
    let session = Session::open(&bed.node, &late, Transport::Spdy, Wants::OUTPUT).await?;
    let message = session.ended().await?.status.context("a status")?;
    assert!(message.clone().is_err_and(|text| text.contains("not running")), "{message:?}");
    Ok(())
}
