//! A network's configuration, validated, and what each plugin gets of it on stdin.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::attachment::{CapabilityArgs, is_name};
use crate::{Error, Result, Version, version};

/// A validated list of plugins, to be called in order.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkList {
    /// The network's name.
    pub name: String,
    /// The version that its plugins are spoken to in.
    pub version: Version,
    /// The administrator asks for no CHECK.
    pub disable_check: bool,
    /// The administrator asks for no GC.
    pub disable_gc: bool,
    /// Its plugins, never empty.
    pub plugins: Vec<Plugin>,
    /// The file it was read from.
    pub file: PathBuf,
    /// The list as text, to be kept beside each result.
    pub(crate) text: String,
}

/// One plugin of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Plugin {
    /// Its type: the name of its executable.
    pub kind: String,
    /// The capabilities that it declares.
    pub capabilities: BTreeSet<String>,
    object: Map<String, Value>,
}

impl NetworkList {
    /// Parses a `.conflist` (a list), or a `.conf` or `.json` (a single plugin).
    ///
    /// # Errors
    /// The text is no usable configuration; the message says what is wrong with it.
    pub fn parse(file: &Path, text: &str) -> Result<NetworkList> {
        let object = serde_json::from_str(text).map_err(|e| format!("not a JSON object: {e}"));
        let is_list = file.extension().is_some_and(|extension| extension == "conflist");
        object
            .and_then(|object| if is_list { Ok(object) } else { list_of_one(object) })
            .and_then(|object| list(file, object))
            .map_err(|problem| Error::Config { path: file.to_owned(), problem })
    }

    /// Parses the list that was kept beside a result.
    pub(crate) fn parse_kept(entry: &Path, text: &str) -> Result<NetworkList> {
        serde_json::from_str(text)
            .map_err(|e| format!("its configuration is not a JSON object: {e}"))
            .and_then(|object| list(entry, object))
            .map_err(|problem| Error::CacheEntry { path: entry.to_owned(), problem })
    }

