//! The kubelet under test: its configuration, and its process in a node.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::defaults::NODE;
use crate::network::{self, Subnet};
use crate::node::Node;
use crate::place::Guest;

/// Its API, by TLS.
pub(super) const PORT: u16 = 10250;
/// What a kubelet writes for the whole machine: its copies of these are its own files here.
const SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// A kubelet; killed on drop.
#[derive(Debug)]
pub(super) struct Kubelet {
    program: PathBuf,
    home: PathBuf,
    process: Option<Guest>,
    /// PEM of the certificate that its API shows.
    pub(super) certificate: String,
}

impl Kubelet {
    /// Where it lives, with its configuration; not yet started.
    ///
    /// # Errors
    /// If its files cannot be written or its cgroup cannot be made.
    pub(super) fn prepare(program: &Path, node: &Node, gates: &[String]) -> Result<Self> {
        let program =
            fs::canonicalize(program).with_context(|| format!("{}", program.display()))?;
        let home = node.disk().join("kubelet");
        let own = rcgen::generate_simple_self_signed(vec![Ipv4Addr::LOCALHOST.to_string()])
            .context("a certificate for the kubelet")?;
        let certificate = own.cert.pem();
        let kubelet = Self { program, home, process: None, certificate };
        for name in ["manifests", "root", "plugins", "sysctl"] {
            fs::create_dir_all(kubelet.home.join(name)).context("a directory of the kubelet")?;
        }
        kubelet.write("tls.crt", &kubelet.certificate)?;
        kubelet.write("tls.key", &own.signing_key.serialize_pem())?;
        kubelet.write("resolv.conf", "nameserver 198.18.255.53\nsearch node.test\n")?;
        let server = format!("http://127.0.0.1:{}", super::serve::PORT);
        kubelet.write(
            "kubeconfig",
            &json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "own",
                "clusters": [{"name": "own", "cluster": {"server": server}}],
                "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
                "users": [{"name": "own", "user": {}}],
            })
            .to_string(),
        )?;
        for (path, value) in SYSCTLS {
            kubelet.write(&format!("sysctl/{}", path.replace('/', ".")), &format!("{value}\n"))?;
        }
        kubelet.write("config", &kubelet.configuration(node, gates).to_string())?;
        kubelet.furnish(node)?;
        Ok(kubelet)
    }

    /// Makes what goes with a boot: its cgroups, which it makes with the first pod of a kind and
    /// keeps, and a place for the links that it makes in /var/log, which is the machine's own.
    ///
    /// # Errors
    /// If one cannot be made.
    pub(super) fn furnish(&self, node: &Node) -> Result<()> {
        for kind in ["burstable", "besteffort"] {
            node.parent().make(&format!("kubelet/kubepods/{kind}"))?;
        }
        node.run("mount", &["-t", "tmpfs", "tmpfs", "/var/log"]).map(drop)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.home.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// The directory of static pods.
    pub(super) fn manifests(&self) -> PathBuf {
        self.home.join("manifests")
    }

    /// Its log.
    pub(super) fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    fn configuration(&self, node: &Node, gates: &[String]) -> serde_json::Value {
        let own = ["PodAndContainerStatsFromCRI", "KubeletCrashLoopBackOffMax"];
        let gates: BTreeMap<_, _> = own
            .into_iter()
            .chain(gates.iter().map(String::as_str))
            .map(|name| (name, true))
            .collect();
        let path = |name: &str| self.home.join(name).display().to_string();
        json!({
            "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "containerRuntimeEndpoint": format!("unix://{}", node.config().socket()),
            "cgroupDriver": "cgroupfs", "cgroupRoot": format!("{}/kubelet", node.parent().path()),
            "cgroupsPerQOS": true, "enforceNodeAllocatable": ["pods"], "failCgroupV1": false,
            "failSwapOn": false, "oomScoreAdj": 0,
            "evictionHard": {
                "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
                "imagefs.available": "0%", "imagefs.inodesFree": "0%", "pid.available": "0%",
            },
            "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
            "podLogsDir": node.disk().join("pods"), "resolvConf": path("resolv.conf"),
            "clusterDNS": ["198.18.255.10"], "clusterDomain": "cluster.test",
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "address": "127.0.0.1", "port": PORT, "readOnlyPort": 0,
            "tlsCertFile": path("tls.crt"), "tlsPrivateKeyFile": path("tls.key"),
            "contentType": "application/json",
            "staticPodPath": path("manifests"), "fileCheckFrequency": "1s",
            // Their defaults are made for a node that nobody waits for.
            "syncFrequency": "2s", "nodeStatusUpdateFrequency": "5s",
            "crashLoopBackOff": {"maxContainerRestartPeriod": "3s"},
            "containerLogMaxSize": "512Ki", "containerLogMaxFiles": 50, "containerLogMonitorInterval": "3s",
            "serializeImagePulls": false, "eventRecordQPS": 0,
            "volumePluginDir": path("plugins"),
            "allowedUnsafeSysctls": ["kernel.msg*", "net.core.*"],
            "featureGates": gates,
        })
    }

    /// Starts it, in a mount namespace in which the machine's sysctls are covered.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn start(&mut self, node: &Node) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.log())?;
        // What it mounts must reach the node, and what covers /proc must not.
        let mut script = "mount --make-rprivate /proc\n".to_owned();
        for (path, _) in SYSCTLS {
            let own = self.home.join("sysctl").join(path.replace('/', "."));
            script.push_str(&format!("mount --bind {} /proc/sys/{path}\n", own.display()));
        }
        script.push_str("exec \"$@\"\n");
        let home = |name: &str| self.home.join(name).display().to_string();
        let node_ip = Subnet::new(node.number()).gateway().to_string();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "unchanged", "sh", "-e", "-c", &script, "sh"])
            .arg(&self.program)
            .args(["--config", &home("config"), "--kubeconfig", &home("kubeconfig")])
            .args(["--root-dir", &home("root"), "--cert-dir", &home("root/pki")])
            .args(["--hostname-override", NODE, "--node-ip", &node_ip, "-v=2"])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        self.process =
            Some(Guest(node.place()?.visit(|| command.spawn().context("start the kubelet"))?));
        Ok(())
    }

    /// Kills it with SIGKILL.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    /// Refuses to go on without it.
    ///
    /// # Errors
    /// If it has ended by itself; with the end of its log.
    pub(super) fn runs(&mut self) -> Result<()> {
        let process = self.process.as_mut().context("no kubelet was started")?;
        match process.0.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(15)..].join("\n");
                anyhow::bail!("the kubelet ended with {status}; its log ends:\n{end}")
            }
        }
    }

    /// Where its API is, from inside the node.
    pub(super) fn address() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))
    }
}

/// What `program --version` says.
///
/// # Errors
/// If it cannot be run.
pub(super) fn version(program: &Path) -> Result<String> {
    let said = network::run(Command::new(program).arg("--version"), b"")?;
    Ok(String::from_utf8_lossy(&said).trim().to_owned())
}
