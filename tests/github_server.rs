//! GitHub's issues as a server on the loopback interface. What it answers is cut from recorded answers of GitHub
//! (`tests/fixtures/github`); what it keeps, lists and refuses follows GitHub's documentation of these routes.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, Uri};
use serde_json::{Value, json};

/// The repository that it knows.
pub(crate) const REPOSITORY: &str = "acme/widgets";
/// Accounts that issues may be assigned to.
const ACCOUNTS: [&str; 1] = ["ada"];

/// A recorded exchange.
pub(crate) fn recorded(name: &str) -> Value {
    let text = match name {
        "issue-created" => include_str!("fixtures/github/issue-created.json"),
        "labels-added" => include_str!("fixtures/github/labels-added.json"),
        "issues-page-1" => include_str!("fixtures/github/issues-page-1.json"),
        "issues-page-last" => include_str!("fixtures/github/issues-page-last.json"),
        "validation-failed" => include_str!("fixtures/github/validation-failed.json"),
        "moved" => include_str!("fixtures/github/moved.json"),
        other => panic!("{other} was not recorded"),
    };
    serde_json::from_str(text).unwrap()
}

/// What happens to one request instead of the ordinary.
#[derive(Debug, Clone)]
pub(crate) enum Turn {
    /// Nothing is done; this is answered.
    Answer { status: u16, headers: Vec<(&'static str, String)>, body: String },
    /// It is done, and 502 is answered.
    DoneButFails,
    /// It is done, and nothing is ever answered.
    DoneButSilent,
}

impl Turn {
    pub(crate) fn answer(status: u16, headers: &[(&'static str, &str)], body: Value) -> Self {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self::Answer { status, headers, body: body.to_string() }
    }
}

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// Below the API's address.
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: HeaderMap,
    /// `null` without one.
    pub(crate) body: Value,
}

#[derive(Default)]
struct Kept {
    issues: Vec<Value>,
    comments: BTreeMap<u64, Vec<Value>>,
    asked: Vec<Asked>,
    turns: VecDeque<(Method, Turn)>,
    /// The token may not set labels and assignees.
    drops_extras: bool,
    /// Instead of what is asked for.
    page_size: Option<usize>,
    /// Every request of another path than this gets a redirect to it.
    moved_to: Option<String>,
}

#[derive(Clone)]
struct Shared {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
}

/// A running server. It ends with its runtime.
pub(crate) struct GithubServer {
    shared: Shared,
}

impl GithubServer {
    /// On a free port. Within a runtime.
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Shared { address: listener.local_addr().unwrap(), kept: Arc::default() };
        let router = Router::new().fallback(serve).with_state(shared.clone());
        tokio::spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
        Self { shared }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.shared.kept.lock().unwrap()
    }

    /// As that of GitHub Enterprise.
    pub(crate) fn api_url(&self) -> String {
        self.shared.api_url()
    }

    /// The next request of this method that has no turn yet gets this one.
    pub(crate) fn next(&self, method: Method, turn: Turn) {
        self.kept().turns.push_back((method, turn));
    }

    pub(crate) fn drop_extras(&self) {
        self.kept().drops_extras = true;
    }

    pub(crate) fn page_size(&self, size: usize) {
        self.kept().page_size = Some(size);
    }

    /// The repository was renamed: its old path leads to its number.
    pub(crate) fn rename(&self) {
        self.kept().moved_to = Some(format!("{}/repositories/1000", self.api_url()));
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.kept().asked.clone()
    }

    /// How often this was asked for, by the end of its path.
    pub(crate) fn count(&self, method: &Method, path: &str) -> usize {
        self.asked().iter().filter(|asked| asked.method == method && asked.path.ends_with(path)).count()
    }

    /// Those that were filed, oldest first.
    pub(crate) fn issues(&self) -> Vec<Value> {
        self.kept().issues.clone()
    }

    /// Somebody else files an issue; answers its number.
    pub(crate) fn file(&self, title: &str, body: &str) -> u64 {
        self.shared.create(&mut self.kept(), &json!({ "title": title, "body": body }))["number"].as_u64().unwrap()
    }

    /// Somebody changes an issue.
    pub(crate) fn change(&self, number: u64, field: &str, value: Value) {
        self.kept().issues[number as usize - 1][field] = value;
    }

    /// The texts of an issue's comments, oldest first.
    pub(crate) fn comments(&self, number: u64) -> Vec<String> {
        let kept = self.kept();
        let comments = kept.comments.get(&number).into_iter().flatten();
        comments.map(|comment| comment["body"].as_str().unwrap().to_owned()).collect()
    }
}

fn reply(status: u16, body: &Value) -> Response<Body> {
    let builder = Response::builder().status(status).header("content-type", "application/json; charset=utf-8");
    let headers = recorded("issue-created")["headers"].clone();
    // Dates and limits as recorded would lie; these two are as of a token that has just begun.
    let builder = builder
        .header("x-ratelimit-limit", headers["x-ratelimit-limit"].as_str().unwrap())
        .header("x-ratelimit-remaining", headers["x-ratelimit-remaining"].as_str().unwrap());
    builder.body(Body::from(body.to_string())).unwrap()
}

fn message(status: u16, message: &str) -> Response<Body> {
    reply(status, &json!({ "message": message, "documentation_url": "https://docs.github.com/rest" }))
}

fn unprocessable(errors: &[Value]) -> Response<Body> {
    let mut body = recorded("validation-failed")["response"].clone();
    body["errors"] = json!(errors);
    reply(422, &body)
}

fn query_of(uri: &Uri) -> BTreeMap<String, String> {
    let decode = |text: &str| text.replace("%3A", ":").replace('+', " ");
    let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), decode(value))).collect()
}

