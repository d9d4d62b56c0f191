//! What Prometheus reads: counters of what this process has seen happen, and, made anew for each reading, how things stand.
//!
//! Labels are bounded by the configuration (models) or by the program (roles, faults, states); no session, path or text of a
//! model is one. Counters begin at zero with the process, except those that the store keeps (the rates' counts).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};
use steadfast_actors::{Event, Flushes, ModelStatus, Status};
use steadfast_core::breaker::State;
use steadfast_core::fault::Usage;
use steadfast_core::ids::{ModelId, Role};
use steadfast_core::rates::{Level, Metric, Rates};

use crate::report::verdict_word;
use crate::wire::SessionCounts;

/// The Prometheus text format, version 0.0.4.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Seconds; models take from a blink to their timeout, which is five minutes by default.
const ATTEMPT_BUCKETS: [f64; 12] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0];

/// Names, help texts and labels are constants of this file, so a mistake in one fails every test that reads a metric.
const SOUND: &str = "a constant name, help text or label set is sound";

/// What was seen to happen.
pub(crate) struct Metrics {
    registry: Registry,
    attempts: IntCounterVec,
    attempt_seconds: HistogramVec,
    tokens: IntCounterVec,
    refusals: IntCounterVec,
    reused: IntCounterVec,
    waits: IntCounterVec,
    exhausted: IntCounterVec,
    degradations: IntCounterVec,
    breaker_changes: IntCounterVec,
    timeout_raises: IntCounterVec,
    finished: IntCounterVec,
    interruptions: IntCounter,
    judged: IntCounterVec,
    files: IntCounterVec,
    checks: IntCounterVec,
    reviews: IntCounterVec,
    fix_rounds: IntCounter,
    commits: IntCounter,
    issues: IntCounter,
    actor_failures: IntCounterVec,
    events: IntCounter,
    events_missed: IntCounter,
    /// Seconds since 1970.
    started: f64,
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: prometheus::Result<C>) -> C {
    let collector = collector.expect(SOUND);
    registry.register(Box::new(collector.clone())).expect(SOUND);
    collector
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    add(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    add(registry, IntCounter::new(name, help))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    add(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

fn float_gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    add(registry, GaugeVec::new(Opts::new(name, help), labels))
}

/// Counts that only grow, read from where they are kept.
fn tally(registry: &Registry, name: &str, help: &str, values: &[(&str, u64)], label: &str) {
    let vec = counters(registry, name, help, &[label]);
    for (value, count) in values {
        vec.with_label_values(&[value]).inc_by(*count);
    }
}

fn state_word(state: State) -> &'static str {
    match state {
        State::Closed => "closed",
        State::Open => "open",
        State::HalfOpen => "half_open",
    }
}

/// The state that a status text shows (SPEC 3).
fn shown_state(status: &ModelStatus) -> &'static str {
    match status.circuit_breaker.as_str() {
        "OPEN" => "open",
        "HALF-OPEN" => "half_open",
        text if text.starts_with("UNAVAILABLE") => "unavailable",
        // MONITORING lets calls through.
        _ => "closed",
    }
}

