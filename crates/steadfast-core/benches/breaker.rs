//! What a breaker costs a call: `cargo bench -p steadfast-core`. Wanted is less than 100 ns for admission and record
//! together, so that it disappears beside the 200 ns of one actor message.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use steadfast_core::breaker::{Admission, Breaker, BreakerConfig, CallOutcome};

fn closed(c: &mut Criterion) {
    let mut breaker = Breaker::new(BreakerConfig::default());
    let mut now = Duration::ZERO;
    c.bench_function("breaker/closed: admit and record a success", |b| {
        b.iter(|| {
            now += Duration::from_nanos(100);
            if let Admission::Admit(ticket) = breaker.admit(black_box(now)) {
                black_box(breaker.record(ticket, CallOutcome::Success, now));
            }
        });
    });
    assert_eq!(breaker.opens(), 0);
}

/// Each failure pushes an older one out of the window.
fn failing(c: &mut Criterion) {
    let config = BreakerConfig { monitoring_period: Duration::from_secs(3), ..BreakerConfig::default() };
    let mut breaker = Breaker::new(config);
    let mut now = Duration::ZERO;
    c.bench_function("breaker/closed: admit and record a failure", |b| {
        b.iter(|| {
            now += Duration::from_secs(1);
            if let Admission::Admit(ticket) = breaker.admit(black_box(now)) {
                black_box(breaker.record(ticket, CallOutcome::Failure, now));
            }
        });
    });
    assert_eq!(breaker.opens(), 0);
}

fn open(c: &mut Criterion) {
    let mut breaker = Breaker::new(BreakerConfig::default());
    if let Admission::Admit(ticket) = breaker.admit(Duration::ZERO) {
        breaker.record(ticket, CallOutcome::FailureOpenFor(Duration::MAX), Duration::ZERO);
    }
    c.bench_function("breaker/open: refuse", |b| {
        b.iter(|| black_box(breaker.admit(black_box(Duration::from_secs(30)))));
    });
    assert_eq!(breaker.opens(), 1);
}

criterion_group!(benches, closed, failing, open);
criterion_main!(benches);
