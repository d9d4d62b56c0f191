//! A program as a model, e.g. a coding tool: the prompt on its standard input, the answer on its standard output.
//!
//! The program runs in an empty folder of its own, so that a tool that looks around finds, and changes, nothing of the
//! user's; in a process group of its own, which is killed when the call is given up; and with few variables.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::{ExposeSecret, SecretString};
use steadfast_core::fault::{CallFault, Fault};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};

use crate::answer::{Draft, MAX_ANSWER_BYTES};
use crate::call::{CallRequest, Completion, ModelClient, Prompt};
use crate::context;
use crate::report::Reporter;
use crate::settings::{ProviderSettings, Uncallable};

/// So much of standard error is kept, from its end.
const STDERR_BYTES: usize = 16 << 10;
/// When the program has ended, whatever it left running may keep its output open for this long; what the program itself
/// wrote is in the pipe by then.
const OUTPUT_GRACE: Duration = Duration::from_millis(100);
/// In an argument, stands for the model's name.
const MODEL_PLACEHOLDER: &str = "{model}";
/// Variables that are passed on, besides those that begin with [`PASSED_PREFIXES`]. All others, keys among them, are not.
const PASSED: &[&str] = &[
    "PATH",
    "HOME",
    "LANG",
    "LANGUAGE",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
    "LOGNAME",
    "SHELL",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];
const PASSED_PREFIXES: &[&str] = &["XDG_", "LC_"];

/// Makes the client of one model. Looks for the program now, so that a missing one is known before any call.
pub(crate) fn build(settings: &ProviderSettings, model_name: &str) -> Result<Arc<dyn ModelClient>, Uncallable> {
    let Some((program, arguments)) = settings.command.split_first() else {
        return Err(Uncallable::new("command is empty: name a program and its arguments"));
    };
    Ok(Arc::new(CommandModel(Arc::new(Inner {
        program: find(program, std::env::var_os("PATH"))?,
        arguments: arguments.iter().map(|argument| argument.replace(MODEL_PLACEHOLDER, model_name)).collect(),
        model: model_name.to_owned(),
        key: settings.key.as_ref().map(|key| key.expose_secret().trim().into()),
        reporter: Reporter::new(settings.key.as_ref().map(|key| key.expose_secret().trim().into())),
    }))))
}

/// As a shell would: a name without a slash is looked for in the search path.
fn find(program: &str, search_path: Option<OsString>) -> Result<PathBuf, Uncallable> {
    let runs = |path: &Path| path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        // Made absolute here: the program is started from another folder.
        return match std::path::absolute(program) {
            Ok(path) if runs(&path) => Ok(path),
            _ => Err(Uncallable::new(format!("{program:?} is no program that can be run"))),
        };
    }
    let folders = search_path.unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| runs(path));
    found
        .filter(|_| !program.is_empty())
        .and_then(|path| std::path::absolute(path).ok())
        .ok_or_else(|| Uncallable::new(format!("program {program:?} is not in PATH")))
}

struct CommandModel(Arc<Inner>);

struct Inner {
    program: PathBuf,
    arguments: Vec<String>,
    model: String,
    key: Option<SecretString>,
    reporter: Reporter,
}

impl ModelClient for CommandModel {
    fn complete(&self, request: Arc<CallRequest>) -> BoxFuture<'static, Result<Completion, CallFault>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            match tokio::time::timeout(request.timeout, inner.run(&request)).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    let message = format!("the program had not ended after {:?} and was killed", request.timeout);
                    Err(inner.reporter.fault(Fault::TimedOut, &message))
                }
            }
        })
    }

    fn host(&self) -> Option<&str> {
        None
    }
}

impl Inner {
    async fn run(&self, request: &CallRequest) -> Result<Completion, CallFault> {
        let folder = tempfile::tempdir().map_err(|error| self.not_started("make a folder for", &error))?;
        let child = self.command(request, folder.path()).spawn().map_err(|error| self.not_started("start", &error))?;
        let mut group = Group { leader: child.id(), child, outlived: false };

        let stdin = group.child.stdin.take().expect("standard input is piped");
        let stdout = group.child.stdout.take().expect("standard output is piped");
        let stderr = group.child.stderr.take().expect("standard error is piped");
        let (mut answer, mut complaint) = (Vec::new(), Vec::new());
        let outcome = {
            let traffic = async {
                tokio::join!(
                    feed(stdin, &request.prompt),
                    read_all(stdout, &mut answer),
                    read_tail(stderr, &mut complaint)
                )
                .1
            };
            tokio::pin!(traffic);
            let first = tokio::select! {
                said = &mut traffic => Ok(said),
                status = group.child.wait() => Err(status),
            };
            match first {
                Ok(Ok(())) => Ok(group.child.wait().await),
                Ok(Err(TooLarge)) => Err(TooLarge),
                Err(status) => match tokio::time::timeout(OUTPUT_GRACE, traffic).await {
                    Ok(Ok(())) => Ok(status),
                    Ok(Err(TooLarge)) => Err(TooLarge),
                    Err(_) => {
                        group.outlived = true;
                        Ok(status)
                    }
                },
            }
        };
        match outcome {
            Err(TooLarge) => Err(self.reporter.fault(Fault::Malformed, "the program's answer is larger than 8 MiB")),
            Ok(Err(error)) => Err(self.not_started("wait for", &error)),
            Ok(Ok(status)) if status.success() => self.answer(answer),
            Ok(Ok(status)) => Err(self.failed(status, if complaint.is_empty() { &answer } else { &complaint })),
        }
    }

