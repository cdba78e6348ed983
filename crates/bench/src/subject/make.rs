//! How each subject of this bench's own is set up: same image, same CNI configuration, same OCI
//! runtime, in a node of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use berth_testkit::bed::{busybox, push};
use berth_testkit::config::Config;
use berth_testkit::node::Node;
use serde_json::Value;

use super::bare::Bare;
use super::cri::{CriSubject, Own};
use super::handlers::{Handler, gvisor_shim};
use super::site::{Program, Site};
use super::{Kind, Subject, debian};

/// What all subjects share.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// The OCI runtime's program.
    pub(crate) runtime: PathBuf,
    /// Berth's daemon.
    pub(crate) berth: PathBuf,
    /// More handlers, for those who have any.
    pub(crate) handlers: Vec<Handler>,
}

/// The subjects that this bench can set up by itself.
pub(crate) const OWN: [&str; 3] = ["bare", "berth", "containerd"];

/// Sets up one of [`OWN`] in a node, beside the nodes that there are.
///
/// # Errors
/// If it does not come up.
pub(crate) async fn own(name: &str, parts: &Parts, beside: Option<&Node>) -> Result<Subject> {
    let mut site = Site::make(config(parts)?, beside)?;
    push(&mut site.node, &["busybox"])?;
    let kind = match name {
        "bare" => Kind::Bare(Box::new(bare(site, parts).await?)),
        "berth" => Kind::Cri(Box::new(berth(site, parts).await?)),
        "containerd" => Kind::Cri(Box::new(containerd(site, parts).await?)),
        _ => bail!("no subject is called {name:?}: {OWN:?}, or --socket NAME=PATH"),
    };
    Ok(Subject { name: name.to_owned(), kind })
}

fn config(parts: &Parts) -> Result<Config> {
    let mut text = format!(
        "[log]\nlevel = \"info\"\n[handlers.berth]\nruntime = {:?}\n",
        parts.runtime.display().to_string()
    );
    for handler in &parts.handlers {
        text.push_str(&handler.for_berth()?);
    }
    Ok(Config::default().drop_in("50-bench.toml", &text))
}

/// The environment of a daemon: the PATH of a service.
fn environment(first: &Path) -> BTreeMap<String, String> {
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", first.display());
    [("PATH".to_owned(), path)].into()
}

async fn berth(site: Site, parts: &Parts) -> Result<CriSubject> {
    let args = vec!["serve".to_owned()];
    let env = environment(&berth_testkit::paths::small()?);
    let program = Program { path: parts.berth.clone(), args, env };
    let socket = site.node.config().socket();
    let own = Own::start(site, program)?;
    CriSubject::own(own, socket, &busybox()).await
}

/// The bare commands run what Berth writes for the container of such a pod: one is run first.
async fn bare(site: Site, parts: &Parts) -> Result<Bare> {
    let subject = berth(site, parts).await?;
    let (held, _) = subject.begin(subject.number()?).await?;
    let node = &subject.site().context("a node")?.node;
    let config = format!("/run/berth/bundles/{}/config.json", held.container);
    let config = fs::read(node.path(&config)).with_context(|| format!("read {config}"))?;
    let spec: Value = serde_json::from_slice(&config).context("config.json")?;
    let pid = subject.pid(&held.container).await?.context("the container's pid")?;
    let table = fs::read_to_string(node.path(&format!("/proc/{pid}/mountinfo")))?;
    let lower = lower_layers(&table).context("the layers of a container's overlay")?;
    subject.end(&held, true).await?;
    subject.forget(&[held.number])?;
    Bare::start(subject.into_site()?, spec, lower, parts.runtime.clone())
}

async fn containerd(mut site: Site, parts: &Parts) -> Result<CriSubject> {
    let programs = debian::containerd()?;
    berth_testkit::containerd::push_pause(&mut site.node)?;
    let config = debian::configuration(&site.node, parts)?;
    let path = site.node.disk().join("containerd.toml");
    fs::write(&path, config).with_context(|| format!("write {}", path.display()))?;
    let args = vec!["--config".to_owned(), path.display().to_string()];
    let mut first = programs.display().to_string();
    // It looks for shims on its PATH alone.
    if let Some(shims) = gvisor_shim().as_deref().and_then(Path::parent) {
        first.push_str(&format!(":{}", shims.display()));
    }
    let env = environment(Path::new(&first));
    let program = Program { path: programs.join("containerd"), args, env };
    let own = Own::start(site, program)?;
    CriSubject::own(own, "/run/containerd/containerd.sock", &busybox()).await
}

/// The lower layers of the root mount in a process's mountinfo, the topmost first.
fn lower_layers(table: &str) -> Option<Vec<PathBuf>> {
    let root = table.lines().find(|line| line.split(' ').nth(4) == Some("/"))?;
    let options = root.rsplit(' ').next()?.split(',');
    let mut layers = Vec::new();
    for option in options {
        if let Some(list) = option.strip_prefix("lowerdir=") {
            layers.extend(list.split(':').map(PathBuf::from));
        } else if let Some(one) = option.strip_prefix("lowerdir+=") {
            layers.push(PathBuf::from(one));
        }
    }
    (!layers.is_empty()).then_some(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_found_in_either_notation() {
        let line = |options: &str| {
            format!("20 19 0:31 / / rw,relatime - overlay overlay rw,{options},upperdir=/u\n")
        };
        let both = Some(vec![PathBuf::from("/b"), PathBuf::from("/a")]);
        assert_eq!(lower_layers(&line("lowerdir=/b:/a")), both);
        assert_eq!(lower_layers(&line("lowerdir+=/b,lowerdir+=/a")), both);
        assert_eq!(lower_layers("20 19 8:1 / / rw - ext4 /dev/vda rw\n"), None);
    }
}
