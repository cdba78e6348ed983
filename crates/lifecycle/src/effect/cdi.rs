//! The node's CDI specifications, and what they say of the devices that a container asks for.

use std::path::Path;

use berth_oci::cdi::{Edits, Library};
use berth_oci::facts::DeviceNode;
use berth_pod::Kind;
use serde_json::{Value, json};

use super::{Context, Result, bundle, failed, helper};

/// Where specifications lie; what the second has comes before what the first has.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// What is to be changed, and the devices of the node that are needed for it.
pub(super) struct Found {
    pub(super) edits: Edits,
    pub(super) nodes: Vec<DeviceNode>,
}

/// Reads the specifications anew each time: a driver that comes up writes them.
pub(super) async fn find(context: &Context, names: &[String]) -> Result<Option<Found>> {
    if names.is_empty() {
        return Ok(None);
    }
    let edits = library(context).await?.edits(names)?;
    let nodes: Vec<&Path> = edits.nodes().collect();
    let mounted: Vec<&Path> = edits.mounted().collect();
    let wanted = |want: &'static str| move |path: &&Path| json!({"path": path, "want": want});
    let asked = nodes.iter().map(wanted("device")).chain(mounted.iter().map(wanted("any")));
    let seen = bundle::ask(context, asked.collect()).await?;
    let (devices, sources) = seen.split_at(seen.len().min(nodes.len()));
    let found: Option<Vec<_>> =
        nodes.iter().zip(devices).map(|(path, seen)| bundle::node(path, seen)).collect();
    let Some(found) = found else {
        let missing =
            nodes.iter().zip(devices).find(|(path, seen)| bundle::node(path, seen).is_none());
        return absent(names, "device", missing.map(|(path, _)| *path));
    };
    let is_there = |seen: &Value| seen["exists"] == Value::Bool(true);
    if let Some((path, _)) = mounted.iter().zip(sources).find(|(_, seen)| !is_there(seen)) {
        return absent(names, "path", Some(path));
    }
    Ok(Some(Found { nodes: found, edits }))
}

fn absent<T>(names: &[String], what: &str, path: Option<&Path>) -> Result<T> {
    let path = path.unwrap_or_else(|| Path::new("?")).display();
    let text = format!(
        "CDI_devices: {path}, which the specifications of {} name, is no {what} of this node: \
         have their vendor's tool write them anew",
        names.join(", ")
    );
    failed(Kind::Invalid, text)
}

async fn library(context: &Context) -> Result<Library> {
    let request = json!({"directories": DIRECTORIES});
    let deadline = context.settings().helper_deadline;
    let mut answer = helper::call(context, "cdi", &request, deadline).await?;
    match serde_json::from_value(answer["library"].take()) {
        Ok(library) => Ok(library),
        Err(why) => failed(Kind::Broken, format!("berth-helper cdi: {why}")),
    }
}
