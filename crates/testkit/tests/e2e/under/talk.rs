//! Output, input, terminals, attaching, commands.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use berth_testkit::bed::Bed;
use berth_testkit::network;
use berth_testkit::place::Guest;

use super::{command, endless, launch, on_a_node, remove, run, run_to_its_end, try_ctr};

/// Runs a command of `ctr` in a terminal, and types this.
fn in_a_terminal(bed: &Bed, words: &[&str], input: &str) -> Result<String> {
    let command = command(words)?;
    let quoted =
        |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''"));
    let line: Vec<_> =
        [command.get_program()].into_iter().chain(command.get_args()).map(quoted).collect();
    let mut script = Command::new("script");
    // Without exec, dash stays between, and `timeout` leaves the terminal's foreground.
    let line = format!("exec {}", line.join(" "));
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    let said = bed.node.place()?.visit(|| network::run(&mut script, input.as_bytes()))?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn streams_are_the_commands() -> Result<()> {
    on_a_node(async |bed| {
        let said = run_to_its_end(bed, &[], "a", "echo out; echo err >&2; echo -n end", "").await?;
        assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("out\nend", "err\n"));
        let said = run_to_its_end(bed, &[], "b", "cat; echo over", "typed\n").await?;
        assert_eq!(said.stdout, "typed\nover\n");
        let said =
            run_to_its_end(bed, &[], "c", "head -c 3000000 /dev/zero | tr '\\0' x", "").await?;
        assert_eq!((said.code, said.stdout.len()), (Some(0), 3_000_000), "{}", said.stderr);
        let said = run_to_its_end(bed, &["--null-io"], "d", "echo nothing; exit 6", "").await?;
        assert_eq!((said.code, said.stdout.as_str()), (Some(6), ""));

        let file = bed.node.disk().join("said");
        let uri = format!("file://{}", file.display());
        launch(bed, &["--log-uri", &uri], "e", "echo to a file; exec sleep 1000")?;
        bed.file_says(&file, "to a file\n").await?;
        remove(bed, "e").await
    })
}

#[test]
fn a_terminal_is_served() -> Result<()> {
    on_a_node(async |bed| {
        let line = "tty; stty size; read x; echo \"<$x>\"";
        let words = run(bed, &["--rm", "--tty"], "a", line)?;
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let said = in_a_terminal(bed, &words, "typed\n")?;
        assert!(said.contains("/dev/pts/") && said.contains("<typed>"), "{said}");

        launch(bed, &[], "b", "while :; do sleep 1000; done")?;
        let line = "tty; read x; echo \"<$x>\"";
        let exec = ["tasks", "exec", "--tty", "--exec-id", "e", "b", "sh", "-c", line];
        let said = in_a_terminal(bed, &exec, "typed\n")?;
        assert!(said.contains("/dev/pts/") && said.contains("<typed>"), "{said}");
        remove(bed, "b").await
    })
}

#[test]
fn somebody_attaches_to_a_task() -> Result<()> {
    on_a_node(async |bed| {
        launch(bed, &[], "a", "while read x; do echo \"<$x>\"; done; exec sleep 1000")?;
        let heard = bed.node.disk().join("heard");
        let mut attach = endless(&["tasks", "attach", "a"])?;
        attach.stdin(Stdio::piped()).stdout(std::fs::File::create(&heard)?);
        let mut attached = bed.node.place()?.visit(|| Ok(Guest(attach.spawn()?)))?;
        {
            use std::io::Write as _;
            let stdin = attached.0.stdin.as_mut().context("stdin")?;
            stdin.write_all(b"one\n")?;
            bed.file_says(&heard, "<one>\n").await?;
            stdin.write_all(b"two\n")?;
        }
        bed.file_says(&heard, "<two>\n").await?;
        drop(attached);
        remove(bed, "a").await
    })
}

#[test]
fn commands_are_run() -> Result<()> {
    on_a_node(async |bed| {
        launch(bed, &[], "a", "while :; do sleep 1000; done")?;
        let exec = async |id: &str, line: &str, told: &str| {
            let words = ["tasks", "exec", "--exec-id", id, "a", "sh", "-c", line];
            try_ctr(bed, &words, told).await
        };
        let said = exec("one", "echo out; echo err >&2; exit 7", "").await?;
        assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(said.code, Some(7));
        assert_eq!(exec("one", "kill -9 $$", "").await?.code, Some(137), "the id is free again");
        assert_eq!(exec("two", "cat", "typed\n").await?.stdout, "typed\n");
        let missing = ["tasks", "exec", "--exec-id", "three", "a", "/no/such/program"];
        let said = try_ctr(bed, &missing, "").await?;
        assert_ne!(said.code, Some(0));
        assert!(said.stderr.contains("/no/such/program"), "{}", said.stderr);
        remove(bed, "a").await
    })
}
