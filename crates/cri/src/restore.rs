//! Containers that are made of checkpoints: an image that is a path is the archive of one, and an image
//! may have what an archive has. The image that it was a container of takes the place, and what the
//! request leaves open is as it was.

use std::path::PathBuf;

use berth_lifecycle::{Checkpointed, PodView};
use berth_pod::spec::{Admitted, Checkpoint, ContainerSpec};
use berth_pod::verdict::{self, Verdict};
use berth_proto::cri::v1 as cri;

use crate::{Cri, Error};

/// What an equal request has admitted of a checkpoint already, unless that is being rolled back: its
/// container needs neither the archive nor the image any more, and they may be gone.
pub(crate) fn made(
    pod: &PodView,
    config: &cri::ContainerConfig,
    digest: &str,
) -> Option<Admitted<ContainerSpec>> {
    let name = config.metadata.as_ref()?;
    let equal = pod.record.containers.values().find(|container| {
        let spec = &container.spec.spec;
        spec.checkpoint.is_some()
            && (&spec.name.name, spec.name.attempt) == (&name.name, name.attempt)
            && container.spec.digest == digest
            && verdict::create_container(container, digest) != Verdict::Anew
    })?;
    Some(Admitted::clone(&equal.spec))
}

/// Finds out whether a container is to be made of a checkpoint, and makes its configuration that of a
/// container.
///
/// # Errors
/// Denied by the configuration; what reading it or pulling its image fails with; NotFound without
/// that image.
pub(crate) async fn find(
    cri: &Cri,
    pod: &PodView,
    config: &mut cri::ContainerConfig,
) -> Result<Option<Checkpoint>, Error> {
    let Some(checkpoint) = named(cri, config).await? else { return Ok(None) };
    let was = cri.parts.node.checkpointed(pod.id().as_str(), &checkpoint).await?;
    let image = base(cri, &checkpoint, &was.images).await?;
    fill(config, was, image);
    Ok(Some(checkpoint))
}

/// The checkpoint that a configuration names, if it is one that the node may take.
async fn named(cri: &Cri, config: &cri::ContainerConfig) -> Result<Option<Checkpoint>, Error> {
    let asked = config.image.as_ref().map_or("", |image| &image.image);
    let refused = |key| Error::NoRestore { what: asked.to_owned(), key };
    if asked.starts_with('/') {
        return match cri.parts.restore.archives {
            true => Ok(Some(Checkpoint::Archive(PathBuf::from(asked)))),
            false => Err(refused("restore_archives")),
        };
    }
    let store = &cri.parts.images;
    // What is wrong with a name is found when it is admitted.
    let Ok(Some(image)) = store.status(asked) else { return Ok(None) };
    let allowed = cri.parts.restore.images;
    let facts = &image.facts;
    let runs_nothing = [&config.command, &config.args, &facts.entrypoint, &facts.cmd]
        .iter()
        .all(|words| words.is_empty());
    // An image that can run something is only looked at where it might be another thing.
    if !allowed && !runs_nothing || store.checkpoint(&image.id).await?.is_none() {
        return Ok(None);
    }
    match allowed {
        true => Ok(Some(Checkpoint::Image(image.id.to_string()))),
        false => Err(refused("restore_images")),
    }
}

/// The image that the container was of, which its changes are changes of. It is pulled if it is not
/// here: who asks knows of the checkpoint alone.
async fn base(cri: &Cri, checkpoint: &Checkpoint, names: &[String]) -> Result<String, Error> {
    let store = &cri.parts.images;
    let is_exact = |name: &&String| name.contains("sha256:");
    // A tag may stand for another image by now.
    let exact: Vec<&String> = names.iter().filter(is_exact).collect();
    let usable = if exact.is_empty() { names.iter().collect() } else { exact };
    let here = || usable.iter().find(|name| matches!(store.status(name), Ok(Some(_))));
    if let Some(found) = here() {
        return Ok((*found).clone());
    }
    let mut why = None;
    // An id alone says nothing of a registry.
    for name in names.iter().filter(|name| !name.starts_with("sha256:")) {
        match store.pull(name, None).await {
            Ok(_) => match here() {
                Some(found) => return Ok((*found).clone()),
                None => why = Some(format!("{name} is another image by now")),
            },
            Err(error) => why = Some(error.to_string()),
        }
    }
    Err(Error::NoBase {
        checkpoint: checkpoint.to_string(),
        images: names.join(", "),
        why: why.unwrap_or_else(|| "it is not here, and has no name to pull it by".to_owned()),
    })
}

fn fill(config: &mut cri::ContainerConfig, was: Checkpointed, base: String) {
    let image = config.image.get_or_insert_default();
    if image.user_specified_image.is_empty() {
        image.user_specified_image.clone_from(&image.image);
    }
    image.image = base;
    if config.command.is_empty() && config.args.is_empty() {
        config.command = was.args;
    }
    if config.working_dir.is_empty() {
        config.working_dir = was.cwd;
    }
    let given: Vec<String> = config.envs.iter().map(|env| env.key.clone()).collect();
    let split = |env: &String| env.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
    let was = was.env.iter().filter_map(split).filter(|(key, _)| !given.contains(key));
    let was = was.map(|(key, value)| cri::KeyValue { key, value: value.into() });
    config.envs.splice(0..0, was);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_says_wins_over_what_was() {
        let was = || Checkpointed {
            images: vec!["sha256:a".into()],
            args: vec!["was".into()],
            env: vec!["A=1".into(), "B=2".into()],
            cwd: "/was".into(),
        };
        let image = cri::ImageSpec { image: "/a.tar".into(), ..Default::default() };
        let mut bare = cri::ContainerConfig { image: Some(image), ..Default::default() };
        let mut full = cri::ContainerConfig {
            args: vec!["is".into()],
            working_dir: "/is".into(),
            envs: vec![cri::KeyValue { key: "B".into(), value: "3".into() }],
            ..bare.clone()
        };
        fill(&mut bare, was(), "base".into());
        let envs = |config: &cri::ContainerConfig| {
            let text = |env: &cri::KeyValue| {
                format!("{}={}", env.key, String::from_utf8_lossy(&env.value))
            };
            config.envs.iter().map(text).collect::<Vec<_>>().join(" ")
        };
        assert_eq!((bare.command.as_slice(), envs(&bare)), (&["was".into()][..], "A=1 B=2".into()));
        let image = bare.image.unwrap();
        assert_eq!((image.image.as_str(), image.user_specified_image.as_str()), ("base", "/a.tar"));
        assert_eq!(bare.working_dir, "/was");
        fill(&mut full, was(), "base".into());
        assert_eq!((full.command.len(), full.working_dir.as_str()), (0, "/is"));
        assert_eq!(envs(&full), "A=1 B=3");
    }
}
