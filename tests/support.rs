//! A world for one test: a repository, simulated models, a configuration, and the program to be run in it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use steadfast_repo::Repository;
use steadfast_sim::{Request, Script, Sim, SimHandle};
use tempfile::TempDir;

/// Longer than anything takes on a machine that is not broken; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where the simulated servers run. They outlive each other's tests, so the runtime belongs to the process.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts")
});

/// Starts a simulated server on a free port of the loopback interface.
pub(crate) fn simulate(script: &str) -> SimHandle {
    let script = Script::parse(script).unwrap_or_else(|error| panic!("{error}\n{script}"));
    let _runtime = RUNTIME.enter();
    Sim::start(([127, 0, 0, 1], 0).into(), script.keeping_prompts()).expect("a free port")
}

/// Starts another server within the runtime of these tests.
pub(crate) fn within_runtime<T>(start: impl FnOnce() -> T) -> T {
    let _runtime = RUNTIME.enter();
    start()
}

/// A port on which nobody listens, and which nobody else gets while this is held.
pub(crate) struct DeadPort(tokio::net::TcpSocket);

impl DeadPort {
    pub(crate) fn reserve() -> Self {
        let _runtime = RUNTIME.enter();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self(socket)
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/v1", self.0.local_addr().unwrap())
    }
}

/// Waits for a condition, looking often; fails the test after [`PATIENCE`].
pub(crate) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not happen in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One milestone of a scripted plan, for [`plan`].
pub(crate) fn milestone(name: &str, create: &[&str], modify: &[&str], delete: &[&str]) -> String {
    format!(
        "[[plan.milestones]]\nname = {name:?}\ndescription = \"Do {name}.\"\ncreate = {create:?}\nmodify = {modify:?}\n\
         delete = {delete:?}\n"
    )
}

/// A rule of a script; `window` is `first = 1` or the like.
pub(crate) fn rule(matching: &str, window: &str, then: &str) -> String {
    format!("[[rule]]\nmatch = {{ {matching} }}\n{window}\nthen = {then}\n")
}

/// What a finished process has left.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Fails with everything that was said when the exit code is another.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// The one JSON document on standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr))
    }

    /// Every attempt of the coder that the progress lines tell of, in order: the model, and whether it answered.
    pub(crate) fn coder_attempts(&self, file: &str) -> Vec<(String, bool)> {
        let attempt = |line: &str| {
            let (answered, rest) = match line.strip_prefix("✓ coder ") {
                Some(rest) => (true, rest),
                None => (false, line.strip_prefix("✗ coder ")?),
            };
            let model = rest.strip_prefix(file)?.strip_prefix(' ')?.split([' ', ':']).next()?;
            Some((model.to_owned(), answered))
        };
        self.stderr.lines().filter_map(attempt).collect()
    }
}

/// A world: temporary folder, repository, servers, configuration.
pub(crate) struct World {
    dir: TempDir,
    config: String,
    /// Variables for the program, beside the few that every world sets.
    pub(crate) env: BTreeMap<String, String>,
    /// The server behind the provider `sim`.
    pub(crate) sim: SimHandle,
}

/// The idea that every world has.
pub(crate) const IDEA: &str = "---\nid: 002-feature\n---\n# Add what is missing\n\nWrite the files of the plan.\n";

/// Short times, one planner, two coders, one reviewer.
const SETTINGS: &[(&str, &str)] = &[
    ("failover.backoff", "{ initial = \"1ms\", max = \"2ms\" }"),
    ("failover.outage_patience", "\"0s\""),
    ("daemon.listen", "\"none\""),
    ("session.checks_sandbox", "\"none\""),
    ("roles.planner", "[\"sim/plan\"]"),
    ("roles.coder", "[\"sim/one\", \"sim/two\"]"),
    ("roles.reviewer", "[\"sim/review\"]"),
];

