//! What a container got, read in the kernel's files about its first process and inside of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, eventually};
use cri::NamespaceMode;
use cri::security_profile::ProfileType;

use super::asked::{Site, TEXT};

/// What a container has when nothing is said: CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP
/// NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP.
const DEFAULTS: u64 = 0xa804_25fb;
/// Those that are asked for here, by their numbers (capability.h).
const NUMBERS: [(&str, u64); 7] = [
    ("CHOWN", 0),
    ("KILL", 5),
    ("NET_BIND_SERVICE", 10),
    ("NET_ADMIN", 12),
    ("NET_RAW", 13),
    ("SYS_PTRACE", 19),
    ("SYS_TIME", 25),
];
/// The users of the image with their groups.
const USERS: [(&str, u32, u32, &[u32]); 4] = [
    ("root", 0, 0, &[]),
    ("www-data", 33, 33, &[]),
    ("default-user", 1000, 1000, &[50000]),
    ("nobody", 65534, 65534, &[]),
];

macro_rules! same {
    ($what:expr, $seen:expr, $asked:expr) => {{
        let (seen, asked) = ($seen, $asked);
        ensure!(seen == asked, "{}: {asked:?} was asked for and {seen:?} is there", $what);
    }};
}

/// One container, and what was asked for.
pub(super) struct Seen<'a> {
    bed: &'a Bed,
    site: &'a Site,
    pod: &'a cri::PodSandboxConfig,
    config: &'a cri::ContainerConfig,
    security: cri::LinuxContainerSecurityContext,
    modes: cri::NamespaceOption,
    id: &'a str,
    pid: u32,
    status: BTreeMap<String, String>,
    mounts: Vec<Vec<String>>,
}

impl<'a> Seen<'a> {
    pub(super) async fn new(
        bed: &'a Bed,
        site: &'a Site,
        pod: &'a cri::PodSandboxConfig,
        config: &'a cri::ContainerConfig,
        id: &'a str,
    ) -> Result<Self> {
        let pid = bed.pid(id).await?;
        // The OCI runtime does not wait until its own process has become the container's.
        let cmdline = bed.node.path(&format!("/proc/{pid}/cmdline"));
        let begun = async || Ok(fs::read(&cmdline)?.starts_with(b"sh\0-c\0").then_some(()));
        eventually(|| format!("the process {pid} of {id} does not begin"), begun).await?;
        let read = |file: &str| fs::read_to_string(bed.node.path(&format!("/proc/{pid}/{file}")));
        let status = read("status")?;
        let fields = status.lines().filter_map(|line| line.split_once(':'));
        let status = fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        let mounts = read("mountinfo")?;
        let mounts = mounts.lines().map(|line| line.split(' ').map(str::to_owned).collect());
        let sandbox = pod.linux.clone().unwrap_or_default().security_context.unwrap_or_default();
        let linux = config.linux.clone().unwrap_or_default();
        Ok(Self {
            bed,
            site,
            pod,
            config,
            security: linux.security_context.unwrap_or_default(),
            modes: sandbox.namespace_options.unwrap_or_default(),
            id,
            pid,
            status: status.collect(),
            mounts: mounts.collect(),
        })
    }

    pub(super) async fn compare(&self) -> Result<()> {
        self.program()?;
        self.user()?;
        self.capabilities()?;
        self.filters()?;
        self.namespaces()?;
        self.root_and_paths()?;
        self.volumes()?;
        self.device()?;
        self.limits()?;
        self.command_beside_it().await?;
        self.pods_part().await?;
        self.told().await
    }

    fn file(&self, name: &str) -> PathBuf {
        self.bed.node.path(&format!("/proc/{}/{name}", self.pid))
    }

    fn field(&self, name: &str) -> Result<&str> {
        self.status.get(name).map(String::as_str).with_context(|| format!("a field {name}"))
    }

