//! A model whose answers are scripted, and a record of what all models were asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use steadfast_core::fault::{CallFault, Fault, Usage};
use steadfast_model::{CallRequest, Completion, Finish, ModelClient};
use tokio::sync::watch;
use tokio::time::Instant;

/// What a scripted model does with one call.
#[derive(Clone)]
pub(super) enum Reply {
    /// Answers with this text.
    Text(String),
    /// Fails.
    Fails(CallFault),
    /// Answers nothing until the call's timeout.
    TimesOut,
    /// Answers nothing, whatever the timeout.
    Hangs,
    /// Does what follows after a time.
    After(Duration, Box<Reply>),
    /// Does what follows once the gate is opened.
    Gated(Gate, Box<Reply>),
    /// Panics while it is awaited.
    Panics,
    /// Panics before it gives a future.
    PanicsAtOnce,
}

pub(super) fn text(text: &str) -> Reply {
    Reply::Text(text.to_owned())
}

pub(super) fn fails(fault: Fault) -> Reply {
    let message = format!("{fault:?}");
    Reply::Fails(CallFault::new(fault, message))
}

pub(super) fn after(seconds: u64, reply: Reply) -> Reply {
    Reply::After(Duration::from_secs(seconds), Box::new(reply))
}

/// Holds calls back until it is opened.
#[derive(Clone)]
pub(super) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub(super) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(super) fn holds(&self, reply: Reply) -> Reply {
        Reply::Gated(self.clone(), Box::new(reply))
    }
}

/// One call, as the client saw it.
#[derive(Clone)]
pub(super) struct Asked {
    /// Since the journal was made.
    pub(super) at: Duration,
    pub(super) model: String,
    pub(super) request: Arc<CallRequest>,
}

/// What all models were asked, in order.
#[derive(Clone)]
pub(super) struct Journal {
    origin: Instant,
    asked: Arc<Mutex<Vec<Asked>>>,
    count: Arc<watch::Sender<usize>>,
}

impl Journal {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), asked: Arc::default(), count: Arc::new(watch::Sender::new(0)) }
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `one@0 two@1`: who was asked, and in which second.
    pub(super) fn shown(&self) -> String {
        let show = |asked: &Asked| format!("{}@{}", asked.model, asked.at.as_secs());
        self.asked().iter().map(show).collect::<Vec<_>>().join(" ")
    }

    /// Waits until so many calls were made.
    pub(super) async fn reaches(&self, n: usize) {
        self.count.subscribe().wait_for(|count| *count >= n).await.expect("the journal keeps its sender");
    }

    fn note(&self, model: &str, request: &Arc<CallRequest>) {
        let asked = Asked { at: self.origin.elapsed(), model: model.to_owned(), request: Arc::clone(request) };
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        self.count.send_modify(|count| *count += 1);
    }
}

type Otherwise = Arc<dyn Fn(&CallRequest) -> Reply + Send + Sync>;

/// A model that does as it is told.
#[derive(Clone)]
pub(super) struct Scripted {
    name: String,
    host: Option<String>,
    journal: Journal,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    otherwise: Otherwise,
}

impl Scripted {
    /// Answers `good` to everything. Its host is `<name>.example`.
    pub(super) fn new(name: &str, journal: &Journal) -> Self {
        Self {
            name: name.to_owned(),
            host: Some(format!("{name}.example")),
            journal: journal.clone(),
            replies: Arc::default(),
            otherwise: Arc::new(|_| text("good")),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Does these first, in order.
    pub(super) fn first(self, replies: impl IntoIterator<Item = Reply>) -> Self {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).extend(replies);
        self
    }

    /// Does this to every call that no other reply is laid down for.
    pub(super) fn always(self, reply: Reply) -> Self {
        self.by(move |_| reply.clone())
    }

    /// Does to every call that no other reply is laid down for as its request wants.
    pub(super) fn by(mut self, otherwise: impl Fn(&CallRequest) -> Reply + Send + Sync + 'static) -> Self {
        self.otherwise = Arc::new(otherwise);
        self
    }

    pub(super) fn client(&self) -> Arc<dyn ModelClient> {
        Arc::new(self.clone())
    }
}

impl ModelClient for Scripted {
    fn complete(&self, request: Arc<CallRequest>) -> BoxFuture<'static, Result<Completion, CallFault>> {
        self.journal.note(&self.name, &request);
        let next = self.replies.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let reply = next.unwrap_or_else(|| (self.otherwise)(&request));
        if matches!(reply, Reply::PanicsAtOnce) {
            panic!("the client panics at once");
        }
        Box::pin(play(reply, request))
    }

    fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }
}

async fn play(mut reply: Reply, request: Arc<CallRequest>) -> Result<Completion, CallFault> {
    loop {
        reply = match reply {
            Reply::Text(text) => {
                return Ok(Completion {
                    text: text.into(),
                    finish: Finish::Stop,
                    usage: Usage { input: 100, output: 10 },
                    provider_request_id: None,
                    served_model: None,
                });
            }
            Reply::Fails(fault) => return Err(fault),
            Reply::TimesOut => {
                tokio::time::sleep(request.timeout).await;
                let message = format!("Timeout after {}ms", request.timeout.as_millis());
                return Err(CallFault::new(Fault::TimedOut, message));
            }
            Reply::Hangs => std::future::pending().await,
            Reply::After(time, reply) => {
                tokio::time::sleep(time).await;
                *reply
            }
            Reply::Gated(gate, reply) => {
                // The gate lives as long as its script.
                let _ = gate.0.subscribe().wait_for(|open| *open).await;
                *reply
            }
            Reply::Panics | Reply::PanicsAtOnce => panic!("the client panics"),
        };
    }
}
