//! SPEC 4's table.

use std::time::Duration;

use crate::fault::Fault;

/// One row of the table.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Whether and when the same model is asked again in this execution.
    pub again: Again,
    /// How another model is chosen, and how soon it is asked.
    pub next: NextModel,
    /// What the model's breaker is told.
    pub breaker: BreakerEffect,
}

/// Whether the same model is asked again in this execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It would fail in the same way.
    Never,
    /// When the other models had their turn.
    LaterRound,
    /// The same, but not after a second such failure.
    OnceInLaterRound,
    /// With a changed request, before any other model; not after a second such failure.
    OnceAtOnce,
}

/// How another model is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextModel {
    /// In order, after the backoff.
    AfterBackoff,
    /// In order, without a pause.
    AtOnce,
    /// Those with a larger context window first, after the backoff.
    LargerWindowFirst,
    /// Whoever gave the call up decides whether anything follows. An execution that goes on does so after the backoff.
    None,
}

/// What the model's breaker is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerEffect {
    /// The failure is no fault of the model.
    None,
    /// One failure.
    Count,
    /// One failure, unless our own network is down ([`crate::network::NetworkWatch`]).
    CountUnlessOwnNetwork,
    /// A failure that opens it at once, for at least this time (the breaker caps it).
    OpenForRetryAfter(Duration),
    /// A failure that opens it at once, for the longest time that its configuration allows.
    OpenForMax,
    /// One failure, however often it happens in one execution ([`crate::failover::Execution::bad_answer_counted`]).
    CountOncePerExecution,
}

