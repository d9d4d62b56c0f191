//! The HTTP API over TCP: who is let in, what is refused, and what is answered.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{PATIENCE, Running, World, milestone, rule, wait_until};

/// A daemon that also serves HTTP on a free port.
struct Service {
    daemon: Running,
    own: SocketAddr,
    token: String,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The value of a header, whose name is given in small letters.
    fn header(&self, name: &str) -> Option<&str> {
        let of_line = |line: &str| line.split_once(": ").is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
        self.head.lines().find(|line| of_line(line))?.split_once(": ").map(|(_, value)| value)
    }

    /// The status and the code of a refusal.
    #[track_caller]
    fn refusal(&self) -> (u16, String) {
        let body = self.json();
        assert!(!body["message"].as_str().unwrap().is_empty());
        (self.status, body["code"].as_str().unwrap().to_owned())
    }
}

fn listening() -> World {
    listening_with("")
}

fn listening_with(script: &str) -> World {
    World::new(script, &[("daemon.listen", "\"127.0.0.1:0\"")])
}

impl Service {
    #[track_caller]
    fn start(world: &World) -> Self {
        let daemon = world.start_daemon();
        let own = world.status()["http"].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap();
        let token = std::fs::read_to_string(world.state().join("token")).unwrap().trim().to_owned();
        Self { daemon, own, token }
    }

    fn stop(self) {
        self.daemon.signal(Signal::TERM);
        self.daemon.output().expect(0);
    }

    /// Sends a head, given without its last empty line, and a body, and reads until the connection ends.
    #[track_caller]
    fn send(&self, head: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.own).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A refusal may come, and the connection end, before all is sent.
        let _ = write!(stream, "{head}\r\nConnection: close\r\n\r\n{body}");
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {head}: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// A request with the token and our own host.
    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map(Value::to_string).unwrap_or_default();
        let (own, token, n) = (self.own, &self.token, body.len());
        let kind = if n > 0 { "\r\nContent-Type: application/json" } else { "" };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {own}\r\nAuthorization: Bearer {token}\r\nContent-Length: {n}{kind}"
        );
        self.send(&head, &body)
    }

    #[track_caller]
    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None)
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, Some(body))
    }

    /// Opens an event stream and reads its events, one `data:` line each.
    fn events(&self, path: &str, more: &str) -> impl Iterator<Item = Value> + use<> {
        let mut stream = TcpStream::connect(self.own).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (own, token) = (self.own, &self.token);
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {own}\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n{more}\r\n"
        )
        .unwrap();
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next().unwrap().unwrap();
        assert!(status.contains("200"), "{status}");
        lines.map_while(Result::ok).filter_map(|line| {
            let data = line.strip_prefix("data: ")?;
            Some(serde_json::from_str(data).unwrap())
        })
    }
}

#[test]
fn everything_on_tcp_asks_for_the_token_and_nothing_on_the_socket_does() {
    let world = listening();
    let service = Service::start(&world);
    let own = service.own;
    for path in ["/v1/status", "/v1/sessions", "/v1/events", "/nowhere"] {
        for authorization in
            ["", "\r\nAuthorization: Bearer", "\r\nAuthorization: Bearer 00", "\r\nAuthorization: Basic QTpC"]
        {
            let answer = service.send(&format!("GET {path} HTTP/1.1\r\nHost: {own}{authorization}"), "");
            assert_eq!(answer.refusal(), (401, "no-token".to_owned()), "{path}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"steadfast\""));
        }
    }
    // Not even a body is looked at before.
    let head = format!("POST /v1/sessions HTTP/1.1\r\nHost: {own}\r\nContent-Length: 999999999");
    assert_eq!(service.send(&head, "{").status, 401);
    // The token in an address is for the page alone.
    let token = &service.token;
    let answer = service.send(&format!("GET /v1/status?token={token} HTTP/1.1\r\nHost: {own}"), "");
    assert_eq!(answer.status, 401);
    assert_eq!(service.get("/v1/status").json()["daemon"], true);
    assert_eq!(service.get("/v1/status").header("cache-control"), Some("no-store"));
    service.stop();
}

