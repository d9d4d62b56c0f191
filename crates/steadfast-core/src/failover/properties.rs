//! The walk against models that do anything: it ends, and it never breaks a rule that can be seen from outside.

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::fault::{CallFault, Fault, NetworkFault};
use crate::ids::ModelId;

#[derive(Debug, Clone)]
enum Reply {
    Answer,
    Open { retry_in: Duration },
    Unavailable,
    Failed { fault: CallFault, own_network: bool, retry_in: Option<Duration> },
}

fn seconds(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_secs)
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        6 => Just(Fault::Unavailable),
        2 => Just(Fault::TimedOut),
        1 => Just(Fault::Malformed),
        2 => Just(Fault::Network(NetworkFault::Unreachable)),
        1 => Just(Fault::Tls),
        1 => Just(Fault::Conflict),
        2 => prop::option::of(seconds(0..50)).prop_map(|retry_after| Fault::RateLimited { retry_after }),
        1 => Just(Fault::QuotaExhausted),
        1 => Just(Fault::Denied),
        1 => Just(Fault::Uncallable),
        1 => Just(Fault::ContextTooLong),
        1 => Just(Fault::BadRequest),
        3 => Just(Fault::BadAnswer),
        2 => Just(Fault::Truncated),
        1 => Just(Fault::Filtered),
        1 => Just(Fault::Cancelled),
    ]
}

fn replies() -> impl Strategy<Value = (Duration, Reply)> {
    let word = prop_oneof![8 => Just(None), 1 => Just(Some(true)), 1 => Just(Some(false))];
    let open = prop_oneof![3 => Just(None), 2 => seconds(0..40).prop_map(Some)];
    let failed = (faults(), word, any::<bool>(), open).prop_map(|(fault, word, own, retry_in)| {
        let own_network = own && matches!(fault, Fault::Network(_));
        let mut fault = CallFault::new(fault, "no");
        fault.should_retry = word;
        Reply::Failed { fault, own_network, retry_in }
    });
    let reply = prop_oneof![
        1 => Just(Reply::Answer),
        8 => seconds(0..40).prop_map(|retry_in| Reply::Open { retry_in }),
        1 => Just(Reply::Unavailable),
        30 => failed,
    ];
    (seconds(0..10), reply)
}

fn policies() -> impl Strategy<Value = Policy> {
    (1u32..4, seconds(0..3), seconds(0..9), prop_oneof![Just(Duration::ZERO), seconds(1..200)]).prop_map(
        |(max_retries, backoff_initial, backoff_max, outage_patience)| Policy {
            max_retries: NonZeroU32::new(max_retries).unwrap(),
            backoff_initial,
            backoff_max,
            outage_patience,
        },
    )
}

