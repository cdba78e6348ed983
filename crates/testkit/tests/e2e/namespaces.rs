//! Namespaces: which are shared, which are not, sysctls, and user namespaces.

use std::fs;

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, eventually, on_a_node};
use berth_testkit::specs::Container;
use cri::{NamespaceMode, PodSandboxState};

/// A namespace of a container's first process, as the kernel names it.
async fn namespace(bed: &Bed, id: &str, kind: &str) -> Result<String> {
    let link = bed.node.path(&format!("/proc/{}/ns/{kind}", bed.pid(id).await?));
    Ok(fs::read_link(link)?.display().to_string())
}

/// A namespace of the node itself.
fn of_the_node(bed: &Bed, kind: &str) -> Result<String> {
    let link = format!("/proc/{}/ns/{kind}", bed.node.keeper());
    Ok(fs::read_link(link)?.display().to_string())
}

#[test]
fn containers_of_a_pod_share_what_they_should() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("shared")).await?;
        let a = bed.cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        let b = bed.cri.launch(&pod, &Container::idle("b", &busybox())).await?;
        for kind in ["net", "ipc", "uts"] {
            let shared = namespace(bed, &a, kind).await?;
            assert_eq!(shared, namespace(bed, &b, kind).await?, "{kind}");
            assert_ne!(shared, of_the_node(bed, kind)?, "{kind}");
        }
        for kind in ["pid", "mnt"] {
            assert_ne!(namespace(bed, &a, kind).await?, namespace(bed, &b, kind).await?, "{kind}");
        }
        assert_eq!(bed.cri.shell(&a, "cat /proc/1/comm").await?, "sh");
        bed.cri.shell(&a, "echo hi > /dev/shm/x").await?;
        assert_eq!(bed.cri.shell(&b, "cat /dev/shm/x").await?, "hi");
        Ok(())
    })
}

#[test]
fn node_modes_are_the_node_s_own_namespaces() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.pod("node").namespaces(|modes| {
            modes.network = NamespaceMode::Node as i32;
            modes.pid = NamespaceMode::Node as i32;
            modes.ipc = NamespaceMode::Node as i32;
        });
        let pod = bed.cri.run(&pod).await?;
        let container = Container::idle("a", &busybox()).security(|security| {
            security.namespace_options = pod
                .config
                .linux
                .clone()
                .and_then(|linux| linux.security_context)
                .and_then(|context| context.namespace_options);
        });
        let id = bed.cri.launch(&pod, &container).await?;
        for kind in ["net", "pid", "ipc", "uts"] {
            assert_eq!(namespace(bed, &id, kind).await?, of_the_node(bed, kind)?, "{kind}");
        }
        assert!(bed.cri.shell(&id, "ps").await?.contains("berth-testkit keeper"));
        Ok(())
    })
}

/// The namespace options of a container that wants this PID mode.
fn pid_mode(
    mode: NamespaceMode,
    target: &str,
) -> impl FnOnce(&mut cri::LinuxContainerSecurityContext) {
    let options = cri::NamespaceOption {
        pid: mode as i32,
        target_id: target.to_owned(),
        ..Default::default()
    };
    move |security| security.namespace_options = Some(options)
}

#[test]
fn a_shared_pid_namespace_outlives_its_containers_and_dies_with_its_pause() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("pids").shared_pid()).await?;
        let shared =
            |name| Container::idle(name, &busybox()).security(pid_mode(NamespaceMode::Pod, ""));
        let a = cri.launch(&pod, &shared("a")).await?;
        let b = cri.launch(&pod, &shared("b")).await?;
        assert_eq!(namespace(bed, &a, "pid").await?, namespace(bed, &b, "pid").await?);
        assert_eq!(cri.shell(&a, "cat /proc/1/comm").await?, "pause");
        // Container b runs `sleep`, and a can see it.
        assert!(cri.shell(&a, "ps").await?.matches("sleep 1000").count() >= 2);
        cri.stop(&a, 5).await?;
        assert_eq!(cri.shell(&b, "echo on").await?, "on");
        // Orphans are reaped.
        cri.shell(&b, "(sleep 0.01 &) ; true").await?;
        eventually(
            || "a zombie stays".to_owned(),
            async || Ok((!cri.shell(&b, "ps -o stat").await?.contains('Z')).then_some(())),
        )
        .await?;
        let pause = bed.node.run(
            "sh",
            &[
                "-c",
                "for p in /proc/[0-9]*; do \
            [ \"$(cat $p/comm 2>/dev/null)\" = pause ] && basename $p; done; true",
            ],
        )?;
        bed.node.run("kill", &["-9", pause.trim()])?;
        eventually(
            || "the pod is still ready".to_owned(),
            async || {
                let state = cri.pod_status(&pod.id).await?.state();
                Ok((state == PodSandboxState::SandboxNotready).then_some(()))
            },
        )
        .await
    })
}

