//! A stand-in CNI plugin, the last of a chain: it passes the result on, writes down each call,
//! and fails or waits when its directory says so.
//!
//! | in its directory | then |
//! |---|---|
//! | `VERB.fail`, with a message | VERB fails with that message |
//! | `VERB.POD.sh` | this shell script of the pod named POD takes the place of VERB |
//! | `VERB.block`, a fifo | VERB waits until somebody opens the fifo to write |
//! | `calls` | each call is appended as `VERB CONTAINER NETNS RUNTIMECONFIG` |

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// Runs as the plugin; returns the exit code.
///
/// # Errors
/// If the configuration on stdin has no directory, or a file of it cannot be used.
pub fn run() -> Result<u8> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("read the configuration")?;
    let config: Value = serde_json::from_str(&text).context("a configuration on stdin")?;
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let verb = variable("CNI_COMMAND");
    if verb == "VERSION" {
        let versions = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        return answer(&json!({"cniVersion": "1.1.0", "supportedVersions": versions}));
    }
    let dir = Path::new(config["dir"].as_str().context("the key `dir`")?);
    let line = format!(
        "{verb} {} {} {}\n",
        variable("CNI_CONTAINERID"),
        variable("CNI_NETNS"),
        config["runtimeConfig"]
    );
    fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("calls"))
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .context("write the call down")?;
    let script = dir.join(format!("{verb}.{}.sh", pod(&variable("CNI_ARGS"))));
    if script.exists() {
        use std::os::unix::process::CommandExt as _;
        let error = std::process::Command::new("/bin/sh").arg(&script).exec();
        return Err(error).with_context(|| format!("run {}", script.display()));
    }
    let gate = dir.join(format!("{verb}.block"));
    if gate.exists() {
        fs::File::open(&gate).context("wait at the fifo")?;
    }
    if let Ok(message) = fs::read_to_string(dir.join(format!("{verb}.fail"))) {
        answer(&json!({"cniVersion": "1.1.0", "code": 999, "msg": message.trim()}))?;
        return Ok(1);
    }
    match verb.as_str() {
        "ADD" if config["prevResult"].is_null() => {
            answer(&json!({"cniVersion": config["cniVersion"], "interfaces": [], "ips": []}))
        }
        "ADD" => answer(&config["prevResult"]),
        _ => Ok(0),
    }
}

/// The pod's name in CNI_ARGS.
fn pod(args: &str) -> &str {
    args.split(';').find_map(|pair| pair.strip_prefix("K8S_POD_NAME=")).unwrap_or_default()
}

fn answer(value: &Value) -> Result<u8> {
    writeln!(std::io::stdout().lock(), "{value}").context("answer")?;
    Ok(0)
}
