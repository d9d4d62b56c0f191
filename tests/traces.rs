//! Traces over OTLP, as a collector gets them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{DeadPort, World, milestone, rule, wait_until, within_runtime};

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector {
    got: Arc<Mutex<Vec<(HeaderMap, Value)>>>,
}

/// A span as it came, with its attributes by name.
#[derive(Debug, Clone)]
struct Span {
    raw: Value,
    attributes: BTreeMap<String, Value>,
}

impl Span {
    fn text(&self, key: &str) -> &str {
        self.raw[key].as_str().unwrap_or_default()
    }

    /// What an attribute says, whatever its type, as text.
    fn says(&self, name: &str) -> String {
        let value = self.attributes.get(name).and_then(|value| value.as_object()?.values().next());
        value.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).unwrap_or_default()
    }

    fn nanos(&self, key: &str) -> u128 {
        self.text(key).parse().unwrap()
    }
}

impl Collector {
    /// On a free port; answers `OTEL_EXPORTER_OTLP_ENDPOINT` for it. `silent`: takes everything and never answers.
    fn start(silent: bool) -> (Self, String) {
        let collector = Self::default();
        let take = move |State(collector): State<Collector>, headers: HeaderMap, body: String| async move {
            collector.got.lock().unwrap().push((headers, serde_json::from_str(&body).unwrap()));
            if silent {
                std::future::pending::<()>().await;
            }
            (StatusCode::OK, "{}")
        };
        let router = Router::new().route("/v1/traces", post(take)).with_state(collector.clone());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        within_runtime(|| {
            tokio::spawn(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, router).await.unwrap();
            })
        });
        (collector, endpoint)
    }

    fn spans(&self) -> Vec<Span> {
        let got = self.got.lock().unwrap();
        let resources = got.iter().flat_map(|(_, body)| body["resourceSpans"].as_array().unwrap());
        let scopes = resources.flat_map(|resource| resource["scopeSpans"].as_array().unwrap());
        let spans = scopes.flat_map(|scope| scope["spans"].as_array().unwrap());
        let read = |raw: &Value| {
            let attributes = raw["attributes"].as_array().unwrap().iter();
            let attributes = attributes.map(|one| (one["key"].as_str().unwrap().to_owned(), one["value"].clone()));
            Span { raw: raw.clone(), attributes: attributes.collect() }
        };
        spans.map(read).collect()
    }
}

/// Every span is there once, in the one trace, its parent is there, and it lies within its parent's time.
#[track_caller]
fn assert_is_one_tree(spans: &[Span]) {
    let traces: BTreeSet<&str> = spans.iter().map(|span| span.text("traceId")).collect();
    assert_eq!(traces.len(), 1, "{spans:#?}");
    assert!(traces.iter().all(|id| id.len() == 32));
    let by_id: BTreeMap<&str, &Span> = spans.iter().map(|span| (span.text("spanId"), span)).collect();
    assert_eq!(by_id.len(), spans.len(), "an id is there twice: {spans:#?}");
    for span in spans {
        assert!(span.nanos("startTimeUnixNano") <= span.nanos("endTimeUnixNano"), "{span:#?}");
        if let Some(parent) = span.raw["parentSpanId"].as_str() {
            let parent = by_id.get(parent).unwrap_or_else(|| panic!("no parent of {span:#?}"));
            assert!(parent.nanos("endTimeUnixNano") >= span.nanos("endTimeUnixNano"), "{span:#?} {parent:#?}");
        }
    }
    assert_eq!(spans.iter().filter(|span| span.raw["parentSpanId"].is_null()).count(), 1);
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.text("name").starts_with(name)).collect()
}

