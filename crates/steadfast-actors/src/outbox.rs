//! Delivers issues, with retries, each once.
//!
//! Invariant: an issue is durable before its delivery begins, and a delivery is repeated until its receipt is durable;
//! the tracker looks for the issue's key before it files anything, so a repetition finds the first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use steadfast_notify::{DeliveryError, Filed, IssueTracker, Retry, Tried};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::checkpoint_keeper::Keeper;
use crate::records::{IssueRecord, Write};
use crate::task::{TaskGuard, report_back};

/// The first pause after a failed delivery; each further one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two tries, unless the other side asks for a longer one; also the one after a refusal that only
/// a person can change.
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// What the outbox is told.
pub(crate) enum OutboxMsg {
    /// Something new may be there.
    Wake,
    /// A delivery ended.
    Ended {
        /// Of which issue.
        key: String,
        /// Its receipt, or why there is none.
        result: Result<Filed, NotDelivered>,
    },
    /// Answered when nothing is under way any more: all is delivered, or waits for its next try.
    Settled(oneshot::Sender<()>),
    /// Ends the actor with a panic. For tests of supervision.
    #[cfg(test)]
    Crash,
}

/// What the outbox is started with.
#[derive(Clone)]
pub(crate) struct OutboxArgs {
    /// Where issues and receipts are kept.
    pub keeper: Keeper,
    /// Where they go.
    pub tracker: Arc<dyn IssueTracker>,
}

/// Why a try brought no receipt.
pub(crate) struct NotDelivered {
    reason: String,
    retry: Retry,
}

impl NotDelivered {
    /// The fault is ours, or the store's.
    fn soon(reason: String) -> Self {
        Self { reason, retry: Retry::Soon }
    }
}

impl From<DeliveryError> for NotDelivered {
    fn from(error: DeliveryError) -> Self {
        Self { reason: crate::chain(&error), retry: error.retry() }
    }
}

struct Delivery {
    /// `None` while it waits for its next try.
    under_way: Option<TaskGuard>,
    /// An earlier try, perhaps of an earlier process, ended without a receipt.
    was_tried: bool,
    failures: u32,
    /// No try before this time, whoever wakes the outbox.
    not_before: Instant,
}

/// The state of the outbox.
pub(crate) struct OutboxState {
    args: OutboxArgs,
    deliveries: HashMap<String, Delivery>,
    /// What lies there at the first look may have been tried before this actor began.
    has_looked: bool,
    waiters: Vec<oneshot::Sender<()>>,
}

/// The outbox's actor.
pub(crate) struct Outbox;

impl Actor for Outbox {
    type Msg = OutboxMsg;
    type State = OutboxState;
    type Arguments = OutboxArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<OutboxMsg>,
        args: OutboxArgs,
    ) -> Result<OutboxState, ActorProcessingErr> {
        // What an earlier process left undelivered is taken up at once.
        let _ = myself.cast(OutboxMsg::Wake);
        Ok(OutboxState { args, deliveries: HashMap::new(), has_looked: false, waiters: Vec::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<OutboxMsg>,
        msg: OutboxMsg,
        state: &mut OutboxState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            OutboxMsg::Wake => state.deliver(&myself),
            OutboxMsg::Ended { key, result } => state.ended(&myself, key, result),
            OutboxMsg::Settled(reply) => state.waiters.push(reply),
            #[cfg(test)]
            OutboxMsg::Crash => panic!("told to crash"),
        }
        if state.deliveries.values().all(|delivery| delivery.under_way.is_none()) {
            for waiter in state.waiters.drain(..) {
                // A waiter that has gone needs no answer.
                let _ = waiter.send(());
            }
        }
        Ok(())
    }
}

impl OutboxState {
    fn deliver(&mut self, myself: &ActorRef<OutboxMsg>) {
        let pending = match self.args.keeper.undelivered() {
            Ok(pending) => pending,
            Err(error) => {
                tracing::error!(error = %error, "outbox cannot be read");
                return;
            }
        };
        let now = Instant::now();
        let was_tried = !std::mem::replace(&mut self.has_looked, true);
        for record in pending {
            let key = record.issue.key.clone();
            let new = Delivery { under_way: None, was_tried, failures: 0, not_before: now };
            let delivery = self.deliveries.entry(key.clone()).or_insert(new);
            if delivery.under_way.is_some() || now < delivery.not_before {
                continue;
            }
            let (keeper, tracker) = (self.args.keeper.clone(), Arc::clone(&self.args.tracker));
            let tried = match std::mem::replace(&mut delivery.was_tried, true) {
                true => Tried::Perhaps { since_ms: record.created_ms },
                false => Tried::Never,
            };
            let work = async move { deliver_one(&keeper, tracker.as_ref(), record, tried).await };
            let report = move |end: Result<Result<Filed, NotDelivered>, String>| OutboxMsg::Ended {
                key,
                result: end.unwrap_or_else(|panic| Err(NotDelivered::soon(panic))),
            };
            delivery.under_way = Some(report_back(myself.clone(), work, report));
        }
    }

    fn ended(&mut self, myself: &ActorRef<OutboxMsg>, key: String, result: Result<Filed, NotDelivered>) {
        match result {
            Ok(filed) => {
                tracing::info!(key, url = filed.url, found = filed.found, note = filed.note, "issue delivered");
                self.deliveries.remove(&key);
            }
            Err(NotDelivered { reason, retry }) => {
                let Some(delivery) = self.deliveries.get_mut(&key) else { return };
                delivery.under_way = None;
                delivery.failures += 1;
                let pause = pause(delivery.failures, retry);
                delivery.not_before = Instant::now() + pause;
                tracing::warn!(key, reason, pause_s = pause.as_secs(), "issue not delivered");
                // The handle only cancels the timer, and a timer for an actor that has gone does no harm.
                drop(myself.send_after(pause, || OutboxMsg::Wake));
            }
        }
    }
}

/// The time until the next try. `failures`: tries so far, from 1.
fn pause(failures: u32, retry: Retry) -> Duration {
    let growing = FIRST_PAUSE.saturating_mul(1 << failures.min(16).saturating_sub(1)).min(LONGEST_PAUSE);
    match retry {
        Retry::Soon => growing,
        // Whoever is limited again and again has to wait longer each time.
        Retry::After(wait) => wait.max(growing),
        Retry::Slowly => LONGEST_PAUSE,
    }
}

/// Files the issue and makes its receipt durable.
async fn deliver_one(
    keeper: &Keeper,
    tracker: &dyn IssueTracker,
    record: IssueRecord,
    tried: Tried,
) -> Result<Filed, NotDelivered> {
    let filed = tracker.file(record.issue.clone(), tried).await?;
    let receipt = Write::Delivered(Box::new(IssueRecord { url: Some(filed.url.clone()), ..record }));
    keeper.save(vec![receipt]).await.map_err(|error| NotDelivered::soon(error.to_string()))?;
    Ok(filed)
}
