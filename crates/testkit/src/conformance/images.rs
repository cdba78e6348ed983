//! Stand-ins for the images that critest names, made of Debian's busybox.
//!
//! What critest asks of them is little: busybox's applets as files of their own, a web server that
//! calls itself nginx, a program that is set-uid, users, and images that differ.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::image::samples::Sample;
use crate::image::{Compression, Image, Layer, Packed, architecture};
use crate::network;

const BUSYBOX: &str = "/bin/busybox";
/// coreutils' `id`: busybox's own gives up what it gained by set-uid.
const ID: &str = "/usr/bin/id";

/// `/etc/passwd` of every image.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    www-data:x:33:33:www-data:/www:/bin/sh\n\
    default-user:x:1000:1000::/:/bin/sh\n\
    nobody:x:65534:65534:nobody:/:/bin/false\n";

/// `/etc/group` of every image: `default-user` also belongs to the group 50000.
const GROUP: &str = "root:x:0:\nwww-data:x:33:\ndefault-user:x:1000:\n\
    group-defined-in-image:x:50000:default-user\nnogroup:x:65534:\n";

/// A web server under the name and with the pid file of nginx; its first argument is there to be
/// seen in /proc, its second is the port.
const NGINX: &str = "#!/bin/sh\n\
    echo $$ > /var/run/nginx.pid\n\
    httpd -f -p $2 -h /www &\n\
    echo \"httpd serves port $2\"\n\
    trap 'kill $!; exit 0' TERM QUIT\n\
    wait\n";

/// The segments of shared memory: their ids alone.
const IPCS: &str = "#!/bin/sh\nwhile read -r key id rest; do echo $id; done < /proc/sysvipc/shm\n";

/// What critest looks for with it is a process by its name.
const PGREP: &str = "#!/bin/sh\nexec pidof \"$@\"\n";

/// What a container does that is asked for nothing: it waits for its end.
const WAIT: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";

const STAGING: &str = "k8s-staging-cri-tools";
const E2E: &str = "e2e-test-images";

/// Every image, by its path in whichever registry.
///
/// # Errors
/// If a program is missing that they are made of; the message says what to install.
pub(super) fn all() -> Result<Vec<Sample>> {
    let base = base()?;
    let plain = |mark: &str| {
        let mark = Layer::new().file("mark", 0o644, mark).pack(Compression::Gzip);
        Image::new(vec![base.clone(), mark])
            .with("Env", json!(["PATH=/bin"]))
            .cmd(&["/bin/sh", "-c", WAIT])
    };
    let named = |path: String, tags: &[&str], image: Image| Sample {
        name: path,
        tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        image,
    };
    let e2e = |name: &str, tag: &str, image| named(format!("{E2E}/{name}"), &[tag], image);
    let staging =
        |name: &str, tags: &[&str], image| named(format!("{STAGING}/{name}"), tags, image);
    let web = |mark: &str, port: &str| plain(mark).cmd(&["/bin/nginx", "master process", port]);
    let mut images = vec![
        e2e("busybox", "1.29-2", plain("busybox").cmd(&["sh"])),
        e2e("nginx", "1.14-2", web("nginx", "80")),
        e2e("httpd", "2.4.39-4", web("httpd", "80")),
        e2e("nonewprivs", "1.3", plain("nonewprivs").cmd(&["/bin/sh", "-c", EFFECTIVE])),
        named("pause".to_owned(), &["3.9"], plain("pause")),
        staging("test-image-tag", &["test"], plain("tag")),
        staging("test-image-tag", &["all"], plain("all")),
        staging("test-image-latest", &["latest"], plain("latest")),
        staging("test-image-tags", &["1", "2", "3"], plain("tags")),
        staging("test-image-predefined-group", &["latest"], plain("group").user("1000")),
        staging(&format!("hostnet-nginx-{}", architecture()), &["latest"], web("hostnet", "12003")),
    ];
    images.push(by_digest(staging("test-image-digest", &[], plain("digest"))));
    for number in ["1", "2", "3"] {
        images.push(staging(&format!("test-image-{number}"), &["latest"], plain(number)));
    }
    for (name, user) in [
        ("uid", "1002"),
        ("username", "www-data"),
        ("uid-group", "1003:1004"),
        ("username-group", "www-data:1004"),
    ] {
        let image = plain(name).user(user);
        images.push(staging(&format!("test-image-user-{name}"), &["latest"], image));
    }
    Ok(images)
}

