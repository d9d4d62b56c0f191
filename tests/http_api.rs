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
