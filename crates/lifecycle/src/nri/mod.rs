//! What NRI plugins are asked and told of pods and containers, and what comes of it.
//!
//! ```text
//!   effects ── ask ──▶ RunPodSandbox, StopPodSandbox, CreateContainer, StartContainer
//!   calls ──── ask ──▶ UpdatePodSandbox, UpdateContainer;  tell ──▶ PostUpdate…
//!   saves ──── tell ─▶ PostCreate, PostStart, StopContainer, RemoveContainer, RemovePodSandbox
//! ```
//!
//! While there is no plugin, a creation is noted until it is listed, and that is all.

mod adjust;
mod changes;
mod describe;
mod limits;
mod runtime;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_nri::api::ContainerAdjustment;
use berth_nri::{Nri, Others, Settings};
use berth_oci::{Spec, from_json, update_resources};
use berth_pod::record::{ContainerRecord, Failure, PodFact, PodRecord, PodResources, SandboxFact};
use berth_pod::spec::Resources;
use berth_pod::{ContainerId, Kind, SandboxId};

use crate::effect::{Context, Result};
use crate::layout::Layout;
use crate::shared::Shared;

/// How long a creation or an update waits for what plugins want of other containers.
const OTHERS: Duration = Duration::from_secs(5);

/// The plugins, and what they have been told that no record says.
pub(crate) struct Plugins {
    nri: Nri,
    /// They are to be started.
    enabled: bool,
    /// Sandboxes of whose stop they know: a release is tried again until it works.
    stopped: Mutex<HashSet<SandboxId>>,
}

impl Plugins {
    /// As these settings have them; none: there are no plugins.
    pub(crate) fn new(settings: Option<Settings>) -> Self {
        let enabled = settings.is_some();
        let nri = Nri::new(settings.unwrap_or_else(|| Settings {
            runtime: Default::default(),
            socket: None,
            plugins: PathBuf::new(),
            configs: PathBuf::new(),
            cgroups: Vec::new(),
            registration: Default::default(),
            request: Default::default(),
            required: Vec::new(),
            tolerate: String::new(),
        }));
        Self { nri, enabled, stopped: Mutex::default() }
    }

    /// A record of an earlier daemon: what of it has passed plugins and is not listed is noted, as if
    /// it had passed now.
    pub(crate) fn restored(&self, record: &PodRecord) {
        if !self.enabled {
            return;
        }
        if !record.answered && record.sandbox.held().is_some() {
            self.nri.pass(record.id.as_str());
        }
        for c in record.containers.values().filter(|c| !c.answered && c.bundle.held().is_some()) {
            self.nri.pass(c.id.as_str());
        }
    }

    /// Starts them, where there are to be any; the pods must be known by now.
    pub(crate) async fn start(&self, shared: &Arc<Shared>) {
        if !self.enabled {
            return;
        }
        let runtime = Arc::new(runtime::Pods(Arc::downgrade(shared)));
        if let Err(why) = self.nri.start(runtime).await {
            let advice = "free the socket, or give nri.socket another path, and start berth again";
            tracing::error!(error = %why, advice, "NRI plugins cannot register");
        }
    }

    /// Tells them that the daemon ends.
    pub(crate) async fn shut_down(&self) {
        self.nri.shut_down().await;
    }

    /// For the operator.
    pub(crate) fn report(&self) -> Vec<berth_nri::PluginReport> {
        self.nri.report()
    }

    fn stopped(&self) -> std::sync::MutexGuard<'_, HashSet<SandboxId>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What plugins said, as a failure of a step.
fn failure(why: &berth_nri::Error) -> Failure {
    let kind = match why.kind() {
        berth_nri::Kind::Invalid => Kind::Invalid,
        berth_nri::Kind::Unavailable => Kind::Unavailable,
        berth_nri::Kind::Broken => Kind::Broken,
    };
    Failure::new(kind, why.to_string())
}

impl crate::convert::Fail for berth_nri::Error {
    fn fail(self) -> Failure {
        failure(&self)
    }
}

/// The spec in a container's bundle, if there is one.
fn config(layout: Layout<'_>, id: &ContainerId) -> Option<Spec> {
    let text = std::fs::read(layout.bundle(id.as_str()).join("config.json")).ok()?;
    from_json(&text).ok()
}

/// The sandbox is up, and neither in the record nor listed yet.
pub(crate) async fn run_sandbox(context: &Context, fact: &SandboxFact) -> Result<()> {
    let nri = &context.shared.plugins.nri;
    if !nri.pass(context.record.id.as_str()) {
        return Ok(());
    }
    let mut record = PodRecord::clone(&context.record);
    record.hold(PodFact::Sandbox(fact.clone()));
    Ok(nri.run_pod_sandbox(describe::pod(&record)).await?)
}

/// The sandbox is to be stopped: its containers have ended, and everything else of it is there.
pub(crate) async fn stop_sandbox(context: &Context) {
    let (plugins, record) = (&context.shared.plugins, &context.record);
    // Of one that was never asked about nobody knows.
    let known = record.answered || plugins.nri.passed(record.id.as_str());
    if plugins.nri.active() && known && plugins.stopped().insert(record.id.clone()) {
        plugins.nri.stop_pod_sandbox(describe::pod(record)).await;
    }
}

/// What came of asking about a container that is being created.
#[derive(Debug, Default)]
pub(crate) struct Adjusted {
    /// Its limits, where a plugin has changed them.
    pub(crate) limits: Option<Box<Resources>>,
    adjust: ContainerAdjustment,
}

impl Adjusted {
    /// The CDI devices that it is to have as well.
    pub(crate) fn cdi_devices(&self) -> Vec<String> {
        self.adjust.cdi_devices.iter().map(|device| device.name.clone()).collect()
    }

