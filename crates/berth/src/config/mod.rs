//! Berth's configuration: files → one table → checked values.
//!
//! The default file is the bottom layer, so that a default exists in one place and is the one that
//! `berth config default` prints.

mod checked;
mod duration;
mod file;
mod fits;
mod handlers;
mod source;

use std::path::{Path, PathBuf};

pub(crate) use checked::{Config, NriConfig, check};
pub(crate) use file::{Driver, File, Format};
pub(crate) use handlers::{HandlerConfig, OUR_SHIM, is_handler_name, shim_name};
pub(crate) use source::Source;

/// Where the configuration is when nothing else is said.
pub(crate) const DEFAULT_PATH: &str = "/etc/berth/config.toml";

/// The handler that is there without being configured.
const BUILT_IN_HANDLER: &str = "berth";

/// Every key with its default and what it means.
pub(crate) const DEFAULT_TEXT: &str = include_str!("default.toml");

/// Why a configuration is refused. Each says where, what, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file could not be read.
    #[error("{}: cannot read it: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is no TOML, or has a key or a type that does not belong there.
    #[error("{}:{line}: {problem}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A value that does not do.
    #[error("{at}: {key} is {value}: {advice}")]
    Value {
        /// File and line, or "default".
        at: String,
        /// The key, dotted.
        key: String,
        /// What it says.
        value: String,
        /// What to do.
        advice: String,
    },
}

/// The files of a configuration, merged: what `berth config dump` prints.
pub(crate) struct Loaded {
    /// All layers together.
    pub(crate) file: File,
    sources: Vec<Source>,
}

impl Loaded {
    /// Reads the file and its drop-ins. The default path may be absent; one that was given not.
    pub(crate) fn read(given: Option<&Path>) -> Result<Self, Error> {
        let path = given.unwrap_or(Path::new(DEFAULT_PATH));
        let mut sources = vec![Source::parse("default".into(), DEFAULT_TEXT.to_owned())?];
        match std::fs::read_to_string(path) {
            Ok(text) => sources.push(Source::parse(path.into(), text)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && given.is_none() => {}
            Err(source) => return Err(Error::Read { path: path.into(), source }),
        }
        for path in drop_ins(path)? {
            let text = std::fs::read_to_string(&path)
                .map_err(|source| Error::Read { path: path.clone(), source })?;
            sources.push(Source::parse(path, text)?);
        }
        Self::of(sources)
    }

    fn of(sources: Vec<Source>) -> Result<Self, Error> {
        let mut merged = toml::Table::new();
        for source in &sources {
            merge(&mut merged, source.table.clone());
        }
        // Each source was checked by itself; together they can only fail where a table meets a
        // value, which no two well-formed files do.
        let file = File::deserialize_from(merged)?;
        Ok(Self { file, sources })
    }

    /// The checked configuration.
    pub(crate) fn check(&self) -> Result<Config, Error> {
        check(&self.file, self.find_handlers(), &|key| self.place(key))
    }

    /// As [`Loaded::check`], with the places of a daemon that runs: they cannot change.
    pub(crate) fn check_running(mut self, running: &Config) -> Result<Config, Error> {
        self.file.state = running.state.display().to_string();
        self.check()
    }

    /// The checked configuration, if it fits this node too.
    pub(crate) fn check_here(&self) -> Result<Config, Error> {
        let config = self.check()?;
        fits::check(&config, &|key| self.place(key))?;
        Ok(config)
    }

    /// No file has a handler of its own, only perhaps something about the one there is anyway:
    /// then what is installed is found.
    fn find_handlers(&self) -> bool {
        let tables =
            |source: &Source| source.table.get("handlers").and_then(|t| t.as_table().cloned());
        let mut names = self.sources.iter().filter_map(tables).flat_map(|table| table.into_iter());
        names.all(|(name, _)| name == BUILT_IN_HANDLER)
    }

    /// Which file and line said this last.
    pub(crate) fn place(&self, key: &str) -> String {
        let found = self.sources.iter().rev().find_map(|source| source.place(key));
        found.unwrap_or_else(|| "default".to_owned())
    }

    /// The files that were read.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.sources.iter().skip(1).map(|source| source.path.as_path())
    }
}

/// Every file that a configuration is read from, there or not.
pub(crate) fn places(given: Option<&Path>) -> Vec<PathBuf> {
    let path = given.unwrap_or(Path::new(DEFAULT_PATH));
    let mut places = vec![path.to_owned()];
    places.extend(drop_ins(path).unwrap_or_default());
    places
}

/// `config.toml.d/*.toml` beside `config.toml`, by name.
fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut directory = path.as_os_str().to_owned();
    directory.push(".d");
    let directory = PathBuf::from(directory);
    let failed = |source| Error::Read { path: directory.clone(), source };
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Lays one table over another: tables are merged, everything else is replaced.
fn merge(below: &mut toml::Table, above: toml::Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => merge(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

/// Every key at its default.
#[cfg(test)]
pub(crate) fn default_config() -> Config {
    let source = Source::parse("default".into(), DEFAULT_TEXT.to_owned()).unwrap();
    Loaded::of(vec![source]).unwrap().check().unwrap()
}

#[cfg(test)]
mod tests;
