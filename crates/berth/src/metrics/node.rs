//! Pods, containers, work in progress and leftovers, from the node's report.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use berth_image::Store;
use berth_lifecycle::{ContainerState, NodeReport, Step};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = Vec<(&'static str, String)>;

/// Adds the state of the node to what is answered.
pub(crate) fn describe_node(registry: &mut Registry, report: &NodeReport) {
    let mut pods = BTreeMap::from([("ready", 0), ("not_ready", 0), ("being_created", 0)]);
    let mut containers =
        BTreeMap::from([("created", 0), ("running", 0), ("exited", 0), ("unknown", 0)]);
    let mut jobs = BTreeMap::new();
    let mut handlers = BTreeMap::from([("offered", 0), ("broken", 0)]);
    for handler in &report.handlers {
        let state = if handler.broken.is_none() { "offered" } else { "broken" };
        *handlers.entry(state).or_default() += 1;
    }
    gauges(registry, "berth_handlers", "Runtime handlers by state", "state", handlers);
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
    let version = env!("CARGO_PKG_VERSION");
    let labels: Labels = vec![("version", version.to_owned())];
    let build = Family::<Labels, Gauge>::default();
    build.get_or_create(&labels).set(1);
    registry.register("berth_build_info", "Which Berth this is", build);
}

/// Adds how often each step ended how, and the time spent in it.
pub(crate) fn describe_steps(registry: &mut Registry, steps: &BTreeMap<String, Step>) {
    let ended = Family::<Labels, Counter>::default();
    let seconds = Family::<Labels, Counter<f64, AtomicU64>>::default();
    for (name, step) in steps {
        for (outcome, count) in
            [("done", step.done), ("failed", step.failed), ("aborted", step.aborted)]
        {
            let labels = vec![("step", name.clone()), ("outcome", outcome.to_owned())];
            ended.get_or_create(&labels).inc_by(count);
        }
        let labels = vec![("step", name.clone())];
        seconds.get_or_create(&labels).inc_by(step.took.as_secs_f64());
    }
    registry.register("berth_steps", "Steps that ended, saves included", ended);
    registry.register("berth_step_seconds", "Time spent in steps", seconds);
}

/// Adds the images and what is being fetched of them.
pub(crate) fn describe_images(registry: &mut Registry, images: &Store) {
    let gauge = |count: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        gauge
    };
    registry.register("berth_images", "Images", gauge(images.list().len() as u64));
    let help = "Layers that are being fetched or unpacked";
    registry.register("berth_layers_in_transfer", help, gauge(images.transfers().len() as u64));
    let used = gauge(images.image_fs().used.bytes);
    registry.register("berth_image_bytes", "Disk that the images take", used);
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
