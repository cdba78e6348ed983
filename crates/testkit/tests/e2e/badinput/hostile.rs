//! Every scalar field of a pod's and of a container's configuration, set to one hostile value
//! after the other.

use anyhow::{Context as _, Result, ensure};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, on_a_node};
use berth_testkit::cri::{Answer, RunningPod};
use berth_testkit::json;
use berth_testkit::specs::{Container, Pod};

use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use tonic::Code;

use super::the_next_pod_is_fine;

/// One field, by the way to it from the root, and what it is set to.
#[derive(Clone)]
struct Case {
    way: Vec<FieldDescriptor>,
    value: Value,
}

impl Case {
    fn name(&self) -> String {
        let names: Vec<_> = self.way.iter().map(FieldDescriptor::name).collect();
        let value: String = format!("{:?}", self.value).chars().take(60).collect();
        format!("{} = {value}", names.join("."))
    }
}

/// The ways to all scalar fields and maps of a message.
fn ways(message: &MessageDescriptor) -> Vec<Vec<FieldDescriptor>> {
    let mut all = Vec::new();
    for field in message.fields().filter(|field| field.name() != "windows") {
        match field.kind() {
            Kind::Message(inside) if !field.is_map() => {
                for rest in ways(&inside) {
                    all.push([vec![field.clone()], rest].concat());
                }
            }
            _ => all.push(vec![field]),
        }
    }
    all
}

/// The values for a field. Where a text names a place on the node, it stays below `disk`, or below
/// `cgroups`: the machine outside of the node is not the test's.
fn values(way: &[FieldDescriptor], disk: &str, cgroups: &str) -> Vec<Value> {
    let field = &way[way.len() - 1];
    let below = match field.name() {
        "log_directory" => disk,
        "cgroup_parent" => cgroups,
        _ => "",
    };
    let texts = || {
        let long = ["x".repeat(300), "ä".repeat(100_000)];
        let short = ["a\0b", "\u{1}\n\u{7f}", "../../..", "/", "%s;=,:", "-1", "/proc/self/root"];
        short.map(str::to_owned).into_iter().chain(long).map(move |text| format!("{below}{text}"))
    };
    if field.is_map() {
        let pair = |key: String, value: &str| {
            let value = Value::String(value.to_owned());
            Value::Map([(MapKey::String(key), value)].into_iter().collect())
        };
        return texts()
            .flat_map(|text| [pair(text.clone(), "1"), pair("a.b".into(), &text)])
            .collect();
    }
    match field.kind() {
        Kind::String => texts().map(Value::String).collect(),
        Kind::Bytes => vec![Value::Bytes(vec![0xff; 9].into()), Value::Bytes(vec![0].into())],
        Kind::Bool => vec![Value::Bool(true)],
        Kind::Enum(_) => [-1, 3, 99, i32::MAX].map(Value::EnumNumber).into(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            [i32::MIN, -1, 1, i32::MAX].map(Value::I32).into()
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            [i64::MIN, -1, 1, 1 << 33, i64::MAX].map(Value::I64).into()
        }
        Kind::Uint32 | Kind::Fixed32 => [1, u32::MAX].map(Value::U32).into(),
        Kind::Uint64 | Kind::Fixed64 => [1, u64::MAX].map(Value::U64).into(),
        _ => Vec::new(),
    }
}

fn cases(bed: &Bed, message: &str) -> Result<Vec<Case>> {
    let disk = format!("{}/hostile/", bed.node.disk().display());
    let cgroups = format!("{}/hostile/", bed.node.parent().path());
    let ways = ways(&json::descriptor(message)?);
    let all = ways.iter().flat_map(|way| {
        let values = values(way, &disk, &cgroups);
        values.into_iter().map(|value| Case { way: way.clone(), value })
    });
    Ok(all.collect())
}

