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
