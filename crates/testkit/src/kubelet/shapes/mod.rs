//! The shapes of pods, each with its manifest and what must be true inside of it.

mod access;
mod changes;
mod host;
mod life;
mod restarts;
mod streams;
mod trouble;
mod volumes;

use anyhow::Result;
use futures_util::future::LocalBoxFuture;

use super::world::World;

pub(super) use restarts::upheavals;

type Check = for<'a> fn(&'a World) -> LocalBoxFuture<'a, Result<String>>;

/// A shape: its name, its manifest's file, and a check that makes the pod and takes it away again.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) manifest: &'static str,
    /// Gives what was seen.
    pub(super) check: Check,
}

const fn shape(name: &'static str, manifest: &'static str, check: Check) -> Shape {
    Shape { name, manifest, check }
}

/// Every shape that needs no restart of anything.
pub(super) const ALL: [Shape; 25] = [
    shape("static pod and its mirror", "static", |world| Box::pin(life::static_pod(world))),
    shape("init containers and a sidecar", "init", |world| Box::pin(life::init(world))),
    shape("postStart and preStop", "hooks", |world| Box::pin(life::hooks(world))),
    shape("probes: exec, HTTP, TCP, gRPC", "probes", |world| Box::pin(life::probes(world))),
    shape("emptyDir, on disk and in memory", "emptydir", |world| Box::pin(volumes::empty(world))),
    shape("hostPath", "hostpath", |world| Box::pin(volumes::host_path(world))),
    shape("projected, ConfigMap, Secret", "projected", |world| Box::pin(volumes::projected(world))),
    shape("image volumes", "image", |world| Box::pin(volumes::image(world))),
    shape("read-only root", "readonly", |world| Box::pin(volumes::read_only(world))),
    shape("fsGroup and supplementalGroups", "groups", |world| Box::pin(access::groups(world))),
    shape("hostUsers: false", "users", |world| Box::pin(access::users(world))),
    shape("sysctls", "sysctls", |world| Box::pin(access::sysctls(world))),
    shape("custom DNS and hosts", "dns", |world| Box::pin(host::dns(world))),
    shape("hostNetwork, hostPID, hostIPC, privileged", "host", |world| Box::pin(host::all(world))),
    shape("hostPort", "hostport", |world| Box::pin(host::port(world))),
    shape("OOMKilled", "oom", |world| Box::pin(trouble::oom(world))),
    shape("back-off", "backoff", |world| Box::pin(trouble::back_off(world))),
    shape("RuntimeClass, valid and missing", "class", |world| Box::pin(trouble::class(world))),
    shape("ephemeral containers, shared PIDs", "debug", |world| Box::pin(changes::debug(world))),
    shape("in-place resize", "resize", |world| Box::pin(changes::resize(world))),
    shape("exec, by both transports", "streams", |world| Box::pin(streams::exec(world))),
    shape("attach, by both transports", "streams", |world| Box::pin(streams::attach(world))),
    shape("cp, 32 MiB each way", "streams", |world| Box::pin(streams::copy(world))),
    shape("port-forward, 32 MiB each way", "streams", |world| Box::pin(streams::forward(world))),
    shape("logs -f over rotations", "logs", |world| Box::pin(streams::logs(world))),
];
