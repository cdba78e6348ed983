//! The shim half: messages by rust-protobuf, services by ttrpc-codegen; neither needs protoc.

use std::path::{Path, PathBuf};

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

const FILES: &[&str] = &[
    "types",
    "task_types",
    "task_v3",
    "task_v2",
    "sandbox",
    "events",
    "forward",
    "runc_options",
    "runtime_options",
    "pod_config",
    "bootstrap",
    "cgroups_v1",
    "cgroups_v2",
    "berth_shim",
];

/// Writes one module per .proto, one per service file, and a `mod.rs` that lists them all.
pub(crate) fn generate() -> Result<(), Box<dyn std::error::Error>> {
    let protos = PathBuf::from("proto/shim");
    println!("cargo::rerun-if-changed={}", protos.display());
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("shim");
    // Nothing of a file that has been renamed or dropped stays in mod.rs.
    let _ = std::fs::remove_dir_all(&out);
    std::fs::create_dir_all(&out)?;
    Codegen::new()
        .out_dir(&out)
        .include(&protos)
        .inputs(FILES.iter().map(|name| protos.join(format!("{name}.proto"))))
        .rust_protobuf()
        // The shim is run once per pod: no reflection tables in it.
        .rust_protobuf_customize(ProtobufCustomize::default().lite_runtime(true).gen_mod_rs(false))
        .customize(Customize { async_all: true, ..Customize::default() })
        .run()?;
    std::fs::write(out.join("mod.rs"), modules(&out)?)?;
    Ok(())
}

fn modules(out: &Path) -> std::io::Result<String> {
    let mut names: Vec<String> = std::fs::read_dir(out)?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .filter(|name| name != "mod")
        .collect();
    names.sort();
    Ok(names.iter().map(|name| format!("pub mod {name};\n")).collect())
}
