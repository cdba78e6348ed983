//! The leak census: everything on a node that could be left behind, listed before and after.
//!
//! It asks the kernel what there is, not the daemon what it holds, and looks at nothing by
//! Berth's own names; so a thing that nobody thought of is found too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::config::Daemon;
use crate::guest::Driver;
use crate::node::Node;

/// How long things that end by themselves may take: a socket's close, a lazy unmount.
const PATIENCE: Duration = Duration::from_secs(3);

/// What one look at a node found: each thing by name, with how often it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    found: BTreeMap<String, usize>,
}

/// What a later census has more or less of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// New things.
    pub more: Vec<String>,
    /// Things that are gone.
    pub less: Vec<String>,
}

impl Census {
    /// Looks at everything.
    ///
    /// # Errors
    /// If the node is not up.
    pub fn take(node: &Node) -> Result<Self> {
        let mut census = Self::default();
        // What another daemon keeps open, to its registry for one, is its own affair.
        let daemon = node.daemon().filter(|_| node.config().which() == Daemon::Berth);
        census.processes(node)?;
        census.mounts(node)?;
        census.network(node)?;
        census.cgroups(node);
        census.sockets(node)?;
        if let Some(daemon) = daemon {
            census.descriptors(node, daemon)?;
        }
        for root in ["/run", "/var/lib/cni", "/var/lib/berth"] {
            census.files(node, Path::new(root))?;
        }
        Ok(census)
    }

    /// What `later` has more or less of than this one.
    #[must_use]
    pub fn difference(&self, later: &Self) -> Difference {
        let surplus = |of: &Self, over: &Self| {
            let count = |name| over.found.get(name).copied().unwrap_or(0);
            of.found
                .iter()
                .filter(|(name, number)| **number > count(*name))
                .map(|(name, number)| match number - count(name) {
                    1 => name.clone(),
                    many => format!("{name} ({many} times)"),
                })
                .collect()
        };
        Difference { more: surplus(later, self), less: surplus(self, later) }
    }

    /// Waits until the node looks as it did, and fails with the names of what differs.
    ///
    /// # Errors
    /// With every difference, if they do not go away within three seconds.
    pub fn same_again(&self, node: &Node) -> Result<()> {
        self.same_within(node, crate::patience::here(PATIENCE))
    }

