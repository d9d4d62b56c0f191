//! The log: for people, for programs, bounded and harmless, with what it takes to follow one call.

use serde_json::Value;

use crate::support::{World, milestone, rule};

/// A coder that fails once, and a milestone whose name a terminal would obey.
fn script() -> String {
    milestone("Write EVIL it", &["a.js", "b.js"], &[], &[]).replace("EVIL", "\\u001b[31m\\u202e")
        + &rule("role = \"coder\", model = \"one\"", "first = 1", "{ status = 500 }")
}

fn log_of(world: &World, args: &[&str]) -> String {
    let args: Vec<&str> = ["run", "idea.md", "--repo", "repo"].into_iter().chain(args.iter().copied()).collect();
    world.steadfast(&args).expect(0).stderr
}

#[test]
fn off_a_terminal_the_log_is_text_and_standard_error_holds_nothing_else() {
    let mut world = World::new(&script(), &[]);
    // A journal that is somebody else's: the variable is inherited, the stream is not.
    world.env.insert("JOURNAL_STREAM".to_owned(), "1:2".to_owned());
    let log = log_of(&world, &["--log", "info"]);
    for line in log.lines() {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && (rest.starts_with("INFO  ") || rest.starts_with("WARN  ")), "{line}");
        assert!(!line.contains(char::is_control) && !line.contains('\u{202e}'), "{line:?}");
    }
    assert!(log.contains(" WARN  attempt failed session="), "{log}");
    assert!(log.contains(" INFO  session moved session="), "{log}");
}

#[test]
fn as_json_each_line_is_one_object_without_spans() {
    let world = World::new(&script(), &[("log.format", "\"json\"")]);
    let log = log_of(&world, &["--log", "debug"]);
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().all(|line| line["span"].is_null() && line["spans"].is_null()), "{log}");
    let failed = lines.iter().find(|line| line["message"] == "attempt failed").unwrap();
    assert_eq!(
        (&failed["level"], &failed["model"], &failed["attempt"]),
        (&"WARN".into(), &"sim/one".into(), &1.into())
    );
    assert!(failed["duration_ms"].is_u64() && failed["session"].as_str().unwrap().starts_with('s'), "{failed}");
}

#[test]
fn a_journal_that_is_asked_for_and_not_there_is_refused() {
    if std::path::Path::new("/run/systemd/journal/socket").exists() {
        return;
    }
    let world = World::new("", &[("log.format", "\"journald\"")]);
    let refused = world.steadfast(&["run", "idea.md", "--repo", "repo", "--log", "info"]).expect(2);
    assert!(refused.stderr.contains("log.format \"journald\" cannot be used"), "{}", refused.stderr);
    assert_eq!(world.sim.total(), 0);
}

/// Whoever has one of them finds the others: a line of the log, an event, the request at its server, the provider's own name.
#[test]
fn one_id_runs_from_the_log_and_the_event_to_the_request_and_the_providers_own_is_beside_it() {
    let script = milestone("Write", &["a.js"], &[], &[])
        + &rule("role = \"coder\"", "first = 1", "{ status = 500, headers = { x-request-id = \"req-7\" } }");
    let world = World::new(&script, &[("log.format", "\"json\"")]);
    let log = log_of(&world, &["--log", "info"]);
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let requests = world.sim.requests();
    assert_eq!(requests.len(), 4);
    let told = world.steadfast(&["events", "002-feature", "--json"]).expect(0).json();
    for request in &requests {
        let id = request.attempt_id.as_deref().unwrap();
        assert!(id.len() == 16 && id.chars().all(|c| c.is_ascii_hexdigit()), "{id}");
        assert_eq!(requests.iter().filter(|other| other.attempt_id.as_deref() == Some(id)).count(), 1);
        assert_eq!(lines.iter().filter(|line| line["attempt_id"] == id).count(), 2, "begin and end of {id}");
        let events = told.as_array().unwrap().iter().filter(|event| event["attemptId"] == id);
        assert!(events.clone().all(|event| Some(event["sessionId"].as_str().unwrap()) == request.session.as_deref()));
        assert_eq!(events.count(), 2);
        // Nobody traces, so nobody is told of a trace.
        assert_eq!(request.traceparent, None);
    }
    let failed = lines.iter().find(|line| line["message"] == "attempt failed").unwrap();
    assert_eq!((&failed["provider_request_id"], &failed["fault"]), (&"req-7".into(), &"unavailable".into()));
    assert_eq!(failed["status"], 500);
    let text = world.steadfast(&["events", "002-feature"]).expect(0).stdout;
    assert!(text.contains("(the provider calls it req-7)"), "{text}");
}
