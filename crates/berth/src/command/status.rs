//! `berth status`: the node on one page.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use berth_proto::node::v1::StatusRequest;
use berth_proto::node::v1::node_client::NodeClient;
use serde_json::Value;

use super::image::told;
use super::{UNLIMITED, connect};
use crate::cli::Status;

/// Enough digits of an id for people, as crictl prints them.
const SHORT: usize = 13;

/// Runs the command.
pub(crate) async fn run(config: Option<&Path>, command: &Status) -> anyhow::Result<()> {
    let channel = connect(config, &command.daemon).await?;
    let mut client = NodeClient::new(channel).max_decoding_message_size(UNLIMITED);
    let json = client.status(StatusRequest {}).await.map_err(told)?.into_inner().json;
    let status: Value = serde_json::from_slice(&json).context("the daemon's answer is no JSON")?;
    let text = match command.json {
        true => serde_json::to_string_pretty(&status)? + "\n",
        false => page(&status),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// The status for people. It is read as JSON, so that a newer daemon can be asked, too.
fn page(status: &Value) -> String {
    let mut page = String::new();
    let uptime = status["uptime_seconds"].as_u64().unwrap_or_default();
    let version = word(&status["version"]);
    let _ = writeln!(page, "berth {version}, pid {}, up {}", status["pid"], age(uptime * 1000));
    for condition in list(&status["conditions"]) {
        let holds = if condition["holds"] == true { "yes" } else { "no: " };
        let why = word(&condition["message"]);
        let _ = writeln!(page, "{:<13} {holds}{why}", word(&condition["name"]));
    }
    for handler in list(&status["handlers"]) {
        let default = if handler["default"] == true { " (default)" } else { "" };
        let name = word(&handler["name"]);
        let state = match handler["broken"].as_str() {
            Some(why) => format!("broken: {why}"),
            None => [&handler["shim"], &handler["runtime"]].map(word).join(" "),
        };
        let network = match handler["guest_network"].as_str() {
            Some("own") => ", a kernel of its own with a network stack of its own",
            Some(_) => ", a kernel of its own with the node's network stack",
            None => "",
        };
        let _ = writeln!(page, "handler       {name}{default}: {}{network}", state.trim_end());
    }
    for plugin in list(&status["plugins"]) {
        let gone = plugin["gone"].as_str().map(|why| format!(": gone: {why}")).unwrap_or_default();
        let _ = writeln!(page, "nri plugin    {}{gone}", word(&plugin["name"]));
    }
    let pods = list(&status["pods"]);
    let _ = writeln!(page, "images        {}\npods          {}", status["images"], pods.len());
    pods.iter().for_each(|one| pod(&mut page, one));
    let leftovers = list(&status["leftovers"]);
    let _ = writeln!(page, "leftovers     {}", leftovers.len());
    for leftover in leftovers {
        let (holding, pod) = (word(&leftover["holding"]), short(&leftover["pod"]));
        let (tries, error) = (&leftover["tries"], word(&leftover["error"]));
        let _ = writeln!(page, "  {holding} of pod {pod}, {tries} tries: {error}");
    }
    page
}

fn pod(page: &mut String, pod: &Value) {
    let state = match (pod["listed"] == true, pod["ready"] == true) {
        (false, _) => "being created",
        (true, true) => "ready",
        (true, false) => "not ready",
    };
    let name = format!("{}/{}", word(&pod["namespace"]), word(&pod["name"]));
    let _ = writeln!(
        page,
        "\n{} {name} attempt {}: {state}, handler {}, wish {}",
        short(&pod["id"]),
        pod["attempt"],
        word(&pod["handler"]),
        word(&pod["wish"])
    );
    if let Some(trouble) = pod["trouble"].as_str() {
        let _ = writeln!(page, "  trouble   {trouble}");
    }
    let _ = writeln!(page, "  holdings  {}", holdings(&pod["holdings"]));
    for job in list(&pod["jobs"]) {
        let running = age(job["age_ms"].as_u64().unwrap_or_default());
        let _ = write!(page, "  working   {} for {running}", word(&job["step"]));
        if let Some(container) = job["container"].as_str() {
            let _ = write!(page, ", container {}", &container[..container.len().min(SHORT)]);
        }
        if let Some(error) = job["last_error"].as_str() {
            let _ = write!(page, ", {} failures, the last: {error}", job["failures"]);
        }
        page.push('\n');
    }
    for container in list(&pod["containers"]) {
        let (id, name) = (short(&container["id"]), word(&container["name"]));
        let (state, wish) = (word(&container["state"]), word(&container["wish"]));
        let _ = write!(page, "  container {id} {name}: {state}, wish {wish}");
        if let Some(pid) = container["pid"].as_u64() {
            let _ = write!(page, ", pid {pid}");
        }
        if let Some(reason) = container["exit"]["reason"].as_str() {
            let _ = write!(page, ", {reason} ({})", container["exit"]["code"]);
        }
        let _ = writeln!(page, "\n            {}", holdings(&container["holdings"]));
    }
}

fn holdings(holdings: &Value) -> String {
    let one = |pair: &Value| format!("{}={}", word(&pair[0]), word(&pair[1]));
    list(holdings).iter().map(one).collect::<Vec<_>>().join(" ")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn short(value: &Value) -> &str {
    let id = word(value);
    id.get(..SHORT).unwrap_or(id)
}

fn age(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        10_000..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_page_shows_what_is_held_what_is_done_and_what_is_left_over() {
        let page = page(&json!({
            "version": "0.1.0", "pid": 7, "uptime_seconds": 90, "images": 3,
            "conditions": [{"name": "NetworkReady", "holds": false, "message": "no network"}],
            "handlers": [
                {"name": "berth", "default": true, "broken": null, "shim": "/s", "runtime": "/r"},
                {"name": "kata", "default": false, "broken": "shim: gone", "shim": ""},
            ],
            "pods": [{
                "id": "0123456789abcdef", "namespace": "default", "name": "web", "attempt": 1,
                "handler": "berth", "ready": false, "listed": false, "wish": "run",
                "trouble": null, "holdings": [["cgroup", "held"], ["network", "intended"]],
                "jobs": [{"step": "acquire.network", "container": null, "age_ms": 2300,
                    "failures": 1, "last_error": "plugin said no"}],
                "containers": [{"id": "fedcba9876543210", "name": "main", "state": "exited",
                    "wish": "run", "pid": null, "exit": {"reason": "OOMKilled", "code": 137},
                    "holdings": [["image", "held"]]}],
            }],
            "plugins": [{"name": "10-a", "gone": null}, {"name": "20-b", "gone": "it hung"}],
            "leftovers": [{"holding": "network", "pod": "aa", "tries": 4, "error": "busy"}],
        }));
        for line in [
            "berth 0.1.0, pid 7, up 90 s",
            "NetworkReady  no: no network",
            "handler       berth (default): /s /r",
            "handler       kata: broken: shim: gone",
            "0123456789abc default/web attempt 1: being created, handler berth, wish run",
            "  holdings  cgroup=held network=intended",
            "  working   acquire.network for 2.3 s, 1 failures, the last: plugin said no",
            "  container fedcba9876543 main: exited, wish run, OOMKilled (137)",
            "nri plugin    10-a\n",
            "nri plugin    20-b: gone: it hung",
            "  network of pod aa, 4 tries: busy",
        ] {
            assert!(page.contains(line), "{line:?} is not in\n{page}");
        }
    }

    #[test]
    fn a_status_from_another_version_is_no_reason_to_panic() {
        page(&json!({}));
        page(&json!({"pods": [{}], "leftovers": [1], "handlers": "none"}));
    }
}
