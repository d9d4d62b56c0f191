//! `status --watch` and `top`: what they show, and that the terminal is given back as it was, whatever ends them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;

use crate::support::{PATIENCE, World, milestone, rule, wait_until};

const ROWS: usize = 40;
const COLUMNS: usize = 130;
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

/// The program with a terminal of its own. It is killed when this is dropped.
struct OnTerminal {
    child: Child,
    ours: File,
    theirs: File,
    before: Termios,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl OnTerminal {
    fn start(world: &World, args: &[&str]) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs: File = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap().into();
        tcsetwinsize(&theirs, Winsize { ws_row: ROWS as u16, ws_col: COLUMNS as u16, ws_xpixel: 0, ws_ypixel: 0 })
            .unwrap();
        let before = tcgetattr(&theirs).unwrap();
        let mut command = world.command();
        command.args(args).arg("--config").arg(world.path("steadfast.toml")).env("TERM", "xterm-256color");
        command.stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap());
        let child = command.stderr(Stdio::from(theirs.try_clone().unwrap())).process_group(0).spawn().unwrap();
        let ours = File::from(ours);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, seen) = (ours.try_clone().unwrap(), Arc::clone(&screen));
        // It ends when nobody holds the other side any more.
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut part) {
                seen.lock().unwrap().extend_from_slice(&part[..n]);
            }
        });
        Self { child, ours, theirs, before, screen }
    }

    /// Every byte that was sent.
    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// What stands on the terminal.
    fn screen(&self) -> String {
        screen(&self.seen())
    }

    #[track_caller]
    fn see(&self, text: &str) {
        let begun = std::time::Instant::now();
        while !self.screen().contains(text) {
            assert!(begun.elapsed() < PATIENCE, "{text:?} does not come, but\n{}", self.screen());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// From here on only what is drawn anew counts.
    fn forget(&self) {
        self.screen.lock().unwrap().clear();
    }

    fn press(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.theirs).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    /// Waits for its end and looks at what it leaves behind.
    #[track_caller]
    fn ends_with(&mut self, code: i32) {
        let status = wait_until("the end of the program", || self.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(code), "{}", self.seen());
        self.assert_given_back();
    }

    #[track_caller]
    fn assert_given_back(&self) {
        let after = tcgetattr(&self.theirs).unwrap();
        assert_eq!(after.local_modes, self.before.local_modes);
        assert_eq!(after.input_modes, self.before.input_modes);
        assert_eq!(after.output_modes, self.before.output_modes);
        wait_until("the screen as it was", || {
            let seen = self.seen();
            let (shown, left) = (seen.rfind("\u{1b}[?25h"), seen.rfind(LEAVE));
            (left.is_some() && left > seen.rfind(ENTER) && shown > seen.rfind("\u{1b}[?25l")).then_some(())
        });
    }
}

/// Carries out what our views send to a terminal: moves of the cursor, clearing, and text. Colors are left out.
fn screen(sent: &str) -> String {
    let mut rows = vec![vec![' '; COLUMNS]; ROWS];
    let (mut row, mut column) = (0, 0);
    let mut chars = sent.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                let mut sequence: String = chars.by_ref().take(1).collect();
                if sequence != "[" {
                    continue;
                }
                sequence.clear();
                let end = chars.by_ref().find(|c| {
                    sequence.push(*c);
                    c.is_ascii_alphabetic()
                });
                let mut numbers = sequence.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<usize>().ok());
                match end {
                    Some('H') => {
                        row = numbers.next().unwrap_or(1) - 1;
                        column = numbers.next().unwrap_or(1) - 1;
                    }
                    Some('J') => rows = vec![vec![' '; COLUMNS]; ROWS],
                    _ => {}
                }
            }
            '\r' => column = 0,
            '\n' => row += 1,
            c => {
                if let Some(cell) = rows.get_mut(row).and_then(|row| row.get_mut(column)) {
                    *cell = c;
                }
                // Of wide characters the views have only the dashboard's arrows.
                column += if c == '🔄' { 2 } else { 1 };
            }
        }
    }
    rows.into_iter().map(|row| row.into_iter().collect::<String>().trim_end().to_owned() + "\n").collect()
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn world() -> World {
    World::new(
        &(milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\", model = \"one\"", "", "{ status = 401 }")),
        &[],
    )
}

#[test]
fn without_a_terminal_the_dashboard_is_printed_again_when_something_has_changed() {
    let world = world();
    let daemon = world.start_daemon();
    let watcher = world.start(&["status", "--watch"]);
    watcher.hear_out("1. sim/one [CLOSED]");
    watcher.hear_out("Daemon: running");
    world.steadfast(&["submit", "idea.md", "--repo", "repo", "--follow"]).expect(0);
    watcher.hear_out("1. sim/one [OPEN], next test in");
    watcher.hear_out("0 active, 0 queued, 0 interrupted, 1 completed");
    world.steadfast(&["breaker", "reset"]).expect(0);
    drop(daemon);
    watcher.hear("the daemon has ended; waiting for it to come back");
    watcher.hear_out("Daemon: not running");
}

#[test]
fn watching_as_json_is_one_document_a_line_over_the_end_and_the_return_of_the_daemon() {
    let world = world();
    let watcher = world.start(&["status", "--watch", "--json"]);
    watcher.hear_out("\"daemon\":false");
    // It holds nothing that a daemon needs.
    let daemon = world.start_daemon();
    watcher.hear_out("\"daemon\":true");
    daemon.signal(Signal::KILL);
    let _ = daemon.end();
    watcher.hear("the daemon has ended");
    let daemon = world.start_daemon();
    world.steadfast(&["submit", "idea.md", "--repo", "repo", "--follow"]).expect(0);
    watcher.hear_out("\"completed\":1");
    daemon.signal(Signal::TERM);
    daemon.output().expect(0);
    watcher.signal(Signal::KILL);
    let seen = watcher.output().stdout;
    let documents: Vec<Value> = seen.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(documents.windows(2).all(|two| two[0] != two[1]), "{seen}");
    assert!(documents.iter().all(|one| one["roles"]["coder"][0]["model"] == "sim/one"), "{seen}");
}

