//! Specs run by real OCI runtimes, and what the process inside finds.
//!
//! Needs root, crun, runc and busybox-static. Each run has a mount namespace of its own; its
//! control groups lie below one that the test makes and removes.

mod sample;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use berth_oci::facts::{CgroupVersion, DeviceNode, oom_floor};
use berth_oci::spec::DeviceKind;
use berth_oci::{
    CapabilitySet, SandboxTask, Spec, container_spec, exec_process, parse_profile, sandbox_spec,
    to_json,
};
use berth_pod::spec::{Device, PodOrNode, Profile, Propagation, ResolvedUser};
use sample::{Sample, sample};

const RUNTIMES: [&str; 2] = ["crun", "runc"];
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// A process that holds namespaces until it is dropped.
struct Holder(Child);

impl Holder {
    fn new(user: bool) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "--ipc", "--uts"]).args(user.then_some("--user"));
        command.args(["sh", "-c", "echo ready; read _"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        if user {
            for map in ["uid_map", "gid_map"] {
                fs::write(format!("/proc/{}/{map}", child.id()), "0 1000000 65536").unwrap();
            }
        }
        Self(child)
    }

    fn path(&self, kind: &str) -> Option<PathBuf> {
        Some(format!("/proc/{}/ns/{kind}", self.0.id()).into())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A control group of our own in every hierarchy.
struct Cgroup(String);

impl Cgroup {
    fn hierarchies() -> Vec<PathBuf> {
        if is_v2() {
            return vec!["/sys/fs/cgroup".into()];
        }
        let entries = fs::read_dir("/sys/fs/cgroup").unwrap();
        entries.map(|e| e.unwrap().path()).filter(|p| p.is_dir() && !p.is_symlink()).collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for hierarchy in Self::hierarchies() {
            let own = hierarchy.join(&self.0[1..]);
            for below in fs::read_dir(&own).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(below.path());
            }
            if own.is_dir() {
                fs::remove_dir(&own).expect("the test's control group can be removed");
            }
        }
    }
}

fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// What this machine is, as far as the specs depend on it.
fn here(s: &mut Sample) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let bounding = status.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap().trim();
    s.node.capabilities = CapabilitySet::from_bits(u64::from_str_radix(bounding, 16).unwrap());
    if is_v2() {
        s.node.cgroup_version = CgroupVersion::V2;
    }
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    let may_lower = s.node.capabilities.has("SYS_RESOURCE");
    s.node.oom_floor = oom_floor(false, own, may_lower);
    s.node.hugetlb = false;
    s.node.devices = host_devices(Path::new("/dev"));
}

fn host_devices(below: &Path) -> Vec<DeviceNode> {
    let mut found = Vec::new();
    for entry in fs::read_dir(below).unwrap().flatten() {
        let facts = entry.metadata().unwrap();
        if facts.is_dir() {
            found.extend(host_devices(&entry.path()));
        } else if facts.file_type().is_char_device() || facts.file_type().is_block_device() {
            let char = facts.file_type().is_char_device();
            found.push(DeviceNode {
                path: entry.path(),
                kind: if char { DeviceKind::Char } else { DeviceKind::Block },
                // makedev(3): minors above 255 take bits above the major.
                major: (facts.rdev() >> 8 & 0xfff).cast_signed(),
                minor: (facts.rdev() & 0xff | facts.rdev() >> 12 & 0xfff_ff00).cast_signed(),
                mode: facts.mode(),
                uid: facts.uid(),
                gid: facts.gid(),
            });
        }
    }
    found
}