    fn command(&self, request: &CallRequest, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .current_dir(folder)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_passed)))
            .envs(context::variables(&request.context))
            .env("STEADFAST_MODEL", &self.model)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(key) = &self.key {
            command.env("STEADFAST_API_KEY", key.expose_secret());
        }
        command
    }

    fn answer(&self, bytes: Vec<u8>) -> Result<Completion, CallFault> {
        let text = String::from_utf8(bytes)
            .map_err(|_| self.reporter.fault(Fault::Malformed, "the program's answer is not UTF-8"))?;
        Draft { text, finish: Some("stop".to_owned()), ..Draft::default() }.conclude(None, &self.reporter)
    }

    fn failed(&self, status: ExitStatus, output: &[u8]) -> CallFault {
        let output = String::from_utf8_lossy(output);
        let message = self.reporter.message_with_tail(&format!("the program failed ({status})"), &output);
        CallFault::new(Fault::Unavailable, message)
    }

    fn not_started(&self, what: &str, error: &std::io::Error) -> CallFault {
        let fault = match error.kind() {
            // It was there when the client was made.
            ErrorKind::NotFound | ErrorKind::PermissionDenied => Fault::Uncallable,
            _ => Fault::Unavailable,
        };
        self.reporter.fault(fault, &format!("cannot {what} {}: {error}", self.program.display()))
    }
}

fn is_passed(name: &str) -> bool {
    PASSED.contains(&name) || PASSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A running program and whatever it started. Dropped before the program was reaped, it kills the whole group.
struct Group {
    child: Child,
    leader: Option<u32>,
    /// The program is gone, but something of its group is known to run on.
    outlived: bool,
}

impl Drop for Group {
    fn drop(&mut self) {
        // Once the leader is reaped and its group empty, its number may be another's: then nothing is killed.
        if self.child.id().is_none() && !self.outlived {
            return;
        }
        let leader = self.leader.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(leader) = leader {
            // It fails only when the group has just ended, which is what is wanted.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Gives the prompt and closes the input. A program need not read it: that it closes its end is no error.
async fn feed(mut stdin: ChildStdin, prompt: &Prompt) {
    if !prompt.system.is_empty() {
        for part in [&*prompt.system, "\n\n"] {
            if stdin.write_all(part.as_bytes()).await.is_err() {
                return;
            }
        }
    }
    let _ = stdin.write_all(prompt.user.as_bytes()).await;
}

struct TooLarge;

async fn read_all(mut from: impl AsyncRead + Unpin, into: &mut Vec<u8>) -> Result<(), TooLarge> {
    // A pipe that cannot be read any more has ended.
    while let Ok(1..) = from.read_buf(into).await {
        if into.len() > MAX_ANSWER_BYTES {
            return Err(TooLarge);
        }
    }
    Ok(())
}

async fn read_tail(mut from: impl AsyncRead + Unpin, into: &mut Vec<u8>) {
    while let Ok(1..) = from.read_buf(into).await {
        if into.len() > 2 * STDERR_BYTES {
            into.drain(..into.len() - STDERR_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_in_the_search_path_only() {
        assert!(find("sh", Some("/nowhere:/bin".into())).is_ok());
        assert!(find("/bin/sh", None).is_ok());
        for (program, path) in
            [("sh", Some("/nowhere".into())), ("sh", None), ("/bin", None), ("", Some("/bin".into()))]
        {
            assert!(find(program, path).is_err(), "{program}");
        }
        let refused = find("no-such-tool", Some("/bin".into())).unwrap_err();
        assert_eq!(refused.reason, "program \"no-such-tool\" is not in PATH");
    }

    #[test]
    fn keys_in_the_environment_are_not_passed_on() {
        for name in ["PATH", "HOME", "XDG_CONFIG_HOME", "LC_ALL"] {
            assert!(is_passed(name), "{name}");
        }
        for name in ["OPENAI_API_KEY", "GITHUB_TOKEN", "STEADFAST_CONFIG", "LD_PRELOAD", "CREDENTIALS_DIRECTORY"] {
            assert!(!is_passed(name), "{name}");
        }
    }
}
