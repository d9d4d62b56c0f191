//! The engine end to end against the bare floor (the same HTTP calls, git commands and `fdatasync`s as a plain sequential
//! program), and the cost of a store that has grown. One command; ratios are made within a round of one run:
//!
//! ```text
//! cargo bench -p steadfast --bench engine [-- [--rounds N] [--quick] [--dir DIR]]
//! cargo bench -p steadfast --bench engine -- --endurance [--quick] [--dir DIR]
//! ```
//!
//! One session is 5 milestones of 4 files: 26 model calls, 5 commits, every step durable. Cases, interleaved by round:
//!
//! | case | what runs | what is measured |
//! |---|---|---|
//! | floor, single | [`floor`]: one session in this process, warm | wall, CPU of this process and of its git processes |
//! | steadfast, single | `steadfast run`, from exec to exit, with an empty state directory (cold) | wall, CPU, peak resident memory |
//! | floor, 20 at once | 40 sessions on 40 repositories, 20 threads | sessions a second, CPU |
//! | steadfast, 20 at once | `steadfast daemon` with `max_sessions = 20`, 40 `steadfast submit`, 8 of them at once, until all are `completed` | sessions a second, CPU of the daemon and of the submits, peak resident memory |
//!
//! The model server is `steadfast sim` without latency, in a process of its own: its CPU is not counted, and is the same for
//! all (but that steadfast asks for streams, as it does by default). After each case every branch is checked: milestones 1
//! to 5 once each, one and the same tree for all, and 26 requests a session. Then a store with 10,000 finished sessions:
//! resident memory of an idle daemon, `show` and `sessions --limit 20` as whole commands.
//!
//! `--endurance` measures what a long life asks for instead: see [`endurance`].
//!
//! Nothing is asserted about time: a busy machine gives a worse table, not a failure. Scratch files go to the target
//! folder (`--dir` for another disk); it must be a real disk, or `fdatasync` costs nothing.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark reports to the terminal")]

mod daemon;
mod endurance;
mod floor;
mod foreground;
mod grown;
mod machine;
mod measure;
mod program;
mod server;
mod table;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;

use crate::floor::Floor;
use crate::measure::{Measured, mean, median};
use crate::server::Server;
use crate::work::{Job, Work};

/// Milestones of a session.
const MILESTONES: usize = 5;
/// Files of a milestone.
const FILES: usize = 4;
/// Model calls of a session: a plan; per milestone its files and a review.
const CALLS: usize = 1 + MILESTONES * (FILES + 1);
/// Sessions at once in the second pair of cases.
const AT_ONCE: usize = 20;

