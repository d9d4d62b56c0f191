//! OpenTelemetry traces: one a session, sent over OTLP where the environment names a collector.
//!
//! Spans are made from events, by a watcher beside all others: where nobody wants traces none of this runs, and a collector
//! that is slow, refuses or is not there costs spans and nothing else.
//!
//! The encoding is OTLP's JSON form through serde_json, and no OpenTelemetry library: opentelemetry-otlp with its SDK would bring
//! twenty crates, a second HTTP client among them, and its spans live in the code that is at work and end with its process.

mod otlp;
mod spans;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use steadfast_actors::Event;
use steadfast_actors::event::Events;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub(crate) use self::otlp::Target;
use self::spans::{Servers, Span, Spans};
use crate::exit::Failure;
use crate::setup::Setup;

/// Spans that wait for the collector at most; those that come then are dropped. 2,048 is the SDKs' `OTEL_BSP_MAX_QUEUE_SIZE`.
const MAX_WAITING: usize = 2048;
/// Spans in one request at most (`OTEL_BSP_MAX_EXPORT_BATCH_SIZE`).
const MAX_BATCH: usize = 512;
/// Spans wait so long for others that go with them.
const GATHER: Duration = Duration::from_secs(1);
/// How long the end of the process may wait for the collector.
const LAST: Duration = Duration::from_secs(2);

/// Watches events and sends spans until it is finished.
pub(crate) struct Traces {
    stop: oneshot::Sender<()>,
    watching: JoinHandle<()>,
    sending: JoinHandle<()>,
}

impl Traces {
    /// Begins before any work does. `None`: the environment names no collector.
    pub(crate) fn start(events: &Events, setup: &Setup) -> Result<Option<Self>, Failure> {
        let Some(target) = Target::of_environment()? else { return Ok(None) };
        let spans = Spans::new(servers(setup));
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        let (stop, stopped) = oneshot::channel();
        let dropped = Arc::new(AtomicU64::new(0));
        let watching = tokio::spawn(watch(events.watch(), spans, queue, Arc::clone(&dropped), stopped));
        Ok(Some(Self { stop, watching, sending: tokio::spawn(send(target, waiting, dropped)) }))
    }

    /// Takes in what was told so far and sends what is left, for two seconds at most.
    pub(crate) async fn finish(self) {
        let Self { stop, watching, mut sending } = self;
        let _ = stop.send(());
        let rest = async {
            // The watcher ends the queue, and with it the sender.
            let _ = watching.await;
            let _ = (&mut sending).await;
        };
        if tokio::time::timeout(LAST, rest).await.is_err() {
            sending.abort();
        }
    }
}

/// Where each provider is reached over HTTP, as configured at the start.
fn servers(setup: &Setup) -> Servers {
    let server = |(name, provider): (&String, &steadfast_config::Provider)| {
        let url = reqwest::Url::parse(provider.base_url.as_deref()?).ok()?;
        Some((name.clone(), (url.host_str()?.to_owned(), url.port_or_known_default()?)))
    };
    setup.config.providers.iter().filter_map(server).collect()
}

async fn watch(
    mut events: Receiver<Arc<Event>>,
    mut spans: Spans,
    queue: mpsc::Sender<Span>,
    dropped: Arc<AtomicU64>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut take = |event: &Event| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for span in spans.take(event, now) {
            if queue.try_send(span).is_err() {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    loop {
        tokio::select! {
            biased;
            event = events.recv() => match event {
                Ok(event) => take(&event),
                // What was missed leaves spans that never end; they are forgotten with their session.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            _ = &mut stopped => {
                while let Ok(event) = events.try_recv() {
                    take(&event);
                }
                return;
            }
        }
    }
}

async fn send(target: Target, mut waiting: mpsc::Receiver<Span>, dropped: Arc<AtomicU64>) {
    // A failure is told once, until it goes again.
    let mut failing = false;
    let mut told = 0;
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let until = tokio::time::sleep(GATHER);
        tokio::pin!(until);
        while batch.len() < MAX_BATCH {
            tokio::select! {
                () = &mut until => break,
                span = waiting.recv() => match span {
                    Some(span) => batch.push(span),
                    None => break,
                },
            }
        }
        // Not repeated: what waits behind it is worth as much, and the queue is short.
        match target.send(&batch).await {
            Ok(()) => failing = false,
            Err(error) => {
                dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
                if !failing {
                    tracing::warn!(error, collector = target.host(), "traces cannot be sent");
                }
                failing = true;
            }
        }
        batch.clear();
        let all = dropped.load(Ordering::Relaxed);
        if !failing && all > told {
            tracing::warn!(spans = all - told, "spans were dropped");
            told = all;
        }
    }
}
