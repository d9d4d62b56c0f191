//! SIGINT, SIGTERM and SIGHUP: the first asks for an orderly end, the second ends at once.
//!
//! ctrlc catches them on a thread of its own, so that a second signal works even when the runtime is blocked; tokio's
//! streams, which chain to the same handlers, tell which signal it was.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use steadfast_actors::Emergency;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::exit::{Failure, SECOND_SIGINT, SECOND_SIGTERM, failed};

/// After the first signal the process ends at the latest after this time, whatever hangs. Well inside systemd's default
/// stop timeout of 90 s.
pub(crate) const HARD_DEADLINE: Duration = Duration::from_secs(20);

static SECOND_CODE: AtomicI32 = AtomicI32::new(SECOND_SIGTERM);
/// Signals that ctrlc has seen, and those whose kind is known.
static SEEN: AtomicU32 = AtomicU32::new(0);
static TOLD: AtomicU32 = AtomicU32::new(0);
/// The kind of a second signal is waited for so long: a runtime that hangs never tells it, and two signals at once are told
/// as one.
const KIND_WAIT: Duration = Duration::from_millis(100);

/// Holds `SIGTERM received` and the like after the first signal.
pub(crate) type Signals = watch::Receiver<Option<&'static str>>;

/// Begins to listen. Once a process.
pub(crate) fn listen() -> Result<Signals, Failure> {
    let (sender, receiver) = watch::channel(None);
    let unnamed = sender.clone();
    ctrlc::set_handler(move || {
        if SEEN.fetch_add(1, Ordering::SeqCst) > 0 {
            let deadline = std::time::Instant::now() + KIND_WAIT;
            while TOLD.load(Ordering::SeqCst) < 2 && std::time::Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::process::exit(SECOND_CODE.load(Ordering::SeqCst));
        }
        let unnamed = unnamed.clone();
        std::thread::spawn(move || {
            // One that came before tokio's streams were there is known to nobody else, and must not be lost.
            std::thread::sleep(KIND_WAIT);
            tell(&unnamed, "signal received");
            std::thread::sleep(HARD_DEADLINE);
            std::process::exit(1);
        });
    })
    .map_err(|error| failed("cannot catch signals", &error))?;
    let kinds = [
        (SignalKind::interrupt(), "SIGINT received", SECOND_SIGINT),
        (SignalKind::terminate(), "SIGTERM received", SECOND_SIGTERM),
        (SignalKind::hangup(), "SIGHUP received", SECOND_SIGTERM),
    ];
    for (kind, reason, code) in kinds {
        let mut stream = signal(kind).map_err(|error| failed("cannot catch signals", &error))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                SECOND_CODE.store(code, Ordering::SeqCst);
                TOLD.fetch_add(1, Ordering::SeqCst);
                tell(&sender, reason);
            }
        });
    }
    Ok(receiver)
}

/// The first word counts.
fn tell(sender: &watch::Sender<Option<&'static str>>, reason: &'static str) {
    sender.send_if_modified(|first| {
        let is_first = first.is_none();
        first.get_or_insert(reason);
        is_first
    });
}

/// Waits for an emergency.
pub(crate) async fn alarm(alarm: &mut watch::Receiver<Option<Emergency>>) -> Emergency {
    match alarm.wait_for(Option::is_some).await.map(|emergency| emergency.clone()) {
        Ok(Some(emergency)) => emergency,
        // Nobody can raise it any more; whoever waits, waits for something else.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

/// From now on a panic that nobody can catch and report, one of a thread that is no task's, is an emergency (SPEC 8). One in
/// a task is its supervisor's to answer, and only told here.
pub(crate) fn panics_raise(alarm: watch::Sender<Option<Emergency>>) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        if tokio::task::try_id().is_none() {
            let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
            let said = steadfast_actors::panic_text(panic.payload());
            let reason = format!("a thread panicked{place}: {said}");
            tracing::error!(reason, "emergency");
            Emergency::Failure(reason).raise(&alarm);
        }
    }));
}

/// Waits for the first signal.
pub(crate) async fn first(mut signals: Signals) -> &'static str {
    loop {
        if let Some(reason) = *signals.borrow_and_update() {
            return reason;
        }
        if signals.changed().await.is_err() {
            // No signal can come any more; whoever waits, waits for something else.
            std::future::pending::<()>().await;
        }
    }
}
