//! What is installed on this node, offered under the names that RuntimeClasses use for it.
//!
//! | found | offered as |
//! |---|---|
//! | `crun`, `runc`, `youki` | the same name, by Berth's own shim |
//! | `runsc` | `runsc` and `gvisor`, by Berth's own shim |
//! | `containerd-shim-X-vN` | `X-vN`; and as `X` where nothing above has that name |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::{Config, HandlerConfig, OUR_SHIM, is_handler_name, shim_name};
use crate::find;

/// OCI runtimes that Berth's own shim can drive, and the handlers that they become.
const RUNTIMES: [(&str, &[&str]); 4] = [
    ("crun", &["crun"]),
    ("runc", &["runc"]),
    ("youki", &["youki"]),
    ("runsc", &["runsc", "gvisor"]),
];

/// Every handler that is found in these directories; of two programs of one name the first counts.
pub(super) fn handlers(
    config: &Config,
    directories: &[PathBuf],
) -> BTreeMap<String, HandlerConfig> {
    let mut found = BTreeMap::new();
    for (runtime, names) in RUNTIMES {
        let Some(path) = find::search(runtime, directories.iter().cloned()) else { continue };
        for name in names {
            let root = config.state.join("oci").join(runtime);
            let handler = HandlerConfig {
                runtime: Some(path.display().to_string()),
                ..HandlerConfig::plain(our_shim(config), root)
            };
            found.insert((*name).to_owned(), handler);
        }
    }
    let mut short = BTreeMap::new();
    for ((name, version), path) in shims(directories) {
        let handler =
            HandlerConfig::plain(path.display().to_string(), config.state.join("oci").join(&name));
        found.insert(format!("{name}-v{version}"), handler.clone());
        // In the order of versions: the newest stays.
        short.insert(name, handler);
    }
    for (name, handler) in short {
        found.entry(name).or_insert(handler);
    }
    found
}

/// The default handler's, where that is ours: an operator may have it in another place.
fn our_shim(config: &Config) -> String {
    let default = config.handlers.get(&config.pods.default_handler).map(|handler| &handler.shim);
    let ours = default.filter(|shim| shim_name(shim).is_some_and(|(name, _)| name == "berth"));
    ours.cloned().unwrap_or_else(|| OUR_SHIM.to_owned())
}

/// Shims by others: name and version, and the program.
fn shims(directories: &[PathBuf]) -> BTreeMap<(String, u32), PathBuf> {
    let mut shims = BTreeMap::new();
    let entries = directories.iter().flat_map(|directory| std::fs::read_dir(directory).ok());
    for path in entries.flatten().flatten().map(|entry| entry.path()) {
        if let Some(named) = named(&path)
            && find::executable(&path)
        {
            shims.entry(named).or_insert(path);
        }
    }
    shims
}

fn named(path: &Path) -> Option<(String, u32)> {
    let (name, version) = shim_name(path.to_str()?)?;
    let version = version.strip_prefix('v')?.parse().ok()?;
    // As its handler's name it must be one.
    let fits = is_handler_name(&format!("{name}-v{version}"));
    (fits && name != "berth").then(|| (name.to_owned(), version))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::default_config;

    #[test]
    fn what_is_installed_is_offered_under_its_usual_names() {
        let temp = tempfile::tempdir().unwrap();
        let directories = ["first", "second", "absent"].map(|name| temp.path().join(name));
        let put = |directory: usize, name: &str, mode: u32| {
            std::fs::create_dir_all(&directories[directory]).unwrap();
            let path = directories[directory].join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        for name in ["runc", "runsc", "containerd-shim-runc-v2", "containerd-shim-kata-v1"] {
            put(0, name, 0o755);
        }
        for name in ["runc", "containerd-shim-kata-v2", "containerd-shim-berth-v1"] {
            put(1, name, 0o755);
        }
        put(1, "crun", 0o644);
        put(1, "containerd-shim-Odd_Name-v1", 0o755);
        put(1, "containerd-shim-odd-vX", 0o755);
        put(1, "containerd-shim", 0o755);
        let found = handlers(&default_config(), &directories);
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["gvisor", "kata", "kata-v1", "kata-v2", "runc", "runc-v2", "runsc"]);
        let in_first = |name: &str| directories[0].join(name).display().to_string();
        assert_eq!(found["runc"].runtime, Some(in_first("runc")));
        assert_eq!(found["runc"].shim, OUR_SHIM);
        assert_eq!(found["runc-v2"].shim, in_first("containerd-shim-runc-v2"));
        assert_eq!(found["gvisor"], found["runsc"]);
        assert_eq!(found["kata"], found["kata-v2"]);
    }
}
