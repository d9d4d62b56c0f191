//! SPEC 4, row by row, through the whole program: the first coder model shows the fault, the second one answers only when it
//! is asked again, so that each run shows who is asked after whom. 409 is the second model's fault: it never counts.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

use crate::support::{DeadPort, World, milestone, rule, simulate, wait_until};

const FILE: &str = "src/new.txt";

fn one_file() -> String {
    milestone("Write one file", &[FILE], &[], &[])
}

/// The first `n` answers of the first model are `then`, and the first `n_conflicts` of the second are 409.
fn script(n: u32, then: &str, n_conflicts: u32) -> String {
    let first = |model, n, then| match n {
        0 => String::new(),
        n => rule(&format!("role = \"coder\", model = {model:?}"), &format!("first = {n}"), then),
    };
    one_file() + &first("one", n, then) + &first("two", n_conflicts, "{ status = 409 }")
}

/// Runs the idea; the models must be asked in exactly this order, and the last one of them has answered. Then the first
/// model's breaker must show this.
#[track_caller]
fn carries(world: &World, order: &[&str], breaker: &str) {
    let output = world.run().expect(0);
    assert_eq!(world.coders_asked(), order, "{}", output.stderr);
    let attempts = output.coder_attempts(FILE);
    let last = attempts.len() - 1;
    let told: Vec<(String, bool)> =
        order.iter().enumerate().map(|(at, model)| (format!("sim/{model}"), at == last)).collect();
    assert_eq!(attempts, told, "{}", output.stderr);
    let report = output.json();
    let file = &report["milestones"][0]["files"][0];
    assert_eq!(file["model"], attempts[last].0.as_str());
    assert_eq!(file["fallback"], attempts[last].0 != "sim/one");
    assert_eq!(report["degraded"], false);
    assert_eq!(world.coder_breaker(0), breaker, "{}", output.stderr);
    assert_eq!(world.coder_breaker(1), "CLOSED");
}

/// A fault after which the next model is asked, and then the first one again.
#[track_caller]
fn comes_back_in_a_later_round(then: &str, breaker: &str) {
    carries(&World::new(&script(1, then, 1), &[]), &["one", "two", "one"], breaker);
}

/// A fault that puts the model out for this execution.
#[track_caller]
fn is_not_asked_again(then: &str, breaker: &str) {
    carries(&World::new(&script(1, then, 1), &[]), &["one", "two", "two"], breaker);
}

/// A fault after which the same model is asked once more at once, and never a third time.
#[track_caller]
fn is_asked_once_more_at_once(then: &str, breaker: &str) {
    carries(&World::new(&script(9, then, 1), &[]), &["one", "one", "two", "two"], breaker);
}

const COUNTED_ONCE: &str = "MONITORING (1/3)";

