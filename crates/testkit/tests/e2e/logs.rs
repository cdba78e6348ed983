//! Container logs: every byte once and in order, in CRI's format.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{busybox, on_a_node};
use berth_testkit::cri::in_time;
use berth_testkit::specs::Container;

/// One line of a log file.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    stream: String,
    part: String,
    text: String,
}

fn entries(path: &Path) -> Result<Vec<Entry>> {
    let log = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    assert!(log.is_empty() || log.ends_with('\n'), "the log ends in the middle of a line");
    log.lines()
        .map(|line| {
            let mut fields = line.splitn(4, ' ');
            let mut field = || fields.next().map(str::to_owned).context("four fields");
            let time = field()?;
            // RFC3339 with nanoseconds: 2026-11-21T21:00:00.123456789Z
            assert!(time.len() >= 30 && time.as_bytes()[10] == b'T', "{time}");
            Ok(Entry { stream: field()?, part: field()?, text: field()? })
        })
        .collect()
}

#[test]
fn both_streams_are_written_with_time_stream_and_tag() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("talk")).await?;
        let container =
            Container::new("a", &busybox()).shell("echo out; echo err >&2; echo -n end");
        let id = cri.create(&pod, &container).await?;
        let path = bed.logs("talk").join("a.0.log");
        assert!(!path.exists(), "the kubelet counts restarts by log files: none before the start");
        assert_eq!(Path::new(&cri.container(&id).await?.log_path), path);
        cri.start(&id).await?;
        cri.exited(&id).await?;
        let mut entries = entries(&path)?;
        // The two streams are two pipes: their order is kept within each.
        entries.sort_by(|a, b| a.stream.cmp(&b.stream));
        let entry = |stream: &str, text: &str| Entry {
            stream: stream.to_owned(),
            part: "F".to_owned(),
            text: text.to_owned(),
        };
        let last = entries.pop().context("a last entry")?;
        assert_eq!(entries, [entry("stderr", "err"), entry("stdout", "out")]);
        assert_eq!((last.stream.as_str(), last.text.as_str()), ("stdout", "end"));
        Ok(())
    })
}

#[test]
fn a_line_of_forty_kilobytes_is_cut_into_parts_that_make_it_again() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("long")).await?;
        let line = "head -c 40000 /dev/zero | tr '\\0' x; echo; echo short";
        let id = cri.launch(&pod, &Container::new("a", &busybox()).shell(line)).await?;
        cri.exited(&id).await?;
        let entries = entries(&bed.logs("long").join("a.0.log"))?;
        let (cut, short) = entries.split_at(entries.len() - 1);
        assert_eq!(short[0].text, "short");
        let tags: Vec<_> = cut.iter().map(|entry| entry.part.as_str()).collect();
        assert!(tags[..tags.len() - 1].iter().all(|tag| *tag == "P"), "{tags:?}");
        assert_eq!(tags.last(), Some(&"F"));
        assert!(cut.iter().all(|entry| entry.text.len() <= 16 * 1024));
        assert_eq!(
            cut.iter().map(|entry| entry.text.as_str()).collect::<String>(),
            "x".repeat(40000)
        );
        Ok(())
    })
}

#[test]
fn a_terminal_is_one_stream() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("tty")).await?;
        let container = Container::new("a", &busybox())
            .shell("tty; echo err >&2")
            .with(|config| config.tty = true);
        let id = cri.launch(&pod, &container).await?;
        cri.exited(&id).await?;
        let entries = entries(&bed.logs("tty").join("a.0.log"))?;
        assert!(entries.iter().all(|entry| entry.stream == "stdout"), "{entries:?}");
        assert!(entries[0].text.starts_with("/dev/pts/"), "{entries:?}");
        assert_eq!(entries[1].text.trim_end(), "err");
        Ok(())
    })
}

#[test]
fn a_rotated_log_loses_no_line() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("rotate")).await?;
        let count = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done";
        let id = cri.launch(&pod, &Container::new("a", &busybox()).shell(count)).await?;
        let path = bed.logs("rotate").join("a.0.log");
        let mut rotated = Vec::new();
        for turn in 0..5 {
            let old = path.with_extension(format!("log.{turn}"));
            fs::rename(&path, &old)?;
            rotated.push(old);
            let request = cri::ReopenContainerLogRequest { container_id: id.clone() };
            match cri.runtime.clone().reopen_container_log(in_time(request)).await {
                Ok(_) => assert!(path.exists(), "reopen answers when the new file is there"),
                // It may have said all it had to say.
                Err(_) if cri.container(&id).await?.finished_at > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        cri.exited(&id).await?;
        rotated.push(path);
        let mut numbers = Vec::new();
        for file in rotated.iter().filter(|file| file.exists()) {
            for entry in entries(file)? {
                numbers.push(entry.text.parse::<u32>()?);
            }
        }
        assert!(numbers.iter().copied().eq(1..=20000), "{} numbers", numbers.len());
        Ok(())
    })
}

#[test]
fn an_empty_log_path_discards() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("quiet")).await?;
        let container = Container::new("a", &busybox())
            .shell("echo nothing")
            .with(|config| config.log_path.clear());
        let id = cri.launch(&pod, &container).await?;
        assert_eq!(cri.exited(&id).await?.exit_code, 0);
        let dir = bed.logs("quiet");
        assert!(!dir.exists() || fs::read_dir(dir)?.next().is_none());
        Ok(())
    })
}

#[test]
fn a_grandchild_that_keeps_the_pipe_does_not_hold_the_exit_back() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("orphan")).await?;
        let container = Container::new("a", &busybox()).shell("sleep 1000 & echo gone");
        let id = cri.launch(&pod, &container).await?;
        let status = cri.exited(&id).await?;
        assert_eq!(status.exit_code, 0);
        assert_eq!(entries(&bed.logs("orphan").join("a.0.log"))?[0].text, "gone");
        assert!(!bed.node.run("ps", &["-e", "-o", "args"])?.contains("sleep 1000"));
        Ok(())
    })
}
