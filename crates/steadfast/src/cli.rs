//! The command line (SPEC 10).

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Carries coding work on a git repository through to the end, unattended.
#[derive(Debug, Parser)]
#[command(name = "steadfast", version, about, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done (also partial or degraded: the report says so), 1 failed, 2 usage or \
configuration, 75 interrupted and resumable, 130/143 second signal.\n\nFirst steps: `steadfast demo`, then \
`steadfast doctor` and `steadfast run IDEA.md --repo DIR`.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Read this configuration instead of the system's and the user's; may be given several times, the later wins
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Vec<PathBuf>,
    /// Where the store, the worktrees and the local issues lie
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Print one JSON document on standard output, everything else on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How much to log on standard error: error, warn, info, debug, trace, or a filter such as steadfast=debug
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log: Option<String>,
    /// Breaker preset: aggressive (2 failures, 30 s) or conservative (10 failures, 300 s)
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) preset: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watch the main job on a bundled sample project, with simulated models that fail on a schedule
    Demo(DemoArgs),
    /// Carry one idea through in the foreground
    Run(RunArgs),
    /// Run as the long-running service
    Daemon,
    /// Have the daemon read its configuration again; a bad one is refused, and the old one kept
    Reload,
    /// Hand an idea to the daemon
    Submit(SubmitArgs),
    /// List sessions, newest first
    Sessions(SessionsArgs),
    /// Show one session in full
    Show {
        /// Session id, or the id of an idea (its newest session)
        id: String,
    },
    /// Tell the story of one session, event by event
    Events(EventsArgs),
    /// Stop a session and keep its branch
    Cancel {
        /// Session id, or the id of an idea
        id: String,
    },
    /// Take up a failed or cancelled session at its last good milestone
    Retry {
        /// Session id, or the id of an idea
        id: String,
    },
    /// Go on with an interrupted session, by default the newest one
    Resume {
        /// Session id, or the id of an idea
        id: Option<String>,
    },
    /// Show roles, models, breakers and sessions
    Status(StatusArgs),
    /// Print the address of the daemon's dashboard with its token, and open it where there is a desktop
    Dashboard(DashboardArgs),
    /// Watch everything on the whole terminal: sessions, models, events, rates, outbox; ? shows the keys
    Top,
    /// Reset breakers, or try a tuning
    #[command(subcommand)]
    Breaker(BreakerCommand),
    /// Issues for people, their closings, and alerts: what is delivered and what is not yet
    #[command(subcommand)]
    Outbox(OutboxCommand),
    /// Remove what has been over for longer than keep_finished, now
    Prune,
    /// Check, export or import the store
    #[command(subcommand)]
    Store(StoreCommand),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Find out whether everything answers: models, keys, git, store, disk, sandbox, issues, alerts, daemon
    ///
    /// Models are looked up in their provider's list where that tells, which costs nothing; else each is asked for one word,
    /// which costs a few tokens. Nothing is changed, and no alert is sent.
    Doctor(DoctorArgs),
    /// Run the simulated model server: an OpenAI-compatible endpoint with scripted answers and faults
    Sim(SimArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Put the sample repository and the state here instead of a temporary folder; it must not exist or be empty
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The idea, a Markdown file. Not needed with RESUME=true IDEA_ID=… in the environment
    pub(crate) idea: Option<PathBuf>,
    /// The git repository to work on
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) repo: PathBuf,
    /// Begin although a role has no model that can be called
    #[arg(long)]
    pub(crate) allow_degraded: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    /// The idea, a Markdown file
    pub(crate) idea: PathBuf,
    /// The git repository to work on
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) repo: PathBuf,
    /// Begin although a role has no model that can be called
    #[arg(long)]
    pub(crate) allow_degraded: bool,
    /// Stay and show how it goes until it is over
    #[arg(long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SessionsArgs {
    /// List only the newest N
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Session id, or the id of an idea (its newest session)
    pub(crate) id: String,
    /// Stay and show what comes, until it is over; with --json one event a line
    #[arg(long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Stay and show every change, until q or Ctrl-C; with --json one document a line
    #[arg(long, conflicts_with = "check")]
    pub(crate) watch: bool,
    /// Exit with 1 when something is critical
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DashboardArgs {
    /// Open it in the desktop's browser, also where standard output is no terminal
    #[arg(long, conflicts_with = "no_open")]
    pub(crate) open: bool,
    /// Only print the address
    #[arg(long)]
    pub(crate) no_open: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BreakerCommand {
    /// Close a model's breaker, or all, and forget their failures
    Reset {
        /// provider/name; without it: all
        model: Option<String>,
    },
    /// Replay timelines against a breaker and print what happens
    Simulate {
        /// A JSON file, or - for standard input
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum OutboxCommand {
    /// List issues, closings and alerts, delivered or not
    List,
    /// Try now what is not delivered yet, and say what came of it; exits with 1 when something still is not
    Flush,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read every record and verify it; exit with 1 when something is damaged, set aside or missing
    Check,
    /// Write every record as a line of JSON
    Export {
        /// Where to; - for standard output
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// Make a store of an export, in a state directory that has none
    Import {
        /// An export, or - for standard input
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check the configuration and say every fault
    Check,
    /// Print the configuration in force, with where each value comes from
    Show,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Look at this git repository, too
    #[arg(long, value_name = "DIR")]
    pub(crate) repo: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// Address to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub(crate) listen: std::net::SocketAddr,
    /// What to answer and how to fail (TOML; see config/sim-example.toml). Without it every request is answered well
    #[arg(long, value_name = "FILE")]
    pub(crate) script: Option<PathBuf>,
}
