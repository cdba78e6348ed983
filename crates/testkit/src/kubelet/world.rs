//! A node with a kubelet and a stand-in API server, and what a shape's check does with them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

use super::client::{self, Said};
use super::path::Address;
use super::process::Kubelet;
use super::serve::Server;
use super::store::{self, Store};
use crate::bed::Bed;
use crate::streams::{Session, Transport, Wants};

/// How long anything may take: back-off of the kubelet included.
const PATIENCE: Duration = Duration::from_secs(90);

/// Everything that a check may use.
#[derive(Debug)]
pub(super) struct World {
    // The kubelet goes first: the node's end waits for every process in it.
    pub(super) kubelet: Kubelet,
    server: Option<Server>,
    pub(super) store: Arc<Store>,
    pub(super) bed: Bed,
}

impl World {
    /// Starts the API server and the kubelet on a node, and waits until this is ready.
    ///
    /// # Errors
    /// If the kubelet ends, or does not become ready.
    pub(super) async fn make(bed: Bed, program: &Path, gates: &[String]) -> Result<Self> {
        let kubelet = Kubelet::prepare(program, &bed.node, gates)?;
        let mut world = Self { bed, store: Arc::new(Store::new()), kubelet, server: None };
        world.begin().await?;
        Ok(world)
    }

    /// As after a boot.
    ///
    /// # Errors
    /// As [`World::make`].
    pub(super) async fn begin(&mut self) -> Result<()> {
        self.server = Some(Server::start(self.bed.node.place()?, &self.store)?);
        self.start_kubelet().await
    }

    /// Ends kubelet, daemon and everything else as a power cut does, and boots.
    ///
    /// # Errors
    /// If it does not come up again.
    pub(super) async fn reboot(&mut self) -> Result<()> {
        self.kubelet.kill();
        self.server = None;
        self.bed.node.reboot()?;
        self.bed.node.registry()?;
        self.kubelet.furnish(&self.bed.node)?;
        self.bed.start().await?;
        self.begin().await
    }

    /// Starts the kubelet and waits until it says again that its node is ready.
    ///
    /// # Errors
    /// If it ends, or does not.
    pub(super) async fn start_kubelet(&mut self) -> Result<()> {
        let at = super::path::of_object("v1", "Node", super::defaults::NODE)?;
        // What an earlier one said is not this one's word.
        drop(self.store.modify(&at, |node| node["status"]["conditions"] = Value::Null));
        self.kubelet.start(&self.bed.node)?;
        let mut changes = self.store.changes();
        let ready = |node: &Value| condition(node, "Ready") == "True";
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.store.get(&at).is_some_and(|node| ready(&node)) {
            self.kubelet.runs()?;
            ensure!(tokio::time::Instant::now() < deadline, "the node does not become ready");
            // A kubelet that ends tells nobody.
            drop(tokio::time::timeout(Duration::from_secs(1), changes.changed()).await);
        }
        Ok(())
    }

    /// Creates the objects of a manifest.
    ///
    /// # Errors
    /// If it is not one, or an object exists.
    pub(super) fn apply(&self, manifest: &str) -> Result<()> {
        for object in serde_saphyr::from_multiple::<Value>(manifest)? {
            let (at, object) = store::placed(object)?;
            self.store.create(&at, object).map_err(|why| anyhow!("create {at:?}: {why:?}"))?;
        }
        Ok(())
    }

