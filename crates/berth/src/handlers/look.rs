//! Is one handler in order, and what can it do?

use std::io::Read as _;
use std::path::{Path, PathBuf};

use berth_lifecycle::{Handler, SandboxMode, ShimKind};
use berth_oci::facts::HandlerFacts;
use serde_json::Value;

use super::Broken;
use crate::config::{HandlerConfig, shim_name};
use crate::facts::{Memory, RuntimeFacts, ShimFacts};
use crate::find;

/// The name by which our own shim answers `-info`, under whatever file name.
const OUR_NAME: &str = "io.containerd.berth.v1";

/// The largest base spec.
const LARGEST: u64 = 1 << 20;

/// What a message says of a program that is not there.
const NO_PROGRAM: &str = "there is no such executable (looked beside berth and on PATH): install \
                          it, or give its absolute path";

fn broken<T>(key: &'static str, why: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { key, why: why.into() })
}

/// Looks at a handler: its programs must be there and answer, its base spec must be one.
pub(super) async fn at(config: &HandlerConfig, memory: &Memory) -> Result<Handler, Broken> {
    let Some(shim) = find::program(&config.shim) else {
        return broken("shim", format!("{:?}: {NO_PROGRAM}", config.shim));
    };
    let base_spec = config.base_spec.as_deref().map(base_spec).transpose()?;
    let said = match memory.shim(&shim, config.options.as_ref()).await {
        Ok(said) => said,
        Err(why) => return broken("shim", format!("{why}: install it anew")),
    };
    let kind = kind(&config.shim, &said);
    let (runtime, facts) = match kind {
        ShimKind::Berth => {
            let runtime = runtime(config.runtime.as_deref())?;
            match memory.runtime(&runtime, Some(&shim)).await {
                Ok(facts) => (Some(runtime), facts),
                Err(why) => return broken("runtime", format!("{why}: repair or replace it")),
            }
        }
        ShimKind::Other if config.runtime.is_some() => {
            let why = "only Berth's own shim is told its runtime so: leave it out, or use \
                       options.binary_name of a runc shim";
            return broken("runtime", why);
        }
        ShimKind::Other => (None, behind(config, &said, memory).await?),
    };
    let sandbox = sandbox(config.sandbox, &facts)?;
    Ok(Handler {
        shim,
        kind,
        runtime,
        runtime_root: config.runtime_root.clone(),
        options: config.options.clone(),
        sandbox,
        privileged: config.privileged,
        cni_conf_dir: config.cni_conf_dir.clone(),
        base_spec,
        facts: facts_of(config, facts),
    })
}

/// gVisor's containers join the sandbox of one that is there before them: with our shim that is a
/// task, since it has a root file system.
fn sandbox(configured: SandboxMode, facts: &RuntimeFacts) -> Result<SandboxMode, Broken> {
    match (configured, facts.guest_network) {
        (SandboxMode::Sandbox, Some(_)) => {
            broken("sandbox", "a gVisor sandbox is a task with our shim: leave this out")
        }
        (SandboxMode::Auto, Some(_)) => Ok(SandboxMode::Task),
        (mode, _) => Ok(mode),
    }
}

/// A shim's name decides; one whose name has not the usual form is what it says it is.
fn kind(shim: &str, said: &ShimFacts) -> ShimKind {
    match shim_name(shim) {
        Some(("berth", _)) => ShimKind::Berth,
        None if said.name == OUR_NAME => ShimKind::Berth,
        _ => ShimKind::Other,
    }
}

/// What the runtime behind a shim by others can do. One of runc's kind that knows no `-info` (that
/// of containerd 1.x) has its runtime asked.
async fn behind(
    config: &HandlerConfig,
    said: &ShimFacts,
    memory: &Memory,
) -> Result<RuntimeFacts, Broken> {
    let runc = shim_name(&config.shim).is_some_and(|(name, _)| name == "runc");
    if !runc || !said.name.is_empty() {
        return Ok(said.runtime);
    }
    let name = config.binary_name.as_deref().unwrap_or("runc");
    let Some(runtime) = find::program(name) else {
        let why = format!("its OCI runtime is {name:?}: {NO_PROGRAM}");
        return broken("options", why);
    };
    match memory.runtime(&runtime, None).await {
        Ok(facts) => Ok(facts),
        Err(why) => broken("options", format!("{why}: repair or replace it")),
    }
}

fn facts_of(config: &HandlerConfig, runtime: RuntimeFacts) -> HandlerFacts {
    HandlerFacts {
        recursive_read_only: runtime.recursive_read_only,
        id_mapped_mounts: runtime.id_mapped_mounts,
        privileged_without_host_devices: config.privileged_without_host_devices,
        pod_annotations: config.pod_annotations.clone(),
        container_annotations: config.container_annotations.clone(),
        checkpoint: runtime.checkpoint,
        guest_network: runtime.guest_network,
        extras: runtime.extras,
    }
}

fn runtime(configured: Option<&str>) -> Result<PathBuf, Broken> {
    match configured {
        Some(name) => match find::program(name) {
            Some(path) => Ok(path),
            None => broken("runtime", format!("{name:?}: {NO_PROGRAM}")),
        },
        None => match find::program("crun").or_else(|| find::program("runc")) {
            Some(path) => Ok(path),
            None => broken("runtime", "neither crun nor runc is on PATH: install one of them"),
        },
    }
}

