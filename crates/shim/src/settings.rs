//! `runtimeoptions.v1.Options`, by which daemons configure shims whose own options they do not know:
//! settings as text, or the path of a file of them.
//!
//! ```text
//!  BinaryName = "/usr/sbin/runc"
//!  Root = "/run/berth/oci/runc"
//!  SystemdCgroup = true
//! ```
//!
//! The names are those of the options of containerd's own shim. Of TOML, which this is a part of,
//! daemons write no more than one value a line here.

use berth_proto::runtime_options::Options;

use crate::runtime::TaskOptions;

/// A configuration file is not longer than this, in bytes.
const MOST: u64 = 64 * 1024;

/// Reads the settings; `None` if there are none.
pub(crate) fn read(options: &Options) -> Result<Option<TaskOptions>, String> {
    if !options.config_body.is_empty() {
        let text = str::from_utf8(&options.config_body).map_err(|e| e.to_string())?;
        return parse(text).map(Some);
    }
    if options.config_path.is_empty() {
        return Ok(None);
    }
    let path = &options.config_path;
    let read = || -> std::io::Result<String> {
        use std::io::Read as _;
        let mut text = String::new();
        std::fs::File::open(path)?.take(MOST).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|e| format!("cannot read {path}: {e}"))?;
    parse(&text).map(Some).map_err(|e| format!("{path}: {e}"))
}

fn parse(text: &str) -> Result<TaskOptions, String> {
    let mut settings = TaskOptions::default();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or_else(|| wrong(line))?;
        let value = value.trim();
        match name.trim() {
            "BinaryName" => settings.binary = string(value)?,
            "Root" => settings.root = string(value)?,
            "SystemdCgroup" => settings.systemd_cgroup = value.parse().map_err(|_| wrong(line))?,
            // Where this text itself comes from.
            "TypeUrl" | "ConfigPath" => {}
            _ => return Err(wrong(line)),
        }
    }
    Ok(settings)
}

/// A value in quotes of either kind.
fn string(value: &str) -> Result<String, String> {
    let within = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    let found = within('"').filter(|text| !text.contains('\\')).or_else(|| within('\''));
    let found = found.filter(|text| !text.contains(['"', '\'']));
    found.map(str::to_owned).ok_or_else(|| wrong(value))
}

fn wrong(what: &str) -> String {
    format!(
        "{what:?} is none of BinaryName = \"...\", Root = \"...\" and SystemdCgroup = true, one a line"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &str, path: &str) -> Result<Option<TaskOptions>, String> {
        let (config_body, config_path) = (body.into(), path.to_owned());
        read(&Options { config_body, config_path, ..Default::default() })
    }

    #[test]
    fn settings_are_read_from_the_message_or_from_a_file() {
        let text = "# mine\nBinaryName = '/usr/sbin/runc'\nTypeUrl = ''\n\nRoot = \"/r\"\nSystemdCgroup = true\n";
        let wanted = TaskOptions {
            binary: "/usr/sbin/runc".to_owned(),
            root: "/r".to_owned(),
            systemd_cgroup: true,
        };
        assert_eq!(of(text, "").unwrap().as_ref(), Some(&wanted));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().display().to_string();
        assert_eq!(of("", &path).unwrap().as_ref(), Some(&wanted));
        assert_eq!(of("", "").unwrap(), None);
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for text in ["BinaryName", "Binary = \"x\"", "BinaryName = x", "Root = \"a", "[runtime]"] {
            assert!(of(text, "").unwrap_err().contains("is none of"), "{text}");
        }
        for text in ["BinaryName = \"a\\tb\"", "SystemdCgroup = 1", "Root = \"a\" \"b\""] {
            assert!(of(text, "").unwrap_err().contains("is none of"), "{text}");
        }
        assert!(of("", "/no/such/file").unwrap_err().contains("/no/such/file"));
    }
}