    /// As [`Census::same_again`], with another patience.
    ///
    /// # Errors
    /// With every difference that is still there then.
    pub fn same_within(&self, node: &Node, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let mut difference = self.difference(&Self::take(node)?);
            // What a daemon that was just started still had open, and has closed.
            difference.less.retain(|name| !name.starts_with("descriptor "));
            if difference == Difference::default() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the leak census is not empty:\n{difference}");
            }
            // Closing and reaping end without an event that a test could wait for.
            std::thread::sleep((patience / 100).min(Duration::from_secs(1)));
        }
    }

    /// Waits until no process and no bound socket is there that this census does not have. What
    /// else a daemon may leave when it is stopped was looked at while it ran.
    ///
    /// # Errors
    /// With the names of what is left.
    pub fn no_more_processes(&self, node: &Node) -> Result<()> {
        let deadline = Instant::now() + crate::patience::here(PATIENCE);
        loop {
            let mut left = self.difference(&Self::take(node)?);
            let alive =
                |name: &String| ["process ", "unix "].iter().any(|kind| name.starts_with(kind));
            left.more.retain(alive);
            left.less.clear();
            if left.more.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the leak census is not empty:\n{left}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How many things were found.
    #[must_use]
    pub fn len(&self) -> usize {
        self.found.values().sum()
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    fn add(&mut self, kind: &str, name: &str) {
        *self.found.entry(format!("{kind} {name}")).or_default() += 1;
    }

    /// Every process of the node's PID namespace and below. Those whose parent is outside were
    /// started by the test itself: the daemon, a registry. Orphans belong to PID 1.
    fn processes(&mut self, node: &Node) -> Result<()> {
        let members = Members::of(node);
        for entry in fs::read_dir(node.path("/proc"))?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_default().trim().to_owned()
            };
            // One that ended between the listing and now has no status, and is no leak.
            if status.is_empty() || field("PPid:") == "0" || !members.has(pid, &field("PPid:")) {
                continue;
            }
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            let (name, state) = (field("Name:"), field("State:"));
            // A state changes all the time, but a zombie is worth naming.
            let zombie = if state.starts_with('Z') { " (zombie)" } else { "" };
            self.add("process", &format!("{pid} {name}{zombie} [{}]", words.trim()));
        }
        Ok(())
    }

    fn mounts(&mut self, node: &Node) -> Result<()> {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", node.keeper()))?;
        for line in table.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let kind = words.iter().position(|word| *word == "-").and_then(|at| words.get(at + 1));
            if let (Some(root), Some(target), Some(kind)) = (words.get(3), words.get(4), kind) {
                self.add("mount", &format!("{kind} {root} on {target}"));
            }
        }
        Ok(())
    }

    /// Links, addresses, routes and packet rules of the node's network.
    fn network(&mut self, node: &Node) -> Result<()> {
        for (kind, program, words) in [
            ("link", "ip", &["-o", "link"][..]),
            ("address", "ip", &["-o", "address"]),
            ("route", "ip", &["route", "show", "table", "all"]),
            ("rule", "iptables-save", &[]),
            ("rule", "ip6tables-save", &[]),
        ] {
            for line in node.run(program, words)?.lines() {
                if let Some(name) = steady(kind, line) {
                    self.add(kind, &name);
                }
            }
        }
        Ok(())
    }

    fn cgroups(&mut self, node: &Node) {
        for path in node.parent().below() {
            self.add("cgroup", &path);
        }
        for unit in node.parent().units() {
            self.add("unit", &unit);
        }
    }

    /// Unix sockets that are bound to a path.
    fn sockets(&mut self, node: &Node) -> Result<()> {
        let table = fs::read_to_string(format!("/proc/{}/net/unix", node.keeper()))?;
        let mut paths: Vec<_> =
            table.lines().filter_map(|line| line.split_whitespace().nth(7)).collect();
        // A connection accepted from a socket shows the same path once more.
        paths.sort_unstable();
        paths.dedup();
        for path in paths {
            self.add("unix socket", path);
        }
        Ok(())
    }

    /// What the daemon has open, without the connections of CRI clients. Several connections to
    /// one peer count as one: how many a live shim has is the daemon's business.
    fn descriptors(&mut self, node: &Node, daemon: u32) -> Result<()> {
        let sockets = Sockets::of(node)?;
        let clients = node.config().socket();
        let mut peers = BTreeSet::new();
        for entry in fs::read_dir(format!("/proc/{daemon}/fd"))?.flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let target = target.display().to_string();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            match inode.map(|inode| sockets.look_up(inode)) {
                None => self.add("descriptor", &anonymous(&target)),
                // Accepted connections carry the listener's path, which may have been renamed.
                Some(Socket::Bound(path)) if path.starts_with(clients) => {}
                Some(Socket::Bound(path)) => self.add("descriptor", &format!("socket {path}")),
                Some(Socket::Connected(path)) => drop(peers.insert(path)),
                Some(Socket::Other) => {
                    let kind = inode.map_or("of no kind", |inode| kind_of_socket(daemon, inode));
                    self.add("descriptor", &format!("socket {kind}"));
                }
            }
        }
        for peer in peers {
            self.add("descriptor", &format!("connection to {peer}"));
        }
        Ok(())
    }

    /// Every name below a directory, on that file system alone: what is mounted is no file.
    fn files(&mut self, node: &Node, inside: &Path) -> Result<()> {
        let top = node.path(&inside.display().to_string());
        let Ok(device) = fs::metadata(&top).map(|facts| facts.dev()) else { return Ok(()) };
        let mut dirs = vec![top.clone()];
        while let Some(dir) = dirs.pop() {
            // A directory may go while it is read.
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                let Ok(facts) = fs::symlink_metadata(&path) else { continue };
                let name = inside.join(path.strip_prefix(&top).unwrap_or(&path));
                if !unsteady(&name) {
                    self.add("file", &name.display().to_string());
                }
                if facts.is_dir() && facts.dev() == device {
                    dirs.push(path);
                }
            }
        }
        Ok(())
    }
}

/// Which processes are the node's, where it has no PID namespace of its own: those in its cgroups and
/// those in its mount namespace, but for its keeper and what the test itself has started.
struct Members {
    keeper: u32,
    shared: Option<(BTreeSet<u32>, std::path::PathBuf)>,
}

impl Members {
    fn of(node: &Node) -> Self {
        let keeper = node.keeper();
        let mounts = fs::read_link(format!("/proc/{keeper}/ns/mnt")).unwrap_or_default();
        let shared =
            (Driver::of_tests() == Driver::Systemd).then(|| (node.parent().processes(), mounts));
        Self { keeper, shared }
    }

