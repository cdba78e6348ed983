//! The pod network of a node: CNI configurations, and a first ADD and DEL that leave the
//! furniture which the reference plugins never take away again.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::place::Place;

/// Where Debian keeps the reference plugins.
pub const PLUGINS: &str = "/usr/lib/cni";
/// The bridge of every node; each has a network namespace of its own.
pub const BRIDGE: &str = "cni0";

/// The subnets of a node, from the range that RFC 2544 sets aside for tests.
#[derive(Clone, Copy, Debug)]
pub struct Subnet {
    number: u8,
}

impl Subnet {
    /// The subnet of a node's slot.
    #[must_use]
    pub fn new(number: u8) -> Self {
        Self { number }
    }

    /// The bridge's address.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, 1)
    }

    /// `198.18.N.0/24`.
    #[must_use]
    pub fn v4(&self) -> String {
        format!("198.18.{}.0/24", self.number)
    }

    /// `2001:2:0:N::/64`, from the range that RFC 5180 sets aside for tests.
    #[must_use]
    pub fn v6(&self) -> String {
        format!("2001:2:0:{}::/64", self.number)
    }
}

/// How many address families pods get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv4 alone.
    One,
    /// IPv4 first, then IPv6.
    Two,
}

/// The configuration list of bridge, host-local and portmap.
#[must_use]
pub fn conflist(subnet: Subnet, families: Families) -> Value {
    let mut ranges = vec![json!([{"subnet": subnet.v4()}])];
    let mut routes = vec![json!({"dst": "0.0.0.0/0"})];
    if families == Families::Two {
        ranges.push(json!([{"subnet": subnet.v6()}]));
        routes.push(json!({"dst": "::/0"}));
    }
    json!({
        "cniVersion": "1.0.0",
        "name": "testnet",
        "plugins": [
            {
                "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true,
                "hairpinMode": true,
                "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    })
}

/// A configuration list and where its plugins are.
struct Chain<'a> {
    list: &'a Value,
    dirs: &'a [String],
}

/// Runs one ADD and DEL of the list in a scratch network namespace: the bridge, the top-level
/// chains and the IPAM directory then exist before the first census.
///
/// # Errors
/// If a plugin fails.
pub fn warm_up(place: &Place, list: &Value, dirs: &[String]) -> Result<()> {
    let chain = Chain { list, dirs };
    place.visit(|| {
        run(Command::new("ip").args(["netns", "add", "warm-up"]), b"")?;
        let plugins = list["plugins"].as_array().context("a list of plugins")?;
        let mut result = Value::Null;
        for plugin in plugins {
            let answer = chain.invoke("ADD", plugin, &result)?;
            result = serde_json::from_slice(&answer).context("a plugin's result")?;
        }
        for plugin in plugins.iter().rev() {
            chain.invoke("DEL", plugin, &result)?;
        }
        run(Command::new("ip").args(["netns", "delete", "warm-up"]), b"").map(drop)
    })
}

impl Chain<'_> {
    fn invoke(&self, verb: &str, plugin: &Value, previous: &Value) -> Result<Vec<u8>> {
        let mut config = plugin.clone();
        config["name"] = self.list["name"].clone();
        config["cniVersion"] = self.list["cniVersion"].clone();
        if plugin["capabilities"]["portMappings"] == json!(true) {
            config["runtimeConfig"] = json!({
                "portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "tcp"}],
            });
        }
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        let name = plugin["type"].as_str().context("a plugin without a type")?;
        let found = self.dirs.iter().map(|dir| Path::new(dir).join(name));
        let found = found.into_iter().find(|path| path.exists());
        let mut command = Command::new(found.with_context(|| {
            format!("no CNI plugin {name}: install the package containernetworking-plugins")
        })?);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", "warm-up")
            .env("CNI_NETNS", "/run/netns/warm-up")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.dirs.join(":"));
        run(&mut command, config.to_string().as_bytes())
    }
}

/// Runs a command to its end with this input, in the namespaces of the calling thread.
///
/// # Errors
/// If it cannot be started or fails; with what it wrote.
pub fn run(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input closes it early.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().with_context(|| format!("wait for {command:?}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&said).trim());
    }
    Ok(output.stdout)
}