#[test]
fn a_session_is_one_trace_whose_attempts_are_the_requests_that_were_made() {
    let script = milestone("Write", &["a.js", "b.js"], &[], &[])
        + &rule("role = \"coder\", file = \"a.js\", model = \"one\"", "first = 1", "{ status = 500 }");
    let mut world = World::new(&script, &[]);
    let (collector, endpoint) = Collector::start(false);
    world.env.insert("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint);
    world.env.insert("OTEL_EXPORTER_OTLP_HEADERS".to_owned(), "x-tenant=acme".to_owned());
    world.run().expect(0);
    let spans = collector.spans();
    assert_is_one_tree(&spans);
    // Each request is a span under the id that went along with it.
    let calls = named(&spans, "chat ");
    let requests = world.sim.requests();
    assert_eq!(calls.len(), requests.len());
    for request in &requests {
        let call = calls.iter().find(|call| Some(call.text("spanId")) == request.attempt_id.as_deref()).unwrap();
        let expected = format!("00-{}-{}-01", call.text("traceId"), call.text("spanId"));
        assert_eq!(request.traceparent.as_deref(), Some(expected.as_str()));
        assert_eq!(call.raw["kind"], 3);
        assert_eq!(call.text("name"), format!("chat {}", request.model));
        assert_eq!(call.says("gen_ai.request.model"), request.model);
        assert_eq!(
            (call.says("gen_ai.operation.name"), call.says("gen_ai.provider.name")),
            ("chat".into(), "sim".into())
        );
        assert_eq!(call.says("server.address"), "127.0.0.1");
        let failed = request.status == 500;
        assert_eq!(call.says("error.type"), if failed { "unavailable" } else { "" });
        assert_eq!(call.raw["status"]["code"] == 2, failed);
        assert_eq!(call.says("gen_ai.usage.input_tokens").parse::<u64>().is_ok_and(|n| n > 0), !failed);
    }
    // The tree: session, milestone, file agents, attempts.
    let session = named(&spans, "session 002-feature")[0];
    let milestone = named(&spans, "milestone 1: Write")[0];
    assert_eq!(milestone.text("parentSpanId"), session.text("spanId"));
    assert_eq!(
        (milestone.says("steadfast.verdict"), milestone.says("steadfast.files")),
        ("perfect".into(), "2".into())
    );
    let agents = named(&spans, "invoke_agent coder");
    assert_eq!(agents.iter().map(|agent| agent.says("steadfast.file")).collect::<BTreeSet<_>>().len(), 2);
    assert!(agents.iter().all(|agent| agent.text("parentSpanId") == milestone.text("spanId")));
    assert_eq!(named(&spans, "invoke_agent planner")[0].text("parentSpanId"), session.text("spanId"));
    assert_eq!(session.says("steadfast.phase"), "completed");
    // Nothing that a model or a file says, and no key, goes to a collector.
    let got = collector.got.lock().unwrap();
    assert!(
        got.iter().all(|(headers, _)| headers["x-tenant"] == "acme" && headers["content-type"] == "application/json")
    );
    assert!(
        got.iter()
            .all(|(_, body)| body["resourceSpans"][0]["resource"]["attributes"][0]["value"]["stringValue"]
                == "steadfast")
    );
    assert!(!got.iter().any(|(_, body)| body.to_string().contains("Write the files of the plan")));
}

#[test]
fn a_session_that_goes_on_after_a_restart_goes_on_in_its_trace() {
    let script =
        milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "first = 1", "{ fault = \"hang\" }");
    let mut world = World::new(&script, &[]);
    let (collector, endpoint) = Collector::start(false);
    world.env.insert("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint);
    let run = world.start_run();
    wait_until("a call", || (world.asked("coder").len() == 1).then_some(()));
    assert_eq!(run.kill_with(Signal::TERM).code(), Some(75));
    let before = collector.spans();
    let cut_off = named(&before, "chat one");
    assert_eq!(cut_off[0].says("error.type"), "interrupted");
    world.steadfast(&["resume"]).expect(0);
    let spans = collector.spans();
    assert!(spans.len() > before.len());
    assert_is_one_tree(&spans);
    assert_eq!((named(&spans, "session ").len(), named(&spans, "milestone ").len()), (1, 1));
}

#[test]
fn a_collector_that_is_gone_or_silent_holds_nobody_up() {
    let dead = DeadPort::reserve();
    let (silent, endpoint) = Collector::start(true);
    for endpoint in [dead.base_url(), endpoint] {
        let mut world = World::new(&milestone("Write", &["a.js"], &[], &[]), &[]);
        world.env.insert("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint);
        let begun = Instant::now();
        let report = world.run().expect(0).json();
        assert_eq!(report["phase"], "completed");
        // Two seconds are what the end may wait for the last spans; the SDKs' own timeout would be ten.
        assert!(begun.elapsed().as_secs() < 9, "{:?}", begun.elapsed());
    }
    assert_eq!(silent.got.lock().unwrap().len(), 1);
}

#[test]
fn an_address_that_is_none_is_refused_before_anything_begins() {
    let mut world = World::new("", &[]);
    world.env.insert("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "user:hunter2@collector:4318".to_owned());
    let refused = world.run().expect(2);
    assert!(refused.stderr.contains("OTEL_EXPORTER_OTLP_ENDPOINT is no address"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("hunter2") && world.sim.total() == 0);
}
