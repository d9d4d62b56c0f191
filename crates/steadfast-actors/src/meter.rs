//! Counts what the five rates are made of. A passive record: actors add to it, nobody decides by it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use steadfast_core::rates::{Counts, History, Rates};

use crate::records::Write;

/// The rates of this store.
#[derive(Debug)]
pub struct Meter {
    measured: Mutex<Measured>,
    /// Milliseconds since 1970.
    clock: fn() -> u64,
}

#[derive(Debug)]
struct Measured {
    rates: Rates,
    history: History,
    /// The history as it was handed out for saving last.
    saved: History,
}

impl Meter {
    pub(crate) fn new(rates: Rates, history: History, clock: fn() -> u64) -> Self {
        Self { measured: Mutex::new(Measured { rates, saved: history.clone(), history }), clock }
    }

    fn measured(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self, what: Counts) {
        let minute = (self.clock)() / 60_000;
        let measured = &mut *self.measured();
        measured.rates.count(minute, &what, &mut measured.history);
    }

    /// What makes it durable. The history changes once a minute at most, and goes only then: a minute leaves the one record
    /// and enters the other in the same batch.
    pub(crate) fn writes(&self) -> Vec<Write> {
        let measured = &mut *self.measured();
        let mut writes = vec![Write::Rates(Box::new(measured.rates.clone()))];
        if measured.saved != measured.history {
            measured.saved.clone_from(&measured.history);
            writes.push(Write::RateHistory(Box::new(measured.history.clone())));
        }
        writes
    }

    /// As they are now.
    pub fn rates(&self) -> Rates {
        self.measured().rates.clone()
    }

    /// What is older than the hour that [`Meter::rates`] holds by the minute, and the rates of the same instant.
    pub fn history(&self) -> (History, Rates) {
        let measured = self.measured();
        (measured.history.clone(), measured.rates.clone())
    }
}