/// Sets the field at the end of a way; lists on it get one entry.
fn put(message: &mut DynamicMessage, way: &[FieldDescriptor], value: Value) -> Result<()> {
    let (field, rest) = way.split_first().context("a way has a field")?;
    let value = match (rest.is_empty(), field.kind()) {
        (true, _) => value,
        (false, Kind::Message(inside)) => {
            let mut below = match message.get_field(field).into_owned() {
                Value::Message(there) => there,
                Value::List(list) => match list.into_iter().next() {
                    Some(Value::Message(there)) => there,
                    _ => DynamicMessage::new(inside),
                },
                _ => DynamicMessage::new(inside),
            };
            put(&mut below, rest, value)?;
            Value::Message(below)
        }
        _ => anyhow::bail!("{} has no fields", field.full_name()),
    };
    let listed = field.is_list();
    message.set_field(field, if listed { Value::List(vec![value]) } else { value });
    Ok(())
}

/// A message with one field changed.
fn changed<M: prost::Message + Default>(name: &str, message: &M, case: &Case) -> Result<M> {
    let bytes = message.encode_to_vec();
    let mut dynamic = DynamicMessage::decode(json::descriptor(name)?, &*bytes)?;
    put(&mut dynamic, &case.way, case.value.clone())?;
    M::decode(&*dynamic.encode_to_vec()).context("decode what was encoded")
}

/// A refusal is one that the caller can do something with.
fn sensible<T>(case: &str, answer: Answer<T>, unlike: &[Code]) -> Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(status) => {
            let code = status.code();
            ensure!(!unlike.contains(&code), "{case}: {code:?}: {}", status.message());
            ensure!(status.message().len() <= 4096, "{case}: an endless message");
            Ok(None)
        }
    }
}

async fn as_pods(bed: &Bed, every: usize) -> Result<()> {
    for case in cases(bed, "PodSandboxConfig")?.iter().step_by(every) {
        let plain = bed.pod("hostile");
        let config: cri::PodSandboxConfig = changed("PodSandboxConfig", &plain.config(), case)?;
        let pod = Pod::new("").with(|own| *own = config);
        let answer = bed.cri.run(&pod).await;
        if let Some(pod) = sensible(&case.name(), answer, &[Code::Internal, Code::Unknown])? {
            bed.cri.clear(&pod.id).await.with_context(|| case.name())?;
        }
        let left = bed.cri.pods().await?;
        ensure!(left.is_empty(), "{}: left behind: {left:?}", case.name());
    }
    Ok(())
}

async fn as_containers(bed: &Bed, every: usize) -> Result<()> {
    let pod: RunningPod = bed.cri.run(&bed.pod("host")).await?;
    for case in cases(bed, "ContainerConfig")?.iter().step_by(every) {
        let plain = Container::idle("hostile", &busybox());
        let config: cri::ContainerConfig = changed("ContainerConfig", &plain.config(), case)?;
        let container = Container::new("", "").with(|own| *own = config);
        let (name, answer) = (case.name(), bed.cri.create(&pod, &container).await);
        if let Some(id) = sensible(&name, answer, &[Code::Internal, Code::Unknown])? {
            // What the OCI runtime cannot start is told in its own words.
            sensible(&name, bed.cri.start(&id).await, &[Code::Unknown])?;
            bed.cri.stop(&id, 0).await.with_context(|| name.clone())?;
            bed.cri.remove(&id).await.with_context(|| name.clone())?;
        }
        let left = bed.cri.containers().await?;
        ensure!(left.is_empty(), "{name}: left behind: {left:?}");
    }
    Ok(())
}

/// Cgroups that were asked for are the caller's to remove.
async fn sweep(bed: &Bed) -> Result<()> {
    super::cgroups::remove(bed, &format!("{}/hostile", bed.node.parent().path())).await
}

#[test]
fn some_hostile_values_of_some_fields_break_nothing() -> Result<()> {
    on_a_node(async |bed| {
        as_pods(bed, 29).await?;
        as_containers(bed, 43).await?;
        sweep(bed).await?;
        the_next_pod_is_fine(bed).await
    })
}

#[test]
fn long_hostile_values_of_every_field_of_a_pod_break_nothing() -> Result<()> {
    on_a_node(async |bed| {
        as_pods(bed, 1).await?;
        sweep(bed).await?;
        the_next_pod_is_fine(bed).await
    })
}

#[test]
fn long_hostile_values_of_every_field_of_a_container_break_nothing() -> Result<()> {
    on_a_node(async |bed| {
        as_containers(bed, 1).await?;
        the_next_pod_is_fine(bed).await
    })
}
