//! The first process of a container, and processes that join it.

use std::path::{Path, PathBuf};

use berth_pod::spec::{ContainerSpec, Profile, SandboxSpec, Selinux};

use crate::capability::Granted;
use crate::error::Error;
use crate::facts::{AppArmor, ContainerInput, NodeFacts};
use crate::paths::{clean, no_nul};
use crate::resources::oom_score_adj;
use crate::spec::{Process, Spec, User};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The first process of a container.
pub(crate) fn first(input: &ContainerInput<'_>, granted: Granted) -> Result<Process, Error> {
    let (spec, user) = (input.spec, input.user);
    Ok(Process {
        terminal: spec.tty,
        user: User { uid: user.uid, gid: user.gid, additional_gids: user.groups.clone() },
        args: args(input)?,
        env: env(input)?,
        cwd: cwd(input)?,
        capabilities: granted.to_spec(),
        rlimits: input.pod.node.rlimits.clone(),
        no_new_privileges: spec.security.no_new_privs,
        apparmor_profile: apparmor(input)?,
        oom_score_adj: Some(oom_score_adj(spec.resources.oom_score_adj, input.pod.node)?),
        selinux_label: selinux_labels(input).process,
        ..Process::default()
    })
}

/// A process that exec adds to a running container: everything as its first process has it, but
/// the command and the terminal.
///
/// # Errors
/// When the command is empty or contains a NUL, or the spec has no process.
pub fn exec_process(spec: &Spec, cmd: &[String], tty: bool) -> Result<Process, Error> {
    if cmd.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("cmd", "is empty; name a program to run"));
    }
    cmd.iter().try_for_each(|arg| no_nul("cmd", arg))?;
    let Some(first) = &spec.process else {
        return Err(Error::Missing("the bundle has no process to take after".to_owned()));
    };
    let mut process = Process { terminal: tty, args: cmd.to_vec(), ..first.clone() };
    if tty && !process.env.iter().any(|pair| pair.starts_with("TERM=")) {
        process.env.push("TERM=xterm".to_owned());
    }
    Ok(process)
}

/// CRI's rule: `command` replaces the image's entry point *and* its arguments; `args` alone
/// replaces the arguments.
fn args(input: &ContainerInput<'_>) -> Result<Vec<String>, Error> {
    let (spec, image) = (input.spec, input.image);
    let from_image = spec.command.is_empty();
    let program = if from_image { &image.entrypoint } else { &spec.command };
    let args = if from_image && spec.args.is_empty() { &image.cmd } else { &spec.args };
    let all: Vec<String> = program.iter().chain(args).cloned().collect();
    if all.first().is_none_or(String::is_empty) {
        let text = format!(
            "nothing to run: image {:?} has no entry point and no arguments; give the container \
             a command",
            spec.image.reference
        );
        return Err(Error::invalid("command", text));
    }
    all.iter().try_for_each(|arg| no_nul("command", arg))?;
    Ok(all)
}

/// The image's variables, then what the pod implies, then the container's own; the last wins but
/// keeps the place of the first.
fn env(input: &ContainerInput<'_>) -> Result<Vec<String>, Error> {
    let spec = input.spec;
    let mut env: Vec<(String, String)> = Vec::new();
    for pair in &input.image.env {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        set(&mut env, name, value);
    }
    if !env.iter().any(|(name, _)| name == "PATH") {
        set(&mut env, "PATH", PATH);
    }
    if !input.pod.hostname.is_empty() {
        set(&mut env, "HOSTNAME", input.pod.hostname);
    }
    if spec.tty && !env.iter().any(|(name, _)| name == "TERM") {
        set(&mut env, "TERM", "xterm");
    }
    for (name, value) in &spec.envs {
        if name.is_empty() || name.contains('=') {
            let text = format!("{name:?} is not a variable's name");
            return Err(Error::invalid("envs", text));
        }
        set(&mut env, name, value);
    }
    if let Some(home) = &input.user.home
        && !env.iter().any(|(name, _)| name == "HOME")
    {
        set(&mut env, "HOME", home);
    }
    env.retain(|(name, _)| !name.is_empty());
    let pairs: Vec<String> = env.into_iter().map(|(n, v)| format!("{n}={v}")).collect();
    pairs.iter().try_for_each(|pair| no_nul("envs", pair))?;
    Ok(pairs)
}

fn set(env: &mut Vec<(String, String)>, name: &str, value: &str) {
    match env.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => env.push((name.to_owned(), value.to_owned())),
    }
}

/// The container's, else the image's (which may be written without its slash), else the root.
fn cwd(input: &ContainerInput<'_>) -> Result<PathBuf, Error> {
    let asked = &input.spec.working_dir;
    let text = if asked.is_empty() { &input.image.working_dir } else { asked };
    no_nul("working_dir", text)?;
    if !asked.is_empty() && !asked.starts_with('/') {
        return Err(Error::invalid("working_dir", format!("{asked:?} must be an absolute path")));
    }
    Ok(clean(Path::new(text)))
}

