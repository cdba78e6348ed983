//! An NRI plugin for tests: it connects as any other does, writes down what it is called, and does
//! what the test says.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use berth_nri::api::{
    ConfigureRequest, ConfigureResponse, Container, ContainerAdjustment, CreateContainerRequest,
    CreateContainerResponse, Empty, Event, PodSandbox, RegisterPluginRequest, RunPodSandboxRequest,
    StateChangeEvent, SynchronizeRequest, SynchronizeResponse, UpdateContainersRequest,
    UpdateContainersResponse,
};
use berth_nri::frame::Conn;
use berth_nri::peer::{Answer, Handler, Peer, code};
use prost::Message;
use tokio::net::UnixStream;

use crate::bed::eventually;
use crate::node::Node;

/// Where plugins register on a node.
pub const SOCKET: &str = "/run/nri/nri.sock";

/// How long a call of the plugin may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A call that a plugin has got.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its name; of StateChange, that and the event.
    pub name: String,
    /// The pod that it is about.
    pub pod: PodSandbox,
    /// The container that it is about.
    pub container: Container,
    /// Of Synchronize: all containers, by their names.
    pub all: Vec<String>,
}

/// What a plugin does with a call.
pub enum Does {
    /// It answers this.
    Answer(Vec<u8>),
    /// It refuses.
    Refuse(&'static str),
    /// It never answers.
    Hang,
    /// It has no such call.
    Lacks,
    /// It answers when it is told to.
    Wait(Arc<tokio::sync::Semaphore>),
}

/// Says what to do with a call, by its name and its encoded request; none: nothing particular.
pub type Behaviour = Arc<dyn Fn(&str, &[u8]) -> Option<Does> + Send + Sync>;

/// Does nothing particular.
#[must_use]
pub fn quiet() -> Behaviour {
    Arc::new(|_, _| None)
}

/// Adjusts each container of this name (or each, if it is "") like this.
#[must_use]
pub fn adjusts(name: &'static str, adjust: ContainerAdjustment) -> Behaviour {
    Arc::new(move |call, request| {
        if call != "CreateContainer" {
            return None;
        }
        let request = CreateContainerRequest::decode(request).ok()?;
        let meant = name.is_empty() || request.container?.name == name;
        let answer = CreateContainerResponse { adjust: Some(adjust.clone()), ..Default::default() };
        meant.then(|| Does::Answer(answer.encode_to_vec()))
    })
}

/// A connected plugin; dropping it closes its connection.
pub struct Plugin {
    peer: Peer,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Plugin {
    /// Connects to a node, registers, and waits until it has been given the state. It hears of
    /// everything but validations.
    ///
    /// # Errors
    /// If the daemon does not let it in.
    pub async fn join(node: &Node, index: &str, name: &str, does: Behaviour) -> Result<Plugin> {
        let plugin = Plugin::register(node, index, name, (0, does)).await?;
        let given = async || {
            if let Some(why) = plugin.peer.lost() {
                bail!("the plugin is not let in: {why}");
            }
            let calls = plugin.calls();
            Ok(calls.iter().any(|call| call.name == "Synchronize").then_some(()))
        };
        eventually(|| "the plugin is never given the state".to_owned(), given).await?;
        Ok(plugin)
    }

    /// Connects and registers, and waits for nothing more. `events` is what it wants to hear of.
    ///
    /// # Errors
    /// If it cannot connect, or is refused.
    pub async fn register(
        node: &Node,
        index: &str,
        name: &str,
        (events, does): (i32, Behaviour),
    ) -> Result<Plugin> {
        let path = node.path(SOCKET);
        let connect = async || Ok(UnixStream::connect(&path).await.ok());
        let socket =
            eventually(|| format!("nobody listens at {}", path.display()), connect).await?;
        Plugin::over(socket, index, name, (events, does)).await
    }

    async fn over(
        socket: UnixStream,
        index: &str,
        name: &str,
        (events, does): (i32, Behaviour),
    ) -> Result<Plugin> {
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let peer = Peer::new(socket, Conn::Runtime, handler(Arc::clone(&calls), events, does));
        let request = RegisterPluginRequest {
            plugin_name: name.to_owned(),
            plugin_idx: index.to_owned(),
            nri_version: String::new(),
        };
        peer.call::<Empty>("RegisterPlugin", &request, LIMIT).await.context("register")?;
        Ok(Plugin { peer, calls })
    }

    /// What it has been called so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The names of its calls so far, but for how it came in; they are forgotten.
    #[must_use]
    pub fn heard(&self) -> Vec<String> {
        let calls = std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner));
        let came_in = ["Configure", "Synchronize"];
        let names = calls.into_iter().map(|call| call.name);
        names.filter(|name| !came_in.contains(&name.as_str())).collect()
    }