/// Names of metrics are in snake case.
fn rate_word(metric: Metric) -> &'static str {
    match metric {
        Metric::PrimarySuccess => "primary_success",
        Metric::Fallback => "fallback",
        Metric::Degradation => "degradation",
        Metric::BreakerOpens => "breaker_opens",
        Metric::PartialSuccess => "partial_success",
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let r = Registry::new();
        let metrics = Self {
            attempts: counters(
                &r,
                "steadfast_attempts_total",
                "Calls of models that ended, by what came of them.",
                &["model", "role", "result"],
            ),
            attempt_seconds: add(
                &r,
                HistogramVec::new(
                    HistogramOpts::new("steadfast_attempt_duration_seconds", "How long calls of models took.")
                        .buckets(ATTEMPT_BUCKETS.to_vec()),
                    &["model"],
                ),
            ),
            tokens: counters(
                &r,
                "steadfast_tokens_total",
                "Tokens of prompts (input) and answers (output), as providers count them, also of answers of no use.",
                &["model", "role", "kind"],
            ),
            refusals: counters(
                &r,
                "steadfast_model_refusals_total",
                "Models that were passed over without a call.",
                &["model", "role"],
            ),
            reused: counters(
                &r,
                "steadfast_answers_reused_total",
                "Answers bought before that were used again without a call.",
                &["role"],
            ),
            waits: counters(&r, "steadfast_waits_total", "Executions that waited.", &["role", "reason"]),
            exhausted: counters(
                &r,
                "steadfast_executions_exhausted_total",
                "Executions that no model answered.",
                &["role"],
            ),
            degradations: counters(
                &r,
                "steadfast_degradations_total",
                "Answers for which something else stood in.",
                &["role", "stand_in"],
            ),
            breaker_changes: counters(
                &r,
                "steadfast_breaker_changes_total",
                "Breakers that went into a state.",
                &["model", "to"],
            ),
            timeout_raises: counters(
                &r,
                "steadfast_timeout_raises_total",
                "Timeouts that auto_timeout has raised.",
                &["model"],
            ),
            finished: counters(&r, "steadfast_sessions_finished_total", "Sessions that ended.", &["phase"]),
            interruptions: counter(&r, "steadfast_session_interruptions_total", "Sessions that came to stand still."),
            judged: counters(
                &r,
                "steadfast_milestone_verdicts_total",
                "Verdicts on tries of milestones.",
                &["verdict"],
            ),
            files: counters(&r, "steadfast_files_total", "File agents that ended.", &["result"]),
            checks: counters(&r, "steadfast_checks_total", "Configured checks that ended.", &["result"]),
            reviews: counters(&r, "steadfast_reviews_total", "Reviews of milestones.", &["result"]),
            fix_rounds: counter(&r, "steadfast_fix_rounds_total", "Rounds of fixes after a review or a check."),
            commits: counter(&r, "steadfast_commits_total", "Commits made on branches of sessions."),
            issues: counter(&r, "steadfast_issues_filed_total", "Issues filed for people."),
            actor_failures: counters(
                &r,
                "steadfast_actor_failures_total",
                "Actors that ended by a panic or an error, and whether they were started again.",
                &["actor", "restarted"],
            ),
            events: counter(&r, "steadfast_events_total", "Events told."),
            events_missed: counter(
                &r,
                "steadfast_events_missed_total",
                "Events that came faster than they were taken in, and are in no other counter here.",
            ),
            started: seconds_since_1970(),
            registry: r,
        };
        metrics.begin_at_zero();
        metrics
    }

    /// What has not happened yet is shown as zero where its labels are known, so that a first time is seen as an increase.
    fn begin_at_zero(&self) {
        for phase in ["completed", "failed", "cancelled"] {
            self.finished.with_label_values(&[phase]);
        }
        for verdict in ["perfect", "good", "acceptable", "too_low"] {
            self.judged.with_label_values(&[verdict]);
        }
        for result in ["ok", "failed"] {
            self.files.with_label_values(&[result]);
        }
        for result in ["passed", "failed"] {
            self.checks.with_label_values(&[result]);
        }
        for result in ["approved", "rejected"] {
            self.reviews.with_label_values(&[result]);
        }
        for role in Role::ALL {
            self.exhausted.with_label_values(&[role.as_str()]);
        }
        for (role, stand_in) in [("planner", "template"), ("coder", "manual"), ("reviewer", "static-checks")] {
            self.degradations.with_label_values(&[role, stand_in]);
        }
    }

    /// Events that could not be taken in.
    pub(crate) fn missed(&self, n: u64) {
        self.events_missed.inc_by(n);
    }

    /// Counts an event.
    pub(crate) fn take_in(&self, event: &Event) {
        self.events.inc();
        match event {
            Event::AttemptSucceeded { place, model, duration_ms, usage, .. } => {
                self.attempted(model, place.role, "success", *duration_ms, *usage);
            }
            Event::AttemptFailed { place, model, fault, duration_ms, usage, .. } => {
                self.attempted(model, place.role, fault.word(), *duration_ms, *usage);
            }
            Event::ModelRefused { place, model, .. } => {
                self.refusals.with_label_values(&[model.as_str(), place.role.as_str()]).inc();
            }
            Event::AnswerReused { place, .. } => self.reused.with_label_values(&[place.role.as_str()]).inc(),
            Event::Waiting { place, reason, .. } => {
                self.waits.with_label_values(&[place.role.as_str(), reason.word()]).inc();
            }
            Event::Exhausted { place } => self.exhausted.with_label_values(&[place.role.as_str()]).inc(),
            Event::Degraded { place, stand_in } => {
                self.degradations.with_label_values(&[place.role.as_str(), stand_in]).inc();
            }
            Event::BreakerChanged { model, from, to, .. } if from != to => {
                self.breaker_changes.with_label_values(&[model.as_str(), state_word(*to)]).inc();
            }
            Event::TimeoutRaised { model, .. } => self.timeout_raises.with_label_values(&[model.as_str()]).inc(),
            Event::SessionMoved { phase, .. } if phase.is_final() => {
                self.finished.with_label_values(&[phase.as_str()]).inc();
            }
            Event::Interrupted { .. } => self.interruptions.inc(),
            Event::Judged { verdict, .. } => self.judged.with_label_values(&[verdict_word(*verdict)]).inc(),
            Event::FileEnded { error, .. } => {
                let result = if error.is_none() { "ok" } else { "failed" };
                self.files.with_label_values(&[result]).inc();
            }
            Event::Checked { passed, .. } => {
                self.checks.with_label_values(&[if *passed { "passed" } else { "failed" }]).inc();
            }
            Event::Reviewed { approved, .. } => {
                self.reviews.with_label_values(&[if *approved { "approved" } else { "rejected" }]).inc();
            }
            Event::FixRound { .. } => self.fix_rounds.inc(),
            Event::Committed { commit: Some(_), .. } => self.commits.inc(),
            Event::IssueFiled { .. } => self.issues.inc(),
            Event::ActorFailed { actor, restarted, .. } => {
                // `model x/y`, `session s…`: what follows the kind has no bound.
                let kind = actor.split(' ').next().unwrap_or_default();
                self.actor_failures.with_label_values(&[kind, if *restarted { "true" } else { "false" }]).inc();
            }
            // The others say what begins, or that nothing changed.
            _ => {}
        }
    }

    fn attempted(&self, model: &ModelId, role: Role, result: &str, duration_ms: u64, usage: Usage) {
        let (model, role) = (model.as_str(), role.as_str());
        self.attempts.with_label_values(&[model, role, result]).inc();
        self.attempt_seconds.with_label_values(&[model]).observe(duration_ms as f64 / 1e3);
        for (kind, n) in [("input", usage.input), ("output", usage.output)] {
            self.tokens.with_label_values(&[model, role, kind]).inc_by(n);
        }
    }

    /// Everything, in the text format.
    pub(crate) fn text(&self, now: &Now<'_>) -> String {
        let registry = Registry::new();
        now.roles(&registry);
        now.models(&registry);
        now.rates(&registry);
        now.rest(&registry);
        process(&registry, self.started);
        let mut families = self.registry.gather();
        families.extend(registry.gather());
        TextEncoder::new().encode_to_string(&families).expect("writing into memory does not fail")
    }
}