/// A privileged container has no default profile, but one that it names itself.
fn apparmor(input: &ContainerInput<'_>) -> Result<String, Error> {
    const FIELD: &str = "security_context.apparmor";
    let security = &input.spec.security;
    let default = match &input.pod.node.apparmor {
        AppArmor::On { default_profile } => default_profile.as_deref(),
        AppArmor::Off => {
            return match &security.apparmor {
                Profile::Unset | Profile::Unconfined => Ok(String::new()),
                Profile::RuntimeDefault if security.privileged => Ok(String::new()),
                Profile::RuntimeDefault | Profile::Localhost(_) => Err(Error::unsupported(
                    FIELD,
                    "AppArmor is off on this node; ask for Unconfined, or enable it",
                )),
            };
        }
    };
    match &security.apparmor {
        Profile::Unconfined => Ok("unconfined".to_owned()),
        Profile::Localhost(name) if name.is_empty() => {
            Err(Error::invalid(FIELD, "a localhost profile needs its name"))
        }
        Profile::Localhost(name) => Ok(name.clone()),
        Profile::Unset | Profile::RuntimeDefault if security.privileged => Ok(String::new()),
        Profile::Unset => Ok(default.unwrap_or_default().to_owned()),
        Profile::RuntimeDefault => default.map(str::to_owned).ok_or_else(|| {
            Error::unsupported(
                FIELD,
                "no default profile is loaded; load one, or name a loaded one",
            )
        }),
    }
}

/// Is an AppArmor profile among those of the kernel's list, `NAME (mode)` on each line? One of
/// another policy namespace (`:ns:name`) is not on it: the OCI runtime finds out.
pub fn is_loaded(list: &str, profile: &str) -> bool {
    let names = list.lines().filter_map(|line| line.rsplit_once(" (")).map(|(name, _)| name);
    profile.starts_with(':') || names.into_iter().any(|name| name == profile)
}

/// SELinux labels; "" is none.
#[derive(Default)]
pub(crate) struct Labels {
    /// Of the process.
    pub(crate) process: String,
    /// Of the files that the runtime mounts.
    pub(crate) mounts: String,
}

/// Labels of a container: its own parts, else the pod's. None are made up for a container that
/// names none. Where SELinux is off, labels mean nothing and are left out.
pub(crate) fn selinux_labels(input: &ContainerInput<'_>) -> Labels {
    labels(input.spec, input.pod.spec, input.pod.node)
}

/// The label of the files that a container is to be able to use; "" is none. A volume gets it that
/// is to be relabelled.
pub fn mount_label(container: &ContainerSpec, pod: &SandboxSpec, node: &NodeFacts) -> String {
    labels(container, pod, node).mounts
}

fn labels(container: &ContainerSpec, pod: &SandboxSpec, node: &NodeFacts) -> Labels {
    let asked = container.security.selinux.as_ref().or(pod.selinux.as_ref());
    let Some(parts) = asked.filter(|_| node.selinux) else { return Labels::default() };
    Labels {
        process: label(parts, "system_r", "container_t"),
        mounts: label(
            &Selinux { role: String::new(), kind: String::new(), ..parts.clone() },
            "object_r",
            "container_file_t",
        ),
    }
}

fn label(parts: &Selinux, role: &str, kind: &str) -> String {
    let or = |given: &str, default: &str| {
        if given.is_empty() { default.to_owned() } else { given.to_owned() }
    };
    format!(
        "{}:{}:{}:{}",
        or(&parts.user, "system_u"),
        or(&parts.role, role),
        or(&parts.kind, kind),
        or(&parts.level, "s0"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Spec {
        let process = Process {
            args: vec!["/bin/app".to_owned()],
            env: vec!["A=1".to_owned()],
            cwd: "/srv".into(),
            no_new_privileges: true,
            user: User { uid: 7, gid: 8, additional_gids: vec![8, 9] },
            ..Process::default()
        };
        Spec { process: Some(process), ..Spec::default() }
    }

    #[test]
    fn exec_takes_everything_but_the_command_from_the_first_process() {
        let spec = container();
        let cmd = ["ls".to_owned(), "-l".to_owned()];
        let process = exec_process(&spec, &cmd, false).unwrap();
        assert_eq!(Process { args: vec!["/bin/app".to_owned()], ..process }, spec.process.unwrap());
    }

    #[test]
    fn exec_with_a_terminal_names_one_unless_the_container_does() {
        let mut spec = container();
        let cmd = ["sh".to_owned()];
        let process = exec_process(&spec, &cmd, true).unwrap();
        assert!(process.terminal);
        assert_eq!(process.env, ["A=1", "TERM=xterm"]);
        spec.process.as_mut().unwrap().env = vec!["TERM=dumb".to_owned()];
        assert_eq!(exec_process(&spec, &cmd, true).unwrap().env, ["TERM=dumb"]);
    }

    #[test]
    fn an_apparmor_profile_is_loaded_if_the_kernel_lists_it() {
        let list = "docker-default (enforce)\n/usr/bin/man (complain)\nodd (name) (unconfined)\n";
        for name in ["docker-default", "/usr/bin/man", "odd (name)", ":ns:other"] {
            assert!(is_loaded(list, name), "{name}");
        }
        for name in ["docker", "enforce", "", "odd"] {
            assert!(!is_loaded(list, name), "{name}");
        }
    }

    #[test]
    fn exec_needs_a_program() {
        for cmd in [vec![], vec![String::new()], vec!["a\0b".to_owned()]] {
            assert!(exec_process(&container(), &cmd, false).is_err(), "{cmd:?}");
        }
    }
}