    /// The first id of the pod's user namespace on the node; 0 without one.
    fn first_id(&self) -> u32 {
        let user = self.modes.userns_options.as_ref();
        user.and_then(|user| user.uids.first()).map_or(0, |range| range.host_id)
    }

    fn program(&self) -> Result<()> {
        let line = fs::read(self.file("cmdline"))?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<_> = line.trim_end_matches('\0').split('\0').collect();
        let line = self.config.command.iter().chain(&self.config.args);
        let asked = line.map(String::as_str).collect::<Vec<_>>().join("\0");
        same!("the command", words.join("\0"), asked.trim_end_matches('\0'));
        let environ = fs::read(self.file("environ"))?;
        let environ = String::from_utf8_lossy(&environ).into_owned();
        let mut asked = BTreeMap::new();
        for env in &self.config.envs {
            asked.insert(&*env.key, String::from_utf8_lossy(&env.value));
        }
        for (key, value) in asked {
            let prefix = format!("{key}=");
            let seen: Vec<_> =
                environ.split('\0').filter_map(|pair| pair.strip_prefix(&*prefix)).collect();
            same!(format!("the variable {key}"), seen, vec![&*value]);
        }
        let asked = match self.config.working_dir.trim_end_matches('/') {
            "" => "/",
            dir => dir,
        };
        same!("the directory", fs::read_link(self.file("cwd"))?, PathBuf::from(asked));
        let stdin = fs::read_link(self.file("fd/0"))?.display().to_string();
        let right = match (self.config.tty, self.config.stdin) {
            (true, _) => stdin.starts_with("/dev/pts/") || stdin == "/dev/console",
            (false, true) => stdin.starts_with("pipe:") || stdin.starts_with("/run/"),
            (false, false) => stdin == "/dev/null",
        };
        ensure!(right, "its stdin is {stdin}");
        Ok(())
    }

    fn user(&self) -> Result<()> {
        let asked = &self.security;
        let known = |uid: u32| USERS.iter().find(|(_, known, ..)| *known == uid);
        let uid = match (&asked.run_as_user, asked.run_as_username.as_str()) {
            (Some(user), _) => u32::try_from(user.value)?,
            (None, "") => 0,
            (None, name) => USERS.iter().find(|user| user.0 == name).context("a user")?.1,
        };
        let gid = match &asked.run_as_group {
            Some(group) => u32::try_from(group.value)?,
            None => known(uid).map_or(0, |user| user.2),
        };
        let first = self.first_id();
        let four = |id: u32| [id + first; 4].map(|id| id.to_string()).join("\t");
        same!("the user", self.field("Uid")?, four(uid));
        same!("the group", self.field("Gid")?, four(gid));
        let mut groups: BTreeSet<u32> = asked
            .supplemental_groups
            .iter()
            .map(|group| u32::try_from(*group))
            .collect::<Result<_, _>>()?;
        groups.insert(gid);
        if asked.supplemental_groups_policy == cri::SupplementalGroupsPolicy::Merge as i32 {
            groups.extend(known(uid).map_or(&[][..], |user| user.3));
        }
        let seen: BTreeSet<u32> = self
            .field("Groups")?
            .split_whitespace()
            .map(|group| Ok(group.parse::<u32>()? - first))
            .collect::<Result<_>>()?;
        // The primary group need not stand among the others.
        same!("the groups", &seen | &BTreeSet::from([gid]), groups);
        Ok(())
    }

