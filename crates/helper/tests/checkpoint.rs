//! The files of a checkpoint, by the helper itself.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use serde_json::{Value, json};

/// Runs a verb: whether it works, and its answer.
fn ask(verb: &str, request: &Value) -> (bool, Value) {
    let mut helper = Command::new(env!("CARGO_BIN_EXE_berth-helper"));
    let mut child = helper.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), serde_json::from_slice(&output.stdout).unwrap())
}

fn entries(archive: &Path) -> BTreeMap<String, (tar::EntryType, Vec<u8>)> {
    let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
    let one = |entry: std::io::Result<tar::Entry<'_, fs::File>>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let name = entry.path().unwrap().display().to_string();
        (name, (entry.header().entry_type(), content))
    };
    archive.entries().unwrap().map(one).collect()
}

fn whiteout(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

#[test]
fn what_was_changed_is_in_the_tar_and_what_is_gone_in_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let [upper, lower, into] = ["upper", "lower", "into"].map(|name| dir.path().join(name));
    for path in [&upper.join("etc"), &upper.join("anew"), &lower.join("anew"), &into] {
        fs::create_dir_all(path).unwrap();
    }
    fs::write(upper.join("etc/new"), "new").unwrap();
    fs::hard_link(upper.join("etc/new"), upper.join("etc/same")).unwrap();
    symlink("/nowhere", upper.join("etc/link")).unwrap();
    whiteout(&upper.join("etc/gone"));
    fs::write(lower.join("anew/hidden"), "").unwrap();
    fs::write(lower.join("anew/kept"), "").unwrap();
    fs::write(upper.join("anew/kept"), "otherwise").unwrap();
    let opaque = "trusted.overlay.opaque";
    rustix::fs::setxattr(upper.join("anew"), opaque, b"y", XattrFlags::empty()).unwrap();
    let request = json!({"upper": upper, "lower": [lower], "into": into});
    assert_eq!(ask("changes", &request), (true, json!({})));
    let deleted = fs::read_to_string(into.join("deleted.files")).unwrap();
    assert_eq!(deleted, r#"["/anew/hidden","/etc/gone"]"#);
    let all = entries(&into.join("rootfs-diff.tar"));
    let names: Vec<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(names, ["anew", "anew/kept", "etc", "etc/link", "etc/new", "etc/same"]);
    assert_eq!(all["etc/new"].1, b"new");
    assert_eq!(all["etc/same"].0, tar::EntryType::Link);
    assert_eq!(all["anew/kept"].1, b"otherwise");
    rustix::fs::setxattr(upper.join("etc"), "trusted.overlay.redirect", b"/b", XattrFlags::empty())
        .unwrap();
    let (done, answer) = ask("changes", &request);
    assert!(!done && answer.to_string().contains("redirect_dir"), "{answer}");
}

/// A file that is longer than disks are, with a word at its end.
fn sparse(path: &Path, length: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::create(path).unwrap();
    file.write_all_at(b"end", length - 3).unwrap();
}

#[test]
fn the_holes_of_a_file_take_no_room_among_the_changes() {
    let dir = tempfile::tempdir().unwrap();
    let [upper, into] = ["upper", "into"].map(|name| dir.path().join(name));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&into).unwrap();
    let length = 1 << 42;
    sparse(&upper.join("long"), length);
    fs::set_permissions(upper.join("long"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::write(upper.join("short"), "short").unwrap();
    let request = json!({"upper": upper, "lower": [], "into": into});
    assert_eq!(ask("changes", &request), (true, json!({})));
    let path = into.join("rootfs-diff.tar");
    assert!(fs::metadata(&path).unwrap().len() < 1 << 20);
    let mut archive = tar::Archive::new(fs::File::open(&path).unwrap());
    let mut seen = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        seen.push((name, entry.size(), entry.header().mode().unwrap() & 0o7777));
    }
    assert_eq!(seen, [("long".into(), length, 0o4751), ("short".into(), 5, 0o644)]);
}

#[test]
fn an_archive_is_unpacked_again_also_if_its_parts_have_holes() {
    let dir = tempfile::tempdir().unwrap();
    let [from, into, location] = ["from", "into", "a.tar"].map(|name| dir.path().join(name));
    fs::create_dir_all(from.join("checkpoint")).unwrap();
    sparse(&from.join("checkpoint/pages-1.img"), 1 << 20);
    sparse(&from.join("rootfs-diff.tar"), 1 << 20);
    assert!(ask("pack", &json!({"from": from, "location": location})).0);
    let request = json!({"from": {"archive": location}, "into": into, "hostname": "new"});
    assert_eq!(ask("unpack", &request), (true, json!({"deleted": []})));
    for part in ["checkpoint/pages-1.img", "rootfs-diff.tar"] {
        assert_eq!(fs::read(into.join(part)).unwrap(), fs::read(from.join(part)).unwrap());
    }
}

#[test]
fn an_archive_is_there_whole_and_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(from.join("checkpoint")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("checkpoint/pages"), "memory").unwrap();
    fs::write(from.join("spec.dump"), "{}").unwrap();
    let location = to.join("a.tar");
    let request = json!({"from": from, "location": location});
    assert_eq!(ask("pack", &request), (true, json!({})));
    let file = fs::metadata(&location).unwrap();
    assert_eq!((file.permissions().mode() & 0o777, file.nlink()), (0o600, 1));
    let names: Vec<String> = entries(&location).into_keys().collect();
    assert_eq!(names, ["checkpoint/", "checkpoint/pages", "spec.dump"]);
    let (done, answer) = ask("pack", &request);
    assert_eq!((done, &answer["error"]["kind"]), (false, &"exists".into()));
    let (done, answer) = ask("pack", &json!({"from": from, "location": dir.path().join("no/a")}));
    assert_eq!((done, &answer["error"]["kind"]), (false, &"not_found".into()));
    assert_eq!(fs::read_dir(&to).unwrap().count(), 1, "nothing else is left");
}