macro_rules! rows {
    ($($name:ident: $check:ident($then:expr, $breaker:expr);)*) => {
        $(#[test] fn $name() { $check($then, $breaker); })*
    };
}

rows! {
    a_request_timeout_of_the_server_counts_and_a_later_round_asks_again: comes_back_in_a_later_round("{ status = 408 }", COUNTED_ONCE);
    an_internal_error_counts_and_a_later_round_asks_again: comes_back_in_a_later_round("{ status = 500 }", COUNTED_ONCE);
    a_bad_gateway_counts_and_a_later_round_asks_again: comes_back_in_a_later_round("{ status = 502 }", COUNTED_ONCE);
    an_unavailable_service_counts_and_a_later_round_asks_again: comes_back_in_a_later_round("{ status = 503 }", COUNTED_ONCE);
    a_gateway_timeout_counts_and_a_later_round_asks_again: comes_back_in_a_later_round("{ status = 504 }", COUNTED_ONCE);
    an_overloaded_provider_counts_and_a_later_round_asks_again: comes_back_in_a_later_round("{ status = 529 }", COUNTED_ONCE);
    a_connection_reset_counts_and_a_later_round_asks_again: comes_back_in_a_later_round("{ fault = \"reset\" }", COUNTED_ONCE);
    a_connection_closed_without_an_answer_counts: comes_back_in_a_later_round("{ fault = \"close\" }", COUNTED_ONCE);
    a_broken_stream_counts_and_a_later_round_asks_again: comes_back_in_a_later_round("{ fault = \"broken_stream\" }", COUNTED_ONCE);
    a_stream_cut_in_the_middle_counts: comes_back_in_a_later_round("{ fault = \"cut_stream\" }", COUNTED_ONCE);
    a_stream_without_its_terminal_event_is_no_answer: comes_back_in_a_later_round("{ fault = \"no_done\" }", COUNTED_ONCE);
    an_error_event_in_a_stream_counts: comes_back_in_a_later_round("{ fault = \"stream_error\" }", COUNTED_ONCE);
    a_web_page_is_no_answer_and_counts: comes_back_in_a_later_round("{ fault = \"html\" }", COUNTED_ONCE);
    broken_json_is_no_answer_and_counts: comes_back_in_a_later_round("{ fault = \"bad_json\" }", COUNTED_ONCE);
    an_answer_without_choices_counts: comes_back_in_a_later_round("{ fault = \"no_choices\" }", COUNTED_ONCE);
    an_answer_that_is_not_utf8_counts: comes_back_in_a_later_round("{ fault = \"not_utf8\" }", COUNTED_ONCE);
    an_endless_answer_is_cut_off_and_counts: comes_back_in_a_later_round("{ fault = \"huge\", size = 10000000 }", COUNTED_ONCE);
    a_conflict_does_not_count_and_a_later_round_asks_again: comes_back_in_a_later_round("{ status = 409 }", "CLOSED");
    a_rate_limit_without_a_time_counts_and_a_later_round_asks_again: comes_back_in_a_later_round("{ status = 429 }", COUNTED_ONCE);
    a_prompt_too_long_does_not_count_and_the_model_is_out: is_not_asked_again("{ fault = \"context_too_long\" }", "CLOSED");
    a_request_too_large_does_not_count_and_the_model_is_out: is_not_asked_again("{ status = 413 }", "CLOSED");
    a_bad_request_does_not_count_and_the_model_is_out: is_not_asked_again("{ status = 400 }", "CLOSED");
    an_unprocessable_request_does_not_count_and_the_model_is_out: is_not_asked_again("{ status = 422 }", "CLOSED");
    a_content_filter_does_not_count_and_the_model_is_out: is_not_asked_again("{ fault = \"filtered\" }", "CLOSED");
    an_empty_answer_gets_one_more_try_and_counts_once: is_asked_once_more_at_once("{ content = \"\" }", COUNTED_ONCE);
    chat_instead_of_a_file_gets_one_more_try_and_counts_once: is_asked_once_more_at_once("{ generate = \"prose\" }", COUNTED_ONCE);
    a_lazy_answer_gets_one_more_try_and_counts_once: is_asked_once_more_at_once("{ generate = \"lazy\" }", COUNTED_ONCE);
    a_block_that_never_closes_gets_one_more_try_and_counts_once: is_asked_once_more_at_once("{ generate = \"unclosed\" }", COUNTED_ONCE);
    an_answer_cut_by_its_limit_gets_one_more_try_and_does_not_count: is_asked_once_more_at_once("{ fault = \"truncated\" }", "CLOSED");
    a_provider_that_says_no_goes_before_the_table: is_not_asked_again("{ status = 503, headers = { x-should-retry = \"false\" } }", COUNTED_ONCE);
    a_provider_that_says_yes_goes_before_the_table: comes_back_in_a_later_round("{ status = 400, headers = { x-should-retry = \"true\" } }", "CLOSED");
}

/// A fault that opens the breaker at once, for about so many seconds, and puts the model out.
#[track_caller]
fn opens_at_once(then: &str, seconds: std::ops::RangeInclusive<u64>) {
    let world = World::new(&script(1, then, 1), &[("failover.reset_timeout", "\"1s\"")]);
    carries(&world, &["one", "two", "two"], "OPEN");
    let row = &world.status()["roles"]["coder"][0];
    let left = row["retryInMs"].as_u64().unwrap();
    assert!((seconds.start() * 1000..=seconds.end() * 1000).contains(&left), "{row}");
}

#[test]
fn an_exhausted_quota_opens_the_breaker_for_the_longest_time() {
    opens_at_once("{ fault = \"quota\" }", 3500..=3600);
}

#[test]
fn a_quota_said_in_a_bad_request_opens_the_breaker_for_the_longest_time() {
    opens_at_once("{ fault = \"quota_in_400\" }", 3500..=3600);
}

#[test]
fn a_payment_required_opens_the_breaker_for_the_longest_time() {
    opens_at_once("{ status = 402 }", 3500..=3600);
}

#[test]
fn a_wrong_key_opens_the_breaker_until_a_reset() {
    opens_at_once("{ status = 401 }", 3500..=3600);
}

#[test]
fn a_forbidden_model_opens_the_breaker_until_a_reset() {
    opens_at_once("{ status = 403 }", 3500..=3600);
}

#[test]
fn an_unknown_model_opens_the_breaker_until_a_reset() {
    opens_at_once("{ status = 404 }", 3500..=3600);
}

/// The next model is asked at once: with such a backoff, any pause would outlast the test.
#[track_caller]
fn rate_limited_for(then: &str, seconds: std::ops::RangeInclusive<u64>) {
    let settings =
        [("failover.reset_timeout", "\"1s\""), ("failover.backoff", "{ initial = \"10min\", max = \"10min\" }")];
    let world = World::new(&script(1, then, 0), &settings);
    carries(&world, &["one", "two"], "OPEN");
    let left = world.status()["roles"]["coder"][0]["retryInMs"].as_u64().unwrap();
    assert!((seconds.start() * 1000..=seconds.end() * 1000).contains(&left), "{left}");
}

#[test]
fn one_rate_limit_with_seconds_opens_the_breaker_until_then_and_costs_no_pause() {
    rate_limited_for("{ status = 429, headers = { retry-after = \"300\" } }", 200..=300);
}

#[test]
fn one_rate_limit_with_a_date_opens_the_breaker_until_then() {
    // A date far away is capped at max_open.
    rate_limited_for("{ status = 429, headers = { retry-after = \"Fri, 31 Dec 2100 23:59:59 GMT\" } }", 3500..=3600);
}

#[test]
fn one_rate_limit_with_the_time_in_its_body_opens_the_breaker_until_then() {
    let body = r#"{ status = 429, body = '{"error":{"message":"Rate limit reached. Please try again in 300s.","type":"rate_limit_error"}}' }"#;
    rate_limited_for(body, 200..=300);
}

#[test]
fn a_model_that_times_out_is_asked_once_more_and_not_a_third_time() {
    for fault in ["hang", "stall"] {
        let script = script(9, &format!("{{ fault = \"{fault}\" }}"), 2);
        let world = World::new(&script, &[("models.\"sim/one\"", "{ timeout = \"300ms\" }")]);
        carries(&world, &["one", "two", "one", "two", "two"], "MONITORING (2/3)");
    }
}

#[test]
fn a_refused_connection_counts_and_a_later_round_asks_again() {
    let port = DeadPort::reserve();
    let mut world = World::new(&script(0, "{}", 1), &[("roles.coder", "[\"dead/one\", \"sim/two\"]")]);
    world.configure(&format!("providers.dead = {{ kind = \"openai\", base_url = {:?} }}", port.base_url()));
    let output = world.run().expect(0);
    let attempts = [("dead/one", false), ("sim/two", false), ("dead/one", false), ("sim/two", true)];
    assert_eq!(output.coder_attempts(FILE), attempts.map(|(model, ok)| (model.to_owned(), ok)));
    assert_eq!(world.coder_breaker(0), "MONITORING (2/3)");
}

#[test]
fn connections_that_are_reset_when_they_are_made_count() {
    let resetting = simulate("[[rule]]\nfirst = 1\nthen = { fault = \"refuse\" }");
    let mut world = World::new(&script(0, "{}", 1), &[("roles.coder", "[\"other/one\", \"sim/two\"]")]);
    world.configure(&format!("providers.other = {{ kind = \"openai\", base_url = {:?} }}", resetting.base_url()));
    let output = world.run().expect(0);
    let attempts = [("other/one", false), ("sim/two", false), ("other/one", true)];
    assert_eq!(output.coder_attempts(FILE), attempts.map(|(model, ok)| (model.to_owned(), ok)));
    assert_eq!(world.coder_breaker(0), COUNTED_ONCE);
}

#[test]
fn a_host_that_does_not_exist_counts_while_other_hosts_answer() {
    let mut world = World::new(&script(0, "{}", 1), &[("roles.coder", "[\"lost/one\", \"sim/two\"]")]);
    world.configure("providers.lost = { kind = \"openai\", base_url = \"http://no-such-host.invalid/v1\" }");
    let output = world.run().expect(0);
    let attempts = [("lost/one", false), ("sim/two", false), ("lost/one", false), ("sim/two", true)];
    assert_eq!(output.coder_attempts(FILE), attempts.map(|(model, ok)| (model.to_owned(), ok)));
    assert_eq!(world.coder_breaker(0), "MONITORING (2/3)");
}

#[test]
fn when_no_host_can_be_found_it_waits_and_counts_nothing_and_never_degrades() {
    let roles = [
        ("roles.planner", "[\"lost/plan\", \"gone/plan\"]"),
        ("roles.coder", "[\"lost/one\", \"gone/two\"]"),
        ("roles.reviewer", "[\"lost/review\"]"),
        ("failover.failure_threshold", "2"),
    ];
    let mut world = World::new("", &roles);
    world.configure("providers.lost = { kind = \"openai\", base_url = \"http://no-such-host.invalid/v1\" }");
    world.configure("providers.gone = { kind = \"openai\", base_url = \"http://nor-this-one.invalid/v1\" }");
    let run = world.start_run();
    // Long past the attempts after which an execution would have degraded.
    wait_until("a dozen attempts", || (run.said().matches("✗ planner").count() > 12).then_some(()));
    assert!(run.said().contains("our own network is down"), "{}", run.said());
    run.signal(rustix::process::Signal::TERM);
    let report = run.output().expect(75).json();
    assert_eq!(report["phase"], "planning");
    assert_eq!(report["degraded"], false);
    let planner = &world.status()["roles"]["planner"];
    // The first failure of all cannot be told from the host's own.
    assert_eq!(planner[0]["circuitBreaker"], "MONITORING (1/2)");
    assert_eq!(planner[1]["circuitBreaker"], "CLOSED");
}

/// A server that shows a certificate which nobody has signed.
fn untrusted_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let pem = include_bytes!("../crates/steadfast-model/tests/fixtures/self-signed.pem");
    let key = include_bytes!("../crates/steadfast-model/tests/fixtures/self-signed.key.pem");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(pem).unwrap()],
            PrivateKeyDer::from_pem_slice(key).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            // Fails when the client refuses the certificate, which is what the test is about.
            let _ = Stream::new(&mut connection, &mut socket).read(&mut [0; 1024]);
        }
    });
    port
}