#[derive(Debug, Parser)]
#[command(about = "The engine end to end against the bare floor")]
struct Args {
    /// Rounds; the table shows medians over them. 0: only the grown store
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// One short round and a small store: does it work at all?
    #[arg(long)]
    quick: bool,
    /// Instead: a shutdown with 50 sessions, a start with 10,000 and 100, memory and disk after 2,000
    #[arg(long)]
    endurance: bool,
    /// Where the scratch files go
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_TARGET_TMPDIR"))]
    dir: PathBuf,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// How much of each case.
struct Sizes {
    rounds: usize,
    /// Pairs of single sessions (floor, steadfast) in a round.
    pairs: usize,
    /// Sessions of a case with 20 at once.
    many: usize,
    /// Finished sessions in the grown store.
    finished: usize,
    /// Each command on the grown store.
    commands: usize,
}

/// What one round gave.
struct Round {
    floor_single: Measured,
    steadfast_single: Measured,
    floor_many: Measured,
    steadfast_many: Measured,
    /// The machine's load average (1 minute) when it began.
    load: f64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if !args.bench {
        println!("this is a benchmark; run it with `cargo bench -p steadfast --bench engine`");
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let sizes = if args.quick {
        Sizes { rounds: 1, pairs: 2, many: AT_ONCE, finished: 1_000, commands: 5 }
    } else {
        Sizes { rounds: args.rounds, pairs: 8, many: 2 * AT_ONCE, finished: 10_000, commands: 20 }
    };
    let load_before = machine::load();
    let mut work = Work::new(&args.dir)?;
    let server = Server::start(&work)?;
    warm_up(&mut work, &server)?;
    if args.endurance {
        let table = endurance::measure(&mut work, &server, if args.quick { 10 } else { 1 })?;
        println!("{}\n{table}", machine::describe(&args.dir, load_before, &[]));
        return Ok(());
    }
    let mut rounds = Vec::new();
    for at in 0..sizes.rounds {
        let round = round(&mut work, &server, &sizes, at).with_context(|| format!("round {}", at + 1))?;
        eprintln!("{}", table::progress(at, &round));
        rounds.push(round);
    }
    let grown = grown::measure(&mut work, &server, &sizes)?;
    println!("{}", machine::describe(&args.dir, load_before, &rounds));
    if !rounds.is_empty() {
        println!("{}", table::rounds(&rounds, &sizes));
    }
    println!("{}", table::grown(&grown));
    println!("{}", table::bars(&rounds, &grown));
    Ok(())
}

/// One pair that is not counted: programs and folders come into the page cache.
fn warm_up(work: &mut Work, server: &Server) -> anyhow::Result<()> {
    let jobs = work.jobs("warm", 2)?;
    work.settle()?;
    Floor::connect(server.addr())?.warm_up(&jobs[0])?;
    foreground::run(work, server, &jobs[1])?;
    work.check(&jobs)?;
    work.clean(&jobs)
}

/// All cases once. Every second round has them in the opposite order, so that neither always comes after the other.
fn round(work: &mut Work, server: &Server, sizes: &Sizes, at: usize) -> anyhow::Result<Round> {
    let load = machine::load();
    let jobs = Jobs {
        floor_single: work.jobs("floor-single", sizes.pairs)?,
        steadfast_single: work.jobs("steadfast-single", sizes.pairs)?,
        floor_many: work.jobs("floor-many", sizes.many)?,
        steadfast_many: work.jobs("steadfast-many", sizes.many)?,
    };
    // The copies' writeback must not fall into the measured part.
    work.settle()?;
    let backwards = at % 2 == 1;
    let (singles, manies);
    if backwards {
        manies = many(work, server, &jobs, backwards)?;
        singles = single(work, server, &jobs, backwards)?;
    } else {
        singles = single(work, server, &jobs, backwards)?;
        manies = many(work, server, &jobs, backwards)?;
    }
    for jobs in [&jobs.floor_single, &jobs.steadfast_single, &jobs.floor_many, &jobs.steadfast_many] {
        work.check(jobs)?;
        work.clean(jobs)?;
    }
    Ok(Round {
        floor_single: singles.0,
        steadfast_single: singles.1,
        floor_many: manies.0,
        steadfast_many: manies.1,
        load,
    })
}

/// A round's sessions, by case.
struct Jobs {
    floor_single: Vec<Job>,
    steadfast_single: Vec<Job>,
    floor_many: Vec<Job>,
    steadfast_many: Vec<Job>,
}

/// Floor and steadfast in turn, session by session. Answers the median wall time and the mean CPU of each.
fn single(work: &Work, server: &Server, jobs: &Jobs, backwards: bool) -> anyhow::Result<(Measured, Measured)> {
    let mut floor = Floor::connect(server.addr())?;
    let (mut bare, mut engine) = (Vec::new(), Vec::new());
    for (floor_job, steadfast_job) in jobs.floor_single.iter().zip(&jobs.steadfast_single) {
        if !backwards {
            bare.push(server.counted(1, || floor::single(&mut floor, floor_job))?);
        }
        engine.push(server.counted(1, || foreground::run(work, server, steadfast_job))?);
        if backwards {
            bare.push(server.counted(1, || floor::single(&mut floor, floor_job))?);
        }
    }
    Ok((together(&bare), together(&engine)))
}

/// One figure for sessions that ran one after another.
fn together(sessions: &[Measured]) -> Measured {
    let of = |part: fn(&Measured) -> f64| sessions.iter().map(part).collect::<Vec<_>>();
    let wall_ms = median(&of(|session| session.wall_ms));
    Measured {
        wall_ms,
        per_second: 1e3 / wall_ms,
        cpu_ms: mean(&of(|session| session.cpu_ms)),
        processes_cpu_ms: mean(&of(|session| session.processes_cpu_ms)),
        server_cpu_ms: mean(&of(|session| session.server_cpu_ms)),
        peak_mib: of(|session| session.peak_mib).into_iter().fold(0.0, f64::max),
        parts: sessions.first().and_then(|first| first.parts).map(|_| {
            let part = |at: usize| median(&sessions.iter().filter_map(|s| s.parts.map(|p| p[at])).collect::<Vec<_>>());
            [part(0), part(1), part(2)]
        }),
    }
}

fn many(work: &Work, server: &Server, jobs: &Jobs, backwards: bool) -> anyhow::Result<(Measured, Measured)> {
    let (bare, engine) = (&jobs.floor_many, &jobs.steadfast_many);
    let floor = || server.counted(bare.len(), || floor::many(server.addr(), bare));
    let daemon = || server.counted(engine.len(), || daemon::many(work, server, engine));
    if backwards {
        let engine = daemon()?;
        return Ok((floor()?, engine));
    }
    Ok((floor()?, daemon()?))
}
