//! The daemon under a service manager: what it tells over a real notification socket, and when.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{PATIENCE, World, milestone, rule, wait_until};

/// A service manager: its socket, and all that was told so far with the time at which it was heard.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<(Instant, String)>,
}

impl Manager {
    /// Listens in the world's folder, and has the world's programs know of it.
    fn of(world: &mut World) -> Self {
        let path = world.path("notify.sock");
        world.env.insert("NOTIFY_SOCKET".to_owned(), path.display().to_string());
        Self::on(UnixDatagram::bind(path).unwrap())
    }

    fn on(socket: UnixDatagram) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Self { socket, heard: Vec::new() }
    }

    /// Takes what has come.
    fn listen(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(n) = self.socket.recv(&mut buffer) {
            self.heard.push((Instant::now(), String::from_utf8(buffer[..n].to_vec()).unwrap()));
        }
    }

    /// Waits for a message with this line after the first `from` messages; answers its place.
    #[track_caller]
    fn hear(&mut self, from: usize, line: impl Fn(&str) -> bool) -> usize {
        let begun = Instant::now();
        loop {
            self.listen();
            let found = self.heard.iter().skip(from).position(|(_, message)| message.lines().any(&line));
            if let Some(found) = found {
                return from + found;
            }
            assert!(begun.elapsed() < PATIENCE, "it was not told in time; what was: {:#?}", self.heard);
        }
    }

    /// Times at which this line was heard.
    fn times(&self, line: &str) -> Vec<Instant> {
        let with = self.heard.iter().filter(|(_, message)| message.lines().any(|told| told == line));
        with.map(|(time, _)| *time).collect()
    }
}

fn first_coder_hangs() -> String {
    milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "first = 1", "{ fault = \"hang\" }")
}

#[test]
fn ready_is_told_once_the_socket_answers_and_stopping_before_anything_else_of_a_shutdown() {
    let mut world = World::new(&first_coder_hangs(), &[]);
    let mut manager = Manager::of(&mut world);
    let daemon = world.start(&["daemon"]);
    let ready = manager.hear(0, |line| line == "READY=1");
    // No waiting: whoever is told may ask at once.
    assert_eq!(world.status()["daemon"], true);
    let before = manager.heard[..ready].iter().map(|(_, message)| message.as_str()).collect::<Vec<_>>();
    assert_eq!(before, ["STATUS=opening the store\nEXTEND_TIMEOUT_USEC=300000000"]);
    world.steadfast(&["submit", "idea.md", "--repo", "repo"]).expect(0);
    wait_until("a call", || (!world.asked("coder").is_empty()).then_some(()));
    daemon.signal(Signal::TERM);
    let stopping = manager.hear(ready, |line| line == "STOPPING=1");
    daemon.output().expect(0);
    manager.listen();
    let last: Vec<&str> = manager.heard[stopping..].iter().map(|(_, message)| message.as_str()).collect();
    assert_eq!(last, ["STOPPING=1\nSTATUS=stopping: SIGTERM received\nEXTEND_TIMEOUT_USEC=25000000"]);
    assert_eq!(world.steadfast(&["show", "002-feature", "--json"]).expect(0).json()["interrupted"], true);
}

#[test]
fn the_status_follows_the_work_at_most_once_a_second() {
    let script = milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "", "{ fault = \"hang\" }");
    let mut world = World::new(&script, &[("daemon.max_sessions", "1")]);
    let mut manager = Manager::of(&mut world);
    let daemon = world.start(&["daemon"]);
    manager.hear(0, |line| line == "STATUS=idle");
    world.steadfast(&["submit", "idea.md", "--repo", "repo"]).expect(0);
    std::fs::write(world.path("idea.md"), "---\nid: 003-next\n---\n# Next\n\nGo on.\n").unwrap();
    world.steadfast(&["submit", "idea.md", "--repo", "repo"]).expect(0);
    let work = "STATUS=1 session at work, 1 queued: 002-feature implementing milestone 1 of 1";
    manager.hear(0, |line| line == work);
    world.steadfast(&["cancel", "002-feature"]).expect(0);
    manager.hear(0, |line| line == "STATUS=1 session at work: 003-next implementing milestone 1 of 1");
    world.steadfast(&["cancel", "003-next"]).expect(0);
    let idle = manager.heard.len();
    manager.hear(idle, |line| line == "STATUS=idle");
    let told: Vec<(Instant, &str)> = manager
        .heard
        .iter()
        .filter(|(_, message)| message.starts_with("STATUS=") && !message.contains("opening"))
        .map(|(time, message)| (*time, message.as_str()))
        .collect();
    for pair in told.windows(2) {
        assert_ne!(pair[0].1, pair[1].1, "it is told when it changes");
        // The listener may hear the first late and the second in time.
        let apart = pair[1].0 - pair[0].0;
        assert!(apart > Duration::from_millis(500), "{apart:?} between {pair:?}");
    }
    daemon.stop();
}

#[test]
fn what_is_degraded_shows_in_the_status() {
    let script = milestone("Write", &["a.js"], &[], &[])
        + &rule("role = \"planner\"", "", "{ status = 401 }")
        + &rule("role = \"coder\"", "first = 1", "{ fault = \"hang\" }");
    let mut world = World::new(&script, &[]);
    let mut manager = Manager::of(&mut world);
    let daemon = world.start(&["daemon"]);
    manager.hear(0, |line| line == "READY=1");
    world.steadfast(&["submit", "idea.md", "--repo", "repo"]).expect(0);
    manager.hear(0, |line| line.contains(" 1 degraded: 002-feature") && line.ends_with("(degraded)"));
    daemon.stop();
}

