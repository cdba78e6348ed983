//! Configurations that the daemon must refuse, or show.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use berth_testkit::bed::{Bed, busybox, eventually, on_a_node};
use tonic::Code;

use super::{refuses, the_next_pod_is_fine};

/// The drop-in that each case puts its text into.
const FILE: &str = "90-case.toml";

/// A drop-in's text, and the words that its refusal must have: key or line, value, what to do.
type Case = (String, Vec<&'static str>);

fn cases(bed: &Bed) -> Result<Vec<Case>> {
    let disk = bed.node.disk();
    let file = disk.join("a-file");
    std::fs::write(&file, "precious\n")?;
    std::os::unix::fs::symlink("nowhere", disk.join("a-dangling-link"))?;
    let path = |name: &str| disk.join(name).display().to_string();
    let case = |text: &str, words: &[&'static str]| (text.to_owned(), words.to_vec());
    let with = |text: &str, name: &str, words: &[&'static str]| {
        (format!("{text} = {:?}\n", path(name)), words.to_vec())
    };
    Ok(vec![
        case("[log\n", &[":1:"]),
        case("\0\u{1}", &[":1:"]),
        case("[log]\nlevle = \"info\"\n", &[":2:", "levle", "berth config default"]),
        case("[log]\n\nlevel = 5\n", &[":3:", "string"]),
        case("[log]\nlevel = \"loud=very\"\n", &[":2:", "log.level", "give off, error"]),
        case("[images]\nparallel_layers = 0\n", &[":2:", "images.parallel_layers", "1 to 64"]),
        case("[images]\nparallel_layers = -1\n", &[":2:"]),
        case("[deadlines]\ncni_add = \"soon\"\n", &[":2:", "deadlines.cni_add", "60s"]),
        case("[cgroups]\nparent = \"berth\"\n", &[":2:", "cgroups.parent", "such as /berth"]),
        case("[cgroups]\nparent = \"/a/../b\"\n", &[":2:", "cgroups.parent"]),
        case("[cgroups]\nslice = \"/berth\"\n", &[":2:", "cgroups.slice", "berth.slice"]),
        case("[pods]\ndefault_handler = \"x\"\n", &[":2:", "pods.default_handler", "[handlers."]),
        case(
            "[api]\ngroup = \"no-such-group\"\n",
            &[":2:", "api.group", "no-such-group", "add it"],
        ),
        case("[helper]\npath = \"no-such-helper\"\n", &[":2:", "helper.path", "install"]),
        case("[helper]\npath = \"/etc/passwd\"\n", &[":2:", "helper.path", "executable"]),
        case(
            "[handlers.x]\noptions.root = \"/r\"\n",
            &[":2:", "handlers.x.options", "leave it out"],
        ),
        with("root", "a-file", &[":1:", "root", "a-file", "no directory", "another path"]),
        with("root", "a-file/below", &[":1:", "root", "no directory"]),
        with("state", "a-file", &[":1:", "state", "no directory"]),
        with("root", "a-dangling-link", &[":1:", "root", "no directory"]),
        with("[api]\nsocket", "a-file", &[":2:", "api.socket", "no socket", "move it away"]),
        with("[api]\nsocket", "a-file/below.sock", &[":2:", "api.socket", "no directory"]),
    ])
}

#[test]
fn a_configuration_that_will_not_do_is_refused_with_its_place_and_its_cure() -> Result<()> {
    on_a_node(async |bed| {
        let (_, id) = bed.idle("bystander").await?;
        let running = bed.identity(&id).await?;
        bed.node.stop_daemon()?;
        for (text, words) in cases(bed)? {
            bed.node.reconfigure(|config| *config = config.clone().drop_in(FILE, &text))?;
            let said = [says(bed, &["config", "check"])?, says(bed, &["serve"])?];
            for said in &said {
                for word in words.iter().chain(&[FILE]) {
                    ensure!(said.contains(word), "{text:?}: no {word:?} in {said:?}");
                }
            }
            ensure!(said[0] == said[1], "`config check` and the daemon differ: {said:#?}");
        }
        let file = bed.node.disk().join("a-file");
        assert_eq!(std::fs::read_to_string(file)?, "precious\n");
        bed.node.reconfigure(|config| *config = config.clone().drop_in(FILE, ""))?;
        bed.start().await?;
        assert_eq!(bed.identity(&id).await?, running);
        the_next_pod_is_fine(bed).await
    })
}

/// What Berth says when it refuses to do this.
fn says(bed: &Bed, words: &[&str]) -> Result<String> {
    let mut command = bed.node.config().program()?;
    command.args(words);
    refusal(bed, command).with_context(|| format!("berth {words:?}"))
}

fn refusal(bed: &Bed, command: Command) -> Result<String> {
    // A daemon that starts after all must not stay.
    let mut limited = Command::new("timeout");
    limited.arg("20").arg(command.get_program()).args(command.get_args()).env_clear();
    let variables = command.get_envs().filter_map(|(key, value)| Some((key, value?)));
    let limited = limited.envs(variables);
    let output = bed.node.place()?.visit(|| limited.output().context("run berth"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    let last = said.lines().find(|line| line.starts_with("berth: ")).unwrap_or(&said);
    Ok(last.to_owned())
}

#[test]
fn two_daemons_cannot_share_a_root_or_a_state_directory() -> Result<()> {
    on_a_node(async |bed| {
        let (_, id) = bed.idle("bystander").await?;
        let other = |key: &str| {
            let path = bed.node.disk().join("other").join(key).display().to_string();
            let socket = bed.node.disk().join("other.sock").display().to_string();
            format!("{key} = {path:?}\n[api]\nsocket = {socket:?}\n")
        };
        let cases =
            [("state", other("state"), "/var/lib/berth"), ("root", other("root"), "/run/berth")];
        for (_, text, shared) in cases {
            let dir = bed.node.disk().join("second");
            std::fs::create_dir_all(dir.join("config.toml.d"))?;
            std::fs::copy(bed.node.path("/etc/berth/config.toml"), dir.join("config.toml"))?;
            std::fs::write(dir.join("config.toml.d/second.toml"), &text)?;
            let mut second = bed.node.config().program()?;
            second.arg("--config").arg(dir.join("config.toml")).arg("serve");
            let said = refusal(bed, second)?;
            for word in ["another berth", "pid", shared, "Stop it first"] {
                ensure!(said.contains(word), "{text:?}: no {word:?} in {said:?}");
            }
        }
        assert_eq!(bed.cri.shell(&id, "echo lives").await?, "lives");
        the_next_pod_is_fine(bed).await
    })
}

#[test]
fn a_registry_s_configuration_that_is_malformed_is_told_and_spoils_no_other() -> Result<()> {
    const BAD: &str = "[host.\"http://127.0.0.1:1\"\ncapabilities = [\"pull\"]\n";
    let path = "berth/certs.d/bad.example/hosts.toml";
    on_a_node(async |bed| {
        bed.node.stop_daemon()?;
        bed.node.reconfigure(|config| *config = config.clone().file(path, BAD))?;
        let said = says(bed, &["config", "check"])?;
        ensure!(
            said.contains("certs.d/bad.example/hosts.toml") && said.contains("line 1"),
            "{said}"
        );
        bed.start().await?;
        let answer = bed.cri.pull("bad.example/testing/busybox:latest").await;
        refuses("pull", answer, (Code::InvalidArgument, &["bad.example/hosts.toml", "line 1"]))?;
        bed.cri.pull(&busybox()).await?;
        let text = "server = \"https://bad.example\"\n";
        bed.node.reconfigure(|config| *config = config.clone().file(path, text))?;
        assert!(bed.berth(&["config", "check"])?.contains("well"));
        the_next_pod_is_fine(bed).await
    })
}

#[test]
fn what_a_running_node_lacks_is_shown_in_its_status() -> Result<()> {
    let text = "[network]\nconf_dir = \"/etc/passwd\"\nbin_dirs = [\"/no/plugins/here\"]\n";
    on_a_node(async |bed| {
        bed.node.stop_daemon()?;
        bed.node.reconfigure(|config| *config = config.clone().drop_in(FILE, text))?;
        bed.start().await?;
        told(bed, "/etc/passwd").await?;
        let text = text.replace("/etc/passwd", "/etc/cni/net.d");
        bed.node.stop_daemon()?;
        bed.node.reconfigure(|config| *config = config.clone().drop_in(FILE, &text))?;
        bed.start().await?;
        told(bed, "/no/plugins/here").await?;
        bed.node.stop_daemon()?;
        bed.node.reconfigure(|config| *config = config.clone().drop_in(FILE, ""))?;
        bed.start().await?;
        the_next_pod_is_fine(bed).await
    })
}

/// Demands that the network is not ready, and that Status and a pod are told the reason.
async fn told(bed: &Bed, word: &str) -> Result<()> {
    let reason = || format!("NetworkReady does not say {word:?}");
    eventually(reason, async || {
        let status = bed.cri.status().await?.status.context("a status")?;
        let network = status.conditions.iter().find(|c| c.r#type == "NetworkReady");
        let network = network.context("a condition NetworkReady")?;
        Ok((!network.status && network.message.contains(word)).then_some(()))
    })
    .await?;
    let answer = bed.cri.run(&bed.pod("unconnected")).await;
    refuses("a pod", answer, (Code::Unavailable, &[word])).map(drop)
}
