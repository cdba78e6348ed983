//! The gRPC half: CRI and Berth's own node service, compiled without protoc.

use std::error::Error;

/// Generates `runtime.v1.rs` and `berth.node.v1.rs`.
///
/// Maps become `BTreeMap`: the encoding of a message is then canonical, and its digest tells
/// whether two configurations are equal.
pub(crate) fn generate() -> Result<(), Box<dyn Error>> {
    let files = ["runtime/v1/api.proto", "berth/node/v1/node.proto"];
    for file in files {
        println!("cargo::rerun-if-changed=proto/{file}");
    }
    let set = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .btree_map(".")
        .skip_debug(["runtime.v1.AuthConfig"])
        .compile_fds(set)?;
    Ok(())
}
