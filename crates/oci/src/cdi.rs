//! Devices by name: what a vendor's specification (Container Device Interface, versions up to 1.1)
//! says is to be changed in a container that asks for one of its devices.
//!
//! A specification is read whole or not at all: a part of it that is not known here may be what keeps
//! a device safe or makes it work.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::devices;
use crate::error::Error;
use crate::facts::DeviceNode;
use crate::paths::{absolute, clean, no_nul};
use crate::spec::{DeviceKind, Hook, Mount, Spec};

const FIELD: &str = "CDI_devices";

/// One specification file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Specification {
    /// Which version of the interface it is written in.
    pub cdi_version: String,
    /// `vendor.com/class`.
    pub kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    devices: Vec<NamedDevice>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NamedDevice {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    container_edits: Edits,
}

/// What is changed in a container.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<BindMount>,
    hooks: Vec<NamedHook>,
    additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Node {
    path: PathBuf,
    host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    kind: Option<Kind>,
    major: Option<i64>,
    minor: Option<i64>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
enum Kind {
    #[serde(rename = "b")]
    Block,
    #[serde(rename = "c", alias = "u")]
    Char,
    #[serde(rename = "p")]
    Fifo,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BindMount {
    host_path: PathBuf,
    container_path: PathBuf,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NamedHook {
    hook_name: When,
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
enum When {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

/// Reads a specification: YAML, of which JSON is a part. That takes half a megabyte of code: it is for a
/// process that ends.
///
/// # Errors
/// When it is none, or has a part that is not known.
pub fn parse(text: &str) -> Result<Specification, Error> {
    let spec: Specification =
        serde_saphyr::from_str(text).map_err(|why| Error::invalid(FIELD, why.to_string()))?;
    let known = matches!(spec.cdi_version.split('.').next(), Some("0" | "1"));
    if !known {
        let text = format!("cdiVersion {:?} is not known: use up to 1.1", spec.cdi_version);
        return Err(Error::unsupported(FIELD, text));
    }
    Ok(spec)
}

/// The specifications of a node. As JSON it is handed from the process that reads them to the one that
/// uses them.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Library {
    files: Vec<File>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct File {
    directory: usize,
    path: PathBuf,
    /// Or why it cannot be used.
    read: Result<Specification, String>,
}

impl Library {
    /// Adds a file of the directory of this number. What a later directory has comes before what an
    /// earlier one has. A file that cannot be read keeps nobody from the devices of the others.
    pub fn add(&mut self, directory: usize, path: PathBuf, read: Result<Specification, String>) {
        self.files.push(File { directory, path, read });
    }

    /// What the devices of these names change, in order. What a specification says for all of its
    /// devices comes once, before the first of them.
    ///
    /// # Errors
    /// When a device is in no specification, or in two of one directory.
    pub fn edits(&self, names: &[String]) -> Result<Edits, Error> {
        let mut all = Edits::default();
        let mut begun = BTreeSet::new();
        for name in names {
            let (file, spec, device) = self.find(name)?;
            if begun.insert(file) {
                all.extend(&spec.container_edits);
            }
            all.extend(&device.container_edits);
        }
        Ok(all)
    }

    fn find(&self, name: &str) -> Result<(&Path, &Specification, &NamedDevice), Error> {
        let mut found: Vec<(usize, (&Path, &Specification, &NamedDevice))> = Vec::new();
        for file in &self.files {
            let Ok(spec) = &file.read else { continue };
            let named = |device: &&NamedDevice| name == format!("{}={}", spec.kind, device.name);
            let device = spec.devices.iter().find(named);
            found.extend(device.map(|device| (file.directory, (&*file.path, spec, device))));
        }
        let last = found.iter().map(|(directory, _)| *directory).max();
        found.retain(|(directory, _)| Some(*directory) == last);
        match &found[..] {
            [(_, one)] => Ok(*one),
            [] => Err(Error::invalid(FIELD, self.absent(name))),
            [(_, one), (_, other), ..] => {
                let text = format!(
                    "{name} is both in {} and in {}: remove one of them",
                    one.0.display(),
                    other.0.display()
                );
                Err(Error::invalid(FIELD, text))
            }
        }
    }

    fn absent(&self, name: &str) -> String {
        let mut text = format!(
            "{name} is in none of the node's {} specifications: install that of its vendor",
            self.files.iter().filter(|file| file.read.is_ok()).count()
        );
        for file in &self.files {
            if let Err(why) = &file.read {
                text.push_str(&format!("; {} cannot be used: {why}", file.path.display()));
            }
        }
        text
    }
}

impl Edits {
    fn extend(&mut self, more: &Self) {
        self.env.extend(more.env.iter().cloned());
        self.device_nodes.extend(more.device_nodes.iter().cloned());
        self.mounts.extend(more.mounts.iter().cloned());
        self.hooks.extend(more.hooks.iter().cloned());
        self.additional_gids.extend(&more.additional_gids);
    }

    /// The device nodes of the host that have to be looked up: those whose numbers are not given.
    pub fn nodes(&self) -> impl Iterator<Item = &Path> {
        self.device_nodes.iter().filter(|node| node.given().is_none()).map(Node::on_the_host)
    }

    /// The paths of the host that are mounted, and have to be there.
    pub fn mounted(&self) -> impl Iterator<Item = &Path> {
        self.mounts.iter().filter(|mount| mount.is_bind()).map(|mount| &*mount.host_path)
    }

    /// Makes the changes. `found` are the devices of [`Edits::nodes`], in order.
    ///
    /// # Errors
    /// When a path is not absolute, a variable has no name, or a device was not looked up.
    pub fn apply(&self, spec: &mut Spec, found: &[DeviceNode]) -> Result<(), Error> {
        self.apply_process(spec)?;
        let owner = spec.process.as_ref().map(|process| (process.user.uid, process.user.gid));
        let mut found = found.iter();
        for node in &self.device_nodes {
            node.apply(spec, owner.unwrap_or_default(), &mut found)?;
        }
        spec.linux.devices.sort_by(|a, b| a.path.cmp(&b.path));
        for mount in &self.mounts {
            let mount = mount.to_spec()?;
            spec.mounts.retain(|other| other.destination != mount.destination);
            // Before the first that lies deeper: what is mounted first must not hide what is last.
            let depth = |mount: &Mount| mount.destination.components().count();
            let at = spec.mounts.iter().rposition(|other| depth(other) <= depth(&mount));
            spec.mounts.insert(at.map_or(0, |at| at + 1), mount);
        }
        self.hooks.iter().try_for_each(|hook| hook.apply(spec))
    }

    fn apply_process(&self, spec: &mut Spec) -> Result<(), Error> {
        let Some(process) = &mut spec.process else { return Ok(()) };
        for pair in &self.env {
            no_nul(FIELD, pair)?;
            let Some((name, _)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                return Err(Error::invalid(FIELD, format!("env {pair:?} is not NAME=value")));
            };
            let begin = format!("{name}=");
            process.env.retain(|other| !other.starts_with(&begin));
            process.env.push(pair.clone());
        }
        let groups = &mut process.user.additional_gids;
        // 0 is what an empty field is written as.
        groups.extend(self.additional_gids.iter().filter(|gid| **gid != 0));
        groups.sort_unstable();
        groups.dedup();
        Ok(())
    }
}

impl Node {
    fn on_the_host(&self) -> &Path {
        self.host_path.as_deref().unwrap_or(&self.path)
    }

    /// The device, where all that the kernel knows it by is given.
    fn given(&self) -> Option<DeviceNode> {
        let kind = match self.kind? {
            Kind::Block => DeviceKind::Block,
            Kind::Char => DeviceKind::Char,
            Kind::Fifo => DeviceKind::Fifo,
        };
        let fifo = kind == DeviceKind::Fifo;
        Some(DeviceNode {
            path: self.on_the_host().to_owned(),
            kind,
            major: self.major.or(fifo.then_some(0))?,
            minor: self.minor.or(fifo.then_some(0))?,
            mode: self.file_mode.unwrap_or(0o660),
            uid: 0,
            gid: 0,
        })
    }

    /// The node belongs to the container's user unless something else is said: whoever asks for a
    /// device is to use it.
    fn apply<'f>(
        &self,
        spec: &mut Spec,
        owner: (u32, u32),
        found: &mut impl Iterator<Item = &'f DeviceNode>,
    ) -> Result<(), Error> {
        let path = absolute(FIELD, &self.path)?;
        let device = match self.given() {
            Some(device) => device,
            None => found.next().cloned().ok_or_else(|| {
                Error::Missing(format!("{} was not looked up", self.on_the_host().display()))
            })?,
        };
        let own = |given: Option<u32>, own: u32, host: u32| {
            given.unwrap_or(if own == 0 { host } else { own })
        };
        let device = DeviceNode {
            mode: self.file_mode.unwrap_or(device.mode),
            uid: own(self.uid, owner.0, device.uid),
            gid: own(self.gid, owner.1, device.gid),
            ..device
        };
        let access = match self.permissions.as_deref() {
            None | Some("") => "rwm".to_owned(),
            Some(given) => devices::access(FIELD, given)?,
        };
        spec.linux.devices.retain(|other| other.path != path);
        spec.linux.devices.push(devices::node(&device, path));
        spec.linux.resources.devices.push(devices::rule(&device, &access));
        Ok(())
    }
}

impl BindMount {
    fn is_bind(&self) -> bool {
        matches!(&*self.kind, "" | "bind")
    }

    fn to_spec(&self) -> Result<Mount, Error> {
        let source = self.host_path.to_string_lossy();
        no_nul(FIELD, &source)?;
        let mut options = self.options.clone();
        let one_of = |options: &[String], names: &[&str]| {
            options.iter().any(|option| names.contains(&option.as_str()))
        };
        if self.is_bind() {
            if !self.host_path.is_absolute() {
                let text = format!("hostPath {source:?} must be an absolute path");
                return Err(Error::invalid(FIELD, text));
            }
            if !one_of(&options, &["bind", "rbind"]) {
                options.push("rbind".to_owned());
            }
            let passing = ["private", "rprivate", "slave", "rslave", "shared", "rshared"];
            if !one_of(&options, &passing) {
                options.push("rprivate".to_owned());
            }
        }
        Ok(Mount {
            destination: absolute(FIELD, &self.container_path).map(|path| clean(&path))?,
            kind: if self.is_bind() { "bind".to_owned() } else { self.kind.clone() },
            source: self.host_path.clone(),
            options,
            ..Mount::default()
        })
    }
}

impl NamedHook {
    fn apply(&self, spec: &mut Spec) -> Result<(), Error> {
        let hook = Hook {
            path: absolute(FIELD, &self.path)?,
            args: self.args.clone(),
            env: self.env.clone(),
            timeout: self.timeout.map(i64::from),
        };
        let hooks = &mut spec.hooks;
        match self.hook_name {
            When::Prestart => hooks.prestart.push(hook),
            When::CreateRuntime => hooks.create_runtime.push(hook),
            When::CreateContainer => hooks.create_container.push(hook),
            When::StartContainer => hooks.start_container.push(hook),
            When::Poststart => hooks.poststart.push(hook),
            When::Poststop => hooks.poststop.push(hook),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Process, User};

    const GPU: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.com/gpu
containerEdits:
  env: [VENDOR=all]
devices:
  - name: "0"
    containerEdits:
      env: [GPU=0]
      additionalGids: [44]
      deviceNodes:
        - path: /dev/gpu0
          type: c
          major: 195
          minor: 0
          permissions: rw
        - path: /dev/ctl
          hostPath: /dev/vendor/ctl
      mounts:
        - hostPath: /usr/lib/vendor
          containerPath: /opt/vendor
          options: [ro, nosuid]
      hooks:
        - hookName: createContainer
          path: /usr/bin/hook
          args: [hook, run]
  - name: "1"
    containerEdits:
      env: [GPU=1]
"#;

    fn library(files: &[(usize, &str, &str)]) -> Library {
        let mut library = Library::default();
        for (directory, name, text) in files {
            library.add(*directory, PathBuf::from(name), parse(text).map_err(|e| e.to_string()));
        }
        library
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn container() -> Spec {
        let process = Process {
            env: vec!["GPU=none".to_owned(), "A=1".to_owned()],
            user: User { uid: 7, gid: 8, additional_gids: vec![8] },
            ..Process::default()
        };
        let deeper = Mount { destination: "/opt/vendor/lib".into(), ..Mount::default() };
        let root = Mount { destination: "/proc".into(), ..Mount::default() };
        Spec { process: Some(process), mounts: vec![root, deeper], ..Spec::default() }
    }

    #[test]
    fn a_device_changes_what_its_specification_says() {
        let edits = library(&[(0, "gpu.yaml", GPU)]).edits(&names(&["vendor.com/gpu=0"])).unwrap();
        assert_eq!(edits.nodes().collect::<Vec<_>>(), [Path::new("/dev/vendor/ctl")]);
        assert_eq!(edits.mounted().collect::<Vec<_>>(), [Path::new("/usr/lib/vendor")]);
        let control = DeviceNode {
            path: "/dev/vendor/ctl".into(),
            kind: DeviceKind::Char,
            major: 10,
            minor: 5,
            mode: 0o600,
            uid: 0,
            gid: 0,
        };
        let mut spec = container();
        edits.apply(&mut spec, &[control]).unwrap();
        let process = spec.process.unwrap();
        assert_eq!(process.env, ["A=1", "VENDOR=all", "GPU=0"]);
        assert_eq!(process.user.additional_gids, [8, 44]);
        let devices: Vec<_> =
            spec.linux.devices.iter().map(|d| (&*d.path, d.major, d.uid)).collect();
        let expected =
            [(Path::new("/dev/ctl"), 10, Some(7)), (Path::new("/dev/gpu0"), 195, Some(7))];
        assert_eq!(devices, expected);
        let rules = &spec.linux.resources.devices;
        let access: Vec<_> = rules.iter().map(|rule| (rule.major, &*rule.access)).collect();
        assert_eq!(access, [(Some(195), "rw"), (Some(10), "rwm")]);
        let at: Vec<_> = spec.mounts.iter().map(|mount| &*mount.destination).collect();
        assert_eq!(at, ["/proc", "/opt/vendor", "/opt/vendor/lib"].map(Path::new));
        assert_eq!(spec.mounts[1].options, ["ro", "nosuid", "rbind", "rprivate"]);
        assert_eq!(spec.hooks.create_container[0].args, ["hook", "run"]);
    }

    #[test]
    fn what_all_devices_of_a_specification_change_is_changed_once() {
        let all = names(&["vendor.com/gpu=1", "vendor.com/gpu=0"]);
        let edits = library(&[(0, "gpu.yaml", GPU)]).edits(&all).unwrap();
        assert_eq!(edits.env, ["VENDOR=all", "GPU=1", "GPU=0"]);
    }

    #[test]
    fn a_later_directory_wins_and_two_files_of_one_contradict() {
        let json = r#"{"cdiVersion": "1.0.0", "kind": "vendor.com/gpu", "devices":
            [{"name": "0", "containerEdits": {"env": ["GPU=run"]}}]}"#;
        let gpu = names(&["vendor.com/gpu=0"]);
        let edits = library(&[(1, "run.json", json), (0, "gpu.yaml", GPU)]).edits(&gpu).unwrap();
        assert_eq!(edits.env, ["GPU=run"]);
        let twice = library(&[(0, "a.json", json), (0, "b.yaml", GPU)]);
        let error = twice.edits(&gpu).unwrap_err().to_string();
        assert!(error.contains("a.json") && error.contains("b.yaml"), "{error}");
    }

    #[test]
    fn what_is_not_known_is_refused_with_the_file_and_the_reason() {
        let odd = GPU.replace("additionalGids: [44]", "intelRdt: {closID: x}");
        let library = library(&[(0, "odd.yaml", &odd)]);
        let error = library.edits(&names(&["vendor.com/gpu=0"])).unwrap_err().to_string();
        for word in ["vendor.com/gpu=0", "odd.yaml", "intelRdt"] {
            assert!(error.contains(word), "no {word}: {error}");
        }
        assert!(parse(&GPU.replace("0.6.0", "2.0.0")).is_err());
        assert!(parse("[1, 2").is_err());
    }
}
