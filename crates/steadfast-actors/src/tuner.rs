//! The timeouts of first models as they are in force (SPEC 13, `auto_timeout`). Workers report to it what came of their
//! executions, and ask it before each call.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use steadfast_core::ids::ModelId;
use steadfast_core::session::Attempt;
use steadfast_core::tuning::{self, Timeouts};

use crate::checkpoint_keeper::Keeper;
use crate::event::{Event, Events};

/// The timeouts of this store.
pub(crate) struct Tuner {
    timeouts: Mutex<Timeouts>,
    keeper: Keeper,
    events: Events,
}

impl Tuner {
    pub(crate) fn new(keeper: Keeper, events: Events) -> Self {
        let raises = keeper.raises().unwrap_or_else(|error| {
            tracing::warn!(error = %error, "raised timeouts do not read; the configured ones hold");
            tuning::Raises::default()
        });
        Self { timeouts: Mutex::new(Timeouts::new(raises)), keeper, events }
    }

    fn timeouts(&self) -> MutexGuard<'_, Timeouts> {
        self.timeouts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is added to a model's configured timeout.
    pub(crate) fn raised_by(&self, model: &ModelId, configured: Duration) -> Duration {
        self.timeouts().raised_by(model, configured)
    }

    /// An execution has ended in which `first` was its role's first model.
    pub(crate) fn execution_ended(&self, first: &ModelId, configured: Duration, attempts: &[Attempt], fallback: bool) {
        let Some(what) = tuning::judge(first, attempts, fallback) else { return };
        let raises = {
            let mut timeouts = self.timeouts();
            if !timeouts.count(first, configured, what) {
                return;
            }
            timeouts.raises().clone()
        };
        // A crash that takes it back costs a few slow calls until it is raised again.
        self.keeper.save_raises(&raises);
        let timeout = configured + self.raised_by(first, configured);
        self.events.tell(Event::TimeoutRaised { model: first.clone(), timeout_ms: timeout.as_millis() as u64 });
    }
}
