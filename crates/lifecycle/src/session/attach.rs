//! A client's streams and those of a container's first process.
//!
//! Our own shim is given fifos; the output of others is carried here, and their input is a fifo anyway.

use std::os::fd::OwnedFd;

use berth_pod::record::Failure;
use berth_pod::spec::{ContainerSpec, Stdin};
use berth_pod::{ContainerId, Kind};
use berth_shim_client::{Attachment, Kind as ShimKind, Shim};
use berth_sys::pipe::{FifoEnd, open_fifo, pipe, set_nonblocking};
use tokio_util::sync::CancellationToken;

use super::copy::{self, Input};
use super::{BoxRead, Streams, exec};
use crate::command::{DRAIN, Fifos, not_running};
use crate::effect::{Context, Result, Trouble, connection, failed};

/// The daemon's ends of an attachment.
#[derive(Default)]
struct Ends {
    stdin: Option<Input>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    /// A byte in it says that the outputs were cut off.
    cut: Option<OwnedFd>,
}

/// What is wanted of a container.
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

/// An attachment; its end whatever happens.
struct Attached<'c> {
    context: &'c Context,
    shim: Shim,
    id: ContainerId,
    name: String,
    foreign: bool,
    /// The end of this one's input is the end of the container's.
    last_input: bool,
}

