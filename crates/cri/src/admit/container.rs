//! `ContainerConfig` → `ContainerSpec`.

use std::path::PathBuf;

use berth_pod::spec::{Admitted, ContainerName, ContainerSpec, ImageAsked, SandboxSpec, Stdin};
use berth_proto::cri::v1 as cri;

use super::{Refusal, Rules, check, digest, mounts, resources, security, signal};

/// Parses the configuration of a container of that pod.
///
/// # Errors
/// A refusal that names the field.
pub fn admit_container(
    config: Option<&cri::ContainerConfig>,
    pod: &SandboxSpec,
    rules: &Rules,
) -> Result<Admitted<ContainerSpec>, Refusal> {
    let config = config.ok_or_else(|| Refusal::missing("config", "send the container's config"))?;
    if config.windows.is_some() {
        return Err(Refusal::new("config.windows", "set", "this node runs Linux containers only"));
    }
    let linux = config.linux.clone().unwrap_or_default();
    let spec = ContainerSpec {
        name: name(config.metadata.as_ref())?,
        image: image(config.image.as_ref())?,
        command: words("command", &config.command)?,
        args: words("args", &config.args)?,
        working_dir: match config.working_dir.as_str() {
            "" => String::new(),
            given => {
                check::absolute("config.working_dir", given)?;
                given.to_owned()
            }
        },
        envs: envs(&config.envs)?,
        mounts: mounts::admit(&config.mounts, rules)?,
        devices: mounts::devices(&config.devices)?,
        cdi_devices: mounts::cdi_devices(&config.cdi_devices)?,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        log_path: log_path(&config.log_path, pod)?,
        stdin: match (config.stdin, config.stdin_once) {
            (false, _) => Stdin::Closed,
            (true, false) => Stdin::Open,
            (true, true) => Stdin::Once,
        },
        tty: config.tty,
        stop_signal: signal::admit("config.stop_signal", config.stop_signal)?,
        resources: resources::admit_resources(
            "config.linux.resources",
            &linux.resources.unwrap_or_default(),
        )?,
        security: security::admit(&linux.security_context.unwrap_or_default(), pod)?,
        checkpoint: None,
    };
    Ok(Admitted { spec, digest: container_digest(config), original: Vec::new() })
}

/// The digest of the configuration as it was asked for.
pub fn container_digest(config: &cri::ContainerConfig) -> String {
    digest::digest("", config)
}

fn name(metadata: Option<&cri::ContainerMetadata>) -> Result<ContainerName, Refusal> {
    let given =
        metadata.ok_or_else(|| Refusal::missing("config.metadata", "send name and attempt"))?;
    let name = check::name("config.metadata.name", &given.name)?;
    Ok(ContainerName { name, attempt: given.attempt })
}

fn image(given: Option<&cri::ImageSpec>) -> Result<ImageAsked, Refusal> {
    let given = given.cloned().unwrap_or_default();
    if given.image.is_empty() {
        return Err(Refusal::missing("config.image.image", "name an image of this node"));
    }
    check::text("config.image.image", &given.image)?;
    Ok(mounts::image_asked(&given))
}

fn words(part: &str, given: &[String]) -> Result<Vec<String>, Refusal> {
    let at = |i| format!("config.{part}[{i}]");
    given.iter().enumerate().map(|(i, word)| check::text(&at(i), word)).collect()
}

/// Values are bytes in CRI, but the OCI spec is JSON: what is not UTF-8 cannot be passed on whole.
fn envs(given: &[cri::KeyValue]) -> Result<Vec<(String, String)>, Refusal> {
    let one = |(i, env): (usize, &cri::KeyValue)| {
        let key = check::text(&format!("config.envs[{i}].key"), &env.key)?;
        if key.is_empty() || key.contains('=') {
            let advice = "give a name without '='";
            return Err(Refusal::new(format!("config.envs[{i}].key"), key, advice));
        }
        // Values are often secrets: a refusal never repeats them.
        let refuse = |advice| Refusal::new(format!("config.envs[{i}] ({key})"), "…", advice);
        let value = std::str::from_utf8(&env.value).map_err(|_| {
            refuse("the value is not UTF-8, which a container's environment must be")
        })?;
        if value.contains('\0') {
            return Err(refuse("leave out the NUL character"));
        }
        let value = value.to_owned();
        Ok((key, value))
    };
    given.iter().enumerate().map(one).collect()
}

fn log_path(given: &str, pod: &SandboxSpec) -> Result<Option<PathBuf>, Refusal> {
    if given.is_empty() {
        return Ok(None);
    }
    let path = check::beneath("config.log_path", given)?;
    Ok(pod.log_directory.as_ref().map(|directory| directory.join(path)))
}
