//! What a pod and its containers must be able to do, whichever shim runs them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, eventually};
use berth_testkit::config::Daemon;
use berth_testkit::cri::{Cri, in_time, refused};
use berth_testkit::patience::here;
use berth_testkit::specs::Container;
use cri::{ContainerState, PodSandboxState};
use tonic::Code;

use super::{Part, Subject};

/// States, exit codes, signals, and a program that is not there.
pub(super) async fn lifecycle(bed: &mut Bed, subject: &Subject) -> Result<()> {
    let cri = &bed.cri;
    let pod = cri.run(&bed.pod("life")).await?;
    assert_eq!(cri.pod_status(&pod.id).await?.state(), PodSandboxState::SandboxReady);

    let id = cri.create(&pod, &Container::new("a", &busybox()).shell("exit 3")).await?;
    assert_eq!(cri.container(&id).await?.state(), ContainerState::ContainerCreated);
    cri.start(&id).await?;
    let status = cri.exited(&id).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    // containerd's time of a start is that of its own answer, or none if the end comes before that.
    let order = [status.created_at, status.started_at, status.finished_at];
    assert!(order.is_sorted() || subject.daemon != Daemon::Berth, "{order:?}");
    cri.remove(&id).await?;
    assert_eq!(refused(cri.container(&id).await), Code::NotFound);

    let missing = Container::new("b", &busybox()).command(&["/no/such/program"]);
    let id = cri.create(&pod, &missing).await?;
    let error = cri.start(&id).await.expect_err("the program does not exist");
    assert!(error.message().contains("/no/such/program"), "{error}");
    let status = cri.container(&id).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));

    // It is asked to end, and ends as it likes; it is killed if it does not.
    let polite = "trap 'exit 5' TERM; touch /tmp/ready; while :; do sleep 0.05; done";
    let id = cri.launch(&pod, &Container::new("c", &busybox()).shell(polite)).await?;
    cri.shell(&id, "until [ -e /tmp/ready ]; do usleep 10000; done").await?;
    cri.stop(&id, 30).await?;
    assert_eq!(cri.container(&id).await?.exit_code, 5);
    let deaf = cri.launch(&pod, &Container::idle("d", &busybox())).await?;
    let pid = bed.pid(&deaf).await?;
    cri.stop(&deaf, 0).await?;
    assert_eq!(cri.container(&deaf).await?.exit_code, 137);
    assert!(!subject.has(Part::Kernel) || bed.is_dead(pid));

    let id = cri.launch(&pod, &Container::idle("e", &busybox())).await?;
    cri.stop_pod(&pod.id).await?;
    assert_eq!(cri.container(&id).await?.state(), ContainerState::ContainerExited);
    assert_eq!(cri.pod_status(&pod.id).await?.state(), PodSandboxState::SandboxNotready);
    cri.remove_pod(&pod.id).await?;
    assert!(cri.pods().await?.is_empty());
    Ok(())
}

/// What containers of a pod share, and what they do not.
pub(super) async fn namespaces(bed: &mut Bed, subject: &Subject) -> Result<()> {
    let cri = &bed.cri;
    let pod = cri.run(&bed.pod("pair")).await?;
    let server = Container::new("server", &busybox())
        .shell("echo secret > /tmp/mine; exec httpd -f -p 127.0.0.1:8080 -h /www");
    // The kubelet sends the pod's modes with each container, and containerd goes by those.
    let own_pids = |container: Container| {
        container.security(|security| {
            let modes = security.namespace_options.get_or_insert_default();
            modes.pid = cri::NamespaceMode::Container as i32;
        })
    };
    cri.launch(&pod, &own_pids(server)).await?;
    let client = Container::idle("client", &busybox());
    let client = cri.launch(&pod, &own_pids(client)).await?;
    let wait = "until wget -q -O - http://127.0.0.1:8080/; do usleep 10000; done";
    assert_eq!(cri.shell(&client, wait).await?, "hello from berth");
    assert_eq!(cri.shell(&client, "hostname").await?, "pair");
    assert_eq!(cri.shell(&client, "cat /tmp/mine || echo none").await?, "none");
    if subject.has(Part::Pids) {
        assert!(!cri.shell(&client, "ps").await?.contains("httpd"));
    }
    let ip = cri.pod_status(&pod.id).await?.network.context("a network")?.ip;
    assert!(cri.shell(&client, "ip addr show eth0").await?.contains(&ip));

    if subject.has(Part::Pids) {
        shared_pids(bed, subject).await?;
    }
    if subject.has(Part::Users) {
        users(bed).await?;
    }
    Ok(())
}

