//! The pod network: addresses, ports, names, and what happens without one.

use std::fs;

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{busybox, eventually, on_a_node, on_a_node_with, reference};
use berth_testkit::config::Config;
use berth_testkit::cri::{in_time, refused};
use berth_testkit::http::Request;
use berth_testkit::specs::{Container, Pod};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;

use crate::standin::{Plugin, on_a_node_with_plugin};

#[test]
fn a_pod_answers_another_pod_and_the_node_over_http() -> Result<()> {
    on_a_node_with(Config::default(), &["busybox", "web"], async |bed| {
        let cri = &bed.cri;
        let server = cri.run(&bed.pod("server").port(8080, 80)).await?;
        cri.launch(&server, &Container::new("web", &reference("web"))).await?;
        let (_, client) = bed.idle("client").await?;
        let ip = cri.pod_status(&server.id).await?.network.context("a network")?.ip;
        let get = format!("until wget -q -O - http://{ip}/; do usleep 10000; done");
        assert_eq!(cri.shell(&client, &get).await?, "hello from berth");
        // The forwarded port, by the node's own address and by its loopback.
        let gateway = format!("198.18.{}.1", bed.node.number());
        for address in [gateway.as_str(), "127.0.0.1"] {
            let address = format!("{address}:8080").parse()?;
            let answer = bed.node.place()?.visit(|| Request::new("GET", "/").send(address))?;
            assert_eq!(answer.text(), "hello from berth\n");
        }
        cri.clear(&server.id).await?;
        let rules = bed.node.run("iptables-save", &["-t", "nat"])?;
        assert!(!rules.contains("8080"), "{rules}");
        Ok(())
    })
}

#[test]
fn a_pod_has_a_loopback_a_name_hosts_and_a_resolver_of_its_own() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let dns = cri::DnsConfig {
            servers: vec!["10.96.0.10".to_owned()],
            searches: vec!["tests.svc.cluster.local".to_owned(), "cluster.local".to_owned()],
            options: vec!["ndots:5".to_owned()],
        };
        let pod = cri.run(&bed.pod("named").with(|config| config.dns_config = Some(dns))).await?;
        let id = cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        assert_eq!(cri.shell(&id, "hostname; cat /etc/hostname").await?, "named\nnamed");
        assert_eq!(
            cri.shell(&id, "cat /etc/resolv.conf").await?,
            "search tests.svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5"
        );
        assert!(cri.shell(&id, "cat /etc/hosts").await?.contains("localhost"));
        assert!(cri.shell(&id, "ip addr show lo").await?.contains("127.0.0.1"));
        cri.shell(&id, "ping -c 1 -W 2 127.0.0.1").await?;
        // The files are the pod's: another container sees what this one writes.
        let other = cri.launch(&pod, &Container::idle("b", &busybox())).await?;
        cri.shell(&id, "echo 192.0.2.1 written >> /etc/hosts").await?;
        assert!(cri.shell(&other, "cat /etc/hosts").await?.contains("written"));
        Ok(())
    })
}

#[test]
fn without_a_dns_config_a_pod_has_the_node_s_resolver() -> Result<()> {
    let config = Config::default().file("resolv.conf", "nameserver 192.0.2.53\n");
    on_a_node_with(config, &["busybox"], async |bed| {
        let (_, id) = bed.idle("resolver").await?;
        let own = bed.cri.shell(&id, "cat /etc/resolv.conf").await?;
        assert_eq!(own, "nameserver 192.0.2.53");
        Ok(())
    })
}

#[test]
fn a_pod_on_the_node_s_network_is_there_with_its_names() -> Result<()> {
    let config = Config::default().file("resolv.conf", "nameserver 192.0.2.53\n");
    on_a_node_with(config, &["busybox"], async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("host").host_network()).await?;
        let id = cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        assert!(cri.shell(&id, "ip link").await?.contains("cni0"));
        let name = bed.node.run("hostname", &[])?;
        assert_eq!(cri.shell(&id, "hostname").await?, name.trim());
        assert_eq!(cri.shell(&id, "cat /etc/resolv.conf").await?, "nameserver 192.0.2.53");
        let network = cri.pod_status(&pod.id).await?.network.unwrap_or_default();
        assert_eq!(network.ip, "", "the kubelet fills in the node's own address");
        Ok(())
    })
}

#[test]
fn a_dual_stack_pod_has_two_addresses_that_answer() -> Result<()> {
    on_a_node_with(Config::default().dual_stack(), &["busybox", "web"], async |bed| {
        let cri = &bed.cri;
        let server = cri.run(&bed.pod("server")).await?;
        let image = reference("web");
        let words = ["httpd", "-f", "-p", "[::]:80", "-h", "/www"];
        cri.launch(&server, &Container::new("web", &image).command(&words)).await?;
        let network = cri.pod_status(&server.id).await?.network.context("a network")?;
        assert!(network.ip.starts_with("198.18."), "{network:?}");
        assert_eq!(network.additional_ips.len(), 1);
        let second = &network.additional_ips[0].ip;
        assert!(second.starts_with("2001:2:"), "{network:?}");
        let (_, client) = bed.idle("client").await?;
        for address in [network.ip.clone(), format!("[{second}]")] {
            let get = format!("until wget -q -O - http://{address}/; do usleep 10000; done");
            assert_eq!(cri.shell(&client, &get).await?, "hello from berth");
        }
        Ok(())
    })
}

