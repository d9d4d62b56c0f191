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
///
/// # Panics
/// When the variable does not read, so that a test with a mistake in it does not pass.
#[cfg(debug_assertions)]
pub async fn reach(point: &str) {
    if told::is_due(point) {
        tracing::error!(point, "hangs on purpose: STEADFAST_TEST_FAULT");
        std::future::pending::<()>().await;
    }
}

/// Without debug assertions nothing fails on purpose.
#[cfg(not(debug_assertions))]
pub async fn reach(_point: &str) {}

#[cfg(debug_assertions)]
mod told {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    pub(super) struct Fault {
        point: String,
        at: u32,
        arrivals: AtomicU32,
    }

    static FAULTS: LazyLock<Vec<Fault>> =
        LazyLock::new(|| parse(&std::env::var("STEADFAST_TEST_FAULT").unwrap_or_default()));

    pub(super) fn is_due(point: &str) -> bool {
        arrive(&FAULTS, point)
    }

    pub(super) fn arrive(faults: &[Fault], point: &str) -> bool {
        let due = |fault: &Fault| fault.arrivals.fetch_add(1, Ordering::Relaxed) + 1 == fault.at;
        faults.iter().filter(|fault| fault.point == point).fold(false, |any, fault| due(fault) | any)
    }

    pub(super) fn parse(text: &str) -> Vec<Fault> {
        let one = |fault: &str| {
            let (point, action) = fault.split_once('=')?;
            let at = action.strip_prefix("hang@")?.parse().ok()?;
            Some(Fault { point: point.to_owned(), at, arrivals: AtomicU32::new(0) })
        };
        let read = |fault: &str| one(fault).unwrap_or_else(|| panic!("STEADFAST_TEST_FAULT: no fault {fault:?}"));
        text.split(',').filter(|fault| !fault.is_empty()).map(read).collect()
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::told::{arrive, parse};

    #[test]
    fn a_fault_comes_at_the_told_arrival_of_its_point_and_at_no_other() {
        let faults = parse("here=hang@2,there=hang@1");
        let came = ["here", "here", "there", "here", "elsewhere"].map(|point| arrive(&faults, point));
        assert_eq!(came, [false, true, true, false, false]);
        assert!(parse("").is_empty());
    }

    #[test]
    #[should_panic(expected = "no fault \"here=explode@1\"")]
    fn a_fault_that_does_not_read_is_no_silent_pass() {
        parse("here=explode@1");
    }
}
