# file: crates/image/src/confined.rs
# test: -p berth-image
s/let resolve = ResolveFlags::BENEATH/let resolve = ResolveFlags::empty();\n        let _ = ResolveFlags::BENEATH/
