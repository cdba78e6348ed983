# file: crates/log/src/frame.rs
# test: -p berth-log --lib
s/head\.line\(b'P',/head.line(b'F',/
