//! A configuration written from a template once the node's pod CIDR is known
//! (`UpdateRuntimeConfig`), for nodes where nothing else installs one.
//!
//! The template is a `.conflist` in which these words are replaced:
//!
//! | word | becomes |
//! |---|---|
//! | `{{.PodCIDR}}` | the first CIDR: `198.18.1.0/24` |
//! | `{{.PodCIDRRanges}}` | a range set for each: `[[{"subnet":"198.18.1.0/24"}]]` |
//! | `{{.Routes}}` | a default route for each family: `[{"dst":"0.0.0.0/0"}]` |

use std::fs;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::{Error, Network, NetworkList, Result};

/// The file that is written.
const FILE: &str = "10-berth.conflist";

/// What became of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rendered {
    /// The configuration was written.
    Written(PathBuf),
    /// It was there already, equal to this.
    Unchanged,
    /// No template is configured.
    NoTemplate,
    /// The network is configured by another file, which is left alone.
    Foreign(PathBuf),
}

impl Network {
    /// Writes the configuration for these pod CIDRs (comma-separated, the first family first).
    ///
    /// # Errors
    /// The CIDRs or the template are wrong, or the file cannot be written.
    pub fn set_pod_cidr(&self, cidrs: &str) -> Result<Rendered> {
        let Some(template) = &self.settings.template else { return Ok(Rendered::NoTemplate) };
        let wrong = |problem: String| Error::Config { path: template.clone(), problem };
        let nets = cidrs
            .split(',')
            .map(str::trim)
            .filter(|cidr| !cidr.is_empty())
            .map(|cidr| cidr.parse().map_err(|_| wrong(format!("pod CIDR {cidr:?} is not one"))))
            .collect::<Result<Vec<IpNet>>>()?;
        if nets.is_empty() {
            return Err(wrong("no pod CIDR is given".into()));
        }
        let target = self.settings.conf_dir.join(FILE);
        if let Ok(current) = self.current()
            && current.file != target
        {
            return Ok(Rendered::Foreign(current.file.clone()));
        }
        let source = fs::read_to_string(template).map_err(|e| wrong(e.to_string()))?;
        let text = fill(&source, &nets);
        NetworkList::parse(Path::new(FILE), &text).map_err(|error| match error {
            Error::Config { problem, .. } => wrong(format!("filled in, it is {problem}")),
            other => other,
        })?;
        if fs::read_to_string(&target).is_ok_and(|there| there == text) {
            return Ok(Rendered::Unchanged);
        }
        let dir = &self.settings.conf_dir;
        let temporary = target.with_extension("conflist.new");
        fs::create_dir_all(dir).map_err(|e| Error::cache("create", dir, e))?;
        fs::write(&temporary, text).map_err(|e| Error::cache("write", &temporary, e))?;
        fs::rename(&temporary, &target).map_err(|e| Error::cache("rename to", &target, e))?;
        Ok(Rendered::Written(target))
    }
}

fn fill(template: &str, nets: &[IpNet]) -> String {
    let ranges: Value = nets.iter().map(|net| json!([{"subnet": net}])).collect();
    let mut routes = Vec::new();
    for net in nets {
        let route = match net {
            IpNet::V4(_) => json!({"dst": "0.0.0.0/0"}),
            IpNet::V6(_) => json!({"dst": "::/0"}),
        };
        if !routes.contains(&route) {
            routes.push(route);
        }
    }
    template
        .replace("{{.PodCIDRRanges}}", &ranges.to_string())
        .replace("{{.Routes}}", &Value::Array(routes).to_string())
        .replace("{{.PodCIDR}}", &nets[0].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Deadlines, Settings};

    const TEMPLATE: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "bridge", "ipam": {"type": "host-local",
         "ranges": {{.PodCIDRRanges}}, "routes": {{.Routes}}, "note": "{{.PodCIDR}}"}}]}"#;

    fn network() -> (tempfile::TempDir, Network) {
        let dir = tempfile::tempdir().unwrap();
        let template = dir.path().join("template");
        fs::write(&template, TEMPLATE).unwrap();
        let settings = Settings {
            conf_dir: dir.path().join("net.d"),
            bin_dirs: Vec::new(),
            cache_dir: dir.path().join("cache"),
            env: Vec::new(),
            cgroups: Vec::new(),
            owned: Default::default(),
            template: Some(template),
            deadlines: Deadlines::default(),
        };
        (dir, Network::new(settings))
    }

    #[test]
    fn both_families_are_filled_in() {
        let (dir, network) = network();
        let cidrs = "198.18.1.0/24, 2001:db8::/64";
        let target = dir.path().join("net.d").join(FILE);
        assert_eq!(network.set_pod_cidr(cidrs).unwrap(), Rendered::Written(target.clone()));
        assert_eq!(network.set_pod_cidr(cidrs).unwrap(), Rendered::Unchanged);
        let value: Value = serde_json::from_str(&fs::read_to_string(&target).unwrap()).unwrap();
        let ipam = &value["plugins"][0]["ipam"];
        assert_eq!(
            ipam["ranges"],
            json!([[{"subnet": "198.18.1.0/24"}], [{"subnet": "2001:db8::/64"}]])
        );
        assert_eq!(ipam["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
        assert_eq!(ipam["note"], "198.18.1.0/24");
        assert_eq!(network.current().unwrap().name, "pods");
        assert!(matches!(network.set_pod_cidr("198.18.2.0/24").unwrap(), Rendered::Written(_)));
    }

    #[test]
    fn a_configuration_by_others_is_left_alone() {
        let (dir, network) = network();
        let theirs = dir.path().join("net.d/99-theirs.conflist");
        fs::create_dir(dir.path().join("net.d")).unwrap();
        fs::write(&theirs, r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"}]}"#)
            .unwrap();
        assert_eq!(network.set_pod_cidr("198.18.1.0/24").unwrap(), Rendered::Foreign(theirs));
        assert!(!dir.path().join("net.d").join(FILE).exists());
    }

    #[test]
    fn wrong_input_writes_nothing() {
        let (dir, network) = network();
        for cidrs in ["", "198.18.1.0", "x/24"] {
            assert!(network.set_pod_cidr(cidrs).is_err(), "{cidrs}");
        }
        fs::write(dir.path().join("template"), "{").unwrap();
        let text = network.set_pod_cidr("198.18.1.0/24").unwrap_err().to_string();
        assert!(text.contains("filled in, it is not a JSON object"), "{text}");
        assert!(!dir.path().join("net.d").exists());
    }
}
