# file: crates/pod/src/machine/advance.rs
# test: -p berth-pod
s/if generation <= saved \|\|/if true || generation <= saved ||/
