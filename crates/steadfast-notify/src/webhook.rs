//! Alerts as a POST of JSON that Slack's incoming webhooks understand, and everything that copies them.

use std::sync::Arc;

use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use steadfast_fault_point::{self as fault_point, Point};

use crate::http::{self, Http};
use crate::{Alert, AlertChannel, DeliveryError, Sending};

/// An error's body is read up to here.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Posts alerts to one address, which counts as a secret.
///
/// A receiver gets each alert at least once, and in general exactly once: only a crash, or a connection that breaks, between
/// its arrival and our receipt sends it again, with the same `id`. No receiver can be asked whether it has it.
pub struct Webhook {
    inner: Arc<Inner>,
}

struct Inner {
    http: Http,
    url: Url,
    /// The address as it was configured, to be masked in what the other side says.
    secret: SecretString,
}

impl Webhook {
    /// `None`: this is no `http:` or `https:` address.
    pub fn new(address: &str) -> Option<Self> {
        let url = Url::parse(address).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        let inner = Inner { http: Http::to(&url), url, secret: SecretString::from(address) };
        Some(Self { inner: Arc::new(inner) })
    }

    /// Looks whether anybody answers at the host, and answers its name. The address itself is not touched: there are
    /// receivers that call people on any request.
    ///
    /// # Errors
    /// [`DeliveryError::Unreachable`] when nobody does.
    pub async fn reach(&self) -> Result<String, DeliveryError> {
        let inner = &self.inner;
        let mut top = inner.url.clone();
        top.set_path("/");
        top.set_query(None);
        let sent = inner.http.client().await?.head(top).send().await;
        sent.map_err(|error| inner.http.no_answer(&error))?;
        Ok(http::host(&inner.url))
    }
}

impl AlertChannel for Webhook {
    fn send(&self, alert: Alert) -> Sending {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { inner.send(&alert).await })
    }
}

impl Inner {
    async fn send(&self, alert: &Alert) -> Result<(), DeliveryError> {
        let client = self.http.client().await?;
        let body = serde_json::to_vec(&payload(alert)).map_err(|error| DeliveryError::Refused(error.to_string()))?;
        let request = client.post(self.url.clone()).header("content-type", "application/json").body(body);
        fault_point::reach(Point::NotifyWebhookBefore);
        let response = request.send().await.map_err(|error| self.http.no_answer(&error))?;
        fault_point::reach(Point::NotifyWebhookAnswered);
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let wait = http::retry_after(response.headers());
        // Without its body the status alone counts.
        let body = http::read(response, MAX_ANSWER_BYTES).await.ok().flatten().unwrap_or_default();
        let path = self.url.path().trim_matches('/');
        let said = http::said(&String::from_utf8_lossy(&body), &[self.secret.expose_secret(), path]);
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        let what = format!("the webhook at {} answers {status}{said}", http::host(&self.url));
        Err(match status.as_u16() {
            429 => DeliveryError::Limited { what, wait: wait.unwrap_or_default() },
            408 | 500.. => DeliveryError::Unreachable(what),
            _ => DeliveryError::Refused(what),
        })
    }
}

/// `text` is for Slack, the rest for programs.
fn payload(alert: &Alert) -> Value {
    let mut payload = Map::new();
    for (name, value) in &alert.fields {
        payload.insert(name.clone(), value.clone().into());
    }
    payload.insert("text".to_owned(), escaped(&alert.text).into());
    payload.insert("id".to_owned(), alert.id.clone().into());
    payload.insert("kind".to_owned(), alert.kind.as_str().into());
    payload.insert("at".to_owned(), rfc3339(alert.at_ms).into());
    Value::Object(payload)
}

/// Slack reads `<…>` as links and calls (`<!channel>`); these three are what it wants escaped.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A time as RFC 3339 in UTC, to the second.
pub(crate) fn rfc3339(ms: u64) -> String {
    // A time past the year 9999 is a broken clock; the beginning of time is as good a word for it as any.
    let seconds = i64::try_from(ms / 1000).unwrap_or(0);
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use axum::Router;
    use axum::extract::State;
    use axum::http::StatusCode;
    use axum::routing::post;
    use serde_json::json;

    use super::*;
    use crate::{AlertKind, Retry};

    type Got = Arc<Mutex<Vec<Value>>>;

    /// Answers with this, and remembers what came.
    async fn receiver(status: StatusCode, headers: &'static [(&'static str, &'static str)]) -> (String, Got) {
        let got = Got::default();
        let answer = move |State(got): State<Got>, body: String| async move {
            got.lock().unwrap().push(serde_json::from_str(&body).unwrap());
            let mut answer = axum::http::Response::new("no_such /services/T0/B0/hunter2".to_owned());
            *answer.status_mut() = status;
            for (name, value) in headers {
                answer.headers_mut().insert(*name, value.parse().unwrap());
            }
            answer
        };
        let router = Router::new().route("/services/T0/B0/hunter2", post(answer)).with_state(Arc::clone(&got));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/services/T0/B0/hunter2", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (address, got)
    }

    fn alert() -> Alert {
        Alert {
            id: "s1-m1-degraded".to_owned(),
            kind: AlertKind::Degraded,
            text: "No model answered: <!channel> & co".to_owned(),
            fields: vec![("session".to_owned(), "s1".to_owned())],
            at_ms: 1_507_651_200_999,
        }
    }

    #[tokio::test]
    async fn an_alert_is_posted_as_json_that_slack_takes_with_a_stable_id() {
        let (address, got) = receiver(StatusCode::OK, &[]).await;
        Webhook::new(&address).unwrap().send(alert()).await.unwrap();
        let sent = json!({
            "text": "No model answered: &lt;!channel&gt; &amp; co", "id": "s1-m1-degraded", "kind": "degraded",
            "at": "2017-10-10T16:00:00Z", "session": "s1",
        });
        assert_eq!(*got.lock().unwrap(), [sent]);
    }

    #[tokio::test]
    async fn a_refusal_is_told_by_its_kind_and_without_the_address() {
        for (status, headers, retry) in [
            (StatusCode::TOO_MANY_REQUESTS, &[("retry-after", "7")][..], Retry::After(Duration::from_secs(7))),
            (StatusCode::BAD_GATEWAY, &[], Retry::Soon),
            (StatusCode::NOT_FOUND, &[], Retry::Slowly),
            (StatusCode::TEMPORARY_REDIRECT, &[("location", "http://127.0.0.1:1/")], Retry::Slowly),
        ] {
            let (address, _) = receiver(status, headers).await;
            let error = Webhook::new(&address).unwrap().send(alert()).await.unwrap_err();
            assert_eq!(error.retry(), retry, "{error}");
            assert!(error.to_string().contains(status.as_str()), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let nobody = Webhook::new("http://127.0.0.1:1/services/hunter2").unwrap();
        let error = nobody.send(alert()).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Soon);
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }

    #[test]
    fn an_address_of_another_kind_is_none() {
        assert!(Webhook::new("ftp://h/x").is_none() && Webhook::new("h").is_none());
    }
}
