//! The images that the tests run. All but `wasm` stand on Debian's `busybox-static`, whose shell
//! runs applets without exec.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{Compression, Image, Layer, ManifestKind, Packed};

const BUSYBOX: &str = "/bin/busybox";

/// The programs of the image `wasm`.
const MODULE: &str = include_str!("program.wat");
const COMPONENT: &str = include_str!("component.wat");

/// `/etc/passwd` of the base image.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    www-data:x:33:33:www-data:/www:/bin/sh\n\
    default-user:x:1000:1000::/home/default-user:/bin/sh\n\
    nobody:x:65534:65534:nobody:/:/bin/false\n";

/// `/etc/group` of the base image: `default-user` also belongs to the group 50000.
const GROUP: &str = "root:x:0:\nwww-data:x:33:\ndefault-user:x:1000:\n\
    group-defined-in-image:x:50000:default-user\nnogroup:x:65534:\n";

/// The bottom layer of every sample: busybox, its applets, users, the usual directories.
///
/// # Errors
/// If Debian's `busybox-static` is not installed.
pub fn base_layer() -> Result<Packed> {
    let program = std::fs::read(BUSYBOX)
        .with_context(|| format!("{BUSYBOX} is missing: install the package busybox-static"))?;
    let applets = Command::new(BUSYBOX).arg("--list").output().context("busybox --list")?;
    let mut layer = Layer::new();
    for (path, mode) in
        [("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("home", 0o755)]
    {
        layer = layer.dir(path, mode);
    }
    for path in ["dev", "proc", "sys", "run", "var", "var/run", "www"] {
        layer = layer.dir(path, 0o755);
    }
    layer = layer
        .owned(1000, 1000)
        .dir("home/default-user", 0o755)
        .file("bin/busybox", 0o755, program)
        .file("etc/passwd", 0o644, PASSWD)
        .file("etc/group", 0o644, GROUP)
        .file("www/index.html", 0o644, "hello from berth\n");
    for applet in String::from_utf8_lossy(&applets.stdout).lines() {
        if applet != "busybox" {
            layer = layer.symlink(&format!("bin/{applet}"), "busybox");
        }
    }
    Ok(layer.pack(Compression::Gzip))
}

/// A sample and the tags of `testing/<name>` that point to it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The repository's name.
    pub name: String,
    /// The tags.
    pub tags: Vec<String>,
    /// The image.
    pub image: Image,
}

impl Sample {
    fn new(name: &str, tags: &[&str], image: Image) -> Self {
        let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        let path = [("PATH", "/bin")].map(|(key, value)| format!("{key}={value}"));
        Self { name: format!("testing/{name}"), tags, image: image.with("Env", json!(path)) }
    }
}

/// Every sample.
///
/// # Errors
/// If Debian's `busybox-static` is not installed.
pub fn all() -> Result<Vec<Sample>> {
    let base = base_layer()?;
    let plain = || Image::new(vec![base.clone()]).cmd(&["sh"]);
    let differs = |text: &str| {
        let top = Layer::new().file("differs", 0o644, text).pack(Compression::Gzip);
        Image::new(vec![base.clone(), top]).cmd(&["sh"])
    };
    let mut samples = vec![
        Sample::new("busybox", &["latest"], plain()),
        Sample::new("web", &["latest"], web(&base)),
        Sample::new("layers", &["latest"], layers(&base)),
        Sample::new("xattr", &["latest"], xattr(&base)),
        Sample::new("index", &["latest"], plain().published_as(ManifestKind::Index)),
        Sample::new("docker", &["latest"], plain().published_as(ManifestKind::Docker)),
        Sample::new("tags", &["1", "2", "3"], differs("tags")),
        Sample::new("differs", &["a"], differs("a")),
        Sample::new("differs", &["b"], differs("b")),
        Sample::new("volume", &["latest"], volume(&base)),
        Sample::new("content", &["latest"], content()),
        Sample::new("wasm", &["latest"], wasm()?),
        Sample::new("signal", &["latest"], plain().with("StopSignal", json!("SIGUSR1"))),
    ];
    for (tag, user) in [
        ("uid", "1002"),
        ("name", "www-data"),
        ("uid-gid", "1003:1004"),
        ("name-gid", "www-data:1004"),
        ("grouped", "default-user"),
        ("unknown", "nobody-here"),
    ] {
        samples.push(Sample::new("user", &[tag], plain().user(user)));
    }
    Ok(samples)
}

/// One sample by `name` and tag, as `busybox` or `differs:b`.
///
/// # Errors
/// If there is none of that name, or `busybox-static` is missing.
pub fn one(name: &str) -> Result<Sample> {
    let (name, tag) = name.split_once(':').unwrap_or((name, ""));
    let full = format!("testing/{name}");
    let found = all()?.into_iter().find(|sample| {
        sample.name == full && (tag.is_empty() || sample.tags.iter().any(|own| own == tag))
    });
    match found {
        Some(sample) => Ok(sample),
        None => bail!("no sample image is called {name:?} with the tag {tag:?}"),
    }
}

/// A module and a component, and nothing else that could be run.
fn wasm() -> Result<Image> {
    let module = wat::parse_str(MODULE).context("program.wat")?;
    let component = wat::parse_str(COMPONENT).context("component.wat")?;
    let layer = Layer::new()
        .dir("etc", 0o755)
        .file("program.wasm", 0o644, module)
        .file("component.wasm", 0o644, component)
        .file("hello", 0o644, "hello from the image\n");
    Ok(Image::new(vec![layer.pack(Compression::Gzip)])
        .with("Entrypoint", json!(["/program.wasm"]))
        .cmd(&["args"]))
}

fn web(base: &Packed) -> Image {
    Image::new(vec![base.clone()])
        .cmd(&["httpd", "-f", "-p", "80", "-h", "/www"])
        .with("ExposedPorts", json!({"80/tcp": {}}))
}

fn volume(base: &Packed) -> Image {
    let data = Layer::new()
        .owned(1000, 1000)
        .dir("data", 0o750)
        .file("data/seed", 0o644, "seed\n")
        .pack(Compression::Gzip);
    Image::new(vec![base.clone(), data]).cmd(&["sh"]).with("Volumes", json!({"/data": {}}))
}

/// Files and no program of use: what an image volume shows. Some links lead out of it.
fn content() -> Image {
    let lower = Layer::new()
        .dir("data", 0o755)
        .file("data/text", 0o644, "lower")
        .file("data/gone", 0o644, "gone")
        .file("data/run", 0o755, "#!/bin/sh\necho ran\n")
        .symlink("absolute", "/data/inner")
        .symlink("climbing", "../../../../data")
        .symlink("escape", "/etc")
        .owned(1000, 1000)
        .dir("data/inner", 0o750)
        .file("data/inner/deep", 0o644, "deep")
        .pack(Compression::Gzip);
    let upper = Layer::new()
        .file("data/text", 0o644, "upper")
        .whiteout("data/gone")
        .pack(Compression::Gzip);
    Image::new(vec![lower, upper])
}

/// Extended attributes are bytes: capabilities hold zeros, and newlines.
fn xattr(base: &Packed) -> Image {
    let top = Layer::new()
        .xattr("user.binary", b"a\nb\0c")
        .file("xattr", 0o644, "x")
        .pack(Compression::Gzip);
    Image::new(vec![base.clone(), top]).cmd(&["sh"])
}

/// Three layers in three compressions that replace, hide, link and decorate one another.
fn layers(base: &Packed) -> Image {
    let lower = Layer::new()
        .dir("t", 0o755)
        .file("t/kept", 0o644, "kept")
        .file("t/gone", 0o644, "gone")
        .file("t/replaced", 0o644, "old")
        .dir("t/opaque", 0o755)
        .file("t/opaque/old", 0o644, "old")
        .owned(12, 34)
        .dir("t/implied", 0o2750)
        .dir("t/gone-dir", 0o755)
        .file("t/gone-dir/inside", 0o644, "gone")
        .file("t/linked", 0o644, "linked")
        .hard_link("t/linked-too", "t/linked")
        .pack(Compression::Plain);
    let middle = Layer::new()
        .whiteout("t/gone")
        .whiteout("t/gone-dir")
        .file("t/replaced", 0o600, "new")
        .dir("t/opaque", 0o700)
        .opaque("t/opaque")
        .file("t/opaque/new", 0o644, "new")
        // No entry for t/implied: its owner and mode come from below.
        .file("t/implied/file", 0o644, "x")
        .pack(Compression::Zstd);
    let top = Layer::new()
        .xattr("user.colour", b"blue")
        .owned(1000, 50000)
        .file("t/xattr", 0o4755, "x")
        .symlink("t/symlink", "kept")
        .fifo("t/fifo", 0o600)
        .device("t/null", 1, 3)
        .pack(Compression::Gzip);
    Image::new(vec![base.clone(), lower, middle, top]).cmd(&["sh"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_an_id_of_its_own_but_those_that_are_the_same_image() {
        let samples = all().unwrap();
        let mut ids: Vec<_> = samples
            .iter()
            .filter(|sample| !["testing/index", "testing/docker"].contains(&&*sample.name))
            .map(|sample| sample.image.id())
            .collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), samples.len() - 2);
        assert!(one("differs:b").is_ok());
        assert!(one("differs:c").is_err());
    }
}
