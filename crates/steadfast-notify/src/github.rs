//! Issues on GitHub, over its REST API.
//!
//! Invariant: a key is filed once and commented once. The first line of each body and comment of ours is a hidden key; a
//! try that may not be the first one looks for it.
//!
//! It looks by *listing* what was changed since the effect was decided, not by searching: the search index lags behind for
//! seconds to minutes and is limited to 30 requests a minute. Nor does it list by label or assignee: GitHub drops both
//! without a word where the token may not set them, and an issue that was filed without them must be found all the same.

mod api;
mod limits;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use reqwest::{Method, Url};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};

use self::api::{Answer, Api, Failed, Refusal};
use crate::webhook::rfc3339;
use crate::{Closed, Closing, ClosingDone, DeliveryError, Filed, Filing, Issue, IssueTracker, Tried, http};

/// GitHub's limit of an issue's or comment's body.
const MAX_BODY_CHARS: usize = 65_536;
/// GitHub's limit of a title.
const MAX_TITLE_CHARS: usize = 256;
/// A page of issues with the longest bodies stays well below what is read of an answer.
const PER_PAGE: &str = "50";
/// Pages that are read in search of a key. 10,000 issues changed since then are no ordinary repository.
const MAX_PAGES: usize = 200;
/// What was decided at a time is looked for from so long before it on: clocks differ.
const CLOCK_SLACK: Duration = Duration::from_secs(7 * 24 * 3600);
/// A list may come from a replica of GitHub's database. One that was asked so long after the last try shows what it did.
const REPLICA_LAG: Duration = Duration::from_secs(2);

/// How GitHub is reached.
#[derive(Debug, Clone)]
pub struct GithubSettings {
    /// `https://api.github.com`, or `https://HOST/api/v3` of GitHub Enterprise.
    pub api_url: String,
    /// `owner/name`.
    pub repository: String,
    /// A token that may read and write the repository's issues.
    pub token: SecretString,
}

/// Why there can be no tracker with these settings.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

/// Files issues in one repository.
#[derive(Clone)]
pub struct GithubTracker {
    inner: Arc<Inner>,
}

struct Inner {
    api: Api,
    repository: String,
    /// GitHub asks for one request after the other, and shuts out who does otherwise.
    turn: tokio::sync::Mutex<()>,
    lag: Duration,
}

impl GithubTracker {
    /// Makes no request.
    ///
    /// # Errors
    /// [`SettingsError`] when the address is none or the token cannot go into a header; without any part of the token.
    pub fn new(settings: &GithubSettings) -> Result<Self, SettingsError> {
        let api = Api::new(&settings.api_url, &settings.token).map_err(SettingsError)?;
        let inner = Inner {
            api,
            repository: settings.repository.clone(),
            turn: tokio::sync::Mutex::default(),
            lag: REPLICA_LAG,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Looks whether the repository is there and takes issues from this token, as far as can be known without filing one.
    /// Answers what will not be taken all the same, as sentences; mostly nothing. (A token with permissions of its own
    /// does not say which they are.)
    ///
    /// # Errors
    /// [`DeliveryError`]: GitHub gave no answer, or issues cannot be filed there.
    pub async fn check(&self) -> Result<Vec<String>, DeliveryError> {
        self.inner.check().await.map_err(|failed| self.inner.explain(failed))
    }
}

impl IssueTracker for GithubTracker {
    fn file(&self, issue: Issue, tried: Tried) -> Filing {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { inner.file(&issue, tried).await.map_err(|failed| inner.explain(failed)) })
    }

    fn close(&self, closing: Closing, url: String, tried: Tried) -> ClosingDone {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { inner.close(&closing, &url, tried).await.map_err(|failed| inner.explain(failed)) })
    }
}

