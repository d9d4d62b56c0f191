//! When a provider says that it may be asked again: in a header or in so many words.

use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use serde_json::Value;

/// A longer time is taken for this one: it keeps later sums of instants from overflowing.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// `retry-after-ms`, else `Retry-After` (RFC 9110 10.2.3: seconds or a date; fractions are seen, too). `None` when
/// neither is there or can be read. A date is measured from the response's own `Date`, where it has one, so that a clock
/// that differs does no harm; one that has passed gives zero.
pub(crate) fn from_headers(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if let Some(wait) = text("retry-after-ms").and_then(decimal).and_then(|ms| seconds(ms / 1000.0)) {
        return Some(wait);
    }
    let value = text(RETRY_AFTER.as_str())?;
    if let Some(number) = decimal(value) {
        return seconds(number);
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let from = text(DATE.as_str()).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or(now);
    Some(until.duration_since(from).unwrap_or(Duration::ZERO).min(LONGEST))
}

/// The fields in which providers name a time: Google's `RetryInfo.retryDelay` among `details`, `retry_after` (seconds)
/// and `retry_after_ms`.
pub(crate) fn from_fields(error: &Value) -> Option<Duration> {
    let number = |value: &Value| value.as_f64().or_else(|| value.as_str().and_then(decimal));
    let delay = error["details"].as_array().into_iter().flatten().find_map(|detail| detail["retryDelay"].as_str());
    delay
        .and_then(span)
        .or_else(|| seconds(number(&error["retry_after_ms"])? / 1000.0))
        .or_else(|| seconds(number(&error["retry_after"])?))
}

/// Finds `try again in 1m30s`, `retry after 26 seconds` and the like; `text` is in lower case.
pub(crate) fn from_words(text: &str) -> Option<Duration> {
    ["again in ", "retry in ", "retry after ", "again after ", "please wait "]
        .iter()
        .find_map(|lead| text.match_indices(lead).find_map(|(at, _)| span(&text[at + lead.len()..])))
}

/// A time span at the start of the text: numbers with units, one after the other. `None` without any.
fn span(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = None;
    loop {
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let Some(value) = decimal(rest[..number].trim_end_matches('.')) else {
            return total.and_then(seconds);
        };
        rest = rest[number..].trim_start();
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let scale = match &rest[..letters] {
            "ms" | "milliseconds" | "millisecond" => 0.001,
            "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3600.0,
            "d" | "day" | "days" => 86400.0,
            _ => return total.and_then(seconds),
        };
        total = Some(total.unwrap_or(0.0) + value * scale);
        rest = rest[letters..].trim_start();
    }
}

/// Digits with at most one point; no sign, exponent, `inf` or `nan`, which `parse` alone would take.
fn decimal(text: &str) -> Option<f64> {
    let plain = text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    if plain { text.parse().ok() } else { None }
}

fn seconds(number: f64) -> Option<Duration> {
    if number.is_nan() || number < 0.0 {
        return None;
    }
    Some(Duration::try_from_secs_f64(number).unwrap_or(LONGEST).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};
    use serde_json::json;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn now() -> SystemTime {
        httpdate::parse_http_date("Tue, 24 Nov 2026 10:00:00 GMT").unwrap()
    }

    #[test]
    fn headers_are_read_in_every_form() {
        let ms = Duration::from_millis;
        for (pairs, wait) in [
            (&[("retry-after", "20")][..], Some(ms(20_000))),
            (&[("retry-after", " 1.5 ")], Some(ms(1500))),
            (&[("retry-after", "0")], Some(ms(0))),
            (&[("retry-after-ms", "250"), ("retry-after", "1")], Some(ms(250))),
            (&[("retry-after-ms", "soon"), ("retry-after", "1")], Some(ms(1000))),
            (&[("retry-after", "Tue, 24 Nov 2026 10:01:00 GMT")], Some(ms(60_000))),
            (&[("retry-after", "Tue, 24 Nov 2026 09:00:00 GMT")], Some(ms(0))),
            (
                &[("retry-after", "Tue, 24 Nov 2026 09:00:30 GMT"), ("date", "Tue, 24 Nov 2026 09:00:00 GMT")],
                Some(ms(30_000)),
            ),
            (&[("retry-after", "99999999999999999999999")], Some(LONGEST)),
            (&[("retry-after", "-5")], None),
            (&[("retry-after", "nan")], None),
            (&[("retry-after", "")], None),
            (&[], None),
        ] {
            assert_eq!(from_headers(&headers(pairs), now()), wait, "{pairs:?}");
        }
    }

    #[test]
    fn bodies_are_read_in_every_form() {
        let fields = [
            (json!({"details": [{"@type": "x"}, {"@type": "RetryInfo", "retryDelay": "34.5s"}]}), Some(34_500)),
            (json!({"retry_after": 3}), Some(3_000)),
            (json!({"retry_after": "7.5"}), Some(7_500)),
            (json!({"retry_after_ms": 40}), Some(40)),
            (json!({"retry_after": null}), None),
            (json!("text"), None),
        ];
        for (value, wait) in fields {
            assert_eq!(from_fields(&value), wait.map(Duration::from_millis), "{value}");
        }
        let words = [
            ("rate limit reached. please try again in 20s. visit", Some(20_000)),
            ("please try again in 1m30s.", Some(90_000)),
            ("please try again in 6ms", Some(6)),
            ("try again in 7m12.345s", Some(432_345)),
            ("please retry after 26 seconds.", Some(26_000)),
            ("please retry in 34.074824224s.", Some(34_074)),
            ("try again in 2 minutes and relax", Some(120_000)),
            ("try again in 1h 2m 3s", Some(3_723_000)),
            ("try again in a while; then retry after 5 s", Some(5_000)),
            ("try again in 5 apples", None),
            ("too many requests", None),
        ];
        for (text, wait) in words {
            assert_eq!(from_words(text).map(|wait| wait.as_millis()), wait, "{text}");
        }
    }
}
