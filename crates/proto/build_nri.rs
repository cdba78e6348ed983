//! The plugins' half: NRI's messages and ttrpc's own, by prost. No service is generated: one socket
//! carries calls both ways, which `berth-nri` does itself.

use std::error::Error;

/// Generates `nri.pkg.api.v1alpha1.rs` and `ttrpc.rs`. Maps become `BTreeMap`, as with CRI.
pub(crate) fn generate() -> Result<(), Box<dyn Error>> {
    let files = ["nri/nri.proto", "nri/ttrpc.proto"];
    for file in files {
        println!("cargo::rerun-if-changed=proto/{file}");
    }
    let set = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .btree_map(".")
        .compile_fds(set)?;
    Ok(())
}
