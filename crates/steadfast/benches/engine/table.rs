//! The report, in Markdown.

use std::fmt::Write as _;

use crate::grown::Grown;
use crate::measure::{Measured, median};
use crate::{AT_ONCE, Round, Sizes};

/// Bars of the specification's speed section.
const MOST_OF_WALL: f64 = 0.4;
const MOST_OF_CPU: f64 = 0.4;
const LEAST_OF_RATE: f64 = 3.0;
const MOST_RESIDENT_MIB: f64 = 40.0;
const MOST_COMMAND_MS: f64 = 50.0;

/// A median with its least and greatest value.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        Self {
            median: median(values),
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    fn show(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.least, self.most)
    }
}

/// One figure of each round.
fn each(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> Spread {
    Spread::of(&rounds.iter().map(figure).collect::<Vec<_>>())
}

/// A round in one line, for who waits.
pub(crate) fn progress(at: usize, round: &Round) -> String {
    format!(
        "round {}: single {:.1} / {:.1} ms, CPU {:.1} / {:.1} ms; {AT_ONCE} at once {:.1} / {:.1} sessions/s (steadfast / floor); load {:.1}",
        at + 1,
        round.steadfast_single.wall_ms,
        round.floor_single.wall_ms,
        round.steadfast_single.cpu_ms,
        round.floor_single.cpu_ms,
        round.steadfast_many.per_second,
        round.floor_many.per_second,
        round.load,
    )
}

/// What the cases took.
pub(crate) fn rounds(rounds: &[Round], sizes: &Sizes) -> String {
    let mut text = format!(
        "Rounds: {}. In each {} single sessions of either kind in turn, and {} sessions of either kind, {AT_ONCE} at once. \
         Medians over rounds (min–max).\n\n\
         | case | wall, ms a session | sessions/s | CPU, ms a session | of it git / `submit` | model server's CPU, ms a session | peak RSS, MiB |\n\
         |---|---|---|---|---|---|---|\n",
        rounds.len(),
        sizes.pairs,
        sizes.many,
    );
    type Case = fn(&Round) -> &Measured;
    let cases: [(&str, Case); 4] = [
        ("floor, single (warm)", |round| &round.floor_single),
        ("steadfast, single (cold)", |round| &round.steadfast_single),
        ("floor, 20 at once", |round| &round.floor_many),
        ("steadfast, 20 at once", |round| &round.steadfast_many),
    ];
    for (name, case) in cases {
        let figure = |of: fn(&Measured) -> f64| each(rounds, |round| of(case(round)));
        let peak = figure(|measured| measured.peak_mib);
        let peak = if peak.most > 0.0 { peak.show(1) } else { "–".to_owned() };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {:.1} | {:.1} | {peak} |",
            figure(|measured| measured.wall_ms).show(1),
            figure(|measured| measured.per_second).show(1),
            figure(|measured| measured.cpu_ms).show(1),
            figure(|measured| measured.processes_cpu_ms).median,
            figure(|measured| measured.server_cpu_ms).median,
        );
    }
    for (name, case) in cases {
        let parts: Vec<[f64; 3]> = rounds.iter().filter_map(|round| case(round).parts).collect();
        if !parts.is_empty() {
            let part = |at: usize| median(&parts.iter().map(|parts| parts[at]).collect::<Vec<_>>());
            let _ = write!(
                text,
                "\n{name}: {:.1} ms in HTTP, {:.1} ms in git, {:.1} ms in `fdatasync` a session.\n",
                part(0),
                part(1),
                part(2)
            );
        }
    }
    text
}

/// What the grown store costs.
pub(crate) fn grown(grown: &Grown) -> String {
    let mut text = format!(
        "A store with {} finished sessions, {} bytes each, {:.0} MiB on disk. Whole commands, medians of {} (min–max); the \
         first one after the store was filled took {:.1} ms.\n\n\
         | command | daemon | wall, ms | CPU, ms |\n|---|---|---|---|\n",
        grown.finished,
        grown.record_bytes,
        grown.disk_mib,
        grown.alone.show.wall.len(),
        grown.first_ms,
    );
    let commands = [
        ("`show ID`", "no", &grown.alone.show),
        ("`show ID`", "yes", &grown.with_daemon.show),
        ("`sessions --limit 20`", "no", &grown.alone.sessions),
        ("`sessions --limit 20`", "yes", &grown.with_daemon.sessions),
    ];
    for (command, daemon, runs) in commands {
        let (wall, cpu) = (Spread::of(&runs.wall), Spread::of(&runs.cpu));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {command} | {daemon} | {} | {} |", wall.show(1), cpu.show(1));
    }
    let _ = writeln!(
        text,
        "\nThe idle daemon is {:.1} MiB resident, and {:.1} MiB after these commands.",
        grown.idle_mib, grown.later_mib
    );
    text
}

/// The figures that have a bar, beside it. The median decides.
pub(crate) fn bars(rounds: &[Round], grown: &Grown) -> String {
    let mut text = "| what | measured | bar | |\n|---|---|---|---|\n".to_owned();
    let mut row = |what: &str, shown: String, bar: String, met: bool| {
        let _ = writeln!(text, "| {what} | {shown} | {bar} | {} |", if met { "met" } else { "**missed**" });
    };
    if !rounds.is_empty() {
        let wall = each(rounds, |round| round.steadfast_single.wall_ms / round.floor_single.wall_ms);
        row("one session: wall / floor", wall.show(2), format!("≤ {MOST_OF_WALL}"), wall.median <= MOST_OF_WALL);
        let cpu = each(rounds, |round| round.steadfast_single.cpu_ms / round.floor_single.cpu_ms);
        row("one session: CPU / floor", cpu.show(2), format!("≤ {MOST_OF_CPU}"), cpu.median <= MOST_OF_CPU);
        let rate = each(rounds, |round| round.steadfast_many.per_second / round.floor_many.per_second);
        row("20 at once: sessions/s / floor", rate.show(2), format!("≥ {LEAST_OF_RATE}"), rate.median >= LEAST_OF_RATE);
    }
    let resident = grown.idle_mib.max(grown.later_mib);
    row(
        &format!("idle with {} finished sessions: resident", grown.finished),
        format!("{resident:.1} MiB"),
        format!("< {MOST_RESIDENT_MIB} MiB"),
        resident < MOST_RESIDENT_MIB,
    );
    let commands = [
        ("`show`, no daemon", &grown.alone.show),
        ("`show`, with a daemon", &grown.with_daemon.show),
        ("`sessions --limit 20`, no daemon", &grown.alone.sessions),
        ("`sessions --limit 20`, with a daemon", &grown.with_daemon.sessions),
    ];
    for (what, times) in commands {
        let times = Spread::of(&times.wall);
        row(what, format!("{} ms", times.show(1)), format!("< {MOST_COMMAND_MS} ms"), times.median < MOST_COMMAND_MS);
    }
    if rounds.is_empty() {
        return text;
    }
    let cpu_many = each(rounds, |round| round.steadfast_many.cpu_ms / round.floor_many.cpu_ms);
    let _ = write!(text, "\nWithout a bar: 20 at once, CPU / floor {}.\n", cpu_many.show(2));
    text
}
