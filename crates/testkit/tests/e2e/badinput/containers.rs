//! Container configurations that cannot be honoured, and unlikely numbers in other calls.

use anyhow::{Result, ensure};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, on_a_node, reference};
use berth_testkit::cri::{in_time, refused};
use berth_testkit::specs::Container;
use tonic::Code;

use super::{all, refuses, the_next_pod_is_fine};

/// A container, and the words that its refusal must have: the field, the value, what to do.
type Case = (Container, Vec<&'static str>);

fn plain() -> Container {
    Container::idle("a", &busybox())
}

#[test]
fn a_container_that_cannot_be_as_it_is_asked_for_is_refused_by_its_field() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("host")).await?;
        let mut cases = names();
        cases.extend(mounts(bed)?);
        cases.extend(limits());
        cases.extend(security());
        let mut outcomes = Vec::new();
        for (container, words) in &cases {
            let answer = bed.cri.create(&pod, container).await;
            outcomes.push(refuses(&format!("{words:?}"), answer, (Code::InvalidArgument, words)));
        }
        all(outcomes)?;
        // What is not there, and what Berth does not have.
        let absent = Container::idle("a", &reference("never-pulled"));
        let words = ["never-pulled"];
        refuses("image", bed.cri.create(&pod, &absent).await, (Code::NotFound, &words))?;
        let volume = plain().mount_with("", "/image", |mount| {
            mount.image = Some(berth_testkit::cri::image(&reference("never-pulled")));
            mount.readonly = true;
        });
        let words = ["ImageVolumeMountFailed", "never-pulled", "/image"];
        refuses("volume", bed.cri.create(&pod, &volume).await, (Code::NotFound, &words))?;
        assert!(bed.cri.containers().await?.is_empty());
        the_next_pod_is_fine(bed).await
    })
}

fn names() -> Vec<Case> {
    let named =
        |name: &str| plain().with(|c| c.metadata.get_or_insert_default().name = name.into());
    let mut cases = vec![
        (plain().with(|c| c.metadata = None), vec!["config.metadata", "missing"]),
        (named(""), vec!["config.metadata.name", "missing"]),
        (named("a/../b"), vec!["config.metadata.name", "leave out"]),
        (named(&"n".repeat(1 << 20)), vec!["config.metadata.name", "253"]),
        (plain().with(|c| c.image = None), vec!["config.image.image", "missing"]),
        (plain().command(&["a\0b"]), vec!["config.command[0]", "NUL"]),
        (plain().with(|c| c.args = vec!["\0".into()]), vec!["config.args[0]", "NUL"]),
        (plain().with(|c| c.working_dir = "etc".into()), vec!["config.working_dir", "absolute"]),
        (plain().env("", "x"), vec!["config.envs[0].key"]),
        (plain().env("A=B", "x"), vec!["config.envs[0].key", "="]),
        (plain().env("KEY", "sec\0ret"), vec!["config.envs[0]", "KEY", "NUL"]),
        (plain().with(|c| c.stop_signal = 999), vec!["config.stop_signal", "999"]),
        (plain().with(|c| c.windows = Some(Default::default())), vec!["windows", "Linux"]),
    ];
    for path in ["../escaped.log", "/absolute.log", "a/../../b.log", "directory/", "nul\0.log"] {
        let container = plain().with(|config| path.clone_into(&mut config.log_path));
        cases.push((container, vec!["config.log_path"]));
    }
    cases
}

