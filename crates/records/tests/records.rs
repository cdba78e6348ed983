//! Records on a real file: what was saved is there again, whatever happened in between.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use berth_pod::SandboxId;
use berth_pod::record::{Leftover, PodRecord, PodWish, Slot};
use berth_pod::spec::{
    Admitted, PidMode, PodName, PodNamespaces, PodOrNode, SandboxSpec, StringMap,
};
use berth_records::{Error, LeftoverId, Records, Save};

fn spec() -> Admitted<SandboxSpec> {
    let name =
        PodName { name: "web".into(), namespace: "default".into(), uid: "u".into(), attempt: 0 };
    let spec = SandboxSpec {
        name,
        handler: String::new(),
        hostname: "web".into(),
        log_directory: None,
        dns: None,
        port_mappings: Vec::new(),
        labels: StringMap::from([("app".into(), "web".into())]),
        annotations: StringMap::new(),
        cgroup_parent: None,
        namespaces: PodNamespaces {
            network: PodOrNode::Pod,
            pid: PidMode::Container,
            ipc: PodOrNode::Pod,
            user: None,
        },
        sysctls: StringMap::new(),
        privileged: false,
        selinux: None,
        overhead: None,
        resources: None,
    };
    Admitted { spec, digest: "d".into(), original: vec![0, 255, 7] }
}

fn pod(n: u8) -> PodRecord {
    PodRecord::new(SandboxId::from_random([n; 32]), "boot".into(), spec(), "crun".into(), 42)
}

fn save(
    records: &Records,
    record: &PodRecord,
    leftovers: &[Leftover],
) -> Result<Vec<LeftoverId>, Error> {
    let (tell, told) = mpsc::channel();
    records.save(&Save { record, leftovers }, move |result| tell.send(result).unwrap());
    told.recv().unwrap()
}

fn forget(records: &Records, id: &SandboxId) -> Result<Vec<LeftoverId>, Error> {
    let (tell, told) = mpsc::channel();
    records.forget(id, &[], move |result| tell.send(result).unwrap());
    told.recv().unwrap()
}

/// The files as a process that dies now leaves them.
fn as_if_killed(path: &Path, to: &Path) -> PathBuf {
    let copy = to.join("pods.db");
    std::fs::copy(path, &copy).unwrap();
    for companion in ["-wal", "-shm"] {
        let with = |p: &Path| PathBuf::from(format!("{}{companion}", p.display()));
        std::fs::copy(with(path), with(&copy)).unwrap();
    }
    copy
}

#[test]
fn what_was_saved_is_there_after_the_daemon_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pods.db");
    let (records, loaded) = Records::open(&path, path.parent().unwrap()).unwrap();
    assert!(loaded.pods.is_empty());
    let mut record = pod(1);
    save(&records, &record, &[]).unwrap();
    record.wish = PodWish::Stop;
    record.cgroup = Slot::Intended;
    save(&records, &record, &[]).unwrap();
    save(&records, &pod(2), &[]).unwrap();
    forget(&records, &pod(2).id).unwrap();

    let other = tempfile::tempdir().unwrap();
    let copy = as_if_killed(&path, other.path());
    let (_again, loaded) = Records::open(&copy, copy.parent().unwrap()).unwrap();
    assert_eq!(loaded.pods, [record], "the last save, and nothing of what was forgotten");
}

#[test]
fn leftovers_are_saved_with_the_record_and_go_when_they_are_settled() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pods.db");
    let record = pod(1);
    let leftover = Leftover {
        pod: record.id.clone(),
        container: None,
        holding: "network".into(),
        error: "DEL failed".into(),
        since: 7,
        boot_id: "boot".into(),
        record: Arc::new(record.clone()),
    };
    let (records, _) = Records::open(&path, path.parent().unwrap()).unwrap();
    let named = save(&records, &record, &[leftover.clone(), leftover.clone()]).unwrap();
    records.settle(named[1]); // known at once, not only after the next start
    drop(records);
    let (records, loaded) = Records::open(&path, path.parent().unwrap()).unwrap();
    let [(row, saved)] = loaded.leftovers.as_slice() else { panic!("{:?}", loaded.leftovers) };
    assert_eq!((*row, saved), (named[0], &leftover));
    records.settle(*row);
    drop(records);
    assert!(Records::open(&path, path.parent().unwrap()).unwrap().1.leftovers.is_empty());
}

#[test]
fn nobody_else_reads_the_records() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pods.db");
    let (records, _) = Records::open(&path, dir.path()).unwrap();
    save(&records, &pod(1), &[]).unwrap();
    for name in ["pods.db", "pods.db-wal", "pods.db-shm"] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}: a record holds the environment of containers");
    }
}

#[test]
fn a_corrupt_database_is_moved_aside_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pods.db");
    std::fs::write(&path, b"this is no database, but it was somebody's").unwrap();
    let (records, loaded) = Records::open(&path, path.parent().unwrap()).unwrap();
    let aside = loaded.moved_aside.expect("it is told where the old one is");
    assert_eq!(std::fs::read(aside).unwrap(), b"this is no database, but it was somebody's");
    save(&records, &pod(1), &[]).unwrap();
}

