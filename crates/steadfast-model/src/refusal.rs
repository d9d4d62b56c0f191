//! What an answer that is an error means: the one place where a status becomes a row of SPEC 4's table.

use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;
use serde_json::Value;
use steadfast_core::fault::{CallFault, Fault, Usage};

use crate::report::Reporter;
use crate::{retry_after, wording};

/// Words are looked for in this many bytes of a message only: what follows may be the prompt, echoed.
const WORDS_BYTES: usize = 2000;

/// An error as its body told it.
#[derive(Debug, Default)]
pub(crate) struct ProviderError {
    /// The sentence for people, or the body as it is when it is no JSON.
    pub(crate) message: String,
    /// `code`, `type` and `status` in lower case, those of the error before those around it.
    codes: Vec<String>,
    /// A code that is a number, as llama.cpp, Google and OpenRouter send it.
    status: Option<u16>,
    wait: Option<Duration>,
    /// Google names the quota that was hit; one that is counted per day does not come back in the time that is told.
    per_day: bool,
}

impl ProviderError {
    /// Reads a body; anything is accepted.
    pub(crate) fn from_body(body: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(body) {
            Ok(value) if value.is_object() || value.is_array() => Self::from_json(&value),
            _ => Self::from_text(String::from_utf8_lossy(body).into_owned()),
        }
    }

    fn from_text(message: String) -> Self {
        Self { message, ..Self::default() }
    }

    /// `{"error": {…}}`, `{"error": "…"}`, `{"errors": [{…}]}`, `{"message": …}`, `{"detail": … }`, or a list whose first
    /// entry is one of these.
    pub(crate) fn from_json(value: &Value) -> Self {
        let value = if value.is_array() { &value[0] } else { value };
        let outer = [&value["error"], &value["errors"][0], &value["detail"][0], &value["detail"]];
        let error = outer.into_iter().find(|found| !found.is_null() && !found.is_boolean()).unwrap_or(value);
        let mut this = Self::default();
        for level in [error, value] {
            for key in ["code", "type", "status"] {
                match &level[key] {
                    Value::String(code) => this.take_code(code),
                    Value::Number(code) => this.take_status(code.as_u64()),
                    _ => {}
                }
            }
        }
        let text = |key: &str| error[key].as_str().filter(|text| !text.trim().is_empty());
        this.message = match error.as_str().or_else(|| ["message", "msg", "detail", "error"].into_iter().find_map(text))
        {
            Some(message) => message.to_owned(),
            None => value.to_string(),
        };
        this.wait = retry_after::from_fields(error);
        this.per_day = error["details"].as_array().into_iter().flatten().any(|detail| {
            let violations = detail["violations"].as_array().into_iter().flatten();
            violations.filter_map(|violation| violation["quotaId"].as_str()).any(|quota| quota.contains("PerDay"))
        });
        this
    }

    fn take_code(&mut self, code: &str) {
        match code.parse() {
            Ok(number) => self.take_status(Some(number)),
            Err(_) => self.codes.push(code.to_ascii_lowercase()),
        }
    }

    fn take_status(&mut self, number: Option<u64>) {
        let status = number.and_then(|number| u16::try_from(number).ok()).filter(|status| (400..600).contains(status));
        self.status = self.status.or(status);
    }

    /// The head of the message in lower case, for looking for words.
    pub(crate) fn words(&self) -> String {
        let mut end = self.message.len().min(WORDS_BYTES);
        while !self.message.is_char_boundary(end) {
            end -= 1;
        }
        self.message[..end].to_lowercase()
    }
}

/// An answer with an error status. `body`: its beginning, may be empty.
pub(crate) fn of_response(
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    now: SystemTime,
    reporter: &Reporter,
) -> (CallFault, ProviderError) {
    let error = ProviderError::from_body(body);
    let message = match status {
        300..400 => format!("HTTP {status}: {}", redirect(headers)),
        _ if error.message.trim().is_empty() => {
            format!("HTTP {status} without a word of explanation")
        }
        _ => format!("HTTP {status}: {}", error.message),
    };
    let fault = CallFault {
        fault: classify(status, &error, retry_after::from_headers(headers, now)),
        should_retry: should_retry(headers),
        status: Some(status),
        message: reporter.message(&message),
        usage: Usage::default(),
        request_id: None,
    };
    (fault, error)
}

/// An error that came inside an answer whose status was 200: it counts as the response that it describes.
pub(crate) fn in_answer(error: &ProviderError, headers: &HeaderMap, now: SystemTime, reporter: &Reporter) -> CallFault {
    let words = error.words();
    let status = error
        .status
        .or_else(|| error.codes.iter().find_map(|code| wording::status_of_code(code)))
        .or_else(|| wording::status_of_words(&words))
        .or_else(|| {
            let ours = wording::says_context(&error.codes, &words)
                || wording::says_quota(&error.codes, &words)
                || wording::says_filtered(&error.codes, &words);
            ours.then_some(400)
        });
    CallFault {
        fault: classify(status.unwrap_or(500), error, retry_after::from_headers(headers, now)),
        should_retry: should_retry(headers),
        status: Some(status.unwrap_or(200)),
        message: reporter.message(&format!("error inside the answer: {}", error.message)),
        usage: Usage::default(),
        request_id: None,
    }
}

/// SPEC 4's table, from the status and what was said.
fn classify(status: u16, error: &ProviderError, header_wait: Option<Duration>) -> Fault {
    let words = error.words();
    let codes = &error.codes[..];
    match status {
        402 => Fault::QuotaExhausted,
        429 => {
            let wait = header_wait.or(error.wait).or_else(|| retry_after::from_words(&words));
            // "Quota exceeded" is also said of limits per minute; then there is a time to wait.
            let exhausted = wording::is_quota_code(codes)
                || error.per_day
                || (wait.is_none() && wording::says_quota(codes, &words));
            if exhausted { Fault::QuotaExhausted } else { Fault::RateLimited { retry_after: wait } }
        }
        401 | 403 | 404 => Fault::Denied,
        409 => Fault::Conflict,
        413 => Fault::ContextTooLong,
        400 | 422 if wording::says_context(codes, &words) => Fault::ContextTooLong,
        400 | 422 if wording::says_quota(codes, &words) => Fault::QuotaExhausted,
        400 | 422 if wording::says_filtered(codes, &words) => Fault::Filtered,
        408 | 500.. => Fault::Unavailable,
        400..500 => Fault::BadRequest,
        // 1xx never gets here, 2xx is an answer, and a redirect is none in the provider's format.
        _ => Fault::Malformed,
    }
}

fn should_retry(headers: &HeaderMap) -> Option<bool> {
    match headers.get("x-should-retry")?.to_str().ok()?.trim() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Redirects are not followed: the prompt and the key were meant for the configured host.
fn redirect(headers: &HeaderMap) -> String {
    let target = headers.get("location").and_then(|location| location.to_str().ok());
    // Of an address that leads elsewhere only the host is shown: its query may hold a token.
    match target.map(|target| (reqwest::Url::parse(target), target)) {
        Some((Ok(url), _)) => {
            let host = url.host_str().unwrap_or("another address");
            format!("redirected to {}://{host}, which is not followed; set base_url to the final address", url.scheme())
        }
        Some((Err(_), path)) => {
            let path = path.split(['?', '#']).next().unwrap_or("");
            format!("redirected to {path}, which is not followed; set base_url to the final address")
        }
        None => "redirected without saying where; redirects are not followed".to_owned(),
    }
}