#[test]
fn a_debug_container_joins_its_target() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, target) = bed.idle("debugged").await?;
        let debug =
            Container::idle("debug", &busybox()).security(pid_mode(NamespaceMode::Target, &target));
        let debug = bed.cri.launch(&pod, &debug).await?;
        assert_eq!(namespace(bed, &debug, "pid").await?, namespace(bed, &target, "pid").await?);
        assert!(bed.cri.shell(&debug, "cat /proc/1/root/www/index.html").await.is_ok());
        let lost = Container::idle("lost", &busybox())
            .security(pid_mode(NamespaceMode::Target, &"0".repeat(64)));
        assert!(bed.cri.create(&pod, &lost).await.is_err());
        Ok(())
    })
}

#[test]
fn sysctls_are_set_before_anything_runs() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed
            .pod("tuned")
            .sysctl("net.ipv4.ip_local_port_range", "20000 30000")
            .sysctl("kernel.shm_rmid_forced", "1")
            .sysctl("net.core.somaxconn", "77");
        let pod = bed.cri.run(&pod).await?;
        let id = bed.cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        let read = async |name: &str| bed.cri.shell(&id, &format!("cat /proc/sys/{name}")).await;
        assert_eq!(read("net/ipv4/ip_local_port_range").await?, "20000\t30000");
        assert_eq!(read("kernel/shm_rmid_forced").await?, "1");
        assert_eq!(read("net/core/somaxconn").await?, "77");
        assert_eq!(read("net/ipv4/ip_unprivileged_port_start").await?, "0");
        let wrong = bed.pod("wrong").sysctl("kernel.hostname", "x").sysctl("no.such.key", "1");
        assert!(bed.cri.run(&wrong).await.is_err());
        Ok(())
    })
}

#[test]
fn a_user_namespace_makes_root_nobody_outside() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.pod("mapped").user_namespace(1_000_000).port(8082, 80);
        let pod = bed.cri.run(&pod).await?;
        let options = pod.config.linux.clone().context("linux")?.security_context;
        let options = options.context("a security context")?.namespace_options;
        let container = Container::idle("a", &busybox())
            .security(|security| security.namespace_options = options);
        let id = bed.cri.launch(&pod, &container).await?;
        assert_eq!(bed.cri.shell(&id, "id -u").await?, "0");
        let map = bed.cri.shell(&id, "cat /proc/self/uid_map").await?;
        let numbers: Vec<_> = map.split_whitespace().collect();
        assert_eq!(numbers, ["0", "1000000", "65536"]);
        let status = bed.node.path(&format!("/proc/{}/status", bed.pid(&id).await?));
        assert!(fs::read_to_string(status)?.contains("Uid:\t1000000"));
        // The image's files belong to root inside, and can be written.
        assert_eq!(bed.cri.shell(&id, "stat -c %u:%g /etc/passwd").await?, "0:0");
        bed.cri.shell(&id, "echo x >> /etc/passwd; chown 33:33 /etc/passwd").await?;
        assert_ne!(namespace(bed, &id, "user").await?, of_the_node(bed, "user")?);
        assert_eq!(bed.cri.shell(&id, "hostname").await?, "mapped");
        Ok(())
    })
}