#[test]
fn a_foreign_host_or_origin_is_refused_even_with_the_token() {
    let world = listening();
    let service = Service::start(&world);
    let (own, token, port) = (service.own, &service.token, service.own.port());
    let status =
        |lines: &str| service.send(&format!("GET /v1/status HTTP/1.1\r\nAuthorization: Bearer {token}\r\n{lines}"), "");
    let hosts = [
        "Host: steadfast.example.org".to_owned(),
        format!("Host: steadfast.example.org:{port}"),
        "Host: 127.0.0.1".to_owned(),
        format!("Host: localhost:{}", port ^ 1),
        format!("Host: {own}\r\nHost: {own}"),
        "Host: ".to_owned(),
    ];
    for lines in hosts {
        assert_eq!(status(&lines).refusal(), (403, "foreign-host".to_owned()), "{lines}");
    }
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        assert_eq!(status(&format!("Host: {host}")).status, 200, "{host}");
    }
    for origin in ["null", "http://example.org", "http://localhost:1", "file://", &format!("https://{own}")] {
        let answer = status(&format!("Host: {own}\r\nOrigin: {origin}"));
        assert_eq!(answer.refusal(), (403, "foreign-origin".to_owned()), "{origin}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    assert_eq!(status(&format!("Host: {own}\r\nOrigin: http://{own}")).status, 200);
    service.stop();
}

#[test]
fn the_page_is_there_with_the_token_in_its_address_and_asks_for_it_without() {
    let world = listening();
    let service = Service::start(&world);
    let (own, token) = (service.own, &service.token);
    let open = |query: &str| service.send(&format!("GET /{query} HTTP/1.1\r\nHost: {own}"), "");
    let (with, without) = (open(&format!("?token={token}")), open(""));
    assert_eq!((with.status, without.status, open("?token=0").status), (200, 401, 401));
    assert_eq!(with.body, without.body);
    for answer in [with, without] {
        assert!(answer.body.starts_with("<!doctype html>") && !answer.body.contains(token));
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
        let policy = answer.header("content-security-policy").unwrap();
        for part in ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "script-src 'sha256-"] {
            assert!(policy.contains(part), "{policy}");
        }
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    service.stop();
}

#[test]
fn the_token_is_its_owners_alone_and_stays_over_a_restart() {
    let world = listening();
    let service = Service::start(&world);
    let token = service.token.clone();
    let mode = std::fs::metadata(world.state().join("token")).unwrap().permissions().mode();
    assert_eq!((mode & 0o777, token.len()), (0o600, 64));
    assert!(!service.daemon.said().contains(&token));
    service.daemon.signal(Signal::KILL);
    let _ = service.daemon.end();
    let service = Service::start(&world);
    assert_eq!(service.token, token);
    service.stop();
}

#[test]
fn a_configured_address_that_is_taken_ends_the_daemon_before_it_begins_anything() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let world = World::new("", &[("daemon.listen", &format!("\"{address}\""))]);
    let said = world.steadfast(&["daemon"]).expect(1).stderr;
    assert!(said.contains(&format!("cannot listen on {address}")) && said.contains("daemon.listen"), "{said}");
    // A session in the foreground needs no address.
    world.run().expect(0);
}

#[test]
fn without_a_setting_a_port_is_found_and_with_none_there_is_none() {
    // Whoever has the usual port now, this test or another process, it is taken.
    let _taken = TcpListener::bind("127.0.0.1:7070");
    let world = World::new("", &[("daemon.listen", "\"auto\"")]);
    let service = Service::start(&world);
    assert!(service.own.ip().is_loopback() && service.own.port() != 7070);
    assert_eq!(service.get("/v1/status").status, 200);
    service.stop();
    let world = World::new("", &[]);
    let daemon = world.start_daemon();
    assert_eq!(world.status().get("http"), None);
    assert!(!world.state().join("token").exists());
    daemon.signal(Signal::TERM);
    daemon.output().expect(0);
}

#[test]
fn a_token_that_others_may_read_is_not_used() {
    let world = listening();
    Service::start(&world).stop();
    let path = world.state().join("token");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = world.steadfast(&["daemon"]).expect(1).stderr;
    assert!(said.contains("chmod 600"), "{said}");
}

