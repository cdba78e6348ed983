//! The stand-in API server: as much of Kubernetes' HTTP API as a kubelet uses, over [`Store`].

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use anyhow::{Context as _, Result};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::path::{self, Address};
use super::store::{Refused, Store, patch};
use crate::place::Place;

/// Where the server is, on the node's loopback.
pub(super) const PORT: u16 = 6080;
/// A token's end; the kubelet asks for another only when it is near.
const FAR: &str = "2099-01-01T00:00:00Z";

/// A server that listens; it ends on drop.
#[derive(Debug)]
pub(super) struct Server(tokio::task::JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Server {
    /// Serves the objects on a loopback.
    ///
    /// # Errors
    /// If its port is taken there.
    pub(super) fn start(place: &Place, store: &Arc<Store>) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let listener = place.visit(|| TcpListener::bind(address).context("listen"))?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let store = Arc::clone(store);
        Ok(Self(tokio::spawn(async move {
            // Connections end with the server.
            let mut open = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let store = Arc::clone(&store);
                open.spawn(async move {
                    let service = service_fn(|request| answer(&store, request));
                    // A client that goes away is no failure.
                    let served =
                        http1::Builder::new().serve_connection(TokioIo::new(socket), service);
                    drop(served.await);
                });
                while open.try_join_next().is_some() {}
            }
        })))
    }
}

/// A body that is there, or comes bit by bit.
enum Answer {
    Whole(Option<Bytes>),
    Bits(mpsc::Receiver<Bytes>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take()),
            Self::Bits(bits) => bits.poll_recv(task),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

async fn answer(
    store: &Arc<Store>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let (head, body) = request.into_parts();
    let uri = head.uri;
    let query = uri.query().unwrap_or_default();
    let given = read(body).await;
    let Some((at, below)) = path::parse(uri.path()) else {
        return Ok(refuse(Refused::NotFound));
    };
    let at = selected(at, query);
    if head.method == Method::GET
        && query.split('&').any(|word| ["watch=true", "watch=1"].contains(&word))
    {
        return Ok(watch(store, at, query));
    }
    Ok(match act(store, &head.method, &at, &below, given) {
        Ok(object) => whole(StatusCode::OK, &object),
        Err(refused) => refuse(refused),
    })
}

/// Narrows a collection to the one object that a field selector names.
fn selected(at: Address, query: &str) -> Address {
    let name = query.split('&').find_map(|word| {
        let selector = word.strip_prefix("fieldSelector=")?;
        selector.strip_prefix("metadata.name%3D").or(selector.strip_prefix("metadata.name="))
    });
    match name {
        Some(name) if at.name.is_empty() => at.named(name),
        _ => at,
    }
}

fn act(
    store: &Store,
    method: &Method,
    at: &Address,
    below: &str,
    given: Value,
) -> Result<Value, Refused> {
    match (method, below) {
        (&Method::GET, _) if at.name.is_empty() => Ok(list(store, at)),
        (&Method::GET, _) => store.get(at).ok_or(Refused::NotFound),
        (&Method::POST, "token") => {
            let mut token = given;
            token["status"] =
                json!({"token": "a-token-of-the-testkit", "expirationTimestamp": FAR});
            Ok(token)
        }
        (&Method::POST, _) => {
            let name = given["metadata"]["name"].as_str().unwrap_or_default();
            store.create(&at.named(name), given.clone())
        }
        (&Method::PUT, "status") => {
            store.modify(at, |object| object["status"] = given["status"].clone())
        }
        (&Method::PUT, _) => store.modify(at, |object| {
            let uid = object["metadata"]["uid"].clone();
            *object = given;
            object["metadata"]["uid"] = uid;
        }),
        (&Method::PATCH, _) => store.modify(at, |object| patch(object, &given)),
        (&Method::DELETE, _) if at.name.is_empty() => {
            let (_, objects) = store.list(at);
            for object in objects {
                store.delete(&at.named(object["metadata"]["name"].as_str().unwrap_or_default()))?;
            }
            Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
        }
        (&Method::DELETE, _)
            if at.resource == "pods" && given["gracePeriodSeconds"] != json!(0) =>
        {
            store.ask_to_go(at)
        }
        (&Method::DELETE, _) => store.delete(at),
        _ => Err(Refused::NotFound),
    }
}

fn list(store: &Store, at: &Address) -> Value {
    let (version, items) = store.list(at);
    json!({
        "kind": format!("{}List", path::kind(&at.resource)), "apiVersion": at.version(),
        "metadata": {"resourceVersion": version.to_string()}, "items": items,
    })
}

/// Tells changes for as long as the client listens; first what is there, if it asks for that.
fn watch(store: &Arc<Store>, at: Address, query: &str) -> Response<Answer> {
    let value =
        |name: &str| query.split('&').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let known = match value("sendInitialEvents") {
        Some("true") => None,
        _ => Some(value("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0)),
    };
    let (tell, bits) = mpsc::channel(16);
    let store = Arc::clone(store);
    tokio::spawn(async move {
        // It ends with the client.
        drop(follow(&store, &at, known, &tell).await);
    });
    let mut response = Response::new(Answer::Bits(bits));
    typed(&mut response);
    response
}

async fn follow(
    store: &Store,
    at: &Address,
    known: Option<u64>,
    tell: &mpsc::Sender<Bytes>,
) -> Result<()> {
    let mut changes = store.changes();
    let mut known = match known {
        Some(known) => known,
        None => {
            let (version, items) = store.list(at);
            for item in items {
                event(tell, "ADDED", &item).await?;
            }
            let end = json!({
                "kind": path::kind(&at.resource), "apiVersion": at.version(),
                "metadata": {
                    "resourceVersion": version.to_string(),
                    "annotations": {"k8s.io/initial-events-end": "true"},
                },
            });
            event(tell, "BOOKMARK", &end).await?;
            version
        }
    };
    loop {
        let (version, new) = store.since(at, known);
        for change in new {
            event(tell, change.kind, &change.object).await?;
        }
        known = version;
        tokio::select! {
            changed = changes.wait_for(|now| *now > known) => drop(changed?),
            () = tell.closed() => return Ok(()),
        }
    }
}

async fn event(tell: &mpsc::Sender<Bytes>, kind: &str, object: &Value) -> Result<()> {
    let line = format!("{}\n", json!({"type": kind, "object": object}));
    tell.send(Bytes::from(line)).await.context("the client has gone")
}

/// A request's body as JSON; null if it has none.
async fn read(mut body: Incoming) -> Value {
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|task| Pin::new(&mut body).poll_frame(task)).await
    {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => bytes.extend(data),
            Ok(Err(_)) => {}
            Err(_) => return Value::Null,
        }
    }
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn refuse(refused: Refused) -> Response<Answer> {
    let (code, reason) = match refused {
        Refused::NotFound => (StatusCode::NOT_FOUND, "NotFound"),
        Refused::AlreadyExists => (StatusCode::CONFLICT, "AlreadyExists"),
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
        "message": reason, "code": code.as_u16(),
    });
    whole(code, &status)
}

fn whole(code: StatusCode, object: &Value) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Some(Bytes::from(object.to_string()))));
    *response.status_mut() = code;
    typed(&mut response);
    response
}

fn typed(response: &mut Response<Answer>) {
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
}
