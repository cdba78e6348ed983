//! One plugin: how it comes in, and how it is called.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prost::Message as _;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::api::{
    ConfigureRequest, ConfigureResponse, Container, Empty, Event, PodSandbox,
    RegisterPluginRequest, StateChangeEvent, UpdateContainersRequest, UpdateContainersResponse,
};
use crate::error::After;
use crate::frame::Conn;
use crate::peer::{Answer, Failure, Handler, Peer, code};
use crate::{Error, Runtime, Settings};

/// The version of NRI that its messages are of.
const NRI_VERSION: &str = "v0.12.0";

/// A plugin that has registered and been configured.
#[derive(Debug)]
pub(crate) struct Plugin {
    /// Two digits.
    pub(crate) index: String,
    pub(crate) name: String,
    /// Which one it is of several with this index and name.
    pub(crate) number: u32,
    pub(crate) peer: Peer,
    /// How long its answers took since it was last up to date, ns.
    spent: AtomicU64,
    /// What it wants to hear of, a bit for each.
    events: u32,
    /// What it hears of by StateChange, as plugins of before NRI 0.11 do.
    old: AtomicU32,
    /// The watch over its program, if we have started it.
    pub(crate) program: Option<Program>,
}

/// A plugin's program; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Program(pub(crate) JoinHandle<()>);

impl Drop for Program {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How a plugin comes in.
pub(crate) struct Incoming {
    pub(crate) socket: UnixStream,
    /// Index and name, if its program's name says them.
    pub(crate) named: Option<(String, String)>,
    /// Its configuration.
    pub(crate) config: String,
    pub(crate) program: Option<Program>,
}

/// Events that plugins of before NRI 0.11 hear of by StateChange.
const BY_STATE_CHANGE: [Event; 9] = [
    Event::RunPodSandbox,
    Event::PostUpdatePodSandbox,
    Event::StopPodSandbox,
    Event::RemovePodSandbox,
    Event::PostCreateContainer,
    Event::StartContainer,
    Event::PostStartContainer,
    Event::PostUpdateContainer,
    Event::RemoveContainer,
];

fn bit(event: Event) -> u32 {
    1 << (event as u32 - 1)
}

/// Every event that there is.
const ALL: u32 = (1 << (Event::Last as u32 - 1)) - 1;

/// The events that a plugin asks for. One that names none gets all but the validation, which it would
/// have to answer.
fn events(asked: i32) -> Result<u32, String> {
    match u32::try_from(asked) {
        Ok(0) => Ok(ALL & !bit(Event::ValidateContainerAdjustment)),
        Ok(asked) if asked & !ALL == 0 => Ok(asked),
        _ => Err(format!("it asks for events that there are not: {:#x}", asked & !(ALL as i32))),
    }
}

impl Plugin {
    /// Lets a plugin register, and configures it.
    ///
    /// # Errors
    /// It does not register in time, or its name or its answer is wrong.
    pub(crate) async fn welcome(
        incoming: Incoming,
        settings: &Settings,
        runtime: &Arc<dyn Runtime>,
    ) -> Result<Plugin, Error> {
        let known = incoming.named.as_ref().map(|(index, name)| format!("{index}-{name}"));
        let called = known.clone().unwrap_or_else(|| "(not registered)".to_owned());
        let wrong = |plugin: &str, why: String| Error::Register { plugin: plugin.to_owned(), why };
        let (registered, registration) = oneshot::channel();
        let handler = handler(registered, known, Arc::clone(runtime));
        let peer = Peer::new(incoming.socket, Conn::Plugin, handler);
        let waited = async {
            tokio::select! {
                said = registration => said.ok(),
                _ = peer.closed() => None,
            }
        };
        let said = match tokio::time::timeout(settings.registration, waited).await {
            Ok(Some(said)) => said,
            Ok(None) => {
                let why = peer.lost().unwrap_or_else(|| "it is gone".into());
                return Err(wrong(&called, format!("it has not registered: {why}")));
            }
            Err(_) => {
                let text = format!("it has not registered within {:?}", settings.registration);
                return Err(wrong(&called, text));
            }
        };
        let (index, name) = match incoming.named {
            Some(named) => named,
            None => (said.plugin_idx, said.plugin_name),
        };
        check_name(&index, &name).map_err(|why| wrong(&format!("{index}-{name}"), why))?;
        let request = ConfigureRequest {
            config: incoming.config,
            runtime_name: settings.runtime.0.clone(),
            runtime_version: settings.runtime.1.clone(),
            registration_timeout: millis(settings.registration),
            request_timeout: millis(settings.request),
            nri_version: NRI_VERSION.to_owned(),
        };
        let answer: Result<ConfigureResponse, Failure> =
            peer.call("Configure", &request, settings.request).await;
        let events = answer.map_err(|why| why.to_string()).and_then(|said| events(said.events));
        let events =
            events.map_err(|why| wrong(&format!("{index}-{name}"), format!("Configure: {why}")))?;
        let (old, spent, program) = (AtomicU32::new(0), AtomicU64::new(0), incoming.program);
        Ok(Plugin { index, name, number: 1, peer, spent, events, old, program })
    }