/// SPEC 4's table. `should_retry` is the provider's own word (`x-should-retry`) and goes before the table: `false` rules
/// out asking again, `true` allows a later round; a model that may be asked again is then not shut out by
/// [`BreakerEffect::OpenForMax`] either, the failure only counts. Where no provider has spoken
/// ([`Fault::Cancelled`], [`Fault::Uncallable`]) the word is ignored.
pub fn rule(fault: &Fault, should_retry: Option<bool>) -> Rule {
    use {Again as A, BreakerEffect as B, NextModel as N};
    let (again, next, breaker) = match fault {
        Fault::Unavailable | Fault::Malformed => (A::LaterRound, N::AfterBackoff, B::Count),
        Fault::TimedOut => (A::OnceInLaterRound, N::AfterBackoff, B::Count),
        Fault::Network(_) => (A::LaterRound, N::AfterBackoff, B::CountUnlessOwnNetwork),
        Fault::Tls => (A::Never, N::AfterBackoff, B::Count),
        Fault::Conflict => (A::LaterRound, N::AfterBackoff, B::None),
        Fault::RateLimited { retry_after: Some(time) } => (A::Never, N::AtOnce, B::OpenForRetryAfter(*time)),
        Fault::RateLimited { retry_after: None } => (A::LaterRound, N::AfterBackoff, B::Count),
        Fault::QuotaExhausted | Fault::Denied => (A::Never, N::AfterBackoff, B::OpenForMax),
        // No call was made, so there is nothing to back off from.
        Fault::Uncallable => {
            return Rule { again: A::Never, next: N::AtOnce, breaker: B::None };
        }
        Fault::ContextTooLong => (A::Never, N::LargerWindowFirst, B::None),
        Fault::BadRequest | Fault::Filtered => (A::Never, N::AfterBackoff, B::None),
        Fault::BadAnswer => (A::OnceAtOnce, N::AfterBackoff, B::CountOncePerExecution),
        Fault::Truncated => (A::OnceAtOnce, N::AfterBackoff, B::None),
        Fault::Cancelled => {
            return Rule { again: A::LaterRound, next: N::None, breaker: B::None };
        }
    };
    match (should_retry, again, breaker) {
        (Some(false), _, _) => Rule { again: A::Never, next, breaker },
        (Some(true), A::Never | A::OnceInLaterRound, B::OpenForMax) => {
            Rule { again: A::LaterRound, next, breaker: B::Count }
        }
        (Some(true), A::Never | A::OnceInLaterRound, _) => Rule { again: A::LaterRound, next, breaker },
        (Some(true), A::LaterRound | A::OnceAtOnce, _) | (None, _, _) => Rule { again, next, breaker },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::NetworkFault;

    const S30: Duration = Duration::from_secs(30);

    /// A row for each row of SPEC 4's table, in its order.
    fn rows() -> Vec<(Fault, Again, NextModel, BreakerEffect)> {
        use {Again as A, BreakerEffect as B, NextModel as N};
        let network = |kind| Fault::Network(kind);
        vec![
            (Fault::Unavailable, A::LaterRound, N::AfterBackoff, B::Count),
            (Fault::TimedOut, A::OnceInLaterRound, N::AfterBackoff, B::Count),
            (Fault::Malformed, A::LaterRound, N::AfterBackoff, B::Count),
            (network(NetworkFault::NoSuchHost), A::LaterRound, N::AfterBackoff, B::CountUnlessOwnNetwork),
            (network(NetworkFault::ResolverDown), A::LaterRound, N::AfterBackoff, B::CountUnlessOwnNetwork),
            (network(NetworkFault::Unreachable), A::LaterRound, N::AfterBackoff, B::CountUnlessOwnNetwork),
            (Fault::Tls, A::Never, N::AfterBackoff, B::Count),
            (Fault::Conflict, A::LaterRound, N::AfterBackoff, B::None),
            (Fault::RateLimited { retry_after: Some(S30) }, A::Never, N::AtOnce, B::OpenForRetryAfter(S30)),
            (Fault::RateLimited { retry_after: None }, A::LaterRound, N::AfterBackoff, B::Count),
            (Fault::QuotaExhausted, A::Never, N::AfterBackoff, B::OpenForMax),
            (Fault::Denied, A::Never, N::AfterBackoff, B::OpenForMax),
            (Fault::Uncallable, A::Never, N::AtOnce, B::None),
            (Fault::ContextTooLong, A::Never, N::LargerWindowFirst, B::None),
            (Fault::BadRequest, A::Never, N::AfterBackoff, B::None),
            (Fault::BadAnswer, A::OnceAtOnce, N::AfterBackoff, B::CountOncePerExecution),
            (Fault::Truncated, A::OnceAtOnce, N::AfterBackoff, B::None),
            (Fault::Filtered, A::Never, N::AfterBackoff, B::None),
            (Fault::Cancelled, A::LaterRound, N::None, B::None),
        ]
    }

    #[test]
    fn the_table_says_what_the_specification_says() {
        for (fault, again, next, breaker) in rows() {
            assert_eq!(rule(&fault, None), Rule { again, next, breaker }, "{fault:?}");
        }
    }

    #[test]
    fn a_provider_that_says_no_is_not_asked_again() {
        for (fault, _, next, breaker) in rows() {
            if matches!(fault, Fault::Cancelled | Fault::Uncallable) {
                continue;
            }
            let expected = Rule { again: Again::Never, next, breaker };
            assert_eq!(rule(&fault, Some(false)), expected, "{fault:?}");
        }
    }

    #[test]
    fn a_provider_that_says_yes_may_be_asked_in_a_later_round() {
        for (fault, again, next, breaker) in rows() {
            let (again, breaker) = match (&fault, again, breaker) {
                (Fault::Cancelled | Fault::Uncallable, again, breaker) => (again, breaker),
                (_, again @ Again::OnceAtOnce, breaker) => (again, breaker),
                (_, _, BreakerEffect::OpenForMax) => (Again::LaterRound, BreakerEffect::Count),
                (_, _, breaker) => (Again::LaterRound, breaker),
            };
            assert_eq!(rule(&fault, Some(true)), Rule { again, next, breaker }, "{fault:?}");
        }
    }
}
