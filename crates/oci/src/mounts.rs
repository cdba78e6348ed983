//! The mounts of a container, in the order in which the runtime makes them.
//!
//! ```text
//! system (/proc, /dev, /sys, …)   a system mount at or below an asked destination gives way
//! └─ by depth: pod files (/etc/hosts, /dev/shm, …), image volumes, asked mounts
//! ```

use std::path::{Path, PathBuf};

use berth_pod::spec::{self, ImageFacts, MountSource, PodOrNode, Propagation};

use crate::error::Error;
use crate::facts::{CheckedMount, ContainerInput, PodInput, SourcePropagation};
use crate::namespaces::id_mappings;
use crate::paths::{absolute, clean, no_nul};
use crate::spec::Mount;

/// Mounts and the propagation that the root mount needs for them ("" if none).
pub(crate) struct Mounts {
    pub(crate) list: Vec<Mount>,
    pub(crate) rootfs_propagation: &'static str,
}

/// All mounts of one container.
pub(crate) fn of_container(input: &ContainerInput<'_>) -> Result<Mounts, Error> {
    if input.spec.mounts.len() != input.mounts.len() {
        return Err(Error::Missing("mounts were not all checked".to_owned()));
    }
    let mut asked: Vec<Mount> = Vec::new();
    let mut widest = Propagation::Private;
    for (at, (mount, checked)) in input.spec.mounts.iter().zip(input.mounts).enumerate() {
        let made = asked_mount(&format!("mounts[{at}]"), input, mount, checked)?;
        place(&mut asked, made);
        widest = wider(widest, mount.propagation);
    }
    let mut later = Vec::new();
    for (destination, source) in input.image_volumes {
        let destination = clean(destination);
        if open_to_images(&destination) {
            place(&mut later, bind(destination, source.clone(), &["rbind", "rprivate", "rw"]));
        }
    }
    for file in pod_files(&input.pod, input.spec.security.readonly_rootfs) {
        place(&mut later, file);
    }
    let mut list = system(&input.pod, input.spec.security.privileged);
    list.retain(|mount| !asked.iter().any(|a| mount.destination.starts_with(&a.destination)));
    for mount in asked {
        place(&mut later, mount);
    }
    later.sort_by_key(|mount| mount.destination.components().count());
    list.extend(later);
    Ok(Mounts {
        list,
        rootfs_propagation: match widest {
            Propagation::Private => "",
            Propagation::HostToContainer => "rslave",
            Propagation::Bidirectional => "rshared",
        },
    })
}

/// The volumes that an image declares and a container needs a directory for: those that no mount
/// of its own covers. An image has no say over the root, `/proc`, `/sys` and `/dev`.
pub fn image_volumes(image: &ImageFacts, spec: &spec::ContainerSpec) -> Vec<PathBuf> {
    let own: Vec<PathBuf> = spec.mounts.iter().map(|m| clean(&m.container_path)).collect();
    let mut volumes: Vec<PathBuf> = image.volumes.iter().map(|v| clean(Path::new(v))).collect();
    volumes.retain(|path| open_to_images(path) && !own.contains(path));
    volumes.sort();
    volumes.dedup();
    volumes
}

fn open_to_images(path: &Path) -> bool {
    path.parent().is_some() && !["/proc", "/sys", "/dev"].iter().any(|top| path.starts_with(top))
}

/// A second mount on the same place would hide the first: only the last one is made.
fn place(list: &mut Vec<Mount>, mount: Mount) {
    list.retain(|other| other.destination != mount.destination);
    list.push(mount);
}

fn wider(a: Propagation, b: Propagation) -> Propagation {
    match (a, b) {
        (Propagation::Bidirectional, _) | (_, Propagation::Bidirectional) => {
            Propagation::Bidirectional
        }
        (Propagation::HostToContainer, _) | (_, Propagation::HostToContainer) => {
            Propagation::HostToContainer
        }
        (Propagation::Private, Propagation::Private) => Propagation::Private,
    }
}

