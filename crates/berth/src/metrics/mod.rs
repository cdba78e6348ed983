//! Prometheus metrics: counted where things happen, gathered when somebody asks.

mod http;
mod node;

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tonic::Code;

pub(crate) use http::{Gather, serve};
pub(crate) use node::{describe_images, describe_node, describe_steps};

/// From a list out of memory to a pull.
const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

#[derive(Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(SECONDS)
    }
}

/// Calls, counted as they end. Clones count together.
#[derive(Clone)]
pub(crate) struct Calls {
    ended: Family<Call, Counter>,
    seconds: Family<Method, Histogram, Buckets>,
}

impl Default for Calls {
    fn default() -> Self {
        Self { ended: Family::default(), seconds: Family::new_with_constructor(Buckets) }
    }
}

impl Calls {
    /// Counts one.
    pub(crate) fn count(&self, method: &'static str, code: Code, took: Duration) {
        self.ended.get_or_create(&Call { method, code: name(code) }).inc();
        self.seconds.get_or_create(&Method { method }).observe(took.as_secs_f64());
    }

    /// Adds them to what is answered.
    pub(crate) fn describe(&self, registry: &mut Registry) {
        let help = "CRI calls by method and gRPC code";
        registry.register("berth_cri_calls", help, self.ended.clone());
        let help = "How long CRI calls took";
        registry.register("berth_cri_call_seconds", help, self.seconds.clone());
    }
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_come_out_by_method_and_code_with_their_durations() {
        let calls = Calls::default();
        calls.count("Version", Code::Ok, Duration::from_millis(3));
        calls.count("Version", Code::Ok, Duration::from_millis(3));
        calls.count("RunPodSandbox", Code::Aborted, Duration::from_secs(1));
        let mut registry = Registry::default();
        calls.describe(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "berth_cri_calls_total{method=\"Version\",code=\"OK\"} 2",
            "berth_cri_calls_total{method=\"RunPodSandbox\",code=\"Aborted\"} 1",
            "berth_cri_call_seconds_bucket{le=\"0.005\",method=\"Version\"} 2",
            "berth_cri_call_seconds_count{method=\"RunPodSandbox\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
