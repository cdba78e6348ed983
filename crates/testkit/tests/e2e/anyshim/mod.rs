//! Shims by others, and ours in the ways in which others use theirs: one list of what a pod must be
//! able to do, run for each.

mod bad;
mod conformance;
mod gvisor;
mod killed;
mod wasm;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use berth_testkit::bed::{Bed, busybox, on_a_node_with};
use berth_testkit::config::{Config, Daemon};
use berth_testkit::specs::Container;

/// What a shim need not have: the rest of the list applies all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// PID namespaces, a container's own or the pod's.
    Pids,
    /// User namespaces.
    Users,
    /// A container's own terminals below /dev/pts.
    Terminals,
    /// A view of its cgroup from inside.
    Cgroup,
    /// The node's kernel: the node sees its processes, and a container's cgroup holds them.
    Kernel,
}

/// A handler under test.
pub(crate) struct Subject {
    /// The shim's executable.
    pub(crate) shim: PathBuf,
    /// More lines of its table in the configuration.
    more: String,
    /// Who calls it.
    daemon: Daemon,
    /// What does not apply to it.
    lacks: &'static [Part],
    /// The image that its containers run.
    image: &'static str,
}

impl Subject {
    pub(crate) fn berth() -> Result<Self> {
        let shim = berth_testkit::paths::small()?.join("containerd-shim-berth-v1");
        Ok(Self { shim, more: String::new(), daemon: Daemon::Berth, lacks: &[], image: "busybox" })
    }

    /// Ours, given the sandbox as a task.
    fn berth_task() -> Result<Self> {
        Ok(Self { more: "sandbox = \"task\"".to_owned(), ..Self::berth()? })
    }

    /// Ours, called by Debian's containerd for CRI.
    fn berth_under_containerd() -> Result<Self> {
        // containerd's CRI knows user namespaces from 2.0 on.
        Ok(Self { daemon: Daemon::Containerd, lacks: &[Part::Users], ..Self::berth()? })
    }

    /// containerd's own shim over runc, as Debian has it.
    pub(crate) fn runc_v2() -> Result<Self> {
        let unpacked = berth_testkit::paths::cache().join("containerd");
        let shim = unpacked.join("usr/bin/containerd-shim-runc-v2");
        ensure!(shim.exists(), "{} is missing: run `tools/needs containerd`", shim.display());
        Ok(Self { shim, more: String::new(), daemon: Daemon::Berth, lacks: &[], image: "busybox" })
    }

    /// The one that docs/shim-from-zero.md builds.
    fn guide() -> Result<Self> {
        let shim = berth_testkit::paths::built("containerd-shim-guide-v1", "berth-shim-guide")?;
        let lacks = &[Part::Pids, Part::Users, Part::Terminals, Part::Cgroup];
        Ok(Self { shim, more: String::new(), daemon: Daemon::Berth, lacks, image: "busybox" })
    }

    /// Ours for WebAssembly, with a list of its own: its images have no shell.
    fn wasm() -> Result<Self> {
        let shim = berth_testkit::paths::wasm_shim()?;
        Ok(Self { shim, more: String::new(), daemon: Daemon::Berth, lacks: &[], image: "wasm" })
    }

    /// Any other, by hand: the one that `BERTH_TEST_SHIM` names, with the options of
    /// `BERTH_TEST_SHIM_OPTIONS`, and a kernel of its own with `BERTH_TEST_SHIM_KERNEL=own`.
    fn given() -> Result<Self> {
        let given = |name: &str| std::env::var(format!("BERTH_TEST_SHIM{name}")).ok();
        let options = given("_OPTIONS").map(|options| format!("options = {options}"));
        let own_kernel = given("_KERNEL").is_some_and(|kernel| kernel == "own");
        Ok(Self {
            shim: given("").context("BERTH_TEST_SHIM names a shim")?.into(),
            more: options.unwrap_or_default(),
            daemon: Daemon::Berth,
            lacks: if own_kernel { gvisor::LACKS } else { &[] },
            image: "busybox",
        })
    }

    fn has(&self, part: Part) -> bool {
        !self.lacks.contains(&part)
    }

    /// Runs a test on a node whose default handler this is.
    pub(crate) fn on_a_node(&self, test: impl AsyncFnOnce(&mut Bed) -> Result<()>) -> Result<()> {
        let handler = format!("[handlers.berth]\nshim = {:?}\n{}\n", self.shim, self.more);
        let config = Config::default().drop_in("50-shim.toml", &handler).under(self.daemon);
        on_a_node_with(config, &[self.image], test)
    }

    /// The pid of a pod's shim, inside the node.
    fn shim_of(&self, bed: &Bed, pod: &str) -> Result<String> {
        let name = self.shim.file_name().context("a file name")?.to_string_lossy().into_owned();
        let listed = bed.node.run("ps", &["-e", "-o", "pid,args"])?;
        let own = |line: &&str| line.contains(&name) && line.contains(pod);
        let line = listed.lines().find(own).with_context(|| format!("a shim in\n{listed}"))?;
        Ok(line.split_whitespace().next().context("a pid")?.to_owned())
    }

    /// Kills a pod's shim and waits until it is gone.
    fn kill_shim_of(&self, bed: &Bed, pod: &str) -> Result<()> {
        let pid = self.shim_of(bed, pod)?;
        let kill = format!("kill -9 {pid}; while [ -e /proc/{pid}/exe ]; do :; done");
        bed.node.run("sh", &["-c", &kill]).map(drop)
    }
}

