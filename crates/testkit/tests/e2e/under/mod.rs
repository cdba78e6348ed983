//! Our shim under Debian's containerd, by its own client: what `anyshim`'s list asks by CRI, and what
//! CRI has no call for. Containers live in a namespace of containerd's of their own.

mod life;
mod talk;

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use berth_testkit::bed::{Bed, busybox, eventually, no_shims, on_a_node_with};
use berth_testkit::config::{Config, Daemon};
use berth_testkit::containerd;
use berth_testkit::network;
use berth_testkit::place::Guest;

/// containerd's namespace.
const NAMESPACE: &str = "tests";
/// No call of these tests takes this long, in seconds.
const LIMIT: &str = "60";

/// What a command gave.
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs a test on a node with containerd, in whose namespace `tests` the image is.
fn on_a_node(test: impl AsyncFnOnce(&mut Bed) -> Result<()>) -> Result<()> {
    on_a_node_with(Config::default().under(Daemon::Containerd), &["busybox"], async |bed| {
        ctr(bed, &["images", "pull", "--plain-http", &busybox()])?;
        // The directories of the namespace stay.
        launch(bed, &[], "first", "exec sleep 1000")?;
        remove(bed, "first").await?;
        no_shims(&bed.node).await?;
        bed.settle()?;
        test(bed).await
    })
}

/// `ctr` with these words, for as long as it is let.
fn endless(words: &[&str]) -> Result<Command> {
    let mut command = Command::new(containerd::programs()?.join("ctr"));
    command.args(["--address", containerd::SOCKET, "--namespace", NAMESPACE]).args(words);
    Ok(command)
}

/// `ctr` with these words, killed if it hangs.
fn command(words: &[&str]) -> Result<Command> {
    let ctr = endless(words)?;
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", LIMIT]).arg(ctr.get_program()).args(ctr.get_args());
    Ok(command)
}

/// Runs `ctr` with these words and nothing on stdin; what it said, if it succeeds.
fn ctr(bed: &Bed, words: &[&str]) -> Result<String> {
    let mut command = command(words)?;
    let said = bed.node.place()?.visit(|| network::run(&mut command, b""))?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// As [`ctr`], whatever becomes of it. Stdin stays open until the command has said what it is told:
/// `ctr` forgets to pass on the end of one that ends before it has made the process.
async fn try_ctr(bed: &Bed, words: &[&str], told: &str) -> Result<Said> {
    let mut command = command(words)?;
    let (stdout, stderr) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    command.stdin(Stdio::piped()).stdout(stdout.reopen()?).stderr(stderr.reopen()?);
    let mut child = bed.node.place()?.visit(|| Ok(Guest(command.spawn()?)))?;
    {
        use std::io::Write as _;
        let mut stdin = child.0.stdin.take().context("the command's stdin")?;
        stdin.write_all(told.as_bytes())?;
        bed.file_says(stdout.path(), told).await?;
    }
    let status = child.0.wait()?;
    let read = |file: &tempfile::NamedTempFile| {
        anyhow::Ok(String::from_utf8_lossy(&std::fs::read(file.path())?).into_owned())
    };
    Ok(Said { code: status.code(), stdout: read(&stdout)?, stderr: read(&stderr)? })
}

/// The words that run a container of our shim, whose cgroup is below the node's.
fn run<'a>(bed: &Bed, flags: &[&'a str], id: &'a str, line: &'a str) -> Result<Vec<String>> {
    let cgroup = format!("{}/{id}", bed.node.config().pods().context("a cgroup for pods")?);
    let mut words = vec!["run", "--runtime", "io.containerd.berth.v1", "--cgroup", &cgroup];
    words.extend(flags);
    let image = busybox();
    words.extend([image.as_str(), id, "sh", "-c", line]);
    Ok(words.into_iter().map(str::to_owned).collect())
}