    fn has(&self, pid: u32, parent: &str) -> bool {
        let Some((members, mounts)) = &self.shared else { return true };
        let own = [std::process::id().to_string(), self.keeper.to_string()];
        let there = || fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|ns| ns == *mounts);
        pid != self.keeper
            && !own.iter().any(|own| own == parent)
            && (members.contains(&pid) || there())
    }
}

/// A unix socket, as far as a census tells them apart.
enum Socket {
    /// Bound to a path, or accepted from one that is.
    Bound(String),
    /// Connected to a path.
    Connected(String),
    /// A pair, or no unix socket.
    Other,
}

/// The unix sockets of a node's network and of our own: inode to path and peer, from ss(8). A
/// connection that the daemon accepted belongs to the network of whoever made it (unix_stream_connect
/// in the kernel): those of our clients are among ours.
struct Sockets {
    table: HashMap<String, (String, String)>,
}

impl Sockets {
    fn of(node: &Node) -> Result<Self> {
        let theirs = node.run("ss", &["-xanH"])?;
        let ours = Command::new("ss").arg("-xanH").output().context("run ss")?;
        let ours = String::from_utf8_lossy(&ours.stdout);
        let table = theirs.lines().chain(ours.lines()).filter_map(|line| {
            // u_str ESTAB 0 0 PATH INODE PEER-PATH PEER-INODE, a `*` where there is no path.
            let mut words = line.split_whitespace().skip(4);
            let (path, inode) = (words.next()?, words.next()?);
            Some((inode.to_owned(), (path.to_owned(), words.nth(1)?.to_owned())))
        });
        Ok(Self { table: table.collect() })
    }

    fn look_up(&self, inode: &str) -> Socket {
        match self.table.get(inode) {
            Some((path, _)) if path != "*" => Socket::Bound(path.clone()),
            Some((_, peer)) => match self.table.get(peer) {
                Some((path, _)) if path != "*" => Socket::Connected(path.clone()),
                _ => Socket::Other,
            },
            None => Socket::Other,
        }
    }
}

/// Which of the kernel's tables, as a process sees them, has a socket that is bound and connected to
/// no path.
fn kind_of_socket(process: u32, inode: &str) -> &'static str {
    const TABLES: [&str; 8] = ["unix", "netlink", "tcp", "tcp6", "udp", "udp6", "packet", "raw"];
    let lists = |table: &&str| {
        let text = fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default();
        text.lines().any(|line| line.split_whitespace().any(|word| word == inode))
    };
    TABLES.into_iter().find(lists).unwrap_or("of another network namespace")
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.more {
            writeln!(f, "  left over: {name}")?;
        }
        for name in &self.less {
            writeln!(f, "  missing:   {name}")?;
        }
        Ok(())
    }
}

/// The part of a line that is the same whenever the thing is the same.
fn steady(kind: &str, line: &str) -> Option<String> {
    match kind {
        // `5: veth1@if2: <...> master cni0 ...`: the bridge goes down when its last port goes.
        "link" => line.split(": ").nth(1).map(str::to_owned),
        // `3: cni0 inet 198.18.0.1/24 ...`; link-local IPv6 addresses come some time after.
        "address" if line.contains(" fe80:") || line.contains("scope link") => None,
        "address" => {
            let words: Vec<_> = line.split_whitespace().skip(1).take(3).collect();
            Some(words.join(" "))
        }
        // Kept by the kernel while a bridge is up, and a bridge is up while it has ports.
        "route" if line.contains("fe80:") || line.contains("ff00:") => None,
        "route" => {
            let words = line.split_whitespace();
            let words: Vec<_> =
                words.filter(|word| !["linkdown", "pref", "medium"].contains(word)).collect();
            Some(words.join(" "))
        }
        // Comments hold the time, chains hold counters.
        _ if line.starts_with('#') => None,
        _ => Some(line.split(" [").next().unwrap_or(line).to_owned()),
    }
}

/// A descriptor's target without the number that is new each time.
fn anonymous(target: &str) -> String {
    match target.split_once(":[") {
        Some((kind, _)) => kind.to_owned(),
        None => target.to_owned(),
    }
}

/// Files that keep changing for reasons of their own: IPAM's memory of the last address, SQLite's
/// journal beside a database, the notes of mount(8) and iptables(8).
fn unsteady(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("last_reserved_ip")
        || [".db-wal", ".db-shm"].iter().any(|end| name.ends_with(end))
        || path == Path::new("/run/xtables.lock")
        || path.starts_with("/run/mount")
}