/// Connects the streams until the container has said its last, or the client has left.
pub(super) async fn run(context: &Context, id: &ContainerId, mut streams: Streams) -> Result<()> {
    let spec = &context.container(id)?.spec.spec;
    let wanted = Wanted {
        stdin: streams.stdin.is_some(),
        stdout: streams.stdout.is_some(),
        // A terminal has one output.
        stderr: streams.stderr.is_some() && !spec.tty,
    };
    let (attached, ends) = Attached::to(context, id, spec, &wanted).await?;
    let never = CancellationToken::new();
    let (stdout, stderr) = (streams.stdout.take(), streams.stderr.take());
    let output = async {
        let stdout = async {
            match ends.stdout {
                Some(from) => copy::to_client(from, stdout, (&never, DRAIN)).await,
                None => Ok(()),
            }
        };
        let stderr = async {
            match ends.stderr {
                Some(from) => copy::to_client(from, stderr, (&never, DRAIN)).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(stdout, stderr)
    };
    let input = input(&attached, streams.stdin.take(), ends.stdin);
    let resizes = async {
        exec::resizes(&attached.shim, (id.as_str(), None), streams.resize).await;
        std::future::pending::<()>().await;
    };
    let ended = async {
        tokio::select! {
            () = input => {}
            // It fails if the shim is gone, and the container with it.
            _ = attached.shim.wait(id.as_str(), None) => {}
        }
    };
    if wanted.stdout || wanted.stderr {
        let rest = async { tokio::join!(ended, resizes) };
        tokio::select! {
            all = output => all.map(drop)?,
            _ = rest => {}
        }
    } else {
        tokio::select! {
            () = ended => {}
            () = resizes => {}
        }
    }
    attached.end(ends.cut)
}

/// The failure where a container has no input.
pub(super) fn no_stdin(id: &ContainerId) -> Failure {
    let text = format!("container {id} has no stdin: create it with one, or attach without");
    Failure::new(Kind::WrongState, text)
}

/// What the client sends.
async fn input(attached: &Attached<'_>, from: Option<BoxRead>, to: Option<Input>) {
    let (Some(from), Some(to)) = (from, to) else { return std::future::pending().await };
    copy::from_client(from, to).await;
    if attached.last_input {
        // It may have ended meanwhile.
        let _ = attached.shim.close_stdin(attached.id.as_str(), None).await;
    }
}

impl<'c> Attached<'c> {
    async fn to(
        context: &'c Context,
        id: &ContainerId,
        spec: &ContainerSpec,
        wanted: &Wanted,
    ) -> Result<(Self, Ends)> {
        if wanted.stdin && spec.stdin == Stdin::Closed {
            return Err(Trouble::Failed(no_stdin(id)));
        }
        let foreign = context.record.shim.held().is_some_and(|shim| shim.foreign);
        let shim = connection(context).await?;
        let name = format!("attach-{:x}-{}", context.shared.born(), context.shared.token());
        let mut attached = Self { context, shim, id: id.clone(), name, foreign, last_input: false };
        let ends = match foreign {
            true => attached.carried(spec, wanted)?,
            false => attached.by_shim(wanted).await?,
        };
        Ok((attached, ends))
    }

    /// Our own shim opens the other ends.
    async fn by_shim(&self, wanted: &Wanted) -> Result<Ends> {
        let bundle = self.context.layout().bundle(self.id.as_str());
        let path = |end: &str| bundle.join(format!("{}.{end}", self.name));
        let (mut fifos, mut ends, mut both) = (Fifos::new(), Ends::default(), None);
        let mut what = Attachment { id: self.name.clone(), ..Attachment::default() };
        ends.cut = Some(fifos.make(path("cut"), FifoEnd::Read)?);
        what.cut = path("cut");
        for (there, end, slot, told) in [
            (wanted.stdout, "out", &mut ends.stdout, &mut what.stdout),
            (wanted.stderr, "err", &mut ends.stderr, &mut what.stderr),
            (wanted.stdin, "in", &mut both, &mut what.stdin),
        ] {
            if there {
                let side = if end == "in" { FifoEnd::Both } else { FifoEnd::Read };
                *slot = Some(fifos.make(path(end), side)?);
                *told = Some(path(end));
            }
        }
        if let Err(why) = self.shim.attach(self.id.as_str(), what).await {
            if why.kind() == ShimKind::Unimplemented {
                let id = &self.id;
                let text = format!(
                    "the shim of container {id} cannot attach: it is of an earlier Berth, and the pod has to be started anew"
                );
                return failed(Kind::Unimplemented, text);
            }
            if why.kind() == ShimKind::NotFound {
                let why = not_running(&self.id, "not running any more");
                return Err(Trouble::Failed(why));
            }
            return Err(why.into());
        }
        if wanted.stdin {
            // The shim has opened its own: with only an end to write to, it is seen when it reads no more.
            ends.stdin = Some(Input { to: open_fifo(path("in"), FifoEnd::Write)?, both: None });
        }
        drop(both);
        Ok(ends)
    }

    /// The container's output is carried here.
    fn carried(&mut self, spec: &ContainerSpec, wanted: &Wanted) -> Result<Ends> {
        let carriers = &self.context.shared.carriers;
        let mut ends = Ends::default();
        if wanted.stdin {
            let last = spec.stdin == Stdin::Once && !spec.tty;
            let input = carriers.input(&self.id, last)?;
            ends.stdin = input.map(|(to, both)| Input { to, both });
            if ends.stdin.is_none() {
                let text = format!(
                    "the stdin of container {} is open for one attachment only, which it has had: \
                     attach without stdin",
                    self.id
                );
                return failed(Kind::WrongState, text);
            }
            self.last_input = last;
        }
        let open = |there: bool| -> Result<(Option<OwnedFd>, Option<OwnedFd>)> {
            if !there {
                return Ok((None, None));
            }
            let (read, write) = pipe()?;
            set_nonblocking(&read, true)?;
            set_nonblocking(&write, true)?;
            Ok((Some(read), Some(write)))
        };
        let (stdout, to_stdout) = open(wanted.stdout)?;
        let (stderr, to_stderr) = open(wanted.stderr)?;
        let (cut, to_cut) = pipe()?;
        set_nonblocking(&cut, true)?;
        set_nonblocking(&to_cut, true)?;
        ends.cut = Some(cut);
        carriers.follow(&self.id, &self.name, [to_stdout, to_stderr], to_cut);
        (ends.stdout, ends.stderr) = (stdout, stderr);
        Ok(ends)
    }

    /// Ends it, and says if it had been cut off.
    fn end(self, cut: Option<OwnedFd>) -> Result<()> {
        // It was written before the outputs were closed.
        let cut_off = cut.is_some_and(|cut| rustix::io::read(&cut, &mut [0; 1]) == Ok(1));
        match cut_off {
            false => Ok(()),
            true => failed(
                Kind::Exhausted,
                format!(
                    "container {} says more than the client takes, and does not wait for it: \
                     read its log, or attach anew",
                    self.id
                ),
            ),
        }
    }
}

/// However it ends, also where it did not come to be.
impl Drop for Attached<'_> {
    fn drop(&mut self) {
        if self.foreign {
            self.context.shared.carriers.unfollow(&self.id, &self.name);
        }
        let (shim, id, name) = (self.shim.clone(), self.id.clone(), self.name.clone());
        let (foreign, last_input) = (self.foreign, self.last_input);
        tokio::spawn(async move {
            if last_input {
                let _ = shim.close_stdin(id.as_str(), None).await;
            }
            if !foreign {
                let _ = shim.detach(id.as_str(), &name).await;
            }
        });
    }
}
