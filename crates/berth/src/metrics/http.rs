//! As much of HTTP/1.1 as a scrape needs: one GET, one answer, and the connection closes.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// A request's head that is larger is no scrape.
const LARGEST_HEAD: usize = 8 << 10;

/// Who says nothing for that long is let go.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many are served at the same time.
const CONNECTIONS: usize = 8;

/// Makes the text of an answer.
pub(crate) type Gather = Arc<dyn Fn() -> String + Send + Sync>;

/// Serves for ever.
pub(crate) async fn serve(listener: TcpListener, gather: Gather) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                // Out of descriptors, mostly: wait for better times.
                tracing::warn!(%error, "metrics: cannot accept a connection");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let gather = Arc::clone(&gather);
        tokio::spawn(async move {
            let _slot = slot;
            // A scraper that goes away is its own affair.
            let _ = tokio::time::timeout(PATIENCE, answer(connection, &gather)).await;
        });
    }
}

async fn answer(mut connection: TcpStream, gather: &Gather) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut piece = [0; 1024];
        let count = connection.read(&mut piece).await?;
        if count == 0 || head.len() + count > LARGEST_HEAD {
            return Ok(());
        }
        head.extend_from_slice(&piece[..count]);
    }
    let reply = reply(&head, gather);
    connection.write_all(reply.as_bytes()).await?;
    connection.shutdown().await
}

fn reply(head: &[u8], gather: &Gather) -> String {
    let line = String::from_utf8_lossy(head);
    let mut words = line.split_ascii_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let (status, kind, body) = match (method, path) {
        ("GET", "/metrics") => {
            ("200 OK", "application/openmetrics-text; version=1.0.0; charset=utf-8", gather())
        }
        ("GET", _) => ("404 Not Found", "text/plain", "metrics are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", "use GET\n".to_owned()),
    };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(|| "one 1\n".to_owned())));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        server.abort();
        said
    }

    #[tokio::test]
    async fn a_scrape_is_answered_and_the_connection_closed() {
        let said = ask("GET /metrics?x=y HTTP/1.1\r\nHost: node\r\n\r\n").await;
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
        assert!(said.ends_with("\r\n\r\none 1\n"), "{said}");
        assert!(ask("GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
        assert!(ask("POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
    }
}
