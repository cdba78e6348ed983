//! Mounts and devices.

use std::path::Path;

use berth_pod::spec::{Device, ImageAsked, Mount, MountSource, Propagation};
use berth_proto::cri::v1 as cri;
use berth_proto::cri::v1::MountPropagation;

use super::{Refusal, Rules, check, namespaces};

/// Parses the mounts, in the order given.
pub(super) fn admit(given: &[cri::Mount], rules: &Rules) -> Result<Vec<Mount>, Refusal> {
    let one = |(i, mount)| admit_one(&format!("config.mounts[{i}]"), mount, rules);
    given.iter().enumerate().map(one).collect()
}

fn admit_one(at: &str, given: &cri::Mount, rules: &Rules) -> Result<Mount, Refusal> {
    let field = |name: &str| format!("{at}.{name}");
    let container_path = check::in_container(&field("container_path"), &given.container_path)?;
    if container_path == Path::new("/") {
        let advice = "a mount there would hide the whole image: choose a path below";
        return Err(Refusal::new(field("container_path"), &given.container_path, advice));
    }
    let propagation = match check::known(&field("propagation"), given.propagation)? {
        MountPropagation::PropagationPrivate => Propagation::Private,
        MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    check_recursive(&field("recursive_read_only"), given, propagation, rules)?;
    if given.uid_mappings.is_empty() != given.gid_mappings.is_empty() {
        let advice = "an id-mapped mount needs both uidMappings and gidMappings";
        return Err(Refusal::new(field("uidMappings"), &given.uid_mappings, advice));
    }
    Ok(Mount {
        container_path,
        source: source(at, given, propagation)?,
        readonly: given.readonly,
        recursive_read_only: given.recursive_read_only,
        selinux_relabel: given.selinux_relabel,
        propagation,
        uid_mappings: namespaces::mappings(&field("uidMappings"), &given.uid_mappings)?,
        gid_mappings: namespaces::mappings(&field("gidMappings"), &given.gid_mappings)?,
    })
}

fn check_recursive(
    field: &str,
    given: &cri::Mount,
    propagation: Propagation,
    rules: &Rules,
) -> Result<(), Refusal> {
    let advice = if !given.recursive_read_only {
        return Ok(());
    } else if !given.readonly {
        "it needs readonly as well"
    } else if propagation != Propagation::Private {
        "it needs PROPAGATION_PRIVATE: a mount that appears later would be writable"
    } else if !rules.recursive_read_only {
        // The kubelet knows this word.
        "RROUnsupported: this node's kernel or OCI runtime cannot do it"
    } else {
        return Ok(());
    };
    Err(Refusal::new(field, true, advice))
}

fn source(at: &str, given: &cri::Mount, propagation: Propagation) -> Result<MountSource, Refusal> {
    let field = |name: &str| format!("{at}.{name}");
    let Some(image) = given.image.as_ref().filter(|image| !image.image.is_empty()) else {
        if !given.image_sub_path.is_empty() {
            let advice = "it goes with an image only";
            return Err(Refusal::new(field("image_sub_path"), &given.image_sub_path, advice));
        }
        if given.host_path.is_empty() {
            return Err(Refusal::missing(field("host_path"), "give a path of the host"));
        }
        return Ok(MountSource::Host(check::absolute(&field("host_path"), &given.host_path)?));
    };
    if !given.host_path.is_empty() {
        let advice = "give a host path or an image, not both";
        return Err(Refusal::new(field("host_path"), &given.host_path, advice));
    }
    if !given.readonly {
        let advice = "an image volume cannot be written to: set readonly";
        return Err(Refusal::new(field("readonly"), false, advice));
    }
    if propagation != Propagation::Private {
        let advice = "an image volume must have PROPAGATION_PRIVATE";
        return Err(Refusal::new(field("image"), &image.image, advice));
    }
    let sub_path = match given.image_sub_path.as_str() {
        "" => String::new(),
        path => {
            let path = path.trim_end_matches('/');
            let clean = check::beneath(&field("image_sub_path"), path)?;
            clean.to_string_lossy().into_owned()
        }
    };
    Ok(MountSource::Image { image: image_asked(image), sub_path })
}

/// An image as asked for.
pub(super) fn image_asked(given: &cri::ImageSpec) -> ImageAsked {
    ImageAsked {
        reference: given.image.clone(),
        user_specified: given.user_specified_image.clone(),
        annotations: given.annotations.clone(),
        runtime_handler: given.runtime_handler.clone(),
    }
}

/// Parses plain devices.
pub(super) fn devices(given: &[cri::Device]) -> Result<Vec<Device>, Refusal> {
    let one = |(i, device): (usize, &cri::Device)| {
        let field = |name: &str| format!("config.devices[{i}].{name}");
        let permissions = &device.permissions;
        let known = permissions.chars().all(|c| matches!(c, 'r' | 'w' | 'm'));
        if permissions.is_empty() || !known {
            let advice = "give one or more of r, w and m";
            return Err(Refusal::new(field("permissions"), permissions, advice));
        }
        Ok(Device {
            container_path: check::in_container(&field("container_path"), &device.container_path)?,
            host_path: check::absolute(&field("host_path"), &device.host_path)?,
            permissions: permissions.clone(),
        })
    };
    given.iter().enumerate().map(one).collect()
}

/// Checks the form of CDI names: `vendor.com/class=device`.
pub(super) fn cdi_devices(given: &[cri::CdiDevice]) -> Result<Vec<String>, Refusal> {
    let one = |(i, device): (usize, &cri::CdiDevice)| {
        let parts = device.name.split_once('=').and_then(|(kind, name)| {
            let (vendor, class) = kind.split_once('/')?;
            Some([vendor, class, name])
        });
        if parts.is_none_or(|parts| parts.iter().any(|part| part.is_empty())) {
            let advice = "give a qualified name: vendor.com/class=device";
            return Err(Refusal::new(
                format!("config.CDI_devices[{i}].name"),
                &device.name,
                advice,
            ));
        }
        Ok(device.name.clone())
    };
    given.iter().enumerate().map(one).collect()
}