    /// A drop wins over an addition, `ALL` on both sides comes first.
    fn capabilities(&self) -> Result<()> {
        let keeper = format!("/proc/{}/status", self.bed.node.keeper());
        let own = fs::read_to_string(keeper)?;
        let own = own.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("CapBnd")?;
        let own = u64::from_str_radix(own.trim(), 16)?;
        let asked = self.security.capabilities.clone().unwrap_or_default();
        let every = |list: &[String]| list.iter().any(|name| name == "ALL");
        let bits = |list: &[String]| {
            let bit = |name: &String| {
                let name = name.to_uppercase();
                let name = name.trim_start_matches("CAP_");
                NUMBERS.iter().find(|(known, _)| *known == name).map_or(0, |(_, bit)| 1 << bit)
            };
            list.iter().map(bit).fold(0, |all, bit| all | bit)
        };
        let mut ambient = bits(&asked.add_ambient_capabilities);
        if every(&asked.add_ambient_capabilities) {
            ambient = own;
        }
        let mut bounding = match (every(&asked.add_capabilities), every(&asked.drop_capabilities)) {
            (_, true) => 0,
            (true, false) => own,
            (false, false) => DEFAULTS & own,
        };
        let dropped = bits(&asked.drop_capabilities);
        bounding = (bounding | bits(&asked.add_capabilities) | ambient) & !dropped;
        ambient &= !dropped;
        if self.security.privileged {
            (bounding, ambient) = (own, bits(&asked.add_ambient_capabilities));
            if every(&asked.add_ambient_capabilities) {
                ambient = own;
            }
        }
        let root = self.field("Uid")?.starts_with(&format!("{}\t", self.first_id()));
        let effective = if root { bounding } else { ambient };
        for (set, asked) in [
            ("CapBnd", bounding),
            ("CapPrm", effective),
            ("CapEff", effective),
            ("CapInh", ambient),
            ("CapAmb", ambient),
        ] {
            same!(set, self.field(set)?, format!("{asked:016x}"));
        }
        Ok(())
    }

    fn filters(&self) -> Result<()> {
        let asked = u8::from(self.security.no_new_privs).to_string();
        same!("no_new_privs", self.field("NoNewPrivs")?, asked);
        let kind = self.security.seccomp.as_ref().map(|profile| profile.profile_type);
        let none = kind.is_none_or(|kind| kind == ProfileType::Unconfined as i32);
        let asked = if none || self.security.privileged { "0" } else { "2" };
        same!("the system call filter", self.field("Seccomp")?, asked);
        Ok(())
    }

    /// What exec starts is no stronger and no weaker than the first process.
    async fn command_beside_it(&self) -> Result<()> {
        let status = self.bed.cri.shell(self.id, "cat /proc/self/status").await?;
        let mut names =
            vec!["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp"];
        if self.modes.userns_options.is_none() {
            names.extend(["Uid", "Gid", "Groups"]);
        }
        for name in names {
            let seen = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
            let seen = seen.with_context(|| format!("a field {name}"))?.trim();
            same!(format!("{name} of a command"), seen, self.field(name)?);
        }
        // One filter is told from another by what it forbids.
        let own = |profile: &cri::SecurityProfile| {
            profile.profile_type == ProfileType::Localhost as i32 && !self.security.privileged
        };
        let own = self.security.seccomp.as_ref().is_some_and(own);
        let said = self.bed.cri.shell(self.id, "mkdir /made 2>&1; true").await?;
        same!("what its own filter forbids", said.contains("Operation not permitted"), own);
        Ok(())
    }