fn mounts(bed: &Bed) -> Result<Vec<Case>> {
    let disk = bed.node.disk();
    std::fs::write(disk.join("file"), "a file\n")?;
    std::os::unix::fs::symlink("nowhere", disk.join("dangling"))?;
    std::os::unix::fs::symlink("loop", disk.join("loop"))?;
    let path = |name: &str| disk.join(name);
    let exist = || vec!["host path", "does not exist"];
    let ranges = |mount: &mut cri::Mount| {
        let range = |container_id| cri::IdMapping { host_id: 9, container_id, length: 10 };
        mount.uid_mappings = vec![range(0), range(5)];
        mount.gid_mappings = vec![range(0)];
    };
    Ok(vec![
        (plain().mount(path("nothing-here"), "/x"), exist()),
        (plain().mount(path("file/below"), "/x"), vec!["host path", "Not a directory"]),
        (plain().mount(path("dangling"), "/x"), exist()),
        (plain().mount(path("loop"), "/x"), vec!["host path", "symbolic links"]),
        (plain().mount(path("../../no/such/place"), "/x"), exist()),
        (plain().mount("relative/path", "/x"), vec!["mounts[0].host_path", "absolute"]),
        (plain().mount("", "/x"), vec!["mounts[0].host_path", "missing"]),
        (plain().mount("/tmp/\0", "/x"), vec!["mounts[0].host_path", "NUL"]),
        (
            plain().mount(format!("/{}", "x".repeat(5000)), "/x"),
            vec!["host path", "File name too long"],
        ),
        (plain().mount("/tmp", "x"), vec!["mounts[0].container_path", "absolute"]),
        (plain().mount("/tmp", ""), vec!["mounts[0].container_path", "absolute"]),
        (plain().mount("/tmp", "/"), vec!["mounts[0].container_path", "below"]),
        (plain().mount("/tmp", "/a/../.."), vec!["mounts[0].container_path", "below"]),
        (
            plain().mount_with("/tmp", "/x", |mount| mount.propagation = 7),
            vec!["mounts[0].propagation", "7"],
        ),
        (plain().mount_with("/tmp", "/x", ranges), vec!["uidMappings[1]", "overlaps"]),
        (
            plain().with(|c| {
                c.devices.push(cri::Device {
                    host_path: "/etc/passwd".into(),
                    container_path: "/dev/x".into(),
                    permissions: "rw".into(),
                });
            }),
            vec!["devices", "/etc/passwd", "no device"],
        ),
    ])
}

fn limits() -> Vec<Case> {
    let with = |change: fn(&mut cri::LinuxContainerResources)| plain().resources(change);
    vec![
        (with(|r| r.oom_score_adj = 1001), vec!["oom_score_adj", "1001", "1000"]),
        (with(|r| r.oom_score_adj = i64::MIN), vec!["oom_score_adj", "-1000"]),
        (with(|r| r.cpu_shares = -1), vec!["cpu_shares", "-1"]),
        (with(|r| r.cpu_period = 1), vec!["cpu_period", "1000"]),
        (with(|r| r.cpu_period = -100_000), vec!["cpu_period"]),
        (with(|r| r.cpu_quota = 5), vec!["cpu_quota", "1000"]),
        (with(|r| r.memory_limit_in_bytes = -2), vec!["memory_limit_in_bytes", "-2"]),
        (with(|r| r.memory_swap_limit_in_bytes = i64::MIN), vec!["memory_swap_limit_in_bytes"]),
        (with(|r| r.cpuset_cpus = "0-".into()), vec!["cpuset_cpus", "0-3,7"]),
        (with(|r| r.cpuset_mems = "../0".into()), vec!["cpuset_mems"]),
        (
            with(|r| drop(r.unified.insert("../x".into(), "1".into()))),
            vec!["unified", "memory.high"],
        ),
        (
            with(|r| {
                let limit = 1;
                r.hugepage_limits = vec![cri::HugepageLimit { page_size: "big".into(), limit }];
            }),
            vec!["hugepage_limits[0].page_size", "2MB"],
        ),
    ]
}

fn security() -> Vec<Case> {
    let with = |change: fn(&mut cri::LinuxContainerSecurityContext)| plain().security(change);
    let id = |value| Some(cri::Int64Value { value });
    let user = plain().security(|s| s.run_as_user = id(-1));
    let group = plain().security(|s| s.run_as_group = id(5));
    let profile = |kind: i32, name: &str| {
        let (profile_type, localhost_ref) = (kind, name.to_owned());
        plain().security(|s| {
            s.seccomp = Some(cri::SecurityProfile { profile_type, localhost_ref });
        })
    };
    vec![
        (user, vec!["run_as_user", "-1"]),
        (group, vec!["run_as_group", "run_as_user"]),
        (with(|s| s.run_as_username = "no-such-user".into()), vec!["run_as_username"]),
        (with(|s| s.privileged = true), vec!["privileged", "sandbox"]),
        (with(|s| s.supplemental_groups = vec![1 << 40]), vec!["supplemental_groups[0]"]),
        (with(|s| s.masked_paths = vec!["proc".into()]), vec!["masked_paths[0]", "absolute"]),
        (profile(2, ""), vec!["localhost_ref"]),
        (profile(2, "relative.json"), vec!["localhost_ref", "absolute"]),
        (profile(2, "/no/such/profile.json"), vec!["/no/such/profile.json"]),
        (profile(2, "/etc/passwd"), vec!["/etc/passwd"]),
        (profile(9, ""), vec!["profile_type", "9"]),
    ]
}

