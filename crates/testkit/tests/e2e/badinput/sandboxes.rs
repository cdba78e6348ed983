//! Pod configurations that cannot be honoured.

use anyhow::Result;
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, on_a_node};
use berth_testkit::specs::{Container, Pod};
use tonic::Code;

use super::{all, refuses, the_next_pod_is_fine};

/// A pod, and the words that its refusal must have: the field, the value, what to do.
type Case = (Pod, Vec<&'static str>);

#[test]
fn a_pod_that_cannot_be_as_it_is_asked_for_is_refused_by_its_field() -> Result<()> {
    on_a_node(async |bed| {
        let mut cases = names(bed);
        cases.extend(places(bed));
        cases.extend(numbers(bed));
        let mut outcomes = Vec::new();
        for (pod, words) in &cases {
            let answer = bed.cri.run(pod).await;
            outcomes.push(refuses(&format!("{words:?}"), answer, (Code::InvalidArgument, words)));
        }
        all(outcomes)?;
        assert!(bed.cri.pods().await?.is_empty());
        the_next_pod_is_fine(bed).await
    })
}

fn names(bed: &Bed) -> Vec<Case> {
    let named = |change: fn(&mut cri::PodSandboxMetadata)| {
        bed.pod("a").with(|config| change(config.metadata.get_or_insert_default()))
    };
    let told = |field| vec![field, "missing"];
    let mut cases = vec![
        (bed.pod("a").with(|c| c.metadata = None), told("config.metadata")),
        (named(|m| m.name.clear()), told("config.metadata.name")),
        (named(|m| m.namespace.clear()), told("config.metadata.namespace")),
        (named(|m| m.uid.clear()), told("config.metadata.uid")),
    ];
    for bad in ["a/b", "../a", "a;K8S_POD_UID=b", "a\nb", "a\0b"] {
        let pod = bed.pod("a").with(|c| c.metadata.get_or_insert_default().name = bad.to_owned());
        cases.push((pod, vec!["config.metadata.name", "leave out"]));
    }
    cases.extend([
        (named(|m| m.namespace = "x".repeat(1 << 20)), vec!["config.metadata.namespace", "253"]),
        (bed.pod("a").by("gvisor"), vec!["gvisor", "berth", "RuntimeClass"]),
        (bed.pod("a").by("../berth"), vec!["runtime_handler", "../berth"]),
        (bed.pod("a").by(&"x".repeat(1 << 20)), vec!["runtime", "xxx"]),
        (bed.pod("a").with(|c| c.hostname = "a_b c".to_owned()), vec!["config.hostname", "a_b c"]),
        (bed.pod("a").with(|c| c.hostname = "h".repeat(65)), vec!["config.hostname", "64"]),
        (bed.pod("a").with(|c| c.windows = Some(Default::default())), vec!["windows", "Linux"]),
    ]);
    cases
}

fn places(bed: &Bed) -> Vec<Case> {
    let mut cases = vec![
        (bed.pod("a").logs("relative/logs"), vec!["log_directory", "absolute"]),
        (bed.pod("a").logs("/var/\0"), vec!["log_directory", "NUL"]),
    ];
    for parent in ["/", "..", "/a/../../b", "./a", "/a/./b"] {
        cases.push((bed.pod("a").cgroup_parent(parent), vec!["cgroup_parent", parent, "below"]));
    }
    let slice = "/kubepods.slice/kubepods-pod1.slice";
    cases.push((bed.pod("a").cgroup_parent(slice), vec!["cgroup_parent", "cgroupDriver"]));
    cases.push((bed.pod("a").cgroup_parent("/a\nb"), vec!["cgroup_parent", "control"]));
    let long = format!("/{}", "c".repeat(300));
    cases.push((bed.pod("a").cgroup_parent(&long), vec!["cgroup_parent", "255"]));
    for server in ["", "resolver", "10.0.0.1 10.0.0.2", "1.2.3.4\nsearch evil"] {
        let dns = cri::DnsConfig { servers: vec![server.to_owned()], ..Default::default() };
        let pod = bed.pod("a").with(|config| config.dns_config = Some(dns));
        cases.push((pod, vec!["dns_config.servers[0]"]));
    }
    for search in ["two words", "line\nbreak", ""] {
        let dns = cri::DnsConfig { searches: vec![search.to_owned()], ..Default::default() };
        let pod = bed.pod("a").with(|config| config.dns_config = Some(dns));
        cases.push((pod, vec!["dns_config.searches[0]", "one word"]));
    }
    cases
}

fn numbers(bed: &Bed) -> Vec<Case> {
    let mut cases = vec![
        (bed.pod("a").port(70_000, 80), vec!["port_mappings[0].host_port", "70000", "65535"]),
        (bed.pod("a").port(-1, 80), vec!["port_mappings[0].host_port", "-1"]),
        (bed.pod("a").port(8080, 0), vec!["port_mappings[0].container_port"]),
        (bed.pod("a").port(8080, 70_000), vec!["port_mappings[0].container_port"]),
        (bed.pod("a").port(81, 80).port(81, 90), vec!["port_mappings[1].host_port", "81"]),
        (
            bed.pod("a").port(81, 80).with(|c| c.port_mappings[0].host_ip = "here".to_owned()),
            vec!["port_mappings[0].host_ip", "here"],
        ),
        (
            bed.pod("a").port(81, 80).with(|c| c.port_mappings[0].protocol = 9),
            vec!["port_mappings[0].protocol", "9"],
        ),
        (bed.pod("a").sysctl("kernel.panic", "1"), vec!["kernel.panic", "not namespaced"]),
        (bed.pod("a").sysctl("net/../kernel/panic", "1"), vec!["sysctls"]),
        (bed.pod("a").sysctl("net.ipv4.ip_forward", "1\n2"), vec!["sysctls", "one line"]),
        (
            bed.pod("a").host_network().sysctl("net.ipv4.ip_forward", "1"),
            vec!["net.ipv4.ip_forward", "node's network"],
        ),
        (bed.pod("a").namespaces(|n| n.network = 77), vec!["network", "77"]),
        (bed.pod("a").namespaces(|n| n.pid = -1), vec!["pid", "-1"]),
    ];
    type Maps = Vec<(u32, u32, u32)>;
    let maps: [(Maps, &str); 5] = [
        (vec![], "uids"),
        (vec![(100_000, 0, 0)], "uids"),
        (vec![(100_000, 0, 10), (200_000, 5, 10)], "overlap"),
        (vec![(100_000, 0, 10), (100_005, 10, 10)], "overlap"),
        (vec![(u32::MAX, 0, 65536)], "uids"),
    ];
    for (ranges, word) in maps {
        let ids: Vec<_> = ranges
            .into_iter()
            .map(|(host_id, container_id, length)| cri::IdMapping { host_id, container_id, length })
            .collect();
        let user = cri::UserNamespace { mode: 0, uids: ids.clone(), gids: ids };
        let pod = bed.pod("a").namespaces(|modes| modes.userns_options = Some(user));
        cases.push((pod, vec!["userns_options", word]));
    }
    cases
}

#[test]
fn a_pod_that_the_kernel_or_the_network_refuses_is_rolled_back_whole() -> Result<()> {
    on_a_node(async |bed| {
        // A parameter that has its place in the pod, and a value that it does not take.
        let pod = bed.pod("sysctl").sysctl("net.ipv4.ip_forward", "perhaps");
        let words = ["net.ipv4.ip_forward"];
        refuses("a value", bed.cri.run(&pod).await, (Code::InvalidArgument, &words))?;
        let pod = bed.pod("sysctl").sysctl("net.ipv4.no_such_thing", "1");
        let words = ["net.ipv4.no_such_thing"];
        refuses("a name", bed.cri.run(&pod).await, (Code::InvalidArgument, &words))?;
        let mut pod = bed.pod("rate");
        for (rate, word) in [("-1", "ingress"), ("fast", "ingress"), ("1e99", "ingress")] {
            pod = pod.with(|config| {
                let key = "kubernetes.io/ingress-bandwidth".to_owned();
                config.annotations.insert(key, rate.to_owned());
            });
            refuses(rate, bed.cri.run(&pod).await, (Code::InvalidArgument, &[word, rate]))?;
        }
        assert!(bed.cri.pods().await?.is_empty());
        the_next_pod_is_fine(bed).await
    })
}

#[test]
fn a_log_directory_that_is_a_file_is_refused_when_the_container_starts() -> Result<()> {
    on_a_node(async |bed| {
        let file = bed.node.disk().join("no-directory");
        std::fs::write(&file, "a file\n")?;
        for (place, name) in [(file.clone(), "file"), (file.join("below"), "below")] {
            let pod = bed.cri.run(&Pod::new(name).logs(&place)).await?;
            let id = bed.cri.create(&pod, &Container::idle("a", &busybox())).await?;
            let wanted = (Code::InvalidArgument, &["log_directory", "no-directory"][..]);
            refuses(name, bed.cri.start(&id).await, wanted)?;
            let status = bed.cri.container(&id).await?;
            assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
            bed.cri.clear(&pod.id).await?;
        }
        assert_eq!(std::fs::read_to_string(&file)?, "a file\n");
        the_next_pod_is_fine(bed).await
    })
}
