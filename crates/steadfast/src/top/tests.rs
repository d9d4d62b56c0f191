//! The view as a person sees it, without a terminal.

use jiff::Timestamp;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use ratatui::style::Color;
use serde_json::{Value, json};

use super::*;
use crate::report::IssueReport;

const NOW: &str = "2026-11-24T17:00:10Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn later(seconds: i64) -> Timestamp {
    Timestamp::from_second(now().as_second() + seconds).unwrap()
}

fn status() -> StatusBody {
    let rate = |value: Value, level: &str| json!({ "value": value, "level": level });
    let both = |value: Value, level: &str| json!({ "lastHour": rate(value.clone(), level), "sinceStart": rate(value, "good") });
    serde_json::from_value(json!({
        "daemon": true,
        "roles": {
            "planner": [{ "model": "p/plan", "priority": 1, "circuitBreaker": "CLOSED" }],
            "coder": [
                { "model": "p/one", "priority": 1, "circuitBreaker": "OPEN", "retryInMs": 30_000 },
                { "model": "p/two", "priority": 2, "circuitBreaker": "MONITORING (1/3)" },
            ],
            "reviewer": [{ "model": "p/review", "priority": 1, "circuitBreaker": "HALF-OPEN" }],
        },
        "rates": {
            "primarySuccess": both(json!(0.93), "good"), "fallback": both(json!(0.07), "good"),
            "degradation": both(json!(0.0), "good"), "breakerOpens": both(json!(2.0), "warning"),
            "partialSuccess": both(json!(null), "good"),
        },
        "sessions": { "queued": 0, "active": 1, "interrupted": 0, "completed": 3, "failed": 0, "cancelled": 0 },
        "outbox": { "undelivered": 1 },
        "store": { "healed": [], "setAsideRecords": 0, "setAsideFiles": [] },
    }))
    .unwrap()
}

fn session(id: &str, idea: &str, phase: &str) -> Report {
    let milestone = |index: u32, status: &str| {
        json!({ "index": index, "name": format!("Step {index}"), "status": status, "successRate": null, "verdict": null,
                "commit": null, "approved": null, "checks": [], "review": null })
    };
    serde_json::from_value(json!({
        "sessionId": id, "ideaId": idea, "title": "A title", "phase": phase, "success": phase == "completed",
        "partial": false, "degraded": false, "currentMilestone": 2, "interrupted": false, "emergency_shutdown": false,
        "shutdown_at": null, "interrupt_reason": null, "can_resume": false, "error": null, "repo": "/r",
        "branch": "steadfast/x", "createdAt": "2026-11-24T16:59:00Z", "updatedAt": "2026-11-24T16:59:30Z",
        "spent": { "calls": 1, "inputTokens": 2, "outputTokens": 3, "cost": 0.0 },
        "milestones": [milestone(1, "completed"), milestone(2, "pending"), milestone(3, "pending")], "issues": [],
    }))
    .unwrap()
}

fn issue(title: &str, error: Option<&str>) -> OutboxReport {
    OutboxReport {
        session_id: None,
        key: "k".to_owned(),
        issue: IssueReport { kind: "failed_file".to_owned(), title: title.to_owned(), delivered: false, url: None },
        created_at: NOW.to_owned(),
        error: error.map(str::to_owned),
    }
}

fn event(kind: &str, more: Value) -> Value {
    let mut event =
        json!({ "id": 1, "at": "2026-11-24T17:00:05.5Z", "event": kind, "sessionId": "s2", "ideaId": "002-b" });
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event
}

/// One session at work, one done, an open breaker, an issue that waits.
fn a_top() -> Top {
    let mut top = Top { daemon: Daemon::Up, ..Top::default() };
    let sessions = vec![session("s3", "003-c", "completed"), session("s2", "002-b", "implementing")];
    let outbox = vec![issue("users.js is not written", None)];
    top.hear(
        Heard::Standing(Box::new(Standing { status: status(), sessions: Some(sessions), outbox: Some(outbox) })),
        now(),
    );
    top.hear(
        Heard::Event(event("session_moved", json!({ "phase": "implementing", "milestone": 2, "milestones": 3 }))),
        now(),
    );
    for (file, model) in [("a.js", "p/one"), ("b.js", "p/two")] {
        let more = json!({ "role": "coder", "milestone": 2, "file": file, "model": model, "attempt": 2 });
        top.hear(Heard::Event(event("attempt_started", more)), now());
    }
    top.hear(Heard::Event(event("file_ended", json!({ "milestone": 2, "file": "b.js", "error": null }))), now());
    top
}