fn rootfs(at: &Path) {
    for directory in ["bin", "etc", "proc", "sys", "dev", "tmp", "srv"] {
        fs::create_dir_all(at.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", at.join("bin/busybox")).expect("busybox-static is installed");
    for applet in [
        "sh", "cat", "id", "env", "touch", "stat", "hostname", "ls", "mount", "unshare", "mkdir",
        "sleep",
    ] {
        std::os::unix::fs::symlink("busybox", at.join("bin").join(applet)).unwrap();
    }
}

/// Runtimes make mount points as the mapped root.
fn own_by_mapped_root(path: &Path) {
    std::os::unix::fs::lchown(path, Some(1_000_000), Some(1_000_000)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            own_by_mapped_root(&entry.unwrap().path());
        }
    }
}

/// Runs `script` in a container that `change` describes and answers what it printed.
fn run(runtime: &str, user: bool, script: &str, change: impl FnOnce(&mut Sample)) -> String {
    run_prepared(runtime, (user, "true"), script, change)
}

/// The same after `before` has run in the node's mount namespace.
fn run_after(
    runtime: &str,
    before: &str,
    script: &str,
    change: impl FnOnce(&mut Sample),
) -> String {
    run_prepared(runtime, (false, before), script, change)
}

fn run_prepared(
    runtime: &str,
    node: (bool, &str),
    script: &str,
    change: impl FnOnce(&mut Sample),
) -> String {
    run_spec(runtime, node, |s| {
        s.spec.command = vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()];
        change(s);
        container_spec(&s.input()).unwrap()
    })
}

/// Makes a bundle of what `make` answers for a pod that is set up, and runs it.
fn run_spec(
    runtime: &str,
    (user, before): (bool, &str),
    make: impl FnOnce(&mut Sample) -> Spec,
) -> String {
    with_bundle(user, make, |bundle, _| start(runtime, bundle, before))
}

/// The same, with something else done to the bundle.
fn with_bundle(
    user: bool,
    make: impl FnOnce(&mut Sample) -> Spec,
    act: impl FnOnce(&Path, &Spec) -> String,
) -> String {
    let dir = tempfile::tempdir().unwrap();
    // The runtime and the mapped root must be able to pass.
    let open: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.path(), open).unwrap();
    let name = dir.path().file_name().unwrap().to_string_lossy().replace('.', "");
    let cgroup = Cgroup(format!("/berth-test-{name}"));
    let holder = Holder::new(user);
    let mut s = sample();
    here(&mut s);
    s.rootfs = dir.path().join("rootfs");
    s.cgroup = cgroup.0.clone();
    s.namespaces.net = holder.path("net");
    s.namespaces.ipc = holder.path("ipc");
    s.namespaces.uts = holder.path("uts");
    for file in ["hosts", "hostname", "resolv.conf"] {
        fs::write(dir.path().join(file), format!("the pod's {file}\n")).unwrap();
    }
    fs::create_dir(dir.path().join("shm")).unwrap();
    s.files.hosts = Some(dir.path().join("hosts"));
    s.files.hostname = Some(dir.path().join("hostname"));
    s.files.resolv_conf = Some(dir.path().join("resolv.conf"));
    s.files.shm = Some(dir.path().join("shm"));
    rootfs(&s.rootfs);
    if user {
        s.user_namespace();
        s.namespaces.user = holder.path("user");
        own_by_mapped_root(&s.rootfs);
    }
    let spec = make(&mut s);
    fs::write(dir.path().join("config.json"), to_json(&spec).unwrap()).unwrap();
    act(dir.path(), &spec)
}

fn start(runtime: &str, bundle: &Path, before: &str) -> String {
    let (state, at) = (bundle.join("state"), bundle.display());
    let run = format!(
        "{before} && {runtime} --root {} run --bundle {at} berth-test && \
         sed 's/^/host: /' /proc/self/mountinfo",
        state.display()
    );
    on_a_node(bundle, &run)
}

/// Runs a command in a mount namespace as a node has it: mounts are shared, as systemd makes them,
/// and a unified hierarchy beside v1, which crun refuses, is behind a private tmpfs. The root is a
/// mount of its own, or the runtime would cut off what it lies on from propagation.
fn on_a_node(bundle: &Path, command: &str) -> String {
    let hide = if Path::new(UNIFIED).is_dir() { "mount -t tmpfs none " } else { "true " };
    let at = bundle.display();
    let script = format!(
        "mount --make-rshared / && {hide}{UNIFIED} && mount --bind {at}/rootfs {at}/rootfs && \
         {command}"
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .stdin(Stdio::null())
        .output()
        .expect("unshare");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command}: {}: {err}\n{out}", output.status);
    out
}