impl World {
    /// A world whose repository has these files, whose models answer by `script`, and whose settings beside the usual ones
    /// are `settings` (dotted keys and TOML values; a key given here goes before the usual one).
    pub(crate) fn new(script: &str, settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("sf").tempdir().unwrap();
        let sim = simulate(script);
        let repo = dir.path().join("repo");
        for (path, text) in [("README.md", "# A project\n"), ("src/old.txt", "old\n"), ("src/kept.txt", "kept\n")] {
            let path = repo.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Repository::init_with_files(&repo, "Begin").unwrap();
        std::fs::create_dir(dir.path().join("home")).unwrap();
        std::fs::write(dir.path().join("idea.md"), IDEA).unwrap();
        let usual = SETTINGS.iter().filter(|(key, _)| settings.iter().all(|(other, _)| other != key));
        let mut config = String::new();
        for (key, value) in usual.chain(settings) {
            config.push_str(&format!("{key} = {value}\n"));
        }
        let state = dir.path().join("state");
        config.push_str(&format!("daemon.state_dir = {:?}\n", state.display().to_string()));
        config.push_str(&format!("providers.sim.kind = \"openai\"\nproviders.sim.base_url = {:?}\n", sim.base_url()));
        let world = Self { dir, config, env: BTreeMap::new(), sim };
        world.write_config(&world.config);
        world
    }

    /// Adds lines to the configuration.
    pub(crate) fn configure(&mut self, lines: &str) {
        self.config.push_str(lines);
        self.config.push('\n');
        self.write_config(&self.config);
    }

    /// Takes a line of [`World::configure`] away again.
    pub(crate) fn take_back(&mut self, line: &str) {
        self.replace(&format!("{line}\n"), "");
    }

    /// Replaces a part of the configuration, which must be there.
    #[track_caller]
    pub(crate) fn replace(&mut self, old: &str, new: &str) {
        assert!(self.config.contains(old), "no {old} in\n{}", self.config);
        self.config = self.config.replacen(old, new, 1);
        self.write_config(&self.config);
    }

    fn write_config(&self, text: &str) {
        std::fs::write(self.path("steadfast.toml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.path("repo")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    pub(crate) fn git(&self) -> git2::Repository {
        git2::Repository::open(self.repo()).unwrap()
    }

    /// The program with nothing of this machine's in its environment but the path to programs.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_steadfast"));
        command.env_clear().env("HOME", self.path("home")).current_dir(self.dir.path());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.envs(&self.env).stdin(Stdio::null());
        command
    }

    /// Starts the program with the world's configuration and these arguments.
    pub(crate) fn start<S: AsRef<OsStr>>(&self, args: &[S]) -> Running {
        let mut command = self.command();
        command.args(args).arg("--config").arg(self.path("steadfast.toml"));
        Running::of(command, None)
    }

    /// Runs the program to its end.
    pub(crate) fn steadfast<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.start(args).output()
    }

    /// Runs the program without the world's configuration.
    pub(crate) fn bare<S: AsRef<OsStr>>(&self, args: &[S], stdin: Option<&str>) -> Output {
        let mut command = self.command();
        command.args(args);
        Running::of(command, stdin).output()
    }

    /// Runs the program, with the world's configuration, under another one: `under` and then the program and its arguments.
    pub(crate) fn steadfast_under<S: AsRef<OsStr>>(&self, under: &[S], args: &[&str]) -> Output {
        self.start_under(under, args).output()
    }

    /// Starts it so.
    pub(crate) fn start_under<S: AsRef<OsStr>>(&self, under: &[S], args: &[&str]) -> Running {
        let command = self.command();
        let program = command.get_program().to_owned();
        let mut outer = Command::new(&under[0]);
        outer.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        outer.current_dir(self.dir.path()).stdin(Stdio::null());
        outer.args(&under[1..]).arg(program).args(args).arg("--config").arg(self.path("steadfast.toml"));
        Running::of(outer, None)
    }

    /// `run --json` of the world's idea.
    pub(crate) fn start_run(&self) -> Running {
        self.start(&["run", "idea.md", "--repo", "repo", "--json"])
    }

    /// `run --json` of the world's idea to its end.
    pub(crate) fn run(&self) -> Output {
        self.start_run().output()
    }

    /// A daemon that is ready for work.
    #[track_caller]
    pub(crate) fn start_daemon(&self) -> Running {
        let daemon = self.start(&["daemon"]);
        daemon.hear("ready");
        daemon
    }

    /// `submit --json` of an idea on the world's repository; answers the session's id.
    #[track_caller]
    pub(crate) fn submit(&self, idea: &str) -> String {
        let submitted = self.steadfast(&["submit", idea, "--repo", "repo", "--json"]).expect(0).json();
        assert_eq!(submitted.as_object().unwrap().keys().collect::<Vec<_>>(), ["sessionId"]);
        submitted["sessionId"].as_str().unwrap().to_owned()
    }

    /// `show --json`.
    #[track_caller]
    pub(crate) fn show(&self, id: &str) -> Value {
        self.steadfast(&["show", id, "--json"]).expect(0).json()
    }

    /// `status --json`.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.steadfast(&["status", "--json"]).expect(0).json()
    }