#[test]
fn a_session_is_submitted_seen_followed_and_cancelled_over_tcp() {
    let script =
        milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "first = 1", "{ fault = \"hang\" }");
    let world = listening_with(&script);
    let service = Service::start(&world);
    let mut events = service.events("/v1/events", "");
    let idea = std::fs::read_to_string(world.path("idea.md")).unwrap();
    let body = json!({ "idea": idea, "fileStem": "idea", "repo": world.repo() });
    let submitted = service.post("/v1/sessions", &body);
    assert_eq!(submitted.status, 200, "{submitted:?}");
    let id = submitted.json()["sessionId"].as_str().unwrap().to_owned();
    let asks = events.find(|event| event["event"] == "attempt_started" && event["role"] == "coder").unwrap();
    assert_eq!(asks["sessionId"], id.as_str());
    // The same idea a second time: the answer names the session that has it.
    let again = service.post("/v1/sessions", &body);
    assert_eq!(again.refusal(), (409, "already-there".to_owned()));
    assert_eq!(again.json()["sessionId"], id.as_str());
    let cancelled = service.ask("POST", "/v1/sessions/002-feature/cancel", None);
    assert_eq!((cancelled.status, &cancelled.json()["sessionId"]), (200, &json!(id)));
    assert_eq!(service.get(&format!("/v1/sessions/{id}")).json()["phase"], "cancelled");
    let over = service.ask("POST", &format!("/v1/sessions/{id}/resume"), None);
    assert_eq!(over.refusal(), (409, "conflict".to_owned()));
    assert_eq!(service.ask("POST", &format!("/v1/sessions/{id}/retry"), None).status, 200);
    events.find(|event| event["event"] == "session_moved" && event["phase"] == "completed").unwrap();
    assert_eq!(service.get("/v1/sessions?limit=5").json()[0]["phase"], "completed");
    // Who comes back hears what was missed, and all of it.
    let mut missed = service.events("/v1/events", &format!("Last-Event-ID: {}\r\n", asks["id"]));
    assert!(missed.next().unwrap()["id"].as_u64() > asks["id"].as_u64());
    missed.find(|event| event["event"] == "session_moved" && event["phase"] == "completed").unwrap();
    let story = service.get(&format!("/v1/sessions/{id}/events")).json();
    assert_eq!(story.as_array().unwrap().last().unwrap()["phase"], "completed");
    service.stop();
}

#[test]
fn what_cannot_be_answered_is_refused_with_a_status_and_a_code() {
    let world = listening();
    let service = Service::start(&world);
    let (own, token) = (service.own, &service.token);
    let raw = |method: &str, path: &str, kind: &str, body: &str| {
        let n = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {own}\r\nAuthorization: Bearer {token}\r\nContent-Length: {n}{kind}"
        );
        service.send(&head, body).refusal()
    };
    let json = "\r\nContent-Type: application/json";
    let refused = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(raw("GET", "/v1/nothing", "", ""), refused(404, "not-found"));
    assert_eq!(raw("GET", "/v1/sessions/no-such", "", ""), refused(404, "not-found"));
    assert_eq!(raw("GET", "/v1/sessions/no-such/events", "", ""), refused(404, "not-found"));
    assert_eq!(raw("POST", "/v1/sessions/no-such/cancel", "", ""), refused(404, "not-found"));
    assert_eq!(raw("POST", "/v1/sessions/latest/resume", "", ""), refused(404, "not-found"));
    assert_eq!(raw("POST", "/v1/sessions/x/pause", "", ""), refused(404, "not-found"));
    assert_eq!(raw("DELETE", "/v1/status", "", ""), refused(405, "wrong-method"));
    assert_eq!(raw("GET", "/v1/prune", "", ""), refused(405, "wrong-method"));
    assert_eq!(raw("GET", "/v1/sessions?limit=x", "", ""), refused(400, "usage"));
    assert_eq!(raw("GET", "/v1/sessions/%ff", "", ""), refused(400, "usage"));
    assert_eq!(raw("POST", "/v1/sessions", json, "{"), refused(400, "bad-body"));
    assert_eq!(raw("POST", "/v1/sessions", json, "{\"idea\": 7}"), refused(400, "bad-body"));
    assert_eq!(raw("POST", "/v1/breakers/reset", json, "{\"modell\": \"a/b\"}"), refused(400, "bad-body"));
    assert_eq!(raw("POST", "/v1/breakers/reset", json, "{\"model\": \"nonsense\"}"), refused(400, "usage"));
    assert_eq!(raw("POST", "/v1/breakers/reset", json, "{\"model\": \"no/such\"}"), refused(404, "not-found"));
    assert_eq!(raw("POST", "/v1/sessions", "\r\nContent-Type: text/plain", "{}"), refused(415, "not-json"));
    let nowhere = "{\"idea\": \"# Do it\\n\\nAll of it.\", \"fileStem\": \"x\", \"repo\": \"/nowhere\"}";
    assert_eq!(raw("POST", "/v1/sessions", json, nowhere), refused(400, "usage"));
    let large = "x".repeat((2 << 20) + 1);
    assert_eq!(raw("POST", "/v1/sessions", json, &large), refused(413, "too-large"));
    // Without its length the body shows only as it comes how large it is.
    let head = format!(
        "POST /v1/sessions HTTP/1.1\r\nHost: {own}\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked"
    );
    let chunk = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    assert_eq!(service.send(&head, &chunk).refusal(), refused(413, "too-large"));
    service.stop();
}

