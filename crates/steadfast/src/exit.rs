//! Exit codes (SPEC 10), and the one place where an error becomes one.

use std::fmt;
use std::process::ExitCode;

/// Done, also partial or degraded: the report says so.
pub(crate) const DONE: u8 = 0;
/// The work, or the command, failed.
pub(crate) const FAILED: u8 = 1;
/// Usage or configuration: nothing was begun.
pub(crate) const USAGE: u8 = 2;
/// Interrupted and resumable (`EX_TEMPFAIL` of sysexits.h).
pub(crate) const INTERRUPTED: u8 = 75;
/// Ended by a second SIGINT; the store is whole, as after `kill -9`.
pub(crate) const SECOND_SIGINT: i32 = 130;
/// Ended by a second SIGTERM or SIGHUP.
pub(crate) const SECOND_SIGTERM: i32 = 143;

/// Why a command failed, with its exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What the caller gave is wrong: code 2.
    Usage(String),
    /// What the caller names is not there: code 2.
    NotFound(String),
    /// What the caller wants does not go with how things stand: code 2.
    Conflict(String),
    /// It did not work: code 1.
    Failed(String),
    /// The report is printed; only the code is left to tell.
    Code(u8),
}

impl Failure {
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) | Self::NotFound(_) | Self::Conflict(_) => USAGE,
            Self::Failed(_) => FAILED,
            Self::Code(code) => *code,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::NotFound(text) | Self::Conflict(text) | Self::Failed(text) => f.write_str(text),
            Self::Code(code) => write!(f, "exit code {code}"),
        }
    }
}

/// A failure of code 1 with an error and its causes.
pub(crate) fn failed(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::Failed(format!("{what}: {}", steadfast_actors::chain(error)))
}

/// What a command ends with.
pub(crate) type Outcome = Result<(), Failure>;
