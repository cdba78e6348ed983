//! `berth config`.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::cli;
use crate::config::{Config, DEFAULT_TEXT, Loaded};
use crate::handlers::{self, Broken};

/// Runs the command.
pub(crate) fn run(path: Option<&Path>, command: &cli::Config) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match command {
        cli::Config::Default => out.write_all(DEFAULT_TEXT.as_bytes())?,
        cli::Config::Dump => {
            let loaded = Loaded::read(path)?;
            loaded.check()?;
            let text = toml::to_string_pretty(&loaded.file).context("cannot write it as TOML")?;
            out.write_all(text.as_bytes())?;
        }
        cli::Config::Check => {
            let loaded = Loaded::read(path)?;
            let config = loaded.check_here()?;
            berth_image::check_hosts(&config.images.hosts_dir)?;
            handlers_well(&loaded, &config)?;
            let mut files = 0;
            for file in loaded.files() {
                writeln!(out, "{}: well", file.display())?;
                files += 1;
            }
            if files == 0 {
                writeln!(out, "no configuration file: every key is at its default")?;
            }
        }
    }
    Ok(())
}

/// Demands that each handler is in order: a daemon would start, and refuse the pods of a broken one.
fn handlers_well(loaded: &Loaded, config: &Config) -> anyhow::Result<()> {
    let looking = async { anyhow::Ok(handlers::look_at_all(config).await) };
    let looked = crate::wait(looking)?;
    let mut broken = Vec::new();
    for (name, handler) in looked {
        if let Err(Broken { key, why }) = handler {
            let key = format!("handlers.{name}.{key}");
            let key = key.trim_end_matches('.');
            // What was found has no place in a file.
            broken.push(match config.handlers.contains_key(&name) {
                true => format!("{}: {key}: {why}", loaded.place(key)),
                false => format!("found on this node: {key}: {why}"),
            });
        }
    }
    if broken.is_empty() { Ok(()) } else { anyhow::bail!(broken.join("\n")) }
}