/// What is read of a repository.
#[derive(Debug, Deserialize)]
struct Place {
    has_issues: bool,
    archived: bool,
    private: bool,
    /// Of the account that the token belongs to.
    #[serde(default)]
    permissions: Permissions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Permissions {
    push: bool,
    triage: bool,
}

/// What is read of an issue.
#[derive(Debug, Deserialize)]
struct Shown {
    html_url: String,
    /// `null` when nobody wrote anything.
    body: Option<String>,
    state: String,
    #[serde(default)]
    assignees: Vec<Account>,
    #[serde(default)]
    labels: Vec<Label>,
    /// Every pull request is listed as an issue, too.
    pull_request: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Account {
    login: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Label {
    Name(String),
    Full { name: Option<String> },
}

impl Label {
    fn name(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Full { name } => name.as_deref().unwrap_or_default(),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Comment {
    body: Option<String>,
}

/// Only the first line counts: further down stands text of models and files, which may hold any key.
fn carries(body: Option<&str>, marker: &str) -> bool {
    body.is_some_and(|body| body.trim_start().starts_with(marker))
}

/// What is asked for beside title and body, as long as GitHub does not refuse it.
#[derive(Debug, Clone)]
struct Extras {
    assignee: Option<String>,
    labels: Vec<String>,
    refused: Vec<String>,
}

impl Extras {
    fn are_none(&self) -> bool {
        self.assignee.is_none() && self.labels.is_empty()
    }

    /// Takes out what the refusal names; all of it where it names nothing that is known.
    fn drop_refused(&mut self, refusal: &Refusal) {
        let names = |words: &[&str]| {
            refusal.errors.iter().any(|error| {
                let text = format!("{} {}", error.resource, error.field).to_lowercase();
                words.iter().any(|word| text.contains(word))
            })
        };
        let (of_assignee, of_labels) = (names(&["assignee"]), names(&["label"]));
        let names_one = (of_assignee && self.assignee.is_some()) || (of_labels && !self.labels.is_empty());
        if (of_assignee || !names_one)
            && let Some(assignee) = self.assignee.take()
        {
            self.refused.push(format!("the assignee {assignee}"));
        }
        if (of_labels || !names_one) && !self.labels.is_empty() {
            self.refused.push(format!("the label(s) {}", std::mem::take(&mut self.labels).join(", ")));
        }
    }

    fn note(&self) -> Option<String> {
        (!self.refused.is_empty()).then(|| format!("GitHub did not accept {}", self.refused.join(" and ")))
    }
}

impl Inner {
    async fn check(&self) -> Result<Vec<String>, Failed> {
        let _turn = self.turn.lock().await;
        let answer = self.api.ask(Method::GET, self.api.url(&["repos", &self.repository]), None).await?;
        let place: Place = answer.read("a repository")?;
        let refused = |what: String| Err(DeliveryError::Refused(what).into());
        let repository = &self.repository;
        if place.archived {
            return refused(format!("{repository} is archived: no issue can be filed there"));
        }
        if !place.has_issues {
            return refused(format!("issues are switched off in {repository}"));
        }
        // Of classic tokens alone, separated by commas. An empty list says nothing: apps have one.
        let scopes = answer.headers.get("x-oauth-scopes").and_then(|scopes| scopes.to_str().ok()).unwrap_or_default();
        let has = |wanted: &str| scopes.split(',').any(|scope| scope.trim() == wanted);
        if !scopes.trim().is_empty() && !has("repo") && (place.private || !has("public_repo")) {
            return refused(format!("the token has the scopes {scopes}: to file issues in {repository} it needs repo"));
        }
        let may_set = place.permissions.push || place.permissions.triage;
        let dropped = "the token's account may not triage here: GitHub will drop labels and assignees of issues";
        Ok(if may_set { Vec::new() } else { vec![dropped.to_owned()] })
    }

    async fn file(&self, issue: &Issue, tried: Tried) -> Result<Filed, Failed> {
        let marker = issue.marker();
        if let Tried::Perhaps { since_ms } = tried {
            let first = {
                let _turn = self.turn.lock().await;
                self.find(&marker, since_ms).await?
            };
            if let Some(url) = first {
                return Ok(Filed { url, found: true, note: None });
            }
            tokio::time::sleep(self.lag).await;
        }
        let _turn = self.turn.lock().await;
        if let Tried::Perhaps { since_ms } = tried
            && let Some(url) = self.find(&marker, since_ms).await?
        {
            return Ok(Filed { url, found: true, note: None });
        }
        self.create(issue).await
    }

    async fn create(&self, issue: &Issue) -> Result<Filed, Failed> {
        let url = self.api.url(&["repos", &self.repository, "issues"]);
        let mut extras = Extras { assignee: issue.assignee.clone(), labels: issue.labels.clone(), refused: Vec::new() };
        loop {
            let mut request = json!({
                "title": cut(&issue.title, MAX_TITLE_CHARS),
                "body": body(&issue.marker(), extras.note().as_deref(), &issue.body),
            });
            if let Some(assignee) = &extras.assignee {
                request["assignees"] = json!([assignee]);
            }
            if !extras.labels.is_empty() {
                request["labels"] = json!(extras.labels);
            }
            match self.api.ask(Method::POST, url.clone(), Some(&request)).await {
                Ok(answer) => {
                    let made: Shown = answer.read("the new issue")?;
                    return Ok(Filed { note: note(&extras, &made), url: made.html_url, found: false });
                }
                Err(Failed::Refused(refusal)) if refusal.status == 422 && !extras.are_none() => {
                    extras.drop_refused(&refusal);
                }
                Err(failed) => return Err(failed),
            }
        }
    }

    /// The address of the issue that carries the key.
    async fn find(&self, marker: &str, since_ms: u64) -> Result<Option<String>, Failed> {
        let since = since_ms.saturating_sub(CLOCK_SLACK.as_millis() as u64);
        let all = self.api.url(&["repos", &self.repository, "issues"]);
        let query = [("state", "all"), ("sort", "created"), ("direction", "desc"), ("per_page", PER_PAGE)];
        let all = with_query(all, &query);
        let mut next = Some(with_query(all.clone(), &[("since", &rfc3339(since))]));
        for page in 0..MAX_PAGES {
            let Some(url) = next.take() else { return Ok(None) };
            let answer = self.api.ask(Method::GET, url.clone(), None).await?;
            if page == 0 && is_before(&answer, since) {
                // Our clock was far ahead when this was decided: the time is worth nothing.
                next = Some(all.clone());
                continue;
            }
            let issues: Vec<Shown> = answer.read("the list of issues")?;
            let found =
                issues.into_iter().find(|shown| shown.pull_request.is_none() && carries(shown.body.as_deref(), marker));
            if let Some(found) = found {
                return Ok(Some(found.html_url));
            }
            next = self.api.next_page(&url, &answer);
        }
        let what =
            format!("cannot tell whether this was filed: {} has too many issues to look through", self.repository);
        Err(DeliveryError::Refused(what).into())
    }

    async fn close(&self, closing: &Closing, url: &str, tried: Tried) -> Result<Closed, Failed> {
        let left = |why: &str| Ok(Closed { note: Some(format!("left as it is: {why}")) });
        // The repository may be configured anew since: the issue lies where its receipt says.
        let Some((repository, number)) = place(url) else { return left("it was filed with another tracker") };
        let _turn = self.turn.lock().await;
        let issue = self.api.url(&["repos", &repository, "issues", &number]);
        let shown: Shown = match self.api.ask(Method::GET, issue.clone(), None).await {
            Ok(answer) => answer.read("the issue")?,
            Err(Failed::Refused(refusal)) if refusal.status == 410 => return left("somebody has deleted it"),
            Err(failed) => return Err(failed),
        };
        // Under another address of the API the same number may be another issue.
        if shown.html_url != url && !carries(shown.body.as_deref(), &crate::marker(&closing.issue)) {
            return left("at its address lies another issue");
        }
        if shown.state == "closed" {
            return Ok(Closed { note: Some("it was closed already".to_owned()) });
        }
        let marker = closing.marker();
        let is_there = matches!(tried, Tried::Perhaps { .. }) && self.has_comment(&issue, &marker).await?;
        let mut note = None;
        if !is_there {
            let comment = json!({ "body": body(&marker, None, &closing.comment) });
            match self.api.ask(Method::POST, below(&issue, "comments"), Some(&comment)).await {
                Ok(_) => {}
                Err(Failed::Refused(refusal)) if refusal.status == 403 && refusal.message.contains("locked") => {
                    note = Some("it is locked, so it was closed without a comment".to_owned());
                }
                Err(failed) => return Err(failed),
            }
        }
        let state = json!({ "state": "closed", "state_reason": "completed" });
        self.api.ask(Method::PATCH, issue, Some(&state)).await?;
        Ok(Closed { note })
    }

    async fn has_comment(&self, issue: &Url, marker: &str) -> Result<bool, Failed> {
        let mut next = Some(with_query(below(issue, "comments"), &[("per_page", PER_PAGE)]));
        for _ in 0..MAX_PAGES {
            let Some(url) = next.take() else { return Ok(false) };
            let answer = self.api.ask(Method::GET, url.clone(), None).await?;
            let comments: Vec<Comment> = answer.read("the comments")?;
            if comments.iter().any(|comment| carries(comment.body.as_deref(), marker)) {
                return Ok(true);
            }
            next = self.api.next_page(&url, &answer);
        }
        Ok(false)
    }

    /// A refusal in words that say what to do about it.
    fn explain(&self, failed: Failed) -> DeliveryError {
        let refusal = match failed {
            Failed::Delivery(error) => return error,
            Failed::Refused(refusal) => refusal,
        };
        let (repository, host) = (&self.repository, self.api.host());
        let said = refusal.said();
        DeliveryError::Refused(match refusal.status {
            401 => format!("{host} refuses the token ({said}): give a valid one"),
            403 => format!(
                "the token may not do this in {repository} ({said}): it needs the right to read and write issues there"
            ),
            404 => format!(
                "{host} shows this token no repository {repository} with issues ({said}): check the name and what the token \
                 may see"
            ),
            410 => format!("issues are switched off in {repository} ({said})"),
            _ => format!("{host} refuses it ({said})"),
        })
    }
}

/// What GitHub did not take, whether it said so or dropped it without a word.
fn note(extras: &Extras, made: &Shown) -> Option<String> {
    let same = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
    let mut dropped = Vec::new();
    if let Some(assignee) = &extras.assignee
        && !made.assignees.iter().any(|account| same(&account.login, assignee))
    {
        dropped.push(format!("the assignee {assignee}"));
    }
    let is_missing = |label: &&String| !made.labels.iter().any(|there| same(there.name(), label));
    if let Some(label) = extras.labels.iter().find(is_missing) {
        dropped.push(format!("the label {label}"));
    }
    let dropped =
        (!dropped.is_empty()).then(|| format!("GitHub dropped {}: the token may not set it", dropped.join(" and ")));
    let notes: Vec<String> = extras.note().into_iter().chain(dropped).collect();
    (!notes.is_empty()).then(|| notes.join("; "))
}

/// Our key first, so that no cut can take it away and no text of others stands before it.
fn body(marker: &str, note: Option<&str>, text: &str) -> String {
    let text = &quiet(text);
    let note = note.map(|note| format!("> {note}.\n\n")).unwrap_or_default();
    let head = format!("{marker}\n{note}");
    let room = MAX_BODY_CHARS.saturating_sub(units(&head));
    if units(text) <= room {
        return head + text;
    }
    let word = "> This text was too long for an issue and is cut.\n\n";
    let mut left = room.saturating_sub(units(word));
    let fits = |c: &char| {
        let fits = c.len_utf16() <= left;
        left = left.saturating_sub(c.len_utf16());
        fits
    };
    format!("{head}{word}{}", text.chars().take_while(fits).collect::<String>())
}

/// Texts of models and of checks must not call people: an invisible space after an `@` keeps it from being a mention. In code
/// as well, for what is code to GitHub cannot be told for sure here. Addresses of mail stay as they are.
fn quiet(text: &str) -> String {
    let mut quiet = String::with_capacity(text.len() + 16);
    let mut before = ' ';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        quiet.push(c);
        if c == '@' && !before.is_alphanumeric() && chars.peek().is_some_and(|next| next.is_alphanumeric()) {
            quiet.push('\u{200b}');
        }
        before = c;
    }
    quiet
}

/// Counted so that what is beyond the basic plane counts twice: whichever way GitHub counts, it fits.
fn units(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

fn cut(text: &str, max_chars: usize) -> String {
    if text.chars().count() <= max_chars {
        return text.to_owned();
    }
    text.chars().take(max_chars - 1).chain(['…']).collect()
}

/// Repository and number of an issue's address.
fn place(url: &str) -> Option<(String, String)> {
    let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let parts: Vec<&str> = url.path_segments()?.collect();
    match parts.as_slice() {
        [.., owner, name, "issues", number] if number.parse::<u64>().is_ok() => {
            Some((format!("{owner}/{name}"), (*number).to_owned()))
        }
        _ => None,
    }
}

fn with_query(mut url: Url, pairs: &[(&str, &str)]) -> Url {
    url.query_pairs_mut().extend_pairs(pairs);
    url
}

fn below(url: &Url, part: &str) -> Url {
    let mut url = url.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.push(part);
    }
    url
}

/// GitHub's clock shows a time before this one.
fn is_before(answer: &Answer, ms: u64) -> bool {
    let date = answer.headers.get(reqwest::header::DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
    date.is_some_and(|date| date < UNIX_EPOCH + Duration::from_millis(ms))
}
