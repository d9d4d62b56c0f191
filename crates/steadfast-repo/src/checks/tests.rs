use std::fs;

use super::*;
use crate::sandbox::find_bwrap;

fn options(dir: &Path) -> CheckOptions {
    CheckOptions {
        dir: dir.to_owned(),
        timeout: Duration::from_secs(60),
        sandbox: Sandbox::None,
        max_output_bytes: CheckOptions::MAX_OUTPUT_BYTES,
        note: None,
    }
}

async fn run_all(checks: &[impl AsRef<str>], options: &CheckOptions) -> Vec<CheckResult> {
    let mut results = Vec::new();
    for check in checks {
        results.push(run_check(check.as_ref(), options).await);
    }
    results
}

/// `None`, said aloud, where no sandbox can be made.
fn bwrap() -> Option<PathBuf> {
    find_bwrap().inspect_err(|error| println!("skipped: {error}")).ok()
}

/// A process group that is gone cannot be signalled.
fn is_alive(pid_file: &Path) -> bool {
    let pid = fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    rustix::process::test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
        // A zombie that init has not collected yet is dead.
        && !fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

/// Death by signal is not instant.
async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never happened: {what}");
}

#[tokio::test]
async fn every_check_runs_and_tells_how_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let results = run_all(&["true", "exit 3", "kill -9 $$", "echo done"], &options(dir.path())).await;
    let outcomes: Vec<_> = results.iter().map(|result| result.outcome.clone()).collect();
    let failed = |code| CheckOutcome::Failed { code };
    assert_eq!(outcomes, [CheckOutcome::Passed, failed(3), failed(137), CheckOutcome::Passed]);
    assert_eq!((results[3].command.as_str(), results[3].output.as_str()), ("echo done", "done\n"));
}

#[tokio::test]
async fn output_and_errors_come_in_the_order_in_which_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let results = run_all(&["echo 1; echo 2 >&2; echo 3; echo 4 >&2"], &options(dir.path())).await;
    assert_eq!(results[0].output, "1\n2\n3\n4\n");
}

#[tokio::test]
async fn the_environment_has_no_keys_and_there_is_no_input() {
    let dir = tempfile::tempdir().unwrap();
    let results = run_all(&["env | sed 's/=.*//' | sort; cat; pwd"], &options(dir.path())).await;
    let output = &results[0].output;
    for name in output.lines().filter(|line| !line.starts_with('/')) {
        let known = KEPT.contains(&name)
            || ["TERM", "CI", "GIT_OPTIONAL_LOCKS", "GIT_TERMINAL_PROMPT", "PWD", "OLDPWD", "SHLVL", "_"]
                .contains(&name);
        assert!(known, "{name}");
    }
    assert!(output.contains("CI\n") && output.contains("PATH\n"));
    let here = dir.path().canonicalize().unwrap();
    assert!(output.trim_end().ends_with(here.to_str().unwrap()));
}

#[tokio::test]
async fn only_the_end_of_a_long_output_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let options = CheckOptions { max_output_bytes: 100, ..options(dir.path()) };
    let results = run_all(&["i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done"], &options).await;
    let output = &results[0].output;
    assert!(output.starts_with('[') && output.ends_with("line 4999\n"), "{output}");
    assert!(output.len() < 160);
    assert!(output.lines().skip(1).all(|line| line.starts_with("line ")), "{output}");
}

#[tokio::test]
async fn a_check_out_of_time_is_killed_with_all_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pid");
    let command = "sleep 1000 & echo $! > pid.new; mv pid.new pid; wait";
    let options = CheckOptions { timeout: Duration::from_millis(300), ..options(dir.path()) };
    let results = run_all(&[command, "echo next"], &options).await;
    assert_eq!(results[0].outcome, CheckOutcome::TimedOut);
    assert_eq!(results[1].outcome, CheckOutcome::Passed);
    // On a machine so slow that it never got there it is dead as well.
    wait_until("the grandchild is dead", || !pids.exists() || !is_alive(&pids)).await;
}

#[tokio::test]
async fn what_a_check_left_running_is_killed_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let results = run_all(&["sleep 1000 & echo $! > pid; echo ok"], &options(dir.path())).await;
    assert_eq!((&results[0].outcome, results[0].output.as_str()), (&CheckOutcome::Passed, "ok\n"));
    assert!(results[0].duration < Duration::from_secs(30));
    wait_until("the left one is dead", || !is_alive(&dir.path().join("pid"))).await;
}

#[tokio::test]
async fn dropping_the_future_kills_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pid");
    let options = options(dir.path());
    let running = tokio::spawn(async move {
        run_all(&["sleep 1000 & echo $! > pid.new; mv pid.new pid; wait"], &options).await;
    });
    wait_until("the check runs", || pids.exists()).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    wait_until("the check is dead", || !is_alive(&pids)).await;
}

#[tokio::test]
async fn a_check_that_cannot_start_is_no_failed_check() {
    let dir = tempfile::tempdir().unwrap();
    let gone = CheckOptions { dir: dir.path().join("gone"), ..options(dir.path()) };
    assert!(matches!(run_all(&["true"], &gone).await[0].outcome, CheckOutcome::CouldNotStart(_)));
    let sandbox = Sandbox::Bwrap { program: dir.path().join("bwrap"), read_only: vec![], hidden: vec![] };
    let no_bwrap = CheckOptions { sandbox, ..options(dir.path()) };
    assert!(matches!(run_all(&["true"], &no_bwrap).await[0].outcome, CheckOutcome::CouldNotStart(_)));
}

struct Fenced {
    folder: tempfile::TempDir,
    options: CheckOptions,
}

