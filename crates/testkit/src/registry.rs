//! Debian's docker-registry, unpacked beside the system and started inside a node's network.
//!
//! Installing the package would start a service on the machine, so it never is.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::http::Request;
use crate::image::samples::Sample;
use crate::place::Place;
use crate::push::Push;

/// The user that a registry with [`Access::Basic`] lets in.
pub const USER: &str = "tester";
/// That user's password.
pub const PASSWORD: &str = "secret";
/// bcrypt of [`PASSWORD`]: the only form docker-registry reads.
const PASSWORD_HASH: &str = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";

/// Whom a registry lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// [`USER`] with [`PASSWORD`].
    Basic,
}

/// A running registry; killed on drop.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: SocketAddr,
    access: Access,
}

impl Registry {
    /// Starts a registry on a port of `place`'s loopback, its storage below `dir`.
    ///
    /// # Errors
    /// If the package cannot be had or the registry does not answer.
    pub fn start(place: &Place, dir: &Path, port: u16, access: Access) -> Result<Self> {
        let program = program()?;
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let config = dir.join("config.yml");
        fs::write(&config, configuration(dir, port, access)?)
            .with_context(|| format!("write {}", config.display()))?;
        let log = fs::File::create(dir.join("log"))?;
        let child = place.visit(|| {
            Command::new(&program)
                .arg("serve")
                .arg(&config)
                .env_clear()
                // Two cores for everything: the registry is not what is measured.
                .env("GOMAXPROCS", "1")
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .with_context(|| format!("start {}", program.display()))
        })?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut registry = Self { child, address, access };
        place.visit(|| registry.wait_until_it_answers())?;
        Ok(registry)
    }

    /// Its address inside the node's network.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The full reference of a sample here, with its first tag.
    #[must_use]
    pub fn reference(&self, sample: &Sample) -> String {
        format!("{}/{}:{}", self.address, sample.name, sample.tags[0])
    }

    /// A push client for it, to be used on a thread inside the node's network.
    #[must_use]
    pub fn push(&self) -> Push {
        let credentials = match self.access {
            Access::Open => None,
            Access::Basic => Some((USER.to_owned(), PASSWORD.to_owned())),
        };
        Push { address: self.address, credentials }
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + crate::patience::here(Duration::from_secs(20));
        loop {
            match Request::new("GET", "/v2/").send(self.address) {
                Ok(answer) if [200, 401].contains(&answer.status) => return Ok(()),
                Ok(answer) => bail!("the registry answers {}", answer.status),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("docker-registry ended with {status}; its log is beside its configuration");
            }
            // It says nothing when it begins to listen.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(dir: &Path, port: u16, access: Access) -> Result<String> {
    let storage = dir.join("storage");
    let mut text = format!(
        "version: 0.1\nlog:\n  level: warn\n  accesslog:\n    disabled: true\nstorage:\n  \
         delete:\n    enabled: true\n  filesystem:\n    rootdirectory: {}\nhttp:\n  \
         addr: 127.0.0.1:{port}\n",
        storage.display()
    );
    if access == Access::Basic {
        let passwords = dir.join("htpasswd");
        fs::write(&passwords, format!("{USER}:{PASSWORD_HASH}\n"))?;
        text.push_str(&format!(
            "auth:\n  htpasswd:\n    realm: testkit\n    path: {}\n",
            passwords.display()
        ));
    }
    Ok(text)
}

/// Finds the registry's program, fetching and unpacking Debian's package the first time.
///
/// # Errors
/// If apt cannot download it or dpkg cannot unpack it.
pub fn program() -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cache = crate::paths::cache();
    let program = cache.join("docker-registry/usr/bin/docker-registry");
    if program.exists() {
        return Ok(program);
    }
    fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    let scratch = tempfile::tempdir_in(&cache).context("a directory for the download")?;
    // apt drops to the user _apt for the download, which must be able to write here.
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777))?;
    run(Command::new("apt-get")
        .args(["download", "-o", "APT::Sandbox::User=root", "docker-registry"])
        .current_dir(scratch.path()))?;
    let package = fs::read_dir(scratch.path())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download docker-registry left no package behind")?;
    let unpacked = scratch.path().join("unpacked");
    run(Command::new("dpkg").arg("-x").arg(package).arg(&unpacked))?;
    // Another process may have been faster; both made the same.
    let target = cache.join("docker-registry");
    match fs::rename(&unpacked, &target) {
        Err(error) if !program.exists() => {
            Err(error).with_context(|| format!("rename to {}", target.display()))
        }
        _ => Ok(program),
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
