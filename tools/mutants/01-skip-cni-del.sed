# file: crates/cni/src/network.rs
# test: -p berth-cni
s/(network\.plugins\.iter\(\)\.enumerate\(\)\.rev\(\)) \{/\1.take(0) {/