/// A tar with these entries, whatever their names.
fn tar_of(path: &Path, entries: &[(&str, tar::EntryType, &[u8])]) {
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        if *kind == tar::EntryType::Symlink {
            header.set_link_name(std::str::from_utf8(content).unwrap()).unwrap();
        }
        let content = if *kind == tar::EntryType::Symlink { b"" } else { *content };
        header.set_size(content.len() as u64);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap();
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_archive_is_read_again_and_only_what_is_known_comes_out() {
    use tar::EntryType::{Directory, Regular, Symlink};
    let dir = tempfile::tempdir().unwrap();
    let [into, file] = ["into", "a.tar"].map(|name| dir.path().join(name));
    let entries: [(&str, tar::EntryType, &[u8]); 9] = [
        ("./config.dump", Regular, br#"{"name": "c"}"#),
        ("spec.dump", Regular, br#"{"process": {}}"#),
        ("checkpoint/pages-1.img", Regular, b"memory"),
        ("checkpoint/below/x", Regular, b"no"),
        ("checkpoint", Directory, b""),
        ("etc", Symlink, b"/tmp"),
        ("/checkpoint/absolute", Regular, b"within"),
        ("other", Regular, b"no"),
        ("deleted.files", Regular, br#"["/etc/gone"]"#),
    ];
    tar_of(&file, &entries);
    let (done, seen) = ask("peek", &json!({"from": {"archive": file}}));
    assert!(done, "{seen}");
    assert_eq!(seen["config"]["name"], "c");
    let request = json!({"from": {"archive": file}, "into": into, "hostname": "new"});
    assert_eq!(ask("unpack", &request), (true, json!({"deleted": ["/etc/gone"]})));
    assert_eq!(names(&into), ["checkpoint", "rootfs-diff.tar", "spec.dump"]);
    assert_eq!(names(&into.join("checkpoint")), ["absolute", "pages-1.img"]);
    assert_eq!(fs::read(into.join("rootfs-diff.tar")).unwrap(), b"", "without changes");
    assert_eq!(names(dir.path()), ["a.tar", "into"], "nothing beside it");
}

#[test]
fn an_archive_that_is_wrong_is_refused_by_its_reason() {
    use tar::EntryType::{GNUSparse, Regular, Symlink};
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.tar");
    let mut count = 0;
    let mut refused = |verb: &str, says: &str| {
        count += 1;
        let request = match verb {
            "peek" => json!({"from": {"archive": file}}),
            _ => {
                let into = dir.path().join(count.to_string());
                json!({"from": {"archive": file}, "into": into, "hostname": "new"})
            }
        };
        let (done, answer) = ask(verb, &request);
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(!done && message.contains(says), "no {says:?} in {answer}");
        assert_eq!(answer["error"]["kind"], "invalid", "{answer}");
    };
    fs::write(&file, "no archive".repeat(100)).unwrap();
    refused("peek", "is no checkpoint");
    tar_of(&file, &[("config.dump", Regular, b"{}")]);
    refused("peek", "no config.dump and spec.dump");
    tar_of(&file, &[("config.dump", Regular, b"{")]);
    refused("peek", "no JSON");
    tar_of(&file, &[("config.dump", Regular, &vec![b' '; (1 << 20) + 1])]);
    refused("peek", "too large");
    tar_of(&file, &[("deleted.files", Regular, br#"{"a": 1}"#)]);
    refused("unpack", "no list");
    tar_of(&file, &[("checkpoint/../../up", Regular, b"out")]);
    refused("unpack", "\"..\"");
    tar_of(&file, &[("checkpoint/a", Regular, &[7; 4096])]);
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..2048]).unwrap();
    refused("unpack", "cut off");
    // One byte at the end of a terabyte of nothing.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(GNUSparse);
    header.set_path("rootfs-diff.tar").unwrap();
    header.set_size(1);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 40);
    gnu.sparse[0].set_offset((1 << 40) - 1);
    gnu.sparse[0].set_length(1);
    header.set_cksum();
    let mut builder = tar::Builder::new(fs::File::create(&file).unwrap());
    builder.append(&header, &b"x"[..]).unwrap();
    builder.into_inner().unwrap();
    refused("unpack", "no plain file");
    for name in ["rootfs-diff.tar", "spec.dump", "checkpoint/pages-1.img"] {
        tar_of(&file, &[(name, Symlink, b"/etc/passwd")]);
        refused("unpack", "no plain file");
    }
    assert!(!dir.path().join("up").exists());
}

#[test]
fn a_layer_of_an_image_is_read_like_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    let [layer, into] = ["layer", "into"].map(|name| dir.path().join(name));
    fs::create_dir_all(layer.join("checkpoint/below")).unwrap();
    for (name, content) in [
        ("config.dump", r#"{"name": "c"}"#),
        ("spec.dump", r#"{"process": {}}"#),
        ("checkpoint/pages-1.img", "memory"),
        ("rootfs-diff.tar", "changes"),
        ("other", "no"),
    ] {
        fs::write(layer.join(name), content).unwrap();
    }
    let (done, seen) = ask("peek", &json!({"from": {"layer": layer}}));
    assert!(done, "{seen}");
    assert_eq!(seen["config"]["name"], "c");
    let request = json!({"from": {"layer": layer}, "into": into, "hostname": "new"});
    assert_eq!(ask("unpack", &request), (true, json!({"deleted": []})));
    assert_eq!(names(&into), ["checkpoint", "rootfs-diff.tar", "spec.dump"]);
    assert_eq!(fs::read_to_string(into.join("checkpoint/pages-1.img")).unwrap(), "memory");
    fs::remove_dir_all(&into).unwrap();
    symlink("/etc/passwd", layer.join("checkpoint/link")).unwrap();
    let (done, answer) = ask("unpack", &request);
    assert!(!done && answer["error"]["kind"] == "invalid", "{answer}");
    fs::remove_dir_all(layer.join("checkpoint")).unwrap();
    symlink("/etc", layer.join("checkpoint")).unwrap();
    fs::remove_dir_all(&into).unwrap();
    assert!(ask("unpack", &request).0);
    assert_eq!(names(&into.join("checkpoint")).len(), 0, "a link is not followed");
}
