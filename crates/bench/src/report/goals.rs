//! What Berth is asked to reach in one run, and what it reached.

use super::Report;
use super::table::{Cells, number};

/// What was seen, in words, and whether it is enough.
type Seen = Option<(String, bool)>;

/// One thing that is asked.
struct Goal {
    asked: &'static str,
    seen: fn(&Report) -> Seen,
}

const OWN: &str = "berth";
const PEER: &str = "containerd";
const FLOOR: &str = "bare";

const GOALS: [Goal; 19] = [
    Goal {
        asked: "a running pod in at most half of containerd's time, or within 12 ms of the bare commands",
        seen: running,
    },
    Goal { asked: "pods a second: at least 1.5 times containerd's", seen: rate },
    Goal { asked: "pods a second: at least 75 % of the bare commands'", seen: floor },
    Goal { asked: "ExecSync ahead of containerd", seen: |report| ahead(report, "rpc/ExecSync") },
    Goal {
        asked: "stop + remove ahead of containerd",
        seen: |report| ahead(report, "rpc/stop + remove"),
    },
    Goal {
        asked: "memory of a further pod, the kernel's part included: under 0.5 MB",
        seen: |report| below(report, "memory/pod", 0.5, "MB"),
    },
    Goal {
        asked: "the daemon with all pods: under 15 MB",
        seen: |report| below(report, "memory/daemon all", 15.0, "MB"),
    },
    Goal {
        asked: "ListContainerStats of all pods: under 20 ms",
        seen: |report| below(report, "lists/ListContainerStats", 20.0, "ms"),
    },
    Goal {
        asked: "… ahead of containerd",
        seen: |report| ahead(report, "lists/ListContainerStats"),
    },
    Goal {
        asked: "ListContainerStats of ten containers in each pod: under 100 ms",
        seen: |report| below(report, "crowd/ListContainerStats", 100.0, "ms"),
    },
    Goal {
        asked: "… ahead of containerd",
        seen: |report| ahead(report, "crowd/ListContainerStats"),
    },
    Goal {
        asked: "a session of Exec ahead of containerd, until its output",
        seen: |report| ahead(report, "session/output"),
    },
    Goal {
        asked: "1 GB of log: under 4 s",
        seen: |report| below(report, "logs/seconds", 4.0, "s"),
    },
    Goal {
        asked: "… with no CPU of the daemon (two of the kernel's ticks at most)",
        seen: |report| below(report, "logs/daemon", 0.025, "s"),
    },
    Goal {
        asked: "all pods listed right after SIGKILL and start: within 200 ms",
        seen: |report| below(report, "restart/listed", 200.0, "ms"),
    },
    Goal {
        asked: "a running pod by runc ahead of containerd",
        seen: |report| ahead(report, "handler/runc"),
    },
    Goal { asked: "… by crun", seen: |report| ahead(report, "handler/crun") },
    Goal { asked: "… by gVisor's runsc", seen: |report| ahead(report, "handler/gvisor") },
    Goal {
        asked: "… by containerd's own shim for runc",
        seen: |report| ahead(report, "handler/runc-v2"),
    },
];

/// A line for each thing that is asked and was measured.
pub(crate) fn cells(report: &Report) -> Cells {
    let head = ["asked", "", "seen"].map(str::to_owned).to_vec();
    let lines = GOALS.iter().filter_map(|goal| {
        let (seen, enough) = (goal.seen)(report)?;
        let verdict = if enough { "yes" } else { "**short**" };
        Some(vec![goal.asked.to_owned(), verdict.to_owned(), seen])
    });
    std::iter::once(head).chain(lines).collect()
}

fn running(report: &Report) -> Seen {
    let own = report.get("rpc/running", OWN)?.value;
    let mut said = Vec::new();
    let mut enough = false;
    if let Some(ratio) = report.ratio("rpc/running", OWN, PEER) {
        said.push(format!("{ratio:.2} of {PEER}"));
        enough |= ratio <= 0.5;
    }
    if let Some(bare) = report.get("rpc/running", FLOOR) {
        said.push(format!("{FLOOR} {:+.1} ms", own - bare.value));
        enough |= own - bare.value <= 12.0;
    }
    (!said.is_empty()).then(|| (said.join(", "), enough))
}

fn rate(report: &Report) -> Seen {
    let ratio = report.ratio("rate/pods", OWN, PEER)?;
    Some((format!("{ratio:.2} times"), ratio >= 1.5))
}

fn floor(report: &Report) -> Seen {
    let ratio = report.ratio("rate/pods", OWN, FLOOR)?;
    Some((format!("{:.0} %", ratio * 100.0), ratio >= 0.75))
}

fn ahead(report: &Report, key: &str) -> Seen {
    let ratio = report.ratio(key, OWN, PEER)?;
    let mut said = format!("{ratio:.2} of {PEER}");
    if let (Some(own), Some(bare)) = (report.get(key, OWN), report.get(key, FLOOR)) {
        said.push_str(&format!(", {FLOOR} {:+.1} ms", own.value - bare.value));
    }
    Some((said, ratio < 1.0))
}

fn below(report: &Report, key: &str, limit: f64, unit: &str) -> Seen {
    let value = report.get(key, OWN)?.value;
    Some((format!("{} {unit}", number(value)), value < limit))
}

#[cfg(test)]
mod tests {
    use super::super::{Figure, What};
    use super::*;

    #[test]
    fn a_running_pod_is_enough_by_either_measure() {
        const WHAT: What = What::lower("rpc/running", "", "ms");
        let seen = |own: f64, bare: f64, peer: f64| {
            let mut report = Report::default();
            for (name, value) in [(OWN, own), (FLOOR, bare), (PEER, peer)] {
                report.put(WHAT, name, Figure::one(value, 1));
            }
            running(&report).unwrap()
        };
        assert_eq!(seen(86.5, 73.0, 177.0), ("0.49 of containerd, bare +13.5 ms".into(), true));
        assert!(seen(84.0, 73.0, 100.0).1);
        assert!(!seen(90.0, 73.0, 100.0).1);
    }

    #[test]
    fn what_was_not_measured_is_not_told() {
        let mut report = Report::default();
        assert_eq!(cells(&report).len(), 1);
        report.put(What::lower("logs/seconds", "", "s"), OWN, Figure::one(4.5, 1));
        let cells = cells(&report);
        assert_eq!(cells[1], ["1 GB of log: under 4 s", "**short**", "4.50 s"]);
        assert_eq!(cells.len(), 2);
    }
}
