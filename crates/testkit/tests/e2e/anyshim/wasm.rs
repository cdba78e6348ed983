//! The list for a shim whose images have no shell, and that runs no commands: what of it applies to
//! WebAssembly, by the names that it has there. The program is the testkit's `program.wat`.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, eventually, reference};
use berth_testkit::cri::{in_time, refused};
use berth_testkit::specs::Container;
use cri::{ContainerState, PodSandboxState};
use tonic::Code;

use super::Subject;
use super::conformance::{entries, entry, whole_count, written_limit};

fn image() -> String {
    reference("wasm")
}

/// A container whose program is told to do this.
fn does(name: &str, words: &[&str]) -> Container {
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    Container::new(name, &image()).with(|config| config.args = words)
}

fn limited(container: Container, bytes: i64) -> Container {
    container.resources(|limits| {
        limits.memory_limit_in_bytes = bytes;
        limits.memory_swap_limit_in_bytes = bytes;
    })
}

/// States, exit codes, and a module that is not there or is none.
pub(super) async fn lifecycle(bed: &mut Bed, _: &Subject) -> Result<()> {
    let cri = &bed.cri;
    let pod = cri.run(&bed.pod("life")).await?;
    assert_eq!(cri.pod_status(&pod.id).await?.state(), PodSandboxState::SandboxReady);
    let id = cri.create(&pod, &does("a", &["exit", "3"])).await?;
    assert_eq!(cri.container(&id).await?.state(), ContainerState::ContainerCreated);
    cri.start(&id).await?;
    let status = cri.exited(&id).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
    cri.remove(&id).await?;
    assert_eq!(refused(cri.container(&id).await), Code::NotFound);

    // A component tells success from failure, and no more.
    let id = cri.launch(&pod, &does("component", &[]).command(&["/component.wasm"])).await?;
    assert_eq!(cri.exited(&id).await?.exit_code, 1);
    for (name, path) in [("b", "/no/such.wasm"), ("c", "/etc/hosts")] {
        let id = cri.create(&pod, &does(name, &[]).command(&[path])).await?;
        let error = cri.start(&id).await.expect_err("that is no module");
        assert!(error.message().contains(path), "{error}");
        let status = cri.container(&id).await?;
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    }

    // It knows no signals: SIGTERM ends it.
    let id = cri.launch(&pod, &does("d", &["idle"])).await?;
    let pid = bed.pid(&id).await?;
    cri.stop(&id, 30).await?;
    assert_eq!(cri.container(&id).await?.exit_code, 143);
    assert!(bed.is_dead(pid));
    let id = cri.launch(&pod, &does("e", &["busy"])).await?;
    cri.stop(&id, 0).await?;
    assert_eq!(cri.container(&id).await?.exit_code, 137);
    let id = cri.launch(&pod, &does("f", &["idle"])).await?;
    let refusal = refused(cri.exec(&id, &["/program.wasm"]).await);
    assert_eq!(refusal, Code::Unimplemented, "there are no commands");

    cri.stop_pod(&pod.id).await?;
    assert_eq!(cri.container(&id).await?.state(), ContainerState::ContainerExited);
    assert_eq!(cri.pod_status(&pod.id).await?.state(), PodSandboxState::SandboxNotready);
    cri.remove_pod(&pod.id).await?;
    assert!(cri.pods().await?.is_empty());
    Ok(())
}