    fn namespaces(&self) -> Result<()> {
        let own = |kind: &str| -> Result<bool> {
            let node = format!("/proc/{}/ns/{kind}", self.bed.node.keeper());
            Ok(fs::read_link(self.file(&format!("ns/{kind}")))? != fs::read_link(node)?)
        };
        let node = NamespaceMode::Node as i32;
        let modes = &self.modes;
        let pid = match &self.security.namespace_options {
            Some(options) if options.pid != NamespaceMode::Pod as i32 => options.pid,
            _ => modes.pid,
        };
        for (kind, asked) in [
            ("net", modes.network != node),
            ("uts", modes.network != node),
            ("ipc", modes.ipc != node),
            ("pid", pid != node),
            ("user", modes.userns_options.is_some()),
            ("mnt", true),
        ] {
            same!(format!("a {kind} namespace of its own"), own(kind)?, asked);
        }
        if pid != node {
            let first = self.field("NSpid")?.split_whitespace().last() == Some("1");
            same!("being process 1", first, pid == NamespaceMode::Container as i32);
        }
        for (file, of) in [("uid_map", 0), ("gid_map", 1)] {
            let Some(user) = &modes.userns_options else { break };
            let asked = if of == 0 { &user.uids } else { &user.gids };
            let asked = asked.iter().flat_map(|one| [one.container_id, one.host_id, one.length]);
            let seen = fs::read_to_string(self.file(file))?;
            let seen: Vec<u32> = seen.split_whitespace().flat_map(str::parse).collect();
            same!(file, seen, asked.collect::<Vec<_>>());
        }
        Ok(())
    }

    /// The options of the topmost mount at a path inside.
    fn mounted(&self, path: &str) -> Option<Vec<&str>> {
        let line =
            self.mounts.iter().rev().find(|fields| fields.get(4).is_some_and(|at| at == path));
        line.map(|fields| fields[5].split(',').collect())
    }

    fn read_only(&self, path: &str) -> Result<bool> {
        let options = self.mounted(path).with_context(|| format!("a mount at {path}"))?;
        Ok(options.contains(&"ro"))
    }

    fn root_and_paths(&self) -> Result<()> {
        same!("a read-only root", self.read_only("/")?, self.security.readonly_rootfs);
        if self.security.privileged {
            return Ok(());
        }
        for path in &self.security.readonly_paths {
            same!(format!("read-only {path}"), self.read_only(path)?, true);
        }
        for path in &self.security.masked_paths {
            let path = path.trim_end_matches('/');
            let inside = self.file(&format!("root{path}"));
            let empty = match fs::metadata(&inside)?.is_dir() {
                true => fs::read_dir(&inside)?.next().is_none(),
                false => self.mounted(path).is_some() && fs::metadata(&inside)?.rdev() != 0,
            };
            same!(format!("hidden {path}"), empty, true);
        }
        let hides = |list: &[String], path| list.is_empty() || list.iter().any(|one| one == path);
        if hides(&self.security.readonly_paths, "/proc/sys") {
            same!("read-only /proc/sys", self.read_only("/proc/sys")?, true);
        }
        if hides(&self.security.masked_paths, "/proc/keys") {
            same!("a hidden /proc/keys", self.mounted("/proc/keys").is_some(), true);
        }
        Ok(())
    }

    fn volumes(&self) -> Result<()> {
        for mount in &self.config.mounts {
            let at = mount.container_path.replace("/etc/..", "");
            same!(format!("read-only {at}"), self.read_only(&at)?, mount.readonly);
            let file = if mount.host_path.ends_with("/file") { at } else { format!("{at}/file") };
            let inside = self.file(&format!("root{file}"));
            same!(&file, fs::read_to_string(&inside)?, TEXT);
            let owner = mount.uid_mappings.first().map_or(0, |range| range.host_id);
            same!(format!("the owner of {file}"), fs::metadata(&inside)?.uid(), owner);
        }
        Ok(())
    }

    fn device(&self) -> Result<()> {
        let list = self.cgroup("devices", "devices.list")?;
        if self.security.privileged {
            ensure!(list.contains("a *:* rwm"), "a privileged container's devices: {list}");
            return Ok(());
        }
        ensure!(!list.contains("a *:* rwm"), "all devices: {list}");
        let allowed = list.lines().find_map(|line| line.strip_prefix("c 10:229 "));
        let Some(device) = self.config.devices.first() else {
            same!("/dev/fuse", allowed, None);
            return Ok(());
        };
        let order = |c: &char| device.permissions.contains(*c);
        let asked: String = "rwm".chars().filter(order).collect();
        same!("the device's permissions", allowed, Some(&*asked));
        let inside = fs::metadata(self.file(&format!("root{}", device.container_path)))?;
        same!("the device", inside.rdev(), fs::metadata("/dev/fuse")?.rdev());
        Ok(())
    }

