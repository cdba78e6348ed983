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
