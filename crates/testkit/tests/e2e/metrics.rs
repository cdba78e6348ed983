//! The series of cAdvisor by CRI, held against what the containers do and what the kernel says.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, eventually, on_a_node};
use berth_testkit::cri::in_time;
use berth_testkit::specs::Container;

/// What cAdvisor and the others give of every container, on cgroup v1 too.
const OF_CONTAINERS: &[&str] = &[
    "container_cpu_cfs_periods_total",
    "container_cpu_cfs_throttled_periods_total",
    "container_cpu_cfs_throttled_seconds_total",
    "container_cpu_system_seconds_total",
    "container_cpu_usage_seconds_total",
    "container_cpu_user_seconds_total",
    "container_file_descriptors",
    "container_fs_inodes_free",
    "container_fs_inodes_total",
    "container_fs_limit_bytes",
    "container_fs_usage_bytes",
    "container_last_seen",
    "container_memory_cache",
    "container_memory_failcnt",
    "container_memory_failures_total",
    "container_memory_kernel_usage",
    "container_memory_mapped_file",
    "container_memory_max_usage_bytes",
    "container_memory_rss",
    "container_memory_swap",
    "container_memory_usage_bytes",
    "container_memory_working_set_bytes",
    "container_oom_events_total",
    "container_processes",
    "container_sockets",
    "container_spec_cpu_period",
    "container_spec_cpu_quota",
    "container_spec_cpu_shares",
    "container_spec_memory_limit_bytes",
    "container_spec_memory_reservation_limit_bytes",
    "container_spec_memory_swap_limit_bytes",
    "container_start_time_seconds",
    "container_threads",
    "container_threads_max",
    "container_ulimits_soft",
];

/// What they give where there is something of the kind.
const OF_SOME: &[&str] = &[
    "container_blkio_device_usage_total",
    "container_fs_reads_bytes_total",
    "container_fs_reads_total",
    "container_fs_writes_bytes_total",
    "container_fs_writes_total",
    "container_hugetlb_max_usage_bytes",
    "container_hugetlb_usage_bytes",
    "container_pressure_cpu_stalled_seconds_total",
    "container_pressure_cpu_waiting_seconds_total",
    "container_pressure_io_stalled_seconds_total",
    "container_pressure_io_waiting_seconds_total",
    "container_pressure_memory_stalled_seconds_total",
    "container_pressure_memory_waiting_seconds_total",
];

/// What they give of a pod's network.
const OF_PODS: &[&str] = &[
    "container_network_receive_bytes_total",
    "container_network_receive_errors_total",
    "container_network_receive_packets_dropped_total",
    "container_network_receive_packets_total",
    "container_network_transmit_bytes_total",
    "container_network_transmit_errors_total",
    "container_network_transmit_packets_dropped_total",
    "container_network_transmit_packets_total",
];

/// Label keys by the name of the series.
type Keys = BTreeMap<String, Vec<String>>;

async fn descriptors(bed: &Bed) -> Result<Keys> {
    let request = in_time(cri::ListMetricDescriptorsRequest {});
    let answer = bed.cri.runtime.clone().list_metric_descriptors(request).await?.into_inner();
    for one in &answer.descriptors {
        ensure!(!one.help.is_empty() && !one.label_keys.is_empty(), "{one:?}");
    }
    Ok(answer.descriptors.into_iter().map(|one| (one.name, one.label_keys)).collect())
}

async fn list(bed: &Bed) -> Result<Vec<cri::PodSandboxMetrics>> {
    let request = in_time(cri::ListPodSandboxMetricsRequest {});
    let answer = bed.cri.runtime.clone().list_pod_sandbox_metrics(request).await?;
    Ok(answer.into_inner().pod_metrics)
}

/// The series of a container in the node's list.
async fn of_container(bed: &Bed, id: &str) -> Result<Vec<cri::Metric>> {
    let own = |pod: cri::PodSandboxMetrics| {
        pod.container_metrics.into_iter().find(|c| c.container_id == id).map(|c| c.metrics)
    };
    list(bed).await?.into_iter().find_map(own).with_context(|| format!("series of {id}"))
}

/// The value of the one series of this name that has this value among its labels.
fn value(metrics: &[cri::Metric], name: &str, label: &str) -> Result<u64> {
    let fits = |m: &&cri::Metric| {
        m.name == name && (label.is_empty() || m.label_values.iter().any(|value| value == label))
    };
    let found: Vec<_> = metrics.iter().filter(fits).collect();
    ensure!(found.len() == 1, "{} series of {name} with {label:?}", found.len());
    Ok(found[0].value.context("a value")?.value)
}

fn are_whole(metrics: &[cri::Metric], names: &[&str], keys: &Keys) -> Result<()> {
    for name in names {
        ensure!(metrics.iter().any(|m| m.name == *name), "{name} is missing");
    }
    for metric in metrics {
        let keys = keys.get(&metric.name).with_context(|| format!("a descriptor: {metric:?}"))?;
        ensure!(keys.len() == metric.label_values.len(), "{metric:?} has labels {keys:?}");
        ensure!(metric.timestamp > 0 && metric.value.is_some(), "{metric:?}");
        let name = metric.name.trim_end_matches("_inodes_total");
        let total = name.ends_with("_total") || name.ends_with("failcnt");
        ensure!((metric.metric_type() == cri::MetricType::Counter) == total, "{metric:?}");
    }
    Ok(())
}

