//! What goes through the kubelet: exec, attach, cp, port-forward, logs.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::AsyncBufReadExt as _;

use crate::kubelet::client::{self, said};
use crate::kubelet::world::World;
use crate::streams::{Session, Transport, Wants};

/// What is copied and forwarded.
const MUCH: usize = 32 << 20;
const CHUNK: usize = 64 << 10;
/// How long a log may be quiet.
const QUIET: Duration = Duration::from_secs(20);
const MANIFEST: &str = include_str!("../manifests/streams.yaml");

/// The pod of the streams, under a name of its own.
async fn pod(world: &World, name: &str) -> Result<()> {
    world.run(&MANIFEST.replace("name: streams", &format!("name: {name}")), &[name]).await
}

/// Bytes that compress badly and repeat late (xorshift).
fn bytes() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(MUCH);
    while bytes.len() < MUCH {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes
}

pub(super) async fn exec(world: &World) -> Result<String> {
    pod(world, "exec").await?;
    for how in Transport::ALL {
        let line = "cat; echo to stderr >&2; exit 42";
        let words = ["sh", "-c", line];
        let mut session = world.session("exec", "main", &words, (how, Wants::ALL)).await?;
        session.send(b"to stdin").await?;
        session.end().await?;
        let said = said(session).await?;
        let stdout = String::from_utf8_lossy(&said.stdout);
        ensure!(
            (&*stdout, &*said.stderr, said.code) == ("to stdin", "to stderr\n", 42),
            "{said:?}"
        );
        let mut shell = world.session("exec", "main", &["sh"], (how, Wants::TTY)).await?;
        shell.resize(123, 45).await?;
        shell.send(b"until stty size | grep '45 123'; do usleep 50000; done; exit 3\n").await?;
        shell.says("45 123\r\n").await?;
        ensure!(client::said(shell).await?.code == 3, "the terminal's exit code");
    }
    world.delete("exec").await?;
    Ok("stdin, stdout, stderr, exit code; a terminal and its size".to_owned())
}

pub(super) async fn attach(world: &World) -> Result<String> {
    pod(world, "attach").await?;
    for (how, mark) in Transport::ALL.into_iter().zip(["first", "second"]) {
        let attach = async |name, wants| -> Result<Session> {
            client::attach(world.way(), ("attach", name), (how, wants)).await
        };
        let mut shell = attach("asks", Wants::TTY).await?;
        shell.resize(91, 17).await?;
        shell
            .send(
                format!("until stty size | grep '17 91'; do :; done; echo {mark}$((1+1))\n")
                    .as_bytes(),
            )
            .await?;
        shell.says("17 91\r\n").await?;
        shell.says(&format!("{mark}2\r\n")).await?;
        let mut cat = attach("takes", Wants::ALL).await?;
        cat.send(format!("{mark} line\n").as_bytes()).await?;
        cat.says(&format!("{mark} line\n")).await?;
    }
    let log = world.get("/containerLogs/default/attach/takes").await?;
    ensure!(log == "first line\nsecond line\n", "the log has {log:?}");
    world.delete("attach").await?;
    Ok("a terminal and a pipe; the log has it too".to_owned())
}

pub(super) async fn copy(world: &World) -> Result<String> {
    pod(world, "cp").await?;
    let bytes = bytes();
    let mut archive = tar::Builder::new(Vec::new());
    let mut head = tar::Header::new_gnu();
    head.set_size(MUCH as u64);
    head.set_mode(0o644);
    head.set_cksum();
    archive.append_data(&mut head, "file", &bytes[..])?;
    let archive = archive.into_inner()?;
    for how in Transport::ALL {
        let up = ["tar", "xmf", "-", "-C", "/tmp"];
        let mut session = world.session("cp", "main", &up, (how, Wants::ALL)).await?;
        for chunk in archive.chunks(CHUNK) {
            session.send(chunk).await?;
        }
        session.end().await?;
        let answer = said(session).await?;
        ensure!(answer.code == 0, "tar x: {answer:?}");
        let down = ["tar", "cf", "-", "-C", "/tmp", "file"];
        let session = world.session("cp", "main", &down, (how, Wants::OUTPUT)).await?;
        let answer = said(session).await?;
        let mut came = tar::Archive::new(&answer.stdout[..]);
        let mut entry = came.entries()?.next().context("a file in the archive")??;
        let mut back = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut back)?;
        ensure!(back == bytes, "{how:?}: {} bytes came back, not the same", back.len());
        world.sh("cp", "main", "rm /tmp/file").await?;
    }
    world.delete("cp").await?;
    Ok("tar by both transports, byte for byte".to_owned())
}