fn drawn(top: &mut Top, width: u16, height: u16, at: Timestamp) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(top, frame, Look { color: true }, at)).unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y: u16| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..buffer.area.height).map(|y| row(y).trim_end().to_owned() + "\n").collect()
}

fn press(top: &mut Top, keys: &str) -> Option<Action> {
    let mut last = None;
    for c in keys.chars() {
        let code = match c {
            '\t' => KeyCode::Tab,
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '↓' => KeyCode::Down,
            '↑' => KeyCode::Up,
            c => KeyCode::Char(c),
        };
        last = top.press(KeyEvent::from(code), now());
    }
    last
}

#[track_caller]
fn assert_shows(screen: &str, parts: &[&str]) {
    for part in parts {
        assert!(screen.contains(part), "{part:?} is not in\n{screen}");
    }
}

#[test]
fn a_wide_screen_shows_everything_that_matters_at_once() {
    let screen = drawn(&mut a_top(), 140, 40, now());
    assert_shows(
        &screen,
        &[
            "Steadfast  at work on 002-b, 1 agent busy; 3 completed, 0 failed",
            "● daemon  17:00:10 UTC",
            "✓ Nothing needs you.",
            "▸ 002-b  implementing  [✓▸·] 1/3  1:10 min",
            "milestone 2/3: Step 2",
            "▸ a.js  asks p/one, try 2  5 s",
            "✓ b.js  written",
            "✓ 003-c  completed",
            "1 ○ OPEN, test 30 s   p/one",
            "2 ◐ MONITORING (1/3)  p/two",
            "1 ◌ HALF-OPEN         p/review",
            "1 ● CLOSED            p/plan",
            "primary success  93 % good",
            "breaker opens       2 warning",
            "Outbox, 1 undelivered",
            "users.js is not written  waits",
            "17:00:05  002-b  milestone 2: b.js is done",
            "q quit",
        ],
    );
}

#[test]
fn the_time_to_the_next_test_runs_down_without_a_new_answer() {
    let mut top = a_top();
    assert_shows(&drawn(&mut top, 120, 30, later(12)), &["OPEN, test 18 s   p/one"]);
    top.status.as_mut().unwrap().0.roles.coder[0].retry_in_ms = Some(3_600_000);
    assert_shows(&drawn(&mut top, 120, 30, later(30)), &["OPEN, test 59:30  p/one"]);
    assert_shows(&drawn(&mut top, 120, 30, later(4000)), &["OPEN, test due    p/one"]);
}

#[test]
fn no_size_and_no_pane_makes_it_fail() {
    let mut top = a_top();
    for (width, height) in
        [(0, 0), (1, 1), (3, 2), (10, 3), (40, 10), (60, 18), (76, 18), (80, 24), (75, 60), (300, 100)]
    {
        for keys in ["", "\t", "\t", "\t", "\t", "?", "\u{1b}", "\t\n", "\u{1b}", "B", "n"] {
            press(&mut top, keys);
            drawn(&mut top, width, height, now());
            drawn(&mut Top::default(), width, height, now());
        }
    }
}

#[test]
fn a_small_screen_shows_one_pane_at_a_time() {
    let mut top = a_top();
    let screen = drawn(&mut top, 40, 10, now());
    assert_shows(&screen, &[" Sessions   Models ", "▸ 002-b  implementing"]);
    assert!(!screen.contains("p/plan"), "{screen}");
    press(&mut top, "\t");
    assert_shows(&drawn(&mut top, 40, 10, now()), &["1 ● CLOSED            p/plan"]);
}

