//! What pods share with their node, and what they see of the network.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::kubelet::world::World;
use crate::network::Subnet;

pub(super) async fn dns(world: &World) -> Result<String> {
    let pods = ["dns", "cluster-dns"];
    world.run(include_str!("../manifests/dns.yaml"), &pods).await?;
    let resolver = "sort /etc/resolv.conf";
    let own = "nameserver 192.0.2.53\noptions ndots:3\nsearch one.test two.test";
    world.says("dns", "main", resolver, own).await?;
    let cluster = "nameserver 198.18.255.10\noptions ndots:5\nsearch default.svc.cluster.test \
        svc.cluster.test cluster.test node.test";
    world.says("cluster-dns", "main", resolver, cluster).await?;
    world.says("dns", "main", "hostname", "chosen").await?;
    let hosts = world.sh("dns", "main", "tr '\\t' ' ' < /etc/hosts").await?;
    let has = |text: &str| hosts.lines().any(|line| line.contains(text));
    ensure!(has("192.0.2.7 seven.test vii"), "hosts: {hosts}");
    ensure!(has("chosen.below.default.svc.cluster.test chosen"), "hosts: {hosts}");
    for pod in pods {
        world.delete(pod).await?;
    }
    Ok("resolv.conf, hosts and hostname are the pod's".to_owned())
}

pub(super) async fn all(world: &World) -> Result<String> {
    world.run(include_str!("../manifests/host.yaml"), &["host"]).await?;
    for kind in ["net", "pid", "ipc"] {
        let node = fs::read_link(format!("/proc/{}/ns/{kind}", world.bed.node.keeper()))?;
        let node = node.to_str().context("a namespace")?;
        world.says("host", "main", &format!("readlink /proc/self/ns/{kind}"), node).await?;
    }
    world.says("host", "main", "cat /proc/1/comm", "berth-testkit").await?;
    world.sh("host", "main", "mount -t tmpfs tmpfs /tmp && umount /tmp").await?;
    let status = "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status | tr '\\t\\n' ' '";
    let confined = "CapEff: 0000000000000400 NoNewPrivs: 1 Seccomp: 2 ";
    world.says("host", "confined", status, confined).await?;
    let refused = "mount -t tmpfs tmpfs /tmp 2>/dev/null || echo refused";
    world.says("host", "confined", refused, "refused").await?;
    let said = world.sh("host", "main", "cat /etc/resolv.conf").await?;
    ensure!(said.contains("198.18.255.10"), "ClusterFirstWithHostNet: {said}");
    world.delete("host").await?;
    Ok("the node's namespaces; privileged mounts, a confined one beside it cannot".to_owned())
}

pub(super) async fn port(world: &World) -> Result<String> {
    world.run(include_str!("../manifests/hostport.yaml"), &["hostport"]).await?;
    let node = &world.bed.node;
    let url = format!("http://{}:8123/", Subnet::new(node.number()).gateway());
    let page = node.run("busybox", &["wget", "-q", "-O", "-", &url])?;
    ensure!(page.trim() == "hello from berth", "{url} says {page:?}");
    world.delete("hostport").await?;
    let after = node.run("busybox", &["wget", "-q", "-T", "1", "-O", "-", &url]);
    ensure!(after.is_err(), "{url} still answers");
    Ok("the node's port answers, and no more after the pod".to_owned())
}
