//! What the client prints: lines, tables, and messages as JSON.

use std::io::Write as _;

use anyhow::{Context as _, Result};

/// One line.
pub(super) fn line(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").context("write to standard output")
}

/// Bytes as they are.
pub(super) fn bytes(bytes: &[u8]) -> Result<()> {
    std::io::stdout().lock().write_all(bytes).context("write to standard output")
}

/// A message as JSON.
pub(super) fn message<M: prost::Message>(name: &str, message: &M) -> Result<()> {
    line(&serde_json::to_string_pretty(&crate::json::show(name, message)?)?)
}

/// Rows in columns as wide as they need to be.
pub(super) fn table(rows: &[Vec<String>]) -> Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// A header row.
pub(super) fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// The first digits of an id, as crictl shows it.
pub(super) fn short(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().take(13).collect()
}
