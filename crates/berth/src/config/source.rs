//! One file of a configuration, and where in it each key stands.

use std::path::PathBuf;

use serde::Deserialize as _;
use toml::de::{DeTable, DeValue};

use super::{Error, File};

/// A parsed file.
pub(crate) struct Source {
    /// Where it was read.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) table: toml::Table,
    text: String,
}

impl Source {
    /// Parses a file, and refuses what is unknown in it.
    pub(crate) fn parse(path: PathBuf, text: String) -> Result<Self, Error> {
        let wrong = |error: &toml::de::Error| Error::Form {
            line: line(&text, error.span().map_or(0, |span| span.start)),
            problem: advise(error.message()),
            path: path.clone(),
        };
        toml::from_str::<File>(&text).map_err(|error| wrong(&error))?;
        let table = toml::from_str(&text).map_err(|error| wrong(&error))?;
        Ok(Self { path, table, text })
    }

    /// File and line of a dotted key, if this file has it.
    pub(crate) fn place(&self, key: &str) -> Option<String> {
        let root = DeTable::parse(&self.text).ok()?;
        let mut table = root.get_ref();
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            let (name, value) = table.iter().find(|(name, _)| name.get_ref() == part)?;
            match value.get_ref() {
                _ if parts.peek().is_none() => {
                    let line = line(&self.text, name.span().start);
                    return Some(format!("{}:{line}", self.path.display()));
                }
                DeValue::Table(inside) => table = inside,
                _ => return None,
            }
        }
        None
    }
}

impl File {
    /// The typed form of merged tables.
    pub(super) fn deserialize_from(table: toml::Table) -> Result<Self, Error> {
        File::deserialize(table).map_err(|error| Error::Form {
            path: "the files together".into(),
            line: 0,
            problem: error.message().to_owned(),
        })
    }
}

fn line(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// serde says what it expected; a reader wants to know what to do.
fn advise(message: &str) -> String {
    match message.starts_with("unknown field") {
        true => {
            format!("{message}: correct the key's name or remove it (see `berth config default`)")
        }
        false => message.to_owned(),
    }
}