#[test]
fn the_watchdog_is_fed_at_half_of_its_time_over_an_abstract_socket() {
    let mut world = World::new("", &[]);
    let name = format!("steadfast-test-{}", world.path("").display());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let mut manager = Manager::on(UnixDatagram::bind_addr(&address).unwrap());
    world.env.insert("NOTIFY_SOCKET".to_owned(), format!("@{name}"));
    world.env.insert("WATCHDOG_USEC".to_owned(), "600000".to_owned());
    let daemon = world.start(&["daemon"]);
    let ready = manager.hear(0, |line| line == "READY=1");
    let mut place = ready;
    for _ in 0..5 {
        place = manager.hear(place + 1, |line| line == "WATCHDOG=1");
    }
    let fed = manager.times("WATCHDOG=1");
    let took = fed[4] - fed[0];
    assert!(took > Duration::from_millis(1000), "four halves of 600 ms are 1200 ms, and it took {took:?}");
    daemon.stop();
}

#[test]
fn a_watchdog_meant_for_another_process_is_not_fed() {
    let mut world = World::new("", &[]);
    let mut manager = Manager::of(&mut world);
    world.env.insert("WATCHDOG_USEC".to_owned(), "1000".to_owned());
    world.env.insert("WATCHDOG_PID".to_owned(), "1".to_owned());
    let daemon = world.start(&["daemon"]);
    manager.hear(0, |line| line == "STATUS=idle");
    daemon.stop();
    manager.listen();
    assert_eq!(manager.times("WATCHDOG=1"), []);
}

#[cfg(debug_assertions)] // Else the program has no faults on purpose.
#[test]
fn a_stuck_supervisor_is_not_fed_for_though_the_rest_of_the_process_runs() {
    let mut world = World::new("", &[]);
    let mut manager = Manager::of(&mut world);
    world.env.insert("WATCHDOG_USEC".to_owned(), "200000".to_owned());
    world.env.insert("STEADFAST_TEST_FAULT".to_owned(), "supervisor-ping=hang@4".to_owned());
    let daemon = world.start(&["daemon"]);
    daemon.hear("a fault on purpose");
    // Long after the last answer: it would have been fed many times.
    for _ in 0..3 {
        let said = daemon.said().matches("the supervisor does not answer").count();
        wait_until("another miss", || {
            (daemon.said().matches("the supervisor does not answer").count() > said).then_some(())
        });
    }
    manager.listen();
    // Of the three pings that were answered, at least one was for the status.
    let fed = manager.times("WATCHDOG=1").len();
    assert!((1..=3).contains(&fed), "fed {fed} times");
    // The process itself is well: what does not need the supervisor is answered.
    world.steadfast(&["sessions"]).expect(0);
    let status = daemon.kill_with(Signal::ABORT);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::ABORT.as_raw()));
}

#[test]
fn a_reload_begins_and_ends_with_a_word_whether_it_is_taken_or_refused() {
    let mut world = World::new("", &[]);
    let mut manager = Manager::of(&mut world);
    let daemon = world.start(&["daemon"]);
    manager.hear(0, |line| line == "STATUS=idle");
    let begun = manager.heard.len();
    world.steadfast(&["reload"]).expect(0);
    world.configure("daemon.max_session = 2");
    world.bare(&["--state-dir", &world.state().display().to_string(), "reload"], None).expect(2);
    manager.listen();
    let told: Vec<&str> = manager.heard[begun..].iter().map(|(_, message)| message.as_str()).collect();
    let reloading = "RELOADING=1\nMONOTONIC_USEC=";
    assert!(told[0].starts_with(reloading) && told[2].starts_with(reloading), "{told:#?}");
    let usec: u64 = told[0][reloading.len()..].parse().unwrap();
    assert!(usec > 0);
    assert_eq!(told[1], "READY=1\nSTATUS=the configuration was read again");
    assert!(told[3].starts_with("READY=1\nSTATUS=the configuration is refused and the old one kept: "), "{}", told[3]);
    assert_eq!(told.len(), 4);
    daemon.stop();
}

#[test]
fn a_start_that_fails_tells_why() {
    let mut world = World::new("", &[]);
    let mut manager = Manager::of(&mut world);
    std::fs::create_dir(world.state()).unwrap();
    std::fs::write(world.state().join("store"), "no folder").unwrap();
    world.steadfast(&["daemon"]).expect(1);
    manager.hear(0, |line| line.starts_with("STATUS=ended: cannot open the store"));
    assert_eq!(manager.times("READY=1"), []);
}

#[test]
fn a_manager_that_is_not_there_or_does_not_read_holds_nothing_up() {
    let mut world = World::new(&milestone("Write", &["a.js"], &[], &[]), &[]);
    for socket in ["/nowhere/notify.sock", "no address", ""] {
        world.env.insert("NOTIFY_SOCKET".to_owned(), socket.to_owned());
        world.start_daemon().stop();
    }
    // One whose queue is full for good.
    let manager = Manager::of(&mut world);
    let full = UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    while full.send_to(&[b'x'; 512], world.path("notify.sock")).is_ok() {}
    let daemon = world.start_daemon();
    assert_eq!(world.run().expect(0).json()["phase"], "completed");
    daemon.stop();
    drop(manager);
}