    /// Changes what is wished of an object.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn change(&self, at: &Address, change: impl FnOnce(&mut Value)) -> Result<()> {
        self.store.wish(at, change).map(drop).map_err(|why| anyhow!("change {at:?}: {why:?}"))
    }

    /// Waits until this is true of a pod.
    ///
    /// # Errors
    /// If it does not become true; with the pod's status.
    pub(super) async fn until(
        &self,
        pod: &str,
        what: &str,
        is: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        self.until_some(pod, what, |pod| pod.filter(|pod| is(pod)).cloned()).await
    }

    /// As [`World::until`], of a pod that may not be there.
    async fn until_some<T>(
        &self,
        pod: &str,
        what: &str,
        is: impl Fn(Option<&Value>) -> Option<T>,
    ) -> Result<T> {
        let at = Address::pod(pod);
        let mut changes = self.store.changes();
        let wait = async {
            loop {
                if let Some(found) = is(self.store.get(&at).as_ref()) {
                    return Ok(found);
                }
                changes.changed().await.context("the store is gone")?;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(found) => found,
            Err(_) => {
                let status = self.store.get(&at).map(|pod| short(&pod)).unwrap_or_default();
                Err(anyhow!("{pod}: {what}: not so, but {status}"))
            }
        }
    }

    /// Waits until every container of a pod is ready.
    ///
    /// # Errors
    /// If one does not become so.
    pub(super) async fn ready(&self, pod: &str) -> Result<Value> {
        self.until(pod, "Ready", |pod| condition(pod, "Ready") == "True").await
    }

    /// Creates the objects of a manifest and waits until these pods are ready.
    ///
    /// # Errors
    /// As both.
    pub(super) async fn run(&self, manifest: &str, pods: &[&str]) -> Result<()> {
        self.apply(manifest)?;
        for pod in pods {
            self.ready(pod).await?;
        }
        Ok(())
    }

    /// Asks for a pod's end, and waits for it.
    ///
    /// # Errors
    /// If it does not come.
    pub(super) async fn delete(&self, pod: &str) -> Result<()> {
        let asked = self.store.ask_to_go(&Address::pod(pod));
        asked.map_err(|why| anyhow!("delete {pod}: {why:?}"))?;
        self.gone(pod).await
    }

    /// Waits until there is no such pod.
    ///
    /// # Errors
    /// If there still is.
    pub(super) async fn gone(&self, pod: &str) -> Result<()> {
        self.until_some(pod, "gone", |pod| pod.is_none().then_some(())).await
    }

    /// Runs a command, by SPDY.
    ///
    /// # Errors
    /// If the session fails.
    pub(super) async fn exec(&self, pod: &str, container: &str, words: &[&str]) -> Result<Said> {
        let how = (Transport::Spdy, Wants::OUTPUT);
        client::said(self.session(pod, container, words, how).await?).await
    }

    /// Begins a command.
    ///
    /// # Errors
    /// If the kubelet refuses.
    pub(super) async fn session(
        &self,
        pod: &str,
        container: &str,
        words: &[&str],
        how: (Transport, Wants),
    ) -> Result<Session> {
        client::exec(self.way(), (pod, container), words, how).await
    }

    /// Runs a line and returns what it says, without the last newline.
    ///
    /// # Errors
    /// If it fails.
    pub(super) async fn sh(&self, pod: &str, container: &str, line: &str) -> Result<String> {
        let said = self.exec(pod, container, &["sh", "-c", line]).await?;
        let text = String::from_utf8_lossy(&said.stdout).trim_end_matches('\n').to_owned();
        ensure!(said.code == 0, "`{line}` in {pod}: {} {text} {}", said.code, said.stderr);
        Ok(text)
    }

    /// Demands that a line says this.
    ///
    /// # Errors
    /// If it does not.
    pub(super) async fn says(
        &self,
        pod: &str,
        container: &str,
        line: &str,
        text: &str,
    ) -> Result<()> {
        let said = self.sh(pod, container, line).await?;
        ensure!(said == text, "`{line}` in {pod} says {said:?}, not {text:?}");
        Ok(())
    }

    /// Waits until a line says this.
    ///
    /// # Errors
    /// If it does not.
    pub(super) async fn will_say(
        &self,
        pod: &str,
        container: &str,
        line: &str,
        text: &str,
    ) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let said = self.says(pod, container, line, text).await;
            if said.is_ok() || tokio::time::Instant::now() > deadline {
                return said;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits for an event of this reason on a pod; gives its message.
    ///
    /// # Errors
    /// If none comes.
    pub(super) async fn event(&self, pod: &str, reason: &str) -> Result<String> {
        let of = Address::core("events", super::path::NAMESPACE, "");
        let ask = async || {
            let (_, events) = self.store.list(&of);
            let own = |event: &&Value| {
                event["involvedObject"]["name"] == pod && event["reason"] == reason
            };
            let found = events.iter().find(own);
            Ok(found.map(|event| event["message"].as_str().unwrap_or_default().to_owned()))
        };
        self.patiently(&format!("no event {reason} of {pod}"), ask).await
    }

    /// Asks again and again, for what takes a kubelet up to its own periods.
    ///
    /// # Errors
    /// What `ask` returns, or `what` if there is never an answer.
    pub(super) async fn patiently<T>(
        &self,
        what: &str,
        mut ask: impl AsyncFnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask().await? {
                return Ok(answer);
            }
            ensure!(tokio::time::Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// What the kubelet answers.
    ///
    /// # Errors
    /// If it refuses.
    pub(super) async fn get(&self, path: &str) -> Result<String> {
        client::get(&self.bed.node, &self.kubelet, path).await
    }

    /// What leads to the kubelet.
    pub(super) fn way(&self) -> (&crate::node::Node, &Kubelet) {
        (&self.bed.node, &self.kubelet)
    }
}

/// The status of a condition.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let own = conditions.filter(|own| own["type"] == kind).find_map(|own| own["status"].as_str());
    own.unwrap_or("")
}

/// The status of a container of any kind.
pub(super) fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    const LISTS: [&str; 3] =
        ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let all = LISTS.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    all.into_iter().find(|own| own["name"] == name).unwrap_or(&Value::Null)
}

/// What a failure tells of a pod.
fn short(pod: &Value) -> String {
    let status = &pod["status"];
    format!(
        "{} {} {} init {} ephemeral {}",
        status["phase"],
        status["message"],
        status["containerStatuses"],
        status["initContainerStatuses"],
        status["ephemeralContainerStatuses"]
    )
}

/// How often a container was begun anew.
pub(super) fn restarts(pod: &Value, name: &str) -> u64 {
    container(pod, name)["restartCount"].as_u64().unwrap_or_default()
}
