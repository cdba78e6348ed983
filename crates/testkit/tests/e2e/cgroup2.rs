//! What only cgroup v2 has, and systemd as the one who makes cgroups: read in the kernel's files. Like the long
//! tests they are left out by default: `make test-cgroup2` runs them, in a machine of their own.

use std::fs;

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, eventually, on_a_node};
use berth_testkit::cri::in_time;
use berth_testkit::guest::Driver;
use berth_testkit::specs::{Container, Pod};

/// The path of the cgroup that a container's first process lives in.
async fn path(bed: &Bed, id: &str) -> Result<String> {
    let pid = bed.pid(id).await?;
    let table = fs::read_to_string(bed.node.path(&format!("/proc/{pid}/cgroup")))?;
    Ok(table.trim().strip_prefix("0::").context("cgroup v2: make test-cgroup2 has it")?.to_owned())
}

/// What a file of a cgroup says.
fn read(path: &str, file: &str) -> Result<String> {
    let file = format!("/sys/fs/cgroup{path}/{file}");
    let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    Ok(text.trim().to_owned())
}

async fn update(
    bed: &Bed,
    id: &str,
    change: impl FnOnce(&mut cri::LinuxContainerResources),
) -> Result<(), tonic::Status> {
    let mut linux = cri::LinuxContainerResources::default();
    change(&mut linux);
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    bed.cri.runtime.clone().update_container_resources(in_time(request)).await.map(drop)
}

async fn figures(bed: &Bed, id: &str) -> Result<cri::ContainerStats> {
    let request = in_time(cri::ContainerStatsRequest { container_id: id.to_owned() });
    bed.cri.runtime.clone().container_stats(request).await?.into_inner().stats.context("figures")
}

#[test]
fn files_are_written_by_name_at_create_and_at_update() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("unified")).await?;
        let pages = |limit| vec![cri::HugepageLimit { page_size: "2MB".to_owned(), limit }];
        let container = Container::idle("a", &busybox()).resources(|limits| {
            limits.memory_limit_in_bytes = 64 << 20;
            limits.memory_swap_limit_in_bytes = 96 << 20;
            limits.hugepage_limits = pages(4 << 20);
            limits.unified.insert("memory.high".to_owned(), (48 << 20).to_string());
            limits.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
        });
        let id = bed.cri.launch(&pod, &container).await?;
        let path = path(bed, &id).await?;
        for (file, value) in [
            ("memory.max", 64 << 20),
            ("memory.swap.max", 32 << 20),
            ("memory.high", 48 << 20),
            ("memory.oom.group", 1),
            ("hugetlb.2MB.max", 4 << 20),
        ] {
            assert_eq!(read(&path, file)?, value.to_string(), "{file}");
        }
        update(bed, &id, |limits| {
            limits.hugepage_limits = pages(2 << 20);
            limits.unified.insert("memory.high".to_owned(), (40 << 20).to_string());
            limits.unified.insert("memory.low".to_owned(), (1 << 20).to_string());
        })
        .await?;
        // Of another kind, so that whoever makes cgroups writes again what it knows of.
        update(bed, &id, |limits| limits.memory_limit_in_bytes = 80 << 20).await?;
        for (file, value) in [
            ("memory.max", 80 << 20),
            // Of both together 96 MiB were asked for.
            ("memory.swap.max", 16 << 20),
            ("memory.high", 40 << 20),
            ("memory.low", 1 << 20),
            ("memory.oom.group", 1),
            ("hugetlb.2MB.max", 2 << 20),
        ] {
            assert_eq!(read(&path, file)?, value.to_string(), "{file} after the updates");
        }
        let told = bed.cri.container(&id).await?.resources.and_then(|all| all.linux);
        assert_eq!(told.context("resources")?.unified["memory.high"], (40 << 20).to_string());

        // What the kernel does not have is refused, and so is the cgroup itself.
        for (name, value) in [("memory.hihg", "1"), ("memory.high", "much"), ("cgroup.kill", "1")] {
            let change = |limits: &mut cri::LinuxContainerResources| {
                limits.unified.insert(name.to_owned(), value.to_owned());
            };
            let error = update(bed, &id, change).await.expect_err(name);
            assert!(error.message().contains(name), "{error}");
        }
        assert_eq!(read(&path, "memory.high")?, (40 << 20).to_string());
        Ok(())
    })
}

