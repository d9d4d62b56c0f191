//! What operators want to hear of at once (SPEC 13): the words of the alerts, and the way of those that no session's batch
//! carries.
//!
//! Invariant: an alert's id follows from what happened, so that a transition that is made again after a crash raises none
//! twice.

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::ids::{ModelId, SessionId};
use steadfast_core::session::{Event as Happened, Session};
use steadfast_notify::{Alert, AlertKind};

use crate::checkpoint_keeper::Keeper;
use crate::directory::Directory;
use crate::outbox::OutboxMsg;

/// The way into the outbox for actors that save nothing else with an alert.
#[derive(Clone)]
pub(crate) struct Alerts {
    pub(crate) keeper: Keeper,
    pub(crate) directory: Arc<Directory>,
    /// Milliseconds since 1970.
    pub(crate) clock: fn() -> u64,
}

impl Alerts {
    /// A breaker that was closed has opened. What opens again after a failed test is the same outage.
    pub(crate) fn breaker_opened(&self, model: &ModelId, reason: &str, retry_in: Option<Duration>) {
        let at_ms = (self.clock)();
        let next = retry_in.map(|wait| format!("; next test in {} s", wait.as_secs())).unwrap_or_default();
        let alert = Alert {
            id: format!("alert-breaker-{model}-{at_ms}"),
            kind: AlertKind::BreakerOpen,
            text: format!("Steadfast: the breaker of {model} is open ({reason}){next}."),
            fields: vec![("model".to_owned(), model.to_string()), ("reason".to_owned(), reason.to_owned())],
            at_ms,
        };
        let directory = Arc::clone(&self.directory);
        self.keeper.save_alert(alert, move || {
            if let Some(outbox) = directory.outbox() {
                let _ = outbox.cast(OutboxMsg::Wake);
            }
        });
    }
}

/// The alert that goes with a session's transition, if any. `session`: as it stood before.
pub(crate) fn of_transition(
    session: &Session,
    is_manual: bool,
    round: u32,
    happened: &Happened,
    at_ms: u64,
) -> Option<Alert> {
    let milestone = session.current;
    let (place, role, stand_in, words) = match happened {
        Happened::Planned { degraded: true, .. } => {
            ("plan".to_owned(), "planner", "template", "no planner answered: the template plan stands in".to_owned())
        }
        Happened::Degraded(_) => {
            let words = format!("no coder could write milestone {milestone}: a manual task stands in");
            (format!("m{milestone}-coder"), "coder", "manual", words)
        }
        // A manual task has nothing to review; that it is one was told.
        Happened::Reviewed(outcome) if outcome.degraded && !is_manual => {
            let words = format!("no reviewer answered for milestone {milestone}: basic static checks stand in");
            (format!("m{milestone}.r{round}-reviewer"), "reviewer", "static-checks", words)
        }
        Happened::Planned { .. }
        | Happened::Reviewed(_)
        | Happened::BaselineChecked(_)
        | Happened::AgentsEnded(_)
        | Happened::Checked(_)
        | Happened::Committed(_)
        | Happened::Failed(_)
        | Happened::Interrupted(_)
        | Happened::EndedAbnormally
        | Happened::BranchTaken(_)
        | Happened::Resumed
        | Happened::Retried
        | Happened::Redeem { .. }
        | Happened::NotRedeemed(_)
        | Happened::Cancelled => return None,
    };
    let fields = [
        ("session", session.id.to_string()),
        ("idea", session.idea.to_string()),
        ("role", role.to_owned()),
        ("stand_in", stand_in.to_owned()),
    ];
    Some(Alert {
        id: format!("alert-{}-{place}", session.id),
        kind: AlertKind::Degraded,
        text: format!("Steadfast: degraded, {words} (idea {}, session {}).", session.idea, session.id),
        fields: fields.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        at_ms,
    })
}

/// Sessions are being interrupted by the end of the process.
pub(crate) fn of_shutdown(reason: &str, sessions: &[&SessionId], at_ms: u64) -> Alert {
    // A message is to be read; the sessions are listed by `steadfast sessions`.
    const NAMED: usize = 20;
    let mut names: Vec<&str> = sessions.iter().take(NAMED).map(|id| id.as_str()).collect();
    names.sort_unstable();
    let more = sessions.len().checked_sub(NAMED).filter(|more| *more > 0);
    let more = more.map(|more| format!(" and {more} more")).unwrap_or_default();
    let names = names.join(", ");
    Alert {
        id: format!("alert-shutdown-{at_ms}"),
        kind: AlertKind::Shutdown,
        text: format!(
            "Steadfast: shutdown ({reason}) with {} session(s) at work or waiting: {names}{more}. They are saved and go on at \
             the next start, or with `steadfast resume`.",
            sessions.len()
        ),
        fields: vec![("reason".to_owned(), reason.to_owned()), ("sessions".to_owned(), names + &more)],
        at_ms,
    }
}