    /// Waits until it has been called this.
    ///
    /// # Errors
    /// If it is not, for a long time.
    pub async fn hears(&self, name: &str) -> Result<Call> {
        let has = async || Ok(self.calls().into_iter().find(|call| call.name == name));
        eventually(|| format!("no {name}, only {:?}", self.calls()), has).await
    }

    /// Waits until the daemon has let it go; gives why, as this side sees it.
    ///
    /// # Errors
    /// If it does not, for a long time.
    pub async fn let_go(&self) -> Result<String> {
        let closed = tokio::time::timeout(LIMIT, self.peer.closed()).await;
        Ok(closed.context("the plugin is never let go")?.to_string())
    }

    /// Asks for updates though nobody has asked it.
    ///
    /// # Errors
    /// If the daemon refuses the call.
    pub async fn updates(
        &self,
        request: UpdateContainersRequest,
    ) -> Result<UpdateContainersResponse> {
        Ok(self.peer.call("UpdateContainers", &request, LIMIT).await?)
    }
}

fn handler(calls: Arc<Mutex<Vec<Call>>>, events: i32, does: Behaviour) -> Handler {
    Arc::new(move |method, request| {
        let (call, default) = read(&method, &request, events);
        let does = does(&method, &request);
        calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        let answer: Pin<Box<dyn Future<Output = Answer> + Send>> = match does {
            None => Box::pin(async { Ok(default) }),
            Some(Does::Answer(answer)) => Box::pin(async { Ok(answer) }),
            Some(Does::Refuse(why)) => Box::pin(async { Err((code::UNKNOWN, why.to_owned())) }),
            Some(Does::Lacks) => Box::pin(async { Err((code::UNIMPLEMENTED, "no".to_owned())) }),
            Some(Does::Hang) => Box::pin(std::future::pending()),
            Some(Does::Wait(gate)) => Box::pin(async move {
                let _ = gate.acquire().await;
                Ok(default)
            }),
        };
        answer
    })
}

/// What a call is about, and its usual answer. Requests about a pod, or a pod and a container, are
/// all of one form.
fn read(method: &str, request: &[u8], events: i32) -> (Call, Vec<u8>) {
    let mut call = Call {
        name: method.to_owned(),
        pod: PodSandbox::default(),
        container: Container::default(),
        all: Vec::new(),
    };
    let mut answer = Vec::new();
    match method {
        "Configure" => {
            let request = ConfigureRequest::decode(request).unwrap_or_default();
            call.all = vec![request.config];
            answer = ConfigureResponse { events }.encode_to_vec();
        }
        "Synchronize" => {
            let request = SynchronizeRequest::decode(request).unwrap_or_default();
            call.all = request.containers.iter().map(|one| one.name.clone()).collect();
            answer = SynchronizeResponse { update: Vec::new(), more: request.more }.encode_to_vec();
        }
        "StateChange" => {
            let request = StateChangeEvent::decode(request).unwrap_or_default();
            call.name = format!("StateChange {}", request.event().as_str_name());
            call.pod = request.pod.unwrap_or_default();
            call.container = request.container.unwrap_or_default();
        }
        "Shutdown" => {}
        _ if method.ends_with("PodSandbox") => {
            call.pod =
                RunPodSandboxRequest::decode(request).unwrap_or_default().pod.unwrap_or_default();
        }
        _ => {
            let request = CreateContainerRequest::decode(request).unwrap_or_default();
            call.pod = request.pod.unwrap_or_default();
            call.container = request.container.unwrap_or_default();
        }
    }
    (call, answer)
}

/// The mask for these events.
#[must_use]
pub fn mask(events: &[Event]) -> i32 {
    events.iter().map(|event| 1 << (*event as i32 - 1)).sum()
}

/// Runs as a plugin that a daemon has started, with its socket as stdin: writes each call as a line,
/// and ends with the connection.
///
/// # Errors
/// If the environment is not that of a plugin, or the file cannot be written.
pub async fn installed(calls: &Path) -> Result<()> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("the variable {name}"));
    let path = calls.to_owned();
    let write: Behaviour = Arc::new(move |method, request| {
        let config = match method {
            "Configure" => ConfigureRequest::decode(request).unwrap_or_default().config,
            _ => String::new(),
        };
        let file = std::fs::File::options().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| writeln!(file, "{method} {config}"));
        written.is_err().then_some(Does::Refuse("cannot write"))
    });
    let socket =
        std::os::unix::net::UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    let socket = UnixStream::from_std(socket).context("a socket as stdin")?;
    let (index, name) = (variable("NRI_PLUGIN_IDX")?, variable("NRI_PLUGIN_NAME")?);
    let plugin = Plugin::over(socket, &index, &name, (0, write)).await?;
    plugin.peer.closed().await;
    Ok(())
}
