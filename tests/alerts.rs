//! Alerts to a webhook: what raises one, that each arrives, and that its address goes nowhere.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{World, files_under, milestone, rule, wait_until, within_runtime};

const SECRET: &str = "T0000-B0000-hunter2hunter2";

/// A webhook that refuses so many alerts first.
pub(crate) struct Hook {
    pub(crate) address: String,
    got: Arc<Mutex<Vec<Value>>>,
}

impl Hook {
    pub(crate) fn start(refusals: usize) -> Self {
        let got = Arc::<Mutex<Vec<Value>>>::default();
        let (heard, left) = (Arc::clone(&got), Arc::new(Mutex::new(refusals)));
        let receive = move |body: String| {
            let (heard, left) = (Arc::clone(&heard), Arc::clone(&left));
            async move {
                let mut left = left.lock().unwrap();
                if *left > 0 {
                    *left -= 1;
                    return StatusCode::BAD_GATEWAY;
                }
                heard.lock().unwrap().push(serde_json::from_str(&body).unwrap());
                StatusCode::OK
            }
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = format!("http://{}/services/{SECRET}", listener.local_addr().unwrap());
        let router = Router::new().route("/services/{*secret}", post(receive));
        within_runtime(|| {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        });
        Self { address, got }
    }

    /// Every alert that it took, in order of arrival.
    pub(crate) fn all(&self) -> Vec<Value> {
        self.got.lock().unwrap().clone()
    }

    fn got(&self, kind: &str) -> Vec<Value> {
        self.got.lock().unwrap().iter().filter(|alert| alert["kind"] == kind).cloned().collect()
    }
}

fn with_hook(script: &str, hook: &Hook) -> World {
    let mut world = World::new(script, &[]);
    world.env.insert("STEADFAST_ALERTS__WEBHOOK".to_owned(), hook.address.clone());
    world
}

fn dead_planner() -> String {
    milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"planner\"", "", "{ status = 401 }")
}

#[test]
fn a_degradation_and_the_breaker_behind_it_are_alerted_once_each_also_when_the_webhook_fails_first() {
    let hook = Hook::start(2);
    let world = with_hook(&dead_planner(), &hook);
    let daemon = world.start_daemon();
    let report = world.run().expect(0).json();
    assert_eq!(report["degraded"], true);
    wait_until("both alerts", || (world.status()["outbox"]["undelivered"] == 0).then_some(()));
    daemon.signal(Signal::TERM);
    daemon.output().expect(0);
    let (degraded, opened) = (hook.got("degraded"), hook.got("breaker_open"));
    assert_eq!((degraded.len(), opened.len()), (1, 1));
    assert_eq!((&degraded[0]["session"], &degraded[0]["stand_in"]), (&report["sessionId"], &Value::from("template")));
    assert_eq!(opened[0]["model"], "sim/plan");
    assert!(opened[0]["text"].as_str().unwrap().contains("breaker of sim/plan is open"), "{opened:?}");
    // No session was at work, so its end is no news.
    assert!(hook.got("shutdown").is_empty());
    let listed = world.steadfast(&["outbox", "list"]).expect(0).stdout;
    assert_eq!(listed.matches(" alert ").count(), 2, "{listed}");
}

#[test]
fn a_shutdown_with_a_session_at_work_is_alerted() {
    let hook = Hook::start(0);
    let script =
        milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "first = 1", "{ fault = \"hang\" }");
    let world = with_hook(&script, &hook);
    let running = world.start_run();
    wait_until("a call", || (!world.asked("coder").is_empty()).then_some(()));
    running.signal(Signal::TERM);
    let report = running.output().expect(75).json();
    let alerts = hook.got("shutdown");
    assert_eq!(alerts.len(), 1);
    assert!(alerts[0]["text"].as_str().unwrap().contains(report["sessionId"].as_str().unwrap()), "{alerts:?}");
}

#[test]
fn the_address_of_the_webhook_is_in_no_output_and_no_record() {
    let hook = Hook::start(1);
    let world = with_hook(&dead_planner(), &hook);
    let ran = world.steadfast(&["run", "idea.md", "--repo", "repo", "--log", "trace"]).expect(0);
    let flushed = world.steadfast(&["outbox", "flush", "--log", "trace"]).expect(0);
    let listed = world.steadfast(&["outbox", "list", "--json", "--log", "trace"]).expect(0);
    let shown = world.steadfast(&["config", "show"]).expect(0);
    assert!(!hook.got("degraded").is_empty());
    for output in [ran, flushed, listed, shown] {
        assert!(!output.stdout.contains(SECRET) && !output.stderr.contains(SECRET), "{output:?}");
    }
    for (path, bytes) in files_under(&world.state()) {
        assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()), "{}", path.display());
    }
}