#[test]
fn network_ready_tells_the_truth_and_a_new_configuration_is_seen_at_once() -> Result<()> {
    on_a_node_with(Config::default().without_network(), &["busybox"], async |bed| {
        let ready = async |bed: &berth_testkit::bed::Bed| {
            let status = bed.cri.status().await?.status.context("a status")?;
            let mut conditions = status.conditions.into_iter();
            let found = conditions.find(|condition| condition.r#type == "NetworkReady");
            found.context("the condition NetworkReady")
        };
        let condition = ready(bed).await?;
        assert!(!condition.status);
        assert!(condition.message.contains("/etc/cni/net.d"), "{condition:?}");
        assert!(bed.cri.run(&Pod::new("early")).await.is_err());
        // The node's own network needs no plugin.
        let host = bed.cri.run(&bed.pod("host").host_network()).await?;
        bed.cri.launch(&host, &Container::idle("a", &busybox())).await?;

        bed.node.add_network()?;
        eventually(
            || "the new network is not seen".to_owned(),
            async || Ok(ready(bed).await?.status.then_some(())),
        )
        .await?;
        let pod = bed.cri.run(&Pod::new("late")).await?;
        bed.cri.clear(&pod.id).await?;
        bed.cri.clear(&host.id).await?;
        bed.settle()
    })
}

/// A network for whatever CIDR the node gets.
const TEMPLATE: &str = r#"{"cniVersion": "1.0.0", "name": "own", "plugins": [
    {"type": "bridge", "bridge": "own0", "isGateway": true,
     "ipam": {"type": "host-local", "ranges": {{.PodCIDRRanges}}, "routes": {{.Routes}}}}]}"#;

