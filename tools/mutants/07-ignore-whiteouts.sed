# file: crates/image/src/apply.rs
# test: -p berth-image
/fn whiteout\(/,/^    \}/ s/^( *)if last == OPAQUE_MARK \{/\1if !last.is_empty() { return Ok(()); }\n&/