    /// What `plugin` reads on stdin.
    pub(crate) fn stdin(
        &self,
        plugin: &Plugin,
        capability_args: &CapabilityArgs,
        prev_result: Option<&Value>,
    ) -> Vec<u8> {
        let mut object = plugin.object.clone();
        object.insert("name".into(), json!(self.name));
        object.insert("cniVersion".into(), json!(self.version.as_str()));
        let told: Map<String, Value> = capability_args
            .iter()
            .filter(|(name, _)| plugin.capabilities.contains(*name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !told.is_empty() {
            object.insert("runtimeConfig".into(), Value::Object(told));
        }
        if let Some(result) = prev_result {
            object.insert("prevResult".into(), result.clone());
        }
        Value::Object(object).to_string().into_bytes()
    }

    /// What `plugin` reads on stdin for GC: the attachments that are still wanted.
    pub(crate) fn gc_stdin(&self, plugin: &Plugin, valid: &Value) -> Vec<u8> {
        let mut object = plugin.object.clone();
        object.insert("name".into(), json!(self.name));
        object.insert("cniVersion".into(), json!(self.version.as_str()));
        object.insert("cni.dev/valid-attachments".into(), valid.clone());
        // The name that libcni used before the specification settled; plugins read either.
        object.insert("cni.dev/attachments".into(), valid.clone());
        Value::Object(object).to_string().into_bytes()
    }
}

type Parsed<T> = std::result::Result<T, String>;

fn list_of_one(object: Map<String, Value>) -> Parsed<Map<String, Value>> {
    if !object.contains_key("type") {
        let hint =
            if object.contains_key("plugins") { "; it is a list: name it .conflist" } else { "" };
        return Err(format!("no \"type\"{hint}"));
    }
    let mut list = Map::new();
    for key in ["name", "cniVersion", "cniVersions"] {
        if let Some(value) = object.get(key) {
            list.insert(key.into(), value.clone());
        }
    }
    list.insert("plugins".into(), Value::Array(vec![Value::Object(object)]));
    Ok(list)
}

fn list(file: &Path, object: Map<String, Value>) -> Parsed<NetworkList> {
    let name = string(&object, "name")?.ok_or("no \"name\"")?;
    if !is_name(name) {
        return Err(format!(
            "name {name:?} must start with a letter or digit and hold only those and `_.-`"
        ));
    }
    let Some(Value::Array(entries)) = object.get("plugins") else {
        return Err("\"plugins\" is not a list".into());
    };
    if entries.is_empty() {
        return Err("\"plugins\" is empty".into());
    }
    let plugins = entries.iter().enumerate().map(|(at, entry)| {
        plugin(entry).map_err(|problem| format!("plugin {} of the list: {problem}", at + 1))
    });
    Ok(NetworkList {
        name: name.to_owned(),
        version: chosen_version(&object)?,
        disable_check: flag(&object, "disableCheck")?,
        disable_gc: flag(&object, "disableGC")?,
        plugins: plugins.collect::<Parsed<_>>()?,
        file: file.to_owned(),
        text: Value::Object(object).to_string(),
    })
}

fn plugin(entry: &Value) -> Parsed<Plugin> {
    let object = entry.as_object().ok_or("not an object")?;
    let kind = string(object, "type")?.ok_or("no \"type\"")?;
    if kind.is_empty() || kind.contains(['/', '\0']) || kind == "." || kind == ".." {
        return Err(format!("type {kind:?} is not the name of an executable"));
    }
    let capabilities = match object.get("capabilities") {
        None | Some(Value::Null) => BTreeSet::new(),
        Some(Value::Object(declared)) => declared
            .iter()
            .filter(|(_, value)| **value == Value::Bool(true))
            .map(|(name, _)| name.clone())
            .collect(),
        Some(_) => return Err("\"capabilities\" is not an object".into()),
    };
    Ok(Plugin { kind: kind.to_owned(), capabilities, object: object.clone() })
}

/// The newest version that both the list and Berth know (spec 1.1: `cniVersions` beside
/// `cniVersion`, which must then be one of them).
fn chosen_version(object: &Map<String, Value>) -> Parsed<Version> {
    let one = string(object, "cniVersion")?;
    let several: Vec<&str> = match object.get("cniVersions") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().ok_or("\"cniVersions\" has an entry that is no string"))
            .collect::<std::result::Result<_, _>>()?,
        Some(_) => return Err("\"cniVersions\" is not a list".into()),
    };
    let offered = match one {
        Some(one) if several.is_empty() => vec![one],
        Some(one) if !several.contains(&one) => {
            return Err(format!("cniVersion {one:?} is not among its cniVersions"));
        }
        None if several.is_empty() => return Err("no \"cniVersion\"".into()),
        _ => several,
    };
    offered.iter().filter_map(|text| Version::parse(text)).max().ok_or_else(|| {
        format!("version {} is not among those spoken: {}", offered.join(", "), version::spoken())
    })
}

fn string<'a>(object: &'a Map<String, Value>, key: &str) -> Parsed<Option<&'a str>> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{key:?} is not a string")),
    }
}

