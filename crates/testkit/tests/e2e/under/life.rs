//! States, ends, freezing, figures, events; containerd and the shim killed.

use anyhow::{Context as _, Result, ensure};
use berth_testkit::bed::{Bed, busybox, eventually};
use serde_json::Value;

use super::{
    Heard, becomes, ctr, delete, launch, on_a_node, remove, run, run_to_its_end, state, try_ctr,
};

#[test]
fn a_containers_end_is_the_commands() -> Result<()> {
    on_a_node(async |bed| {
        for (line, code) in [("exit 3", 3), ("exit 0", 0)] {
            let said = run_to_its_end(bed, &[], "a", line, "").await?;
            assert_eq!(said.code, Some(code), "{line}: {}", said.stderr);
        }
        let missing = run_to_its_end(bed, &["--env", "PATH=/nowhere"], "a", "true", "").await?;
        assert_ne!(missing.code, Some(0));
        assert!(
            missing.stderr.contains("\"sh\"") || missing.stderr.contains("`sh`"),
            "{}",
            missing.stderr
        );
        ensure!(state(bed, "a")?.is_none() && ctr(bed, &["containers", "list", "-q"])?.is_empty());

        launch(bed, &[], "b", "trap 'exit 5' TERM; touch /ready; while :; do sleep 0.05; done")?;
        assert_eq!(state(bed, "b")?.context("a task")?.1, "RUNNING");
        let ready = ["tasks", "exec", "--exec-id", "e", "b", "test", "-e", "/ready"];
        eventually(
            || "it does not get ready".to_owned(),
            async || Ok((try_ctr(bed, &ready, "").await?.code == Some(0)).then_some(())),
        )
        .await?;
        ctr(bed, &["tasks", "kill", "--signal", "TERM", "b"])?;
        becomes(bed, "b", "STOPPED").await?;
        assert_eq!(delete(bed, "b").await?, 5);
        ctr(bed, &["containers", "delete", "b"]).map(drop)
    })
}

#[test]
fn a_file_names_the_runtime() -> Result<()> {
    on_a_node(async |bed| {
        let file = bed.node.disk().join("shim.toml");
        let (path, runc) = (file.display().to_string(), "/usr/sbin/runc");
        let flags = ["--runtime-config-path", path.as_str()];
        std::fs::write(&file, format!("# ours\nBinaryName = {runc:?}\nRoot = \"/run/here\"\n"))?;
        launch(bed, &flags, "a", "exec sleep 1000")?;
        assert!(bed.node.path("/run/here/tests/a").exists());
        remove(bed, "a").await?;
        std::fs::remove_dir(bed.node.path("/run/here/tests"))?;
        std::fs::remove_dir(bed.node.path("/run/here"))?;

        std::fs::write(&file, "Binary = 1\n")?;
        let words = run(bed, &flags, "b", "true")?;
        let said = try_ctr(bed, &words.iter().map(String::as_str).collect::<Vec<_>>(), "").await?;
        assert_ne!(said.code, Some(0));
        assert!(said.stderr.contains("Binary = 1"), "{}", said.stderr);
        ctr(bed, &["containers", "delete", "b"]).map(drop)
    })
}

#[test]
fn a_frozen_task_stands_still() -> Result<()> {
    on_a_node(async |bed| {
        launch(bed, &[], "a", "i=0; while :; do i=$((i+1)); echo $i > /i; sleep 0.01; done")?;
        let (pid, _) = state(bed, "a")?.context("a task")?;
        let number = || {
            let path = bed.node.path(&format!("/proc/{pid}/root/i"));
            anyhow::Ok(std::fs::read_to_string(path)?.trim().parse::<u64>().unwrap_or(0))
        };
        let goes_on = async |from: u64| {
            let more = async || Ok((number()? > from).then_some(()));
            eventually(|| format!("it stays at {from}"), more).await
        };
        eventually(|| "it never counts".to_owned(), async || Ok(number().ok().map(drop))).await?;
        goes_on(number()?).await?;
        ctr(bed, &["tasks", "pause", "a"])?;
        assert_eq!(state(bed, "a")?.context("a task")?.1, "PAUSED");
        let frozen = number()?;
        let refused = try_ctr(bed, &["tasks", "exec", "--exec-id", "e", "a", "true"], "").await?;
        assert_ne!(refused.code, Some(0));
        assert_eq!(number()?, frozen);
        ctr(bed, &["tasks", "resume", "a"])?;
        goes_on(frozen).await?;
        remove(bed, "a").await
    })
}

