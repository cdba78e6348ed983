//! A pull from the registry of the node: download, digests, unpack.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use berth_testkit::image::samples::Sample;
use berth_testkit::image::{Compression, Image, Layer};
use berth_testkit::node::REGISTRY_PORT;

use super::Bench;
use crate::report::{Figure, What};
use crate::samples::Samples;
use crate::subject::cri::CriSubject;

const NAME: &str = "testing/large";
const FILES: usize = 1500;
const FILE: usize = 29_000;
const LAYERS: usize = 7;

const SECONDS: What = What::lower("pull/seconds", "pull of 304 MB in 7 layers", "s");
const CPU: What = What::lower("pull/cpu", "… its CPU, the registry's apart", "s");

impl Bench {
    /// Pulls and removes a large image, in turns over the CRI subjects that have a registry.
    ///
    /// # Errors
    /// If a call fails, or the image is not there afterwards.
    pub(crate) async fn pull(&mut self) -> Result<()> {
        let image = large(LAYERS, FILES);
        let sample = Sample { name: NAME.to_owned(), tags: vec!["latest".to_owned()], image };
        for subject in &mut self.subjects {
            let Some(site) = subject.cri().and_then(CriSubject::site_mut) else { continue };
            let push = site.node.registry()?.push();
            site.node.place()?.visit(|| push.sample(&sample)).context("push the large image")?;
        }
        let mut times = vec![(Samples::default(), 0.0); self.subjects.len()];
        for turn in 1..=self.amount.pulls {
            for (subject, (samples, cpu)) in self.subjects.iter_mut().zip(&mut times) {
                let name = subject.name.clone();
                let Some(cri) = subject.cri().filter(|cri| cri.site().is_some()) else { continue };
                eprintln!("pull: turn {turn} of {name}");
                let (seconds, spent) = one(cri).await.context(name)?;
                samples.push(seconds);
                *cpu += spent;
            }
        }
        for (subject, (samples, cpu)) in self.subjects.iter().zip(times) {
            if let Some(p50) = samples.percentile(50.0) {
                let n = samples.len();
                self.report.put(SECONDS, &subject.name, Figure::one(p50, n));
                self.report.put(CPU, &subject.name, Figure::one(cpu / n as f64, n));
            }
        }
        Ok(())
    }
}

/// One pull and removal; the seconds, and those of CPU time.
async fn one(cri: &CriSubject) -> Result<(f64, f64)> {
    let site = cri.site().context("a node")?;
    let reference = format!("127.0.0.1:{REGISTRY_PORT}/{NAME}:latest");
    let before = site.cpu_ms()?;
    let started = Instant::now();
    cri.cri.pull(&reference).await.context("PullImage")?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = (site.cpu_ms()? - before) / 1e3;
    if cri.cri.image_status(&reference).await?.is_none() {
        bail!("PullImage has answered and the image is not there");
    }
    cri.cri.remove_image(&reference).await.context("RemoveImage")?;
    if cri.cri.image_status(&reference).await?.is_some() {
        bail!("RemoveImage has answered and the image is still there");
    }
    Ok((seconds, cpu))
}

/// Files of words and numbers, which gzip makes a third of.
fn large(layers: usize, files: usize) -> Image {
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    let words: Vec<String> = (0..4096).map(|_| format!("{:x} ", random())).collect();
    let layer = |number: usize| {
        let mut layer = Layer::new().dir(&format!("layer{number}"), 0o755);
        for file in 0..files {
            let mut content = Vec::with_capacity(FILE + 16);
            while content.len() < FILE {
                content.extend_from_slice(words[(random() % 4096) as usize].as_bytes());
            }
            content.truncate(FILE);
            layer = layer.file(&format!("layer{number}/{file}"), 0o644, content);
        }
        layer.pack(Compression::Gzip)
    };
    Image::new((0..layers).map(layer).collect()).cmd(&["sh"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_large_image_is_compressed_to_a_part_of_itself() {
        let image = large(2, 10);
        assert_eq!(image.layers().len(), 2);
        let size = image.compressed_size();
        assert!((100_000..400_000).contains(&size), "{size}");
        assert_eq!(LAYERS * FILES * FILE / 1_000_000, 304);
    }
}
