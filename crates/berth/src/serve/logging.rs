//! Log lines: to standard error, one write each, before the work goes on.
//!
//! They are synchronous on purpose: the line that says that an effect begins is out before the
//! effect, so that the last line before a crash is the truth.

use anyhow::Context as _;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Config, Format};

/// Changes the level of a running daemon.
pub(crate) struct Level(reload::Handle<Targets, Registry>);

impl Level {
    /// Sets it.
    pub(crate) fn set(&self, directives: &str) -> anyhow::Result<()> {
        let filter = filter(directives)?;
        self.0.reload(filter).context("the log is gone")
    }
}

/// A level alone is that of our own lines: what libraries say below "info" drowns them.
fn filter(level: &str) -> anyhow::Result<Targets> {
    let directives = match level {
        "debug" | "trace" => format!("info,berth={level}"),
        other => other.to_owned(),
    };
    directives.parse().context("log.level")
}

/// Starts logging as configured.
pub(crate) fn start(config: &Config) -> anyhow::Result<Level> {
    let filter = filter(&config.log_level)?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    match config.log_format {
        Format::Text => registry.with(lines).try_init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
    .context("logging was started before")?;
    Ok(Level(handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_below_info_is_for_our_own_lines_only() {
        assert_eq!(filter("debug").unwrap().to_string(), "berth=debug,info");
        assert_eq!(filter("warn").unwrap().to_string(), "warn");
        assert_eq!(filter("info,h2=trace").unwrap().to_string(), "h2=trace,info");
        assert!(filter("berth=loud").is_err());
    }
}
