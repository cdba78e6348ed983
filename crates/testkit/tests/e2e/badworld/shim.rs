//! Berth's own shim: missing, not to be executed, failing, stopped, killed between two calls.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, eventually, on_a_node, on_a_node_with};
use berth_testkit::config::Config;
use berth_testkit::specs::Container;
use cri::{ContainerState, PodSandboxState};
use tonic::Code;

use super::{
    executable, next_pod_is_fine, nothing_left_over, on_a_node_with_runtime, says, works_in,
};

#[test]
fn a_shim_that_cannot_be_started_fails_its_pod_and_says_why() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (program, away) = (dir.path().join("shim"), dir.path().join("away"));
    let real = berth_testkit::paths::small()?.join("containerd-shim-berth-v1");
    executable(&program, &format!("#!/bin/sh\nexec {} \"$@\"\n", real.display()))?;
    let handler = format!("[handlers.berth]\nshim = {program:?}\n");
    let config = Config::default().drop_in("50-shim.toml", &handler);
    on_a_node_with(config, &["busybox"], async |bed| {
        let (pod, id) = bed.idle("before").await?;
        let named = program.display().to_string();
        std::fs::rename(&program, &away)?;
        says(bed.cri.run(&bed.pod("missing")).await, Code::Unavailable, &[&named]);
        std::fs::write(&program, "not a program")?;
        says(bed.cri.run(&bed.pod("plain")).await, Code::Unavailable, &[&named]);
        executable(&program, "#!/bin/sh\necho no luck today >&2\nexit 3\n")?;
        says(bed.cri.run(&bed.pod("fails")).await, Code::Internal, &[&named, "no luck today"]);
        executable(&program, "#!/bin/sh\nexit 0\n")?;
        says(bed.cri.run(&bed.pod("silent")).await, Code::Internal, &["answer"]);
        executable(&program, "#!/bin/sh\nkill -9 $$\n")?;
        says(bed.cri.run(&bed.pod("killed")).await, Code::Internal, &[&named]);
        // What failed is let go, though the shim that would clean up after it cannot.
        eventually(
            || "a pod that failed stays".to_owned(),
            async || Ok((bed.cri.pods().await?.len() == 1).then_some(())),
        )
        .await?;
        // A pod that runs does without the executable until its end.
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        bed.cri.clear(&pod.id).await?;
        std::fs::rename(&away, &program)?;
        next_pod_is_fine(bed, "missing").await?;
        nothing_left_over(bed).await
    })
}

#[test]
fn a_shim_whose_start_hangs_holds_up_its_own_pod_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let [program, lever, hangs] = ["shim", "lever", "hangs"].map(|name| dir.path().join(name));
    let real = berth_testkit::paths::small()?.join("containerd-shim-berth-v1");
    let stand_in = format!(
        "#!/bin/sh\ncase \"$*\" in *start*) if [ -e {lever} ]; then\n\
         echo $$ >{hangs}.new; mv {hangs}.new {hangs}; exec sleep 100000\nfi;; esac\n\
         exec {real} \"$@\"\n",
        lever = lever.display(),
        hangs = hangs.display(),
        real = real.display()
    );
    executable(&program, &stand_in)?;
    let handler = format!("[handlers.berth]\nshim = {program:?}\n");
    let config = Config::default().drop_in("50-shim.toml", &handler);
    on_a_node_with(config, &["busybox"], async |bed| {
        let hanging = async || -> Result<u32> {
            let what = || "no shim hangs".to_owned();
            let pid = eventually(what, async || Ok(std::fs::read_to_string(&hangs).ok())).await?;
            std::fs::remove_file(&hangs)?;
            pid.trim().parse().context("a pid")
        };
        let (other, bystander) = bed.idle("other").await?;
        std::fs::write(&lever, "")?;
        let (cri, pod) = (bed.cri.clone(), bed.pod("hung"));
        let (caller, asked) = (cri.clone(), pod.clone());
        let call = tokio::spawn(async move { caller.run(&asked).await });
        let first = hanging().await?;
        assert_eq!(bed.cri.pods().await?.len(), 1, "what is not made is not listed");
        assert_eq!(bed.cri.shell(&bystander, "echo works").await?, "works");
        works_in(bed, &other, "meanwhile").await?;

        // A new daemon ends that start and makes its own, which goes no better.
        bed.crash().await?;
        call.await?.expect_err("its daemon died");
        let second = hanging().await?;
        assert!(bed.is_dead(first), "the start that nobody waits for goes on");
        // Asked for anew, in another way, it is rolled back at once.
        std::fs::remove_file(&lever)?;
        let running = bed.cri.run(&pod.label("changed", "yes")).await?;
        assert!(bed.is_dead(second), "the start that is not wanted goes on");
        works_in(bed, &running, "main").await?;
        bed.cri.clear(&running.id).await?;
        bed.cri.clear(&other.id).await?;
        nothing_left_over(bed).await
    })
}