#[test]
fn a_certificate_that_is_refused_counts_and_the_model_is_out() {
    let mut world = World::new(&script(0, "{}", 1), &[("roles.coder", "[\"tls/one\", \"sim/two\"]")]);
    let base_url = format!("https://localhost:{}/v1", untrusted_server());
    world.configure(&format!("providers.tls = {{ kind = \"openai\", base_url = {base_url:?} }}"));
    let output = world.run().expect(0);
    let attempts = [("tls/one", false), ("sim/two", false), ("sim/two", true)];
    assert_eq!(output.coder_attempts(FILE), attempts.map(|(model, ok)| (model.to_owned(), ok)), "{}", output.stderr);
    assert!(output.stderr.contains("certificate"), "{}", output.stderr);
    assert_eq!(world.coder_breaker(0), COUNTED_ONCE);
}

#[test]
fn models_that_cannot_be_called_are_unavailable_with_the_reason_and_cost_no_pause() {
    let settings = [
        ("roles.coder", "[\"keyed/one\", \"program/one\", \"sim/off\", \"sim/two\"]"),
        ("models.\"sim/off\"", "{ enabled = false }"),
        ("failover.backoff", "{ initial = \"10min\", max = \"10min\" }"),
    ];
    let mut world = World::new(&one_file(), &settings);
    world.configure(
        "providers.keyed = { kind = \"openai\", base_url = \"http://127.0.0.1:9/v1\", api_key_env = \"NO_SUCH_KEY\" }",
    );
    world.configure("providers.program = { kind = \"command\", command = [\"no-such-program-anywhere\"] }");
    let output = world.run().expect(0);
    assert_eq!(output.coder_attempts(FILE), [("sim/two".to_owned(), true)]);
    assert_eq!(output.json()["milestones"][0]["files"][0]["fallback"], true);
    let shown: Vec<String> = (0..4).map(|place| world.coder_breaker(place)).collect();
    assert!(shown[0].starts_with("UNAVAILABLE (") && shown[0].contains("NO_SUCH_KEY"), "{shown:?}");
    assert!(shown[1].starts_with("UNAVAILABLE (") && shown[1].contains("no-such-program-anywhere"), "{shown:?}");
    assert_eq!(shown[2], "UNAVAILABLE (disabled)");
    assert_eq!(shown[3], "CLOSED");
}