async fn shared_pids(bed: &Bed, subject: &Subject) -> Result<()> {
    let cri = &bed.cri;
    let pod = cri.run(&bed.pod("shared").shared_pid()).await?;
    cri.launch(&pod, &Container::new("one", &busybox()).shell("exec sleep 4321")).await?;
    let two = cri.launch(&pod, &Container::idle("two", &busybox())).await?;
    let seen = cri.shell(&two, "ps").await?;
    assert!(seen.contains("sleep 4321"), "{seen}");
    assert!(!subject.has(Part::Kernel) || seen.contains("pause"), "{seen}");
    Ok(())
}

async fn users(bed: &Bed) -> Result<()> {
    let cri = &bed.cri;
    let pod = cri.run(&bed.pod("users").user_namespace(200_000)).await?;
    let id = cri.launch(&pod, &Container::idle("main", &busybox())).await?;
    let map = cri.shell(&id, "cat /proc/self/uid_map; id -u").await?;
    assert!(map.contains("200000") && map.ends_with("\n0"), "{map}");
    Ok(())
}

/// One line of a log file: stream, tag, text.
pub(super) type Entry = (String, String, String);

pub(super) fn entries(path: &Path) -> Result<Vec<Entry>> {
    let log = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    assert!(log.is_empty() || log.ends_with('\n'), "the log ends in the middle of a line");
    let entry = |line: &str| {
        let mut fields = line.splitn(4, ' ');
        let time = fields.next().context("a time")?;
        // containerd writes no zeros at the end of a fraction.
        assert!(time.len() >= 20 && time.as_bytes()[10] == b'T', "{time}");
        let mut field = || fields.next().map(str::to_owned).context("four fields");
        Ok((field()?, field()?, field()?))
    };
    log.lines().map(entry).collect()
}

pub(super) fn entry(stream: &str, tag: &str, text: &str) -> Entry {
    (stream.to_owned(), tag.to_owned(), text.to_owned())
}