#[test]
fn pressure_and_io_are_told_as_the_kernel_counts_them() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("pressed")).await?;
        let data = bed.node.disk().join("data");
        fs::create_dir_all(&data)?;
        // Two that work within a twentieth of a processor press each other; and 4 MiB reach the disk.
        let line = "dd if=/dev/zero of=/data/x bs=1M count=4 conv=fsync 2>/dev/null; \
                    while :; do :; done & while :; do :; done";
        let container = Container::new("a", &busybox()).shell(line).mount(&data, "/data");
        let container = container.resources(|limits| {
            limits.cpu_period = 100_000;
            limits.cpu_quota = 20_000;
        });
        let id = bed.cri.launch(&pod, &container).await?;
        let path = path(bed, &id).await?;
        // `some avg10=… avg60=… avg300=… total=µs`
        let total = |file: &str| {
            let text = read(&path, file)?;
            let some = text.lines().find(|line| line.starts_with("some ")).context("some")?;
            let total = some.rsplit("total=").next().context("a total")?;
            total.parse::<u64>().map(|us| us * 1000).context("µs")
        };
        let told = async || {
            let stats = figures(bed, &id).await?;
            let some = |psi: Option<cri::PsiStats>| {
                psi.and_then(|psi| psi.some).map(|some| some.total).context("pressure")
            };
            anyhow::Ok([
                some(stats.cpu.context("cpu")?.psi)?,
                some(stats.memory.context("memory")?.psi)?,
                some(stats.io.context("io")?.psi)?,
            ])
        };
        eventually(|| "no pressure".to_owned(), async || Ok((told().await?[0] > 0).then_some(())))
            .await?;
        let files = ["cpu.pressure", "memory.pressure", "io.pressure"];
        for (at, file) in files.into_iter().enumerate() {
            let (before, said) = (total(file)?, told().await?[at]);
            assert!((before..=total(file)?).contains(&said), "{file}: {before} and {said}");
        }

        let written = async || {
            let request = in_time(cri::ListPodSandboxMetricsRequest {});
            let all = bed.cri.runtime.clone().list_pod_sandbox_metrics(request).await?.into_inner();
            let containers = all.pod_metrics.into_iter().flat_map(|pod| pod.container_metrics);
            let own = containers.filter(|one| one.container_id == id);
            let series = own.flat_map(|one| one.metrics);
            let bytes = series.filter(|one| one.name == "container_fs_writes_bytes_total");
            let bytes: u64 = bytes.filter_map(|one| one.value).map(|value| value.value).sum();
            Ok((bytes >= 4 << 20).then_some(bytes))
        };
        let told = eventually(|| "no 4 MiB are told as written".to_owned(), written).await?;
        let io = read(&path, "io.stat")?;
        let words = io.split_whitespace().filter_map(|word| word.strip_prefix("wbytes="));
        let counted: u64 = words.filter_map(|bytes| bytes.parse::<u64>().ok()).sum();
        assert!(told <= counted && counted >= 4 << 20, "{told} and {counted}: {io}");
        Ok(())
    })
}

