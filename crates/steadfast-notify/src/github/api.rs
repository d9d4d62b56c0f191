//! One request to GitHub's API: limits, redirects, and what its refusals say.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LINK, LOCATION};
use reqwest::{Method, Response, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use steadfast_fault_point::{self as fault_point, Point};
use tokio::time::Instant;

use super::{http, limits};
use crate::DeliveryError;
use crate::http::Http;

/// The version of the API that this was written for; GitHub keeps each for two years at least.
const API_VERSION: &str = "2022-11-28";
/// A page of 50 issues with the longest bodies, every character of them escaped, is below this.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// A renamed repository takes one redirect.
const MAX_REDIRECTS: usize = 3;

pub(super) struct Api {
    http: Http,
    base: Url,
    headers: HeaderMap,
    token: SecretString,
    /// No request before this time.
    paused: Mutex<Option<Instant>>,
}

/// A success.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    body: Bytes,
}

/// No success.
#[derive(Debug)]
pub(super) enum Failed {
    /// It may be repeated just so.
    Delivery(DeliveryError),
    /// An answer of 4xx that is no limit.
    Refused(Refusal),
}

impl From<DeliveryError> for Failed {
    fn from(error: DeliveryError) -> Self {
        Self::Delivery(error)
    }
}

/// What GitHub says when it refuses.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    /// Without the token, one line; may be empty.
    pub(super) message: String,
    /// Of a 422: what is wrong with which field.
    pub(super) errors: Vec<FieldError>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FieldError {
    pub(super) resource: String,
    pub(super) field: String,
    pub(super) code: String,
}

impl Refusal {
    /// The status and the words, for a person.
    pub(super) fn said(&self) -> String {
        let mut text = format!("{} {}", self.status, self.message).trim_end().to_owned();
        for error in &self.errors {
            text.push_str(&format!(", {} {}", error.field, error.code));
        }
        text
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    message: String,
    /// Mostly objects, for some faults texts.
    errors: Vec<Value>,
}

impl Answer {
    /// Reads the JSON of the answer. That it does not read says nothing about whether the effect took place.
    pub(super) fn read<T: DeserializeOwned>(&self, what: &str) -> Result<T, DeliveryError> {
        serde_json::from_slice(&self.body)
            .map_err(|_| DeliveryError::Unreachable(format!("GitHub's answer does not read as {what}")))
    }
}

impl Api {
    pub(super) fn new(api_url: &str, token: &SecretString) -> Result<Self, String> {
        let base = Url::parse(api_url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let base = base.ok_or_else(|| format!("issues.api_url {api_url:?} is no address"))?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))
            .map_err(|_| "the token of [issues] holds a character that cannot go into a header".to_owned())?;
        bearer.set_sensitive(true);
        let headers = HeaderMap::from_iter([
            (AUTHORIZATION, bearer),
            (ACCEPT, HeaderValue::from_static("application/vnd.github+json")),
            ("x-github-api-version".parse().expect("a header's name"), HeaderValue::from_static(API_VERSION)),
        ]);
        Ok(Self { http: Http::to(&base), base, headers, token: token.clone(), paused: Mutex::default() })
    }

    pub(super) fn host(&self) -> String {
        http::host(&self.base)
    }

    /// Below the base; a part may hold several segments, as a repository's name does.
    pub(super) fn url(&self, parts: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(parts.iter().flat_map(|part| part.split('/')));
        }
        url
    }

    /// The next page of a list that was asked for at `url`. Only the query is taken from GitHub's word: its address may be
    /// that of another host, behind a proxy for one, and the token stays with ours.
    pub(super) fn next_page(&self, url: &Url, answer: &Answer) -> Option<Url> {
        let links = answer.headers.get(LINK)?.to_str().ok()?;
        let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
        let next = self.base.join(next.trim().strip_prefix('<')?.split_once('>')?.0).ok()?;
        let mut page = url.clone();
        page.set_query(next.query());
        Some(page)
    }

    /// An address that GitHub sends us to, on the same host as its API.
    fn elsewhere(&self, url: &str) -> Result<Url, DeliveryError> {
        let url = self.base.join(url).ok();
        url.filter(|url| http::same_origin(url, &self.base)).ok_or_else(|| {
            let host = self.host();
            DeliveryError::Refused(format!(
                "{host} sends us to another host, which is not given the token: check issues.api_url"
            ))
        })
    }

    /// Makes the request, unless a limit forbids it.
    pub(super) async fn ask(&self, method: Method, url: Url, body: Option<&Value>) -> Result<Answer, Failed> {
        let mut url = url;
        for _ in 0..=MAX_REDIRECTS {
            self.may_ask()?;
            let client = self.http.client().await?;
            let mut request = client.request(method.clone(), url).headers(self.headers.clone());
            if let Some(body) = body {
                request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
            }
            fault_point::reach(Point::NotifyGithubBefore);
            let response = request.send().await.map_err(|error| self.http.no_answer(&error))?;
            fault_point::reach(Point::NotifyGithubAnswered);
            match response.status().as_u16() {
                // "The request should be repeated verbatim", GitHub says of all of these.
                301 | 302 | 307 | 308 => url = self.elsewhere(location(&response))?,
                _ => return self.answer(response).await,
            }
        }
        Err(DeliveryError::Refused(format!("{} sends us in a circle", self.host())).into())
    }

    async fn answer(&self, response: Response) -> Result<Answer, Failed> {
        let (status, headers) = (response.status(), response.headers().clone());
        let spent = limits::spent(&headers, SystemTime::now());
        if let Some(wait) = spent {
            self.pause(wait);
        }
        let body = http::read(response, MAX_ANSWER_BYTES).await;
        let code = status.as_u16();
        if status.is_success() {
            let body = body.map_err(|error| self.http.no_answer(&error))?;
            let too_long = || DeliveryError::Unreachable(format!("an answer of {} is too long", self.host()));
            return Ok(Answer { headers, body: body.ok_or_else(too_long)? });
        }
        if status.is_server_error() || code == 408 {
            return Err(DeliveryError::Unreachable(format!("{} answers {status}", self.host())).into());
        }
        // Without its body the status alone counts.
        let body: ErrorBody = serde_json::from_slice(&body.ok().flatten().unwrap_or_default()).unwrap_or_default();
        let message = http::said(&body.message, &[self.token.expose_secret()]);
        if let Some(wait) = limits::limited(code, &headers, &message, SystemTime::now()) {
            self.pause(wait);
            return Err(limited(&message, wait).into());
        }
        let errors = body.errors.into_iter().filter_map(|error| serde_json::from_value(error).ok()).collect();
        Err(Failed::Refused(Refusal { status: code, message, errors }))
    }

    fn paused(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut paused = self.paused();
        *paused = Some(paused.map_or(until, |before| before.max(until)));
    }

    fn may_ask(&self) -> Result<(), DeliveryError> {
        let wait = self.paused().map(|until| until.saturating_duration_since(Instant::now()));
        match wait.filter(|wait| !wait.is_zero()) {
            Some(wait) => Err(limited("its limit is not over", wait)),
            None => Ok(()),
        }
    }
}

fn location(response: &Response) -> &str {
    response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default()
}

fn limited(message: &str, wait: Duration) -> DeliveryError {
    DeliveryError::Limited { what: format!("GitHub limits our requests ({message})"), wait }
}