/// An image that is pushed by its digest alone.
fn by_digest(sample: Sample) -> Sample {
    let digest = sample.image.top().0.digest;
    Sample { tags: vec![digest], ..sample }
}

/// Says whom the kernel takes the program for.
const EFFECTIVE: &str = "echo Effective uid: $(/suid/id -u)";

/// The layer that every image stands on.
fn base() -> Result<Packed> {
    let mut layer = Layer::new();
    let dirs = ["bin", "suid", "etc", "dev", "proc", "sys", "run", "var", "var/run", "www"];
    for path in dirs {
        layer = layer.dir(path, 0o755);
    }
    layer = layer.dir("root", 0o700).dir("tmp", 0o1777);
    layer = applets(layer)?;
    // Debian's static shell runs applets as they are built in, whatever is at their paths; that
    // of the package `busybox` runs files.
    let shell = crate::paths::cache().join("busybox/bin/busybox");
    let shell = shell.to_str().context("a path in UTF-8")?;
    let mut libraries = BTreeSet::new();
    for (path, mode, program) in [("bin/sh", 0o755, shell), ("suid/id", 0o4755, ID)] {
        layer = layer.file(path, mode, read(program)?);
        libraries.extend(needed_by(program)?);
    }
    let mut made = BTreeSet::new();
    for library in &libraries {
        let inside = library.trim_start_matches('/');
        let mut above: Vec<_> = Path::new(inside).ancestors().skip(1).collect();
        above.reverse();
        for dir in above.into_iter().filter_map(Path::to_str).filter(|dir| !dir.is_empty()) {
            if made.insert(dir.to_owned()) {
                layer = layer.dir(dir, 0o755);
            }
        }
        layer = layer.file(inside, 0o755, read(library)?);
    }
    let layer = layer
        .file("bin/nginx", 0o755, NGINX)
        .file("bin/ipcs", 0o755, IPCS)
        .file("bin/pgrep", 0o755, PGREP)
        .file("etc/passwd", 0o644, PASSWD)
        .file("etc/group", 0o644, GROUP)
        .file("www/index.html", 0o644, "a page\n");
    Ok(layer.pack(Compression::Gzip))
}

/// busybox's applets, each a name of the one file: one that is hidden hides no other.
fn applets(layer: Layer) -> Result<Layer> {
    let list = network::run(Command::new(BUSYBOX).arg("--list"), b"")
        .context("busybox's applets: install the package busybox-static")?;
    let list = String::from_utf8(list).context("busybox --list")?;
    let mut layer = layer.file("bin/busybox", 0o755, read(BUSYBOX)?);
    for applet in list.lines().filter(|applet| !["busybox", "sh"].contains(applet)) {
        layer = layer.hard_link(&format!("bin/{applet}"), "bin/busybox");
    }
    Ok(layer)
}

/// The libraries of a program and the loader, by what ldd says.
fn needed_by(program: &str) -> Result<Vec<String>> {
    let said = network::run(Command::new("ldd").arg(program), b"")?;
    let said = String::from_utf8(said).context("what ldd says")?;
    let paths = said.lines().filter_map(|line| {
        line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned)
    });
    Ok(paths.collect())
}

fn read(path: &str) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {path}: `make needs` and `tools/needs busybox`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_needs_the_c_library_and_the_loader() {
        let libraries = needed_by(ID).unwrap();
        let has = |name: &str| libraries.iter().any(|path| path.contains(name));
        assert!(has("/libc.so.") && has("/ld-linux"), "{libraries:?}");
        assert!(libraries.iter().all(|path| Path::new(path).exists()), "{libraries:?}");
    }
}