/// What a module is given: arguments, environment, its image's files, mounts, the pod's network.
pub(super) async fn namespaces(bed: &mut Bed, _: &Subject) -> Result<()> {
    let cri = &bed.cri;
    let pod = cri.run(&bed.pod("given")).await?;
    let given = bed.node.disk().join("given");
    fs::create_dir_all(&given)?;
    fs::write(given.join("file"), "from a volume")?;
    let says = async |name: &str, container: Container| -> Result<String> {
        let id = cri.launch(&pod, &container).await?;
        assert_eq!(cri.exited(&id).await?.exit_code, 0);
        let said = entries(&bed.logs("given").join(format!("{name}.0.log")))?;
        Ok(said.into_iter().map(|(_, _, text)| text).collect::<Vec<_>>().join("\n"))
    };
    let said = says("args", does("args", &["args", "one", "two words"])).await?;
    assert_eq!(said, "/program.wasm\nargs\none\ntwo words");
    let said = says("vars", does("vars", &["vars"]).env("COLOUR", "blue")).await?;
    assert!(said.lines().any(|line| line == "COLOUR=blue"), "{said}");
    let said = says("own", does("own", &["file", "/hello"])).await?;
    assert_eq!(said, "hello from the image");
    let mounted = does("volume", &["file", "/data/file"]).mount(&given, "/data");
    assert_eq!(says("volume", mounted).await?, "from a volume");
    assert_eq!(says("name", does("name", &["file", "/etc/hostname"])).await?, "given");

    let locked = does("locked", &["idle"]).security(|security| security.readonly_rootfs = true);
    let id = cri.launch(&pod, &locked).await?;
    let table = format!("/proc/{}/mountinfo", bed.pid(&id).await?);
    let table = fs::read_to_string(bed.node.path(&table))?;
    let root = table.lines().find(|line| line.split(' ').nth(4) == Some("/"));
    let flags = root.and_then(|line| line.split(' ').nth(5)).context("a root")?;
    assert!(flags.starts_with("ro,") && flags.contains("nodev"), "{table}");

    // The network is the pod's.
    let ip = cri.pod_status(&pod.id).await?.network.context("a network")?.ip;
    let id = cri.launch(&pod, &does("idle", &["idle"])).await?;
    let addresses = format!("nsenter -t {} -n ip -o addr show eth0", bed.pid(&id).await?);
    let seen = bed.node.run("sh", &["-c", &addresses])?;
    assert!(seen.contains(&ip), "{seen}");
    Ok(())
}

/// Logs, and their rotation.
pub(super) async fn streams(bed: &mut Bed, _: &Subject) -> Result<()> {
    let cri = &bed.cri;
    let pod = cri.run(&bed.pod("talk")).await?;
    let path = |name: &str| bed.logs("talk").join(format!("{name}.0.log"));
    let id = cri.create(&pod, &does("a", &["say"])).await?;
    assert!(!path("a").exists(), "the kubelet counts starts by log files: none before the start");
    cri.start(&id).await?;
    cri.exited(&id).await?;
    let mut said = entries(&path("a"))?;
    said.sort_by(|a, b| a.0.cmp(&b.0));
    let wanted =
        [entry("stderr", "F", "err"), entry("stdout", "F", "out"), entry("stdout", "F", "end")];
    assert_eq!(said, wanted);

    let id = cri.launch(&pod, &does("long", &["long"])).await?;
    cri.exited(&id).await?;
    let said = entries(&path("long"))?;
    let shape: Vec<_> = said.iter().map(|(_, tag, text)| (tag.as_str(), text.len())).collect();
    assert_eq!(shape, [("P", 16384), ("P", 16384), ("F", 7232), ("F", 5)]);

    let id = cri.launch(&pod, &does("rotate", &["count", "20000", "idle"])).await?;
    let old = path("rotate").with_extension("log.1");
    fs::rename(path("rotate"), &old)?;
    let request = cri::ReopenContainerLogRequest { container_id: id.clone() };
    cri.runtime.clone().reopen_container_log(in_time(request)).await?;
    assert!(path("rotate").exists(), "reopen answers when the new file is there");
    let last = || Ok::<_, anyhow::Error>([entries(&old)?, entries(&path("rotate"))?].concat());
    eventually(
        || "not all is said".to_owned(),
        async || Ok(last()?.last().is_some_and(|(_, _, text)| text == "20000").then_some(())),
    )
    .await?;
    let numbers =
        last()?.iter().map(|(_, _, text)| Ok(text.parse()?)).collect::<Result<Vec<u32>>>();
    assert!(numbers?.into_iter().eq(1..=20000));
    Ok(())
}

/// Figures, and limits that change.
pub(super) async fn limits(bed: &mut Bed, _: &Subject) -> Result<()> {
    let cri = &bed.cri;
    let pod = cri.run(&bed.pod("limits")).await?;
    let busy = does("a", &["busy"]).resources(|limits| limits.memory_limit_in_bytes = 128 << 20);
    let id = cri.launch(&pod, &busy).await?;
    let stats = async || {
        let request = in_time(cri::ContainerStatsRequest { container_id: id.clone() });
        let answer = cri.runtime.clone().container_stats(request).await?.into_inner();
        let stats = answer.stats.context("figures")?;
        let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).map_or(0, |cpu| cpu.value);
        let memory = stats.memory.and_then(|memory| memory.working_set_bytes);
        Ok::<_, anyhow::Error>((cpu, memory.map_or(0, |memory| memory.value)))
    };
    let (first, _) = stats().await?;
    eventually(
        || "it takes neither time nor memory".to_owned(),
        async || {
            let (cpu, memory) = stats().await?;
            Ok((cpu > first + 50_000_000 && memory > 8 << 20).then_some(()))
        },
    )
    .await?;
    let limits =
        cri::LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
    let request = in_time(cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(limits),
        ..Default::default()
    });
    cri.runtime.clone().update_container_resources(request).await?;
    written_limit(bed, &id, 96 << 20).await
}

