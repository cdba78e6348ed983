//! A shim for containers that are a directory and a process: the one that docs/shim-from-zero.md
//! builds.

use std::os::unix::fs::{chroot, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use berth_shim::process::{Error, Result};
use berth_shim::sys::mounts;
use berth_shim::{Bundle, Inside, Launch, Mount, Process, Program, Shim};

fn main() -> ExitCode {
    berth_shim::main::<Chroot>()
}

#[derive(Default)]
struct Chroot;

impl Shim for Chroot {
    const NAME: &'static str = "io.containerd.guide.v1";

    async fn create(&self, _: &Bundle, launch: Launch) -> Result<Process> {
        launch.again()
    }

    fn inside(inside: Inside) -> Result<u8> {
        let root = &inside.bundle.root;
        if inside.command {
            enter(root)?;
        } else {
            furnish(&inside.bundle)?;
        }
        Err(run(&inside.program))
    }

    async fn exec(&self, _: &Bundle, launch: Launch) -> Result<Process> {
        launch.again()
    }
}

fn enter(root: &Path) -> Result<()> {
    chroot(root).map_err(|e| Error::file("make the root", root, e))
}

fn run(program: &Program) -> Error {
    let Some((name, arguments)) = program.args.split_first() else {
        return Error::Invalid("a process without a program".to_owned());
    };
    if let Err(error) = program.become_user() {
        return error;
    }
    let mut command = Command::new(name);
    command.args(arguments).env_clear().envs(program.env()).current_dir(&program.cwd);
    Error::file("run", name, command.exec())
}

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&str, &str); 2] = [("/dev/ptmx", "pts/ptmx"), ("/dev/fd", "/proc/self/fd")];

fn furnish(bundle: &Bundle) -> Result<()> {
    let mut wanted = bundle.spec.mounts.clone();
    // A control group is not this container's to see.
    wanted.retain(|mount| mount.kind != "cgroup");
    wanted.extend(DEVICES.map(device));
    let mut held = Vec::new();
    for mount in wanted {
        let tree = match mount.is_bind() {
            true => Some(mounts::copy(&mount.source, true)?),
            false => None,
        };
        held.push((tree, mount.source.is_dir() || !mount.is_bind(), mount));
    }
    enter(&bundle.root)?;
    for (tree, directory, mount) in held {
        let target = &mount.destination;
        place(target, directory).map_err(|e| Error::file("make", target, e))?;
        let options = mounts::Options::parse(&mount.options);
        match tree {
            Some(tree) => {
                mounts::attach(tree, target)?;
                mounts::remount_bind(target, options.flags)?;
            }
            None => mounts::mount_as(&mount.kind, &mount.source, target, &options)?,
        }
    }
    for (name, target) in LINKS {
        // An image may have brought its own.
        let _ = symlink(target, name);
    }
    Ok(())
}

fn device(name: &str) -> Mount {
    let path = PathBuf::from("/dev").join(name);
    let options = ["bind", "nosuid", "noexec"].map(str::to_owned).into();
    Mount { destination: path.clone(), kind: String::new(), source: path, options }
}

fn place(path: &Path, directory: bool) -> std::io::Result<()> {
    if directory {
        return std::fs::create_dir_all(path);
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::File::options().create(true).append(true).open(path).map(drop)
}
