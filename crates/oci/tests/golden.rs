//! Whole specs, compared byte for byte with files in `tests/golden`.
//!
//! After a change that is meant, `BERTH_GOLDEN=write cargo test -p berth-oci` writes them anew:
//! read the difference before committing it.

mod sample;

use std::path::Path;

use berth_oci::{Spec, container_spec};
use sample::{Sample, sample};

fn compare(name: &str, spec: &Spec) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.json"));
    let made = serde_json::to_string_pretty(spec).unwrap() + "\n";
    if std::env::var_os("BERTH_GOLDEN").is_some_and(|v| v == "write") {
        std::fs::write(&file, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    if kept != made {
        let differs = kept.lines().zip(made.lines()).find(|(a, b)| a != b);
        panic!("{name} differs from {}: first {differs:?}\n{made}", file.display());
    }
    assert_eq!(&serde_json::from_str::<Spec>(&kept).unwrap(), spec, "{name} reads back");
}

fn container(name: &str, change: impl FnOnce(&mut Sample)) {
    let mut s = sample();
    change(&mut s);
    compare(name, &container_spec(&s.input()).unwrap());
}

#[test]
fn a_container_that_asks_for_nothing() {
    container("plain", |_| {});
}