#[test]
fn readers_of_the_event_stream_are_bounded_and_orders_still_get_through() {
    let world = listening();
    let service = Service::start(&world);
    let readers: Vec<_> = (0..256).map(|_| service.events("/v1/events", "")).collect();
    let one_more = service.get("/v1/events");
    assert_eq!(one_more.refusal(), (503, "too-many-watchers".to_owned()));
    assert!(one_more.header("retry-after").is_some());
    assert_eq!(service.get("/v1/status").status, 200);
    drop(readers);
    wait_until("a place", || (service.get("/v1/sessions").status == 200).then_some(()));
    service.stop();
}

#[test]
fn a_client_that_says_nothing_is_let_go_of_and_holds_no_end_up() {
    let world = listening();
    let service = Service::start(&world);
    let mut silent = TcpStream::connect(service.own).unwrap();
    silent.write_all(b"GET / HT").unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let begun = std::time::Instant::now();
    service.stop();
    assert!(begun.elapsed() < std::time::Duration::from_secs(10));
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest);
}

/// Whether a value is what a schema says, in the words that our schemas use; the first fault otherwise.
fn fault(value: &Value, schema: &Value, document: &Value, at: &str) -> Option<String> {
    let Some(schema) = schema.as_object() else {
        return (schema == &json!(false)).then(|| format!("{at}: not allowed"));
    };
    let wrong = |what: String| Some(format!("{at}: {what}, found {value}"));
    for (word, wanted) in schema {
        let found = match word.as_str() {
            "$ref" => {
                let path = wanted.as_str().unwrap().trim_start_matches('#');
                fault(value, document.pointer(path).unwrap(), document, at)
            }
            "anyOf" => {
                let fits = |one: &Value| fault(value, one, document, at).is_none();
                if wanted.as_array().unwrap().iter().any(fits) { None } else { wrong("nothing of anyOf".to_owned()) }
            }
            "type" => {
                let is = |name: &str| match name {
                    "null" => value.is_null(),
                    "boolean" => value.is_boolean(),
                    "string" => value.is_string(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "number" => value.is_number(),
                    "array" => value.is_array(),
                    "object" => value.is_object(),
                    other => panic!("{other}"),
                };
                let fits = match wanted {
                    Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
                    name => is(name.as_str().unwrap()),
                };
                if fits { None } else { wrong(format!("no {wanted}")) }
            }
            "required" => {
                let missing = wanted.as_array().unwrap().iter().find(|key| value.get(key.as_str().unwrap()).is_none());
                missing.and_then(|key| wrong(format!("no {key}")))
            }
            "properties" => {
                let inner = wanted.as_object().unwrap().iter();
                let at = |key: &str| format!("{at}.{key}");
                // What is sent is described: a field that nobody wrote down is a fault of the description.
                let known = wanted.as_object().unwrap();
                let open = schema.contains_key("additionalProperties");
                let unknown = value
                    .as_object()
                    .filter(|_| !open)
                    .and_then(|all| all.keys().find(|key| !known.contains_key(*key)));
                let unknown = unknown.map(|key| format!("{} is not described", at(key)));
                unknown
                    .or_else(|| inner.filter_map(|(key, one)| fault(value.get(key)?, one, document, &at(key))).next())
            }
            "additionalProperties" => {
                let inner = value.as_object().into_iter().flatten();
                let known = schema.get("properties").and_then(Value::as_object);
                let others = inner.filter(|(key, _)| known.is_none_or(|known| !known.contains_key(*key)));
                others.filter_map(|(key, one)| fault(one, wanted, document, &format!("{at}.{key}"))).next()
            }
            "items" => {
                let inner = value.as_array().into_iter().flatten().enumerate();
                inner.filter_map(|(n, one)| fault(one, wanted, document, &format!("{at}[{n}]"))).next()
            }
            "minimum" => {
                let low = value.as_f64().is_some_and(|number| number < wanted.as_f64().unwrap());
                if low { wrong(format!("below {wanted}")) } else { None }
            }
            "maximum" => {
                let high = value.as_f64().is_some_and(|number| number > wanted.as_f64().unwrap());
                if high { wrong(format!("above {wanted}")) } else { None }
            }
            "description" | "format" | "title" | "default" => None,
            other => panic!("a word that this test does not know: {other}"),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[test]
fn real_answers_are_what_the_description_says_and_it_names_every_method_of_every_path() {
    let world = listening_with(&milestone("Write", &["a.js", "b.js"], &[], &[]));
    let service = Service::start(&world);
    let document = service.get("/v1/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let schema = |path: &str, method: &str, status: u16| {
        let kind = document["paths"][path][method]["responses"][status.to_string()]["content"].clone();
        assert!(!kind.is_null(), "{method} {path} does not describe {status}");
        kind["application/json"]["schema"].clone()
    };
    let check = |answer: &Answer, path: &str, method: &str| {
        let body = answer.json();
        assert_eq!(fault(&body, &schema(path, method, answer.status), &document, "$"), None, "{method} {path}");
    };
    let idea = std::fs::read_to_string(world.path("idea.md")).unwrap();
    let body = json!({ "idea": idea, "fileStem": "idea", "repo": world.repo() });
    check(&service.post("/v1/sessions", &json!({ "idea": "" })), "/v1/sessions", "post");
    let submitted = service.post("/v1/sessions", &body);
    check(&submitted, "/v1/sessions", "post");
    let id = submitted.json()["sessionId"].as_str().unwrap().to_owned();
    let session = format!("/v1/sessions/{id}");
    wait_until("its end", || (service.get(&session).json()["phase"] == "completed").then_some(()));
    for path in [
        "/healthz",
        "/readyz",
        "/v1/status",
        "/v1/sessions",
        "/v1/outbox",
        "/v1/live",
        "/v1/rates/history",
        "/v1/store/check",
        "/v1/openapi.json",
    ] {
        let answer = service.get(path);
        assert_eq!(answer.status, 200, "{answer:?}");
        check(&answer, path, "get");
    }
    check(&service.get(&session), "/v1/sessions/{id}", "get");
    check(&service.get(&format!("{session}/events")), "/v1/sessions/{id}/events", "get");
    check(&service.get("/v1/sessions/no-such"), "/v1/sessions/{id}", "get");
    check(&service.ask("POST", &format!("{session}/cancel"), None), "/v1/sessions/{id}/cancel", "post");
    check(&service.post("/v1/breakers/reset", &json!({})), "/v1/breakers/reset", "post");
    for path in ["/v1/outbox/flush", "/v1/prune", "/v1/reload"] {
        check(&service.ask("POST", path, None), path, "post");
    }
    // What is described is there, and what is not is refused with the methods that are.
    for (path, item) in document["paths"].as_object().unwrap() {
        let address = path.replace("{id}", "no-such");
        for method in ["get", "post", "put", "patch", "delete"] {
            if item.get(method).is_some() {
                continue;
            }
            let answer = service.ask(&method.to_uppercase(), &address, None);
            assert_eq!(answer.refusal(), (405, "wrong-method".to_owned()), "{method} {path}");
            let allowed = answer.header("allow").unwrap().to_lowercase();
            assert!(
                item.as_object().unwrap().keys().all(|method| allowed.contains(method.as_str())),
                "{allowed} {path}"
            );
        }
    }
    service.stop();
}

#[test]
fn a_daemon_that_begins_nothing_is_well_and_not_ready() {
    let world = listening();
    let service = Service::start(&world);
    assert_eq!(service.get("/healthz").json(), json!({ "status": "ok" }));
    assert_eq!(service.get("/readyz").json(), json!({ "status": "ok" }));
    service.stop();
    // More free space than there is on any disk: it starts paused.
    let world = World::new("", &[("daemon.listen", "\"127.0.0.1:0\""), ("daemon.min_free_disk", "\"8000 TiB\"")]);
    let service = Service::start(&world);
    assert_eq!(service.get("/healthz").status, 200);
    let answer = wait_until("a pause", || Some(service.get("/readyz")).filter(|answer| answer.status == 503));
    assert_eq!(answer.refusal(), (503, "not-ready".to_owned()));
    assert!(answer.json()["message"].as_str().unwrap().contains("disk"), "{answer:?}");
    assert_eq!(metric(&service.get("/metrics").body, "steadfast_paused"), Some(1.0));
    service.stop();
}

/// The value of a metric, named as it stands there, labels and all.
fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// A metric's labels never name a session, a path or a text.
fn assert_sound(text: &str) {
    let typed: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let mut unique = typed.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), typed.len(), "a family is there twice");
    for name in &typed {
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        assert!(name.starts_with("steadfast_") || name.starts_with("process_"), "{name}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(typed.contains(&family) || typed.contains(&name), "{line}");
        let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(value.is_finite() && value >= 0.0, "{line}");
    }
}

#[test]
fn what_happens_is_in_the_metrics_and_their_labels_are_bounded() {
    let script = milestone("Write", &["a.js", "b.js"], &[], &[])
        + &rule("role = \"coder\", model = \"one\"", "", "{ status = 500 }");
    let world = listening_with(&script);
    let service = Service::start(&world);
    let before = service.get("/metrics");
    assert_eq!(before.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_sound(&before.body);
    for zero in ["steadfast_sessions{state=\"completed\"}", "steadfast_milestone_verdicts_total{verdict=\"too_low\"}"] {
        assert_eq!(metric(&before.body, zero), Some(0.0), "{zero}");
    }
    assert_eq!(metric(&before.body, "steadfast_rate_ratio{rate=\"fallback\",window=\"hour\"}"), None);
    world.steadfast(&["run", "idea.md", "--repo", "repo"]).expect(0);
    let text = wait_until("the end of the session", || {
        let text = service.get("/metrics").body;
        (metric(&text, "steadfast_sessions_finished_total{phase=\"completed\"}") == Some(1.0)).then_some(text)
    });
    assert_sound(&text);
    let is = |name: &str| metric(&text, name);
    assert_eq!(is("steadfast_sessions{state=\"completed\"}"), Some(1.0));
    assert_eq!(is("steadfast_attempts_total{model=\"sim/two\",result=\"success\",role=\"coder\"}"), Some(2.0));
    assert!(
        text.contains("steadfast_attempts_total{model=\"sim/one\",result=\"unavailable\",role=\"coder\"}"),
        "{text}"
    );
    assert!(is("steadfast_tokens_total{kind=\"output\",model=\"sim/two\",role=\"coder\"}").unwrap() > 0.0);
    assert_eq!(is("steadfast_attempt_duration_seconds_count{model=\"sim/two\"}"), Some(2.0));
    assert_eq!(is("steadfast_milestone_verdicts_total{verdict=\"perfect\"}"), Some(1.0));
    assert_eq!(is("steadfast_files_total{result=\"ok\"}"), Some(2.0));
    assert_eq!(is("steadfast_commits_total"), Some(1.0));
    assert_eq!(is("steadfast_role_models{role=\"coder\"}"), Some(2.0));
    assert_eq!(is("steadfast_executions_total{answered_by=\"fallback\"}"), Some(2.0));
    assert_eq!(is("steadfast_rate_ratio{rate=\"fallback\",window=\"hour\"}"), Some(0.5));
    let states = ["closed", "open", "half_open", "unavailable"];
    let sum: f64 = states
        .iter()
        .filter_map(|state| is(&format!("steadfast_breaker_state{{model=\"sim/one\",state=\"{state}\"}}")))
        .sum();
    assert_eq!(sum, 1.0);
    for more_than_none in
        ["steadfast_store_size_bytes", "steadfast_store_flushes_total", "process_resident_memory_bytes"]
    {
        assert!(is(more_than_none).unwrap() > 0.0, "{more_than_none}");
    }
    for secret in ["002-feature", "a.js", world.repo().to_str().unwrap(), &service.token] {
        assert!(!text.contains(secret), "{secret}");
    }
    service.stop();
}

/// promtool with these arguments; what it says, and whether it is content. `None`: there is none on this machine.
fn promtool(args: &[&str], stdin: &str) -> Option<(bool, String)> {
    use std::process::{Command, Stdio};
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/prometheus");
    let mut command = Command::new("promtool");
    command.args(args).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("promtool: {error}"),
    };
    // One that reads nothing may have ended by now.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Some((output.status.success(), said.into_owned()))
}

#[test]
fn promtool_has_nothing_to_say_against_the_alerts_and_a_real_scrape() {
    let world = listening_with(&milestone("Write", &["a.js"], &[], &[]));
    let service = Service::start(&world);
    world.steadfast(&["run", "idea.md", "--repo", "repo"]).expect(0);
    let scraped = service.get("/metrics").body;
    service.stop();
    for (args, stdin) in [
        (&["check", "metrics"][..], scraped.as_str()),
        (&["check", "rules", "alerts.yml"], ""),
        (&["test", "rules", "alerts.test.yml"], ""),
        (&["check", "config", "--syntax-only", "scrape.yml"], ""),
    ] {
        let Some((is_content, said)) = promtool(args, stdin) else { return };
        assert!(is_content, "{args:?}: {said}");
    }
}

/// Names of ours in a text, without the endings of a histogram's series.
fn names_of_metrics(text: &str) -> std::collections::BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("steadfast_") || word.starts_with("process_"));
    ours.map(|word| word.strip_suffix("_bucket").unwrap_or(word)).collect()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_are_there_and_the_page_names_them_all() {
    let world = listening();
    let service = Service::start(&world);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &str| std::fs::read_to_string(folder.join(path)).unwrap();
    // What has labels that nobody knows before something happens shows with the first time.
    let source = read("crates/steadfast/src/metrics.rs");
    let quoted: std::collections::BTreeSet<&str> =
        source.split('"').filter(|text| text.starts_with("steadfast_") || text.starts_with("process_")).collect();
    let scraped = service.get("/metrics").body;
    assert!(
        scraped
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .all(|line| { quoted.contains(line.split(' ').next().unwrap()) })
    );
    service.stop();
    for path in ["config/prometheus/alerts.yml", "config/grafana/steadfast.json"] {
        let text = read(path);
        let missing: Vec<&str> = names_of_metrics(&text).difference(&quoted).copied().collect();
        assert!(missing.is_empty(), "{path} asks for {missing:?}");
    }
    let grafana: Value = serde_json::from_str(&read("config/grafana/steadfast.json")).unwrap();
    assert!(grafana["panels"].as_array().unwrap().len() > 10);
    let page = read("docs/operations.md");
    let unnamed: Vec<&&str> =
        quoted.iter().filter(|name| name.starts_with("steadfast_") && !page.contains(&format!("`{name}`"))).collect();
    assert!(unnamed.is_empty(), "docs/operations.md does not name {unnamed:?}");
}