#[test]
fn a_want_of_memory_ends_one_process_or_with_oom_group_all_of_them() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("groups")).await?;
        let hungry = |name: &str, group: bool| {
            let line = "tail /dev/zero; echo survived; exec sleep 1000";
            Container::new(name, &busybox()).shell(line).resources(|limits| {
                limits.memory_limit_in_bytes = 16 << 20;
                limits.memory_swap_limit_in_bytes = 16 << 20;
                if group {
                    limits.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
                }
            })
        };
        let one = bed.cri.launch(&pod, &hungry("a", false)).await?;
        bed.log_says("groups", "survived").await?;
        assert_eq!(bed.cri.container(&one).await?.state(), cri::ContainerState::ContainerRunning);
        assert!(read(&path(bed, &one).await?, "memory.events")?.contains("oom_kill 1"));

        let all = bed.cri.launch(&pod, &hungry("b", true)).await?;
        let status = bed.cri.exited(&all).await?;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
        Ok(())
    })
}

/// What systemd says of a unit's property.
fn property(bed: &Bed, unit: &str, name: &str) -> Result<String> {
    let said = bed.node.run("systemctl", &["show", "--value", "--property", name, unit])?;
    Ok(said.trim().to_owned())
}

#[test]
fn with_systemd_pods_are_slices_and_containers_scopes() -> Result<()> {
    if Driver::of_tests() != Driver::Systemd {
        eprintln!("skipped: this run makes cgroups by cgroupfs");
        return Ok(());
    }
    on_a_node(async |bed| {
        let own = Pod::new("slices").linux(|linux| {
            linux.resources = Some(cri::LinuxContainerResources {
                memory_limit_in_bytes: 64 << 20,
                ..Default::default()
            });
        });
        let pod = bed.cri.run(&own).await?;
        let container = Container::idle("a", &busybox()).resources(|limits| {
            limits.memory_limit_in_bytes = 48 << 20;
            limits.cpu_shares = 512;
        });
        let id = bed.cri.launch(&pod, &container).await?;
        let top = bed.node.parent().slice().context("a slice")?.to_owned();
        let slice = format!("{}-pod{}.slice", top.trim_end_matches(".slice"), pod.id);
        let scope = format!("berth-{id}.scope");
        assert_eq!(path(bed, &id).await?, format!("/{top}/{slice}/{scope}"));
        assert_eq!(property(bed, &slice, "MemoryMax")?, (64 << 20).to_string());
        assert_eq!(property(bed, &scope, "Delegate")?, "yes");
        assert_eq!(property(bed, &scope, "Slice")?, slice);

        assert_eq!(property(bed, &scope, "MemoryMax")?, (48 << 20).to_string());
        // By itself systemd gives each scope a part of the machine's tasks.
        assert_eq!(property(bed, &scope, "TasksMax")?, "infinity");
        assert_eq!(read(&format!("/{top}/{slice}/{scope}"), "pids.max")?, "max");

        // systemd writes the limits that it knows of, and no others, when it is told to think again.
        update(bed, &id, |limits| limits.memory_limit_in_bytes = 32 << 20).await?;
        assert_eq!(property(bed, &scope, "MemoryMax")?, (32 << 20).to_string());
        bed.node.run("systemctl", &["daemon-reload"])?;
        let limit = |path: &str| read(path, "memory.max");
        assert_eq!(limit(&format!("/{top}/{slice}/{scope}"))?, (32 << 20).to_string());
        assert_eq!(limit(&format!("/{top}/{slice}"))?, (64 << 20).to_string());

        bed.crash().await?;
        bed.cri
            .runtime
            .clone()
            .update_pod_sandbox_resources(in_time(cri::UpdatePodSandboxResourcesRequest {
                pod_sandbox_id: pod.id.clone(),
                overhead: None,
                resources: Some(cri::LinuxContainerResources {
                    memory_limit_in_bytes: 96 << 20,
                    ..Default::default()
                }),
            }))
            .await?;
        assert_eq!(property(bed, &slice, "MemoryMax")?, (96 << 20).to_string());
        bed.cri.stop_pod(&pod.id).await?;
        let units = bed.node.parent().units();
        assert!(!units.contains(&scope) && !units.contains(&slice), "{units:?}");
        Ok(())
    })
}