    /// The sources of mounts that it is to have as well, with what their mounts must pass on.
    pub(crate) fn binds(&self) -> impl Iterator<Item = (&str, bool, bool)> {
        let new = self.adjust.mounts.iter();
        let new = new.filter(|mount| berth_nri::removal(&mount.destination).is_none());
        new.filter_map(|mount| {
            let has = |names: [&str; 2]| {
                mount.options.iter().any(|option| names.contains(&option.as_str()))
            };
            let bind = mount.r#type == "bind" || has(["bind", "rbind"]);
            let passes = (has(["shared", "rshared"]), has(["slave", "rslave"]));
            bind.then_some((mount.source.as_str(), passes.0, passes.1))
        })
    }

    /// Changes the spec as plugins want it.
    pub(crate) fn apply(self, context: &Context, spec: &mut Spec) -> Result<()> {
        let node = &context.settings().node;
        if let Some(limits) = &self.limits {
            update_resources(spec, limits, node)?;
        }
        let able = adjust::Able { node, extras: context.handler()?.facts.extras };
        Ok(adjust::apply(spec, self.adjust, able)?)
    }
}

/// A container whose spec this is, is about to be created.
pub(crate) async fn create_container(
    context: &Context,
    c: &ContainerRecord,
    spec: &Spec,
) -> Result<Adjusted> {
    let nri = &context.shared.plugins.nri;
    let name = &c.spec.spec.name.name;
    if !nri.pass(c.id.as_str()) {
        if nri.may_require(&context.record.spec.spec.annotations) {
            nri.check_required(&describe::pod(&context.record), name)?;
        }
        return Ok(Adjusted::default());
    }
    let (pod, shown) =
        (describe::pod(&context.record), describe::container(&context.record, c, Some(spec)));
    let (adjust, others) = nri.create_container(pod, shown).await?;
    let set = adjust.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let limits = set.map(limits::taken).filter(|set| *set != Resources::default());
    let limits = limits.map(|set| Box::new(set.over(&c.resources)));
    wait_for(others, &c.id).await;
    Ok(Adjusted { limits, adjust })
}

/// Waits a little for what plugins want of others beside this container: one that cannot be killed
/// must not hold it up.
async fn wait_for(others: Others, beside: &ContainerId) {
    if tokio::time::timeout(OTHERS, others.done()).await.is_err() {
        let container = beside.as_str();
        tracing::warn!(
            container,
            "what NRI plugins want of other containers is not done yet: it goes on without"
        );
    }
}

/// A container that has been made, with this process, is about to be started.
pub(crate) async fn start_container(context: &Context, id: &ContainerId, pid: u32) -> Result<()> {
    let nri = &context.shared.plugins.nri;
    if !nri.active() {
        return Ok(());
    }
    let c = context.container(id)?;
    let config = config(context.layout(), id);
    let mut shown = describe::container(&context.record, c, config.as_ref());
    shown.pid = pid;
    Ok(nri.start_container(describe::pod(&context.record), shown).await?)
}

/// A container's limits are to be changed: to what, and what plugins want besides has been done.
pub(crate) async fn update_container(
    shared: &Arc<Shared>,
    (pod, c): (&PodRecord, &ContainerRecord),
    asked: Resources,
) -> std::result::Result<Resources, Failure> {
    let nri = &shared.plugins.nri;
    if !nri.active() {
        return Ok(asked);
    }
    let config = config(Layout(&shared.settings), &c.id);
    let shown = describe::container(pod, c, config.as_ref());
    let told = nri.update_container(describe::pod(pod), shown, limits::shown(&asked)).await;
    let (to, others) = told.map_err(|why| failure(&why))?;
    let fixed = limits::unchangeable(&to);
    if !fixed.is_empty() {
        let text = format!(
            "an NRI plugin changes {} of container {}, which cannot be changed once it is created",
            fixed.join(", "),
            c.id
        );
        return Err(Failure::new(Kind::Unimplemented, text));
    }
    wait_for(others, &c.id).await;
    Ok(Resources { oom_score_adj: asked.oom_score_adj, ..limits::taken(&to) })
}

/// A pod's resources are to be changed to these.
pub(crate) async fn update_sandbox(
    shared: &Shared,
    record: &PodRecord,
    to: &PodResources,
) -> std::result::Result<(), Failure> {
    let nri = &shared.plugins.nri;
    if !nri.active() {
        return Ok(());
    }
    let [overhead, containers] =
        [&to.overhead, &to.containers].map(|resources| resources.as_ref().map(limits::shown));
    let told = nri.update_pod_sandbox(describe::pod(record), overhead, containers).await;
    told.map_err(|why| failure(&why))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use berth_nri::Runtime as _;
    use berth_nri::api::ContainerUpdate;
    use berth_pod::machine::Machine;
    use berth_pod::record::Slot;

    use super::*;
    use crate::pod_task::tests::{bed, container, pod, ready};

    #[test]
    fn what_passed_plugins_before_the_daemon_died_and_is_not_listed_is_noted() {
        let mut plugins = Plugins::new(None);
        plugins.enabled = true;
        let mut record = pod();
        let mut c = container();
        let (pod_id, c_id) = (record.id.clone(), c.id.clone());
        record.containers.insert(c_id.clone(), Arc::new(c.clone()));
        plugins.restored(&record);
        assert!(!plugins.nri.passed(pod_id.as_str()) && !plugins.nri.passed(c_id.as_str()));
        // Its sandbox is up, and the container's bundle is written.
        record.sandbox = Slot::Held(SandboxFact::default().into());
        c.bundle = Slot::Held(().into());
        record.containers.insert(c_id.clone(), Arc::new(c.clone()));
        plugins.restored(&record);
        assert!(plugins.nri.settle(pod_id.as_str()) && plugins.nri.settle(c_id.as_str()));
        (record.answered, c.answered) = (true, true);
        record.containers.insert(c_id.clone(), Arc::new(c));
        plugins.restored(&record);
        assert!(!plugins.nri.passed(pod_id.as_str()) && !plugins.nri.passed(c_id.as_str()));
    }

    #[tokio::test]
    async fn an_update_of_what_is_being_created_fails_and_of_what_is_gone_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let shared = bed(dir.path()).await;
        let mut record = ready(&dir.path().join("socket"));
        let c = container();
        let id = c.id.to_string();
        record.containers.insert(c.id.clone(), Arc::new(c));
        let (queue, _) = tokio::sync::mpsc::unbounded_channel();
        let view = crate::picture::view(&Machine::new(record), false, None);
        shared.registry.insert(view, queue);
        let pods = runtime::Pods(Arc::downgrade(&shared));
        let one = |id: &str| ContainerUpdate { container_id: id.into(), ..Default::default() };
        let failed = pods.update(vec![one("f00d"), one(&id)]).await;
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(failed[0].0, one(&id));
        assert!(failed[0].1.contains("being created"), "{failed:?}");
    }

    #[tokio::test]
    async fn a_pod_that_is_gone_is_forgotten_also_without_a_plugin() {
        let dir = tempfile::tempdir().unwrap();
        let (shared, record) = (bed(dir.path()).await, Arc::new(pod()));
        shared.plugins.stopped().insert(record.id.clone());
        shared.plugins.saved(&shared, Some(&record), None);
        assert!(shared.plugins.stopped().is_empty());
    }

    #[test]
    fn annotations_are_shown_as_a_plugin_has_left_them() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        let mut c = container();
        let mut asked = c.spec.spec.clone();
        asked.annotations = map(&[("a", "asked"), ("b", "asked")]);
        let admitted = berth_pod::spec::Admitted { spec: asked, ..(*c.spec).clone() };
        c.spec = admitted.into();
        let config = Spec { annotations: map(&[("a", "set"), ("c", "set")]), ..Spec::default() };
        let shown = describe::container(&pod(), &c, Some(&config));
        assert_eq!(shown.annotations, map(&[("a", "set"), ("b", "asked"), ("c", "set")]));
    }
}