/// Logs, a terminal, stdin, rotation.
pub(super) async fn streams(bed: &mut Bed, subject: &Subject) -> Result<()> {
    let cri = &bed.cri;
    let pod = cri.run(&bed.pod("talk")).await?;
    let path = |name: &str| bed.logs("talk").join(format!("{name}.0.log"));

    let says = Container::new("a", &busybox()).shell("echo out; echo err >&2; echo -n end");
    let id = cri.create(&pod, &says).await?;
    assert!(!path("a").exists(), "the kubelet counts starts by log files: none before the start");
    cri.start(&id).await?;
    cri.exited(&id).await?;
    let mut said = entries(&path("a"))?;
    said.sort_by(|a, b| a.0.cmp(&b.0));
    // containerd marks what ends without a newline as a part.
    let end = if subject.daemon == Daemon::Berth { "F" } else { "P" };
    let wanted =
        [entry("stderr", "F", "err"), entry("stdout", "F", "out"), entry("stdout", end, "end")];
    assert_eq!(said, wanted);

    let long = "head -c 40000 /dev/zero | tr '\\0' x; echo; echo short";
    let id = cri.launch(&pod, &Container::new("long", &busybox()).shell(long)).await?;
    cri.exited(&id).await?;
    let said = entries(&path("long"))?;
    let shape: Vec<_> = said.iter().map(|(_, tag, text)| (tag.as_str(), text.len())).collect();
    assert_eq!(shape, [("P", 16384), ("P", 16384), ("F", 7232), ("F", 5)]);

    let tty = Container::new("tty", &busybox())
        .shell("[ -t 0 ] && { tty; echo err >&2; }; read x; echo \"$x\"");
    let tty = tty.with(|config| (config.tty, config.stdin) = (true, true));
    let id = cri.launch(&pod, &tty).await?;
    bed.file_says(&path("tty"), "err").await?;
    let said = entries(&path("tty"))?;
    assert!(!subject.has(Part::Terminals) || said[0].2.starts_with("/dev/pts/"), "{said:?}");
    assert!(said.iter().all(|(stream, ..)| stream == "stdout"), "{said:?}");
    // Nobody has written to its input, and nobody has closed it.
    assert_eq!(cri.container(&id).await?.state(), ContainerState::ContainerRunning);
    cri.stop(&id, 0).await?;

    let waits = Container::new("stdin", &busybox()).shell("cat; echo over");
    let id = cri.launch(&pod, &waits.with(|config| config.stdin = true)).await?;
    let closed =
        cri.launch(&pod, &Container::new("closed", &busybox()).shell("cat; exit 4")).await?;
    assert_eq!(cri.exited(&closed).await?.exit_code, 4, "no stdin is one that has ended");
    assert_eq!(cri.container(&id).await?.state(), ContainerState::ContainerRunning);

    let quiet = Container::new("quiet", &busybox()).shell("echo nothing; exit 6");
    let id = cri.launch(&pod, &quiet.with(|config| config.log_path.clear())).await?;
    assert_eq!(cri.exited(&id).await?.exit_code, 6);

    fs::create_dir_all(bed.logs("talk").join("directory"))?;
    let odd = Container::idle("odd", &busybox());
    let odd = odd.with(|config| "directory".clone_into(&mut config.log_path));
    let id = cri.create(&pod, &odd).await?;
    let error = cri.start(&id).await.expect_err("a directory is no log");
    if subject.daemon == Daemon::Berth {
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }
    assert!(error.message().contains("talk/directory"), "{error}");
    assert_eq!(cri.exited(&id).await?.reason, "StartError");
    rotation(bed, &pod, subject.daemon).await
}