/// A module that takes more memory than it may.
pub(super) async fn oom(bed: &mut Bed, _: &Subject) -> Result<()> {
    let pod = bed.cri.run(&bed.pod("oom")).await?;
    let id = bed.cri.launch(&pod, &limited(does("a", &["grow"]), 64 << 20)).await?;
    let status = bed.cri.exited(&id).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    Ok(())
}

/// The daemon is killed under live pods: they live on, and what they say is whole.
pub(super) async fn restart(bed: &mut Bed, _: &Subject) -> Result<()> {
    let pod = bed.cri.run(&bed.pod("alive")).await?;
    let id = bed.cri.launch(&pod, &does("main", &["idle"])).await?;
    let created = bed.cri.create(&pod, &does("later", &["idle"])).await?;
    let counts = bed.cri.launch(&pod, &does("counts", &["count", "60000", "idle"])).await?;
    let before = (bed.identity(&id).await?, bed.identity(&counts).await?);
    for _ in 0..3 {
        bed.crash().await?;
        assert_eq!((bed.identity(&id).await?, bed.identity(&counts).await?), before);
        assert_eq!(bed.cri.pod_status(&pod.id).await?.state(), PodSandboxState::SandboxReady);
    }
    bed.cri.start(&created).await?;
    let path = bed.logs("alive").join("counts.0.log");
    bed.file_says(&path, " 60000\n").await?;
    whole_count(&path)?;
    bed.cri.stop_pod(&pod.id).await?;
    bed.cri.remove_pod(&pod.id).await?;
    Ok(())
}

/// What ends while no daemon runs is told by the next one: the exit, the lack of memory, the words.
pub(super) async fn last_words(bed: &mut Bed, _: &Subject) -> Result<()> {
    let pod = bed.cri.run(&bed.pod("missed")).await?;
    let go = bed.node.disk().join("go");
    fs::create_dir_all(&go)?;
    let ends = does("a", &["wait", "/go/now", "count", "3", "exit", "9"]).mount(&go, "/go");
    let ends = bed.cri.launch(&pod, &ends).await?;
    let greedy = limited(does("b", &["wait", "/go/now", "grow"]).mount(&go, "/go"), 64 << 20);
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
    assert!(bed.log("missed")?.ends_with(" 3\n"));
    let status = bed.cri.exited(&greedy).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    Ok(())
}

/// The shim is killed: everything of its containers is dead before they are listed as ended, the
/// pod can be removed, and no other notices. The same with the daemon killed as well.
pub(super) async fn death(bed: &mut Bed, subject: &Subject) -> Result<()> {
    let other = bed.cri.run(&bed.pod("other")).await?;
    let bystander = bed.cri.launch(&other, &does("main", &["idle"])).await?;
    let untouched = bed.identity(&bystander).await?;
    for with_daemon in [false, true] {
        let pod = bed.cri.run(&bed.pod("dies")).await?;
        let ids = [
            bed.cri.launch(&pod, &does("a", &["busy"])).await?,
            bed.cri.launch(&pod, &does("b", &["idle"])).await?,
        ];
        let pids = [bed.pid(&ids[0]).await?, bed.pid(&ids[1]).await?];
        let begin = Instant::now();
        if with_daemon {
            bed.node.kill_daemon()?;
            subject.kill_shim_of(bed, &pod.id)?;
            bed.start().await?;
        } else {
            subject.kill_shim_of(bed, &pod.id)?;
        }
        for (id, pid) in ids.iter().zip(pids) {
            let status = bed.cri.exited(id).await?;
            assert!(bed.is_dead(pid), "who is listed as ended is dead");
            assert_eq!((status.exit_code, status.reason.as_str()), (255, "Error"));
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        let state = bed.cri.pod_status(&pod.id).await?.state();
        assert_eq!(state, PodSandboxState::SandboxNotready);
        bed.cri.stop_pod(&pod.id).await?;
        bed.cri.remove_pod(&pod.id).await?;
        assert_eq!(bed.identity(&bystander).await?, untouched);
    }
    let state = bed.cri.pod_status(&other.id).await?.state();
    assert_eq!(state, PodSandboxState::SandboxReady);
    Ok(())
}
