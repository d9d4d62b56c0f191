//! Faults on purpose, for tests of the whole program: `STEADFAST_TEST_FAULT="POINT=ACTION@N"`, several with commas, has
//! the N-th arrival (from 1) at a point do what the action says, once.
//!
//! Compiled in with debug assertions only. A feature of its own would need a second build of the program for its tests,
//! and could be left on by mistake; the profile that is shipped has no debug assertions, so it holds none of this.

/// Comes by a point. Returns, unless the environment says otherwise.
///
/// | action | does |
/// |---|---|
/// | `hang` | never returns: whoever waits here is stuck, and no thread is |
/// | `thread-panic` | a thread of its own panics, out of any actor's reach |
/// | `eat` | takes 256 MiB of memory for good |
///
/// # Panics
/// When the variable does not read, so that a test with a mistake in it does not pass.
#[cfg(debug_assertions)]
pub async fn reach(point: &str) {
    let Some(action) = told::is_due(point) else { return };
    tracing::error!(point, ?action, "a fault on purpose: STEADFAST_TEST_FAULT");
    match action {
        told::Action::Hang => std::future::pending::<()>().await,
        told::Action::ThreadPanic => {
            let ended = std::thread::spawn(|| panic!("a fault on purpose")).join();
            assert!(ended.is_err());
        }
        // Every page is written to, so that it counts.
        told::Action::Eat => std::mem::forget(std::hint::black_box(vec![1_u8; 256 << 20])),
    }
}

/// Without debug assertions nothing fails on purpose.
#[cfg(not(debug_assertions))]
pub async fn reach(_point: &str) {}

#[cfg(debug_assertions)]
mod told {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Action {
        Hang,
        ThreadPanic,
        Eat,
    }

    pub(super) struct Fault {
        point: String,
        action: Action,
        at: u32,
        arrivals: AtomicU32,
    }

    static FAULTS: LazyLock<Vec<Fault>> =
        LazyLock::new(|| parse(&std::env::var("STEADFAST_TEST_FAULT").unwrap_or_default()));

    pub(super) fn is_due(point: &str) -> Option<Action> {
        arrive(&FAULTS, point)
    }

    pub(super) fn arrive(faults: &[Fault], point: &str) -> Option<Action> {
        let due = |fault: &Fault| fault.arrivals.fetch_add(1, Ordering::Relaxed) + 1 == fault.at;
        let here = faults.iter().filter(|fault| fault.point == point);
        here.fold(None, |found, fault| if due(fault) { Some(fault.action) } else { found })
    }

    pub(super) fn parse(text: &str) -> Vec<Fault> {
        let one = |fault: &str| {
            let (point, action) = fault.split_once('=')?;
            let (action, at) = action.split_once('@')?;
            let action = match action {
                "hang" => Action::Hang,
                "thread-panic" => Action::ThreadPanic,
                "eat" => Action::Eat,
                _ => return None,
            };
            Some(Fault { point: point.to_owned(), action, at: at.parse().ok()?, arrivals: AtomicU32::new(0) })
        };
        let read = |fault: &str| one(fault).unwrap_or_else(|| panic!("STEADFAST_TEST_FAULT: no fault {fault:?}"));
        text.split(',').filter(|fault| !fault.is_empty()).map(read).collect()
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::told::{Action, arrive, parse};

    #[test]
    fn a_fault_comes_at_the_told_arrival_of_its_point_and_at_no_other() {
        let faults = parse("here=hang@2,there=eat@1");
        let came = ["here", "here", "there", "here", "elsewhere"].map(|point| arrive(&faults, point));
        assert_eq!(came, [None, Some(Action::Hang), Some(Action::Eat), None, None]);
        assert!(parse("").is_empty());
    }

    #[test]
    #[should_panic(expected = "no fault \"here=explode@1\"")]
    fn a_fault_that_does_not_read_is_no_silent_pass() {
        parse("here=explode@1");
    }
}
