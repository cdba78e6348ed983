# file: crates/process/src/log/frame.rs
# test: -p berth-process --lib
s/head\.line\(b'P',/head.line(b'F',/
