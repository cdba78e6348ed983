//! Connections to ports inside pods.

use anyhow::Result;
use berth_testkit::bed::{Bed, busybox, on_a_node};
use berth_testkit::cri::refused;
use berth_testkit::specs::Container;
use berth_testkit::streams::{Connection, Forward};
use tonic::Code;

const GET: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// Servers on loopback: of IPv4 and of IPv6 alone, and one that says what it hears.
const SERVERS: &str = "httpd -p 127.0.0.1:8080 -h /www; httpd -p '[::1]:8081' -h /www; \
                       nc -ll -p 9000 -e cat & touch /tmp/ready; \
                       trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";

/// A container of servers that answer.
async fn serve(bed: &Bed, pod: &berth_testkit::cri::RunningPod) -> Result<String> {
    let id = bed.cri.launch(pod, &Container::new("a", &busybox()).shell(SERVERS)).await?;
    let wait = "until netstat -tln | grep -q ':9000 '; do usleep 10000; done; \
                until wget -q -O - http://127.0.0.1:8080/; do usleep 10000; done";
    bed.cri.shell(&id, wait).await?;
    Ok(id)
}

async fn get(forward: &mut Forward, port: u16) -> Result<Connection> {
    let connection = forward.connect(port).await?;
    forward.send(connection, GET, false).await?;
    Ok(connection)
}

/// It was answered.
async fn is_answered(forward: &mut Forward, connection: Connection) -> Result<()> {
    // The server ends its side; only then the client its own.
    forward.some(connection, usize::MAX).await?;
    forward.send(connection, b"", true).await?;
    let (said, error) = forward.all(connection).await?;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("hello from berth"), "{said:?} {error:?}");
    assert_eq!(error, "");
    Ok(())
}

async fn works(bed: &Bed, pod: &str) -> Result<()> {
    let url = bed.cri.forward_url(pod, &[]).await?;
    let mut forward = Forward::open(&bed.node, &url).await?;
    for port in [8080, 8081] {
        let connection = get(&mut forward, port).await?;
        is_answered(&mut forward, connection).await?;
    }
    // Nobody listens: that is the end of this connection and of no other.
    let echo = forward.connect(9000).await?;
    forward.send(echo, b"one ", false).await?;
    assert_eq!(forward.some(echo, 4).await?, b"one ");
    let refused = forward.connect(9).await?;
    let (said, error) = forward.all(refused).await?;
    assert_eq!(said, b"");
    assert!(error.contains("port 9 ") && error.contains("refused"), "{error}");
    // Each direction ends by itself.
    forward.send(echo, b"two", true).await?;
    assert_eq!(forward.all(echo).await?, (b"one two".to_vec(), String::new()));

    let mut many = Vec::new();
    for _ in 0..50 {
        many.push(get(&mut forward, 8080).await?);
    }
    for connection in many {
        is_answered(&mut forward, connection).await?;
    }
    Ok(())
}

#[test]
fn a_pods_loopback_is_reached() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("forward")).await?;
        serve(bed, &pod).await?;
        works(bed, &pod.id).await?;
        bed.crash().await?;
        works(bed, &pod.id).await
    })
}

#[test]
fn the_nodes_loopback_is_reached_by_a_pod_on_its_network() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("host").host_network()).await?;
        serve(bed, &pod).await?;
        works(bed, &pod.id).await
    })
}

#[test]
fn large_answers_are_whole() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("large")).await?;
        serve(bed, &pod).await?;
        let url = bed.cri.forward_url(&pod.id, &[]).await?;
        let mut forward = Forward::open(&bed.node, &url).await?;
        let echo = forward.connect(9000).await?;
        let piece: Vec<u8> = (0..=255).cycle().take(64 << 10).collect();
        for _ in 0..512 {
            forward.send(echo, &piece, false).await?;
        }
        forward.send(echo, b"", true).await?;
        let (said, error) = forward.all(echo).await?;
        assert_eq!((said.len(), error.as_str()), (512 * piece.len(), ""));
        assert!(said.chunks(piece.len()).all(|heard| heard == piece));
        Ok(())
    })
}

#[test]
fn a_connection_ends_with_its_pod() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("ends")).await?;
        serve(bed, &pod).await?;
        let url = bed.cri.forward_url(&pod.id, &[]).await?;
        let mut forward = Forward::open(&bed.node, &url).await?;
        let echo = forward.connect(9000).await?;
        forward.send(echo, b"one", false).await?;
        assert_eq!(forward.some(echo, 3).await?, b"one");
        bed.cri.stop_pod(&pod.id).await?;
        // Its client sends no end: that of the pod is one, and its network goes.
        assert_eq!(forward.all(echo).await?, (b"one".to_vec(), String::new()));
        Ok(bed.cri.remove_pod(&pod.id).await?)
    })
}

#[test]
fn what_is_refused() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, _) = bed.idle("refused").await?;
        let cri = &bed.cri;
        let code = async |pod: &str, ports: &[i32]| refused(cri.forward_url(pod, ports).await);
        assert_eq!(code("nobody", &[80]).await, Code::NotFound);
        assert_eq!(code("", &[80]).await, Code::InvalidArgument);
        for port in [0, -1, 65536] {
            assert_eq!(code(&pod.id, &[port]).await, Code::InvalidArgument);
        }
        cri.stop_pod(&pod.id).await?;
        assert_eq!(code(&pod.id, &[80]).await, Code::FailedPrecondition);
        Ok(())
    })
}
