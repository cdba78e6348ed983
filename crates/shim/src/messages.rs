//! Wire messages ↔ the types of [`berth_process`]: parsed once, here.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_process::{
    Checkpoint, ContainerRequest, Ends, ExecRequest, LONGEST_CHECKPOINT, MountRequest, Status,
    Target,
};
use berth_proto::{
    berth_shim, bootstrap, pod_config, runc_options, runtime_options, task_types, task_v3, types,
};
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};

use crate::error::status;
use crate::runtime::{PodRequest, TaskOptions};
use crate::settings;

type Parsed<T> = Result<T, ttrpc::Error>;

pub(crate) fn invalid(message: impl ToString) -> ttrpc::Error {
    status(ttrpc::Code::INVALID_ARGUMENT, message)
}

pub(crate) fn target(container: String, exec: String) -> Target {
    Target { container, exec: Some(exec).filter(|exec| !exec.is_empty()) }
}

/// Ids become file names and arguments of the runtime.
fn id(text: &str) -> Parsed<String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"_-.+".contains(&b);
    let first = text.as_bytes().first();
    if text.len() <= 255 && first.is_some_and(u8::is_ascii_alphanumeric) && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    Err(invalid(format!("id {text:?}: use letters, digits and _-.+, at most 255")))
}

pub(crate) fn container(request: &task_v3::CreateTaskRequest) -> Parsed<ContainerRequest> {
    let bundle = PathBuf::from(&request.bundle);
    if !bundle.is_absolute() {
        return Err(invalid(format!("bundle {:?} is not an absolute path", request.bundle)));
    }
    let (stdin, stdout, stderr) = (&request.stdin, &request.stdout, &request.stderr);
    let ends = Ends::parse(stdin, stdout, stderr, request.terminal)
        .map_err(|e| crate::error::to_wire(&e))?;
    Ok(ContainerRequest {
        id: id(&request.id)?,
        bundle,
        ends,
        rootfs: request.rootfs.iter().map(mount).collect(),
        checkpoint: Some(&request.checkpoint).filter(|p| !p.is_empty()).map(PathBuf::from),
    })
}

/// `path` is where the images go; options that name another place win, as with runc's shim.
pub(crate) fn checkpoint(
    path: &str,
    options: runc_options::CheckpointOptions,
    limit: Duration,
) -> Parsed<Checkpoint> {
    let absolute = |what: &str, path: &str| match path.starts_with('/') {
        true => Ok(PathBuf::from(path)),
        false => Err(invalid(format!("{what} {path:?} of a checkpoint is not an absolute path"))),
    };
    if !options.parent_path.is_empty() {
        return Err(invalid("a checkpoint on top of another (parent_path) is not written"));
    }
    let images = if options.image_path.is_empty() { path } else { &options.image_path };
    let work = Some(&options.work_path).filter(|path| !path.is_empty());
    Ok(Checkpoint {
        path: absolute("the path", images)?,
        work: work.map(|path| absolute("work_path", path)).transpose()?,
        leave_running: !options.exit,
        open_tcp: options.open_tcp,
        external_unix_sockets: options.external_unix_sockets,
        file_locks: options.file_locks,
        empty_namespaces: options.empty_namespaces,
        cgroups_mode: options.cgroups_mode,
        limit: limit.min(LONGEST_CHECKPOINT),
    })
}