fn status(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k, v.trim())).collect()
}

fn bits(names: &[&str]) -> u64 {
    let all = CapabilitySet::all().names();
    let number = |name: &&str| all.iter().position(|n| n == name).unwrap();
    names.iter().map(number).fold(0, |set, n| set | 1 << n)
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap()
}

fn has_line(out: &str, line: &str) -> bool {
    out.lines().any(|l| l == line)
}

#[test]
fn a_plain_container() {
    for runtime in RUNTIMES {
        let script = "cat /proc/self/status; env; pwd; cat /etc/hosts; hostname; \
                      touch /made && echo rootfs is writable; \
                      touch /sys/made || echo sysfs is not; \
                      echo x > /proc/sys/kernel/hostname || echo parameters are not; \
                      echo files: $(ls /proc/acpi); \
                      cat /proc/keys; echo end of keys";
        let out = run(runtime, false, script, |s| {
            s.spec.envs.push(("MODE".to_owned(), "container".to_owned()));
        });
        let status = status(&out);
        let own = CapabilitySet::defaults().names();
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        assert_eq!(hex(status["CapBnd"]), bits(&own), "{runtime}");
        assert_eq!(hex(status["CapEff"]), bits(&own), "{runtime}");
        assert_eq!(hex(status["CapInh"]), 0, "{runtime}");
        assert_eq!(status["Seccomp"], "0", "{runtime}");
        assert_eq!(status["NoNewPrivs"], "0", "{runtime}");
        for line in [
            "MODE=container",
            "HOSTNAME=web-0",
            "/srv",
            "the pod's hosts",
            "rootfs is writable",
            "sysfs is not",
            "parameters are not",
        ] {
            assert!(has_line(&out, line), "{runtime}: {line:?} is missing from\n{out}");
        }
        assert!(has_line(&out, "files:"), "{runtime}: /proc/acpi is masked\n{out}");
        let keys = out.split("end of keys").next().unwrap();
        assert!(!keys.contains("keyring"), "{runtime}: /proc/keys is masked\n{out}");
    }
}

#[test]
fn a_container_with_nothing_to_spare() {
    for runtime in RUNTIMES {
        let script = "cat /proc/self/status; touch /made || echo rootfs is not writable; \
                      echo x > /etc/hosts || echo hosts are not; \
                      unshare -U true || echo no new namespaces";
        let out = run(runtime, false, script, |s| {
            s.user = ResolvedUser { uid: 1000, gid: 1001, groups: vec![1002, 2000], home: None };
            s.spec.security.drop_capabilities = vec!["ALL".to_owned()];
            s.spec.security.add_ambient_capabilities = vec!["NET_BIND_SERVICE".to_owned()];
            s.spec.security.readonly_rootfs = true;
            s.spec.security.no_new_privs = true;
            s.spec.security.seccomp = Profile::RuntimeDefault;
            s.spec.resources.oom_score_adj = 900;
        });
        let status = status(&out);
        let only = bits(&["CAP_NET_BIND_SERVICE"]);
        for set in ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"] {
            assert_eq!(hex(status[set]), only, "{runtime}: {set}");
        }
        assert_eq!(status["Uid"], "1000\t1000\t1000\t1000", "{runtime}");
        assert_eq!(status["Gid"], "1001\t1001\t1001\t1001", "{runtime}");
        assert_eq!(status["Groups"], "1002 2000", "{runtime}");
        assert_eq!(status["Seccomp"], "2", "{runtime}");
        assert_eq!(status["NoNewPrivs"], "1", "{runtime}");
        for line in ["rootfs is not writable", "hosts are not", "no new namespaces"] {
            assert!(has_line(&out, line), "{runtime}: {line:?} is missing from\n{out}");
        }
    }
}