#[test]
fn watching_and_checking_at_once_is_refused() {
    let refused = world().steadfast(&["status", "--watch", "--check"]).expect(2);
    assert!(refused.stderr.contains("--watch") && refused.stderr.contains("--check"), "{}", refused.stderr);
}

#[test]
fn top_without_a_terminal_or_as_json_says_what_to_use_instead() {
    let world = world();
    let refused = world.steadfast(&["top"]).expect(2);
    assert!(refused.stderr.contains("`steadfast status --watch`"), "{}", refused.stderr);
    let refused = world.steadfast(&["top", "--json"]).expect(2);
    assert!(refused.stderr.contains("`steadfast status --watch --json`"), "{}", refused.stderr);
}

#[test]
fn a_watched_dashboard_stays_readable_after_q() {
    let world = world();
    let daemon = world.start_daemon();
    let mut watcher = OnTerminal::start(&world, &["status", "--watch"]);
    watcher.see("every change shows at once");
    watcher.see("sim/one");
    assert!(watcher.is_raw() && watcher.seen().contains(ENTER));
    watcher.press("q");
    watcher.ends_with(0);
    wait_until("the last dashboard", || {
        let seen = watcher.seen();
        let (_, after) = seen.rsplit_once(LEAVE)?;
        after.contains("1. sim/one [CLOSED]").then_some(())
    });
    daemon.signal(Signal::TERM);
    daemon.output().expect(0);
}

#[test]
fn a_signal_ends_the_view_and_gives_the_terminal_back() {
    let world = world();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        for args in [&["status", "--watch"][..], &["top"]] {
            let mut view = OnTerminal::start(&world, args);
            view.see("sim/one");
            assert!(view.is_raw());
            view.signal(signal);
            view.ends_with(0);
        }
    }
}

#[test]
fn a_panic_gives_the_terminal_back_and_is_read_on_it() {
    let mut world = world();
    let daemon = world.start_daemon();
    world.env.insert("STEADFAST_TEST_FAULT".to_owned(), "watching=thread-panic@1".to_owned());
    let mut view = OnTerminal::start(&world, &["top"]);
    view.ends_with(1);
    wait_until("what was said", || {
        let seen = view.seen();
        let (_, after) = seen.rsplit_once(LEAVE)?;
        let said = ["a fault on purpose", "error: a part of the program has panicked"];
        said.iter().all(|text| after.contains(text)).then_some(())
    });
    drop(daemon);
}

#[test]
fn a_stopped_view_gives_the_terminal_back_and_takes_it_again() {
    let world = world();
    let mut view = OnTerminal::start(&world, &["top"]);
    for stop in ["\u{1a}", "the signal"] {
        view.see("sim/one");
        view.forget();
        if stop == "\u{1a}" {
            view.press(stop)
        } else {
            view.signal(Signal::TSTP)
        }
        wait_until("its stop", || {
            let stopped = rustix::process::waitpid(Some(view.pid()), WaitOptions::UNTRACED | WaitOptions::NOHANG);
            stopped.unwrap().filter(|(_, status)| status.stopped())
        });
        view.assert_given_back();
        view.signal(Signal::CONT);
        // All of it is drawn anew.
        wait_until("the screen taken again", || view.seen().contains(ENTER).then_some(()));
        view.see("sim/review");
        assert!(view.is_raw());
    }
    view.press("q");
    view.ends_with(0);
}

#[test]
fn top_shows_a_session_from_its_story_and_resets_a_breaker() {
    let world = world();
    let daemon = world.start_daemon();
    let mut top = OnTerminal::start(&world, &["top"]);
    top.see("daemon");
    world.steadfast(&["submit", "idea.md", "--repo", "repo", "--follow"]).expect(0);
    top.see("002-feature");
    top.see("OPEN, test");
    top.press("\r");
    top.see("Story (UTC)");
    top.see("after sim/one: HTTP 401");
    top.press("\u{1b}");
    // An Esc with a key behind it at once is Alt with that key.
    wait_until("the panes", || (!top.screen().contains("Story (UTC)")).then_some(()));
    // To the models, to the first coder, and its breaker is closed again.
    top.press("\tjb");
    top.see("sim/one: 1 breaker(s) reset");
    let status = world.status();
    assert_eq!(status["roles"]["coder"][0]["circuitBreaker"], "CLOSED");
    top.press("?");
    top.see("try to deliver the outbox now");
    top.press("q");
    top.press("q");
    top.ends_with(0);
    daemon.signal(Signal::TERM);
    daemon.output().expect(0);
}

#[test]
fn top_cancels_a_session_after_a_question() {
    let script = milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "", "{ fault = \"hang\" }");
    let world = World::new(&script, &[]);
    let daemon = world.start_daemon();
    world.steadfast(&["submit", "idea.md", "--repo", "repo"]).expect(0);
    let mut top = OnTerminal::start(&world, &["top"]);
    top.see("▸ 002-feature  implementing");
    top.press("c");
    top.see("Cancel 002-feature");
    top.press("y");
    top.see("cancel: done");
    wait_until("the end of the session", || {
        let report = world.steadfast(&["show", "002-feature", "--json"]).expect(0).json();
        (report["phase"] == "cancelled").then_some(())
    });
    top.press("q");
    top.ends_with(0);
    drop(daemon);
}
