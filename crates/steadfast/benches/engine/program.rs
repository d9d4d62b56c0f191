//! The program under measure, and its configuration.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::AT_ONCE;
use crate::server::Server;
use crate::work::{KEY_VARIABLE, Work, command};

/// The program, built with the bench profile.
pub(crate) const STEADFAST: &str = env!("CARGO_BIN_EXE_steadfast");

/// Writes the configuration of all cases, once, and answers where it is.
fn config(work: &Work, server: &Server) -> anyhow::Result<PathBuf> {
    let path = work.path().join("steadfast.toml");
    if !path.exists() {
        let text = format!(
            r#"
            [daemon]
            max_sessions = {AT_ONCE}
            [failover]
            backoff = {{ initial = "1ms", max = "10ms" }}
            [session]
            max_parallel_agents = 8
            [issues]
            tracker = "local"
            [providers.opencode]
            kind = "openai"
            base_url = "http://{}/v1"
            api_key_env = "{KEY_VARIABLE}"
            [roles]
            planner = ["opencode/gpt-5-nano", "opencode/mixtral-8x7b", "opencode/gpt-4-turbo"]
            coder = ["opencode/codellama-7b", "opencode/codellama-13b", "opencode/gpt-5-nano"]
            reviewer = ["opencode/gpt-5-nano", "opencode/mixtral-8x7b", "opencode/gpt-4-turbo"]
            "#,
            server.addr()
        );
        fs::write(&path, text)?;
    }
    Ok(path)
}

/// The program with its global options, its standard error in a file.
pub(crate) fn steadfast(work: &Work, server: &Server, state: &Path, errors: &Path) -> anyhow::Result<Command> {
    configured(&config(work, server)?, state, errors)
}

/// The same with another configuration.
pub(crate) fn configured(config: &Path, state: &Path, errors: &Path) -> anyhow::Result<Command> {
    let mut command = command(STEADFAST);
    command.arg("--config").arg(config).arg("--state-dir").arg(state).arg("--json");
    command.stdout(Stdio::null()).stderr(File::create(errors)?);
    Ok(command)
}