/// A worktree, a git folder that may be read, and a state folder around the worktree that may not.
fn fenced() -> Option<Fenced> {
    let program = bwrap()?;
    let folder = tempfile::tempdir().unwrap();
    let (state, git) = (folder.path().join("state"), folder.path().join("git"));
    let worktree = state.join("worktree");
    fs::create_dir_all(&worktree).unwrap();
    fs::create_dir_all(&git).unwrap();
    fs::write(state.join("key"), "secret").unwrap();
    fs::write(git.join("HEAD"), "ref").unwrap();
    fs::write(worktree.join(".git"), "gitdir: x").unwrap();
    let sandbox = Sandbox::Bwrap { program, read_only: vec![git], hidden: vec![state] };
    Some(Fenced { options: CheckOptions { sandbox, ..options(&worktree) }, folder })
}

#[tokio::test]
async fn a_sandboxed_check_writes_its_worktree_and_nothing_else() {
    let Some(Fenced { folder, options }) = fenced() else {
        return;
    };
    let outside = folder.path().join("outside");
    let writes = [
        "echo x > made".to_owned(),
        "echo x > $HOME/x && echo x > $TMPDIR/y".to_owned(),
        "echo x > .git".to_owned(),
        "rm .git".to_owned(),
        format!("echo x > {}", folder.path().join("git/HEAD").display()),
        format!("mkdir -p {0} && echo x > {0}/y", outside.display()),
        "echo x > /etc/steadfast-was-here".to_owned(),
    ];
    let results = run_all(&writes, &options).await;
    let passed: Vec<bool> = results.iter().map(|result| result.outcome == CheckOutcome::Passed).collect();
    // The last but one goes to the sandbox's own /tmp when the test's folder lies there; it must not appear outside.
    assert_eq!(passed[..5], [true, true, false, false, false], "{results:?}");
    assert!(!passed[6], "{results:?}");
    assert!(options.dir.join("made").exists());
    assert_eq!(fs::read_to_string(options.dir.join(".git")).unwrap(), "gitdir: x");
    assert!(!outside.exists() && !Path::new("/etc/steadfast-was-here").exists());
}

#[tokio::test]
async fn a_sandboxed_check_sees_no_network_no_keys_and_no_other_process() {
    let Some(Fenced { folder, options }) = fenced() else {
        return;
    };
    let state = folder.path().join("state");
    let checks = [
        // Two header lines and the loopback device.
        "test $(wc -l < /proc/net/dev) -le 3".to_owned(),
        "test $(ls -d /proc/[0-9]* | wc -l) -le 8".to_owned(),
        format!("cat {}/key", state.display()),
        format!("cat {}", folder.path().join("git/HEAD").display()),
        "pwd".to_owned(),
    ];
    let results = run_all(&checks, &options).await;
    let passed: Vec<bool> = results.iter().map(|result| result.outcome == CheckOutcome::Passed).collect();
    assert_eq!(passed, [true, true, false, true, true], "{results:?}");
    assert_eq!(results[3].output, "ref");
    assert_eq!(results[4].output.trim_end(), options.dir.to_str().unwrap());
}

#[tokio::test]
async fn a_sandboxed_check_out_of_time_leaves_nothing_even_after_setsid() {
    let Some(Fenced { folder: _folder, options }) = fenced() else {
        return;
    };
    let options = CheckOptions { timeout: Duration::from_millis(500), ..options };
    // The process cannot be named from outside by its number in the sandbox, but by an argument that is its own.
    let mark = format!("10{}.{}", std::process::id(), 77);
    let results = run_all(&[&format!("setsid sleep {mark} & sleep {mark}")], &options).await;
    assert_eq!(results[0].outcome, CheckOutcome::TimedOut, "{results:?}");
    let anybody = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok()).any(|line| {
            let parts: Vec<&[u8]> = line.split(|b| *b == 0).collect();
            parts.first() == Some(&b"sleep".as_slice()) && parts.contains(&mark.as_bytes())
        })
    };
    wait_until("the sandbox is empty", || !anybody()).await;
}

#[tokio::test]
async fn a_check_that_a_killed_process_left_running_is_found_and_ended_and_no_other_process_is() {
    let dir = tempfile::tempdir().unwrap();
    let note = dir.path().join("note");
    let options = CheckOptions { note: Some(note.clone()), ..options(dir.path()) };
    // While it runs the note names it; afterwards it is gone.
    let results = run_all(&["until test -s note; do :; done; test \"$(cut -d' ' -f1 note)\" = $$"], &options).await;
    assert_eq!(results[0].outcome, CheckOutcome::Passed, "{results:?}");
    assert!(!note.exists());

    let sleeper = || {
        let mut sleep = std::process::Command::new("sleep");
        std::os::unix::process::CommandExt::process_group(&mut sleep, 0);
        sleep.arg("600").spawn().unwrap()
    };
    let (mut left, mut other) = (sleeper(), sleeper());
    let pid = Pid::from_child(&left);
    fs::write(&note, format!("{} {}\n", left.id(), start_time(pid).unwrap())).unwrap();
    end_left_behind(&note);
    assert_eq!(left.wait().unwrap().signal(), Some(9));
    // The number belongs to somebody else by now.
    fs::write(&note, format!("{} 1\n", other.id())).unwrap();
    end_left_behind(&note);
    assert!(other.try_wait().unwrap().is_none() && !note.exists());
    other.kill().unwrap();
    other.wait().unwrap();
    for text in ["", "x", "0 0", "-1 5", "99999999 7"] {
        fs::write(&note, text).unwrap();
        end_left_behind(&note);
    }
}