#[test]
fn a_mount_through_links_is_what_the_links_lead_to() -> Result<()> {
    on_a_node(async |bed| {
        let disk = bed.node.disk().join("links");
        std::fs::create_dir_all(disk.join("real"))?;
        std::fs::write(disk.join("real/file"), "through two links\n")?;
        std::os::unix::fs::symlink("real", disk.join("one"))?;
        std::os::unix::fs::symlink(disk.join("one"), disk.join("two"))?;
        let pod = bed.cri.run(&bed.pod("linked")).await?;
        // Dots in the container's path are resolved by name, and stay within the container.
        let container = plain().mount(disk.join("two"), "/a/../../../inside/./it");
        let id = bed.cri.launch(&pod, &container).await?;
        assert_eq!(bed.cri.shell(&id, "cat /inside/it/file").await?, "through two links");
        the_next_pod_is_fine(bed).await
    })
}

#[test]
fn unlikely_numbers_overflow_nothing() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, id) = bed.idle("numbers").await?;
        // Longer than the clock can count, asked for while the container ignores the signal.
        let stubborn =
            Container::new("b", &busybox()).shell("trap '' TERM; while :; do sleep 1; done");
        let stubborn = bed.cri.launch(&pod, &stubborn).await?;
        for grace in [9_000_000_000, i64::MAX] {
            let (cri, id) = (bed.cri.clone(), stubborn.clone());
            let long = tokio::spawn(async move { cri.stop(&id, grace).await });
            // It is under way when the pod's task answers what came after it.
            bed.cri.stop_pod("unknown").await?;
            assert_eq!(bed.cri.shell(&stubborn, "echo lives").await?, "lives");
            long.abort();
        }
        // Fewer than none is none, as the kubelet sometimes computes it.
        bed.cri.stop(&stubborn, i64::MIN).await?;
        assert_eq!(bed.cri.exited(&stubborn).await?.exit_code, 137);

        assert_eq!(bed.cri.exec_within(&id, &["true"], i64::MAX).await?.exit_code, 0);
        let negative = bed.cri.exec_within(&id, &["true"], -1).await;
        refuses("a negative time-out", negative, (Code::InvalidArgument, &["timeout", "-1"]))?;
        updates(bed, &id).await?;
        assert_eq!(bed.cri.shell(&id, "echo lives").await?, "lives");
        the_next_pod_is_fine(bed).await
    })
}

async fn updates(bed: &Bed, id: &str) -> Result<()> {
    let update = async |change: fn(&mut cri::LinuxContainerResources)| {
        let mut linux = cri::LinuxContainerResources::default();
        change(&mut linux);
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        bed.cri.runtime.clone().update_container_resources(in_time(request)).await
    };
    let wanted = |word| (Code::InvalidArgument, [word]);
    let (code, words) = wanted("oom_score_adj");
    refuses("update", update(|r| r.oom_score_adj = 5000).await, (code, &words))?;
    let (code, words) = wanted("memory_limit_in_bytes");
    refuses("update", update(|r| r.memory_limit_in_bytes = -7).await, (code, &words))?;
    let (code, words) = wanted("cpu_shares");
    refuses("update", update(|r| r.cpu_shares = i64::MIN).await, (code, &words))?;
    // Taken for what it says, or refused with a reason; never the end of anything.
    let code = match update(|r| r.cpu_shares = i64::MAX).await {
        Ok(_) => Code::Ok,
        refusal => refused(refusal),
    };
    ensure!(!matches!(code, Code::Unknown), "{code:?}");
    Ok(())
}

#[test]
fn a_pod_that_stops_does_not_wait_for_the_grace_of_one_container() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("graceful")).await?;
        let stubborn = Container::new("a", &busybox())
            .shell("trap 'echo told' TERM; echo ready; while :; do sleep 0.1; done");
        let id = bed.cri.launch(&pod, &stubborn).await?;
        bed.log_says("graceful", "ready").await?;
        let (cri, own) = (bed.cri.clone(), id.clone());
        let slow = tokio::spawn(async move { cri.stop(&own, 3600).await });
        bed.log_says("graceful", "told").await?;
        // The client's own deadline is 90 s: an hour would be an error here.
        bed.cri.stop_pod(&pod.id).await?;
        slow.await??;
        assert_eq!(bed.cri.container(&id).await?.exit_code, 137);
        the_next_pod_is_fine(bed).await
    })
}