fn bind(destination: PathBuf, source: PathBuf, options: &[&str]) -> Mount {
    Mount {
        destination,
        kind: "bind".to_owned(),
        source,
        options: options.iter().map(|&o| o.to_owned()).collect(),
        ..Mount::default()
    }
}

fn fresh(destination: &str, kind: &str, options: &[&str]) -> Mount {
    let source = if kind == "devpts" || kind == "tmpfs" || kind == "sysfs" || kind == "proc" {
        kind
    } else {
        destination.rsplit('/').next().unwrap_or(kind)
    };
    Mount { kind: kind.to_owned(), ..bind(destination.into(), source.into(), options) }
}

/// What every container has. A privileged one may write to sysfs and its control groups.
pub(crate) fn system(pod: &PodInput<'_>, privileged: bool) -> Vec<Mount> {
    let access = if privileged { "rw" } else { "ro" };
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if maps_group(pod, 5) {
        pts.push("gid=5");
    }
    let careful = ["nosuid", "noexec", "nodev"];
    vec![
        fresh("/proc", "proc", &careful),
        fresh("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        fresh("/dev/pts", "devpts", &pts),
        mqueue(pod, &careful),
        sysfs(pod, access),
        fresh("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ]
}

/// Is the tty group inside the pod's user namespace; devpts refuses a gid that is not.
fn maps_group(pod: &PodInput<'_>, gid: u32) -> bool {
    pod.spec.namespaces.user.as_ref().is_none_or(|user| {
        user.gids.iter().any(|m| gid >= m.container_id && gid - m.container_id < m.length)
    })
}

/// sysfs shows a network namespace, and only the owner of that one may mount it: with a user
/// namespace on the host's network the host's own is bound instead.
fn sysfs(pod: &PodInput<'_>, access: &str) -> Mount {
    let shared =
        pod.spec.namespaces.user.is_some() && pod.spec.namespaces.network == PodOrNode::Node;
    if !shared {
        return fresh("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]);
    }
    let recursive = pod.node.recursive_read_only && pod.handler.recursive_read_only;
    let access = if access == "ro" && recursive { "rro" } else { access };
    // Private, or what the runtime mounts in it would appear on the node's: crun takes such a mount
    // from the node's mount namespace as it is.
    let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev", access];
    bind("/sys".into(), "/sys".into(), &options)
}

/// Likewise for message queues and the IPC namespace.
fn mqueue(pod: &PodInput<'_>, careful: &[&str; 3]) -> Mount {
    let shared = pod.spec.namespaces.user.is_some() && pod.spec.namespaces.ipc == PodOrNode::Node;
    if !shared {
        return fresh("/dev/mqueue", "mqueue", careful);
    }
    let options: Vec<&str> = ["rbind", "rprivate"].iter().chain(careful).copied().collect();
    bind("/dev/mqueue".into(), "/dev/mqueue".into(), &options)
}

/// The pod's files; those in `/etc` are read-only exactly if the root is.
fn pod_files(pod: &PodInput<'_>, readonly: bool) -> Vec<Mount> {
    let files = pod.files;
    let access = if readonly { "ro" } else { "rw" };
    let etc = [
        ("/etc/hostname", &files.hostname),
        ("/etc/hosts", &files.hosts),
        ("/etc/resolv.conf", &files.resolv_conf),
    ];
    let mut mounts: Vec<Mount> = etc
        .into_iter()
        .filter_map(|(to, from)| Some((to, from.clone()?)))
        .map(|(to, from)| bind(to.into(), from, &["rbind", "rprivate", access]))
        .collect();
    if let Some(shm) = &files.shm {
        mounts.push(bind("/dev/shm".into(), shm.clone(), &["rbind", "rprivate", "rw"]));
    }
    mounts
}

fn asked_mount(
    field: &str,
    input: &ContainerInput<'_>,
    mount: &spec::Mount,
    checked: &CheckedMount,
) -> Result<Mount, Error> {
    let destination = absolute(&format!("{field}.container_path"), &mount.container_path)?;
    if destination == Path::new("/") {
        let text = "cannot be the root; use another image instead";
        return Err(Error::invalid(format!("{field}.container_path"), text));
    }
    no_nul(&format!("{field}.host_path"), checked.source.to_string_lossy().as_ref())?;
    if !checked.source.is_absolute() {
        return Err(Error::invalid(format!("{field}.host_path"), "must be an absolute path"));
    }
    let image = matches!(mount.source, MountSource::Image { .. });
    let propagation = propagation(field, mount.propagation, checked)?;
    let access = match access(field, input, mount, image)? {
        // crun 1.8 takes every `rro` for a directory.
        "rro" if checked.alone => "ro",
        access => access,
    };
    let mut made = bind(destination, checked.source.clone(), &["rbind", propagation, access]);
    if image {
        made.options.extend(["nosuid", "nodev"].map(str::to_owned));
    }
    let mapped = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    if mapped && !checked.id_mapped {
        id_map(field, input, mount, &mut made)?;
    }
    Ok(made)
}

/// Propagation needs a source that takes part in it: otherwise nothing would ever arrive.
fn propagation(
    field: &str,
    asked: Propagation,
    checked: &CheckedMount,
) -> Result<&'static str, Error> {
    let wrong = |what: &str| {
        let text =
            format!("{:?} is not on a {what} mount; see mount --make-shared", checked.source);
        Err(Error::invalid(format!("{field}.propagation"), text))
    };
    match (asked, checked.propagation) {
        (Propagation::Private, _) => Ok("rprivate"),
        (Propagation::HostToContainer, SourcePropagation::Private) => wrong("shared or slave"),
        (Propagation::HostToContainer, _) => Ok("rslave"),
        (Propagation::Bidirectional, SourcePropagation::Shared) => Ok("rshared"),
        (Propagation::Bidirectional, _) => wrong("shared"),
    }
}

fn access(
    field: &str,
    input: &ContainerInput<'_>,
    mount: &spec::Mount,
    image: bool,
) -> Result<&'static str, Error> {
    if !mount.recursive_read_only {
        return Ok(if mount.readonly || image { "ro" } else { "rw" });
    }
    let field = format!("{field}.recursive_read_only");
    if !mount.readonly || mount.propagation != Propagation::Private {
        return Err(Error::invalid(field, "needs readonly and private propagation beside it"));
    }
    if !input.pod.node.recursive_read_only {
        return Err(Error::unsupported(field, "RROUnsupported: needs kernel 5.12 or later"));
    }
    if !input.pod.handler.recursive_read_only {
        return Err(Error::unsupported(
            field,
            "RROUnsupported: the handler's runtime does not know `rro`; use a newer one",
        ));
    }
    Ok("rro")
}

/// A runtime that does not know the mappings ignores them, and the files would belong to others.
fn id_map(
    field: &str,
    input: &ContainerInput<'_>,
    mount: &spec::Mount,
    made: &mut Mount,
) -> Result<(), Error> {
    if mount.uid_mappings.is_empty() || mount.gid_mappings.is_empty() {
        return Err(Error::invalid(field, "needs uidMappings and gidMappings, or neither"));
    }
    if input.pod.spec.namespaces.user.is_none() {
        let text = "an id-mapped mount needs a pod with a user namespace";
        return Err(Error::invalid(field, text));
    }
    if !input.pod.handler.id_mapped_mounts {
        let text = "the handler's runtime does not id-map mounts; use a newer one";
        return Err(Error::unsupported(field, text));
    }
    made.options.push("idmap".to_owned());
    made.uid_mappings = id_mappings(&mount.uid_mappings);
    made.gid_mappings = id_mappings(&mount.gid_mappings);
    Ok(())
}
