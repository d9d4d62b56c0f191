//! What may still be bought: limits of a session and of a day, and what has been spent.
//!
//! A passive record that the workers ask before each call and tell after it. Calls are counted before they are made, so
//! parallel agents cannot overrun `max_calls`; tokens and cost are known only afterwards, so the calls that are under way
//! when a limit is reached still end, and no further one begins.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use steadfast_core::fault::Usage;
use steadfast_core::ids::{ModelId, SessionId};
use steadfast_core::session::Spent;

/// Limits of one period; `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    /// Calls that reach a provider.
    pub calls: Option<u64>,
    /// Tokens of prompts and answers.
    pub tokens: Option<u64>,
    /// Millionths of the currency in which prices are configured.
    pub cost_micros: Option<u64>,
}

/// Of a session, and of all sessions together in a day (UTC).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of one session over its whole life.
    pub session: Limit,
    /// Of all sessions between midnight and midnight UTC.
    pub day: Limit,
}

impl Limit {
    /// Says which limit is reached.
    fn reached(&self, what: &str, spent: &Spent) -> Option<String> {
        let over = |limit: Option<u64>, spent: u64| limit.filter(|limit| spent >= *limit);
        if let Some(limit) = over(self.calls, spent.calls) {
            return Some(format!("the {what}'s budget of {limit} calls is spent"));
        }
        if let Some(limit) = over(self.tokens, spent.tokens()) {
            return Some(format!("the {what}'s budget of {limit} tokens is spent ({} used)", spent.tokens()));
        }
        let limit = over(self.cost_micros, spent.cost_micros)?;
        let money = |micros: u64| format!("{:.2}", micros as f64 / 1e6);
        Some(format!("the {what}'s budget of {} is spent ({} used)", money(limit), money(spent.cost_micros)))
    }
}

#[derive(Debug)]
struct Books {
    limits: Limits,
    /// Per million tokens, in millionths: input, output.
    prices: BTreeMap<ModelId, (u64, u64)>,
    sessions: HashMap<SessionId, Spent>,
    /// Days since 1970 (UTC), and what was spent on that day.
    day: (u64, Spent),
}

/// Keeps the books of all sessions at work.
#[derive(Debug)]
pub struct Ledger {
    today: fn() -> u64,
    books: Mutex<Books>,
}

impl Ledger {
    /// `today`: days since 1970 in UTC. `spent_today`: what was spent before this process, and on which day.
    pub fn new(
        limits: Limits,
        prices: BTreeMap<ModelId, (u64, u64)>,
        today: fn() -> u64,
        spent_today: (u64, Spent),
    ) -> Self {
        Self { today, books: Mutex::new(Books { limits, prices, sessions: HashMap::new(), day: spent_today }) }
    }

    /// Other limits and prices from now on; what was spent stays spent.
    pub fn configure(&self, limits: Limits, prices: BTreeMap<ModelId, (u64, u64)>) {
        let mut books = self.books();
        (books.limits, books.prices) = (limits, prices);
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Each update is a few additions; a panic in between would at worst lose one of them.
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let today = (self.today)();
        if books.day.0 != today {
            books.day = (today, Spent::default());
        }
        books
    }

    /// Opens the books of a session with what it has spent before.
    pub fn open(&self, session: &SessionId, spent: Spent) {
        self.books().sessions.insert(session.clone(), spent);
    }

    /// Closes the books of a session.
    pub fn close(&self, session: &SessionId) -> Spent {
        self.books().sessions.remove(session).unwrap_or_default()
    }

    /// What the session has spent so far.
    pub fn spent(&self, session: &SessionId) -> Spent {
        self.books().sessions.get(session).copied().unwrap_or_default()
    }

    /// The day (days since 1970, UTC) and what was spent on it; `None` where no limit of a day makes it worth keeping.
    pub fn spent_today(&self) -> Option<(u64, Spent)> {
        let books = self.books();
        (books.limits.day != Limit::default()).then_some(books.day)
    }

    /// Counts a call that is about to be made.
    ///
    /// # Errors
    /// Which limit is reached, for a person; then nothing is counted and the call must not be made.
    pub fn admit(&self, session: &SessionId) -> Result<(), String> {
        let mut books = self.books();
        let spent = books.sessions.get(session).copied().unwrap_or_default();
        if let Some(reason) = books.limits.session.reached("session", &spent) {
            return Err(reason);
        }
        if let Some(reason) = books.limits.day.reached("day", &books.day.1) {
            return Err(reason);
        }
        let one = Spent { calls: 1, ..Spent::default() };
        books.sessions.insert(session.clone(), spent.plus(one));
        books.day.1 = books.day.1.plus(one);
        Ok(())
    }

