//! Series of one container or pod, as CRI has them.

use berth_proto::cri::v1 as cri;

use super::families::{BASE, Family};

/// Takes values and makes series of them.
pub(super) struct Writer {
    /// When they were read, ns since the epoch.
    pub(super) at: i64,
    base: [String; BASE.len()],
    metrics: Vec<cri::Metric>,
}

impl Writer {
    /// Of what has these values of the common labels.
    pub(super) fn new(at: i64, base: [String; BASE.len()]) -> Self {
        Self { at, base, metrics: Vec::new() }
    }

    /// One value; `labels` are those after the common ones.
    pub(super) fn put(&mut self, family: &Family, labels: &[&str], value: u64) {
        debug_assert_eq!(family.labels.len(), labels.len(), "{}", family.name);
        let own = labels.iter().map(|label| (*label).to_owned());
        self.metrics.push(cri::Metric {
            name: family.name.to_owned(),
            timestamp: self.at,
            metric_type: family.kind as i32,
            label_values: self.base.iter().cloned().chain(own).collect(),
            value: Some(cri::UInt64Value { value }),
        });
    }

    /// One value without labels of its own.
    pub(super) fn set(&mut self, family: &Family, value: u64) {
        self.put(family, &[], value);
    }

    pub(super) fn done(self) -> Vec<cri::Metric> {
        self.metrics
    }
}
