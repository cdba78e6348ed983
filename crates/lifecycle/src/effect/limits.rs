//! Changed limits made true: in the bundle always, and in the task once there is one.

use berth_oci::{from_json, oom_score_adj, update_resources, with_limits};
use berth_pod::ContainerId;
use berth_pod::Kind;
use berth_pod::job::Outcome;
use berth_shim_client::Any;

use super::{Context, Result, blocking, bundle, cgroup, connection, failed};
use crate::convert::Fail as _;

pub(super) async fn update(context: &Context, id: &ContainerId) -> Result<Outcome> {
    let c = context.container(id)?;
    let path = context.layout().bundle(id.as_str()).join("config.json");
    let text = std::fs::read(&path).map_err(|e| ("read", path.as_path(), e).fail())?;
    let mut spec = from_json(&text)?;
    let change = update_resources(&mut spec, &c.resources, &context.settings().node)?;
    if c.running() {
        let value = match serde_json::to_vec(&change) {
            Ok(value) => value,
            Err(why) => return failed(Kind::Broken, format!("the resources have no JSON: {why}")),
        };
        let shim = connection(context).await?;
        shim.update(id.as_str(), Any { type_url: Any::RESOURCES.into(), value }).await?;
        adjust_oom_score(context, id).await?;
    }
    let config = with_limits(&text, &spec)?;
    blocking(move || bundle::replace(&path, &config)).await?;
    Ok(Outcome::Done)
}

/// No runtime changes the OOM score of a container that runs.
async fn adjust_oom_score(context: &Context, id: &ContainerId) -> Result<()> {
    let asked = context.container(id)?.resources.oom_score_adj;
    if asked == 0 {
        return Ok(());
    }
    let value = oom_score_adj(asked, &context.settings().node)?;
    set_oom_score(context, id, value.into()).await
}

/// CRIU gives each process the OOM score that it had: they get what is asked for now.
pub(super) async fn restored(context: &Context, id: &ContainerId) -> Result<()> {
    if context.container(id)?.spec.spec.checkpoint.is_none() {
        return Ok(());
    }
    let path = context.layout().bundle(id.as_str()).join(bundle::CONFIG);
    let text = std::fs::read(&path).map_err(|e| ("read", path.as_path(), e).fail())?;
    let asked = from_json(&text)?.process.and_then(|process| process.oom_score_adj);
    set_oom_score(context, id, asked.unwrap_or_default().into()).await
}

async fn set_oom_score(context: &Context, id: &ContainerId, value: i64) -> Result<()> {
    let cgroup = context.shared.cgroups.at(&cgroup::path_of(context, id))?;
    blocking(move || {
        for pid in cgroup.processes()? {
            let path = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
            match std::fs::write(&path, value.to_string()) {
                Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                    return Err(("write", std::path::Path::new(&path), e).fail().into());
                }
                _ => {} // it has ended meanwhile
            }
        }
        Ok(())
    })
    .await
}
