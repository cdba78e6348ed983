//! `berth image`.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use berth_proto::cri::v1 as cri;
use berth_proto::cri::v1::image_service_client::ImageServiceClient;
use berth_proto::node::v1::node_client::NodeClient;
use berth_proto::node::v1::{ImportImageRequest, VerifyImagesRequest};
use tonic::transport::Channel;

use super::{UNLIMITED, connect};
use crate::cli::{Daemon, Image};

/// Runs the command.
pub(crate) async fn run(config: Option<&Path>, command: Image) -> anyhow::Result<()> {
    match command {
        Image::List { daemon } => list(config, &daemon).await,
        Image::Import { path, name, daemon } => import(config, &path, name, &daemon).await,
        Image::Pull { reference, daemon } => pull(config, reference, &daemon).await,
        Image::Verify { daemon } => verify(config, &daemon).await,
        Image::Rm { reference, daemon } => remove(config, reference, &daemon).await,
    }
}

async fn client(
    config: Option<&Path>,
    daemon: &Daemon,
) -> anyhow::Result<ImageServiceClient<Channel>> {
    let channel = connect(config, daemon).await?;
    Ok(ImageServiceClient::new(channel).max_decoding_message_size(UNLIMITED))
}

fn spec(reference: String) -> Option<cri::ImageSpec> {
    Some(cri::ImageSpec { image: reference, ..Default::default() })
}

async fn list(config: Option<&Path>, daemon: &Daemon) -> anyhow::Result<()> {
    let request = cri::ListImagesRequest { filter: None };
    let answer = client(config, daemon).await?.list_images(request).await.map_err(told)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:<20} {:>10}  NAMES", "ID", "SIZE")?;
    for image in answer.into_inner().images {
        let id = image.id.trim_start_matches("sha256:");
        let names = match image.repo_tags.is_empty() {
            true => image.repo_digests.join(" "),
            false => image.repo_tags.join(" "),
        };
        writeln!(out, "{:<20} {:>10}  {names}", &id[..id.len().min(13)], size(image.size))?;
    }
    Ok(())
}

async fn import(
    config: Option<&Path>,
    path: &Path,
    name: Option<String>,
    daemon: &Daemon,
) -> anyhow::Result<()> {
    // The daemon has another working directory.
    let path = std::path::absolute(path).with_context(|| path.display().to_string())?;
    let path = path.to_str().context("the path is not UTF-8: rename it")?.to_owned();
    let request = ImportImageRequest { path, name: name.unwrap_or_default() };
    let mut client = NodeClient::new(connect(config, daemon).await?);
    let answer = client.import_image(request).await.map_err(told)?;
    let mut out = std::io::stdout().lock();
    for image in answer.into_inner().images {
        writeln!(out, "{} {}", image.id, image.names.join(" "))?;
    }
    Ok(())
}

async fn pull(config: Option<&Path>, reference: String, daemon: &Daemon) -> anyhow::Result<()> {
    let request = cri::PullImageRequest { image: spec(reference), ..Default::default() };
    let answer = client(config, daemon).await?.pull_image(request).await.map_err(told)?;
    writeln!(std::io::stdout(), "{}", answer.into_inner().image_ref)?;
    Ok(())
}

/// Fails if something is damaged: what was, and what to do, is the error.
async fn verify(config: Option<&Path>, daemon: &Daemon) -> anyhow::Result<()> {
    let mut client = NodeClient::new(connect(config, daemon).await?);
    let found = client.verify_images(VerifyImagesRequest {}).await.map_err(told)?.into_inner();
    if found.layers.is_empty() {
        writeln!(std::io::stdout(), "every layer is whole")?;
        return Ok(());
    }
    let layers = found.layers.join(" ");
    match found.images.join(" ") {
        images if images.is_empty() => anyhow::bail!("damaged, and removed: {layers}"),
        images => anyhow::bail!("damaged: {layers}; pull again: {images}"),
    }
}

async fn remove(config: Option<&Path>, reference: String, daemon: &Daemon) -> anyhow::Result<()> {
    let request = cri::RemoveImageRequest { image: spec(reference) };
    client(config, daemon).await?.remove_image(request).await.map_err(told)?;
    Ok(())
}

/// The daemon's message is the error; gRPC's own words around it help nobody.
pub(super) fn told(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{} ({:?})", status.message(), status.code())
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let mut unit = 0;
    let mut rest = bytes * 10;
    while rest >= 10_000 && unit + 1 < UNITS.len() {
        rest /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", rest / 10, rest % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(0), "0.0 B");
        assert_eq!(size(999), "999.0 B");
        assert_eq!(size(1_234_567), "1.2 MB");
        assert_eq!(size(5_000_000_000_000), "5000.0 GB");
    }
}