/// libcni takes these flags as strings too, since administrators write them so.
fn flag(object: &Map<String, Value>, key: &str) -> Parsed<bool> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) => {
            text.to_ascii_lowercase().parse().map_err(|_| format!("{key:?} is not a boolean"))
        }
        Some(_) => Err(format!("{key:?} is not a boolean")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(file: &str, text: &str) -> String {
        match NetworkList::parse(Path::new(file), text) {
            Err(Error::Config { path, problem }) => {
                assert_eq!(path, Path::new(file));
                problem
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    const LIST: &str = r#"{
        "cniVersion": "1.0.0", "name": "net", "disableCheck": "true",
        "plugins": [
            {"type": "bridge", "ipam": {"type": "host-local"}},
            {"type": "portmap", "capabilities": {"portMappings": true, "bandwidth": false}}
        ]}"#;

    #[test]
    fn a_list_is_read_in_order() {
        let list = NetworkList::parse(Path::new("10-net.conflist"), LIST).unwrap();
        assert_eq!((list.name.as_str(), list.version), ("net", Version::V1_0_0));
        assert!(list.disable_check && !list.disable_gc);
        let kinds: Vec<_> = list.plugins.iter().map(|p| p.kind.as_str()).collect();
        assert_eq!(kinds, ["bridge", "portmap"]);
        assert_eq!(list.plugins[1].capabilities.len(), 1);
        let kept = NetworkList::parse_kept(Path::new("10-net.conflist"), &list.text).unwrap();
        assert_eq!(kept, list);
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let text = r#"{"cniVersion": "0.4.0", "name": "one", "type": "bridge", "mtu": 1400}"#;
        let list = NetworkList::parse(Path::new("a.conf"), text).unwrap();
        assert_eq!((list.plugins.len(), list.version), (1, Version::V0_4_0));
        let kept = NetworkList::parse_kept(Path::new("a.conf"), &list.text).unwrap();
        assert_eq!(kept, list);
    }

    #[test]
    fn the_newest_common_version_is_chosen() {
        let with = |versions: &str| {
            let text = format!(r#"{{{versions}, "name": "n", "plugins": [{{"type": "a"}}]}}"#);
            NetworkList::parse(Path::new("a.conflist"), &text).map(|list| list.version)
        };
        let several = r#""cniVersions": ["1.0.0", "0.4.0", "7.0.0"]"#;
        assert_eq!(with(several).unwrap(), Version::V1_0_0);
        let both = r#""cniVersion": "0.4.0", "cniVersions": ["0.4.0", "1.1.0"]"#;
        assert_eq!(with(both).unwrap(), Version::V1_1_0);
        assert!(with(r#""cniVersion": "0.3.1", "cniVersions": ["1.1.0"]"#).is_err());
        assert!(with(r#""cniVersion": "0.2.0""#).is_err());
    }

    #[test]
    fn each_mistake_is_named() {
        for (file, text, wanted) in [
            ("a.conflist", "{", "not a JSON object"),
            ("a.conflist", "[]", "not a JSON object"),
            ("a.conflist", r#"{"cniVersion":"1.0.0","plugins":[]}"#, "no \"name\""),
            ("a.conflist", r#"{"cniVersion":"1.0.0","name":"../x","plugins":[]}"#, "must start"),
            ("a.conflist", r#"{"cniVersion":"1.0.0","name":"x"}"#, "\"plugins\" is not a list"),
            ("a.conflist", r#"{"cniVersion":"1.0.0","name":"x","plugins":[]}"#, "is empty"),
            ("a.conflist", r#"{"name":"x","plugins":[{"type":"a"}]}"#, "no \"cniVersion\""),
            (
                "a.conflist",
                r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"a"},{}]}"#,
                "plugin 2 of the list: no \"type\"",
            ),
            (
                "a.conflist",
                r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"../../bin/sh"}]}"#,
                "is not the name of an executable",
            ),
            (
                "a.conflist",
                r#"{"cniVersion":"9.9.9","name":"x","plugins":[{"type":"a"}]}"#,
                "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0",
            ),
            ("a.conf", r#"{"cniVersion":"1.0.0","name":"x","plugins":[]}"#, "name it .conflist"),
        ] {
            let got = problem(file, text);
            assert!(got.contains(wanted), "{text}: {got}");
        }
    }

    #[test]
    fn a_plugin_is_told_what_it_declares_and_nothing_else() {
        let list = NetworkList::parse(Path::new("a.conflist"), LIST).unwrap();
        let args = CapabilityArgs::from([
            ("portMappings".into(), json!([1])),
            ("bandwidth".into(), json!({"ingressRate": 1})),
        ]);
        let stdin = |at: usize, prev: Option<&Value>| -> Value {
            serde_json::from_slice(&list.stdin(&list.plugins[at], &args, prev)).unwrap()
        };
        let first = stdin(0, None);
        assert_eq!(
            first,
            json!({"type": "bridge", "ipam": {"type": "host-local"}, "name": "net",
                   "cniVersion": "1.0.0"})
        );
        let second = stdin(1, Some(&json!({"ips": []})));
        assert_eq!(second["runtimeConfig"], json!({"portMappings": [1]}));
        assert_eq!(second["prevResult"], json!({"ips": []}));
    }
}
