//! The `steadfast` program: reads the command line, wires the crates together and maps results to exit codes.
//!
//! Holds no policy: what is retried, judged or degraded is decided in `steadfast-core`.

mod cli;
mod client;
mod commands;
mod control;
#[cfg(test)]
mod documents;
mod exit;
mod feed;
mod history;
mod link;
mod logging;
#[cfg(test)]
mod manifests;
mod metrics;
mod page;
mod progress;
mod report;
mod screen;
mod service_manager;
mod setup;
mod signals;
mod story;
mod text;
mod top;
mod traces;
mod wire;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::Parser as _;

use crate::cli::{BreakerCommand, Cli, Command, ConfigCommand, OutboxCommand, StatusArgs, StoreCommand};
use crate::exit::{Failure, Outcome};

fn main() -> ExitCode {
    quiet_expected_panics();
    let cli = Cli::parse();
    let outcome = dispatch(cli);
    let unwritten = UNWRITTEN.get().map(|error| Failure::Failed(format!("cannot write to standard output: {error}")));
    match outcome.and(unwritten.map_or(Ok(()), Err)) {
        Ok(()) => ExitCode::from(exit::DONE),
        Err(failure) => {
            if !matches!(failure, Failure::Code(_)) {
                // Standard error may be closed; the exit code still tells.
                let _ = writeln!(std::io::stderr(), "error: {failure}");
            }
            failure.code()
        }
    }
}

/// What the store catches and tells in its own words is not printed a second time.
fn quiet_expected_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !steadfast_store::panic_is_expected() {
            usual(info);
        }
    }));
}

fn dispatch(cli: Cli) -> Outcome {
    let global = &cli.global;
    match cli.command {
        Command::Demo(args) => light(commands::demo::demo(global, args)),
        Command::Run(args) => light(commands::run::run(global, args)),
        Command::Resume { id } => light(commands::run::resume(global, id)),
        Command::Daemon => busy(commands::daemon::daemon(global)),
        Command::Reload => light(commands::orders::reload(global)),
        Command::Submit(args) => light(commands::orders::submit(global, args)),
        Command::Cancel { id } => light(commands::orders::cancel(global, &id)),
        Command::Retry { id } => light(commands::run::retry(global, &id)),
        Command::Sessions(args) => light(commands::look::sessions(global, &args)),
        Command::Show { id } => light(commands::look::show(global, &id)),
        Command::Events(args) => light(commands::events::events(global, &args)),
        Command::Status(StatusArgs { watch: true, .. }) => light(commands::watch::watch(global)),
        Command::Status(args) => light(commands::look::status(global, &args)),
        Command::Dashboard(args) => light(commands::dashboard::dashboard(global, args)),
        Command::Top => light(commands::top::top(global)),
        Command::Outbox(OutboxCommand::List) => light(commands::outbox::list(global)),
        Command::Outbox(OutboxCommand::Flush) => light(commands::outbox::flush(global)),
        Command::Breaker(BreakerCommand::Reset { model }) => light(commands::breaker::reset(global, model)),
        Command::Breaker(BreakerCommand::Simulate { file }) => commands::breaker::simulate(&file),
        Command::Prune => light(commands::orders::prune(global)),
        Command::Store(StoreCommand::Check) => light(commands::store::check(global)),
        Command::Store(StoreCommand::Export { file }) => light(commands::store::export(global, &file)),
        Command::Store(StoreCommand::Import { file }) => light(commands::store::import(global, &file)),
        Command::Config(ConfigCommand::Check) => commands::config::check(global),
        Command::Config(ConfigCommand::Show) => commands::config::show(global),
        Command::Doctor(args) => light(commands::doctor::doctor(global, args)),
        Command::Sim(args) => light(commands::sim::sim(args)),
    }
}

/// For the daemon: all cores.
fn busy(work: impl Future<Output = Outcome>) -> Outcome {
    run_on(tokio::runtime::Builder::new_multi_thread(), 16, work)
}

/// For commands that ask and print, and for a single session: one thread. Calls and actors wait for each other most of the
/// time, and what is heavy (git, disk) has threads of its own; waking a second thread for each message costs more than it
/// brings.
fn light(work: impl Future<Output = Outcome>) -> Outcome {
    run_on(tokio::runtime::Builder::new_current_thread(), 4, work)
}

/// `n_blocking`: threads for git and files. Few, for each brings memory of its own, and what waits there waits for a disk that
/// serves one after the other.
fn run_on(mut builder: tokio::runtime::Builder, n_blocking: usize, work: impl Future<Output = Outcome>) -> Outcome {
    let runtime = builder
        .enable_all()
        .max_blocking_threads(n_blocking)
        .build()
        .map_err(|error| exit::failed("cannot start", &error))?;
    let outcome = runtime.block_on(work);
    // What is still running holds nothing that is not durable; the process must not wait for it.
    runtime.shutdown_background();
    outcome
}

/// Why a result could not be printed.
static UNWRITTEN: OnceLock<std::io::Error> = OnceLock::new();

/// Prints a result on standard output. A reader that has gone wants no more; a full disk makes the command fail in the end.
pub(crate) fn print(text: &str) {
    if let Err(error) = try_print(text)
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        UNWRITTEN.get_or_init(|| error);
    }
}

/// Prints on standard output, for whoever ends when nobody reads it any more.
pub(crate) fn try_print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Prints one JSON document on standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(value).map_err(|error| exit::failed("cannot write JSON", &error))?;
    print(&(text + "\n"));
    Ok(())
}
