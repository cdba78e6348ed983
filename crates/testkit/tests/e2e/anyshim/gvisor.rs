//! Pods in gVisor, by our own shim and Debian's runsc.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox};
use berth_testkit::cri::{in_time, refused};
use berth_testkit::specs::Container;
use serde_json::Value;
use tonic::Code;

use super::{Part, Subject, conformance};

/// What a pod with a kernel of its own has not.
pub(super) const LACKS: &[Part] = &[Part::Kernel, Part::Users, Part::Terminals, Part::Cgroup];

/// runsc under a name that tells nothing.
fn renamed() -> Result<PathBuf> {
    let cache = berth_testkit::paths::cache();
    let runsc = cache.join("runsc/usr/bin/runsc");
    ensure!(runsc.exists(), "{} is missing: run `tools/needs`", runsc.display());
    let name = cache.join("runsc/sandboxer");
    match symlink(&runsc, &name) {
        Err(why) if why.kind() != std::io::ErrorKind::AlreadyExists => Err(why.into()),
        _ => Ok(name),
    }
}

fn subject() -> Result<Subject> {
    let more = format!("runtime = {:?}", renamed()?);
    Ok(Subject { more, lacks: LACKS, ..Subject::berth()? })
}

fn on_a_node(test: impl AsyncFnOnce(&mut Bed, &Subject) -> Result<()>) -> Result<()> {
    let subject = subject()?;
    subject.on_a_node(async |bed| test(bed, &subject).await)
}

#[test]
fn a_pod_lives_as_with_any_runtime() -> Result<()> {
    on_a_node(async |bed, subject| {
        conformance::lifecycle(bed, subject).await.context("lifecycle")?;
        conformance::namespaces(bed, subject).await.context("namespaces")?;
        conformance::streams(bed, subject).await.context("streams")
    })
}

#[test]
fn commands_and_figures() -> Result<()> {
    on_a_node(async |bed, subject| {
        conformance::exec(bed, subject).await.context("exec")?;
        conformance::limits(bed, subject).await.context("limits")
    })
}

#[test]
fn a_pod_outlives_the_daemon() -> Result<()> {
    on_a_node(async |bed, subject| {
        conformance::restart(bed, subject).await.context("restart")?;
        conformance::last_words(bed, subject).await.context("last words")
    })
}

#[test]
fn a_pod_dies_with_its_shim() -> Result<()> {
    on_a_node(async |bed, subject| conformance::death(bed, subject).await)
}

/// What the node's Status says of the default handler.
async fn handler(bed: &Bed) -> Result<Value> {
    let request = in_time(cri::StatusRequest { verbose: true });
    let answer = bed.cri.runtime.clone().status(request).await?.into_inner();
    let handlers: Value = serde_json::from_str(answer.info.get("handlers").context("handlers")?)?;
    let found = handlers.as_array().into_iter().flatten().find(|one| one["default"] == true);
    Ok(found.context("a default handler")?.clone())
}

/// The node's masquerade rules, addresses and IPAM files are the census's: they go with the pod,
/// though its own network stack has taken the address off its device.
#[test]
fn a_pod_has_a_kernel_and_a_network_stack_of_its_own() -> Result<()> {
    on_a_node(async |bed, _| {
        assert_eq!(handler(bed).await?["guest_network"], "own");
        let status = bed.berth(&["status"])?;
        assert!(status.contains("a network stack of its own"), "{status}");

        let users = bed.cri.run(&bed.pod("users").user_namespace(200_000)).await;
        assert_eq!(refused(users), Code::InvalidArgument);
        let pod = bed.cri.run(&bed.pod("kernel")).await?;
        let web = Container::new("a", &busybox()).shell("exec httpd -f -p 8080 -h /www");
        let id = bed.cri.launch(&pod, &web).await?;
        let own = bed.cri.shell(&id, "cat /proc/version").await?;
        let nodes = std::fs::read_to_string("/proc/version")?;
        assert_ne!(own.trim(), nodes.trim());
        assert!(bed.cri.shell(&id, "dmesg").await?.contains("gVisor"));
        let ip = bed.cri.pod_status(&pod.id).await?.network.context("a network")?.ip;
        let netns = bed.node.run(
            "sh",
            &["-c", "for n in /run/netns/*; do nsenter --net=$n ip -o addr show dev eth0; done"],
        )?;
        assert!(!netns.contains(&ip), "the stack of the node has not {ip}: {netns}");
        let get = format!("until wget -q -O - http://{ip}:8080/; do usleep 10000; done");
        assert_eq!(
            bed.node.run("busybox", &["timeout", "20", "sh", "-c", &get])?.trim(),
            "hello from berth"
        );

        let shared = bed.cri.run(&bed.pod("hosted").host_network()).await?;
        let id = bed.cri.launch(&shared, &Container::idle("a", &busybox())).await?;
        let own = bed.cri.shell(&id, "ip -o link").await?;
        let nodes = bed.node.run("ip", &["-o", "link"])?;
        let names = |text: &str| {
            text.lines()
                .map(|line| {
                    line.split(':')
                        .nth(1)
                        .unwrap_or_default()
                        .trim()
                        .split('@')
                        .next()
                        .unwrap_or_default()
                        .to_owned()
                })
                .collect::<Vec<_>>()
        };
        assert!(names(&own).iter().all(|name| names(&nodes).contains(name)), "{own}\n{nodes}");
        Ok(())
    })
}

