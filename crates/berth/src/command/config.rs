//! `berth config`.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::cli;
use crate::config::{DEFAULT_TEXT, Loaded};

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
