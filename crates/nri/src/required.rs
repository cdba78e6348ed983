//! Plugins without which a container is not created.

use std::collections::BTreeMap;

use crate::{Error, Settings};

/// The annotation by which a pod names plugins that its containers need.
const ANNOTATION: &str = "required-plugins.noderesource.dev";

/// The annotation's value for this container: for it alone, for the pod, or without saying for what.
fn effective<'a>(
    annotations: &'a BTreeMap<String, String>,
    key: &str,
    container: &str,
) -> Option<(String, &'a String)> {
    let keys = [format!("{key}/container.{container}"), format!("{key}/pod"), key.to_owned()];
    keys.into_iter().find_map(|key| annotations.get(&key).map(|value| (key, value)))
}

/// Could a container of a pod with these annotations need a plugin? Quicker than to ask for each.
pub(crate) fn may_need(settings: &Settings, annotations: &BTreeMap<String, String>) -> bool {
    !settings.required.is_empty() || annotations.keys().any(|key| key.starts_with(ANNOTATION))
}

/// Is every plugin there that this container needs? `plugins` are pairs of index and name.
///
/// # Errors
/// One is missing, or an annotation cannot be read.
pub(crate) fn check(
    settings: &Settings,
    annotations: &BTreeMap<String, String>,
    container: &str,
    plugins: &[(&str, &str)],
) -> Result<(), Error> {
    let asked = effective(annotations, ANNOTATION, container);
    if settings.required.is_empty() && asked.is_none() {
        return Ok(());
    }
    let unreadable = |key: &str, value: &str, why: &str| Error::Annotation {
        key: key.to_owned(),
        value: value.to_owned(),
        why: why.to_owned(),
    };
    if !settings.tolerate.is_empty()
        && let Some((key, value)) = effective(annotations, &settings.tolerate, container)
    {
        match value.as_str() {
            "true" => return Ok(()),
            "false" => {}
            _ => return Err(unreadable(&key, value, "must be \"true\" or \"false\"")),
        }
    }
    let of_pod: Vec<String> = match &asked {
        None => Vec::new(),
        Some((key, value)) => names(value).ok_or_else(|| {
            unreadable(key, value, "must be a list of names, such as [\"a\", \"b\"]")
        })?,
    };
    let there = |wanted: &&String| {
        plugins.iter().any(|(index, name)| {
            wanted == name || wanted.split_once('-').is_some_and(|(i, n)| i == *index && n == *name)
        })
    };
    let required = settings.required.iter().chain(&of_pod);
    let missing: Vec<&str> = required.filter(|one| !there(one)).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let advice = match asked {
        Some((key, _)) => {
            format!("take them out of the pod's annotation {key} and of nri.required")
        }
        None => "take them out of nri.required".to_owned(),
    };
    Err(Error::Missing { missing: missing.join(", "), advice })
}

/// A list of names as JSON or YAML write one, in one line or with a line for each.
fn names(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    let flow = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let items: Vec<&str> = match flow {
        Some(inside) if inside.trim().is_empty() => Vec::new(),
        Some(inside) => inside.trim_end().trim_end_matches(',').split(',').collect(),
        None => text.lines().map(|line| line.trim().strip_prefix("- ")).collect::<Option<_>>()?,
    };
    items.into_iter().map(|item| name(item.trim())).collect()
}

/// A name, with quotes or without: nothing in it needs to be quoted.
fn name(item: &str) -> Option<String> {
    let quoted = ['"', '\''].into_iter().find_map(|q| item.strip_prefix(q)?.strip_suffix(q));
    let name = quoted.unwrap_or(item);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    (!name.is_empty() && name.bytes().all(plain)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_listed_in_one_line_or_in_several() {
        let two = vec!["a".to_owned(), "10-b.c".to_owned()];
        for text in ["[\"a\", \"10-b.c\"]", "['a',10-b.c]", "[a, 10-b.c,]", "- a\n- \"10-b.c\"\n"] {
            assert_eq!(names(text).as_ref(), Some(&two), "{text}");
        }
        for text in ["", " [ ] "] {
            assert_eq!(names(text), Some(Vec::new()), "{text:?}");
        }
        for text in ["a", "a, b", "[a", "[a,,b]", "[[a]]", "[{a: b}]", "-a", "- a b", "- 'a", "- "]
        {
            assert_eq!(names(text), None, "{text:?}");
        }
    }
    use std::time::Duration;

    fn settings(required: &[&str], tolerate: &str) -> Settings {
        Settings {
            runtime: ("berth".into(), "1".into()),
            socket: None,
            plugins: "/nonexistent".into(),
            configs: "/nonexistent".into(),
            cgroups: Vec::new(),
            registration: Duration::from_secs(1),
            request: Duration::from_secs(1),
            required: required.iter().map(|&name| name.to_owned()).collect(),
            tolerate: tolerate.into(),
        }
    }

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_plugin_is_required_by_the_node_or_by_the_pod() {
        let there = [("10", "a"), ("20", "b-c")];
        let ask = |required: &[&str], pairs: &[(&str, &str)]| {
            check(&settings(required, ""), &annotations(pairs), "web", &there)
        };
        ask(&[], &[]).unwrap();
        ask(&["a", "20-b-c", "b-c"], &[]).unwrap();
        let why = ask(&["a", "10-b-c", "x"], &[]).unwrap_err().to_string();
        assert!(why.contains("10-b-c, x"), "{why}");
        ask(&[], &[(ANNOTATION, "[ \"a\", b-c ]")]).unwrap();
        ask(&[], &[(ANNOTATION, "- a\n- b-c\n")]).unwrap();
        let why = ask(&[], &[(ANNOTATION, "[x]")]).unwrap_err();
        assert!(why.to_string().contains("required are not connected: x"), "{why}");
        assert_eq!(why.kind(), crate::Kind::Unavailable);
        let why = ask(&[], &[(ANNOTATION, "{")]).unwrap_err();
        assert_eq!(why.kind(), crate::Kind::Invalid);
    }

    #[test]
    fn what_is_said_of_the_container_comes_before_what_is_said_of_the_pod() {
        let own = format!("{ANNOTATION}/container.web");
        let pairs = [(own.as_str(), "[a]"), (ANNOTATION, "[x]")];
        check(&settings(&[], ""), &annotations(&pairs), "web", &[("10", "a")]).unwrap();
        check(&settings(&[], ""), &annotations(&pairs), "other", &[("10", "a")]).unwrap_err();
    }

    #[test]
    fn a_pod_may_do_without() {
        let ask = |value: &str| {
            let pairs = annotations(&[("tolerate.example.org/pod", value)]);
            check(&settings(&["x"], "tolerate.example.org"), &pairs, "web", &[])
        };
        ask("true").unwrap();
        ask("false").unwrap_err();
        assert!(matches!(ask("perhaps"), Err(Error::Annotation { .. })));
    }
}