    /// Its index and name, and its number if there are several of these: what it is called in messages,
    /// and as an owner.
    pub(crate) fn full_name(&self) -> String {
        let (index, name) = (&self.index, &self.name);
        match self.number {
            1 => format!("{index}-{name}"),
            number => format!("{index}-{name} ({number})"),
        }
    }

    /// How long its answers took since nothing was waiting.
    pub(crate) fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Ordering::Relaxed))
    }

    /// Nothing waits for it.
    pub(crate) fn is_up_to_date(&mut self) {
        *self.spent.get_mut() = 0;
    }

    /// Does it want to hear of this?
    pub(crate) fn wants(&self, event: Event) -> bool {
        self.events & bit(event) != 0
    }

    /// Calls it; none: it has no such call, and so does not want it.
    pub(crate) async fn call<T: prost::Message + Default>(
        &self,
        method: &'static str,
        request: &impl prost::Message,
        settings: &Settings,
    ) -> Result<Option<T>, After> {
        self.call_within(method, request, settings.request).await
    }

    /// The same, with so much time for its answer.
    pub(crate) async fn call_within<T: prost::Message + Default>(
        &self,
        method: &'static str,
        request: &impl prost::Message,
        limit: Duration,
    ) -> Result<Option<T>, After> {
        let begin = Instant::now();
        let answer = self.peer.call(method, request, limit).await;
        let took = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.spent.fetch_add(took, Ordering::Relaxed);
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(Failure::Refused { code: code::UNIMPLEMENTED, .. }) => Ok(None),
            Err(why) => Err(why.into()),
        }
    }

    /// Tells it of an event by the call of that name, or as it was done before there were such.
    pub(crate) async fn tell(
        &self,
        event: Event,
        (method, request): (&'static str, &impl prost::Message),
        (pod, container): (&PodSandbox, Option<&Container>),
        settings: &Settings,
    ) -> Result<(), After> {
        if self.old.load(Ordering::Relaxed) & bit(event) == 0 {
            let told = self.call::<Empty>(method, request, settings).await?;
            if told.is_some() || !BY_STATE_CHANGE.contains(&event) {
                return Ok(());
            }
            self.old.fetch_or(bit(event), Ordering::Relaxed);
        }
        let (pod, container) = (Some(pod.clone()), container.cloned());
        let request = StateChangeEvent { event: event as i32, pod, container };
        self.call::<Empty>("StateChange", &request, settings).await.map(drop)
    }
}