/// An ordinary user loses at exec what is not ambient, whatever was added (capabilities(7)).
#[test]
fn a_user_other_than_root_keeps_only_ambient_capabilities() {
    for runtime in RUNTIMES {
        let out = run(runtime, false, "cat /proc/self/status", |s| {
            s.user = ResolvedUser { uid: 1000, gid: 1000, ..ResolvedUser::default() };
            s.spec.security.add_capabilities = vec!["NET_ADMIN".to_owned()];
            s.spec.security.add_ambient_capabilities = vec!["NET_RAW".to_owned()];
        });
        let status = status(&out);
        assert_eq!(hex(status["CapEff"]), bits(&["CAP_NET_RAW"]), "{runtime}");
        assert_ne!(hex(status["CapBnd"]) & bits(&["CAP_NET_ADMIN"]), 0, "{runtime}");
    }
}

#[test]
fn a_privileged_container() {
    for runtime in RUNTIMES {
        let mut own = 0;
        let script = "cat /proc/self/status; mount; ls /dev";
        let out = run(runtime, false, script, |s| {
            s.privileged();
            s.spec.security.seccomp = Profile::RuntimeDefault;
            let names = s.node.capabilities.names();
            own = bits(&names.iter().map(String::as_str).collect::<Vec<_>>());
        });
        let status = status(&out);
        assert_eq!(hex(status["CapEff"]), own, "{runtime}");
        assert_eq!(status["Seccomp"], "0", "{runtime}");
        assert!(!out.contains("/proc/acpi"), "{runtime}: nothing is masked\n{out}");
        let sysfs = out.lines().find(|l| l.contains(" on /sys type sysfs")).unwrap();
        assert!(sysfs.contains("(rw,"), "{runtime}: {sysfs}");
        assert!(has_line(&out, "loop0"), "{runtime}: devices of the host\n{out}");
    }
}

#[test]
fn a_pod_in_a_user_namespace() {
    for runtime in RUNTIMES {
        let script = "cat /proc/self/status /proc/self/uid_map; id -u; mount; ls /proc/acpi; \
                      touch /dev/shm/x || echo shm belongs to others";
        let out = run(runtime, true, script, |s| {
            s.spec.security.seccomp = Profile::RuntimeDefault;
        });
        let status = status(&out);
        assert_eq!(status["Uid"], "0\t0\t0\t0", "{runtime}");
        let map: Vec<&str> = out.lines().filter(|l| l.contains("1000000")).collect();
        assert_eq!(map[0].split_whitespace().collect::<Vec<_>>(), ["0", "1000000", "65536"]);
        assert!(out.contains(" on /sys type sysfs (ro,"), "{runtime}: {out}");
        assert!(out.contains("shm belongs to others"), "{runtime}: {out}");
    }
}

#[test]
fn a_user_namespace_on_the_hosts_network() {
    for runtime in RUNTIMES {
        let script = "cat /proc/self/uid_map; ls /sys/class/net; ls /dev/mqueue && echo queues; \
                      touch /sys/made || echo sysfs is read-only; cat /proc/self/mountinfo";
        let out = run(runtime, true, script, |s| {
            s.pod.namespaces.network = PodOrNode::Node;
        });
        assert!(has_line(&out, "sysfs is read-only"), "{runtime}: {out}");
        assert!(has_line(&out, "queues") && has_line(&out, "lo"), "{runtime}: {out}");
        assert!(out.contains("1000000"), "{runtime}: {out}");
    }
}

