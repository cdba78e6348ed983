//! Compiles CRI's descriptors, so that the command-line client can read and print any message
//! as JSON without a line of code for each.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../proto/proto/runtime/v1/api.proto");
    let set = protox::compile(["runtime/v1/api.proto"], ["../proto/proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("cri.bin"), set.encode_to_vec())?;
    Ok(())
}
