//! Whether a network fault is a host's or our own side's (SPEC 4): a breaker must not open because our own cable is out,
//! and an execution must not degrade for it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::fault::NetworkFault;

/// How long what a host did says something about the network now: one breaker's default reset timeout, so that a
/// breaker's test finds no older evidence than its own.
pub const EVIDENCE_LASTS: Duration = Duration::from_secs(60);

/// What hosts did lately. Holds nothing older than [`EVIDENCE_LASTS`], so its size is bounded by the hosts that are
/// called within that time.
///
/// ```
/// use std::time::Duration;
/// use steadfast_core::fault::NetworkFault::NoSuchHost;
/// use steadfast_core::network::NetworkWatch;
///
/// let mut watch = NetworkWatch::default();
/// let now = Duration::ZERO;
/// watch.failed("one.example", NoSuchHost, now);
/// assert!(!watch.own_fault("one.example", NoSuchHost, now));
/// watch.failed("two.example", NoSuchHost, now);
/// assert!(watch.own_fault("two.example", NoSuchHost, now));
/// ```
#[derive(Debug, Clone, Default)]
pub struct NetworkWatch {
    /// When each host last answered.
    answered: BTreeMap<String, Duration>,
    /// When each host last had a network fault, where no host has answered since.
    failed: BTreeMap<String, Duration>,
    latest: Duration,
}

impl NetworkWatch {
    /// The host answered, with whatever status: the network carries.
    pub fn answered(&mut self, host: &str, now: Duration) {
        let now = self.advance(now);
        self.failed.clear();
        self.answered.insert(host.to_owned(), now);
    }

    /// A call to the host ended in a network fault. All kinds weigh the same as evidence about other hosts: a resolver
    /// that is cut off may answer "no such host", too.
    pub fn failed(&mut self, host: &str, _fault: NetworkFault, now: Duration) {
        let now = self.advance(now);
        self.failed.insert(host.to_owned(), now);
    }

    /// Whether this fault of this host is our own side's. The other hosts decide: ours when another one failed so too
    /// within [`EVIDENCE_LASTS`] and none has answered since; the host's when another one answered in that time. Where no
    /// other host has been heard of, a missing route or resolver is ours, and a name that does not exist is the host's.
    pub fn own_fault(&self, host: &str, fault: NetworkFault, now: Duration) -> bool {
        let now = self.latest.max(now);
        let others = |seen: &BTreeMap<String, Duration>| {
            seen.iter().any(|(other, at)| other != host && now.saturating_sub(*at) <= EVIDENCE_LASTS)
        };
        if others(&self.failed) {
            return true;
        }
        if others(&self.answered) {
            return false;
        }
        match fault {
            NetworkFault::Unreachable | NetworkFault::ResolverDown => true,
            NetworkFault::NoSuchHost => false,
        }
    }

    fn advance(&mut self, now: Duration) -> Duration {
        self.latest = self.latest.max(now);
        let now = self.latest;
        for seen in [&mut self.answered, &mut self.failed] {
            seen.retain(|_, at| now.saturating_sub(*at) <= EVIDENCE_LASTS);
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use NetworkFault::{NoSuchHost, ResolverDown, Unreachable};

    const KINDS: [NetworkFault; 3] = [NoSuchHost, ResolverDown, Unreachable];

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn failed(watch: &mut NetworkWatch, host: &str, fault: NetworkFault, now: u64) -> bool {
        watch.failed(host, fault, s(now));
        watch.own_fault(host, fault, s(now))
    }

    #[test]
    fn a_second_host_that_fails_makes_it_our_own() {
        for (one, two) in KINDS.iter().flat_map(|one| KINDS.map(|two| (*one, two))) {
            let mut watch = NetworkWatch::default();
            watch.failed("a", one, s(0));
            assert!(failed(&mut watch, "b", two, 1), "{one:?} {two:?}");
        }
    }

    #[test]
    fn the_same_host_failing_again_is_no_second_host() {
        let mut watch = NetworkWatch::default();
        assert!(!failed(&mut watch, "a", NoSuchHost, 0));
        assert!(!failed(&mut watch, "a", NoSuchHost, 1));
    }

    #[test]
    fn an_answer_of_any_host_clears_the_suspicion() {
        for answering in ["a", "b", "c"] {
            let mut watch = NetworkWatch::default();
            watch.failed("a", Unreachable, s(0));
            watch.answered(answering, s(1));
            let own = failed(&mut watch, "b", NoSuchHost, 2);
            assert!(!own, "{answering} answered");
        }
    }

    #[test]
    fn the_host_is_at_fault_while_another_answers() {
        for fault in KINDS {
            let mut watch = NetworkWatch::default();
            watch.answered("b", s(0));
            assert!(!failed(&mut watch, "a", fault, 60), "{fault:?}");
        }
    }

    #[test]
    fn evidence_lasts_sixty_seconds() {
        let mut watch = NetworkWatch::default();
        watch.failed("a", NoSuchHost, s(0));
        assert!(failed(&mut watch.clone(), "b", NoSuchHost, 60));
        assert!(!failed(&mut watch, "b", NoSuchHost, 61));
    }

    #[test]
    fn without_other_hosts_the_kind_decides() {
        for (fault, own) in [(NoSuchHost, false), (ResolverDown, true), (Unreachable, true)] {
            let mut watch = NetworkWatch::default();
            watch.answered("a", s(0));
            assert_eq!(failed(&mut watch, "a", fault, 1), own, "{fault:?}");
        }
    }

    #[test]
    fn what_other_hosts_did_long_ago_is_no_evidence() {
        let mut watch = NetworkWatch::default();
        watch.answered("b", s(0));
        assert!(failed(&mut watch, "a", Unreachable, 61));
    }

    #[test]
    fn old_evidence_takes_no_memory() {
        let mut watch = NetworkWatch::default();
        for host in 0..1000 {
            watch.failed(&host.to_string(), NoSuchHost, s(host * 61));
            watch.answered(&host.to_string(), s(host * 61));
        }
        assert_eq!((watch.answered.len(), watch.failed.len()), (1, 0));
    }

    #[test]
    fn a_clock_that_steps_back_is_taken_for_the_latest_time() {
        let mut watch = NetworkWatch::default();
        watch.failed("a", NoSuchHost, s(1000));
        assert!(failed(&mut watch, "b", NoSuchHost, 0));
        assert!(watch.own_fault("b", NoSuchHost, s(0)));
    }
}