#[test]
fn containerd_understands_the_figures() -> Result<()> {
    on_a_node(async |bed| {
        launch(
            bed,
            &["--memory-limit", "67108864"],
            "a",
            "head -c 8000000 /dev/zero > /dev/shm/x; setsid sleep 1000 & while :; do :; done",
        )?;
        let figures = || -> Result<(u64, u64, u64)> {
            let said = ctr(bed, &["tasks", "metrics", "--format", "json", "a"])?;
            let all: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
            // cgroup v1 and v2 have messages of their own.
            let pick = |v1: &str, v2: &str| {
                let found = all.pointer(v1).or_else(|| all.pointer(v2)).and_then(Value::as_u64);
                found.with_context(|| format!("{v1} or {v2} in {all}"))
            };
            Ok((
                pick("/cpu/usage/total", "/cpu/usage_usec")?,
                pick("/memory/usage/usage", "/memory/usage")?,
                pick("/memory/usage/limit", "/memory/usage_limit")?,
            ))
        };
        let (first, ..) = figures()?;
        eventually(
            || "the figures do not grow".to_owned(),
            async || {
                let (cpu, memory, _) = figures()?;
                Ok((cpu > first && memory >= 8_000_000).then_some(()))
            },
        )
        .await?;
        assert_eq!(figures()?.2, 64 << 20);
        // A header and two processes; the first one is the task's.
        let (pid, _) = state(bed, "a")?.context("a task")?;
        let listed = ctr(bed, &["tasks", "ps", "a"])?;
        assert!(listed.lines().any(|line| line.starts_with(&pid.to_string())), "{listed}");
        assert_eq!(listed.lines().count(), 3, "{listed}");
        remove(bed, "a").await
    })
}

#[test]
fn events_come_in_their_order() -> Result<()> {
    on_a_node(async |bed| {
        let heard = Heard::begin(bed).await?;
        launch(bed, &[], "ordered", "while :; do sleep 1000; done")?;
        ctr(bed, &["tasks", "exec", "--exec-id", "more", "ordered", "true"])?;
        heard.wait_for("/tasks/exit", "ordered").await?;
        ctr(bed, &["tasks", "pause", "ordered"])?;
        ctr(bed, &["tasks", "resume", "ordered"])?;
        remove(bed, "ordered").await?;
        heard.wait_for("/tasks/delete", "ordered").await?;
        let wanted = "create start exec-added exec-started exit delete paused resumed exit delete";
        let wanted: Vec<_> = wanted.split(' ').map(|name| format!("/tasks/{name}")).collect();
        let once = async || {
            let topics = heard.topics("ordered")?;
            // containerd tells of the end of a task itself as well.
            Ok((topics.len() >= wanted.len() && topics[..wanted.len()] == wanted).then_some(()))
        };
        eventually(|| format!("{:?} is not {wanted:?}", heard.topics("ordered")), once).await?;

        let limit = ["--memory-limit", "16777216"];
        launch(bed, &limit, "greedy", "exec tail /dev/zero")?;
        becomes(bed, "greedy", "STOPPED").await?;
        heard.wait_for("/tasks/oom", "greedy").await?;
        assert_eq!(delete(bed, "greedy").await?, 137);
        ctr(bed, &["containers", "delete", "greedy"]).map(drop)
    })
}

#[test]
fn tasks_outlive_containerd() -> Result<()> {
    on_a_node(async |bed| {
        launch(bed, &[], "lives", "while :; do sleep 1000; done")?;
        launch(bed, &[], "ends", "until [ -e /now ]; do sleep 0.05; done; exit 9")?;
        let before = (state(bed, "lives")?, state(bed, "ends")?);
        for _ in 0..2 {
            bed.crash().await?;
            assert_eq!((state(bed, "lives")?, state(bed, "ends")?), before);
            ctr(bed, &["tasks", "exec", "--exec-id", "e", "lives", "true"])?;
        }
        let (pid, _) = before.1.context("a task")?;
        bed.node.kill_daemon()?;
        std::fs::write(bed.node.path(&format!("/proc/{pid}/root/now")), "")?;
        eventually(|| "it goes on".to_owned(), async || Ok(bed.is_dead(pid).then_some(()))).await?;
        bed.start().await?;
        becomes(bed, "ends", "STOPPED").await?;
        assert_eq!(delete(bed, "ends").await?, 9);
        ctr(bed, &["containers", "delete", "ends"])?;
        remove(bed, "lives").await
    })
}

