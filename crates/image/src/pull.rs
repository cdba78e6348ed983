//! Pull: from a reference to a listed image.
//!
//! Documents first (index, manifest, config: the config says what the layers must unpack to), then
//! all layers at once, each in one pass from the network to its directory, then one commit.
//!
//! Everything belongs to the future: dropped, it aborts what nobody else waits for.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::facts::Facts;
use crate::job::{self, Job, Landed, Spec, Unpacked, blocking};
use crate::layer::Expected;
use crate::manifest::{self, Config, Descriptor, Document, Manifest};
use crate::reference::{Reference, Version};
use crate::registry::{self, Credentials, Piece, Session, Sources};
use crate::shelf::{NewImage, Shelf};
use crate::store::Store;

/// An index may lead to an index, but not for ever.
const MAX_INDEXES: usize = 4;
/// Pieces between the network and the unpacking thread: some 16 KiB to 128 KiB each.
const PIECES: usize = 32;

impl Store {
    /// Pulls an image and gives its id. What is here already is not fetched again; what another pull
    /// is fetching is waited for.
    pub async fn pull(&self, reference: &str, credentials: Option<Credentials>) -> Result<Digest> {
        let pulled = self.fetch(reference, credentials).await;
        pulled.map_err(|error| error.on_disk(&self.options.root))
    }

    async fn fetch(&self, reference: &str, credentials: Option<Credentials>) -> Result<Digest> {
        let reference: Reference = reference.parse()?;
        tracing::info!(image = %reference, "pulling image");
        let begin = Instant::now();
        let (settings, named) = (self.options.registries.clone(), reference.clone());
        let session =
            blocking(move || Session::new(&settings, &named, credentials.as_ref())).await?;
        let session = Arc::new(session);
        if let Some(id) = self.pull_known(&session, &reference).await? {
            return Ok(id);
        }
        let top = session.resolve().await?;
        let digest = top.digest.clone();
        let (what, manifest) = self.descend(&session, top).await?;
        let config_bytes = self.config_of(&session, &manifest.config).await?;
        let config = Config::parse(&format!("{what}: image config"), &config_bytes)?;
        let layers = self.layers(&session, &manifest, &config).await?;
        let new = NewImage {
            id: manifest.config.digest.clone(),
            config: config_bytes,
            facts: Facts::of(&config),
            size: manifest.layers.iter().map(|layer| layer.size).sum(),
            names: names(&reference, &digest),
            layers,
        };
        let (id, size) = (new.id.clone(), new.size);
        let shelf = Arc::clone(&self.shelf);
        blocking(move || shelf.commit(new)).await?;
        let seconds = begin.elapsed().as_secs_f32();
        tracing::info!(image = %reference, %id, bytes = size, seconds, "image pulled");
        Ok(id)
    }