    /// Takes back a call that was not made after all.
    pub fn give_back(&self, session: &SessionId) {
        let mut books = self.books();
        if let Some(spent) = books.sessions.get_mut(session) {
            spent.calls = spent.calls.saturating_sub(1);
        }
        books.day.1.calls = books.day.1.calls.saturating_sub(1);
    }

    /// Adds what a call has cost, with tokens as the provider counted them. Answers what the call has cost, itself
    /// included.
    pub fn settle(&self, session: &SessionId, model: &ModelId, usage: Usage) -> Spent {
        let mut books = self.books();
        let (input, output) = books.prices.get(model).copied().unwrap_or_default();
        let cost = u128::from(usage.input) * u128::from(input) + u128::from(usage.output) * u128::from(output);
        // Rounded up: a limit must not be passed by a thousand calls that each cost half a millionth.
        let cost_micros = u64::try_from(cost.div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let bought = Spent { calls: 0, usage, cost_micros };
        let spent = books.sessions.get(session).copied().unwrap_or_default();
        books.sessions.insert(session.clone(), spent.plus(bought));
        books.day.1 = books.day.1.plus(bought);
        Spent { calls: 1, ..bought }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> SessionId {
        SessionId::new(1, 1)
    }

    fn ledger(limits: Limits) -> Ledger {
        let prices = BTreeMap::from([(ModelId::new("p/m").unwrap(), (1_000_000, 2_000_000))]);
        Ledger::new(limits, prices, || 7, (7, Spent::default()))
    }

    #[test]
    fn the_call_after_the_last_allowed_one_is_refused_and_a_call_not_made_is_given_back() {
        let limit = Limit { calls: Some(2), ..Limit::default() };
        let ledger = ledger(Limits { session: limit, day: Limit::default() });
        assert_eq!(ledger.admit(&session()), Ok(()));
        assert_eq!(ledger.admit(&session()), Ok(()));
        assert_eq!(ledger.admit(&session()), Err("the session's budget of 2 calls is spent".to_owned()));
        ledger.give_back(&session());
        assert_eq!(ledger.admit(&session()), Ok(()));
        assert_eq!(ledger.spent(&session()).calls, 2);
    }

    #[test]
    fn cost_is_tokens_times_price_and_the_limit_says_what_was_spent() {
        let limit = Limit { cost_micros: Some(500_000), ..Limit::default() };
        let ledger = ledger(Limits { session: Limit::default(), day: limit });
        ledger.settle(&session(), &ModelId::new("p/m").unwrap(), Usage { input: 100_000, output: 250_000 });
        assert_eq!(ledger.spent(&session()).cost_micros, 600_000);
        assert_eq!(ledger.admit(&session()), Err("the day's budget of 0.50 is spent (0.60 used)".to_owned()));
    }

    #[test]
    fn other_limits_and_prices_hold_at_once_and_what_was_spent_stays_spent() {
        let limit = Limit { calls: Some(1), ..Limit::default() };
        let ledger = ledger(Limits { session: limit, day: Limit::default() });
        assert_eq!(ledger.admit(&session()), Ok(()));
        assert!(ledger.admit(&session()).is_err());
        let more = Limits { session: Limit { calls: Some(2), ..Limit::default() }, day: Limit::default() };
        ledger.configure(more, BTreeMap::from([(ModelId::new("p/m").unwrap(), (7_000_000, 0))]));
        assert_eq!(ledger.admit(&session()), Ok(()));
        assert!(ledger.admit(&session()).is_err());
        let bought = ledger.settle(&session(), &ModelId::new("p/m").unwrap(), Usage { input: 1, output: 1 });
        assert_eq!(bought.cost_micros, 7);
    }

    #[test]
    fn a_new_day_begins_with_nothing_spent() {
        let limit = Limit { calls: Some(1), ..Limit::default() };
        let before = (6, Spent { calls: 9, ..Spent::default() });
        let limits = Limits { session: Limit::default(), day: limit };
        let ledger = Ledger::new(limits, BTreeMap::new(), || 7, before);
        assert_eq!(ledger.admit(&session()), Ok(()));
        assert_eq!(ledger.spent_today(), Some((7, Spent { calls: 1, ..Spent::default() })));
    }
}
