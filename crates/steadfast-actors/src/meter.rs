//! Counts what the five rates are made of. A passive record: actors add to it, nobody decides by it.

use std::sync::{Mutex, PoisonError};

use steadfast_core::rates::{Counts, Rates};

/// The rates of this store.
#[derive(Debug)]
pub struct Meter {
    rates: Mutex<Rates>,
    /// Milliseconds since 1970.
    clock: fn() -> u64,
}

impl Meter {
    pub(crate) fn new(rates: Rates, clock: fn() -> u64) -> Self {
        Self { rates: Mutex::new(rates), clock }
    }

    pub(crate) fn count(&self, what: Counts) {
        let minute = (self.clock)() / 60_000;
        self.rates.lock().unwrap_or_else(PoisonError::into_inner).count(minute, &what);
    }

    /// As they are now.
    pub fn rates(&self) -> Rates {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