async fn serve(
    State(shared): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let path = uri.path().strip_prefix("/api/v3").unwrap_or(uri.path()).to_owned();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let asked = Asked { method: method.clone(), path, query: query_of(&uri), headers, body };
    let (turn, done) = {
        let mut kept = shared.kept.lock().unwrap();
        kept.asked.push(asked.clone());
        let at = kept.turns.iter().position(|(of, _)| *of == method);
        let turn = at.and_then(|at| kept.turns.remove(at)).map(|(_, turn)| turn);
        let done = (!matches!(turn, Some(Turn::Answer { .. }))).then(|| shared.act(&mut kept, &asked));
        (turn, done)
    };
    match turn {
        None => done.expect("it was done"),
        Some(Turn::DoneButFails) => message(502, "Server Error"),
        Some(Turn::DoneButSilent) => std::future::pending().await,
        Some(Turn::Answer { status, headers, body }) => {
            let mut builder = Response::builder().status(status);
            for (name, value) in headers {
                builder = builder.header(name, value);
            }
            builder.body(Body::from(body)).unwrap()
        }
    }
}

fn rfc3339_now() -> String {
    // Texts of this form sort by time.
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    civil(seconds)
}

/// Seconds since 1970 as RFC 3339: days to a civil date by Howard Hinnant's algorithm.
fn civil(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time / 3600, time / 60 % 60, time % 60)
}

impl Shared {
    fn api_url(&self) -> String {
        format!("http://{}/api/v3", self.address)
    }

    fn act(&self, kept: &mut Kept, asked: &Asked) -> Response<Body> {
        if asked.headers.get("authorization").is_none_or(|token| token.is_empty()) {
            return message(401, "Requires authentication");
        }
        if asked.headers.get("user-agent").is_none() {
            return message(403, "Request forbidden by administrative rules.");
        }
        let by_name = format!("/repos/{REPOSITORY}/issues");
        let rest = match (asked.path.strip_prefix(&by_name), asked.path.strip_prefix("/repositories/1000/issues")) {
            (Some(rest), _) => {
                if let Some(to) = &kept.moved_to {
                    let mut body = recorded("moved")["response"].clone();
                    let to = format!("{to}/issues{rest}");
                    body["url"] = json!(to);
                    let status = if asked.method == Method::GET { 301 } else { 307 };
                    let mut moved = reply(status, &body);
                    moved.headers_mut().insert("location", to.parse().unwrap());
                    return moved;
                }
                rest
            }
            (None, Some(rest)) => rest,
            (None, None) => return message(404, "Not Found"),
        };
        let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
        let number = parts.first().and_then(|number| number.parse::<u64>().ok());
        match (asked.method.as_str(), number, parts.get(1)) {
            ("GET", None, None) => self.list(kept, asked, |kept| {
                let since = asked.query.get("since").cloned().unwrap_or_default();
                let changed = |issue: &&Value| issue["updated_at"].as_str().unwrap() >= since.as_str();
                kept.issues.iter().rev().filter(changed).cloned().collect()
            }),
            ("POST", None, None) => self.file(kept, asked),
            (_, Some(number), _) if kept.issues.len() < number as usize => message(404, "Not Found"),
            (_, Some(number), _) if kept.issues[number as usize - 1]["deleted"] == true => {
                message(410, "This issue was deleted")
            }
            ("GET", Some(number), None) => reply(200, &kept.issues[number as usize - 1]),
            ("PATCH", Some(number), None) => {
                let issue = &mut kept.issues[number as usize - 1];
                for (field, value) in asked.body.as_object().into_iter().flatten() {
                    issue[field] = value.clone();
                }
                reply(200, issue)
            }
            ("GET", Some(number), Some(&"comments")) => {
                self.list(kept, asked, |kept| kept.comments.get(&number).cloned().unwrap_or_default())
            }
            ("POST", Some(number), Some(&"comments")) => {
                if kept.issues[number as usize - 1]["locked"] == true {
                    return message(403, "Unable to create comment because issue is locked.");
                }
                let comment = json!({ "id": 1, "body": asked.body["body"] });
                kept.comments.entry(number).or_default().push(comment.clone());
                reply(201, &comment)
            }
            _ => message(404, "Not Found"),
        }
    }

