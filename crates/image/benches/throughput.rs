//! How fast images come in: `cargo bench -p berth-image`. It needs root, and 1 GB of memory and disk.

#[allow(dead_code)] // The tests use the rest of it.
#[path = "../tests/store/fixture.rs"]
mod fixture;
#[allow(dead_code)] // The tests use the rest of it.
#[path = "../tests/store/registry.rs"]
mod registry;

use std::time::Instant;

use berth_image::Digest;

use crate::fixture::{Image, Layer, Node};
use crate::registry::Registry;

const LAYERS: usize = 7;
const FILES: usize = 1500;
const FILE: usize = 29_000;

/// Some 300 MB in 10,500 files of words and numbers, which gzip makes a third of.
fn image() -> Image {
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    let words: Vec<String> = (0..4096).map(|_| format!("{:x} ", random())).collect();
    let archives = (0..LAYERS).map(|layer| {
        let mut builder = Layer::new().dir(&format!("layer{layer}"), 0o755, (0, 0));
        for file in 0..FILES {
            let mut content = Vec::with_capacity(FILE + 16);
            while content.len() < FILE {
                content.extend_from_slice(words[(random() % 4096) as usize].as_bytes());
            }
            builder = builder.file_like(&format!("layer{layer}/{file}"), &content, 0o644, (0, 0));
        }
        builder.finish()
    });
    Image::new("{}", archives.collect())
}

/// Processor time of this process: it tells more than the clock on a machine that is shared.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

fn main() {
    // Cargo's test runners start it, too, without this argument.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(measure());
}

async fn measure() {
    let image = image();
    let bytes: usize = image.layers.iter().map(Vec::len).sum();
    let whole = (LAYERS * FILES * FILE) as f64 / 1e6;
    eprintln!("{LAYERS} layers, {:.0} MB compressed, {whole:.0} MB unpacked", bytes as f64 / 1e6);
    let report = |what: &str, (start, before): (Instant, f64)| {
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - before);
        let speed = whole / seconds;
        eprintln!("{what}: {seconds:.2} s, {speed:.0} MB/s of files, {cpu:.2} s of processor");
    };
    let begin = || (Instant::now(), cpu_seconds());
    let start = begin();
    for layer in &image.layers {
        let mut decoder = flate2::read::MultiGzDecoder::new(&layer[..]);
        std::io::copy(&mut decoder, &mut std::io::sink()).unwrap();
    }
    report("gunzip alone, one core", start);
    let start = begin();
    for layer in &image.layers {
        Digest::of(layer);
    }
    report("digest of the compressed layers, one core", start);
    let node = Node::new().await;
    let layout = tempfile::tempdir().unwrap();
    image.layout(layout.path(), Some("a.b/c:d"));
    let start = begin();
    node.store.import(layout.path(), &[]).await.unwrap();
    report("import", start);
    drop(node);
    let registry = Registry::start().await;
    registry.push("a/b:1", &image);
    for _ in 0..3 {
        let node = Node::new().await;
        let start = begin();
        node.store.pull(&registry.name("a/b:1"), None).await.unwrap();
        report("pull from this machine", start);
    }
}