#[test]
fn hostile_names_change_nothing_but_their_own_place() {
    let mut top = a_top();
    let name = format!("\u{1b}[2J\u{202e}evil\r\n\u{7}{}漢字 שלום {}", "x".repeat(50), "w".repeat(100_000));
    let mut hostile = session("s4", "004-d", "implementing");
    hostile.idea_id = name.clone();
    hostile.milestones[1].name = name.clone();
    let outbox = vec![issue(&name, Some(&name))];
    let mut bad = status();
    bad.roles.coder[0].circuit_breaker = format!("UNAVAILABLE ({name})");
    bad.paused = Some(name.clone());
    top.hear(
        Heard::Standing(Box::new(Standing { status: bad, sessions: Some(vec![hostile]), outbox: Some(outbox) })),
        now(),
    );
    let moved = json!({ "sessionId": "s4", "phase": "implementing", "milestone": 2, "milestones": 3, "text": name });
    top.hear(Heard::Event(event("session_moved", moved)), now());
    let more = json!({ "sessionId": "s4", "role": "coder", "file": name, "model": name, "attempt": 1 });
    top.hear(Heard::Event(event("attempt_started", more)), now());
    top.told(name.clone(), now());
    for keys in ["", "\n", "\u{1b}\t\n", "\u{1b}\t\n", "\u{1b}\t\t\n", "\u{1b}"] {
        press(&mut top, keys);
        let screen = drawn(&mut top, 80, 24, now());
        let control = screen.chars().find(|c| (c.is_control() && *c != '\n') || ('\u{202a}'..='\u{202e}').contains(c));
        assert_eq!(control, None, "{screen}");
        assert_eq!(screen.lines().count(), 24);
    }
}

#[test]
fn what_needs_a_person_is_said_above_everything() {
    let mut top = a_top();
    let mut bad = status();
    bad.roles.planner[0].circuit_breaker = "UNAVAILABLE (no key)".to_owned();
    bad.rates.get_mut("fallback").unwrap().last_hour.level = "critical".to_owned();
    let mut standing = session("s1", "001-a", "implementing");
    standing.interrupted = true;
    let sessions = vec![standing, session("s0", "000-z", "failed")];
    let outbox = vec![issue("x", Some("401 Unauthorized"))];
    top.hear(
        Heard::Standing(Box::new(Standing { status: bad, sessions: Some(sessions), outbox: Some(outbox) })),
        now(),
    );
    let needs = top.needs(now());
    let expected = [
        "no model of the planner can be called now",
        "p/plan is UNAVAILABLE (no key)",
        "1 session is interrupted (u resumes)",
        "1 session failed today (r retries)",
        "the outbox cannot be delivered: 401 Unauthorized (f tries again)",
        "fallback of the last hour is critical",
    ];
    assert_eq!(needs, expected);
    let screen = drawn(&mut top, 100, 30, now());
    assert_shows(
        &screen,
        &["⚠ no model of the planner can be called now", "1 session failed today (r retries)  (and 2 more)"],
    );
    // A failure of last week is no news.
    assert!(!top.needs(later(7 * 24 * 3600)).iter().any(|need| need.contains("failed today")));
}

#[test]
fn a_daemon_that_goes_is_said_and_takes_its_agents_with_it() {
    let mut top = a_top();
    top.hear(Heard::Away, now());
    let screen = drawn(&mut top, 120, 30, later(5));
    assert_shows(&screen, &["✗ no daemon for 5 s", "002-b  implementing"]);
    assert!(!screen.contains("a.js  asks"), "{screen}");
}

#[test]
fn cancelling_asks_first_and_only_yes_does_it() {
    let mut top = a_top();
    assert_eq!(press(&mut top, "c"), None);
    assert_shows(&drawn(&mut top, 100, 30, now()), &["Cancel 002-b (A title)?", "y yes  n no"]);
    assert_eq!(press(&mut top, "c\n"), None, "other keys answer nothing");
    assert_eq!(press(&mut top, "n"), None);
    assert!(top.overlay.is_none());
    assert_eq!(press(&mut top, "cy"), Some(Action::Order { session: "s2".to_owned(), verb: "cancel" }));
    // The finished one is not asked about.
    assert_eq!(press(&mut top, "↓c"), None);
    assert_shows(&drawn(&mut top, 100, 30, now()), &["003-c is completed already"]);
}

#[test]
fn orders_go_to_what_is_chosen() {
    let mut top = a_top();
    let order = |verb| Some(Action::Order { session: "s3".to_owned(), verb });
    assert_eq!(press(&mut top, "↓r"), order("retry"));
    assert_eq!(press(&mut top, "u"), order("resume"));
    assert_eq!(press(&mut top, "b"), None, "no model is chosen yet");
    assert_eq!(press(&mut top, "\t↓b"), Some(Action::Reset(Some("p/one".to_owned()))));
    assert_eq!(press(&mut top, "B"), None);
    assert_eq!(press(&mut top, "y"), Some(Action::Reset(None)));
    assert_eq!(press(&mut top, "f"), Some(Action::Flush));
    assert_eq!(press(&mut top, "q"), Some(Action::Quit));
}

