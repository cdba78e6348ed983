# file: crates/process/src/place.rs
# test: -p berth-shim-berth
/async fn settle\(/,/^    \}/ s/^( *)let mut interval = ATTEMPT;/\1if true { return; }\n&/
