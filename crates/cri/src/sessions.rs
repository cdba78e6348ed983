//! What the streaming server asks for, done by the lifecycle.

use async_trait::async_trait;
use berth_lifecycle::{Node, Size, Streams};
use berth_streaming::{Attach, Backend, BoxDuplex, Exec, Failure};
use tokio::sync::mpsc;

/// The sessions in the pods of a node.
pub struct Sessions(Node);

impl Sessions {
    /// Those of this node.
    pub fn new(node: Node) -> Self {
        Self(node)
    }
}

fn failure(why: berth_lifecycle::Error) -> Failure {
    Failure(why.to_string())
}

/// The same streams, and a future that carries the sizes along as long as it is polled.
fn streams(of: berth_streaming::Streams) -> (Streams, impl Future<Output = ()>) {
    let (tell, resize) = mpsc::channel(1);
    let mut sizes = of.resize;
    let carry = async move {
        while let Some(size) = sizes.recv().await {
            let size = Size { columns: size.columns, rows: size.rows };
            if tell.send(size).await.is_err() {
                return;
            }
        }
    };
    (Streams { stdin: of.stdin, stdout: of.stdout, stderr: of.stderr, resize }, carry)
}

/// Waits for the session, and does the other as long as that takes.
async fn beside<T>(session: impl Future<Output = T>, carry: impl Future<Output = ()>) -> T {
    let rest = async {
        carry.await;
        std::future::pending().await
    };
    tokio::select! {
        ended = session => ended,
        never = rest => never,
    }
}

#[async_trait]
impl Backend for Sessions {
    async fn exec(&self, request: Exec, of: berth_streaming::Streams) -> Result<i32, Failure> {
        let (streams, carry) = streams(of);
        let session = self.0.exec(&request.container, &request.command, request.tty, streams);
        beside(session, carry).await.map_err(failure)
    }

    async fn attach(&self, request: Attach, of: berth_streaming::Streams) -> Result<(), Failure> {
        let (streams, carry) = streams(of);
        beside(self.0.attach(&request.container, streams), carry).await.map_err(failure)
    }

    async fn port_forward(
        &self,
        pod: &str,
        port: u16,
        connection: BoxDuplex,
    ) -> Result<(), Failure> {
        self.0.port_forward(pod, port, connection).await.map_err(failure)
    }
}