/// What an onlooker knows of a model.
#[derive(Debug, Clone, Default)]
struct Seen {
    attempts: u32,
    out: bool,
    only_tests: bool,
    timeouts: u32,
    bad_answers: u32,
    truncations: u32,
    /// Believed to be open until then.
    due: Option<Duration>,
    /// A second chance after a test has been earned.
    extra: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_walk_ends_and_keeps_the_rules(
        windows in prop::collection::vec(prop::option::of(0u32..4), 0..4),
        policy in policies(),
        script in prop::collection::vec(replies(), 0..60),
    ) {
        let candidates = windows.iter().enumerate().map(|(index, window)| Candidate {
            model: ModelId::new(&format!("p/{index}")).unwrap(),
            context_window: *window,
        });
        let mut execution = Execution::new(candidates.collect(), policy.clone());
        let mut seen = vec![Seen::default(); windows.len()];
        let max = policy.max_retries.get();
        let mut script = script.into_iter();
        let mut now = Duration::from_secs(5);
        // Attempts made; when the last one ended and the pause that must follow it.
        let (mut made, mut quiet_until) = (0u32, Duration::ZERO);
        let mut network_down = 0u32;
        let mut waiting_since = None;
        // Each pause or ask is one step. A script of 60 replies, then failures only: far below this.
        let mut steps = 0;
        loop {
            steps += 1;
            prop_assert!(steps < 5000, "it does not end");
            let step = execution.next(now);
            prop_assert_eq!(&execution.next(now), &step);
            match step {
                Step::Exhausted => break,
                Step::Pause { until, why } => {
                    prop_assert!(until > now);
                    prop_assert!(why != Pause::OwnNetworkDown || network_down > 0);
                    prop_assert!(why != Pause::Backoff || (network_down == 0 && until == quiet_until));
                    if let Pause::BreakerTest { index } = why {
                        prop_assert!(!policy.outage_patience.is_zero());
                        prop_assert!(seen[index].due.is_some() && !seen[index].out);
                        let since = if network_down > 0 { now } else { *waiting_since.get_or_insert(now) };
                        prop_assert!(until <= since + policy.outage_patience);
                    }
                    now = until;
                }
                Step::Ask { index, how } => {
                    let model = &mut seen[index];
                    prop_assert!(!model.out, "model {} is out", index);
                    let spent = model.attempts >= max || model.only_tests;
                    let test = model.due.is_some_and(|due| due <= now);
                    prop_assert!(!spent || test || model.extra, "model {} is spent", index);
                    match how {
                        Ask::Plain => prop_assert_eq!((model.bad_answers, model.truncations), (0, 0)),
                        Ask::Repair { .. } => prop_assert_eq!(model.bad_answers, 1),
                        Ask::HigherLimit => prop_assert_eq!(model.truncations, 1),
                    }
                    let second_chance = model.bad_answers + model.truncations > 0;
                    prop_assert!(now >= quiet_until || second_chance || test);
                    let (took, reply) = script.next().unwrap_or((Duration::ZERO, Reply::Failed {
                        fault: CallFault::new(Fault::Unavailable, "no"),
                        own_network: false,
                        retry_in: None,
                    }));
                    match reply {
                        Reply::Answer => {
                            execution.answered(index);
                            prop_assert_eq!(execution.fallback(), index != 0);
                            prop_assert_eq!(execution.next(now), Step::Exhausted);
                            break;
                        }
                        Reply::Open { retry_in } => {
                            model.due = Some(now + retry_in);
                            execution.refused(index, Refused::Open { retry_in }, now);
                        }
                        Reply::Unavailable => {
                            model.out = true;
                            let reason = "no key".to_owned();
                            execution.refused(index, Refused::Unavailable { reason }, now);
                        }
                        Reply::Failed { fault, own_network, retry_in } if own_network => {
                            now += took;
                            let owed = model.due.map(|_| now);
                            model.due = retry_in.map(|time| now + time).or(owed);
                            execution.failed(index, &fault, true, retry_in, now);
                            let pause = policy.backoff_initial * 2u32.pow(network_down.min(20));
                            quiet_until = now + pause.min(policy.backoff_max);
                            (network_down, waiting_since) = (network_down + 1, None);
                            let left = seen[index].attempts < max && !seen[index].only_tests;
                            prop_assert!(!left || execution.next(now) != Step::Exhausted);
                        }
                        Reply::Failed { fault, own_network: _, retry_in } => {
                            now += took;
                            execution.failed(index, &fault, false, retry_in, now);
                            let rule = rule(&fault.fault, fault.should_retry);
                            if fault.fault == Fault::Uncallable {
                                model.out = true;
                                continue;
                            }
                            model.due = retry_in.map(|time| now + time);
                            model.attempts += 1;
                            model.extra = false;
                            network_down = 0;
                            match fault.fault {
                                Fault::TimedOut => model.timeouts += 1,
                                Fault::BadAnswer => model.bad_answers += 1,
                                Fault::Truncated => model.truncations += 1,
                                _ => {}
                            }
                            let seconds = match fault.fault {
                                Fault::BadAnswer => model.bad_answers,
                                _ => model.truncations,
                            };
                            match rule.again {
                                Again::Never => {
                                    let limited = matches!(fault.fault, Fault::RateLimited { .. });
                                    model.only_tests |= limited && fault.should_retry.is_none();
                                    model.out = !(limited && fault.should_retry.is_none());
                                }
                                Again::OnceInLaterRound => model.only_tests |= model.timeouts > 1,
                                Again::OnceAtOnce => {
                                    model.out = seconds > 1;
                                    model.extra = spent && retry_in.is_none();
                                }
                                Again::LaterRound => {}
                            }
                            let pause = policy.backoff_initial * 2u32.pow(made.min(20));
                            made += 1;
                            quiet_until = match rule.next {
                                NextModel::AtOnce => now,
                                NextModel::AfterBackoff | NextModel::LargerWindowFirst | NextModel::None => {
                                    now + pause.min(policy.backoff_max)
                                }
                            };
                        }
                    }
                }
            }
        }
        if policy.outage_patience.is_zero() {
            prop_assert!(seen.iter().all(|model| model.attempts <= max));
        }
    }
}
