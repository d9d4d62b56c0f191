//! A signed time line: a restored breaker knows of failures that lie before its caller's origin.

use std::time::Duration;

/// Nanoseconds since the caller's origin. The longest [`Duration`] is below 2^95 of them, so no sum or difference of a
/// few can overflow.
pub(super) type Nanos = i128;

const PER_SECOND: Nanos = 1_000_000_000;

pub(super) fn nanos(span: Duration) -> Nanos {
    // Faster than `as_nanos`, which widens before it multiplies; spans beyond 584 years take the slow way.
    match span.as_secs().checked_mul(1_000_000_000) {
        Some(whole) => Nanos::from(whole) + Nanos::from(span.subsec_nanos()),
        None => Nanos::from(span.as_secs()) * PER_SECOND + Nanos::from(span.subsec_nanos()),
    }
}

/// The span of that many nanoseconds: zero for a negative number, the longest where it does not fit.
pub(super) fn span(nanos: Nanos) -> Duration {
    if nanos <= 0 {
        return Duration::ZERO;
    }
    if let Ok(short) = u64::try_from(nanos) {
        return Duration::from_nanos(short);
    }
    match (u64::try_from(nanos / PER_SECOND), u32::try_from(nanos % PER_SECOND)) {
        (Ok(seconds), Ok(rest)) => Duration::new(seconds, rest),
        (Err(_), _) | (_, Err(_)) => Duration::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_back_and_what_does_not_fit_is_clamped() {
        for d in [
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::from_secs(u64::MAX / 1_000_000_000),
            Duration::from_secs(u64::MAX / 1_000_000_000 + 1),
            Duration::new(u64::MAX / 1_000_000_000, 999_999_999),
            Duration::MAX,
        ] {
            assert_eq!(span(nanos(d)), d);
            assert_eq!(nanos(d), d.as_nanos() as i128);
        }
        assert_eq!(span(-1), Duration::ZERO);
        assert_eq!(span(nanos(Duration::MAX) + 1), Duration::MAX);
    }
}