#[test]
fn mounts_are_made_as_asked() {
    for runtime in RUNTIMES {
        let host = tempfile::tempdir().unwrap();
        fs::create_dir_all(host.path().join("sub/inner")).unwrap();
        fs::write(host.path().join("sub/inner/file"), "inner\n").unwrap();
        let script = "cat /data/inner/file; touch /data/x || echo data is read-only; \
                      touch /data/nested/x && echo nested is writable; \
                      touch /etc/hosts && cat /etc/hosts; \
                      cat /proc/self/mountinfo";
        let out = run(runtime, false, script, |s| {
            let host = host.path().to_str().unwrap();
            fs::write(format!("{host}/hosts"), "my own hosts\n").unwrap();
            fs::create_dir_all(format!("{host}/sub/nested")).unwrap();
            // The deeper one first: it has to end up on top all the same.
            s.mount("/data/nested", &format!("{host}/sub/nested"), |_| {});
            s.mount("/data", &format!("{host}/sub"), |m| m.readonly = true);
            s.mount("/etc/hosts", &format!("{host}/hosts"), |_| {});
            s.mount("/from-host", &format!("{host}/sub"), |m| {
                m.propagation = Propagation::HostToContainer;
            });
        });
        for line in ["inner", "data is read-only", "nested is writable", "my own hosts"] {
            assert!(has_line(&out, line), "{runtime}: {line:?} is missing from\n{out}");
        }
        let mount = |at: &str| out.lines().find(|l| l.contains(&format!(" {at} "))).unwrap();
        assert!(mount("/from-host").contains("master:"), "{runtime}: {}", mount("/from-host"));
        assert!(!mount("/data").contains("master:"), "{runtime}: {}", mount("/data"));
    }
}

#[test]
fn a_mount_made_inside_shows_on_the_host_only_if_asked() {
    for runtime in RUNTIMES {
        let host = tempfile::tempdir().unwrap();
        for name in ["both/inner", "private/inner"] {
            fs::create_dir_all(host.path().join(name)).unwrap();
        }
        let script = "mount -t tmpfs none /both/inner; mount -t tmpfs none /private/inner";
        let out = run(runtime, false, script, |s| {
            let host = host.path().to_str().unwrap();
            s.privileged();
            s.mount("/both", &format!("{host}/both"), |m| {
                m.propagation = Propagation::Bidirectional;
            });
            s.mount("/private", &format!("{host}/private"), |_| {});
        });
        let on_host = |path: &str| {
            let path = host.path().join(path);
            let path = format!(" {} ", path.display());
            out.lines().any(|l| l.starts_with("host: ") && l.contains(&path))
        };
        assert!(on_host("both/inner"), "{runtime}: {out}");
        assert!(!on_host("private/inner"), "{runtime}: {out}");
    }
}

#[test]
fn a_recursively_read_only_mount_covers_what_is_mounted_below() {
    // crun 1.8.1 and runc 1.1.5 both know `rro`.
    for runtime in RUNTIMES {
        let script = "touch /rro/inner/x || echo rro covers it; touch /ro/inner/x && echo ro not";
        let host = tempfile::tempdir().unwrap();
        fs::create_dir_all(host.path().join("inner")).unwrap();
        let inner = format!("mount -t tmpfs none {}/inner", host.path().display());
        let out = run_after(runtime, &inner, script, |s| {
            let host = host.path().to_str().unwrap();
            s.mount("/ro", host, |m| m.readonly = true);
            s.mount("/rro", host, |m| {
                m.readonly = true;
                m.recursive_read_only = true;
            });
        });
        assert!(has_line(&out, "rro covers it"), "{runtime}: {out}");
        assert!(has_line(&out, "ro not"), "{runtime}: {out}");
    }
}

#[test]
fn limits_and_devices_reach_the_control_group() {
    for runtime in RUNTIMES {
        let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes \
                      /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpu/cpu.cfs_quota_us \
                      /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max; \
                      cat /proc/self/oom_score_adj; \
                      : > /dev/renamed && echo opens for writing; \
                      (: < /dev/renamed) || echo not for reading";
        let out = run(runtime, false, script, |s| {
            s.spec.resources.memory_limit = 64 << 20;
            s.spec.resources.cpu_shares = 512;
            s.spec.resources.cpu_quota = 50_000;
            s.spec.resources.cpu_period = 100_000;
            s.spec.resources.oom_score_adj = 900;
            s.spec.devices = vec![Device {
                container_path: "/dev/renamed".into(),
                host_path: "/dev/kmsg".into(),
                permissions: "w".to_owned(),
            }];
            s.devices = vec![vec![sample::device("/dev/kmsg", DeviceKind::Char, 1, 11)]];
        });
        assert!(has_line(&out, &(64 << 20).to_string()), "{runtime}: {out}");
        assert!(has_line(&out, "900"), "{runtime}: {out}");
        assert!(has_line(&out, "50000") || has_line(&out, "50000 100000"), "{runtime}: {out}");
        assert!(has_line(&out, "opens for writing"), "{runtime}: {out}");
        assert!(has_line(&out, "not for reading"), "{runtime}: {out}");
    }
}