/// The exit code with which a stopped task is deleted; its container stays.
async fn delete(bed: &Bed, id: &str) -> Result<u32> {
    let said = try_ctr(bed, &["tasks", "delete", id], "").await?;
    ensure!(said.code == Some(0) && state(bed, id)?.is_none(), "{}", said.stderr);
    // It warns of one that is not 0.
    let code = said.stderr.split("non-zero exit code ").nth(1);
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    code.map_or(Ok(0), |text| digits(text).parse().context("an exit code"))
}

/// Runs a container to its end.
async fn run_to_its_end(
    bed: &Bed,
    flags: &[&str],
    id: &str,
    line: &str,
    input: &str,
) -> Result<Said> {
    let words = run(bed, &[flags, &["--rm"]].concat(), id, line)?;
    try_ctr(bed, &words.iter().map(String::as_str).collect::<Vec<_>>(), input).await
}

/// Starts a container that goes on.
fn launch(bed: &Bed, flags: &[&str], id: &str, line: &str) -> Result<()> {
    let words = run(bed, &[flags, &["--detach"]].concat(), id, line)?;
    ctr(bed, &words.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
}

/// What containerd lists a task as; `None` if there is none.
fn state(bed: &Bed, id: &str) -> Result<Option<(u32, String)>> {
    let listed = ctr(bed, &["tasks", "list"])?;
    let words = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let Some(words) = words.into_iter().find(|words| words.first() == Some(&id)) else {
        return Ok(None);
    };
    ensure!(words.len() == 3, "{listed}");
    Ok(Some((words[1].parse()?, words[2].to_owned())))
}

/// Waits until a task is listed like that.
async fn becomes(bed: &Bed, id: &str, wanted: &str) -> Result<()> {
    eventually(
        || format!("task {id} does not become {wanted}"),
        async || Ok(state(bed, id)?.filter(|(_, state)| state == wanted).map(drop)),
    )
    .await
}

/// Kills what runs and removes task and container.
async fn remove(bed: &Bed, id: &str) -> Result<()> {
    if state(bed, id)?.is_some() {
        // It may have ended.
        try_ctr(bed, &["tasks", "kill", "--signal", "KILL", "--all", id], "").await?;
        becomes(bed, id, "STOPPED").await?;
        delete(bed, id).await?;
    }
    ctr(bed, &["containers", "delete", id]).map(drop)
}

/// Everything that containerd publishes, in a file, until it is dropped.
struct Heard {
    _child: Guest,
    path: std::path::PathBuf,
}

impl Heard {
    async fn begin(bed: &Bed) -> Result<Self> {
        let path = bed.node.disk().join("events");
        let mut command = endless(&["events"])?;
        command.stdin(Stdio::null()).stdout(std::fs::File::create(&path)?);
        let child = bed.node.place()?.visit(|| Ok(Guest(command.spawn()?)))?;
        let heard = Self { _child: child, path };
        // It says nothing when it has begun to listen.
        eventually(
            || "no event is heard".to_owned(),
            async || {
                ctr(bed, &["namespaces", "label", NAMESPACE, "heard=yes"])?;
                Ok((!std::fs::read(&heard.path)?.is_empty()).then_some(()))
            },
        )
        .await?;
        Ok(heard)
    }

    /// The topics of tasks that were heard of, of events that contain a text.
    fn topics(&self, of: &str) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(&self.path)?;
        let topic = |line: &str| {
            let topic = line.split_whitespace().find(|word| word.starts_with("/tasks/"))?;
            line.contains(of).then(|| topic.to_owned())
        };
        Ok(text.lines().filter_map(topic).collect())
    }

    /// Waits until one of this topic is heard.
    async fn wait_for(&self, topic: &str, of: &str) -> Result<()> {
        eventually(
            || format!("{topic} of {of} is not heard, only {:?}", self.topics(of)),
            async || Ok(self.topics(of)?.iter().any(|heard| heard == topic).then_some(())),
        )
        .await
    }
}
