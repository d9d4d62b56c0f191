//! What the tracker and the webhook share of HTTP: one client each, bounded answers, and texts without secrets.

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Response, Url, redirect, retry};
use tokio::sync::OnceCell;

use crate::DeliveryError;

/// One request with its whole answer. GitHub gives up on a request of its own after 10 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// TCP has sent its first packet four times by then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait that another side can ask for. GitHub's limits renew every hour; more is a broken clock.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// The most characters of what another side said that go into a message.
const SAID_CHARS: usize = 300;

/// A client for one address, made when it is first needed.
pub(crate) struct Http {
    client: OnceCell<Client>,
    base: Url,
}

impl Http {
    pub(crate) fn to(base: &Url) -> Self {
        Self { client: OnceCell::new(), base: base.clone() }
    }

    /// Reading the root certificates blocks, so it is done on a thread for blocking work.
    pub(crate) async fn client(&self) -> Result<&Client, DeliveryError> {
        let build = || async {
            let base = self.base.clone();
            let built = tokio::task::spawn_blocking(move || build(&base)).await;
            built.map_err(|panic| panic.to_string())?.map_err(|error| root_cause(&error))
        };
        let unusable = |cause: String| {
            DeliveryError::Unreachable(format!("the root certificates of this system cannot be used: {cause}"))
        };
        self.client.get_or_try_init(build).await.map_err(unusable)
    }

    /// Why a request brought no answer. Names the host alone: the rest of an address may be a secret.
    pub(crate) fn no_answer(&self, error: &reqwest::Error) -> DeliveryError {
        let host = host(&self.base);
        DeliveryError::Unreachable(match (error.is_timeout(), error.is_connect()) {
            (true, true) => format!("no connection to {host} within {CONNECT_TIMEOUT:?}"),
            (true, false) => format!("{host} gave no answer within {REQUEST_TIMEOUT:?}"),
            (false, true) => format!("no connection to {host}: {}", root_cause(error)),
            (false, false) => format!("{host} gave no answer: {}", root_cause(error)),
        })
    }
}

/// Host and, where it is named, port.
pub(crate) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or("");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Scheme, host and port are the same, so what one may know the other may.
pub(crate) fn same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

fn build(base: &Url) -> Result<Client, reqwest::Error> {
    let builder = Client::builder()
        .user_agent(concat!("steadfast/", env!("CARGO_PKG_VERSION")))
        // A redirect may lead to another host, which must not see the token.
        .redirect(redirect::Policy::none())
        // Whether a request is made again is decided in the outbox.
        .retry(retry::never())
        .http1_only()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT);
    let address = base.host_str().unwrap_or("").trim_start_matches('[').trim_end_matches(']').to_owned();
    let is_loopback = address.parse::<IpAddr>().map_or(address == "localhost", |address| address.is_loopback());
    match (base.scheme(), is_loopback) {
        ("https", _) => builder.build(),
        (_, true) => builder.no_proxy().tls_built_in_root_certs(false).build(),
        (_, false) => builder.tls_built_in_root_certs(false).build(),
    }
}

/// The body, at most `max` bytes of it; `None` when there is more.
pub(crate) async fn read(mut response: Response, max: usize) -> Result<Option<Bytes>, reqwest::Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > max {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}

/// `Retry-After` (RFC 9110 10.2.3), at most [`LONGEST_WAIT`]. A date is measured from the answer's own, so that a clock that
/// differs does no harm.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = httpdate::parse_http_date(value).ok()?;
            let date = headers.get(DATE)?.to_str().ok()?;
            until.duration_since(httpdate::parse_http_date(date).ok()?).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

/// What another side said, as one line of at most 300 characters in which each secret is masked.
pub(crate) fn said(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| secret.len() > 3) {
        text = text.replace(secret, "***");
    }
    let line = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = line.collect::<Vec<_>>().join(" ");
    if line.chars().count() <= SAID_CHARS { line } else { line.chars().take(SAID_CHARS - 1).chain(['…']).collect() }
}

/// The innermost cause as text. The outer ones repeat it or hold the address.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_one_line_without_the_secret() {
        assert_eq!(said("no\r\n use of ghp_1234", &["ghp_1234"]), "no use of ***");
        assert_eq!(said(&"x".repeat(301), &[]).chars().count(), 300);
    }

    #[test]
    fn a_pause_is_read_as_seconds_or_as_a_date_and_is_bounded() {
        let wait = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            headers.insert(DATE, "Tue, 10 Oct 2017 16:00:00 GMT".parse().unwrap());
            retry_after(&headers).map(|wait| wait.as_secs())
        };
        assert_eq!(wait("30"), Some(30));
        assert_eq!(wait("Tue, 10 Oct 2017 16:01:00 GMT"), Some(60));
        assert_eq!(wait("Tue, 10 Oct 2017 15:00:00 GMT"), Some(0));
        assert_eq!(wait("999999"), Some(3600));
        assert_eq!(wait("soon"), None);
    }
}
