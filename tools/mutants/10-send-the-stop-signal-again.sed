# file: crates/pod/src/machine/advance.rs
# test: -p berth-pod
/stop\.signalled = true;/d
