# file: crates/process/src/place.rs
# test: -p berth-process
/async fn settle\(/,/^    \}/ s/^( *)let mut interval = ATTEMPT;/\1if true { return; }\n&/
