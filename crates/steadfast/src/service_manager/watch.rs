//! What goes on telling while the daemon works: what it is doing, and that its supervisor answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use steadfast_actors::{Beat, Event};
use steadfast_core::ids::SessionId;
use steadfast_core::session::Phase;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::{ServiceManager, status};
use crate::control::Control;

/// A status is told at most so often.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Sessions that a status names; it is one line.
const NAMED: usize = 3;

/// Begins to tell. What it returns ends it when it is dropped or shut down.
pub(crate) fn watch(manager: &ServiceManager, control: &Arc<Control>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if manager.is_there() {
        let events = control.handle.events().watch();
        tasks.spawn(tell_status(manager.clone(), Arc::clone(control), events));
    }
    if let Some(timeout) = manager.watchdog() {
        tasks.spawn(feed(manager.clone(), Arc::clone(control), timeout));
    }
    tasks
}

/// Feeds the watchdog at half of its time, each time only after the supervisor has answered within that half: one that
/// is stuck is to be restarted, however well the rest of the process runs.
async fn feed(manager: ServiceManager, control: Arc<Control>, timeout: Duration) {
    let half = timeout / 2;
    let mut ticks = tokio::time::interval(half);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match tokio::time::timeout(half, control.handle.beat()).await {
            Ok(Some(_)) => manager.tell("WATCHDOG=1"),
            Ok(None) => return,
            Err(_late) => tracing::error!(after_ms = half.as_millis() as u64, "the supervisor does not answer"),
        }
    }
}

async fn tell_status(manager: ServiceManager, control: Arc<Control>, mut events: Receiver<Arc<Event>>) {
    let mut ticks = tokio::time::interval(STATUS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut told) = (Seen::default(), String::new());
    loop {
        ticks.tick().await;
        loop {
            match events.try_recv() {
                Ok(event) => seen.learn(&event),
                // What was missed shows with the next step of its session.
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        let Some(beat) = control.handle.beat().await else { return };
        let line = seen.line(&beat);
        if line != told {
            manager.tell(&status(&line));
            told = line;
        }
    }
}

/// Where the sessions at work stand, as their events told.
#[derive(Default)]
struct Seen(HashMap<SessionId, Row>);

#[derive(Default)]
struct Row {
    phase: Option<Phase>,
    milestone: u32,
    n_milestones: u32,
    degraded: bool,
}

impl Seen {
    fn learn(&mut self, event: &Event) {
        match event {
            Event::SessionMoved { session, phase, milestone, n_milestones, .. } => {
                let row = self.0.entry(session.clone()).or_default();
                (row.phase, row.milestone, row.n_milestones) = (Some(*phase), *milestone, *n_milestones);
            }
            Event::Degraded { place, .. } => self.0.entry(place.session.clone()).or_default().degraded = true,
            _ => {}
        }
    }

    /// `2 sessions at work, 1 queued: 002-feature implementing milestone 2 of 3 (degraded), 003-next planning`. What is
    /// over is forgotten.
    fn line(&mut self, beat: &Beat) -> String {
        self.0.retain(|id, _| beat.active.iter().any(|(active, _)| active == id));
        let queued = if beat.n_queued > 0 { format!(", {} queued", beat.n_queued) } else { String::new() };
        let n = beat.active.len();
        if let Some(reason) = &beat.paused {
            return format!("paused{queued}: {reason}");
        }
        if n == 0 {
            return format!("idle{queued}");
        }
        let mut named: Vec<String> =
            beat.active.iter().take(NAMED).map(|(id, idea)| format!("{idea}{}", self.place(id))).collect();
        if n > NAMED {
            named.push(format!("and {} more", n - NAMED));
        }
        let degraded = self.0.values().filter(|row| row.degraded).count();
        let degraded = if degraded > 0 { format!(", {degraded} degraded") } else { String::new() };
        let plural = if n == 1 { "" } else { "s" };
        format!("{n} session{plural} at work{queued}{degraded}: {}", named.join(", "))
    }

    fn place(&self, id: &SessionId) -> String {
        let Some(row) = self.0.get(id) else { return String::new() };
        let phase = row.phase.map(|phase| format!(" {phase}")).unwrap_or_default();
        let milestone = match row.n_milestones {
            0 => String::new(),
            n => format!(" milestone {} of {n}", row.milestone),
        };
        let degraded = if row.degraded { " (degraded)" } else { "" };
        format!("{phase}{milestone}{degraded}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadfast_actors::event::Place;
    use steadfast_core::ids::{IdeaId, Role};

    fn id(n: u32) -> SessionId {
        SessionId::new(u64::from(n), n)
    }

    fn moved(n: u32, phase: Phase, milestone: u32, n_milestones: u32) -> Event {
        let idea = IdeaId::new("x").unwrap();
        Event::SessionMoved { session: id(n), idea, phase, milestone, n_milestones, text: None }
    }

    fn beat(active: &[(u32, &str)], n_queued: usize) -> Beat {
        Beat { active: active.iter().map(|(n, idea)| (id(*n), (*idea).to_owned())).collect(), n_queued, paused: None }
    }

    #[test]
    fn a_status_says_how_many_work_and_wait_and_where_they_stand() {
        let mut seen = Seen::default();
        assert_eq!(seen.line(&beat(&[], 0)), "idle");
        seen.learn(&moved(1, Phase::Implementing, 2, 3));
        seen.learn(&moved(2, Phase::Planning, 0, 0));
        let place = Place {
            session: id(1),
            idea: IdeaId::new("x").unwrap(),
            role: Role::Coder,
            milestone: Some(2),
            file: None,
        };
        seen.learn(&Event::Degraded { place, stand_in: "manual" });
        assert_eq!(
            seen.line(&beat(&[(1, "one"), (2, "two")], 4)),
            "2 sessions at work, 4 queued, 1 degraded: one implementing milestone 2 of 3 (degraded), two planning"
        );
        let paused = Beat { paused: Some("disk is short".to_owned()), ..beat(&[], 2) };
        assert_eq!(Seen::default().line(&paused), "paused, 2 queued: disk is short");
        // The first is over; a third has begun and told nothing yet.
        assert_eq!(seen.line(&beat(&[(2, "two"), (3, "three")], 0)), "2 sessions at work: two planning, three");
    }

    #[test]
    fn a_status_of_many_sessions_stays_one_short_line() {
        let beat = beat(&[(1, "one"), (2, "two"), (3, "three"), (4, "four"), (5, "five")], 0);
        assert_eq!(Seen::default().line(&beat), "5 sessions at work: one, two, three, and 2 more");
    }
}