/// How things stand at a reading.
pub(crate) struct Now<'a> {
    pub(crate) status: &'a Status,
    pub(crate) rates: &'a Rates,
    /// Minutes since 1970.
    pub(crate) minute: u64,
    pub(crate) sessions: &'a SessionCounts,
    pub(crate) undelivered: usize,
    pub(crate) watchers: usize,
    pub(crate) store_bytes: u64,
    pub(crate) flushes: Flushes,
}

impl Now<'_> {
    fn roles(&self, registry: &Registry) {
        let all = gauges(registry, "steadfast_role_models", "Models that a role lists.", &["role"]);
        let help = "Models of a role whose breaker is not open and that can be called.";
        let up = gauges(registry, "steadfast_role_models_up", help, &["role"]);
        for role in &self.status.roles {
            let is_up = |status: &ModelStatus| matches!(shown_state(status), "closed" | "half_open");
            let n_up = role.models.iter().filter(|(_, status)| is_up(status)).count();
            all.with_label_values(&[role.role.as_str()]).set(signed(role.models.len()));
            up.with_label_values(&[role.role.as_str()]).set(signed(n_up));
        }
    }

    fn models(&self, registry: &Registry) {
        let models: BTreeMap<&ModelId, &ModelStatus> =
            self.status.roles.iter().flat_map(|role| role.models.iter().map(|(id, status)| (id, status))).collect();
        let help = "1 for the state in which a model's breaker is, 0 for the others; unavailable: it cannot be called.";
        let states = gauges(registry, "steadfast_breaker_state", help, &["model", "state"]);
        let help = "Times a model's breaker has opened, since it was first made.";
        let opens = counters(registry, "steadfast_breaker_opens_total", help, &["model"]);
        let calls = gauges(registry, "steadfast_model_calls_in_flight", "Calls under way.", &["model"]);
        let waiting = gauges(registry, "steadfast_model_calls_waiting", "Calls that wait for a slot.", &["model"]);
        let help = "What auto_timeout has added to a model's timeout.";
        let raised = float_gauges(registry, "steadfast_model_timeout_raised_seconds", help, &["model"]);
        for (id, status) in models {
            let id = id.as_str();
            let is = shown_state(status);
            for state in ["closed", "open", "half_open", "unavailable"] {
                states.with_label_values(&[id, state]).set(i64::from(state == is));
            }
            opens.with_label_values(&[id]).inc_by(status.opens);
            calls.with_label_values(&[id]).set(signed(status.in_flight));
            waiting.with_label_values(&[id]).set(signed(status.waiting));
            raised.with_label_values(&[id]).set(status.timeout_raised_by.as_secs_f64());
        }
    }

    fn rates(&self, registry: &Registry) {
        let help = "The rates of SPEC 13, 0 to 1, over the last hour and since the store began; not there while nothing was counted.";
        let ratios = float_gauges(registry, "steadfast_rate_ratio", help, &["rate", "window"]);
        let help = "How good a rate is: 0 good, 1 warning, 2 critical.";
        let levels = gauges(registry, "steadfast_rate_level", help, &["rate", "window"]);
        for (window, counts) in [("hour", self.rates.last_hour(self.minute)), ("all", self.rates.total())] {
            for metric in Metric::ALL {
                let labels = [rate_word(metric), window];
                let (part, all) = metric.fraction(&counts);
                // A number of openings is no ratio; its level says enough.
                if all > 0 && metric != Metric::BreakerOpens {
                    ratios.with_label_values(&labels).set(part as f64 / all as f64);
                }
                let level = match metric.level(&counts) {
                    Level::Good => 0,
                    Level::Warning => 1,
                    Level::Critical => 2,
                };
                levels.with_label_values(&labels).set(level);
            }
        }
        let total = self.rates.total();
        let values = [("primary", total.primary), ("fallback", total.fallback), ("none", total.degraded)];
        let help = "Role executions since the store began, by who answered: the first model, another, none.";
        tally(registry, "steadfast_executions_total", help, &values, "answered_by");
        let values = [("whole", total.milestones.saturating_sub(total.partial)), ("partial", total.partial)];
        tally(registry, "steadfast_milestones_total", "Milestones done since the store began.", &values, "result");
    }

    fn rest(&self, registry: &Registry) {
        let sessions =
            gauges(registry, "steadfast_sessions", "Sessions in the store, by where they stand.", &["state"]);
        let SessionCounts { queued, active, interrupted, completed, failed, cancelled } = self.sessions;
        for (state, n) in [
            ("queued", queued),
            ("active", active),
            ("interrupted", interrupted),
            ("completed", completed),
            ("failed", failed),
            ("cancelled", cancelled),
        ] {
            sessions.with_label_values(&[state]).set(signed(*n));
        }
        let one = |name: &str, help: &str, value: i64| {
            gauges(registry, name, help, &[]).with_label_values::<&str>(&[]).set(value);
        };
        let paused = i64::from(self.status.paused.is_some());
        one("steadfast_paused", "1 while no session begins, for memory or disk are short.", paused);
        one("steadfast_outbox_undelivered", "Issues that wait for delivery.", signed(self.undelivered));
        one("steadfast_event_watchers", "Readers of the event stream.", signed(self.watchers));
        let bytes = i64::try_from(self.store_bytes).unwrap_or(i64::MAX);
        one("steadfast_store_size_bytes", "Files of the store.", bytes);
        let Flushes { count, time } = self.flushes;
        let help = "Groups of writes that were brought to the disk, or could not be.";
        counter(registry, "steadfast_store_flushes_total", help).inc_by(count);
        let help = "Time spent on bringing them there.";
        let seconds = prometheus::Counter::new("steadfast_store_flush_seconds_total", help);
        add(registry, seconds).inc_by(time.as_secs_f64());
        let build = gauges(registry, "steadfast_build_info", "Always 1; what runs.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    }
}

/// The names that Prometheus' own clients use for a process.
fn process(registry: &Registry, started: f64) {
    let gauge = |name: &str, help: &str, value: f64| {
        float_gauges(registry, name, help, &[]).with_label_values::<&str>(&[]).set(value);
    };
    gauge("process_start_time_seconds", "When the process began, in seconds since 1970.", started);
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu = Duration::new(cpu.tv_sec.unsigned_abs(), cpu.tv_nsec.unsigned_abs() as u32);
    let seconds = prometheus::Counter::new("process_cpu_seconds_total", "CPU time, of the program and for it.");
    add(registry, seconds).inc_by(cpu.as_secs_f64());
    // Where /proc is not to be read, these are not there.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    if let Some(kib) = resident {
        let kib: f64 = kib;
        gauge("process_resident_memory_bytes", "Memory that is in use and in memory.", kib * 1024.0);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        gauge("process_open_fds", "Open files.", open.count() as f64);
    }
}

/// Bytes of all files below a folder; what cannot be read is not counted.
pub(crate) fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

fn signed(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