/// What a plugin has answered. One that is lost over a call is no reason for it to fail.
pub(crate) fn survived<T: Default>(
    plugin: &Plugin,
    call: &'static str,
    answer: Result<T, After>,
) -> Result<T, Error> {
    match answer {
        Ok(answer) => Ok(answer),
        Err(After::Refused(message)) => {
            Err(Error::Refused { plugin: plugin.full_name(), call, message })
        }
        Err(After::Lost(why)) => {
            plugin.peer.close(&format!("{call}: {why}"));
            Ok(T::default())
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// An index has two digits, and a name only characters that files and annotations take.
pub(crate) fn check_name(index: &str, name: &str) -> Result<(), String> {
    if index.len() != 2 || !index.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(format!("its index {index:?} must be two digits"));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
    match !name.is_empty() && name.len() <= 255 && name.bytes().all(plain) {
        true => Ok(()),
        false => Err(format!("its name {name:?} may have letters, digits and _ . + - only")),
    }
}

/// Serves what a plugin calls. `known` is its name, if its program's name has said it.
fn handler(
    registered: oneshot::Sender<RegisterPluginRequest>,
    known: Option<String>,
    runtime: Arc<dyn Runtime>,
) -> Handler {
    struct Called {
        registration: Mutex<Option<oneshot::Sender<RegisterPluginRequest>>>,
        name: Mutex<Option<String>>,
        runtime: Arc<dyn Runtime>,
    }
    let called = Arc::new(Called {
        registration: Mutex::new(Some(registered)),
        name: Mutex::new(known),
        runtime,
    });
    Arc::new(move |method, request| {
        let called = Arc::clone(&called);
        Box::pin(async move {
            let registration =
                || called.registration.lock().unwrap_or_else(PoisonError::into_inner);
            match method.as_str() {
                "RegisterPlugin" => {
                    let request = decode::<RegisterPluginRequest>(&request)?;
                    let mut name = called.name.lock().unwrap_or_else(PoisonError::into_inner);
                    if name.is_none() {
                        check_name(&request.plugin_idx, &request.plugin_name)
                            .map_err(|why| (code::INVALID_ARGUMENT, why))?;
                        *name = Some(format!("{}-{}", request.plugin_idx, request.plugin_name));
                    }
                    drop(name);
                    let Some(waiting) = registration().take() else {
                        let text = "it has registered already".to_owned();
                        return Err((code::INVALID_ARGUMENT, text));
                    };
                    // Who does not wait any more has dropped the connection, too.
                    let _ = waiting.send(request);
                    Ok(Empty {}.encode_to_vec())
                }
                "UpdateContainers" if registration().is_some() => {
                    Err((code::INVALID_ARGUMENT, "register first".to_owned()))
                }
                "UpdateContainers" => {
                    let request = decode::<UpdateContainersRequest>(&request)?;
                    let name = called.name.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    update(&*called.runtime, &name.unwrap_or_default(), request).await
                }
                _ => Err((code::UNIMPLEMENTED, format!("there is no call {method:?}"))),
            }
        })
    })
}

fn decode<T: prost::Message + Default>(bytes: &[u8]) -> Result<T, (i32, String)> {
    T::decode(bytes).map_err(|why| (code::INVALID_ARGUMENT, format!("no such request: {why}")))
}

/// What a plugin asks for though nobody has asked it.
async fn update(runtime: &dyn Runtime, plugin: &str, request: UpdateContainersRequest) -> Answer {
    tracing::info!(
        plugin,
        updates = request.update.len(),
        evictions = request.evict.len(),
        "an NRI plugin asks for updates"
    );
    for eviction in request.evict {
        let id = eviction.container_id.clone();
        if let Err(why) = runtime.evict(eviction).await {
            return Err((code::UNKNOWN, format!("cannot evict container {id}: {why}")));
        }
    }
    let failed = runtime.update(request.update).await;
    let failed = failed.into_iter().map(|(update, why)| {
        let container = &update.container_id;
        tracing::warn!(plugin, container, error = %why, "what an NRI plugin asked for does not work");
        update
    });
    Ok(UpdateContainersResponse { failed: failed.collect() }.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_bits() {
        assert_eq!(events(0).unwrap() & bit(Event::ValidateContainerAdjustment), 0);
        assert_ne!(events(0).unwrap() & bit(Event::PostUpdatePodSandbox), 0);
        assert_eq!(
            events(0b1001).unwrap(),
            bit(Event::RunPodSandbox) | bit(Event::CreateContainer)
        );
        assert!(events(1 << 14).unwrap_err().contains("0x4000"));
        assert!(events(-1).is_err());
    }

    #[test]
    fn names_are_checked() {
        check_name("05", "topology-aware.v1_x+y").unwrap();
        for (index, name) in [("5", "a"), ("ab", "a"), ("005", "a"), ("05", ""), ("05", "a/b")] {
            check_name(index, name).unwrap_err();
        }
    }
}
