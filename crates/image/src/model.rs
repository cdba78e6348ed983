//! Random layers against a model of what the specification says that they mean.
//!
//! The model keeps one tree and applies layer after layer to it. The real thing unpacks each layer
//! for itself and is looked at through the stack. Both must show the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::FileType;

use crate::apply::apply;
use crate::confined::Name;
use crate::settle::settle;
use crate::stack::{Node, Stack};

#[derive(Clone, Debug)]
enum Entry {
    File(String, u32),
    Dir(String, u32),
    Whiteout(String),
    Opaque(String),
    Symlink(String, String),
    HardLink(String, String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    File(u32),
    Dir(u32),
}

const DEFAULT_MODE: u32 = 0o755;

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..=3)
        .prop_map(|parts| parts.join("/"))
}

fn mode() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0o700, 0o711, 0o750, 0o4755])
}

fn plain() -> impl Strategy<Value = Entry> {
    prop_oneof![
        3 => (path(), mode()).prop_map(|(path, mode)| Entry::File(path, mode)),
        3 => (path(), mode()).prop_map(|(path, mode)| Entry::Dir(path, mode)),
        1 => path().prop_map(Entry::Whiteout),
        1 => prop_oneof![Just(String::new()), path()].prop_map(Entry::Opaque),
    ]
}

fn wicked() -> impl Strategy<Value = Entry> {
    let target = prop::sample::select(vec![
        "/",
        "..",
        "../..",
        "../../../../..",
        "../../out",
        "/out",
        "a",
        "b",
        "c/a",
        ".",
        "/a/../b",
        "/proc/self/root",
        "a/../../out",
    ]);
    let name = prop_oneof![
        4 => path(),
        1 => path().prop_map(|path| format!("{path}/../../out")),
        1 => path().prop_map(|path| format!("{path}/out/secret")),
    ];
    let link = (name.clone(), target.clone());
    prop_oneof![
        3 => link.clone().prop_map(|(name, target)| Entry::Symlink(name, target.to_owned())),
        1 => link.prop_map(|(name, target)| Entry::HardLink(name, format!("{target}/secret"))),
        2 => name.prop_map(|name| Entry::File(name, 0o600)),
        3 => plain(),
    ]
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(0);
        header.set_mode(0o600);
        let mut link = None;
        let (kind, name) = match entry {
            Entry::File(path, mode) => {
                header.set_mode(*mode);
                (tar::EntryType::Regular, path.clone())
            }
            Entry::Dir(path, mode) => {
                header.set_mode(*mode);
                (tar::EntryType::Directory, path.clone())
            }
            Entry::Whiteout(path) => {
                let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
                (tar::EntryType::Regular, format!("{parent}/.wh.{last}"))
            }
            Entry::Opaque(path) => (tar::EntryType::Regular, format!("{path}/.wh..wh..opq")),
            Entry::Symlink(path, target) => {
                link = Some(target);
                (tar::EntryType::Symlink, path.clone())
            }
            Entry::HardLink(path, target) => {
                link = Some(target);
                (tar::EntryType::Link, path.clone())
            }
        };
        header.set_entry_type(kind);
        let name = name.trim_start_matches('/').as_bytes();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        if let Some(link) = link {
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, &[][..]).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The tree as it is after a layer; none if the layer cannot be applied at all.
fn model(tree: &mut BTreeMap<String, Shown>, entries: &[Entry]) -> Option<()> {
    let below = |path: &str, other: &str| other.starts_with(&format!("{path}/"));
    // Whiteouts mean the layers below, wherever they stand in the archive.
    for entry in entries {
        match entry {
            Entry::Whiteout(path) => tree.retain(|p, _| p != path && !below(path, p)),
            Entry::Opaque(path) if path.is_empty() => tree.clear(),
            Entry::Opaque(path) => tree.retain(|p, _| !below(path, p)),
            _ => {}
        }
    }
    let mut own: BTreeMap<String, Shown> = BTreeMap::new();
    for entry in entries {
        let (path, shown) = match entry {
            Entry::File(path, mode) => (path, Some(Shown::File(*mode))),
            Entry::Dir(path, mode) => (path, Some(Shown::Dir(*mode))),
            // The directories on the way to a mark are there, too.
            Entry::Whiteout(path) => (path, None),
            Entry::Opaque(path) if path.is_empty() => continue,
            Entry::Opaque(path) => (path, None),
            _ => return None,
        };
        let mut ancestors: Vec<String> =
            path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect();
        if matches!(entry, Entry::Opaque(_)) {
            ancestors.push(path.clone());
        }
        for ancestor in ancestors {
            if matches!(own.get(&ancestor), Some(Shown::File(_))) {
                return None;
            }
            if !matches!(tree.get(&ancestor), Some(Shown::Dir(_))) {
                tree.insert(ancestor.clone(), Shown::Dir(DEFAULT_MODE));
            }
            own.insert(ancestor.clone(), Shown::Dir(0));
        }
        let Some(shown) = shown else { continue };
        let stays = matches!((&shown, tree.get(path)), (Shown::Dir(_), Some(Shown::Dir(_))));
        if !stays {
            tree.retain(|p, _| !below(path, p));
            own.retain(|p, _| !below(path, p));
        }
        tree.insert(path.clone(), shown.clone());
        own.insert(path.clone(), shown);
    }
    Some(())
}

fn every_path() -> Vec<String> {
    let mut paths = vec![String::new()];
    let mut all = Vec::new();
    for _ in 0..3 {
        paths = paths.iter().flat_map(|p| ["a", "b", "c"].map(|c| format!("{p}/{c}"))).collect();
        all.extend(paths.iter().map(|p| p.trim_start_matches('/').to_owned()));
    }
    all
}

fn show(stack: &Stack, path: &str) -> Option<Shown> {
    match stack.look_up(&Name::clean(path.as_bytes()).unwrap()).unwrap()? {
        Node::Directory(parts) => {
            Some(Shown::Dir(rustix::fs::fstat(&*parts[0]).unwrap().st_mode & 0o7777))
        }
        Node::Other { stat, .. } => {
            assert_eq!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile);
            Some(Shown::File(stat.st_mode & 0o7777))
        }
    }
}