/// An item of a list as a test of one subject.
macro_rules! conforms {
    ($subject:ident $list:ident $check:ident { $(#[$by_hand:meta])? }) => {
        #[test]
        $(#[$by_hand])?
        fn $check() -> Result<()> {
            let subject = Subject::$subject()?;
            subject.on_a_node(async |bed| $list::$check(bed, &subject).await)
        }
    };
}

/// What every shim has to do.
macro_rules! conform {
    ($($subject:ident $by_hand:tt)*) => {
        $(mod $subject {
            use super::*;
            conforms!($subject conformance lifecycle $by_hand);
            conforms!($subject conformance namespaces $by_hand);
            conforms!($subject conformance streams $by_hand);
            conforms!($subject conformance exec $by_hand);
            conforms!($subject conformance limits $by_hand);
            conforms!($subject conformance oom $by_hand);
            conforms!($subject conformance restart $by_hand);
            conforms!($subject conformance last_words $by_hand);
            conforms!($subject conformance death $by_hand);
        })*
    };
}

conform! {
    berth {}
    berth_task {}
    berth_under_containerd {}
    runc_v2 {}
    guide {}
    given { #[ignore = "by hand, with BERTH_TEST_SHIM"] }
}

mod by_wasm {
    use super::*;
    conforms!(wasm wasm lifecycle {});
    conforms!(wasm wasm namespaces {});
    conforms!(wasm wasm streams {});
    conforms!(wasm wasm limits {});
    conforms!(wasm wasm oom {});
    conforms!(wasm wasm restart {});
    conforms!(wasm wasm last_words {});
    conforms!(wasm wasm death {});
}

/// A shim serves its pod to the end also when its file was replaced meanwhile, as by an upgrade.
#[test]
fn a_pod_outlives_its_shims_program() -> Result<()> {
    let mut subject = Subject::guide()?;
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("containerd-shim-guide-v1");
    let original = std::mem::replace(&mut subject.shim, program.clone());
    std::fs::copy(&original, &program)?;
    subject.on_a_node(async |bed| {
        let (pod, id) = bed.idle("old").await?;
        std::fs::remove_file(&program)?;
        std::fs::copy(&original, &program)?;
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        bed.cri.launch(&pod, &Container::idle("b", &busybox())).await?;
        std::fs::remove_file(&program)?;
        bed.cri.launch(&pod, &Container::idle("c", &busybox())).await?;
        // The pod's end needs it, where its shim does not end as it should.
        std::fs::copy(&original, &program).map(drop).context("the program")
    })
}

/// A log that a new daemon cannot open is written as soon as it can be, with all that was said.
#[test]
fn a_log_that_is_away_when_the_daemon_starts_loses_nothing() -> Result<()> {
    Subject::runc_v2()?.on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("away")).await?;
        let counts = "i=0; while usleep 20000; do i=$((i+1)); echo line $i; done";
        bed.cri.launch(&pod, &Container::new("a", &busybox()).shell(counts)).await?;
        bed.log_says("away", "line 5").await?;
        let (logs, away) = (bed.logs("away"), bed.node.disk().join("elsewhere"));
        bed.node.kill_daemon()?;
        std::fs::rename(&logs, &away)?;
        // Nothing can be made in a file.
        std::fs::write(&logs, "")?;
        bed.start().await?;
        bed.file_says(&bed.node.log(), "its output cannot be carried on yet").await?;
        std::fs::remove_file(&logs)?;
        std::fs::rename(&away, &logs)?;
        let said = bed.log("away")?.lines().count();
        bed.log_says("away", &format!("line {}", said + 100)).await?;
        let numbers: Vec<usize> =
            bed.log("away")?.lines().filter_map(|l| l.rsplit(' ').next()?.parse().ok()).collect();
        // What was being written when the daemon died may be there twice.
        assert!(
            numbers.windows(2).all(|two| two[1] <= two[0] + 1),
            "a line is missing: {numbers:?}"
        );
        Ok(())
    })
}

/// What a shim says in its `log` fifo, and what it publishes by running the daemon's own binary.
#[test]
fn a_shims_log_and_its_events_are_heard() -> Result<()> {
    Subject::runc_v2()?.on_a_node(async |bed| {
        let (pod, id) = bed.idle("heard").await?;
        let said =
            format!("starting signal loop\" namespace=k8s.io path=/run/berth/bundles/{}", pod.id);
        bed.file_says(&bed.node.log(), &said).await?;
        // An Any of a containerd.events.TaskOOM, as shims send it when a guest's kernel has killed.
        let kind = b"containerd.events.TaskOOM";
        let mut event = vec![0x0a, u8::try_from(kind.len())?];
        event.extend_from_slice(kind);
        event.extend_from_slice(&[0x12, u8::try_from(id.len() + 2)?]);
        event.extend_from_slice(&[0x0a, u8::try_from(id.len())?]);
        event.extend_from_slice(id.as_bytes());
        let mut publish = bed.node.config().program()?;
        publish.args(["--address", "/run/berth/events.sock", "publish"]);
        publish.args(["--topic", "/tasks/oom", "--namespace", "k8s.io"]);
        bed.node.place()?.visit(|| berth_testkit::network::run(&mut publish, &event))?;
        bed.cri.stop(&id, 0).await?;
        let status = bed.cri.container(&id).await?;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
        Ok(())
    })
}
