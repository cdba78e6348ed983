//! Pods, containers, work in progress and leftovers, from the node's report.

use std::collections::BTreeMap;

use berth_lifecycle::{ContainerState, NodeReport};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = Vec<(&'static str, String)>;

/// Adds the state of the node to what is answered.
pub(crate) fn describe(registry: &mut Registry, report: &NodeReport, images: usize) {
    let mut pods = BTreeMap::from([("ready", 0), ("not_ready", 0), ("being_created", 0)]);
    let mut containers =
        BTreeMap::from([("created", 0), ("running", 0), ("exited", 0), ("unknown", 0)]);
    let mut jobs = BTreeMap::new();
    for pod in &report.pods {
        let state = match (pod.listed, pod.ready) {
            (false, _) => "being_created",
            (true, true) => "ready",
            (true, false) => "not_ready",
        };
        *pods.entry(state).or_default() += 1;
        for container in &pod.containers {
            *containers.entry(word(container.state)).or_default() += 1;
        }
        for job in &pod.jobs {
            *jobs.entry(job.step.as_str()).or_default() += 1;
        }
    }
    let mut leftovers = BTreeMap::new();
    for leftover in &report.leftovers {
        *leftovers.entry(leftover.holding.as_str()).or_default() += 1;
    }
    gauges(registry, "berth_pods", "Pods by state", "state", pods);
    gauges(registry, "berth_containers", "Containers by state", "state", containers);
    gauges(registry, "berth_jobs", "Steps in progress", "step", jobs);
    let help = "What could not be released and is still tried";
    gauges(registry, "berth_leftovers", help, "holding", leftovers);
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(images).unwrap_or(i64::MAX));
    registry.register("berth_images", "Images", gauge);
    let version = env!("CARGO_PKG_VERSION");
    let labels: Labels = vec![("version", version.to_owned())];
    let build = Family::<Labels, Gauge>::default();
    build.get_or_create(&labels).set(1);
    registry.register("berth_build_info", "Which Berth this is", build);
}

fn word(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Exited => "exited",
        ContainerState::Unknown => "unknown",
    }
}

fn gauges(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    label: &'static str,
    counts: BTreeMap<&str, i64>,
) {
    let family = Family::<Labels, Gauge>::default();
    for (value, count) in counts {
        family.get_or_create(&vec![(label, value.to_owned())]).set(count);
    }
    registry.register(name, help, family);
}
