//! Debian's own plugins (package containernetworking-plugins) in a network and a mount namespace of
//! the test's: the machine's network, its IPAM files and its firewall are never touched.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use berth_cni::{
    Attachment, Bandwidth, Deadlines, Network, PodIdentity, PortMapping, Protocol, Readiness,
    Settings,
};

const PLUGINS: &str = "/usr/lib/cni";
const IPAM: &str = "/var/lib/cni/networks/pods";
const INSIDE: &str = "BERTH_TEST_INSIDE";
const BRIDGE: &str = r#"
    {"type": "bridge", "bridge": "berth0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
     "ipam": {"type": "host-local",
              "ranges": [[{"subnet": "198.18.7.0/24"}], [{"subnet": "2001:db8:7::/64"}]],
              "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}"#;
const CHAINED: &str = r#",
    {"type": "portmap", "capabilities": {"portMappings": true}},
    {"type": "bandwidth", "capabilities": {"bandwidth": true}}"#;

#[test]
fn debians_bridge_host_local_and_portmap() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "debians_bridge_host_local_and_portmap", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn inside() {
    for place in ["/var/lib", "/run"] {
        run("mount", &["-t", "tmpfs", "tmpfs", place]);
    }
    run("ip", &["link", "set", "lo", "up"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        two_pods_come_and_go().await;
        check_sees_that_an_interface_has_gone().await;
        del_finds_everything_without_netns_and_configuration().await;
    });
}

async fn two_pods_come_and_go() {
    let (dir, network) = network(CHAINED);
    assert_eq!(network.status().await, Readiness::Ready { network: "pods".into() });
    let (mut web, client) = (pod("web", Some(8080)), pod("client", None));
    web.bandwidth =
        Bandwidth::from_annotations([("kubernetes.io/ingress-bandwidth", "100M")]).unwrap();
    let attached = network.attach(&web).await.unwrap();
    let other = network.attach(&client).await.unwrap();

    // Dual stack, in the order of the configuration.
    let ips = attached.pod_ips();
    assert!(ips[0].starts_with("198.18.7.") && ips[1].starts_with("2001:db8:7::"), "{ips:?}");
    assert_ne!(ips, other.pod_ips());
    let shown = run("ip", &["-netns", "web", "address", "show", "eth0"]);
    assert!(ips.iter().all(|ip| shown.contains(ip.as_str())), "{shown}");

    // The pod answers the other pod, by its address and by the node's port.
    fs::write(dir.path().join("index.html"), "berth").unwrap();
    let _server = serve(dir.path());
    let gateway: IpAddr = attached.ips[0].gateway.unwrap();
    assert_eq!(fetch("client", &ips[0], 80), "berth");
    assert_eq!(fetch("client", &gateway.to_string(), 8080), "berth");

    let shaped = run("tc", &["qdisc", "show"]);
    assert!(shaped.contains("tbf") && shaped.contains("rate 100Mbit"), "{shaped}");

    // A repeat changes nothing.
    assert_eq!(network.attach(&web).await.unwrap(), attached);

    for pod in [&web, &client] {
        network.detach(pod).await.unwrap();
        network.detach(pod).await.unwrap();
        run("ip", &["netns", "delete", &pod.container_id]);
    }
    nothing_is_left(&network).await;
}

/// The bridge alone: portmap 1.1.1 looks for IPv4 rules in ip6tables when it checks a dual stack,
/// and bandwidth 1.1.1 panics in CHECK.
async fn check_sees_that_an_interface_has_gone() {
    let (_dir, network) = network("");
    let lost = pod("gone-link", None);
    network.attach(&lost).await.unwrap();
    network.check("gone-link").await.unwrap();
    run("ip", &["-netns", "gone-link", "link", "delete", "eth0"]);
    network.check("gone-link").await.unwrap_err();
    network.detach(&lost).await.unwrap();
    run("ip", &["netns", "delete", "gone-link"]);
    nothing_is_left(&network).await;
}

async fn del_finds_everything_without_netns_and_configuration() {
    let (_dir, network) = network(CHAINED);
    network.attach(&pod("gone", Some(8081))).await.unwrap();
    assert_eq!(reserved().len(), 2);
    run("ip", &["netns", "delete", "gone"]);
    fs::remove_file(&network.current().unwrap().file).unwrap();
    network.detach_cached("gone").await.unwrap();
    nothing_is_left(&network).await;
}

/// The bridge, and the plugins that are chained to it.
fn network(chained: &str) -> (tempfile::TempDir, Network) {
    let dir = tempfile::tempdir().unwrap();
    let conf_dir = dir.path().join("net.d");
    fs::create_dir(&conf_dir).unwrap();
    let config = format!(r#"{{"cniVersion":"1.0.0","name":"pods","plugins":[{BRIDGE}{chained}]}}"#);
    fs::write(conf_dir.join("10-pods.conflist"), config).unwrap();
    let network = Network::new(Settings {
        conf_dir,
        bin_dirs: vec![PLUGINS.into()],
        cache_dir: dir.path().join("cache"),
        env: vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into())],
        cgroups: Vec::new(),
        owned: Default::default(),
        template: None,
        deadlines: Deadlines::default(),
    });
    (dir, network)
}

/// A pod with a netns of its own name.
fn pod(name: &str, host_port: Option<u16>) -> Attachment {
    run("ip", &["netns", "add", name]);
    let mapping = |host_port| PortMapping {
        host_port,
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
    };
    Attachment {
        container_id: name.into(),
        netns: PathBuf::from("/run/netns").join(name),
        pod: PodIdentity { namespace: "default".into(), name: name.into(), uid: name.into() },
        port_mappings: host_port.map(mapping).into_iter().collect(),
        ..Attachment::default()
    }
}

async fn nothing_is_left(network: &Network) {
    assert_eq!(network.cached().await.unwrap(), []);
    assert_eq!(reserved(), [] as [String; 0]);
    let rules = run("iptables-save", &[]) + &run("ip6tables-save", &[]);
    // Without the pod's interface the bridge plugin cannot tell its addresses, and leaves the
    // masquerade rules behind: that is why DEL comes before the netns goes.
    let of_portmap = |line: &&str| line.contains("dnat name") || line.contains("--to-destination");
    let of_bridge = |line: &&str| line.contains("id: \\\"") && !line.contains("id: \\\"gone");
    let left: Vec<&str> =
        rules.lines().filter(|line| of_portmap(line) || of_bridge(line)).collect();
    assert!(left.is_empty(), "{left:#?}");
}

/// The addresses that host-local has given out.
fn reserved() -> Vec<String> {
    let entries = fs::read_dir(IPAM).unwrap().map(|entry| entry.unwrap().file_name());
    let names = entries.map(|name| name.into_string().unwrap());
    names.filter(|name| name.starts_with("198.18.") || name.starts_with("2001:")).collect()
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(dir: &Path) -> Server {
    let mut command = Command::new("nsenter");
    command.arg("--net=/run/netns/web").args(["busybox", "httpd", "-f", "-p", "80", "-h"]).arg(dir);
    Server(command.spawn().unwrap())
}

/// Asks until the server is up.
fn fetch(netns: &str, host: &str, port: u16) -> String {
    let ask = format!(
        r"exec 3<>/dev/tcp/{host}/{port}; printf 'GET / HTTP/1.0\r\n\r\n' >&3; timeout 2 cat <&3"
    );
    let netns = format!("--net=/run/netns/{netns}");
    for _ in 0..50 {
        let mut command = Command::new("timeout");
        command.args(["2", "nsenter", &netns, "bash", "-c", &ask]).stderr(Stdio::null());
        let answer = String::from_utf8(command.output().unwrap().stdout).unwrap();
        if let Some((_, body)) = answer.split_once("\r\n\r\n") {
            return body.to_owned();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{host}:{port} does not answer: {}", run("iptables-save", &[]));
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}
