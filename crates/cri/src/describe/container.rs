//! Containers.

use std::path::Path;

use berth_lifecycle::{ContainerState, ContainerView};
use berth_pod::spec::{ImageAsked, Mount, MountSource, Propagation};
use berth_proto::cri::v1 as cri;
use berth_proto::cri::v1::MountPropagation;

use super::pod::mappings;
use super::resources::resources;
use crate::admit::{signal_from_image, signal_to_cri};

/// What stops a container when neither it nor its image says.
const SIGTERM: i32 = 15;

/// CRI's word for a state.
pub(crate) fn container_state(container: &ContainerView) -> cri::ContainerState {
    match container.state {
        ContainerState::Created => cri::ContainerState::ContainerCreated,
        ContainerState::Running => cri::ContainerState::ContainerRunning,
        ContainerState::Exited => cri::ContainerState::ContainerExited,
        ContainerState::Unknown => cri::ContainerState::ContainerUnknown,
    }
}

/// An entry of ListContainers.
pub(crate) fn container_entry(container: &ContainerView) -> cri::Container {
    let (spec, held) = (container.spec(), container.image());
    cri::Container {
        id: container.id().to_string(),
        pod_sandbox_id: container.sandbox.to_string(),
        metadata: Some(metadata(container)),
        image: Some(image(&spec.image)),
        image_ref: held.map(|held| held.facts.image_ref.clone()).unwrap_or_default(),
        state: container_state(container) as i32,
        created_at: container.record.created_at,
        labels: spec.labels.clone(),
        annotations: spec.annotations.clone(),
        image_id: held.map(|held| held.facts.id.clone()).unwrap_or_default(),
    }
}

/// The answer to ContainerStatus.
pub(crate) fn container_status(container: &ContainerView) -> cri::ContainerStatus {
    let (spec, held) = (container.spec(), container.image());
    let exit = container.exit();
    cri::ContainerStatus {
        id: container.id().to_string(),
        metadata: Some(metadata(container)),
        state: container_state(container) as i32,
        created_at: container.record.created_at,
        started_at: container.record.started_at.unwrap_or_default(),
        finished_at: exit.map_or(0, |exit| exit.at),
        exit_code: exit.map_or(0, |exit| exit.code),
        image: Some(image(&spec.image)),
        image_ref: held.map(|held| held.facts.image_ref.clone()).unwrap_or_default(),
        reason: exit.map(|exit| exit.reason.clone()).unwrap_or_default(),
        message: exit.map(|exit| exit.message.clone()).unwrap_or_default(),
        labels: spec.labels.clone(),
        annotations: spec.annotations.clone(),
        mounts: mounts(container),
        log_path: spec.log_path.as_deref().map(text).unwrap_or_default(),
        resources: Some(resources(&container.record.resources)),
        image_id: held.map(|held| held.facts.id.clone()).unwrap_or_default(),
        user: Some(user(container)),
        stop_signal: signal_to_cri(stop_signal(container)) as i32,
    }
}

/// The name of a container, in CRI's words.
pub(crate) fn metadata(container: &ContainerView) -> cri::ContainerMetadata {
    let name = &container.spec().name;
    cri::ContainerMetadata { name: name.name.clone(), attempt: name.attempt }
}

/// The signal in effect: the container's, or its image's, or SIGTERM.
fn stop_signal(container: &ContainerView) -> i32 {
    let asked = container.spec().stop_signal;
    let of_image = || signal_from_image(&container.image()?.facts.stop_signal);
    asked.or_else(of_image).unwrap_or(SIGTERM)
}

fn user(container: &ContainerView) -> cri::ContainerUser {
    let user = container.image().map(|held| &held.user);
    let linux = user.map(|user| cri::LinuxContainerUser {
        uid: user.uid.into(),
        gid: user.gid.into(),
        supplemental_groups: user.groups.iter().map(|gid| i64::from(*gid)).collect(),
    });
    cri::ContainerUser { linux: Some(linux.unwrap_or_default()) }
}

/// Without the handler that it was asked for: the kubelet finds out by both whether an image is in
/// use, and lists show an image once, for every handler.
fn image(asked: &ImageAsked) -> cri::ImageSpec {
    cri::ImageSpec {
        image: asked.reference.clone(),
        annotations: asked.annotations.clone(),
        user_specified_image: asked.user_specified.clone(),
        runtime_handler: String::new(),
        image_ref: String::new(),
    }
}

/// Of an image volume it is said which image is in use, in the word that PullImage gave for it.
fn mounts(container: &ContainerView) -> Vec<cri::Mount> {
    let held = container.image().map(|held| &*held.volumes).unwrap_or_default();
    let mut held = held.iter();
    let one = |given| {
        let mut told = mount(given);
        if let Some(image) = &mut told.image
            && let Some(held) = held.next()
        {
            image.image_ref.clone_from(&held.id);
        }
        told
    };
    container.spec().mounts.iter().map(one).collect()
}

fn mount(given: &Mount) -> cri::Mount {
    let (host_path, image, image_sub_path) = match &given.source {
        MountSource::Host(path) => (text(path), None, String::new()),
        MountSource::Image { image: asked, sub_path } => {
            (String::new(), Some(image(asked)), sub_path.clone())
        }
    };
    let propagation = match given.propagation {
        Propagation::Private => MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => MountPropagation::PropagationBidirectional,
    };
    cri::Mount {
        container_path: text(&given.container_path),
        host_path,
        readonly: given.readonly,
        selinux_relabel: given.selinux_relabel,
        propagation: propagation as i32,
        uid_mappings: mappings(&given.uid_mappings),
        gid_mappings: mappings(&given.gid_mappings),
        recursive_read_only: given.recursive_read_only,
        image,
        image_sub_path,
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
