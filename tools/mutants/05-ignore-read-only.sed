# file: crates/oci/src/mounts.rs
# test: -p berth-oci
s/if mount\.readonly \|\| image \{ "ro" \}/if image { "ro" }/