#[test]
fn after_a_prompt_too_long_a_larger_window_has_its_turn_first() {
    let script = one_file() + &rule("model = \"one\"", "", "{ fault = \"context_too_long\" }");
    let settings = [
        ("roles.coder", "[\"sim/one\", \"sim/two\", \"sim/three\"]"),
        ("models.\"sim/one\"", "{ context_window = 100_000 }"),
        ("models.\"sim/two\"", "{ context_window = 100_000 }"),
        ("models.\"sim/three\"", "{ context_window = 200_000 }"),
    ];
    carries(&World::new(&script, &settings), &["one", "three"], "CLOSED");
}

#[test]
fn a_useless_answer_is_told_to_the_model_and_a_good_second_one_is_taken() {
    let world = World::new(&script(1, "{ generate = \"lazy\" }", 0), &[]);
    carries(&world, &["one", "one"], COUNTED_ONCE);
    let asked = world.asked("coder");
    let prompts: Vec<&str> = asked.iter().map(|request| request.prompt.as_deref().unwrap()).collect();
    assert!(prompts[1].len() > prompts[0].len());
    assert!(prompts[1].contains("rest unchanged") || prompts[1].contains("placeholder"), "{}", prompts[1]);
    assert_eq!(asked.iter().map(|request| request.attempt).collect::<Vec<_>>(), [Some(1), Some(2)]);
}