#[test]
fn a_sandbox_can_be_run_as_a_task() {
    for runtime in RUNTIMES {
        let script = "#!/bin/sh\ncat /proc/self/status; hostname\n";
        let out = run_spec(runtime, (false, "true"), |s| {
            fs::write(s.rootfs.join("pause"), script).unwrap();
            let open: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(s.rootfs.join("pause"), open).unwrap();
            let task = SandboxTask {
                cgroups_path: &format!("{}/sandbox", s.cgroup),
                rootfs: &s.rootfs,
                image: "",
                as_task: true,
            };
            let mut spec = sandbox_spec(&s.pod_input(), &task).unwrap();
            // The program stands in for the real one, which needs no PATH.
            spec.process.as_mut().unwrap().env = vec!["PATH=/bin".to_owned()];
            spec
        });
        let status = status(&out);
        assert_eq!(hex(status["CapBnd"]), 0, "{runtime}");
        assert_eq!(status["Seccomp"], "2", "{runtime}");
        assert_eq!(status["NoNewPrivs"], "1", "{runtime}");
        assert_eq!(status["NSpid"].split_whitespace().count(), 1, "{runtime}");
        assert!(has_line(&out, "web-0"), "{runtime}: {out}");
    }
}

#[test]
fn an_exec_has_what_its_container_has() {
    for runtime in RUNTIMES {
        let make = |s: &mut Sample| {
            s.user = ResolvedUser { uid: 1000, gid: 1001, groups: vec![1001, 2000], home: None };
            s.spec.command = vec!["/bin/sleep".to_owned(), "60".to_owned()];
            s.spec.security.drop_capabilities = vec!["ALL".to_owned()];
            s.spec.security.no_new_privs = true;
            s.spec.security.seccomp = Profile::RuntimeDefault;
            container_spec(&s.input()).unwrap()
        };
        let out = with_bundle(false, make, |bundle, spec| {
            let cmd = ["/bin/sh", "-c", "cat /proc/self/status; env; pwd"].map(str::to_owned);
            let process = exec_process(spec, &cmd, false).unwrap();
            fs::write(bundle.join("exec.json"), serde_json::to_vec(&process).unwrap()).unwrap();
            let at = bundle.display();
            let oci = format!("{runtime} --root {at}/state");
            on_a_node(
                bundle,
                &format!(
                    "{oci} run --detach --bundle {at} berth-test </dev/null >/dev/null 2>&1 && \
                     {oci} exec --process {at}/exec.json berth-test; code=$?; \
                     {oci} delete --force berth-test; exit $code"
                ),
            )
        });
        let status = status(&out);
        assert_eq!(status["Uid"], "1000\t1000\t1000\t1000", "{runtime}");
        assert_eq!(status["Groups"], "1001 2000", "{runtime}");
        assert_eq!(hex(status["CapBnd"]), 0, "{runtime}");
        assert_eq!(status["NoNewPrivs"], "1", "{runtime}");
        assert_eq!(status["Seccomp"], "2", "{runtime}");
        assert!(has_line(&out, "HOSTNAME=web-0") && has_line(&out, "/srv"), "{runtime}: {out}");
    }
}

#[test]
fn a_localhost_profile_is_enforced() {
    let profile = br#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": null,
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "args": null}]}"#;
    for runtime in RUNTIMES {
        let out = run(runtime, false, "mkdir /tmp/x || echo refused", |s| {
            s.spec.security.seccomp = Profile::Localhost("/profiles/no-mkdir.json".to_owned());
            s.seccomp = Some(parse_profile("/profiles/no-mkdir.json", profile).unwrap());
        });
        assert!(has_line(&out, "refused"), "{runtime}: {out}");
    }
}