    /// What `status` shows of a coder's breaker, by its place in the role's list.
    #[track_caller]
    pub(crate) fn coder_breaker(&self, place: usize) -> String {
        self.status()["roles"]["coder"][place]["circuitBreaker"].as_str().unwrap().to_owned()
    }

    /// What the server was asked for this role, in order of arrival.
    pub(crate) fn asked(&self, role: &str) -> Vec<Request> {
        self.sim.requests().into_iter().filter(|request| request.role.as_deref() == Some(role)).collect()
    }

    /// The names of the models that the server was asked for as coder, in order of arrival.
    pub(crate) fn coders_asked(&self) -> Vec<String> {
        self.asked("coder").into_iter().map(|request| request.model).collect()
    }

    /// The texts of a commit's files by path.
    pub(crate) fn files_at(&self, revision: &str) -> BTreeMap<String, String> {
        let git = self.git();
        let tree = git.revparse_single(revision).unwrap().peel_to_tree().unwrap();
        let mut files = BTreeMap::new();
        tree.walk(git2::TreeWalkMode::PreOrder, |folder, entry| {
            if let Some(blob) = entry.to_object(&git).ok().and_then(|object| object.into_blob().ok()) {
                let text = String::from_utf8_lossy(blob.content()).into_owned();
                files.insert(format!("{folder}{}", entry.name().unwrap()), text);
            }
            git2::TreeWalkResult::Ok
        })
        .unwrap();
        files
    }

    /// What must be the same however often it was killed: trees and messages of a branch above `main`, oldest first, without
    /// the session's id.
    pub(crate) fn history(&self, branch: &str) -> Vec<(BTreeMap<String, String>, String)> {
        let git = self.git();
        let mut walk = git.revwalk().unwrap();
        walk.push_ref(&format!("refs/heads/{branch}")).unwrap();
        walk.hide_ref("refs/heads/main").unwrap();
        walk.set_sorting(git2::Sort::REVERSE | git2::Sort::TOPOLOGICAL).unwrap();
        let plain = |message: &str| {
            let lines = message.lines().filter(|line| !line.starts_with("Steadfast-Session: "));
            lines.collect::<Vec<_>>().join("\n")
        };
        walk.map(|id| {
            let id = id.unwrap();
            (self.files_at(&id.to_string()), plain(git.find_commit(id).unwrap().message().unwrap()))
        })
        .collect()
    }

    /// The messages of the commits after `main` on a branch, oldest first.
    pub(crate) fn messages(&self, branch: &str) -> Vec<String> {
        let git = self.git();
        let mut walk = git.revwalk().unwrap();
        walk.push_ref(&format!("refs/heads/{branch}")).unwrap();
        walk.hide_ref("refs/heads/main").unwrap();
        walk.set_sorting(git2::Sort::REVERSE | git2::Sort::TOPOLOGICAL).unwrap();
        walk.map(|id| git.find_commit(id.unwrap()).unwrap().message().unwrap().to_owned()).collect()
    }

    /// Commits a file on a branch, as somebody else would.
    pub(crate) fn commit_on(&self, branch: &str, path: &str, text: &str) -> git2::Oid {
        let git = self.git();
        let parent = git.find_branch(branch, git2::BranchType::Local).unwrap().get().peel_to_commit().unwrap();
        let blob = git.blob(text.as_bytes()).unwrap();
        let mut update = git2::build::TreeUpdateBuilder::new();
        update.upsert(path, blob, git2::FileMode::Blob);
        let tree = update.create_updated(&git, &parent.tree().unwrap()).unwrap();
        let tree = git.find_tree(tree).unwrap();
        let who = git2::Signature::now("Somebody", "somebody@example.org").unwrap();
        git.commit(Some(&format!("refs/heads/{branch}")), &who, &who, "By hand", &tree, &[&parent]).unwrap()
    }
}

