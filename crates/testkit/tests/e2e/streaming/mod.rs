//! Exec, Attach and PortForward, as their clients see them: over both transports, and with our shim as
//! well as with containerd's own over runc, whose output the daemon carries.

mod attach;
mod exec;
mod forward;

use std::os::unix::fs::FileTypeExt as _;

use anyhow::Result;
use berth_testkit::bed::{Bed, eventually};
use berth_testkit::streams::{Ended, Session, Transport, Wants};

/// A check as a test with each of the shims.
macro_rules! with_each_shim {
    ($($check:ident)*) => {
        mod berth {
            $(#[test]
            fn $check() -> anyhow::Result<()> {
                let subject = crate::anyshim::Subject::berth()?;
                subject.on_a_node(async |bed| super::$check(bed).await)
            })*
        }
        mod runc_v2 {
            $(#[test]
            fn $check() -> anyhow::Result<()> {
                let subject = crate::anyshim::Subject::runc_v2()?;
                subject.on_a_node(async |bed| super::$check(bed).await)
            })*
        }
    };
}
use with_each_shim;

/// Begins a shell line in a container.
async fn exec(bed: &Bed, id: &str, line: &str, how: Transport, wants: Wants) -> Result<Session> {
    let url = bed.cri.exec_url(id, &["sh", "-c", line], wants).await?;
    Session::open(&bed.node, &url, how, wants).await
}

/// Attaches to a container.
async fn attach(bed: &Bed, id: &str, how: Transport, wants: Wants) -> Result<Session> {
    let url = bed.cri.attach_url(id, wants).await?;
    Session::open(&bed.node, &url, how, wants).await
}

/// Stdout and stderr as texts, and the status.
fn texts(ended: &Ended) -> (String, String, Option<Result<i32, String>>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&ended.stdout), text(&ended.stderr), ended.status.clone())
}

/// Waits until nothing of a session is left in a container's bundle.
pub(crate) async fn no_fifos(bed: &Bed, id: &str) -> Result<()> {
    let clean = async || Ok(fifos(bed, id)?.is_empty().then_some(()));
    eventually(|| format!("the bundle of {id} is not clean"), clean).await
}

/// The fifos of sessions in a container's bundle. What else is there is the shim's.
pub(crate) fn fifos(bed: &Bed, id: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(bed.node.path(&format!("/run/berth/bundles/{id}")))? {
        let entry = entry?;
        if entry.file_type()?.is_fifo() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.retain(|name| name.starts_with("exec-") || name.starts_with("attach-"));
    Ok(names)
}
