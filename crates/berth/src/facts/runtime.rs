//! What an OCI runtime or a shim can do: what it says itself, or what its version is known for.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_job::Job;
use berth_lifecycle::ShimOptions;
use berth_oci::facts::{Extras, GuestNetwork};
use berth_shim_client::{Any, RuntimeInfo};
use berth_sys::spawn::Spawn;
use serde::{Deserialize, Serialize};

use super::gvisor;
use super::node::version;

/// A runtime that says nothing by then is one that says nothing.
const DEADLINE: Duration = Duration::from_secs(5);

/// The first crun with the mount option `rro`.
const CRUN_WITH_RRO: (u32, u32) = (1, 4);

/// The first crun whose id-mapped mounts serve user namespaces of pods (KEP-127).
const CRUN_WITH_IDMAP: (u32, u32) = (1, 9);

/// The annotation by which a runtime says that CRIU can work for it.
const CHECKPOINT: &str = "org.opencontainers.runc.checkpoint.enabled";

/// What matters to pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuntimeFacts {
    /// It knows the mount option `rro`.
    pub(crate) recursive_read_only: bool,
    /// It id-maps mounts.
    pub(crate) id_mapped_mounts: bool,
    /// It says that it writes checkpoints and restores them. Without a default: what an earlier
    /// version remembers is asked again.
    pub(crate) checkpoint: bool,
    /// It is gVisor's, and this is the network that its pods get here.
    #[serde(default)]
    pub(crate) guest_network: Option<GuestNetwork>,
    /// What only some can do.
    #[serde(default)]
    pub(crate) extras: Extras,
}

/// Which file a runtime is: another one may do other things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// What a shim says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShimFacts {
    /// Its name; "" if it does not say.
    pub(crate) name: String,
    /// What the runtime behind it can do, as far as it says.
    pub(crate) runtime: RuntimeFacts,
}

/// What has been answered, by whom: a program's path and what it was asked.
type Known = BTreeMap<String, (Identity, ShimFacts)>;

/// The answers of this boot. Each program is asked once, and again when it is another file: a
/// daemon that starts again does not wait for them.
pub(crate) struct Memory {
    path: PathBuf,
    known: Mutex<Known>,
}

