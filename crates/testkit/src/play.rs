//! A node to play with: everything a test has, held until its user has seen enough.

use std::io::Write as _;

use anyhow::{Context as _, Result};

use crate::bed::{Bed, reference};
use crate::config::Config;

/// Starts a node with images and says how to use it; ends with standard input.
///
/// # Errors
/// If the node cannot be made, or leaves something behind.
pub async fn run() -> Result<()> {
    let mut bed = Bed::make(Config::default(), &["busybox", "web", "layers"]).await?;
    let keeper = bed.node.keeper();
    let testkit = crate::paths::testkit()?;
    let berth = crate::paths::daemon()?;
    let text = format!(
        "A node runs. Its images: {}\n\n\
         its calls:    {} cri -r {} ps\n\
         a shell in it: nsenter -t {keeper} -m -n -i -p bash\n\
         its status:   nsenter -t {keeper} -m -n -i -p {} status\n\
         its log:      {}\n\n\
         Enter ends it.",
        ["busybox", "web", "layers"].map(reference).join(" "),
        testkit.display(),
        bed.node.socket().display(),
        berth.display(),
        bed.node.log().display(),
    );
    writeln!(std::io::stdout().lock(), "{text}").context("write to standard output")?;
    until_enter().await?;
    bed.close().await
}

/// Waits for a line of standard input, its end, or an interrupt.
///
/// # Errors
/// If neither can be waited for.
pub(crate) async fn until_enter() -> Result<()> {
    // A thread, not a blocking task: the runtime's end would wait for a task.
    let (entered, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = entered.send(std::io::stdin().read_line(&mut line));
    });
    tokio::select! {
        line = wait => drop(line.context("wait for Enter")?),
        signal = tokio::signal::ctrl_c() => signal.context("wait for a signal")?,
    }
    Ok(())
}