    /// An image whose digest is unchanged needs no documents; the registry was asked all the same,
    /// so whoever pulls it may.
    async fn pull_known(&self, session: &Session, reference: &Reference) -> Result<Option<Digest>> {
        if self.status(&reference.to_string())?.is_none() {
            return Ok(None);
        }
        let Some(digest) = session.digest().await else { return Ok(None) };
        let Some(image) = self.status(&reference.at(&digest).to_string())? else {
            return Ok(None);
        };
        let (shelf, id) = (Arc::clone(&self.shelf), image.id.clone());
        let names = names(reference, &digest);
        match blocking(move || shelf.add_names(&id, &names)).await {
            Ok(()) => Ok(Some(image.id)),
            // Removed in between: then it is pulled.
            Err(Error::NoImage { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Follows indexes to the manifest for this machine.
    async fn descend(
        &self,
        session: &Session,
        top: registry::Fetched,
    ) -> Result<(String, Manifest)> {
        let mut fetched = top;
        for _ in 0..MAX_INDEXES {
            let what = format!("{} ({})", session.reference, fetched.digest);
            match Document::parse(&what, &fetched.bytes)? {
                Document::Manifest(manifest) => return Ok((what, manifest)),
                Document::Index(entries) => {
                    let entry = manifest::choose(&what, &entries, &self.options.platform)?;
                    fetched = session.manifest(&entry.digest, entry.size).await?;
                }
            }
        }
        let what = session.reference.to_string();
        Err(Error::malformed(what, "an index of indexes of indexes"))
    }

    async fn config_of(&self, session: &Session, descriptor: &Descriptor) -> Result<Vec<u8>> {
        match self.config(&descriptor.digest).await {
            Ok(bytes) => Ok(bytes),
            Err(Error::NoImage { .. }) => {
                Ok(session.blob(&descriptor.digest, descriptor.size).await?.bytes)
            }
            Err(error) => Err(error),
        }
    }

    async fn layers(
        &self,
        session: &Arc<Session>,
        manifest: &Manifest,
        config: &Config,
    ) -> Result<Vec<Arc<Landed>>> {
        let diff_ids = config.diff_ids();
        if diff_ids.len() != manifest.layers.len() {
            let reason = format!("{} diff ids, {} layers", diff_ids.len(), manifest.layers.len());
            return Err(Error::malformed(session.reference.to_string(), reason));
        }
        // A pull that joined another one's layer may have better credentials than that one had.
        for last in [false, true] {
            let own = Arc::new(Semaphore::new(self.options.parallel_layers_per_pull.max(1)));
            let (top, joined) = self.start_layers(session, manifest, diff_ids, &own);
            let Some(top) = top else { return Ok(Vec::new()) };
            match first_failure(&top).await {
                Err(error) if last || !joined => return Err(error),
                Err(_) => {}
                Ok(()) => return top.wait_for_stack().await,
            }
        }
        Err(Error::Lost { what: "the pull" })
    }

    /// Starts or joins a job for each layer; gives the uppermost, which holds all others.
    fn start_layers(
        &self,
        session: &Arc<Session>,
        manifest: &Manifest,
        diff_ids: &[Digest],
        own: &Arc<Semaphore>,
    ) -> (Option<Arc<Job>>, bool) {
        let mut below: Option<Arc<Job>> = None;
        let mut chain: Option<Digest> = None;
        let mut joined = false;
        for (diff_id, layer) in diff_ids.iter().zip(&manifest.layers) {
            let id = diff_id.chain(chain.as_ref());
            let blob = Some((layer.digest.clone(), layer.size));
            let expected = Expected { diff_id: diff_id.clone(), blob };
            let spec = Spec { expected, chain: id.clone(), below: below.take() };
            let fetch = Fetch {
                shelf: Arc::clone(&self.shelf),
                session: Arc::clone(session),
                digest: layer.digest.clone(),
                size: layer.size,
                slots: [Arc::clone(own), Arc::clone(&self.slots)],
            };
            let (job, started) = Job::obtain(&self.shelf, spec, |expected| fetch.run(expected));
            joined |= !started;
            (below, chain) = (Some(job), Some(id));
        }
        (below, joined)
    }
}

/// Waits until all layers are there, or the first has failed: the others need not go on then.
async fn first_failure(top: &Job) -> Result<()> {
    let all = top.stack().into_iter().map(|job| async move { job.wait().await.map(drop) });
    futures_util::future::try_join_all(all).await.map(drop)
}

fn names(reference: &Reference, digest: &Digest) -> Vec<String> {
    let mut names = vec![reference.at(digest).to_string()];
    if let Version::Tag(_) = reference.version() {
        names.push(reference.to_string());
    }
    names
}

/// The fetching of one layer.
struct Fetch {
    shelf: Arc<Shelf>,
    session: Arc<Session>,
    digest: Digest,
    size: u64,
    slots: [Arc<Semaphore>; 2],
}

impl Fetch {
    async fn run(self, expected: Expected) -> Result<Unpacked> {
        let [own, all] = self.slots.clone();
        let _own = own.acquire_owned().await;
        let _all = all.acquire_owned().await;
        let mut sources = Sources::default();
        loop {
            let error = match self.once(&expected, &mut sources).await {
                Ok(unpacked) => return Ok(unpacked),
                Err(error) => error,
            };
            // Content that is not what it should be may be right at another host.
            let wrong = error.kind() == Kind::Invalid;
            let others = self.session.in_order(|host| host.pull).len() > sources.avoid.len() + 1;
            match sources.served.first() {
                Some(host) if wrong && others => {
                    tracing::warn!(host, %error, "wrong content: another host is tried");
                    sources.avoid.push(host.clone());
                }
                Some(host) if wrong => return Err(self.transferred(host, error)),
                _ => return Err(error),
            }
        }
    }

    fn transferred(&self, host: &str, source: Error) -> Error {
        Error::Transferred {
            reference: self.session.reference.to_string(),
            blob: self.digest.clone(),
            host: host.to_owned(),
            source: Box::new(source),
        }
    }

    async fn once(&self, expected: &Expected, sources: &mut Sources) -> Result<Unpacked> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let stream = Stream { receiver, piece: Bytes::new(), ended: false };
        let unpacking = job::unpack(Arc::clone(&self.shelf), expected.clone(), stream);
        let feeding = async move {
            // The sender goes with this block, so that the thread ends when feeding fails.
            registry::feed(&self.session, (&self.digest, self.size), sources, &sender).await
        };
        match tokio::join!(feeding, unpacking) {
            (Err(error), _) => Err(error),
            (Ok(_), unpacked) => unpacked,
        }
    }
}

/// What the network task hands over, as a reader for the unpacking thread.
struct Stream {
    receiver: mpsc::Receiver<Piece>,
    piece: Bytes,
    ended: bool,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            if self.ended {
                return Ok(0);
            }
            match self.receiver.blocking_recv() {
                Some(Piece::Data(piece)) => self.piece = piece,
                Some(Piece::End) => self.ended = true,
                None => {
                    let what = "the transfer of a layer".to_owned();
                    return Err(io::Error::other(Error::Cancelled { what }));
                }
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}