    fn list(&self, kept: &Kept, asked: &Asked, all: impl Fn(&Kept) -> Vec<Value>) -> Response<Body> {
        let number = |name: &str| asked.query.get(name).and_then(|value| value.parse::<usize>().ok());
        let size = kept.page_size.or(number("per_page")).unwrap_or(30);
        let page = number("page").unwrap_or(1);
        let all = all(kept);
        let items: Vec<Value> = all.iter().skip((page - 1) * size).take(size).cloned().collect();
        let mut answer = reply(200, &json!(items));
        if page * size < all.len() {
            // As in the recorded pages: the repository by its number, other parameters kept.
            let others = asked.query.iter().filter(|(name, _)| *name != "page");
            let others: String = others.map(|(name, value)| format!("{name}={value}&")).collect();
            let path = asked.path.replace(&format!("/repos/{REPOSITORY}"), "/repositories/1000");
            let link = format!("<{}{path}?{others}page={}>; rel=\"next\"", self.api_url(), page + 1);
            answer.headers_mut().insert("link", link.parse().unwrap());
        }
        answer
    }

    fn file(&self, kept: &mut Kept, asked: &Asked) -> Response<Body> {
        let mut errors = Vec::new();
        let is_text =
            |field: &str, max: usize| asked.body[field].as_str().is_some_and(|text| text.chars().count() <= max);
        if !is_text("title", 256) || asked.body["title"] == "" {
            errors.push(json!({ "resource": "Issue", "code": "missing_field", "field": "title" }));
        }
        if !is_text("body", 65_536) {
            errors
                .push(json!({ "resource": "Issue", "code": "custom", "field": "body", "message": "body is too long" }));
        }
        for assignee in asked.body["assignees"].as_array().into_iter().flatten() {
            if !ACCOUNTS.iter().any(|account| assignee == account) {
                errors.push(json!({
                    "value": assignee, "resource": "Issue", "field": "assignees", "code": "invalid",
                }));
            }
        }
        for label in asked.body["labels"].as_array().into_iter().flatten() {
            if label.as_str().is_none_or(|label| label.chars().count() > 50) {
                errors.push(json!({ "resource": "Label", "code": "invalid", "field": "name" }));
            }
        }
        if !errors.is_empty() {
            return unprocessable(&errors);
        }
        let issue = self.create(kept, &asked.body);
        reply(201, &issue)
    }

    fn create(&self, kept: &mut Kept, wanted: &Value) -> Value {
        let mut issue = recorded("issue-created")["response"].clone();
        let number = kept.issues.len() as u64 + 1;
        let now = rfc3339_now();
        issue["number"] = json!(number);
        issue["html_url"] = json!(format!("http://{}/{REPOSITORY}/issues/{number}", self.address));
        issue["title"] = wanted["title"].clone();
        issue["body"] = wanted["body"].clone();
        issue["created_at"] = json!(now);
        issue["updated_at"] = json!(now);
        if !kept.drops_extras {
            let labels = wanted["labels"].as_array().cloned().unwrap_or_default();
            let labels = labels.into_iter().map(|name| {
                let mut label = recorded("labels-added")["response"][0].clone();
                label["name"] = name;
                label
            });
            issue["labels"] = json!(labels.collect::<Vec<_>>());
            let assignees = wanted["assignees"].as_array().cloned().unwrap_or_default();
            let user = recorded("issue-created")["response"]["user"].clone();
            let account = |login: Value| {
                let mut user = user.clone();
                user["login"] = login;
                user
            };
            issue["assignees"] = json!(assignees.into_iter().map(account).collect::<Vec<_>>());
        }
        kept.issues.push(issue.clone());
        issue
    }
}