fn unpack(root: &Path, number: usize, entries: &[Entry], below: &[PathBuf]) -> Option<PathBuf> {
    let layer = root.join(number.to_string());
    std::fs::create_dir(&layer).unwrap();
    let applied = apply(&archive(entries)[..], &layer).ok()?;
    if !applied.stands_alone() {
        settle(&layer, &applied, below).ok()?;
    }
    Some(layer)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_show_what_the_specification_says(
        layers in prop::collection::vec(prop::collection::vec(plain(), 0..8), 1..4)
    ) {
        let temp = tempfile::tempdir().unwrap();
        let mut tree = BTreeMap::new();
        let mut unpacked = Vec::new();
        for (number, entries) in layers.iter().enumerate() {
            let expected = model(&mut tree, entries);
            let real = unpack(temp.path(), number, entries, &unpacked);
            prop_assert_eq!(real.is_some(), expected.is_some(), "layer {} applies", number);
            let Some(real) = real else { return Ok(()) };
            unpacked.push(real);
            let stack = Stack::open(&unpacked).unwrap();
            for path in every_path() {
                prop_assert_eq!(show(&stack, &path), tree.get(&path).cloned(), "{}", path);
            }
        }
    }

    #[test]
    fn no_layer_ever_reaches_outside(
        layers in prop::collection::vec(prop::collection::vec(wicked(), 0..12), 1..3)
    ) {
        let temp = tempfile::tempdir().unwrap();
        let out = temp.path().join("out");
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join("secret"), "secret").unwrap();
        let root = temp.path().join("layers");
        std::fs::create_dir(&root).unwrap();
        let mut unpacked = Vec::new();
        for (number, entries) in layers.iter().enumerate() {
            unpacked.extend(unpack(&root, number, entries, &unpacked));
        }
        if let Ok(stack) = Stack::open(&unpacked) {
            for path in ["a", "b/c", "a/secret", "a/out/secret", "c/../../out/secret"] {
                let found = stack.read(path.as_bytes(), 100).unwrap_or_default();
                prop_assert_ne!(found.as_deref(), Some(&b"secret"[..]));
            }
        }
        prop_assert_eq!(std::fs::read_to_string(out.join("secret")).unwrap(), "secret");
        prop_assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
        prop_assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 2);
        let links = std::os::unix::fs::MetadataExt::nlink(&out.join("secret").metadata().unwrap());
        prop_assert_eq!(links, 1);
    }
}
