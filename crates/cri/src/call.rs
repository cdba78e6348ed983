//! What happens around every call: it is measured, logged once, and its error becomes a status.

use std::time::{Duration, Instant};

use tonic::{Code, Response, Status};

use crate::error::clip;
use crate::{Cri, Error};

/// What a call is about, for logs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Call {
    method: &'static str,
    changes: bool,
    pod: String,
    container: String,
    subject: String,
}

impl Call {
    /// A call that only reads: the kubelet makes some of them several times a second.
    pub(crate) fn read(method: &'static str) -> Self {
        Self { method, ..Self::default() }
    }

    /// A call that changes something.
    pub(crate) fn change(method: &'static str) -> Self {
        Self { method, changes: true, ..Self::default() }
    }

    /// About this sandbox.
    pub(crate) fn pod(mut self, id: &str) -> Self {
        self.pod = shown(id);
        self
    }

    /// About this container.
    pub(crate) fn container(mut self, id: &str) -> Self {
        self.container = shown(id);
        self
    }

    /// About something that has a name but, so far, no id.
    pub(crate) fn subject(mut self, name: String) -> Self {
        self.subject = shown(&name);
        self
    }
}

/// What a caller sent, for one line of a log: of bounded length, and without line breaks.
fn shown(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut one_line = String::new();
    for c in clip(text, LONGEST).chars() {
        if c.is_control() { one_line.extend(c.escape_default()) } else { one_line.push(c) }
    }
    one_line
}

/// Counts the call as cancelled if it is dropped before its end: so tonic tells that a caller left.
struct Measured<'a> {
    cri: &'a Cri,
    call: Call,
    since: Instant,
    ended: bool,
}

impl Measured<'_> {
    fn end(&mut self, code: Code, message: &str) {
        self.ended = true;
        let took = self.since.elapsed();
        (self.cri.parts.observe)(self.call.method, code, took);
        log(&self.call, code, message, took);
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Code::Cancelled, "the caller went away");
        }
    }
}

impl Cri {
    /// Runs the work of a call.
    pub(crate) async fn call<T>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<Response<T>, Status> {
        self.creating(call, work, |call, _| call).await
    }

    /// Runs the work of a call whose answer has the id of what it made.
    pub(crate) async fn creating<T>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, Error>> + Send,
        name: impl FnOnce(Call, &T) -> Call + Send,
    ) -> Result<Response<T>, Status> {
        let mut measured = Measured { cri: self, call, since: Instant::now(), ended: false };
        match work.await {
            Ok(answer) => {
                measured.call = name(std::mem::take(&mut measured.call), &answer);
                measured.end(Code::Ok, "");
                Ok(Response::new(answer))
            }
            Err(error) => {
                let status = Status::from(error);
                measured.end(status.code(), status.message());
                Err(status)
            }
        }
    }
}

/// The reply carries the error as well: this line is the operator's copy, with ids and duration.
fn log(call: &Call, code: Code, message: &str, took: Duration) {
    let method = call.method;
    let [pod, container, subject] = [&call.pod, &call.container, &call.subject]
        .map(|text| Some(text).filter(|text| !text.is_empty()).map(tracing::field::display));
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let expected = matches!(code, Code::NotFound | Code::Unimplemented) && !call.changes;
    match code {
        Code::Ok if call.changes => {
            tracing::info!(method, pod, container, subject, ms, "call answered");
        }
        Code::Ok => tracing::debug!(method, pod, container, ms, "call answered"),
        code if expected => {
            tracing::debug!(method, pod, container, ?code, error = message, "call failed");
        }
        code => {
            let error = message;
            tracing::warn!(method, pod, container, subject, ms, ?code, error, "call failed");
        }
    }
}
