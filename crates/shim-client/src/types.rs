//! What a shim speaks of, in types of our own.

use std::time::{Duration, SystemTime};

use berth_proto::{task_types, types};
use protobuf::well_known_types::any::Any as WireAny;
use protobuf::well_known_types::timestamp::Timestamp;

/// A message of a type that only its readers need to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Any {
    /// The type.
    pub type_url: String,
    /// The encoded message.
    pub value: Vec<u8>,
}

impl Any {
    /// The type URL of a process, encoded as JSON.
    pub const PROCESS: &'static str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
    /// The type URL of a CRI sandbox configuration, for [`crate::CreateSandbox`].
    pub const SANDBOX_CONFIG: &'static str = "runtime.v1.PodSandboxConfig";
    /// The type URL of resources, encoded as JSON.
    pub const RESOURCES: &'static str =
        "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

    pub(crate) fn into_wire(self) -> WireAny {
        WireAny { type_url: self.type_url, value: self.value, ..WireAny::default() }
    }
}

impl From<WireAny> for Any {
    fn from(wire: WireAny) -> Any {
        Any { type_url: wire.type_url, value: wire.value }
    }
}

/// A mount that the shim makes for a rootfs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// File system type.
    pub kind: String,
    /// Source.
    pub source: String,
    /// Target below the rootfs; mostly empty.
    pub target: String,
    /// Options.
    pub options: Vec<String>,
}

impl Mount {
    pub(crate) fn into_wire(self) -> types::Mount {
        types::Mount {
            type_: self.kind,
            source: self.source,
            target: self.target,
            options: self.options,
            ..types::Mount::default()
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exited {
    /// Exit code; 128 + n for signal n.
    pub status: u32,
    /// When; none if the shim does not say.
    pub at: Option<SystemTime>,
}

/// The state of a task or exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The shim cannot tell.
    Unknown,
    /// Created and not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Stopped,
    /// Frozen.
    Paused,
    /// About to be frozen.
    Pausing,
}

impl From<task_types::Status> for Status {
    fn from(wire: task_types::Status) -> Status {
        match wire {
            task_types::Status::UNKNOWN => Status::Unknown,
            task_types::Status::CREATED => Status::Created,
            task_types::Status::RUNNING => Status::Running,
            task_types::Status::STOPPED => Status::Stopped,
            task_types::Status::PAUSED => Status::Paused,
            task_types::Status::PAUSING => Status::Pausing,
        }
    }
}

/// A time as shims send it. Go's zero time (the year 1) and what is not given mean "none".
pub(crate) fn time(wire: Option<&Timestamp>) -> Option<SystemTime> {
    let wire = wire?;
    let seconds = u64::try_from(wire.seconds).ok().filter(|seconds| *seconds > 0)?;
    let nanos = u32::try_from(wire.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_are_none_are_none() {
        let stamp =
            |seconds, nanos| time(Some(&Timestamp { seconds, nanos, ..Timestamp::default() }));
        assert_eq!(time(None), None);
        assert_eq!(stamp(0, 0), None);
        assert_eq!(stamp(-62_135_596_800, 0), None);
        assert_eq!(stamp(1, -1), None);
        assert_eq!(stamp(1, 5), Some(SystemTime::UNIX_EPOCH + Duration::new(1, 5)));
    }
}
