//! Ids that name nothing, several things, or are no ids at all.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use berth_testkit::bed::{busybox, on_a_node};
use berth_testkit::json;
use berth_testkit::raw::{Method, methods};
use berth_testkit::specs::{Container, Pod};
use prost::Message as _;
use prost_reflect::{DynamicMessage, Value};
use tonic::Code;

use super::{refuses, the_next_pod_is_fine};

/// The calls about one pod or container, with the field that names it.
const ABOUT_ONE: [(&str, &str); 12] = [
    ("StopPodSandbox", "pod_sandbox_id"),
    ("RemovePodSandbox", "pod_sandbox_id"),
    ("PodSandboxStatus", "pod_sandbox_id"),
    ("PodSandboxStats", "pod_sandbox_id"),
    ("StartContainer", "container_id"),
    ("StopContainer", "container_id"),
    ("RemoveContainer", "container_id"),
    ("ContainerStatus", "container_id"),
    ("ContainerStats", "container_id"),
    ("ReopenContainerLog", "container_id"),
    ("UpdateContainerResources", "container_id"),
    ("ExecSync", "container_id"),
];

/// The request of such a call for this id, whole in everything else.
fn request(method: &Method, field: &str, id: &str) -> Result<Vec<u8>> {
    let mut message = DynamicMessage::new(json::descriptor(&method.request)?);
    message.try_set_field_by_name(field, Value::String(id.to_owned())).context(field.to_owned())?;
    match method.name.as_str() {
        "ExecSync" => {
            let words = Value::List(vec![Value::String("true".to_owned())]);
            message.try_set_field_by_name("cmd", words).context("cmd")?;
        }
        "UpdateContainerResources" => {
            let limits = DynamicMessage::new(json::descriptor("LinuxContainerResources")?);
            message.try_set_field_by_name("linux", Value::Message(limits)).context("linux")?;
        }
        _ => {}
    }
    Ok(message.encode_to_vec())
}

fn by_name() -> Result<BTreeMap<String, Method>> {
    Ok(methods()?.into_iter().map(|method| (method.name.clone(), method)).collect())
}

#[test]
fn an_id_that_names_nothing_is_not_found_and_may_be_stopped_and_removed() -> Result<()> {
    let strange = [
        "f".repeat(64),
        "../../etc/passwd".to_owned(),
        "a\nforged line\0\u{1b}[31m".to_owned(),
        // Told back whole, this one would burst the headers of the answer, and with them the
        // connection of everybody who shares it.
        "x".repeat(1 << 20),
        "ä%\n".repeat(1 << 16),
    ];
    on_a_node(async |bed| {
        let (_, id) = bed.idle("bystander").await?;
        let methods = by_name()?;
        for (name, field) in ABOUT_ONE {
            let method = methods.get(name).with_context(|| format!("{name} in CRI"))?;
            for strange in &strange {
                let short: String = strange.chars().take(12).collect();
                let case = format!("{name} of {short:?}, {} bytes", strange.len());
                let answer = bed.cri.send(method, request(method, field, strange)?).await;
                if name.starts_with("Stop") || name.starts_with("Remove") {
                    answer.with_context(|| case)?;
                } else {
                    refuses(&case, answer, (Code::NotFound, &["is not there"]))?;
                }
            }
        }
        assert_eq!(bed.cri.shell(&id, "echo here").await?, "here");
        let log = std::fs::read_to_string(bed.node.log())?;
        assert!(!log.contains("\nforged line"), "a caller can write lines of the log");
        the_next_pod_is_fine(bed).await
    })
}

#[test]
fn an_id_that_names_several_is_refused_and_stops_none_of_them() -> Result<()> {
    on_a_node(async |bed| {
        // Ids are hexadecimal: of 17 pods two begin alike, mostly of six.
        let mut pods: Vec<String> = Vec::new();
        let prefix = loop {
            if pods.len() > 16 {
                bail!("no two of {pods:?} begin alike");
            }
            let pod = bed.cri.run(&Pod::new(&format!("p{}", pods.len())).host_network()).await?;
            let first = pod.id[..1].to_owned();
            let known = pods.iter().any(|id| id.starts_with(&first));
            pods.push(pod.id);
            if known {
                break first;
            }
        };
        let methods = by_name()?;
        for (name, field) in ABOUT_ONE.iter().filter(|(_, field)| *field == "pod_sandbox_id") {
            let method = methods.get(*name).with_context(|| format!("{name} in CRI"))?;
            let answer = bed.cri.send(method, request(method, field, &prefix)?).await;
            refuses(name, answer, (Code::InvalidArgument, &["several", "more digits"]))?;
        }
        let ready = bed.cri.pods().await?;
        assert_eq!(ready.iter().filter(|pod| pod.state == 0).count(), pods.len());
        the_next_pod_is_fine(bed).await
    })
}

#[test]
fn a_name_that_is_taken_is_refused_until_it_is_free() -> Result<()> {
    on_a_node(async |bed| {
        let first = bed.pod("name");
        let pod = bed.cri.run(&first).await?;
        // The very same again is the same pod; another under its name is not.
        assert_eq!(bed.cri.run(&first).await?.id, pod.id);
        let other = first.clone().label("differs", "yes");
        let answer = bed.cri.run(&other).await;
        refuses(
            "another pod of that name",
            answer,
            (Code::AlreadyExists, &["this name", &pod.id]),
        )?;
        let container = Container::idle("main", &busybox());
        let id = bed.cri.create(&pod, &container).await?;
        assert_eq!(bed.cri.create(&pod, &container).await?, id);
        let answer = bed.cri.create(&pod, &container.clone().env("DIFFERS", "yes")).await;
        refuses("another container", answer, (Code::AlreadyExists, &["this name", &id]))?;
        assert_eq!(bed.cri.pods().await?.len(), 1);
        assert_eq!(bed.cri.containers().await?.len(), 1);
        bed.cri.clear(&pod.id).await?;
        bed.cri.run(&other).await?;
        the_next_pod_is_fine(bed).await
    })
}
