//! Says how the shim is linked.

fn main() {
    // Each segment begins with a page of its own: what every shim writes to, and so has for itself, lies
    // in as few pages as it can, wherever the sections before it end. Linkers that do not know it warn.
    println!("cargo:rustc-link-arg-bins=-Wl,-z,separate-loadable-segments");
    println!("cargo:rerun-if-changed=build.rs");
}
