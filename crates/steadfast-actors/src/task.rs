//! A spawned task that always reports back to its actor, also when it panics, and ends with it.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use ractor::{ActorRef, Message};
use tokio::task::AbortHandle;

/// Ends its task when it is dropped, so that no work of an actor outlives it.
#[derive(Debug)]
pub(crate) struct TaskGuard(AbortHandle);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `work` and tells `actor` how it ended: its output, or the text of its panic.
#[must_use = "the task ends when its guard is dropped"]
pub(crate) fn report_back<M, T>(
    actor: ActorRef<M>,
    work: impl Future<Output = T> + Send + 'static,
    report: impl FnOnce(Result<T, String>) -> M + Send + 'static,
) -> TaskGuard
where
    M: Message,
    T: Send + 'static,
{
    let task = tokio::spawn(async move {
        let end = AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| panic_text(panic.as_ref()));
        // Fails only when the actor has gone, and then nobody waits for the result.
        let _ = actor.cast(report(end));
    });
    TaskGuard(task.abort_handle())
}

/// What a panic said.
pub fn panic_text(panic: &dyn Any) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panicked".to_owned())
}