#[test]
fn a_node_that_is_given_its_pod_cidr_makes_its_network_of_the_template() -> Result<()> {
    let config = Config::default()
        .without_network()
        .file("berth/network.template", TEMPLATE)
        .drop_in("template.toml", "[network]\ntemplate = \"/etc/berth/network.template\"\n");
    on_a_node_with(config, &["busybox"], async |bed| {
        let update = async |cidr: &str| {
            let network_config = Some(cri::NetworkConfig { pod_cidr: cidr.to_owned() });
            let runtime_config = Some(cri::RuntimeConfig { network_config });
            let request = in_time(cri::UpdateRuntimeConfigRequest { runtime_config });
            bed.cri.runtime.clone().update_runtime_config(request).await
        };
        let file = bed.node.path("/etc/cni/net.d/10-berth.conflist");
        assert_eq!(refused(update("198.51.100.0/99").await), Code::InvalidArgument);
        // The kubelet says nothing while the node has none.
        update("").await?;
        assert!(!file.exists());
        update("198.51.100.64/27,2001:db8:7::/64").await?;
        let made: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
        assert_eq!(made["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "198.51.100.64/27");
        eventually(
            || "the network is not ready".to_owned(),
            async || {
                let status = bed.cri.status().await?.status.context("a status")?;
                let ready = |condition: &cri::RuntimeCondition| {
                    condition.r#type == "NetworkReady" && condition.status
                };
                Ok(status.conditions.iter().any(ready).then_some(()))
            },
        )
        .await?;
        let pod = bed.cri.run(&bed.pod("own")).await?;
        let id = bed.cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        let told = bed.cri.pod_status(&pod.id).await?.network.context("a network")?;
        let first: std::net::Ipv4Addr = told.ip.parse()?;
        assert_eq!(u32::from(first) >> 5, u32::from_be_bytes([198, 51, 100, 64]) >> 5, "{first}");
        assert!(told.additional_ips[0].ip.starts_with("2001:db8:7::"), "{told:?}");
        let inside = bed.cri.shell(&id, "ip addr show eth0; ip route").await?;
        assert!(inside.contains(&format!("{first}/27")) && inside.contains("default"), "{inside}");
        bed.cri.clear(&pod.id).await?;
        // The bridge and the addresses' directory stay with the node.
        bed.settle()
    })
}

#[test]
fn plugins_are_told_ports_and_bandwidth_and_asked_to_undo_each_add_once() -> Result<()> {
    on_a_node_with_plugin(Config::default(), async |bed, plugin: &Plugin| {
        let annotated = bed.pod("told").port(8088, 80).with(|config| {
            for (key, value) in [("ingress", "1M"), ("egress", "2M")] {
                let key = format!("kubernetes.io/{key}-bandwidth");
                config.annotations.insert(key, value.to_owned());
            }
        });
        let pod = bed.cri.run(&annotated).await?;
        let calls = plugin.calls("ADD")?;
        assert_eq!(calls.len(), 1);
        assert!(calls[0].contains("\"hostPort\":8088"), "{calls:?}");
        assert!(calls[0].contains("1000000") && calls[0].contains("2000000"), "{calls:?}");
        let netns = calls[0].split(' ').nth(2).context("a netns")?;
        assert!(netns.starts_with("/run/netns/") || netns.starts_with("/var/run/netns/"));
        bed.cri.stop_pod(&pod.id).await?;
        bed.cri.stop_pod(&pod.id).await?;
        let undone = plugin.calls("DEL")?;
        assert_eq!(undone.len(), 1, "{undone:?}");
        // DEL comes before the namespace goes, or the masquerade rules would stay.
        assert_eq!(undone[0].split(' ').nth(2), Some(netns));
        bed.cri.remove_pod(&pod.id).await?;
        assert_eq!(plugin.calls("DEL")?.len(), 1);
        Ok(())
    })
}

#[test]
fn an_add_that_fails_is_undone_and_the_next_try_works() -> Result<()> {
    on_a_node_with_plugin(Config::default(), async |bed, plugin: &Plugin| {
        plugin.fail("ADD", "no more cables")?;
        let pod = bed.pod("cables");
        let error = bed.cri.run(&pod).await.expect_err("the plugin fails");
        assert!(error.message().contains("no more cables"), "{error}");
        assert!(bed.cri.pods().await?.is_empty());
        bed.is_clean()?;
        plugin.mend("ADD")?;
        bed.cri.run(&pod).await?;
        Ok(())
    })
}

#[test]
fn a_del_that_fails_becomes_a_leftover_and_holds_nobody_up() -> Result<()> {
    let config = Config::default().drop_in("50-short.toml", "[deadlines]\ncni_del = \"1s\"\n");
    on_a_node_with_plugin(config, async |bed, plugin: &Plugin| {
        let pod = bed.cri.run(&bed.pod("sticky")).await?;
        bed.cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        plugin.fail("DEL", "the switch is on fire")?;
        bed.cri.stop_pod(&pod.id).await?;
        bed.cri.remove_pod(&pod.id).await?;
        assert!(bed.cri.pods().await?.is_empty());
        let status = bed.berth(&["status", "--json"])?;
        assert!(status.contains("the switch is on fire"), "{status}");
        // Its name is free at once: the successor runs while the old one is still retried.
        let next = bed.cri.run(&bed.pod("sticky")).await?;
        bed.cri.clear(&next.id).await.ok();
        plugin.mend("DEL")?;
        eventually(
            || "the leftover is not retried".to_owned(),
            async || {
                let status = bed.berth(&["status", "--json"])?;
                Ok((!status.contains("the switch is on fire")).then_some(()))
            },
        )
        .await
    })
}

#[test]
fn a_plugin_that_hangs_is_killed_and_lists_answer_meanwhile() -> Result<()> {
    let config = Config::default().drop_in("50-short.toml", "[deadlines]\ncni_add = \"1s\"\n");
    on_a_node_with_plugin(config, async |bed, plugin: &Plugin| {
        let (_, id) = bed.idle("other").await?;
        plugin.forget()?;
        plugin.block("ADD")?;
        let (cri, pod) = (bed.cri.clone(), bed.pod("hung"));
        let call = tokio::spawn(async move { cri.run(&pod).await });
        plugin.called("ADD").await?;
        assert_eq!(bed.cri.pods().await?.len(), 1);
        assert_eq!(bed.cri.shell(&id, "echo fine").await?, "fine");
        assert!(call.await?.is_err());
        let left = bed.node.run("ps", &["-e", "-o", "args"])?;
        assert!(!left.contains("berth-testkit plugin"), "{left}");
        plugin.release("ADD")
    })
}

#[test]
fn a_daemon_that_is_told_to_stop_lets_a_plugin_end_that_nobody_waits_for() -> Result<()> {
    on_a_node_with_plugin(Config::default(), async |bed, plugin: &Plugin| {
        let (pod, _) = bed.idle("left").await?;
        plugin.block("DEL")?;
        let (cri, id) = (bed.cri.clone(), pod.id.clone());
        let call = tokio::spawn(async move { cri.stop_pod(&id).await });
        plugin.called("DEL").await?;
        call.abort();
        let daemon = bed.node.daemon().context("a daemon")?;
        kill(Pid::from_raw(daemon.cast_signed()), Signal::SIGTERM)?;
        bed.file_says(&bed.node.log(), "CNI plugins in progress may end").await?;
        plugin.release("DEL")?;
        let status = bed.node.wait_for_daemon()?;
        assert!(status.success(), "{status}");
        bed.start().await?;
        Ok(bed.cri.clear(&pod.id).await?)
    })
}