async fn rotation(bed: &Bed, pod: &berth_testkit::cri::RunningPod, daemon: Daemon) -> Result<()> {
    let cri = &bed.cri;
    let count = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done";
    let id = cri.launch(pod, &Container::new("rotate", &busybox()).shell(count)).await?;
    let path = bed.logs("talk").join("rotate.0.log");
    let mut files = Vec::new();
    for turn in 0..5 {
        let old = path.with_extension(format!("log.{turn}"));
        fs::rename(&path, &old)?;
        files.push(old);
        let request = cri::ReopenContainerLogRequest { container_id: id.clone() };
        match cri.runtime.clone().reopen_container_log(in_time(request)).await {
            Ok(_) => assert!(path.exists(), "reopen answers when the new file is there"),
            // It has said all that it had to say, and all of it is in a file.
            Err(why) if daemon == Daemon::Berth => {
                assert_eq!(why.code(), Code::FailedPrecondition, "{why}");
                let last = entries(&files[turn])?.pop().map(|(.., text)| text);
                assert!(last.is_none_or(|text| text == "20000"), "{why}");
                break;
            }
            Err(_) if cri.container(&id).await?.finished_at > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    cri.exited(&id).await?;
    files.push(path);
    let wanted: String = (1..=20000).map(|number| format!("{number}\n")).collect();
    let said = || {
        let mut said = String::new();
        for file in files.iter().filter(|file| file.exists()) {
            for (_, tag, text) in entries(file)? {
                assert!(daemon == Daemon::Containerd || tag == "F", "{text} in {}", file.display());
                said.extend([text.as_str(), if tag == "F" { "\n" } else { "" }]);
            }
        }
        anyhow::Ok(said)
    };
    let said = said()?;
    match daemon {
        Daemon::Berth => assert!(said == wanted, "{} bytes in {files:?}", said.len()),
        // containerd 1.6 cuts a line in two where it opens a new log, and may lose what comes last when the
        // container ends about then: with its own shim as well.
        Daemon::Containerd => assert!(wanted.starts_with(&said), "{} bytes", said.len()),
    }
    Ok(())
}

/// Commands in a container.
pub(super) async fn exec(bed: &mut Bed, subject: &Subject) -> Result<()> {
    let (_, id) = bed.idle("exec").await?;
    let cri = &bed.cri;
    let output = cri.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 7"]).await?;
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(output.code, 7);
    assert_eq!(cri.exec(&id, &["sh", "-c", "kill -9 $$"]).await?.code, 137);
    match cri.exec(&id, &["/no/such/program"]).await {
        Err(status) => assert!(status.message().contains("/no/such/program"), "{status}"),
        Ok(output) => assert_ne!(output.code, 0),
    }
    let begin = Instant::now();
    let line = "sleep 4711 & (sleep 4712; true) & setsid sleep 4713 & sleep 4714";
    let slow = cri.exec_within(&id, &["sh", "-c", line], 1).await;
    assert_eq!(refused(slow), Code::DeadlineExceeded);
    assert!(begin.elapsed() >= Duration::from_secs(1));
    assert!(!cri.shell(&id, "ps").await?.contains("sleep 471"));
    if subject.daemon == Daemon::Berth {
        bounds_of_exec(cri, &id).await?;
    }
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (cri, id) = (cri.clone(), id.clone());
        calls.spawn(async move { cri.shell(&id, &format!("echo {number}")).await });
    }
    let mut said: Vec<u32> = Vec::new();
    for answer in calls.join_all().await {
        said.push(answer?.parse()?);
    }
    said.sort_unstable();
    assert!(said.into_iter().eq(0..20));
    Ok(())
}

/// Much output is cut, and a command's end is not put off by what it leaves behind: Berth's own.
async fn bounds_of_exec(cri: &Cri, id: &str) -> Result<()> {
    let much = cri.exec_within(id, &["sh", "-c", "head -c 20000000 /dev/zero; exit 5"], 30).await?;
    assert_eq!((much.stdout.len(), much.exit_code), (16 << 20, 5));
    let output = cri.exec(id, &["sh", "-c", "sleep 30 & echo said"]).await?;
    assert_eq!(output.stdout, "said\n");
    Ok(())
}

/// Figures, and limits that change.
pub(super) async fn limits(bed: &mut Bed, subject: &Subject) -> Result<()> {
    let cri = &bed.cri;
    let pod = cri.run(&bed.pod("limits")).await?;
    let busy = Container::new("a", &busybox())
        .shell("head -c 8000000 /dev/zero > /dev/shm/x; while :; do :; done")
        .resources(|limits| limits.memory_limit_in_bytes = 64 << 20);
    let id = cri.launch(&pod, &busy).await?;
    let stats = async || {
        let request = in_time(cri::ContainerStatsRequest { container_id: id.clone() });
        let answer = cri.runtime.clone().container_stats(request).await?.into_inner();
        answer.stats.context("figures")
    };
    let cpu = |stats: &cri::ContainerStats| {
        let usage = stats.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds.as_ref());
        usage.map_or(0, |usage| usage.value)
    };
    let first = cpu(&stats().await?);
    eventually(
        || "the CPU time does not grow".to_owned(),
        async || Ok((cpu(&stats().await?) > first + 50_000_000).then_some(())),
    )
    .await?;
    // What lies in /dev/shm is charged to the sandbox of a kernel of its own.
    let least = if subject.has(Part::Kernel) { 8_000_000 } else { 100_000 };
    let enough = async || {
        let memory = stats().await?.memory.context("memory")?;
        let working = memory.working_set_bytes.context("a working set")?.value;
        Ok((working >= least).then_some(working))
    };
    let working = eventually(|| format!("it never has {least} bytes"), enough).await?;
    assert!(working < 64_000_000, "{working}");

    let limits = cri::LinuxContainerResources {
        memory_limit_in_bytes: 32 << 20,
        cpu_shares: 512,
        ..Default::default()
    };
    let request = in_time(cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(limits),
        ..Default::default()
    });
    cri.runtime.clone().update_container_resources(request).await?;
    if !subject.has(Part::Kernel) {
        return Ok(());
    }
    if !subject.has(Part::Cgroup) {
        return written_limit(bed, &id, 32 << 20).await;
    }
    let said = cri.shell(&id, "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true").await?;
    assert!(said.contains(&(32 << 20).to_string()), "{said}");
    Ok(())
}

