//! Faults on purpose, for tests of the whole program: `STEADFAST_TEST_FAULT="POINT=ACTION@N"`, several with commas, has
//! the N-th arrival (from 1) at a point do what the action says, once. `STEADFAST_TEST_ARRIVALS=FILE` has each arrival
//! add the point's name to a file as a line. `STEADFAST_TEST_HASTE=1` has the store tidy up at once and at small sizes.
//!
//! | action | does |
//! |---|---|
//! | `kill` | the process kills itself with `SIGKILL` |
//! | `stop` | the process stops itself with `SIGSTOP`, and goes on here when somebody continues it |
//! | `hang` | never returns: whoever waits here is stuck; no thread is, where it was reached by [`reach_async`] |
//! | `thread-panic` | a thread of its own panics, out of any actor's reach |
//! | `eat` | takes 256 MiB of memory for good |
//!
//! Compiled in with debug assertions only. A feature of its own would need a second build of the program for its tests,
//! and could be left on by mistake; the profile that is shipped has no debug assertions, so it holds none of this.
//!
//! Must not know: anything of ours. Every crate that changes something outside the process comes by its points.

mod point;

pub use point::Point;

/// Comes by a point. Returns, unless the environment says otherwise.
///
/// # Panics
/// When the variable does not read, so that a test with a mistake in it does not pass.
#[cfg(debug_assertions)]
pub fn reach(point: Point) {
    match told::arrive_and_act(point) {
        told::After::GoOn => {}
        told::After::Hang => loop {
            std::thread::park();
        },
    }
}

/// Without debug assertions nothing fails on purpose.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reach(_point: Point) {}

/// [`reach`] for a task: a fault that hangs holds no thread.
///
/// # Panics
/// As [`reach`].
#[cfg(debug_assertions)]
pub async fn reach_async(point: Point) {
    match told::arrive_and_act(point) {
        told::After::GoOn => {}
        told::After::Hang => std::future::pending::<()>().await,
    }
}

/// Without debug assertions nothing fails on purpose.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub async fn reach_async(_point: Point) {}

/// Whether the store shall tidy up at once and at small sizes, so that a short run comes by all of its points.
#[cfg(debug_assertions)]
pub fn is_hasty() -> bool {
    static HASTY: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| std::env::var_os("STEADFAST_TEST_HASTE").is_some());
    *HASTY
}

/// Without debug assertions nobody hurries.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn is_hasty() -> bool {
    false
}

#[cfg(debug_assertions)]
mod told {
    use std::fs::File;
    use std::io::Write as _;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use crate::Point;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Action {
        Kill,
        Stop,
        Hang,
        ThreadPanic,
        Eat,
    }

    /// What the one who has come by does then.
    #[must_use]
    pub(super) enum After {
        GoOn,
        Hang,
    }

    pub(super) struct Fault {
        point: Point,
        action: Action,
        at: u32,
        arrivals: AtomicU32,
    }

    static FAULTS: LazyLock<Vec<Fault>> =
        LazyLock::new(|| parse(&std::env::var("STEADFAST_TEST_FAULT").unwrap_or_default()));

    static ARRIVALS: LazyLock<Option<File>> = LazyLock::new(|| {
        let path = std::env::var_os("STEADFAST_TEST_ARRIVALS")?;
        Some(File::options().append(true).create(true).open(path).expect("STEADFAST_TEST_ARRIVALS can be written"))
    });

    pub(super) fn arrive_and_act(point: Point) -> After {
        if let Some(mut file) = ARRIVALS.as_ref() {
            // One write for each, so that lines of several threads do not mix.
            file.write_all(format!("{}\n", point.name()).as_bytes()).expect("STEADFAST_TEST_ARRIVALS can be written");
        }
        let Some(action) = arrive(&FAULTS, point) else { return After::GoOn };
        tracing::error!(point = point.name(), ?action, "a fault on purpose: STEADFAST_TEST_FAULT");
        match action {
            Action::Kill => signal(Signal::KILL),
            Action::Stop => {
                signal(Signal::STOP);
                // Another thread may have taken the signal, and this one stops a moment later: here, and no further.
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            Action::Hang => return After::Hang,
            Action::ThreadPanic => {
                let ended = std::thread::spawn(|| panic!("a fault on purpose")).join();
                assert!(ended.is_err());
            }
            // Every page is written to, so that it counts.
            Action::Eat => std::mem::forget(std::hint::black_box(vec![1_u8; 256 << 20])),
        }
        After::GoOn
    }

    /// A signal to the own process; neither of the two can be held up, and a `SIGKILL` takes effect before this returns.
    fn signal(signal: Signal) {
        kill_process(getpid(), signal).expect("a process may send signals to itself");
    }

    pub(super) fn arrive(faults: &[Fault], point: Point) -> Option<Action> {
        let due = |fault: &Fault| fault.arrivals.fetch_add(1, Ordering::Relaxed) + 1 == fault.at;
        let here = faults.iter().filter(|fault| fault.point == point);
        here.fold(None, |found, fault| if due(fault) { Some(fault.action) } else { found })
    }

    pub(super) fn parse(text: &str) -> Vec<Fault> {
        let one = |fault: &str| {
            let (point, action) = fault.split_once('=')?;
            let (action, at) = action.split_once('@')?;
            let action = match action {
                "kill" => Action::Kill,
                "stop" => Action::Stop,
                "hang" => Action::Hang,
                "thread-panic" => Action::ThreadPanic,
                "eat" => Action::Eat,
                _ => return None,
            };
            Some(Fault { point: Point::named(point)?, action, at: at.parse().ok()?, arrivals: AtomicU32::new(0) })
        };
        let read = |fault: &str| one(fault).unwrap_or_else(|| panic!("STEADFAST_TEST_FAULT: no fault {fault:?}"));
        text.split(',').filter(|fault| !fault.is_empty()).map(read).collect()
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::Point;
    use super::told::{Action, arrive, parse};

    #[test]
    fn a_fault_comes_at_the_told_arrival_of_its_point_and_at_no_other() {
        let faults = parse("supervisor-ping=hang@2,session-action=kill@1");
        let (ping, action) = (Point::SupervisorPing, Point::SessionAction);
        let came = [ping, ping, action, ping, Point::StoreClosed].map(|point| arrive(&faults, point));
        assert_eq!(came, [None, Some(Action::Hang), Some(Action::Kill), None, None]);
        assert!(parse("").is_empty());
    }

    #[test]
    #[should_panic(expected = "no fault \"session-action=explode@1\"")]
    fn a_fault_that_does_not_read_is_no_silent_pass() {
        parse("session-action=explode@1");
    }

    #[test]
    #[should_panic(expected = "no fault \"nowhere=kill@1\"")]
    fn a_point_that_is_nowhere_is_no_silent_pass() {
        parse("nowhere=kill@1");
    }

    #[test]
    fn every_point_has_a_name_of_its_own_and_is_found_by_it() {
        for point in Point::ALL {
            assert_eq!(Point::named(point.name()), Some(*point), "{}", point.name());
        }
    }
}