/// Whether a process is there and not only waits to be collected: who collects an orphan is the machine's affair.
pub(crate) fn is_alive(pid: rustix::process::Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Every file under a folder with its bytes, by path; `.git` of a checkout and sockets left out.
pub(crate) fn files_under(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.insert(entry.path(), std::fs::read(entry.path()).unwrap());
            }
        }
    }
    files
}

/// A process of the program, in a process group of its own. It is killed when this is dropped.
pub(crate) struct Running {
    child: Option<Child>,
    stdout: Heard,
    stderr: Heard,
}

/// What has come through a pipe so far, read on a thread of its own so that the program never waits for its reader.
struct Heard {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Heard {
    fn of(mut pipe: impl std::io::Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut part = [0; 4096];
            // A pipe that breaks has ended; what came before it counts.
            while let Ok(n @ 1..) = pipe.read(&mut part) {
                heard.lock().unwrap().extend_from_slice(&part[..n]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.so_far()
    }
}

impl Running {
    fn of(mut command: Command, stdin: Option<&str>) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        if stdin.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().expect("the program starts");
        if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
            let text = text.to_owned();
            // A program that refuses its input may end before it has read all of it.
            std::thread::spawn(move || pipe.write_all(text.as_bytes()));
        }
        let stdout = Heard::of(child.stdout.take().expect("piped"));
        let stderr = Heard::of(child.stderr.take().expect("piped"));
        Self { child: Some(child), stdout, stderr }
    }

    /// What it has said on standard error so far.
    pub(crate) fn said(&self) -> String {
        self.stderr.so_far()
    }

    /// Waits until it says this on standard error.
    #[track_caller]
    pub(crate) fn hear(&self, text: &str) {
        wait_until(&format!("{text:?} on standard error"), || self.said().contains(text).then_some(()));
    }

    /// Waits until it says this on standard output.
    #[track_caller]
    pub(crate) fn hear_out(&self, text: &str) {
        wait_until(&format!("{text:?} on standard output"), || self.stdout.so_far().contains(text).then_some(()));
    }

    /// How often its threads have gone to sleep by themselves so far.
    pub(crate) fn rests(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id().as_raw_nonzero()));
        let of_task = |task: std::fs::DirEntry| {
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse::<u64>().ok()
        };
        tasks.into_iter().flatten().flatten().filter_map(of_task).sum()
    }

    fn id(&self) -> rustix::process::Pid {
        let child = self.child.as_ref().expect("it was not waited for");
        rustix::process::Pid::from_child(child)
    }

    /// Sends a signal to the process alone.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        // It may have ended by itself in this instant.
        let _ = rustix::process::kill_process(self.id(), signal);
    }

    /// Sends a signal to the process and all that it has started.
    pub(crate) fn signal_group(&self, signal: rustix::process::Signal) {
        let _ = rustix::process::kill_process_group(self.id(), signal);
    }

    /// Ends a daemon in order.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.signal(rustix::process::Signal::TERM);
        self.output().expect(0);
    }

    /// Sends a signal to the process alone, and waits for its end.
    #[track_caller]
    pub(crate) fn kill_with(self, signal: rustix::process::Signal) -> ExitStatus {
        self.signal(signal);
        self.end()
    }

    /// Whether a signal has stopped it.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id().as_raw_nonzero()));
        stat.is_ok_and(|stat| stat.contains(") T "))
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Waits for its end, however it comes about.
    #[track_caller]
    pub(crate) fn end(self) -> ExitStatus {
        self.output().status
    }

    /// Waits for its end, at most [`PATIENCE`].
    #[track_caller]
    pub(crate) fn output(mut self) -> Output {
        let begun = Instant::now();
        while !self.has_ended() {
            if begun.elapsed() > PATIENCE {
                self.signal_group(rustix::process::Signal::KILL);
                let _ = self.child.take().map(|mut child| child.wait());
                panic!("the program did not end in time; it said\n{}", self.stderr.so_far());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let status = self.child.take().expect("it was not waited for").wait().unwrap();
        Output { status, stdout: self.stdout.all(), stderr: self.stderr.all() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.signal_group(rustix::process::Signal::KILL);
            let _ = self.child.take().map(|mut child| child.wait());
        }
    }
}