/// A container's limit of memory, as the node sees it.
pub(super) async fn written_limit(bed: &Bed, id: &str, wanted: u64) -> Result<()> {
    let read = format!(
        "for line in $(cat /proc/{}/cgroup); do path=${{line##*:}}; \
         cat /sys/fs/cgroup$path/memory.max /sys/fs/cgroup/memory$path/memory.limit_in_bytes; \
         done 2>/dev/null; true",
        bed.pid(id).await?
    );
    let said = bed.node.run("sh", &["-c", &read])?;
    assert!(said.lines().any(|line| line == wanted.to_string()), "{said}");
    Ok(())
}

/// A container that takes more memory than it may.
pub(super) async fn oom(bed: &mut Bed, _: &Subject) -> Result<()> {
    let pod = bed.cri.run(&bed.pod("oom")).await?;
    let greedy = Container::new("a", &busybox()).shell("exec tail /dev/zero").resources(|limits| {
        limits.memory_limit_in_bytes = 16 << 20;
        limits.memory_swap_limit_in_bytes = 16 << 20;
    });
    let id = bed.cri.launch(&pod, &greedy).await?;
    let status = bed.cri.exited(&id).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    Ok(())
}

/// The daemon is killed under live pods, again and again: they live on, and what they say is whole.
pub(super) async fn restart(bed: &mut Bed, subject: &Subject) -> Result<()> {
    let (pod, id) = bed.idle("alive").await?;
    let created = bed.cri.create(&pod, &Container::idle("later", &busybox())).await?;
    let count = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); echo $i; done; exec sleep 1000";
    let counts = bed.cri.launch(&pod, &Container::new("counts", &busybox()).shell(count)).await?;
    let before = (bed.identity(&id).await?, bed.identity(&counts).await?);
    for _ in 0..3 {
        bed.crash().await?;
        assert_eq!((bed.identity(&id).await?, bed.identity(&counts).await?), before);
        assert_eq!(bed.cri.pod_status(&pod.id).await?.state(), PodSandboxState::SandboxReady);
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
    }
    bed.cri.start(&created).await?;
    let path = bed.logs("alive").join("counts.0.log");
    bed.file_says(&path, " 60000\n").await?;
    if subject.daemon == Daemon::Berth {
        whole_count(&path)?;
    }
    bed.cri.stop_pod(&pod.id).await?;
    bed.cri.remove_pod(&pod.id).await?;
    Ok(())
}

/// Of the numbers up to 60000 none is missing.
pub(super) fn whole_count(path: &Path) -> Result<()> {
    let mut last = 0;
    for (_, _, text) in entries(path)? {
        let number: u32 = text.parse().with_context(|| format!("{text:?} is a piece of a line"))?;
        // What was being written when the daemon died may be there twice, and nothing is missing.
        assert!(number <= last + 1, "after {last} comes {number}");
        last = last.max(number);
    }
    assert_eq!(last, 60000);
    Ok(())
}

