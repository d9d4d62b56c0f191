//! Delivers issues, their closings, and alerts, with retries, each once.
//!
//! Invariant: what is to be delivered is durable before its delivery begins, and a delivery is repeated until its receipt is
//! durable; a try that may repeat another one says so, and the tracker looks for the key of the effect first. An issue is
//! filed before it is closed. An alert has no one to look it up: a crash between its arrival and its receipt sends it again,
//! with the same id.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use steadfast_fault_point::{self as fault_point, Point};
use steadfast_notify::{AlertChannel, DeliveryError, IssueTracker, Retry, Tried};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::checkpoint_keeper::{Keeper, KeeperError};
use crate::records::{IssueRecord, Outgoing, OutgoingRecord, Trouble, Write};
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
    /// Try everything now, whatever pause it keeps.
    Flush,
    /// A delivery ended.
    Ended {
        /// Of what.
        key: String,
        /// Its receipt, or why there is none.
        result: Result<Delivered, NotDelivered>,
    },
    /// Answered when nothing is under way any more: all is delivered, or waits for its next try.
    Settled(oneshot::Sender<()>),
    /// Deliver with these from now on.
    Configure(OutboxArgs),
    /// Ends the actor with a panic. For tests of supervision.
    #[cfg(test)]
    Crash,
}

/// What the outbox is started with.
#[derive(Clone)]
pub(crate) struct OutboxArgs {
    /// Where all of it and the receipts are kept.
    pub keeper: Keeper,
    /// Where issues go.
    pub tracker: Arc<dyn IssueTracker>,
    /// Where alerts go. `None`: those that an earlier process raised are given up.
    pub alerts: Option<Arc<dyn AlertChannel>>,
    /// Milliseconds since 1970.
    pub clock: fn() -> u64,
}

impl OutboxArgs {
    /// Before the failure is told, so that whoever waits for it can read why. That it cannot be saved only costs this.
    async fn save_trouble(&self, key: String, reason: String) {
        let trouble = Trouble { reason, since_ms: (self.clock)() };
        if let Err(error) = self.keeper.save(vec![Write::Trouble(key, trouble)]).await {
            tracing::error!(error = %error, "the trouble of a delivery is not saved");
        }
    }
}

/// One thing that is to be delivered.
enum Entry {
    Issue(IssueRecord),
    Outgoing(OutgoingRecord),
}

impl Entry {
    fn key(&self) -> String {
        match self {
            Self::Issue(record) => record.issue.key.clone(),
            Self::Outgoing(record) => record.key(),
        }
    }

    fn created_ms(&self) -> u64 {
        match self {
            Self::Issue(record) => record.created_ms,
            Self::Outgoing(record) => record.created_ms,
        }
    }
}