fn mount(mount: &types::Mount) -> MountRequest {
    MountRequest {
        kind: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

pub(crate) fn exec(request: task_v3::ExecProcessRequest) -> Parsed<ExecRequest> {
    let (stdin, stdout, stderr) = (&request.stdin, &request.stdout, &request.stderr);
    let ends = Ends::parse(stdin, stdout, stderr, request.terminal)
        .map_err(|e| crate::error::to_wire(&e))?;
    let process = request.spec.into_option().unwrap_or_default();
    if !process.type_url.ends_with("runtime-spec/1/Process") {
        return Err(invalid(format!("exec spec of type {:?} is not a Process", process.type_url)));
    }
    Ok(ExecRequest { id: id(&request.exec_id)?, ends, process: process.value })
}

/// Options of our own, or those that containerd gives to runc's shim: in the root that these name,
/// each of its namespaces has a directory, as with that shim.
pub(crate) fn options(any: Option<&Any>, namespace: &str) -> Parsed<Option<TaskOptions>> {
    let within = |root: String| match root.as_str() {
        "" => root,
        _ => PathBuf::from(root).join(namespace).to_string_lossy().into_owned(),
    };
    let Some(any) = any.filter(|any| !any.type_url.is_empty()) else { return Ok(None) };
    let wrong = |e| invalid(format!("options of type {:?}: {e}", any.type_url));
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    match name {
        "berth.shim.v1.Options" => {
            let options = berth_shim::Options::parse_from_bytes(&any.value).map_err(wrong)?;
            Ok(Some(TaskOptions {
                binary: options.runtime_binary,
                root: options.runtime_root,
                systemd_cgroup: options.systemd_cgroup,
            }))
        }
        "containerd.runc.v1.Options" => {
            let options = runc_options::Options::parse_from_bytes(&any.value).map_err(wrong)?;
            Ok(Some(TaskOptions {
                binary: options.binary_name,
                root: within(options.root),
                systemd_cgroup: options.systemd_cgroup,
            }))
        }
        "runtimeoptions.v1.Options" => {
            let options = runtime_options::Options::parse_from_bytes(&any.value).map_err(wrong)?;
            let read = settings::read(&options);
            read.map(|read| {
                read.map(|read| TaskOptions { root: within(read.root.clone()), ..read })
            })
            .map_err(|e| invalid(format!("options of type {:?}: {e}", any.type_url)))
        }
        _ => Err(invalid(format!("options of unknown type {:?}", any.type_url))),
    }
}

/// CRI's description of a pod; `None`: something else, or nothing.
pub(crate) fn pod(any: Option<&Any>) -> Parsed<Option<PodRequest>> {
    /// NamespaceMode of CRI.
    const NODE: i32 = 2;
    let Some(any) = any.filter(|any| any.type_url.ends_with("runtime.v1.PodSandboxConfig")) else {
        return Ok(None);
    };
    let config = pod_config::PodSandboxConfig::parse_from_bytes(&any.value)
        .map_err(|e| invalid(format!("options of type {:?}: {e}", any.type_url)))?;
    let linux = config.linux.into_option().unwrap_or_default();
    let security = linux.security_context.into_option().unwrap_or_default();
    let modes = security.namespace_options.into_option().unwrap_or_default();
    Ok(Some(PodRequest {
        hostname: config.hostname,
        cgroup_parent: linux.cgroup_parent,
        sysctls: linux.sysctls.into_iter().collect(),
        node_ipc: modes.ipc == NODE,
        user_namespace: modes.userns_options.as_ref().is_some_and(|user| user.mode != NODE),
    }))
}

/// The stdin of `start`: bootstrap parameters, or bare options, or nothing. True: parameters.
pub(crate) fn start_input(
    bytes: &[u8],
    (namespace, instance): (&str, &str),
) -> Parsed<(bool, Option<TaskOptions>)> {
    // The first field of both messages is a string; only parameters have the id there.
    if let Ok(parameters) = bootstrap::BootstrapParams::parse_from_bytes(bytes)
        && parameters.instance_id == instance
    {
        for extension in &parameters.extensions {
            if let Ok(Some(found)) = options(extension.value.as_ref(), namespace) {
                return Ok((true, Some(found)));
            }
        }
        return Ok((true, None));
    }
    let any = Any::parse_from_bytes(bytes).map_err(|e| invalid(format!("stdin of start: {e}")))?;
    Ok((false, options(Some(&any), namespace)?))
}

pub(crate) fn timestamp(time: SystemTime) -> MessageField<Timestamp> {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    MessageField::some(Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
        ..Timestamp::default()
    })
}

pub(crate) fn process_status(status: Status) -> task_types::Status {
    match status {
        Status::Created => task_types::Status::CREATED,
        Status::Running => task_types::Status::RUNNING,
        Status::Paused => task_types::Status::PAUSED,
        Status::Stopped => task_types::Status::STOPPED,
    }
}

/// An `Any` of a message.
pub(crate) fn pack(name: &str, message: &impl Message) -> Any {
    // Writing to memory fails only for messages above 2 GiB.
    let value = message.write_to_bytes().unwrap_or_default();
    Any { type_url: name.to_owned(), value, ..Any::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_fit_for_paths() {
        for good in ["a", "0f3b", "my_task-1.2+x"] {
            id(good).unwrap();
        }
        for bad in ["", ".", "..", "-x", "a/b", "a b", "é", &"x".repeat(256)] {
            id(bad).unwrap_err();
        }
    }

    #[test]
    fn options_of_both_kinds_are_read() {
        let ours = berth_shim::Options {
            runtime_binary: "crun".into(),
            runtime_root: "/r".into(),
            ..Default::default()
        };
        let any = pack("berth.shim.v1.Options", &ours);
        let read = options(Some(&any), "").unwrap().unwrap();
        assert_eq!((read.binary.as_str(), read.root.as_str()), ("crun", "/r"));
        let runc = runc_options::Options {
            binary_name: "/usr/bin/runc".into(),
            systemd_cgroup: true,
            ..Default::default()
        };
        let any = pack("type.googleapis.com/containerd.runc.v1.Options", &runc);
        let read = options(Some(&any), "").unwrap().unwrap();
        assert!(read.binary == "/usr/bin/runc" && read.systemd_cgroup);
        assert_eq!(options(Some(&Any::default()), "").unwrap(), None);
        options(Some(&pack("some.other.Options", &runc)), "").unwrap_err();
        let mut any = runtime_options::Options::default();
        assert_eq!(options(Some(&pack("runtimeoptions.v1.Options", &any)), "").unwrap(), None);
        any.config_body = b"BinaryName = 'runc'".to_vec();
        let read = options(Some(&pack("runtimeoptions.v1.Options", &any)), "").unwrap();
        assert_eq!(read.unwrap().binary, "runc");
        any.config_body = b"Root = '/r'".to_vec();
        let read = options(Some(&pack("runtimeoptions.v1.Options", &any)), "moby").unwrap();
        assert_eq!(read.unwrap().root, "/r/moby");
    }

    #[test]
    fn both_forms_of_stdin_are_told_apart() {
        assert_eq!(start_input(b"", ("", "pod")).unwrap(), (false, None));
        let ours = berth_shim::Options { runtime_binary: "crun".into(), ..Default::default() };
        let any = pack("berth.shim.v1.Options", &ours);
        let (bare, read) = start_input(&any.write_to_bytes().unwrap(), ("", "pod")).unwrap();
        assert!(!bare && read.unwrap().binary == "crun");
        let extension =
            bootstrap::Extension { value: MessageField::some(any), ..Default::default() };
        let parameters = bootstrap::BootstrapParams {
            instance_id: "pod".into(),
            extensions: vec![extension],
            ..Default::default()
        };
        let (whole, read) =
            start_input(&parameters.write_to_bytes().unwrap(), ("", "pod")).unwrap();
        assert!(whole && read.unwrap().binary == "crun");
    }
}
