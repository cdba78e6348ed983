//! Clients of a container's own streams.

use anyhow::{Context as _, Result};
use berth_testkit::bed::{Bed, busybox, eventually};
use berth_testkit::cri::refused;
use berth_testkit::specs::Container;
use berth_testkit::streams::{Transport, Wants};
use tonic::Code;

use super::{attach, no_fifos, texts, with_each_shim};

with_each_shim! {
    two_at_once_and_the_log
    an_input_for_one
    an_input_for_many
    a_terminal
    one_that_does_not_read
    without_a_log
    one_that_vanishes
    a_daemon_that_dies
    what_is_refused
}

/// Says what it hears, on both outputs.
const PARROT: &str = "while read line; do echo \"said $line\"; echo \"err $line\" >&2; done; \
                      echo last words";

fn parrot(once: bool) -> Container {
    Container::new("a", &busybox()).shell(PARROT).with(|config| {
        config.stdin = true;
        config.stdin_once = once;
    })
}

async fn two_at_once_and_the_log(bed: &mut Bed) -> Result<()> {
    for (number, how) in Transport::ALL.into_iter().enumerate() {
        let name = format!("two{number}");
        let pod = bed.cri.run(&bed.pod(&name)).await?;
        let id = bed.cri.launch(&pod, &parrot(true)).await?;
        let mut listens = attach(bed, &id, how, Wants::OUTPUT).await?;
        let mut speaks = attach(bed, &id, how, Wants::ALL).await?;
        speaks.send(b"hello\n").await?;
        speaks.says("said hello\n").await?;
        speaks.send(b"again\n").await?;
        speaks.says("said again\n").await?;
        listens.says("said again\n").await?;
        speaks.end().await?;
        let all = "said hello\nsaid again\nlast words\n";
        for session in [listens, speaks] {
            let ended = texts(&session.ended().await?);
            // The second one may have come before the first was there.
            assert!(all.ends_with(&ended.0) && ended.0.contains("again"), "{ended:?}");
            assert!("err hello\nerr again\n".ends_with(&ended.1), "{ended:?}");
            assert_eq!(ended.2, Some(Ok(0)));
        }
        assert_eq!(bed.cri.exited(&id).await?.exit_code, 0);
        let log = bed.log(&name)?;
        for line in ["F said hello", "F err hello", "F said again", "F err again", "F last words"] {
            assert_eq!(log.lines().filter(|said| said.ends_with(line)).count(), 1, "{log}");
        }
        assert_eq!(log.lines().count(), 5, "{log}");
    }
    Ok(())
}

async fn an_input_for_one(bed: &mut Bed) -> Result<()> {
    let pod = bed.cri.run(&bed.pod("once")).await?;
    let id = bed.cri.launch(&pod, &parrot(true)).await?;
    // Who only listens may come and go.
    let mut listens = attach(bed, &id, Transport::Spdy, Wants::OUTPUT).await?;
    let mut speaks = attach(bed, &id, Transport::WebSocket, Wants::ALL).await?;
    speaks.send(b"hello\n").await?;
    listens.says("said hello\n").await?;
    drop(listens);
    speaks.says("said hello\n").await?;
    // It goes without a word: the container sees the end of its input.
    drop(speaks);
    assert_eq!(bed.cri.exited(&id).await?.exit_code, 0);
    assert!(bed.log("once")?.contains("last words"));
    Ok(())
}

async fn an_input_for_many(bed: &mut Bed) -> Result<()> {
    let pod = bed.cri.run(&bed.pod("many")).await?;
    let id = bed.cri.launch(&pod, &parrot(false)).await?;
    for word in ["one", "two", "three"] {
        for how in Transport::ALL {
            let mut session = attach(bed, &id, how, Wants::ALL).await?;
            session.send(format!("{word}\n").as_bytes()).await?;
            session.says(&format!("said {word}\n")).await?;
            session.end().await?;
        }
    }
    assert!(!bed.log("many")?.contains("last words"));
    no_fifos(bed, &id).await
}

async fn a_terminal(bed: &mut Bed) -> Result<()> {
    let pod = bed.cri.run(&bed.pod("tty")).await?;
    let line = "until [ \"$(stty size)\" = '43 132' ]; do usleep 10000; done; printf 'name: '; \
                read name; echo hello $name; exit 5";
    let container = Container::new("a", &busybox()).shell(line).with(|config| {
        (config.stdin, config.tty) = (true, true);
    });
    let id = bed.cri.launch(&pod, &container).await?;
    let mut session = attach(bed, &id, Transport::Spdy, Wants::TTY).await?;
    let mut other = attach(bed, &id, Transport::WebSocket, Wants::TTY).await?;
    session.resize(132, 43).await?;
    // A prompt has no newline.
    session.says("name: ").await?;
    session.send(b"me\n").await?;
    session.says("hello me\r\n").await?;
    other.says("hello me\r\n").await?;
    assert_eq!(session.ended().await?.status, Some(Ok(0)));
    assert_eq!(other.ended().await?.status, Some(Ok(0)));
    assert_eq!(bed.cri.exited(&id).await?.exit_code, 5);
    assert!(bed.log("tty")?.contains("hello me"));
    Ok(())
}

