//! What holds of anything that a plugin prints. Built for tests, and with `--cfg fuzzing`.

use std::net::IpAddr;

use serde_json::Value;

use crate::plugin::{Call, Verb, failure};
use crate::result::as_version;
use crate::{Attached, Error, Version};

/// The longest message that names what a plugin printed, bytes.
const MESSAGE: usize = 32 << 10;

/// Takes `printed` for what a plugin printed on ADD, and for what one printed that failed.
///
/// # Panics
/// A result is accepted that has no address of the pod, or is not the same after the cache or the next plugin;
/// or an error repeats more than a message should.
pub fn result(printed: &[u8]) {
    told(&failure("a", Verb::Add, "ended with code 1", printed, b""));
    told(&failure("a", Verb::Add, "ended with code 1", b"", printed));
    match Call::about(Verb::Add).object("a", printed) {
        Ok(value) => object(&value),
        Err(error) => told(&error),
    }
}

fn object(value: &Value) {
    let parse = |value: &Value| Attached::parse("net", "eth0", value);
    let attached = match parse(value) {
        Ok(attached) => attached,
        Err(error) => return told(&error),
    };
    assert!(!attached.ips.is_empty(), "a pod without an address");
    for ip in attached.pod_ips() {
        assert!(ip.parse::<IpAddr>().is_ok(), "{ip:?} is no address");
    }
    for ip in &attached.ips {
        let at = ip.interface;
        assert!(at.is_none_or(|at| at < attached.interfaces.len()), "no interface {at:?}");
    }
    let kept = serde_json::to_vec(&attached).map(|kept| serde_json::from_slice(&kept));
    assert_eq!(kept.ok().and_then(Result::ok), Some(attached.clone()), "the cache changes it");
    for version in Version::ALL {
        let next = as_version(value.clone(), version);
        assert_eq!(parse(&next).ok().as_ref(), Some(&attached), "{version} changes it");
        assert_eq!(as_version(next.clone(), version), next, "{version} is not the end of it");
    }
}

fn told(error: &Error) {
    let text = error.to_string();
    assert!(text.len() <= MESSAGE, "a message of {} bytes", text.len());
    assert!(!text.contains(char::is_control), "a message with control characters: {text:?}");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn all_that_fuzzing_has_found_so_far_is_well_read() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/cni");
        let files = std::fs::read_dir(&corpus).unwrap();
        let read = files.map(|file| super::result(&std::fs::read(file.unwrap().path()).unwrap()));
        assert!(read.count() > 10, "{} is not there", corpus.display());
    }
}