/// What is worth a line in the log about a delivery.
#[derive(Default)]
pub(crate) struct Delivered {
    url: Option<String>,
    note: Option<String>,
    found: bool,
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

impl From<KeeperError> for NotDelivered {
    fn from(error: KeeperError) -> Self {
        Self::soon(error.to_string())
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
    /// Why the last try failed, as it was saved.
    trouble: Option<String>,
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
            OutboxMsg::Flush => {
                let now = Instant::now();
                state.deliveries.values_mut().for_each(|delivery| delivery.not_before = now);
                state.deliver(&myself);
            }
            OutboxMsg::Ended { key, result } => state.ended(&myself, key, result),
            OutboxMsg::Settled(reply) => state.waiters.push(reply),
            OutboxMsg::Configure(args) => {
                state.args = args;
                // What could not be delivered may be so now: another address, another key.
                let now = Instant::now();
                state.deliveries.values_mut().for_each(|delivery| delivery.not_before = now);
                state.deliver(&myself);
            }
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
    /// What is to be delivered now. A closing comes after its issue.
    fn pending(&self) -> Result<Vec<Entry>, KeeperError> {
        let issues = self.args.keeper.undelivered()?;
        let unfiled: HashSet<String> = issues.iter().map(|record| record.issue.key.clone()).collect();
        let waits = |record: &OutgoingRecord| match &record.what {
            Outgoing::Closing(closing) => unfiled.contains(&closing.issue),
            Outgoing::Alert(_) => false,
        };
        let outgoing = self.args.keeper.outgoing()?.into_iter();
        let outgoing = outgoing.filter(|record| record.receipt.is_none() && !waits(record));
        Ok(issues.into_iter().map(Entry::Issue).chain(outgoing.map(Entry::Outgoing)).collect())
    }

    fn deliver(&mut self, myself: &ActorRef<OutboxMsg>) {
        let pending = match self.pending() {
            Ok(pending) => pending,
            Err(error) => {
                tracing::error!(error = %error, "outbox cannot be read");
                return;
            }
        };
        let now = Instant::now();
        let was_tried = !std::mem::replace(&mut self.has_looked, true);
        for entry in pending {
            let key = entry.key();
            let new = Delivery { under_way: None, was_tried, failures: 0, not_before: now, trouble: None };
            let delivery = self.deliveries.entry(key.clone()).or_insert(new);
            if delivery.under_way.is_some() || now < delivery.not_before {
                continue;
            }
            let tried = match std::mem::replace(&mut delivery.was_tried, true) {
                true => Tried::Perhaps { since_ms: entry.created_ms() },
                false => Tried::Never,
            };
            let (args, name, trouble) = (self.args.clone(), key.clone(), delivery.trouble.clone());
            let work = async move {
                let result = match entry {
                    Entry::Issue(record) => file(&args, record, tried).await,
                    Entry::Outgoing(record) => send(&args, record, tried).await,
                };
                if let Err(NotDelivered { reason, .. }) = &result
                    && trouble.as_ref() != Some(reason)
                {
                    args.save_trouble(name, reason.clone()).await;
                }
                result
            };
            let report = move |end: Result<Result<Delivered, NotDelivered>, String>| OutboxMsg::Ended {
                key,
                result: end.unwrap_or_else(|panic| Err(NotDelivered::soon(panic))),
            };
            delivery.under_way = Some(report_back(myself.clone(), work, report));
        }
    }

    fn ended(&mut self, myself: &ActorRef<OutboxMsg>, key: String, result: Result<Delivered, NotDelivered>) {
        match result {
            Ok(Delivered { url, note, found }) => {
                tracing::info!(key, url, found, note, "delivered");
                self.deliveries.remove(&key);
                // A closing may have waited for this issue.
                self.deliver(myself);
            }
            Err(NotDelivered { reason, retry }) => {
                let Some(delivery) = self.deliveries.get_mut(&key) else { return };
                delivery.under_way = None;
                delivery.failures += 1;
                let pause = pause(delivery.failures, retry);
                delivery.not_before = Instant::now() + pause;
                tracing::warn!(key, reason, pause_s = pause.as_secs(), "not delivered");
                delivery.trouble = Some(reason);
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
async fn file(args: &OutboxArgs, record: IssueRecord, tried: Tried) -> Result<Delivered, NotDelivered> {
    fault_point::reach(Point::DeliveryBefore);
    args.keeper.fence()?;
    let filed = args.tracker.file(record.issue.clone(), tried).await?;
    fault_point::reach(Point::DeliveryArrived);
    let receipt = Write::Delivered(Box::new(IssueRecord { url: Some(filed.url.clone()), ..record }));
    args.keeper.save(vec![receipt]).await?;
    fault_point::reach(Point::DeliveryReceipt);
    Ok(Delivered { url: Some(filed.url), note: filed.note, found: filed.found })
}

/// Closes an issue or sends an alert, and makes the receipt durable.
async fn send(args: &OutboxArgs, record: OutgoingRecord, tried: Tried) -> Result<Delivered, NotDelivered> {
    fault_point::reach(Point::DeliveryBefore);
    args.keeper.fence()?;
    let note = match &record.what {
        Outgoing::Closing(closing) => match args.keeper.issue(&closing.issue)?.and_then(|issue| issue.url) {
            Some(url) => args.tracker.close(closing.clone(), url, tried).await?.note,
            None => Some("its issue is not known any more".to_owned()),
        },
        Outgoing::Alert(alert) => match &args.alerts {
            Some(channel) => {
                channel.send(alert.clone()).await?;
                None
            }
            None => Some("not sent: no webhook is configured any more".to_owned()),
        },
    };
    fault_point::reach(Point::DeliveryArrived);
    let receipt = OutgoingRecord { receipt: Some(note.clone().unwrap_or_default()), ..record };
    args.keeper.save(vec![Write::Sent(Box::new(receipt))]).await?;
    fault_point::reach(Point::DeliveryReceipt);
    Ok(Delivered { note, ..Delivered::default() })
}
