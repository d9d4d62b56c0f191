//! GitHub's rate limits: when it wants to be left alone, and for how long. Pure.
//!
//! Source: GitHub's documentation, "Rate limits for the REST API". Whoever goes on while limited may be shut out for good.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{DATE, HeaderMap};

use crate::http::{LONGEST_WAIT, retry_after};

/// The least pause after a secondary limit without a word on its length, by GitHub's documentation.
const SECONDARY_WAIT: Duration = Duration::from_secs(60);
/// The hour's requests may be given anew a moment after the announced second.
const SLACK: Duration = Duration::from_secs(1);

/// Whether an answer that is no success is one of the limits: for how long no request may be made. At most an hour.
pub(crate) fn limited(status: u16, headers: &HeaderMap, message: &str, now: SystemTime) -> Option<Duration> {
    if !matches!(status, 403 | 429) {
        return None;
    }
    let by_words = || {
        let message = message.to_lowercase();
        // "abuse" is what older Enterprise servers call it.
        let is_limit = status == 429 || ["rate limit", "abuse"].iter().any(|words| message.contains(words));
        is_limit.then_some(SECONDARY_WAIT)
    };
    retry_after(headers).or_else(|| spent(headers, now)).or_else(by_words)
}

/// Whether the requests of this hour are used up: the time until there are new ones. At most an hour.
pub(crate) fn spent(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if text("x-ratelimit-remaining") != Some("0") {
        return None;
    }
    let reset = UNIX_EPOCH.checked_add(Duration::from_secs(text("x-ratelimit-reset")?.parse().ok()?))?;
    // By GitHub's own clock, where it tells it.
    let now = text(DATE.as_str()).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or(now);
    Some((reset.duration_since(now).unwrap_or_default() + SLACK).min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn wait(status: u16, lines: &[(&'static str, &str)], message: &str) -> Option<u64> {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        limited(status, &headers(lines), message, now).map(|wait| wait.as_secs())
    }

    #[test]
    fn the_primary_limit_waits_until_its_reset_by_githubs_own_clock() {
        let spent = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1000300")];
        for status in [403, 429] {
            assert_eq!(wait(status, &spent, "API rate limit exceeded for user ID 1."), Some(301));
        }
        // Their clock is 1507651200; ours is far behind it.
        let dated = [
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "1507651230"),
            ("date", "Tue, 10 Oct 2017 16:00:00 GMT"),
        ];
        assert_eq!(wait(403, &dated, ""), Some(31));
    }

    #[test]
    fn the_secondary_limit_waits_as_it_is_told_or_a_minute() {
        let words = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.";
        assert_eq!(wait(403, &[("retry-after", "17"), ("x-ratelimit-remaining", "4000")], words), Some(17));
        assert_eq!(wait(403, &[("x-ratelimit-remaining", "4000")], words), Some(60));
        assert_eq!(wait(429, &[], ""), Some(60));
        assert_eq!(wait(403, &[], "You have triggered an abuse detection mechanism."), Some(60));
    }

    #[test]
    fn a_plain_refusal_is_no_limit_and_no_limit_lasts_longer_than_an_hour() {
        assert_eq!(wait(403, &[("x-ratelimit-remaining", "4999")], "Resource not accessible"), None);
        assert_eq!(wait(404, &[("retry-after", "5")], "Not Found"), None);
        assert_eq!(wait(403, &[("retry-after", "86400")], ""), Some(3600));
        // What the recorded answers carry: milliseconds where there should be seconds.
        let broken = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1507651200000")];
        assert_eq!(wait(403, &broken, ""), Some(3600));
    }
}
