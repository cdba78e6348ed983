//! Log lines: to standard error, one write each, before the work goes on.
//!
//! They are synchronous on purpose: the line that says that an effect begins is out before the
//! effect, so that the last line before a crash is the truth.

use anyhow::Context as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry};

use crate::config::{Config, Format};

/// Changes the level of a running daemon.
pub(crate) struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// Sets it.
    pub(crate) fn set(&self, directives: &str) -> anyhow::Result<()> {
        let filter = directives.parse::<EnvFilter>().context("log.level")?;
        self.0.reload(filter).context("the log is gone")
    }
}

/// Starts logging as configured.
pub(crate) fn start(config: &Config) -> anyhow::Result<Level> {
    let filter = config.log_level.parse::<EnvFilter>().context("log.level")?;
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
