//! Where log lines go: standard error, as text for people or JSON for programs.

use std::io::IsTerminal as _;

use steadfast_config::LogFormat;
use tracing_subscriber::EnvFilter;

use crate::exit::Failure;

/// Begins to log. `level`: as given with `--log`; `fallback`: where nothing was given; `None`: no log.
pub(crate) fn start(level: Option<&str>, fallback: Option<&str>, format: LogFormat) -> Result<(), Failure> {
    let Some(level) = level.or(fallback) else { return Ok(()) };
    // The actor library wraps every message in a span of its own; whoever wants these names them.
    let level = if level.contains("ractor") { level.to_owned() } else { format!("{level},ractor=warn") };
    let filter = EnvFilter::try_new(&level).map_err(|error| {
        Failure::Usage(format!("--log {level}: {error}; use error, warn, info, debug, trace or a filter"))
    })?;
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Auto | LogFormat::Text | LogFormat::Journald => builder.with_ansi(terminal).init(),
    }
    Ok(())
}
