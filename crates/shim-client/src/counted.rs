//! Task.Stats: what a shim counts of a task, in either of the two forms.

use berth_proto::{cgroups_v1 as v1, cgroups_v2 as v2};

use crate::decode::decode;
use crate::{Error, Result, Shim};

/// What is counted of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Processor time, ns.
    pub cpu_ns: u64,
    /// Memory, bytes: all of it.
    pub memory: u64,
    /// Memory without file pages that could be dropped at once, bytes.
    pub working_set: u64,
    /// Anonymous memory, bytes.
    pub rss: u64,
}

impl Shim {
    /// Stats of a task, as far as they are read.
    ///
    /// # Errors
    /// As each call; the answer is in neither form.
    pub async fn counted(&self, id: &str) -> Result<Counted> {
        let any = self.stats(id).await?.unwrap_or_default();
        Counted::read(&any.type_url, &any.value)
    }
}

impl Counted {
    fn read(kind: &str, value: &[u8]) -> Result<Self> {
        let unfit = |problem: String| Error::Answer { problem: format!("to Stats: {problem}") };
        match kind.rsplit('/').next().unwrap_or_default() {
            "io.containerd.cgroups.v1.Metrics" => {
                let metrics = decode::<v1::Metrics>(value).map_err(|e| unfit(e.to_string()))?;
                Ok(Self::of_v1(&metrics))
            }
            "io.containerd.cgroups.v2.Metrics" => {
                let metrics = decode::<v2::Metrics>(value).map_err(|e| unfit(e.to_string()))?;
                Ok(Self::of_v2(&metrics))
            }
            other => Err(unfit(format!("figures of type {other:?}"))),
        }
    }

    fn of_v1(metrics: &v1::Metrics) -> Self {
        let usage = metrics.memory.usage.usage;
        Self {
            cpu_ns: metrics.cpu.usage.total,
            memory: usage,
            working_set: usage.saturating_sub(metrics.memory.total_inactive_file),
            rss: metrics.memory.total_rss,
        }
    }

    fn of_v2(metrics: &v2::Metrics) -> Self {
        Self {
            cpu_ns: metrics.cpu.usage_usec.saturating_mul(1000),
            memory: metrics.memory.usage,
            working_set: metrics.memory.usage.saturating_sub(metrics.memory.inactive_file),
            rss: metrics.memory.anon,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::{Message as _, MessageField};

    #[test]
    fn both_forms_are_read_and_no_other() {
        let memory =
            v2::MemoryStat { usage: 100, inactive_file: 30, anon: 50, ..Default::default() };
        let metrics = v2::Metrics {
            cpu: MessageField::some(v2::CPUStat { usage_usec: 7, ..Default::default() }),
            memory: MessageField::some(memory),
            ..Default::default()
        };
        let value = metrics.write_to_bytes().unwrap();
        let counted = Counted::read("io.containerd.cgroups.v2.Metrics", &value).unwrap();
        assert_eq!(counted, Counted { cpu_ns: 7000, memory: 100, working_set: 70, rss: 50 });

        let usage = v1::CPUUsage { total: 7, ..Default::default() };
        let cpu = v1::CPUStat { usage: MessageField::some(usage), ..Default::default() };
        let entry = v1::MemoryEntry { usage: 100, ..Default::default() };
        let memory = v1::MemoryStat {
            usage: MessageField::some(entry),
            total_inactive_file: 30,
            total_rss: 50,
            ..Default::default()
        };
        let metrics = v1::Metrics {
            cpu: MessageField::some(cpu),
            memory: MessageField::some(memory),
            ..Default::default()
        };
        let value = metrics.write_to_bytes().unwrap();
        let kind = "types.googleapis.com/io.containerd.cgroups.v1.Metrics";
        let counted = Counted::read(kind, &value).unwrap();
        assert_eq!(counted, Counted { cpu_ns: 7, memory: 100, working_set: 70, rss: 50 });
        Counted::read("something.else", &value).unwrap_err();
    }
}