#[test]
fn containerd_cleans_up_after_a_dead_shim() -> Result<()> {
    on_a_node(async |bed| {
        launch(bed, &[], "other", "while :; do sleep 1000; done")?;
        let other = state(bed, "other")?;
        for with_daemon in [false, true] {
            launch(bed, &["--null-io"], "dies", "setsid sleep 1234 & exec sleep 1235")?;
            family_is(bed, "2").await?;
            if with_daemon {
                bed.node.kill_daemon()?;
                bed.kill_shim_of("dies")?;
                bed.start().await?;
            } else {
                bed.kill_shim_of("dies")?;
            }
            family_is(bed, "0").await?;
            let gone = async || Ok(state(bed, "dies")?.is_none().then_some(()));
            eventually(|| "the task stays".to_owned(), gone).await?;
            ctr(bed, &["containers", "delete", "dies"])?;
            assert_eq!(state(bed, "other")?, other);
        }
        ctr(bed, &["tasks", "exec", "--exec-id", "e", "other", "true"])?;
        remove(bed, "other").await
    })
}

/// Waits until this many of the two processes of a family run.
async fn family_is(bed: &Bed, wanted: &str) -> Result<()> {
    let count = "ps -e -o args | grep -c '^sleep 123[45]$' || true";
    let is = async || Ok((bed.node.run("sh", &["-c", count])?.trim() == wanted).then_some(()));
    eventually(|| format!("not {wanted} of them run"), is).await
}

/// `ctr` in another of containerd's namespaces.
fn elsewhere(bed: &Bed, words: &[&str]) -> Result<String> {
    ctr(bed, &[&["--namespace", "other"], words].concat())
}

/// Starts a container `same` there, in a cgroup of this name.
fn launch_elsewhere(bed: &Bed, cgroup: &str) -> Result<()> {
    let cgroup = format!("{}/{cgroup}", bed.node.config().pods().context("a cgroup")?);
    let mut words = run(bed, &["--detach"], "same", "exec sleep 1000")?;
    let at = words.iter().position(|word| word.ends_with("/same")).context("its cgroup")?;
    words[at] = cgroup;
    elsewhere(bed, &words.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
}

async fn remove_elsewhere(bed: &Bed) -> Result<()> {
    elsewhere(bed, &["tasks", "kill", "--signal", "KILL", "same"])?;
    eventually(
        || "it does not stop".to_owned(),
        async || Ok(elsewhere(bed, &["tasks", "list"])?.contains("STOPPED").then_some(())),
    )
    .await?;
    elsewhere(bed, &["tasks", "delete", "--force", "same"])?;
    elsewhere(bed, &["containers", "delete", "same"]).map(drop)
}

/// containerd's namespaces know nothing of each other, and each may have a container of this id.
#[test]
fn two_namespaces_may_use_one_id() -> Result<()> {
    on_a_node(async |bed| {
        elsewhere(bed, &["images", "pull", "--plain-http", &busybox()])?;
        // The directories of the namespace stay.
        launch_elsewhere(bed, "first")?;
        remove_elsewhere(bed).await?;
        bed.settle()?;

        launch(bed, &[], "same", "exec sleep 1000")?;
        launch_elsewhere(bed, "second")?;
        assert_eq!(state(bed, "same")?.context("a task")?.1, "RUNNING");
        remove(bed, "same").await?;
        assert!(elsewhere(bed, &["tasks", "list"])?.contains("RUNNING"));
        remove_elsewhere(bed).await
    })
}

/// With a container everything in its cgroup is killed.
#[test]
fn no_container_begins_in_a_cgroup_where_somebody_is() -> Result<()> {
    on_a_node(async |bed| {
        launch(bed, &[], "a", "exec sleep 1000")?;
        let mut words = run(bed, &["--rm"], "b", "exit 3")?;
        let at = words.iter().position(|word| word.ends_with("/b")).context("its cgroup")?;
        words[at] = words[at].trim_end_matches('b').to_owned() + "a";
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let refused = try_ctr(bed, &words, "").await?;
        assert!(refused.stderr.contains("has processes already"), "{}", refused.stderr);
        assert_eq!(state(bed, "a")?.context("a task")?.1, "RUNNING");
        remove(bed, "a").await
    })
}