fn base_spec(path: &Path) -> Result<Value, Broken> {
    let shown = path.display();
    let mut text = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(LARGEST).read_to_end(&mut text));
    if let Err(why) = read {
        return broken("base_spec", format!("cannot read {shown}: {why}"));
    }
    // As a spec, too: a field of the wrong type must not come to light in a pod.
    if let Err(why) = berth_oci::from_json(&text) {
        return broken("base_spec", format!("{shown} is no OCI spec: {why}"));
    }
    match serde_json::from_slice(&text) {
        Ok(spec) => Ok(spec),
        Err(why) => broken("base_spec", format!("{shown} is no JSON: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn script(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A handler whose shim and runtime are in order.
    fn sound(dir: &Path) -> HandlerConfig {
        let path = |name: &str| dir.join(name).display().to_string();
        script(&dir.join("containerd-shim-berth-v1"), "#!/bin/sh\n");
        script(&dir.join("oci"), "#!/bin/sh\necho '{\"mountOptions\": [\"rro\"]}'\n");
        HandlerConfig {
            runtime: Some(path("oci")),
            ..HandlerConfig::plain(path("containerd-shim-berth-v1"), "/r".into())
        }
    }

    async fn looked(config: &HandlerConfig, dir: &Path) -> Result<Handler, Broken> {
        at(config, &Memory::read(dir.join("memory"))).await
    }

    #[tokio::test]
    async fn a_handler_in_order_has_what_its_runtime_says() {
        let dir = tempfile::tempdir().unwrap();
        let handler = looked(&sound(dir.path()), dir.path()).await.unwrap();
        assert_eq!(handler.kind, ShimKind::Berth);
        assert!(handler.facts.recursive_read_only && !handler.facts.id_mapped_mounts);
    }

    #[tokio::test]
    async fn an_old_shim_of_runc_s_kind_can_do_what_its_runtime_says() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = sound(dir.path());
        config.binary_name = config.runtime.take();
        config.shim = dir.path().join("containerd-shim-runc-v2").display().to_string();
        script(Path::new(&config.shim), "#!/bin/sh\nexit 2\n");
        let handler = looked(&config, dir.path()).await.unwrap();
        assert_eq!((handler.kind, handler.runtime), (ShimKind::Other, None));
        assert!(handler.facts.recursive_read_only);
    }

    #[test]
    fn a_shim_is_ours_by_its_name_or_if_that_tells_nothing_by_its_word() {
        let says = |name: &str| ShimFacts { name: name.to_owned(), ..ShimFacts::default() };
        let ours = |shim, said| kind(shim, &says(said)) == ShimKind::Berth;
        assert!(ours("containerd-shim-berth-v1", ""));
        assert!(ours("/opt/shim", OUR_NAME));
        assert!(!ours("/opt/shim", ""));
        assert!(!ours("/opt/containerd-shim-mine-v1", OUR_NAME));
    }

    #[tokio::test]
    async fn each_fault_of_a_handler_names_its_key_and_its_cause() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        script(&dir.path().join("silent"), "#!/bin/sh\necho broken >&2; exit 1\n");
        script(&dir.path().join("garbage"), "no program");
        std::fs::write(dir.path().join("plain"), "").unwrap();
        std::fs::write(dir.path().join("text"), "not JSON").unwrap();
        std::fs::write(dir.path().join("wrong"), "{\"mounts\": 1}").unwrap();
        let sound = sound(dir.path());
        let other = |shim: &str| HandlerConfig { shim: at(shim), ..sound.clone() };
        let runtime = |name: &str| HandlerConfig { runtime: Some(at(name)), ..sound.clone() };
        script(&dir.path().join("containerd-shim-runc-v2"), "#!/bin/sh\nexit 2\n");
        let runc = |name: &str| HandlerConfig {
            binary_name: Some(at(name)),
            ..HandlerConfig::plain(at("containerd-shim-runc-v2"), "/r".into())
        };
        let base = |name: &str| HandlerConfig { base_spec: Some(at(name).into()), ..sound.clone() };
        for (config, key, words) in [
            (other("none"), "shim", ["none", "no such executable"]),
            (other("plain"), "shim", ["plain", "no such executable"]),
            (other("garbage"), "shim", ["garbage", "cannot be run"]),
            (other("silent"), "runtime", ["only Berth's own shim", "binary_name"]),
            (runc("none"), "options", ["none", "no such executable"]),
            (runc("silent"), "options", ["--version", "broken"]),
            (runtime("none"), "runtime", ["none", "no such executable"]),
            (runtime("silent"), "runtime", ["--version", "broken"]),
            (base("none"), "base_spec", ["cannot read", "none"]),
            (base("text"), "base_spec", ["no OCI spec", "text"]),
            (base("wrong"), "base_spec", ["no OCI spec", "wrong"]),
        ] {
            let broken = looked(&config, dir.path()).await.unwrap_err();
            assert_eq!(broken.key, key, "{broken:?}");
            for word in words {
                assert!(broken.why.contains(word), "no {word:?} in {broken:?}");
            }
        }
    }
}
