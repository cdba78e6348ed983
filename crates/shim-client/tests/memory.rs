//! What a connection costs the daemon. Alone in its process, whose size is what is measured.

use berth_shim_client::{Address, Answer, Deadlines, Generation, Shim};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

/// A pod has 40 KB of the daemon in all: its connection, with two Waits in progress, is little.
#[tokio::test]
async fn an_idle_connection_is_small() {
    const COUNT: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let answer = Answer { address: Address::Path(path), generation: Generation::V3 };
    let mut kept = Vec::with_capacity(COUNT);
    let mut before = 0;
    for n in 0..COUNT {
        if n == 20 {
            before = resident();
        }
        let shim = Shim::connect(&answer, "k8s.io", Deadlines::default()).await.unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        let waits: Vec<_> = ["a", "b"]
            .map(|id| {
                let shim = shim.clone();
                tokio::spawn(async move { shim.wait(id, None).await })
            })
            .into_iter()
            .collect();
        let mut header = [0; 10];
        for _ in &waits {
            socket.read_exact(&mut header).await.unwrap();
            let mut request =
                vec![0; u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize];
            socket.read_exact(&mut request).await.unwrap();
        }
        // Some traffic, whose buffers must not stay.
        let mut unasked = vec![0; 10 + 20_000];
        unasked[..10].copy_from_slice(&[0, 0, 0x4e, 0x20, 0, 0, 0, 99, 2, 0]);
        socket.write_all(&unasked).await.unwrap();
        kept.push((shim, socket.into_std().unwrap(), waits));
    }
    tokio::task::yield_now().await;
    let each = (resident() - before) / (COUNT - 20);
    eprintln!("{each} bytes for each connection with two Waits, the test's own side included");
    assert!(each < 10_000, "{each} bytes");
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
