//! docs/shim-from-zero.md shows the source of this shim, all of it and in its order, and the shim is as
//! short as the guide says. What it does is tested with all other shims, end to end.

const SOURCE: &str = include_str!("../src/main.rs");
const GUIDE: &str = include_str!("../../../docs/shim-from-zero.md");

/// The Rust of the guide: one block after the other, an empty line between them.
fn shown() -> String {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    let mut inside = false;
    for line in GUIDE.lines() {
        match line {
            "```rust" => {
                inside = true;
                blocks.push(Vec::new());
            }
            "```" => inside = false,
            _ if inside => blocks.last_mut().unwrap().push(line),
            _ => {}
        }
    }
    let blocks: Vec<String> = blocks.iter().map(|lines| lines.join("\n") + "\n").collect();
    blocks.join("\n")
}

#[test]
fn the_guide_shows_the_source_that_is_built() {
    assert_eq!(shown(), SOURCE);
}

#[test]
fn the_shim_is_short() {
    assert!(SOURCE.lines().count() < 150, "{} lines", SOURCE.lines().count());
}