#[test]
fn a_lost_database_is_filled_again_from_the_copies_beside_the_pods() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mirror) = (dir.path().join("pods.db"), dir.path().join("sandboxes"));
    let (kept, gone) = (pod(1), pod(2));
    std::fs::create_dir_all(mirror.join(kept.id.as_str())).unwrap();
    let (records, _) = Records::open(&path, &mirror).unwrap();
    save(&records, &kept, &[]).unwrap();
    save(&records, &gone, &[]).unwrap();
    drop(records);
    std::fs::write(&path, b"no database any more").unwrap();
    std::fs::remove_file(dir.path().join("pods.db-wal")).unwrap(); // it alone would mend it
    let (records, loaded) = Records::open(&path, &mirror).unwrap();
    assert!(loaded.moved_aside.is_some());
    assert_eq!(loaded.pods, std::slice::from_ref(&kept), "the pod whose directory is there");
    drop(records);
    let (records, loaded) = Records::open(&path, &mirror).unwrap();
    assert_eq!(loaded.pods, std::slice::from_ref(&kept), "and it is in the new database");
    forget(&records, &kept.id).unwrap();
    assert!(!mirror.join(kept.id.as_str()).exists(), "the copy goes with the record");
}

#[test]
fn one_row_that_cannot_be_read_does_not_hide_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pods.db");
    let (records, _) = Records::open(&path, path.parent().unwrap()).unwrap();
    save(&records, &pod(1), &[]).unwrap();
    drop(records);
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute("INSERT INTO pods VALUES ('x', '{\"half\":')", []).unwrap();
    drop(raw);
    let (_records, loaded) = Records::open(&path, path.parent().unwrap()).unwrap();
    assert_eq!(loaded.pods.len(), 1);
    assert_eq!(loaded.unreadable.len(), 1);
    assert_eq!(loaded.unreadable[0].0, "x");
}

#[test]
fn many_saves_at_once_are_all_committed_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pods.db");
    let (records, _) = Records::open(&path, path.parent().unwrap()).unwrap();
    let (tell, told) = mpsc::channel();
    for round in 0..50 {
        for n in 0..20 {
            let mut record = pod(n);
            record.created_at = round;
            let tell = tell.clone();
            let save = Save { record: &record, leftovers: &[] };
            records.save(&save, move |result| tell.send(result.is_ok()).unwrap());
        }
    }
    drop(tell);
    drop(records);
    assert_eq!(told.iter().filter(|ok| *ok).count(), 1000);
    let (_records, loaded) = Records::open(&path, path.parent().unwrap()).unwrap();
    assert_eq!(loaded.pods.len(), 20);
    assert!(loaded.pods.iter().all(|p| p.created_at == 49), "the last save of each wins");
}

#[test]
fn a_database_that_takes_nothing_is_said_so_and_the_next_save_works() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pods.db");
    let (records, _) = Records::open(&path, path.parent().unwrap()).unwrap();
    save(&records, &pod(1), &[]).unwrap();
    let other = pod(2);
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let failed = save(&records, &other, &[]).unwrap_err();
    assert!(failed.to_string().contains("pods.db"), "{failed}");
    raw.execute_batch("ROLLBACK").unwrap();
    save(&records, &other, &[]).unwrap();
}

/// Fills a file system to its last byte.
fn fill(dir: &Path) {
    use std::io::Write as _;
    let mut ballast = std::fs::File::create(dir.join("ballast")).unwrap();
    while ballast.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
}

#[test]
fn records_open_on_a_disk_without_a_free_byte() {
    use berth_sys::mounts::{self, Flags, Propagation};
    berth_sys::namespace::unshare(&[berth_sys::namespace::Namespace::Mount]).unwrap();
    mounts::set_propagation("/", Propagation::Private, true).unwrap();
    let dir = tempfile::tempdir().unwrap();
    mounts::mount("tmpfs", dir.path(), "tmpfs", Flags::empty(), "size=4m").unwrap();
    let path = dir.path().join("pods.db");
    let (records, _) = Records::open(&path, dir.path()).unwrap();
    save(&records, &pod(1), &[]).unwrap();
    drop(records);
    fill(dir.path());
    // As after a stop, and as after somebody has looked into it with a tool.
    for gone in ["-none", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{gone}", path.display()));
        fill(dir.path());
        let (records, loaded) = Records::open(&path, dir.path()).unwrap();
        assert_eq!(loaded.pods, [pod(1)]);
        drop(records);
    }
    std::fs::remove_file(dir.path().join("ballast")).unwrap();
    let (records, _) = Records::open(&path, dir.path()).unwrap();
    assert!(dir.path().join("pods.db-spare").exists(), "there is room again");
    drop(records);
    mounts::unmount_all(dir.path()).unwrap();
}

#[test]
fn the_last_of_the_records_may_go_where_a_save_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (records, _) = Records::open(&dir.path().join("pods.db"), dir.path()).unwrap();
    let records = Arc::new(records);
    let (alone, is_alone) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let last = Arc::clone(&records);
    records.save(&Save { record: &pod(1), leftovers: &[] }, move |result| {
        is_alone.recv().unwrap();
        drop(last);
        tell.send(result.is_ok()).unwrap();
    });
    drop(records);
    alone.send(()).unwrap();
    assert!(told.recv().unwrap());
}