#[test]
fn the_chosen_session_stays_chosen_when_a_new_one_comes() {
    let mut top = a_top();
    press(&mut top, "↓");
    let mut sessions = top.sessions.clone();
    sessions.insert(0, session("s9", "009-new", "planning"));
    top.hear(Heard::Standing(Box::new(Standing { status: status(), sessions: Some(sessions), outbox: None })), now());
    assert_eq!(top.chosen_session().unwrap().session_id, "s3");
}

#[test]
fn an_opened_session_shows_its_report_and_goes_on_with_its_story() {
    let mut top = a_top();
    assert_eq!(press(&mut top, "\n"), Some(Action::Open("s2".to_owned())));
    top.opened("s2", "A report\n\nStory (UTC)\n17:00 begun");
    top.hear(Heard::Event(event("planned", json!({ "milestones": ["One"], "degraded": false }))), now());
    let screen = drawn(&mut top, 100, 30, now());
    assert_shows(&screen, &["002-b  s2", "A report", "17:00 begun", "plan of 1 milestone: One"]);
    top.opened("s3", "of another one");
    assert!(!drawn(&mut top, 100, 30, now()).contains("of another one"));
    press(&mut top, "\u{1b}");
    assert!(top.overlay.is_none());
}

#[test]
fn a_filter_leaves_only_the_rows_with_its_text() {
    let mut top = a_top();
    press(&mut top, "/003\n");
    let screen = drawn(&mut top, 120, 30, now());
    assert!(screen.contains("003-c") && !screen.contains("▸ 002-b"), "{screen}");
    assert_eq!(press(&mut top, "r"), Some(Action::Order { session: "s3".to_owned(), verb: "retry" }));
    press(&mut top, "\u{1b}");
    assert_shows(&drawn(&mut top, 120, 30, now()), &["▸ 002-b"]);
    // While it is typed, letters are no orders.
    assert_eq!(press(&mut top, "/q"), None);
    assert_shows(&drawn(&mut top, 120, 30, now()), &["/q▏", "nothing here has that text"]);
}

#[test]
fn without_color_nothing_is_colored_and_every_state_has_its_word() {
    let mut top = a_top();
    let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
    terminal.draw(|frame| draw(&mut top, frame, Look { color: false }, now())).unwrap();
    assert!(terminal.backend().buffer().content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    assert_shows(
        &drawn(&mut top, 120, 40, now()),
        &["○ OPEN", "◐ MONITORING", "◌ HALF-OPEN", "● CLOSED", "good", "warning"],
    );
    terminal.draw(|frame| draw(&mut top, frame, Look { color: true }, now())).unwrap();
    assert!(terminal.backend().buffer().content.iter().any(|cell| cell.fg == Color::Red));
}

#[test]
fn what_the_rates_were_before_comes_before_what_they_are() {
    let mut top = a_top();
    top.remember(&json!({ "rates": { "fallback": { "values": [0.0, null, 1.0] }, "unknown": 3 } }));
    assert_eq!(top.series["fallback"], [Some(0.0), None, Some(1.0), Some(0.07)]);
    top.remember(&json!("not that"));
    for minute in 0..200 {
        top.hear(
            Heard::Standing(Box::new(Standing { status: status(), sessions: None, outbox: None })),
            later(minute * 60),
        );
    }
    assert_eq!(top.series["fallback"].len(), MAX_SERIES);
}

#[test]
fn the_feed_and_the_agents_stay_bounded() {
    let mut top = a_top();
    for n in 0..2000 {
        let moved = json!({ "sessionId": format!("x{n}"), "phase": "implementing", "milestone": 1, "milestones": 1 });
        top.hear(Heard::Event(event("session_moved", moved)), now());
        let over = json!({ "sessionId": format!("x{n}"), "phase": "completed", "milestone": 1, "milestones": 1 });
        top.hear(Heard::Event(event("session_moved", over)), now());
    }
    assert_eq!(top.feed.len(), MAX_FEED);
    assert_eq!(top.at_work.of("x5").count() + top.at_work.n_busy(), 1, "only a.js is busy");
}