#[test]
fn a_pod_has_every_series_with_the_labels_that_were_described() -> Result<()> {
    on_a_node(async |bed| {
        let keys = descriptors(bed).await?;
        for name in OF_CONTAINERS.iter().chain(OF_SOME).chain(OF_PODS) {
            ensure!(keys.contains_key(*name), "{name} is not described");
        }
        let pod = bed.cri.run(&bed.pod("series")).await?;
        let container = Container::idle("a", &busybox()).resources(|limits| {
            limits.cpu_period = 100_000;
            limits.cpu_quota = 20_000;
            limits.cpu_shares = 512;
            limits.memory_limit_in_bytes = 64 << 20;
            limits.memory_swap_limit_in_bytes = 64 << 20;
        });
        let id = bed.cri.launch(&pod, &container).await?;
        bed.cri.create(&pod, &Container::idle("unborn", &busybox())).await?;
        let listed = list(bed).await?;
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].pod_sandbox_id, pod.id);
        are_whole(&listed[0].metrics, OF_PODS, &keys)?;
        assert_eq!(listed[0].container_metrics.len(), 1, "what runs has series");
        let metrics = &listed[0].container_metrics[0].metrics;
        are_whole(metrics, OF_CONTAINERS, &keys)?;
        let labels: BTreeMap<_, _> =
            keys["container_threads"].iter().zip(&metrics[0].label_values).collect();
        let label = |key: &str| labels[&key.to_owned()].as_str();
        assert_eq!((label("name"), label("container")), (id.as_str(), "a"));
        assert_eq!((label("pod"), label("image")), ("series", busybox().as_str()));
        assert!(label("id").trim_end_matches(".scope").ends_with(&id), "{}", label("id"));
        for (name, expected) in [
            ("container_spec_cpu_quota", 20_000),
            ("container_spec_cpu_shares", 512),
            ("container_spec_memory_limit_bytes", 64 << 20),
        ] {
            assert_eq!(value(metrics, name, "")?, expected, "{name}");
        }

        let request = in_time(cri::StreamPodSandboxMetricsRequest {});
        let mut stream =
            bed.cri.runtime.clone().stream_pod_sandbox_metrics(request).await?.into_inner();
        let message = stream.message().await?.context("a message")?;
        assert_eq!(message.pod_sandbox_metrics.len(), 1);
        assert_eq!(message.pod_sandbox_metrics[0].container_metrics.len(), 1);
        assert!(stream.message().await?.is_none());
        bed.cri.stop_pod(&pod.id).await?;
        assert_eq!(list(bed).await?, [], "what is stopped has none");
        Ok(())
    })
}

#[test]
fn the_values_are_what_the_container_does() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("values")).await?;
        // Three processes; one of them listens, and one works.
        let line = "ulimit -Sn 777; head -c 8000000 /dev/zero > /dev/shm/x; exec 7</etc/passwd; \
                    nc -l -p 4000 & while :; do :; done & exec sleep 1000";
        let id = bed.cri.launch(&pod, &Container::new("a", &busybox()).shell(line)).await?;
        let ready = async || {
            let metrics = of_container(bed, &id).await?;
            let of = |name: &str| value(&metrics, name, "");
            let seen = (of("container_processes")?, of("container_sockets")?);
            let used = value(&metrics, "container_cpu_usage_seconds_total", "total")?;
            Ok((seen == (3, 1) && used >= 1).then_some(metrics))
        };
        let metrics = eventually(|| "three processes, one socket, 1 s of CPU".to_owned(), ready);
        let metrics = metrics.await?;
        let of = |name: &str| value(&metrics, name, "");
        assert_eq!(of("container_threads")?, 3);
        assert!(of("container_file_descriptors")? >= 9);
        assert_eq!(value(&metrics, "container_ulimits_soft", "max_open_files")?, 777);
        let used = of("container_memory_usage_bytes")?;
        assert!((8_000_000..64_000_000).contains(&used), "{used}");
        assert!(of("container_memory_max_usage_bytes")? >= 8_000_000);
        assert!(of("container_memory_cache")? >= 8_000_000, "shared memory counts as a file");
        assert!(value(&metrics, "container_memory_failures_total", "hierarchy").is_err());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let (started, seen) = (of("container_start_time_seconds")?, of("container_last_seen")?);
        assert!(started <= seen && seen <= now && now - started < 600, "{started} {seen} {now}");

        // Of the pod: its cgroup has at least what the container has, and eth0 has traffic.
        let pods = list(bed).await?;
        let pod = pods.first().map(|pod| &pod.metrics).context("series of the pod")?;
        assert!(value(pod, "container_memory_usage_bytes", "")? >= 8_000_000);
        assert!(value(pod, "container_processes", "")? >= 3);
        bed.cri
            .shell(&id, "ping -c 1 -w 5 $(ip route | awk '/default/{print $3}') || true")
            .await?;
        let pods = list(bed).await?;
        let pod = pods.first().map(|pod| &pod.metrics).context("series of the pod")?;
        assert!(value(pod, "container_network_transmit_bytes_total", "eth0")? > 0);
        assert!(value(pod, "container_network_transmit_packets_total", "eth0")? > 0);
        Ok(())
    })
}

#[test]
fn an_oom_kill_within_a_container_is_counted() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("hungry")).await?;
        let container = Container::new("a", &busybox())
            .shell("while :; do tail /dev/zero; sleep 1; done")
            .resources(|limits| {
                limits.memory_limit_in_bytes = 16 << 20;
                limits.memory_swap_limit_in_bytes = 16 << 20;
            });
        let id = bed.cri.launch(&pod, &container).await?;
        let counted = async || {
            let metrics = of_container(bed, &id).await?;
            let kills = value(&metrics, "container_oom_events_total", "")?;
            Ok((kills >= 1).then_some(()))
        };
        eventually(|| "no OOM kill is counted".to_owned(), counted).await
    })
}