/// Stands between the program and a server, passes everything on, and keeps what the program sent.
fn listen_in(to: std::net::SocketAddr) -> (String, Arc<std::sync::Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let heard = Arc::new(std::sync::Mutex::new(String::new()));
    let kept = Arc::clone(&heard);
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            let mut server = std::net::TcpStream::connect(to).unwrap();
            let (mut back_from, mut back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back_from, &mut back_to));
            let kept = Arc::clone(&kept);
            std::thread::spawn(move || {
                let mut part = [0; 65_536];
                while let Ok(n @ 1..) = client.read(&mut part) {
                    kept.lock().unwrap().push_str(&String::from_utf8_lossy(&part[..n]));
                    if server.write_all(&part[..n]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (base_url, heard)
}

#[test]
fn an_answer_cut_by_its_limit_is_asked_for_again_with_a_higher_one() {
    let script = one_file() + &rule("role = \"coder\"", "first = 1", "{ fault = \"truncated\" }");
    let settings = [("roles.coder", "[\"heard/one\"]"), ("models.\"heard/one\"", "{ max_output_tokens = 1000 }")];
    let mut world = World::new(&script, &settings);
    let (base_url, heard) = listen_in(world.sim.addr());
    world.configure(&format!("providers.heard = {{ kind = \"openai\", base_url = {base_url:?} }}"));
    world.run().expect(0);
    let heard = heard.lock().unwrap().clone();
    let limits: Vec<u64> = heard
        .match_indices("\"max_tokens\":")
        .map(|(at, key)| heard[at + key.len()..].chars().take_while(char::is_ascii_digit).collect::<String>())
        .map(|digits| digits.parse().unwrap())
        .collect();
    assert_eq!(limits.len(), 2, "{heard}");
    assert_eq!(limits[0], 1000);
    assert!(limits[1] > 1000, "{limits:?}");
}

#[test]
fn three_failures_open_the_breaker_and_no_call_is_made_until_its_test() {
    let plan = one_file() + &milestone("Write another", &["src/next.txt"], &[], &[]);
    let faults = rule("role = \"coder\", model = \"one\"", "", "{ status = 503 }")
        + &rule("role = \"coder\", model = \"two\"", "first = 2", "{ status = 409 }");
    let world = World::new(&(plan + &faults), &[]);
    let report = world.run().expect(0).json();
    // At most three attempts of a model in one execution, in rounds; the second file finds the breaker open.
    assert_eq!(world.coders_asked(), ["one", "two", "one", "two", "one", "two", "two"]);
    assert_eq!(report["milestones"][1]["files"][0]["fallback"], true);
    assert_eq!(world.coder_breaker(0), "OPEN");

    // Open it stays in the next process, until an operator resets it.
    std::fs::write(world.path("idea.md"), "---\nid: 003-next\n---\n# Next\n\nGo on.\n").unwrap();
    let before = world.sim.total();
    world.run().expect(0);
    let asked = world.sim.requests();
    assert!(asked[before as usize..].iter().all(|request| request.model != "one"));
    assert_eq!(world.steadfast(&["breaker", "reset", "sim/one", "--json"]).expect(0).json()["reset"], 1);
    assert_eq!(world.coder_breaker(0), "CLOSED");
}

#[test]
fn a_short_outage_of_every_model_is_waited_for_and_nothing_degrades() {
    let script = one_file() + &rule("role = \"coder\"", "first = 4", "{ status = 503 }");
    let settings = [
        ("roles.coder", "[\"sim/one\"]"),
        ("failover.reset_timeout", "\"50ms\""),
        ("failover.outage_patience", "\"1min\""),
    ];
    let world = World::new(&script, &settings);
    let output = world.run().expect(0);
    let report = output.json();
    assert_eq!(report["degraded"], false);
    assert_eq!(report["milestones"][0]["verdict"], "perfect");
    // Three that open it, a test that fails, a test that closes it.
    assert_eq!(world.coders_asked().len(), 5);
    assert!(output.stderr.contains("HALF-OPEN"), "{}", output.stderr);
    assert_eq!(world.coder_breaker(0), "CLOSED");
}

#[test]
fn the_drill_fails_each_roles_first_model_loudly_without_a_call_and_without_a_mark() {
    let settings = [
        ("roles.planner", "[\"sim/plan\", \"sim/plan2\"]"),
        ("roles.reviewer", "[\"sim/review\", \"sim/review2\"]"),
        ("failover.backoff", "{ initial = \"10min\", max = \"10min\" }"),
    ];
    let mut world = World::new(&one_file(), &settings);
    world.env.insert("FAIL_PRIMARY".to_owned(), "true".to_owned());
    let output = world.run().expect(0);
    assert!(output.stderr.contains("FAIL_PRIMARY"), "{}", output.stderr);
    let models: Vec<String> = world.sim.requests().into_iter().map(|request| request.model).collect();
    assert_eq!(models, ["plan2", "two", "review2"]);
    let report = output.json();
    assert_eq!(report["milestones"][0]["files"][0]["fallback"], true);
    assert_eq!(report["milestones"][0]["review"]["fallback"], true);
    world.env.clear();
    let status = world.status();
    for role in ["planner", "coder", "reviewer"] {
        for row in status["roles"][role].as_array().unwrap() {
            assert_eq!(row["circuitBreaker"], "CLOSED");
        }
    }
}