pub(super) async fn forward(world: &World) -> Result<String> {
    pod(world, "forward").await?;
    let bytes = bytes();
    let mut forward = client::forward(world.way(), "forward").await?;
    let refused = forward.connect(7999).await?;
    let (_, why) = forward.all(refused).await?;
    ensure!(why.contains("7999"), "a port where nobody listens: {why:?}");
    let on = forward.connect(7000).await?;
    for chunk in bytes.chunks(CHUNK) {
        forward.send(on, chunk, false).await?;
    }
    let back = forward.some(on, MUCH).await?;
    ensure!(back == bytes, "{} bytes came back, not the same", back.len());
    drop(forward);
    world.delete("forward").await?;
    Ok("echoed byte for byte; a refused port ends alone".to_owned())
}

/// How many lines the container writes.
const LINES: u32 = 80_000;

pub(super) async fn logs(world: &World) -> Result<String> {
    world.run(include_str!("../manifests/logs.yaml"), &["logs"]).await?;
    let followed = follow(world).await;
    // The follower of a kubelet that is more than one file behind leaves files out: what is on the
    // disk is what the runtime answers for.
    let whole = async || Ok(on_disk(world).ok());
    let files = world.patiently("lines are missing on the disk", whole).await?;
    followed?;
    ensure!(files > 1, "the log was never rotated");
    world.delete("logs").await?;
    Ok(format!("{LINES} lines in order, none lost, over {files} files"))
}

/// Demands every line in order.
async fn follow(world: &World) -> Result<()> {
    let path = "/containerLogs/default/logs/main?follow=true";
    let log = client::open(&world.bed.node, &world.kubelet, path).await?;
    let mut lines = log.lines();
    for number in 1..=LINES {
        let next = tokio::time::timeout(QUIET, lines.next_line());
        let line = next.await.with_context(|| format!("line {number} does not come"))??;
        ensure!(line == Some(number.to_string()), "{line:?} where {number} should come");
    }
    Ok(())
}

/// Demands every line in order in the files, of which older ones are compressed; gives how many.
fn on_disk(world: &World) -> Result<usize> {
    let files = log_files(world)?;
    let read = "for file; do case $file in *.gz) zcat $file ;; *) cat $file ;; esac; done | \
        cut -d' ' -f4 | awk '$1 != NR { print $1, \"is line\", NR; exit } END { print NR }'";
    let words = ["-c", read, "sh"].into_iter().chain(files.iter().map(String::as_str));
    let said = world.bed.node.run("sh", &words.collect::<Vec<_>>())?;
    ensure!(said.trim() == LINES.to_string(), "on disk {said:?} in {files:?}");
    Ok(files.len())
}

/// The log's files, the one that is written to last.
fn log_files(world: &World) -> Result<Vec<String>> {
    let dir = world.bed.node.disk().join("pods").display().to_string();
    let find = [&*dir, "-path", "*/default_logs_*", "-name", "0.log*"];
    let found = world.bed.node.run("find", &find)?;
    let mut files: Vec<_> = found.lines().map(str::to_owned).collect();
    files.sort_by_key(|file| (file.ends_with("0.log"), file.clone()));
    Ok(files)
}