/// runsc that is refused its own network stack.
#[test]
fn where_its_own_network_stack_does_not_start_a_pod_has_the_nodes() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let runsc = renamed()?;
    let dir = tempfile::tempdir()?;
    let limited = dir.path().join("limited");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--network=sandbox*) echo no network stack >&2; exit 1;; esac\nexec {} \"$@\"\n",
        runsc.display()
    );
    std::fs::write(&limited, script)?;
    std::fs::set_permissions(&limited, std::fs::Permissions::from_mode(0o755))?;
    let more = format!("runtime = {limited:?}");
    let subject = Subject { more, lacks: LACKS, ..Subject::berth()? };
    subject.on_a_node(async |bed| {
        assert_eq!(handler(bed).await?["guest_network"], "node");
        let pod = bed.cri.run(&bed.pod("a")).await?;
        let web = Container::new("a", &busybox()).shell("exec httpd -f -p 8080 -h /www");
        let id = bed.cri.launch(&pod, &web).await?;
        assert!(bed.cri.shell(&id, "dmesg").await?.contains("gVisor"));
        let ip = bed.cri.pod_status(&pod.id).await?.network.context("a network")?.ip;
        let get = format!("until wget -q -O - http://{ip}:8080/; do usleep 10000; done");
        assert_eq!(
            bed.node.run("busybox", &["timeout", "20", "sh", "-c", &get])?.trim(),
            "hello from berth"
        );
        Ok(())
    })
}

/// The pod's cgroup limits its sandbox, and that ends with all its containers.
#[test]
fn a_pod_that_lacks_memory_loses_its_sandbox() -> Result<()> {
    on_a_node(async |bed, _| {
        let pod = bed.cri.run(&bed.pod("greedy")).await?;
        let idle = bed.cri.launch(&pod, &Container::idle("b", &busybox())).await?;
        let wait = "until [ -e /tmp/now ]; do usleep 10000; done; exec tail /dev/zero";
        let id = bed.cri.launch(&pod, &Container::new("a", &busybox()).shell(wait)).await?;
        limit_pod_of(bed, &id, 96 << 20).await?;
        // The sandbox may be dead before the command has ended.
        let _ = bed.cri.shell(&id, "touch /tmp/now").await;
        for id in [&id, &idle] {
            let status = bed.cri.exited(id).await?;
            assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
        }
        let state = bed.cri.pod_status(&pod.id).await?.state();
        assert_eq!(state, cri::PodSandboxState::SandboxNotready);
        Ok(())
    })
}

/// Limits the cgroup above the one that a container's sandbox is in.
async fn limit_pod_of(bed: &Bed, id: &str, bytes: u64) -> Result<()> {
    let pid = bed.pid(id).await?;
    let table = std::fs::read_to_string(bed.node.path(&format!("/proc/{pid}/cgroup")))?;
    let of = |name: &str| {
        let line = table.lines().find(|line| line.split(':').nth(1) == Some(name))?;
        line.rsplit(':').next()?.rsplit_once('/').map(|(pod, _)| pod.to_owned())
    };
    let file = match (of("memory"), of("")) {
        (Some(pod), _) => format!("/sys/fs/cgroup/memory{pod}/memory.limit_in_bytes"),
        (None, Some(pod)) => format!("/sys/fs/cgroup{pod}/memory.max"),
        (None, None) => anyhow::bail!("no memory cgroup in {table}"),
    };
    let file = bed.node.path(&file);
    std::fs::write(&file, bytes.to_string()).with_context(|| format!("write {}", file.display()))
}