#[test]
fn a_shim_that_is_stopped_holds_up_nobody_but_its_own_pod() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, id) = bed.idle("frozen").await?;
        let (other, bystander) = bed.idle("other").await?;
        let untouched = bed.identity(&bystander).await?;
        let pid = bed.pid(&id).await?;
        bed.node.run("kill", &["-STOP", &shim_of(bed, &pod.id)?])?;
        let begin = Instant::now();
        assert_eq!(bed.cri.containers().await?.len(), 2);
        assert_eq!(bed.cri.pods().await?.len(), 2);
        assert!(begin.elapsed() < Duration::from_secs(5), "lists come from memory");
        says(bed.cri.exec_within(&id, &["true"], 1).await, Code::DeadlineExceeded, &[]);
        assert_eq!(bed.cri.shell(&bystander, "echo works").await?, "works");
        bed.cri.stop_pod(&pod.id).await?;
        assert!(bed.is_dead(pid), "its process is dead, too");
        bed.cri.remove_pod(&pod.id).await?;
        assert_eq!(bed.identity(&bystander).await?, untouched);
        bed.cri.clear(&other.id).await?;
        next_pod_is_fine(bed, "frozen").await
    })
}

#[test]
fn a_shim_that_is_killed_takes_its_pod_along_and_no_other() -> Result<()> {
    on_a_node_with_runtime(async |bed, runtime| {
        let (other, bystander) = bed.idle("other").await?;
        let untouched = bed.identity(&bystander).await?;

        // Between create and start of a container.
        let (pod, running) = bed.idle("between").await?;
        let id = bed.cri.create(&pod, &Container::idle("late", &busybox())).await?;
        runtime.set("create", "hang-after")?;
        let (cri, of) = (bed.cri.clone(), id.clone());
        let call = tokio::spawn(async move { cri.start(&of).await });
        runtime.hangs("create").await?;
        let begin = Instant::now();
        bed.kill_shim_of(&pod.id)?;
        says(call.await?, Code::Unavailable, &[]);
        assert_eq!(bed.cri.exited(&id).await?.reason, "StartError");
        let status = bed.cri.exited(&running).await?;
        assert_eq!((status.exit_code, status.reason.as_str()), (255, "Error"));
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        assert_eq!(processes_of(bed, &pod.id)?, "", "who is listed as ended is dead");
        let state = bed.cri.pod_status(&pod.id).await?.state();
        assert_eq!(state, PodSandboxState::SandboxNotready);
        bed.cri.clear(&pod.id).await?;
        runtime.mend("create")?;

        assert_eq!(bed.identity(&bystander).await?, untouched);
        let state = bed.cri.container(&bystander).await?.state();
        assert_eq!(state, ContainerState::ContainerRunning);
        assert_eq!(bed.cri.shell(&bystander, "echo works").await?, "works");
        bed.cri.clear(&other.id).await?;
        next_pod_is_fine(bed, "between").await
    })
}

#[test]
fn a_shim_that_the_kernel_kills_for_want_of_memory_is_a_shim_that_died() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, id) = bed.idle("starved").await?;
        let (_, bystander) = bed.idle("fed").await?;
        let untouched = bed.identity(&bystander).await?;
        let dir = bed.node.parent().dir("memory").join("berth/shims").join(&pod.id);
        let apart = !dir.exists();
        if apart {
            // Shims share one memory cgroup on v1: this one gets its own, which it cannot fill.
            let shim = shim_of(bed, &pod.id)?;
            let at = dir.display();
            bed.node.run("sh", &["-c", &format!("mkdir {at}; echo {shim} >{at}/cgroup.procs")])?;
        }
        let limit = ["memory.limit_in_bytes", "memory.max"].map(|name| dir.join(name));
        let limit = limit.iter().find(|file| file.exists()).context("a memory limit")?;
        // What it has is taken back as far as it goes; the next page is one too many.
        let mut bytes: u64 = 1 << 20;
        while std::fs::write(limit, bytes.to_string()).is_ok() && bytes > 4096 {
            bytes /= 2;
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while shim_of(bed, &pod.id).is_ok() {
            // Each command makes it take a page or two.
            let _ = bed.cri.exec_within(&id, &["true"], 1).await;
            assert!(Instant::now() < deadline, "the kernel lets the shim live");
        }
        if apart {
            bed.node.run("rmdir", &[&dir.display().to_string()])?;
        }
        assert_eq!(bed.cri.exited(&id).await?.exit_code, 255);
        assert_eq!(processes_of(bed, &pod.id)?, "");
        bed.cri.clear(&pod.id).await?;
        assert_eq!(bed.identity(&bystander).await?, untouched);
        next_pod_is_fine(bed, "starved").await
    })
}

/// The pid of a pod's shim, inside the node.
pub(super) fn shim_of(bed: &Bed, pod: &str) -> Result<String> {
    let listed = bed.node.run("ps", &["-e", "-o", "pid,args"])?;
    let own = |line: &&str| line.contains("containerd-shim-berth-v1") && line.contains(pod);
    let line = listed.lines().find(own).with_context(|| format!("a shim in\n{listed}"))?;
    Ok(line.split_whitespace().next().context("a pid")?.to_owned())
}

/// Whoever is in a pod's cgroup.
fn processes_of(bed: &Bed, pod: &str) -> Result<String> {
    let top = bed.node.parent().dir("memory").join("berth/pods").join(format!("pod{pod}"));
    let listed = bed.node.run(
        "sh",
        &[
            "-c",
            &format!(
                "find {} -name cgroup.procs -exec cat {{}} + 2>/dev/null || true",
                top.display()
            ),
        ],
    )?;
    Ok(listed)
}
