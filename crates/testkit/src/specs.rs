//! Pod and container configurations, built so that a test names only what it is about.

use std::sync::atomic::{AtomicU64, Ordering};

use berth_proto::cri::v1 as cri;

/// A pod to run.
#[derive(Clone, Debug)]
pub struct Pod {
    config: cri::PodSandboxConfig,
    handler: String,
}

impl Pod {
    /// A pod of this name in the namespace `tests`, with a uid of its own.
    #[must_use]
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let metadata = cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("{name}-{count}"),
            namespace: "tests".to_owned(),
            attempt: 0,
        };
        let config = cri::PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    // What the kubelet sends for an ordinary pod: a PID namespace per container.
                    namespace_options: Some(cri::NamespaceOption {
                        pid: cri::NamespaceMode::Container as i32,
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        Self { config, handler: String::new() }
    }

    /// The next attempt at the same pod.
    #[must_use]
    pub fn attempt(self, attempt: u32) -> Self {
        self.with(|config| config.metadata.get_or_insert_default().attempt = attempt)
    }

    /// Run by this handler.
    #[must_use]
    pub fn by(mut self, handler: &str) -> Self {
        handler.clone_into(&mut self.handler);
        self
    }

    /// Container logs go below this directory.
    #[must_use]
    pub fn logs(self, dir: impl AsRef<std::path::Path>) -> Self {
        self.with(|config| config.log_directory = dir.as_ref().display().to_string())
    }

    /// Forwards a port of the node.
    #[must_use]
    pub fn port(self, host: i32, container: i32) -> Self {
        self.with(|config| {
            config.port_mappings.push(cri::PortMapping {
                protocol: cri::Protocol::Tcp as i32,
                container_port: container,
                host_port: host,
                host_ip: String::new(),
            });
        })
    }

    /// Sets a label.
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        self.with(|config| drop(config.labels.insert(key.to_owned(), value.to_owned())))
    }

    /// Sets a sysctl.
    #[must_use]
    pub fn sysctl(self, key: &str, value: &str) -> Self {
        self.linux(|linux| drop(linux.sysctls.insert(key.to_owned(), value.to_owned())))
    }

    /// Sets the cgroup parent.
    #[must_use]
    pub fn cgroup_parent(self, path: &str) -> Self {
        self.linux(|linux| path.clone_into(&mut linux.cgroup_parent))
    }

    /// Changes the namespace modes.
    #[must_use]
    pub fn namespaces(self, change: impl FnOnce(&mut cri::NamespaceOption)) -> Self {
        self.security(|security| change(security.namespace_options.get_or_insert_default()))
    }

    /// On the node's network.
    #[must_use]
    pub fn host_network(self) -> Self {
        self.namespaces(|modes| modes.network = cri::NamespaceMode::Node as i32)
    }

    /// One PID namespace for all containers of the pod.
    #[must_use]
    pub fn shared_pid(self) -> Self {
        self.namespaces(|modes| modes.pid = cri::NamespaceMode::Pod as i32)
    }

    /// A user namespace whose ids 0 to 65535 are these of the node.
    #[must_use]
    pub fn user_namespace(self, first: u32) -> Self {
        let map = || vec![cri::IdMapping { host_id: first, container_id: 0, length: 65536 }];
        self.namespaces(|modes| {
            modes.userns_options = Some(cri::UserNamespace {
                mode: cri::NamespaceMode::Pod as i32,
                uids: map(),
                gids: map(),
            });
        })
    }

    /// Changes the security context.
    #[must_use]
    pub fn security(self, change: impl FnOnce(&mut cri::LinuxSandboxSecurityContext)) -> Self {
        self.linux(|linux| change(linux.security_context.get_or_insert_default()))
    }

    /// Changes the Linux part.
    #[must_use]
    pub fn linux(self, change: impl FnOnce(&mut cri::LinuxPodSandboxConfig)) -> Self {
        self.with(|config| change(config.linux.get_or_insert_default()))
    }

    /// Changes anything.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut cri::PodSandboxConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// The message.
    #[must_use]
    pub fn config(&self) -> cri::PodSandboxConfig {
        self.config.clone()
    }

    /// The handler's name.
    #[must_use]
    pub fn handler(&self) -> String {
        self.handler.clone()
    }
}

/// A container to create.
#[derive(Clone, Debug)]
pub struct Container {
    config: cri::ContainerConfig,
}

impl Container {
    /// A container of this name from this image, which logs to `NAME.0.log`.
    #[must_use]
    pub fn new(name: &str, image: &str) -> Self {
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(crate::cri::image(image)),
            log_path: format!("{name}.0.log"),
            linux: Some(cri::LinuxContainerConfig::default()),
            ..Default::default()
        };
        Self { config }
    }

    /// A container that does nothing until it is told to end, and then ends at once.
    #[must_use]
    pub fn idle(name: &str, image: &str) -> Self {
        Self::new(name, image).shell("trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done")
    }

    /// Runs these words.
    #[must_use]
    pub fn command(self, words: &[&str]) -> Self {
        self.with(|config| config.command = words.iter().map(|&word| word.to_owned()).collect())
    }

    /// Runs this shell line.
    #[must_use]
    pub fn shell(self, line: &str) -> Self {
        self.command(&["sh", "-c", line])
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(self, key: &str, value: &str) -> Self {
        let pair = cri::KeyValue { key: key.to_owned(), value: value.as_bytes().to_vec() };
        self.with(|config| config.envs.push(pair))
    }

    /// Mounts a path of the node.
    #[must_use]
    pub fn mount(self, host: impl AsRef<std::path::Path>, inside: &str) -> Self {
        self.mount_with(host, inside, |_| ())
    }

    /// Mounts a path of the node, and says how.
    #[must_use]
    pub fn mount_with(
        self,
        host: impl AsRef<std::path::Path>,
        inside: &str,
        change: impl FnOnce(&mut cri::Mount),
    ) -> Self {
        let mut mount = cri::Mount {
            host_path: host.as_ref().display().to_string(),
            container_path: inside.to_owned(),
            ..Default::default()
        };
        change(&mut mount);
        self.with(|config| config.mounts.push(mount))
    }

    /// Changes the security context.
    #[must_use]
    pub fn security(self, change: impl FnOnce(&mut cri::LinuxContainerSecurityContext)) -> Self {
        self.linux(|linux| change(linux.security_context.get_or_insert_default()))
    }

    /// Changes the resources.
    #[must_use]
    pub fn resources(self, change: impl FnOnce(&mut cri::LinuxContainerResources)) -> Self {
        self.linux(|linux| change(linux.resources.get_or_insert_default()))
    }

    /// Changes the Linux part.
    #[must_use]
    pub fn linux(self, change: impl FnOnce(&mut cri::LinuxContainerConfig)) -> Self {
        self.with(|config| change(config.linux.get_or_insert_default()))
    }

    /// Changes anything.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut cri::ContainerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// The message.
    #[must_use]
    pub fn config(&self) -> cri::ContainerConfig {
        self.config.clone()
    }
}