async fn one_that_does_not_read(bed: &mut Bed) -> Result<()> {
    const MUCH: usize = 24_000_000;
    for (number, how) in Transport::ALL.into_iter().enumerate() {
        let name = format!("deaf{number}");
        let pod = bed.cri.run(&bed.pod(&name)).await?;
        let line = format!("echo begun; read go; head -c {MUCH} /dev/zero | tr '\\0' x");
        let container = Container::new("a", &busybox()).shell(&line);
        let id = bed.cri.launch(&pod, &container.with(|config| config.stdin = true)).await?;
        let mut deaf = attach(bed, &id, how, Wants::ALL).await?;
        deaf.read(false);
        deaf.send(b"go\n").await?;
        // Neither the container nor its log waits.
        assert_eq!(bed.cri.exited(&id).await?.exit_code, 0);
        let log = bed.log(&name)?;
        assert_eq!(log.bytes().filter(|byte| *byte == b'x').count(), MUCH);
        deaf.read(true);
        let ended = deaf.ended().await?;
        assert!(ended.stdout.len() < MUCH);
        let status = ended.status.context("a status")?;
        assert!(status.clone().is_err_and(|text| text.contains("does not wait")), "{status:?}");
        bed.cri.clear(&pod.id).await?;
    }
    Ok(())
}

async fn without_a_log(bed: &mut Bed) -> Result<()> {
    let pod = bed.cri.run(&bed.pod("nolog")).await?;
    let container = parrot(true).with(|config| config.log_path = String::new());
    let id = bed.cri.launch(&pod, &container).await?;
    let mut session = attach(bed, &id, Transport::WebSocket, Wants::ALL).await?;
    session.send(b"hello\n").await?;
    session.end().await?;
    let ended = texts(&session.ended().await?);
    assert_eq!(ended.0, "said hello\nlast words\n");
    assert_eq!(ended.1, "err hello\n");
    Ok(())
}

async fn one_that_vanishes(bed: &mut Bed) -> Result<()> {
    let pod = bed.cri.run(&bed.pod("gone")).await?;
    let id = bed.cri.launch(&pod, &parrot(false)).await?;
    let daemon = bed.node.daemon().context("a daemon")?;
    let open = || -> Result<usize> { Ok(std::fs::read_dir(format!("/proc/{daemon}/fd"))?.count()) };
    let mut first = attach(bed, &id, Transport::Spdy, Wants::ALL).await?;
    first.send(b"one\n").await?;
    first.says("said one\n").await?;
    let before = open()?;
    for how in Transport::ALL {
        let mut second = attach(bed, &id, how, Wants::ALL).await?;
        second.send(b"two\n").await?;
        second.says("said two\n").await?;
        drop(second);
    }
    // The container says nothing, and they are forgotten all the same.
    eventually(
        || "descriptors stay open".to_owned(),
        async || Ok((open()? <= before).then_some(())),
    )
    .await?;
    first.send(b"three\n").await?;
    first.says("said three\n").await
}

async fn a_daemon_that_dies(bed: &mut Bed) -> Result<()> {
    let pod = bed.cri.run(&bed.pod("daemon")).await?;
    let id = bed.cri.launch(&pod, &parrot(false)).await?;
    let mut session = attach(bed, &id, Transport::Spdy, Wants::ALL).await?;
    session.send(b"before\n").await?;
    session.says("said before\n").await?;
    bed.crash().await?;
    assert_eq!(session.ended().await?.status, None);
    let mut session = attach(bed, &id, Transport::WebSocket, Wants::ALL).await?;
    session.send(b"after\n").await?;
    session.says("said after\n").await?;
    bed.log_says("daemon", "F said after").await?;
    let log = bed.log("daemon")?;
    assert!(log.contains("F said before") && !log.contains("last words"), "{log}");
    Ok(())
}

async fn what_is_refused(bed: &mut Bed) -> Result<()> {
    let (pod, id) = bed.idle("refused").await?;
    let cri = &bed.cri;
    let code = async |id: &str, wants| refused(cri.attach_url(id, wants).await);
    assert_eq!(code(&id, Wants::ALL).await, Code::FailedPrecondition);
    assert_eq!(code(&id, Wants { stdin: false, ..Wants::TTY }).await, Code::InvalidArgument);
    assert_eq!(code("nobody", Wants::OUTPUT).await, Code::NotFound);
    let created = cri.create(&pod, &Container::idle("b", &busybox())).await?;
    assert_eq!(code(&created, Wants::OUTPUT).await, Code::FailedPrecondition);
    cri.stop(&id, 0).await?;
    assert_eq!(code(&id, Wants::OUTPUT).await, Code::FailedPrecondition);
    // Its input was for one, who is there.
    let id = cri.launch(&pod, &parrot(true)).await?;
    let mut first = attach(bed, &id, Transport::Spdy, Wants::ALL).await?;
    first.send(b"hello\n").await?;
    first.says("said hello\n").await?;
    let second = attach(bed, &id, Transport::Spdy, Wants::ALL).await?;
    let status = second.ended().await?.status.context("a status")?;
    assert!(status.clone().is_err_and(|text| text.contains("one attachment")), "{status:?}");
    Ok(())
}
