//! Keeping a check in: bubblewrap, with no network and only the worktree writable (SPEC 9).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How checks are kept from doing harm. They run code that a model wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sandbox {
    /// Not at all; the operator said so in so many words.
    None,
    /// By bubblewrap.
    Bwrap {
        /// As [`find_bwrap`] found it.
        program: PathBuf,
        /// Shown, but not writable, even below folders that are otherwise hidden: the repository's git folder.
        read_only: Vec<PathBuf>,
        /// Files and folders whose content is not shown, beside the well-known places of keys: the state directory (it
        /// holds the control socket), key files. What does not exist is skipped.
        hidden: Vec<PathBuf>,
    },
}

/// Why bubblewrap cannot be used, with what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// There is no program `bwrap`.
    #[error("bwrap was not found in PATH: install bubblewrap, or set checks_sandbox = \"none\"")]
    NotFound,
    /// It is there, but cannot make a sandbox here.
    #[error(
        "{program} cannot make a sandbox here ({reason}): user namespaces may be forbidden; allow them, or set checks_sandbox = \"none\""
    )]
    DoesNotWork {
        /// The program that was tried.
        program: PathBuf,
        /// What it said.
        reason: String,
    },
}

/// Looks for bubblewrap in `PATH` and tries it once (about 10 ms; blocks).
///
/// # Errors
/// [`SandboxError`], to be shown as it is.
pub fn find_bwrap() -> Result<PathBuf, SandboxError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join("bwrap"))
        .find(|file| file.is_file())
        .ok_or(SandboxError::NotFound)?;
    let output = Command::new(&program)
        .args(BASE)
        .args(["sh", "-c", "true"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| SandboxError::DoesNotWork { program: program.clone(), reason: error.to_string() })?;
    if output.status.success() {
        return Ok(program);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said.lines().next().unwrap_or("it gave no reason").chars().take(200).collect();
    Err(SandboxError::DoesNotWork { program, reason })
}

/// Everything readable, nothing writable, no network, no other processes, no terminal; ends with its parent.
const BASE: &[&str] = &[
    "--ro-bind",
    "/",
    "/",
    "--dev",
    "/dev",
    "--proc",
    "/proc",
    "--tmpfs",
    "/tmp",
    "--unshare-net",
    "--unshare-pid",
    "--unshare-ipc",
    "--die-with-parent",
    "--new-session",
];

/// The home folder inside the sandbox: empty, writable, gone with it.
pub(crate) const HOME: &str = "/tmp/home";

/// Where keys and sessions commonly lie, relative to the home folder. The output of a check goes into a prompt, so a check
/// that prints one of these would publish it, network or not.
const SECRETS_AT_HOME: &[&str] = &[
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".netrc",
    ".git-credentials",
    ".npmrc",
    ".pypirc",
    ".pgpass",
    ".config/gh",
    ".config/glab-cli",
    ".config/gcloud",
    ".config/git/credentials",
    ".config/steadfast",
    ".config/op",
    ".config/sops",
    ".config/rclone",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".password-store",
    ".local/share/keyrings",
    ".mozilla",
    ".config/google-chrome",
    ".config/chromium",
    ".claude",
    ".claude.json",
    ".codex",
    ".bash_history",
    ".zsh_history",
    ".m2/settings.xml",
    ".gradle/gradle.properties",
    ".terraform.d",
    ".vault-token",
];

/// The arguments of bwrap up to, not with, the command. `worktree` is the one writable place beside temporary ones.
pub(crate) fn arguments(
    worktree: &Path,
    read_only: &[PathBuf],
    hidden: &[PathBuf],
    home: Option<&Path>,
) -> Vec<OsString> {
    let mut all = Arguments(BASE.iter().map(OsString::from).collect());
    if Path::new("/run").is_dir() {
        // Sockets of daemons (containers, the user's bus, agents) and credentials of services. A path socket is reached
        // without a network.
        all.add(["--tmpfs", "/run"]);
        // Where NixOS keeps the system's programs.
        all.bind("--ro-bind-try", Path::new("/run/current-system"));
    }
    let at_home = home.into_iter().flat_map(|home| SECRETS_AT_HOME.iter().map(move |name| home.join(name)));
    for place in at_home.chain(hidden.iter().cloned()) {
        // Mounting needs the real place; a link to a secret is resolved to it.
        let Ok(real) = place.canonicalize() else {
            continue;
        };
        if real.is_dir() {
            all.add([OsStr::new("--tmpfs"), real.as_os_str()]);
        } else {
            all.add([OsStr::new("--ro-bind"), OsStr::new("/dev/null"), real.as_os_str()]);
        }
    }
    for place in read_only {
        all.bind("--ro-bind", place);
    }
    all.bind("--bind", worktree);
    // The link to the git folder must not be bent to another one.
    all.bind("--ro-bind-try", &worktree.join(".git"));
    all.add(["--dir", HOME, "--setenv", "HOME", HOME, "--setenv", "TMPDIR", "/tmp", "--chdir"]);
    all.add([worktree.as_os_str()]);
    all.0
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn add<S: AsRef<OsStr>>(&mut self, arguments: impl IntoIterator<Item = S>) {
        self.0.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
    }

    fn bind(&mut self, how: &str, place: &Path) {
        self.add([OsStr::new(how), place.as_os_str(), place.as_os_str()]);
    }
}
