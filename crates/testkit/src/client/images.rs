//! Images on the command line.

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use clap::Subcommand;

use super::print;
use crate::cri::{Cri, in_time};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Pull an image
    Pull {
        /// USER:PASSWORD for the registry
        #[arg(long)]
        creds: Option<String>,
        /// The image
        image: String,
    },
    /// List images
    Images,
    /// Everything about images
    Inspecti {
        /// Their names or ids
        images: Vec<String>,
    },
    /// Remove images
    Rmi {
        /// Their names or ids
        images: Vec<String>,
    },
    /// The disk that images use
    Imagefsinfo,
}

pub(super) async fn run(client: &Cri, command: Command) -> Result<()> {
    match command {
        Command::Pull { creds, image } => {
            let auth = match &creds {
                Some(pair) => {
                    let (user, password) = pair.split_once(':').context("--creds USER:PASSWORD")?;
                    Some(cri::AuthConfig {
                        username: user.to_owned(),
                        password: password.to_owned(),
                        ..Default::default()
                    })
                }
                None => None,
            };
            let id = client.pull_as(&image, auth).await?;
            print::line(&format!("Image is up to date for {id}"))
        }
        Command::Images => {
            let mut rows = vec![print::header(&["IMAGE", "IMAGE ID", "SIZE"])];
            for image in client.images().await? {
                let id = print::short(&image.id);
                let names = if image.repo_tags.is_empty() {
                    vec!["<none>".to_owned()]
                } else {
                    image.repo_tags
                };
                let row = |name| vec![name, id.clone(), image.size.to_string()];
                rows.extend(names.into_iter().map(row));
            }
            print::table(&rows)
        }
        Command::Inspecti { images } => {
            for image in images {
                let image = Some(crate::cri::image(&image));
                let request = in_time(cri::ImageStatusRequest { image, verbose: true });
                let answer = client.image.clone().image_status(request).await?;
                print::message("ImageStatusResponse", &answer.into_inner())?;
            }
            Ok(())
        }
        Command::Rmi { images } => {
            for image in images {
                client.remove_image(&image).await?;
                print::line(&format!("Deleted: {image}"))?;
            }
            Ok(())
        }
        Command::Imagefsinfo => {
            let request = in_time(cri::ImageFsInfoRequest {});
            let answer = client.image.clone().image_fs_info(request).await?;
            print::message("ImageFsInfoResponse", &answer.into_inner())
        }
    }
}