    /// A file of its cgroup, on a node with cgroup v1.
    fn cgroup(&self, controller: &str, file: &str) -> Result<String> {
        let table = fs::read_to_string(self.file("cgroup"))?;
        let path = table.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|one| one == controller).then_some(path)
        });
        let path = path.with_context(|| format!("{controller} in {table}"))?;
        let file = self.bed.node.path(&format!("/sys/fs/cgroup/{controller}{path}/{file}"));
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(text.trim().to_owned())
    }

    fn limits(&self) -> Result<()> {
        let linux = self.config.linux.clone().unwrap_or_default();
        let asked = linux.resources.unwrap_or_default();
        for (controller, file, asked) in [
            ("cpu", "cpu.shares", asked.cpu_shares),
            ("cpu", "cpu.cfs_period_us", asked.cpu_period),
            ("cpu", "cpu.cfs_quota_us", asked.cpu_quota),
            ("memory", "memory.limit_in_bytes", asked.memory_limit_in_bytes),
            ("memory", "memory.memsw.limit_in_bytes", asked.memory_swap_limit_in_bytes),
        ] {
            if asked != 0 {
                same!(file, self.cgroup(controller, file)?, asked.to_string());
            }
        }
        for (file, asked) in
            [("cpuset.cpus", asked.cpuset_cpus), ("cpuset.mems", asked.cpuset_mems)]
        {
            if !asked.is_empty() {
                same!(file, self.cgroup("cpuset", file)?, asked);
            }
        }
        let score = fs::read_to_string(self.file("oom_score_adj"))?;
        same!("oom_score_adj", score.trim(), asked.oom_score_adj.to_string());
        Ok(())
    }

    /// What all containers of the pod have in common.
    async fn pods_part(&self) -> Result<()> {
        let cri = &self.bed.cri;
        if self.modes.network != NamespaceMode::Node as i32 {
            same!(
                "the host name",
                cri.shell(self.id, "hostname").await?,
                self.pod.hostname.clone()
            );
        }
        let linux = self.pod.linux.clone().unwrap_or_default();
        for (name, asked) in linux.sysctls {
            let file = format!("/proc/sys/{}", name.replace('.', "/"));
            same!(name, cri.shell(self.id, &format!("cat {file}")).await?, asked);
        }
        let Some(dns) = &self.pod.dns_config else { return Ok(()) };
        let resolver = fs::read_to_string(self.file("root/etc/resolv.conf"))?;
        let mut asked: Vec<_> =
            dns.servers.iter().map(|server| format!("nameserver {server}")).collect();
        for (word, list) in [("search", &dns.searches), ("options", &dns.options)] {
            asked.extend((!list.is_empty()).then(|| format!("{word} {}", list.join(" "))));
        }
        let lines: BTreeSet<&str> = resolver.lines().collect();
        for line in asked {
            ensure!(lines.contains(&*line), "resolv.conf has no {line:?}: {resolver}");
        }
        Ok(())
    }

    /// What the status repeats.
    async fn told(&self) -> Result<()> {
        let told = self.bed.cri.container(self.id).await?;
        same!("labels", &told.labels, &self.config.labels);
        same!("annotations", &told.annotations, &self.config.annotations);
        if self.config.stop_signal != 0 {
            same!("the stop signal", told.stop_signal, self.config.stop_signal);
        }
        let user = told.user.and_then(|user| user.linux).context("a user in the status")?;
        let seen = self.field("Uid")?.split_whitespace().next().unwrap_or_default();
        same!("the user in the status", (user.uid + i64::from(self.first_id())).to_string(), seen);
        ensure!(self.site.volume.join("file").exists(), "a volume's file is gone");
        Ok(())
    }
}