/// What ends while no daemon runs is told by the next one: the exit, the lack of memory, the words.
pub(super) async fn last_words(bed: &mut Bed, subject: &Subject) -> Result<()> {
    let pod = bed.cri.run(&bed.pod("missed")).await?;
    let go = bed.node.disk().join("go");
    fs::create_dir_all(&go)?;
    let wait = "until [ -e /go/now ]; do usleep 10000; done";
    let ends = Container::new("a", &busybox()).shell(&format!("{wait}; echo last words; exit 9"));
    let ends = bed.cri.launch(&pod, &ends.mount(&go, "/go")).await?;
    if !subject.has(Part::Kernel) {
        bed.node.kill_daemon()?;
        fs::write(go.join("now"), "")?;
        bed.log_says("missed", "last words").await?;
        bed.start().await?;
        let status = bed.cri.exited(&ends).await?;
        assert_eq!((status.exit_code, status.reason.as_str()), (9, "Error"));
        return Ok(());
    }
    let greedy = Container::new("b", &busybox())
        .shell(&format!("{wait}; exec tail /dev/zero"))
        .mount(&go, "/go")
        .resources(|limits| {
            limits.memory_limit_in_bytes = 16 << 20;
            limits.memory_swap_limit_in_bytes = 16 << 20;
        });
    let greedy = bed.cri.launch(&pod, &greedy).await?;
    let pids = [bed.pid(&ends).await?, bed.pid(&greedy).await?];
    bed.node.kill_daemon()?;
    fs::write(go.join("now"), "")?;
    eventually(
        || "the containers go on".to_owned(),
        async || Ok(pids.iter().all(|pid| bed.is_dead(*pid)).then_some(())),
    )
    .await?;
    bed.start().await?;
    let status = bed.cri.exited(&ends).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (9, "Error"));
    let status = bed.cri.exited(&greedy).await?;
    assert_eq!(status.exit_code, 137);
    // containerd looks for neither of these two when it starts.
    if subject.daemon == Daemon::Berth {
        assert!(bed.log("missed")?.contains("last words"));
        assert_eq!(status.reason, "OOMKilled");
    }
    Ok(())
}

/// The shim is killed: everything of its containers is dead before they are listed as ended, the
/// pod can be removed, and no other notices. The same with the daemon killed as well.
pub(super) async fn death(bed: &mut Bed, subject: &Subject) -> Result<()> {
    let (other, bystander) = bed.idle("other").await?;
    let untouched = bed.identity(&bystander).await?;
    for with_daemon in [false, true] {
        let pod = bed.cri.run(&bed.pod("dies")).await?;
        let family = Container::new("a", &busybox()).shell("setsid sleep 1234 & exec sleep 1235");
        let id = bed.cri.launch(&pod, &family).await?;
        let idle = bed.cri.launch(&pod, &Container::idle("b", &busybox())).await?;
        let sought = match subject.has(Part::Kernel) {
            true => "sleep 123[45]$".to_owned(),
            false => format!("runsc-[a-z]* .*{}", pod.id),
        };
        let alive = format!("ps -e -o args | grep -c '^{sought}' || true");
        let alive = alive.as_str();
        let running = |bed: &Bed| bed.node.run("sh", &["-c", alive]);
        eventually(
            || "they do not run".to_owned(),
            async || Ok((running(bed)?.trim() == "2").then_some(())),
        )
        .await?;
        let begin = Instant::now();
        if with_daemon {
            bed.node.kill_daemon()?;
            subject.kill_shim_of(bed, &pod.id)?;
            bed.start().await?;
        } else {
            subject.kill_shim_of(bed, &pod.id)?;
        }
        let status = bed.cri.exited(&id).await?;
        // containerd lists the end first, and kills then.
        if subject.daemon == Daemon::Containerd {
            let dead = async || Ok((running(bed)?.trim() == "0").then_some(()));
            eventually(|| "who is listed as ended lives".to_owned(), dead).await?;
        }
        assert_eq!(running(bed)?.trim(), "0", "who is listed as ended is dead");
        assert_eq!(status.exit_code, 255);
        // containerd says Error or Unknown.
        assert!(subject.daemon == Daemon::Containerd || status.reason == "Error", "{status:?}");
        assert!(begin.elapsed() < here(Duration::from_secs(10)), "{:?}", begin.elapsed());
        assert_eq!(bed.cri.exited(&idle).await?.exit_code, 255);
        let state = bed.cri.pod_status(&pod.id).await?.state();
        assert_eq!(state, PodSandboxState::SandboxNotready);
        bed.cri.stop_pod(&pod.id).await?;
        bed.cri.remove_pod(&pod.id).await?;
        assert_eq!(bed.identity(&bystander).await?, untouched);
        assert_eq!(bed.cri.shell(&bystander, "echo works").await?, "works");
    }
    let state = bed.cri.pod_status(&other.id).await?.state();
    assert_eq!(state, PodSandboxState::SandboxReady);
    Ok(())
}