impl Memory {
    /// What is remembered here; what cannot be read is asked again.
    pub(crate) fn read(path: PathBuf) -> Self {
        let text = std::fs::read(&path).ok();
        let known = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { path, known: Mutex::new(known) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the OCI runtime at `path` can do, or why it does not say. `shim` is our own, if that
    /// drives it.
    pub(crate) async fn runtime(
        &self,
        path: &Path,
        shim: Option<&Path>,
    ) -> Result<RuntimeFacts, String> {
        let scratch = self.path.with_file_name("gvisor");
        let asked = async {
            let mut runtime = asked(path).await?;
            if let (Some(network), Some(shim)) = (&mut runtime.guest_network, shim) {
                *network = gvisor::network(path, shim, &scratch).await;
            }
            Ok(ShimFacts { name: String::new(), runtime })
        };
        self.recall(path, format!("runtime {}", path.display()), asked)
            .await
            .map(|facts| facts.runtime)
    }

    /// What the shim at `path` says of itself, or why it cannot be run at all. Many shims know no
    /// `-info`, which is no fault of theirs.
    pub(crate) async fn shim(
        &self,
        path: &Path,
        options: Option<&ShimOptions>,
    ) -> Result<ShimFacts, String> {
        let options = options.map_or_else(Any::default, |options| options.clone().into());
        let given = options.clone().into_bytes();
        let key = format!("shim {} {given:x?}", path.display());
        self.recall(path, key, info(path, given)).await
    }

    async fn recall(
        &self,
        path: &Path,
        key: String,
        ask: impl Future<Output = Result<ShimFacts, String>>,
    ) -> Result<ShimFacts, String> {
        let identity = std::fs::metadata(path).ok().map(|file| Identity {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            changed: (file.ctime(), file.ctime_nsec()),
        });
        if let (Some(identity), Some((then, facts))) = (&identity, self.known().get(&key))
            && identity == then
        {
            return Ok(facts.clone());
        }
        let facts = ask.await?;
        if let Some(identity) = identity {
            self.known().insert(key, (identity, facts.clone()));
        }
        Ok(facts)
    }

    /// Writes it down. What cannot be written is asked again the next time.
    pub(crate) fn save(&self) {
        let new = self.path.with_extension("new");
        let text = serde_json::to_vec(&*self.known());
        if text.is_ok_and(|text| std::fs::write(&new, text).is_ok()) {
            let _ = std::fs::rename(&new, &self.path);
        }
    }
}

/// Asks `<runtime> features` and `<runtime> --version`: which one it is the latter tells.
async fn asked(path: &Path) -> Result<RuntimeFacts, String> {
    let features = ask(path, "features").await.ok().and_then(|said| of_features(&said));
    match (features, ask(path, "--version").await) {
        (Some(facts), Err(_)) => Ok(facts),
        (Some(facts), Ok(said)) => {
            Ok(RuntimeFacts { guest_network: of_version(&said).guest_network, ..facts })
        }
        (None, said) => said.map(|said| of_version(&said)),
    }
}

async fn ask(path: &Path, argument: &str) -> Result<String, String> {
    let outcome = Job::new(Spawn::new(path).arg(argument), DEADLINE).run().await;
    match outcome.and_then(berth_job::Outcome::success) {
        Ok(outcome) => Ok(String::from_utf8_lossy(&outcome.stdout).into_owned()),
        Err(why) => Err(format!("`{} {argument}` fails: {why}", path.display())),
    }
}

/// Asks `<shim> -info`.
async fn info(path: &Path, options: Vec<u8>) -> Result<ShimFacts, String> {
    let job = Job::new(Spawn::new(path).arg("-info"), DEADLINE).stdin(options);
    let outcome = match job.run().await {
        Ok(outcome) => outcome,
        Err(berth_job::Error::TimedOut { .. }) => {
            tracing::warn!(shim = %path.display(), "the shim does not answer -info: what it can do is not known");
            return Ok(ShimFacts::default());
        }
        Err(why) => return Err(format!("{} cannot be run: {why}", path.display())),
    };
    let Ok(outcome) = outcome.success() else { return Ok(ShimFacts::default()) };
    let Ok(info) = RuntimeInfo::parse(&outcome.stdout) else { return Ok(ShimFacts::default()) };
    let features = info.features.and_then(|any| of_features(&String::from_utf8_lossy(&any.value)));
    Ok(ShimFacts { name: info.name, runtime: features.unwrap_or_default() })
}

/// The part of the OCI features structure that we read.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Features {
    oci_version_max: String,
    mount_options: Vec<String>,
    linux: Linux,
    annotations: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    mount_extensions: MountExtensions,
    intel_rdt: Enabled,
    net_devices: Enabled,
    memory_policy: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MountExtensions {
    idmap: Enabled,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Enabled {
    enabled: bool,
}

fn of_features(said: &str) -> Option<RuntimeFacts> {
    let features: Features = serde_json::from_str(said).ok()?;
    Some(RuntimeFacts {
        recursive_read_only: features.mount_options.iter().any(|option| option == "rro"),
        id_mapped_mounts: features.linux.mount_extensions.idmap.enabled,
        checkpoint: features.annotations.get(CHECKPOINT).is_some_and(|said| said == "true"),
        guest_network: None,
        extras: Extras {
            // Both came with 1.1 of the specification.
            scheduling: version(&features.oci_version_max).is_some_and(|max| max >= (1, 1)),
            rdt: features.linux.intel_rdt.enabled,
            net_devices: features.linux.net_devices.enabled,
            memory_policy: features.linux.memory_policy.is_some(),
        },
    })
}

fn of_version(said: &str) -> RuntimeFacts {
    if said.starts_with("runsc version ") {
        let guest_network = Some(GuestNetwork::Own);
        return RuntimeFacts { guest_network, ..RuntimeFacts::default() };
    }
    let crun = said.lines().find_map(|line| line.strip_prefix("crun version "));
    let Some(version) = crun.and_then(version) else { return RuntimeFacts::default() };
    RuntimeFacts {
        recursive_read_only: version >= CRUN_WITH_RRO,
        id_mapped_mounts: version >= CRUN_WITH_IDMAP,
        // One with CRIU built in names its features, and says so there: not this one.
        ..RuntimeFacts::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_names_its_features_is_believed() {
        let said = r#"{"mountOptions": ["bind", "rro"], "linux": {"namespaces": ["user"]}}"#;
        let facts = of_features(said).unwrap();
        assert_eq!((facts.recursive_read_only, facts.id_mapped_mounts), (true, false));
        let said = r#"{"linux": {"mountExtensions": {"idmap": {"enabled": true}}}}"#;
        assert!(of_features(said).unwrap().id_mapped_mounts);
        assert!(!of_features(said).unwrap().checkpoint);
        let said = r#"{"annotations": {"org.opencontainers.runc.checkpoint.enabled": "true"}}"#;
        assert!(of_features(said).unwrap().checkpoint);
        assert_eq!(of_features("unknown command features"), None);
    }

    #[test]
    fn what_only_some_can_do_is_asked_of_those_that_say_so() {
        let old = r#"{"ociVersionMax": "1.0.2-dev", "linux": {"intelRdt": {"enabled": true}}}"#;
        let extras = of_features(old).unwrap().extras;
        assert_eq!(extras, Extras { rdt: true, ..Extras::default() });
        let new = r#"{"ociVersionMax": "1.3.0", "linux": {"netDevices": {"enabled": true},
            "memoryPolicy": {"modes": ["MPOL_BIND"]}}}"#;
        let all = Extras { scheduling: true, net_devices: true, memory_policy: true, rdt: false };
        assert_eq!(of_features(new).unwrap().extras, all);
        assert!(of_version("crun version 1.8.1").extras.none());
    }

    #[test]
    fn an_old_crun_is_known_by_its_version() {
        let debian = of_version("crun version 1.8.1\ncommit: f8a096be\nspec: 1.0.0\n");
        assert_eq!((debian.recursive_read_only, debian.id_mapped_mounts), (true, false));
        assert!(of_version("crun version 1.14.1\n").id_mapped_mounts);
        assert_eq!(of_version("runc version 1.0.0"), RuntimeFacts::default());
    }

    #[test]
    fn gvisor_is_known_by_its_word() {
        let facts = of_version("runsc version 0.0~20240729.0\nspec: 1.0.2-dev\n");
        assert_eq!(facts.guest_network, Some(GuestNetwork::Own));
        assert_eq!(of_version("runc version 1.1.5").guest_network, None);
    }

    #[tokio::test]
    async fn a_runtime_is_asked_once_and_again_when_it_is_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, memory) = (dir.path().join("runtime"), dir.path().join("memory"));
        let write = |option: &str| {
            let text = format!(
                "#!/bin/sh\n[ $1 = features ] || exit 1\necho >>{}/asked\necho '{{\"mountOptions\": [\"{option}\"]}}'\n",
                dir.path().display()
            );
            let new = dir.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .unwrap();
            std::fs::rename(new, &path).unwrap();
        };
        let asked = || std::fs::read_to_string(dir.path().join("asked")).unwrap().lines().count();
        let rro = async || {
            let memory = Memory::read(memory.clone());
            let facts = memory.runtime(&path, None).await.unwrap();
            memory.save();
            facts.recursive_read_only
        };
        write("rro");
        for _ in 0..2 {
            assert!(rro().await);
        }
        assert_eq!(asked(), 1);
        write("bind");
        assert!(!rro().await);
        assert_eq!(asked(), 2);
        std::fs::write(&memory, "no memory").unwrap();
        assert!(!rro().await);
        assert_eq!(asked(), 3);
    }

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("program");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        path
    }

    #[tokio::test]
    async fn a_runtime_that_answers_nothing_is_told_of_and_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = script(dir.path(), "#!/bin/sh\necho out of order >&2\nexit 3\n");
        let memory = Memory::read(dir.path().join("memory"));
        let why = memory.runtime(&path, None).await.unwrap_err();
        assert!(why.contains("--version") && why.contains("out of order"), "{why}");
        assert!(memory.known().is_empty());
    }

    #[tokio::test]
    async fn a_shim_says_its_name_and_what_its_runtime_can_do_if_it_knows_info() {
        let dir = tempfile::tempdir().unwrap();
        let memory = || Memory::read(dir.path().join("memory"));
        // RuntimeInfo: field 1, the name; field 4, an Any whose field 2 is JSON.
        let said = r#"printf '\012\003abc\042\033\022\031{"mountOptions":["rro"] }'"#;
        let path = script(dir.path(), &format!("#!/bin/sh\n[ $1 = -info ] && {said}\n"));
        let facts = memory().shim(&path, None).await.unwrap();
        assert_eq!((facts.name.as_str(), facts.runtime.recursive_read_only), ("abc", true));
        let path = script(dir.path(), "#!/bin/sh\necho unknown flag\nexit 2\n");
        assert_eq!(memory().shim(&path, None).await, Ok(ShimFacts::default()));
        let path = script(dir.path(), "no program");
        let why = memory().shim(&path, None).await.unwrap_err();
        assert!(why.contains("cannot be run"), "{why}");
    }
}
