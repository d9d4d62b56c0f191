//! The store as a person meets it: damaged, full, read-only, checked, exported and imported.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Output, World, files_under, milestone, rule, wait_until};

const BRANCH: &str = "steadfast/002-feature";

/// A world whose one session is done.
fn finished() -> World {
    let world = World::new(&milestone("Write", &["a.js"], &[], &[]), &[]);
    world.run().expect(0);
    world
}

/// A world whose one session was killed in its second milestone; with its id.
fn killed(settings: &[(&str, &str)]) -> (World, String) {
    let script = milestone("First", &["a.js"], &[], &[])
        + &milestone("Second", &["b.js"], &[], &[])
        + &rule("role = \"coder\", file = \"b.js\"", "first = 1", "{ fault = \"hang\" }");
    let world = World::new(&script, settings);
    let run = world.start_run();
    wait_until("the second milestone", || world.coders_asked().get(1).cloned());
    run.signal(Signal::KILL);
    run.end();
    // By a copy, for looking at the store would change it.
    let worktrees = fs::read_dir(world.state().join("worktrees")).into_iter().flatten();
    let id = worktrees.flatten().next().map(|entry| entry.file_name().to_string_lossy().into_owned());
    (world, id.unwrap_or_default())
}

fn journals(world: &World) -> Vec<PathBuf> {
    ["journal-0", "journal-1"]
        .map(|name| world.state().join("store").join(name))
        .into_iter()
        .filter(|path| path.exists())
        .collect()
}

#[track_caller]
fn tells_a_loss(output: &Output) {
    let said = &output.stderr;
    assert!(said.contains("warning: ") && said.contains("lost"), "{said}");
    assert!(said.contains("what to do: "), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(!output.stdout.contains("no sessions yet"), "{}", output.stdout);
}

#[test]
fn a_store_whose_tree_was_emptied_is_told_and_set_aside_and_never_passes_for_a_new_one() {
    let world = finished();
    fs::write(world.state().join("store/sled/db"), "").unwrap();
    tells_a_loss(&world.steadfast(&["sessions"]).expect(0));
    // The loss is told once; what was set aside stays in sight.
    let again = world.steadfast(&["sessions"]).expect(0);
    assert!(again.stderr.is_empty(), "{}", again.stderr);
    assert!(again.stdout.contains("damaged lie in") && again.stdout.contains("broken-1"), "{}", again.stdout);
    let store = &world.status()["store"];
    assert_eq!((&store["healed"], &store["setAsideRecords"]), (&json!([]), &json!(0)));
    assert!(store["setAsideFiles"][0].as_str().unwrap().ends_with("broken-1"));
    let why = fs::read_to_string(world.state().join("store/broken-1/why.txt")).unwrap();
    assert!(why.contains("lost"), "{why}");
    // And it works on.
    world.run().expect(0);
}

#[test]
fn a_journal_that_is_gone_after_a_kill_is_told_by_every_command() {
    for command in [&["sessions"][..], &["status", "--json"], &["run", "idea.md", "--repo", "repo", "--json"]] {
        let (world, _) = killed(&[]);
        for journal in journals(&world) {
            fs::write(journal, "").unwrap();
        }
        let output = world.steadfast(command).expect(0);
        tells_a_loss(&output);
        if command[0] == "status" {
            let healed = output.json()["store"]["healed"].to_string();
            assert!(healed.contains("lost"), "{healed}");
        }
    }
}

#[test]
fn a_lost_session_is_named_with_the_branch_that_holds_its_commits() {
    let (world, id) = killed(&[("session.checks", "[\"true\"]")]);
    assert!(!id.is_empty(), "checks want a worktree");
    fs::remove_dir_all(world.state().join("store/sled")).unwrap();
    for journal in journals(&world) {
        fs::remove_file(journal).unwrap();
    }
    let output = world.steadfast(&["sessions"]).expect(0);
    tells_a_loss(&output);
    let expected = format!("session {id} is lost here; its commits are on branch {BRANCH} in ");
    assert!(output.stderr.contains(&expected), "{}", output.stderr);
    // A store that is gone as a whole leaves its worktrees behind.
    fs::remove_dir_all(world.state().join("store")).unwrap();
    let output = world.steadfast(&["sessions"]).expect(0);
    assert!(output.stderr.contains("there was no store"), "{}", output.stderr);
}

#[test]
fn a_store_of_a_newer_version_is_refused_and_nothing_in_it_changes() {
    let world = finished();
    let path = journals(&world).remove(0);
    let mut header = fs::read(&path).unwrap();
    header[4..8].copy_from_slice(&99u32.to_le_bytes());
    let sum = crc32(&header[..24]);
    header[24..28].copy_from_slice(&sum.to_le_bytes());
    fs::write(&path, header).unwrap();
    let without_lock = || {
        let mut files = files_under(&world.state().join("store"));
        files.retain(|path, _| !path.ends_with("lock"));
        files
    };
    let before = without_lock();
    for args in [
        &["sessions"][..],
        &["status"],
        &["store", "check"],
        &["store", "export"],
        &["run", "idea.md", "--repo", "repo"],
    ] {
        let output = world.steadfast(args).expect(1);
        assert!(output.stderr.contains("format 99") && output.stderr.contains("newer program"), "{}", output.stderr);
        assert!(output.stdout.is_empty(), "{}", output.stdout);
    }
    assert!(without_lock() == before);
}

/// CRC-32 (IEEE), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    })
}

#[test]
fn a_store_made_by_a_real_run_comes_back_from_its_export_byte_by_byte() {
    let (world, _) = killed(&[]);
    let first = world.steadfast(&["store", "export"]).expect(0);
    assert!(first.stdout.starts_with("{\"steadfast-store\":1}\n"), "{}", first.stdout);
    world.steadfast(&["store", "export", "backup.jsonl"]).expect(0);
    assert_eq!(fs::read_to_string(world.path("backup.jsonl")).unwrap(), first.stdout);
    let elsewhere = ["--state-dir", "elsewhere"];
    let import = [&["store", "import", "backup.jsonl"], &elsewhere[..]].concat();
    world.steadfast(&import).expect(0);
    let second = world.steadfast(&[&["store", "export"], &elsewhere[..]].concat()).expect(0);
    assert_eq!(second.stdout, first.stdout);
    let shown = |more: &[&str]| world.steadfast(&[&["show", "002-feature", "--json"], more].concat()).expect(0).json();
    assert_eq!(shown(&elsewhere), shown(&[]));
    let refused = world.steadfast(&import).expect(2);
    assert!(refused.stderr.contains("records already"), "{}", refused.stderr);
    let check = world.steadfast(&[&["store", "check", "--json"], &elsewhere[..]].concat()).expect(0).json();
    assert_eq!((&check["sound"], &check["damaged"]), (&json!(true), &json!([])));
    assert!(check["records"].as_u64().unwrap() > 5, "{check}");
    let cut = first.stdout.len() / 2;
    fs::write(world.path("cut.jsonl"), &first.stdout[..cut]).unwrap();
    let refused = world.steadfast(&["store", "import", "cut.jsonl", "--state-dir", "third"]).expect(2);
    assert!(refused.stderr.contains("not whole") || refused.stderr.contains("no record"), "{}", refused.stderr);
    assert!(!world.path("third/store").exists());
}

#[test]
fn a_check_fails_where_something_was_lost_and_where_there_is_no_store_it_says_so() {
    let world = finished();
    let sound = world.steadfast(&["store", "check"]).expect(0);
    assert!(sound.stdout.contains("The store is sound."), "{}", sound.stdout);
    fs::write(world.state().join("store/sled/db"), "").unwrap();
    let damaged = world.steadfast(&["store", "check"]).expect(1);
    assert!(damaged.stdout.contains("mended: ") && damaged.stdout.contains("damaged."), "{}", damaged.stdout);
    let none = world.steadfast(&["store", "check", "--state-dir", "nowhere"]).expect(2);
    assert!(none.stderr.contains("no store"), "{}", none.stderr);
    assert!(!world.path("nowhere").exists());
}

#[test]
fn a_daemon_checks_its_own_store_and_keeps_it_from_export_and_import() {
    let world = World::new("", &[]);
    let daemon = world.start_daemon();
    let check = world.steadfast(&["store", "check", "--json"]).expect(0).json();
    assert_eq!(check["sound"], true);
    // Side by side, for each waits its ten seconds.
    let export = world.start(&["store", "export"]);
    let import = world.start(&["store", "import", "idea.md"]);
    for refused in [export.output().expect(1), import.output().expect(1)] {
        assert!(refused.stderr.contains("in use by process"), "{}", refused.stderr);
        assert!(refused.stdout.is_empty());
    }
    daemon.signal(Signal::TERM);
    daemon.output().expect(0);
}

/// Whether this machine lets a test mount something of its own.
fn can_mount() -> bool {
    Command::new("unshare").args(["-rm", "true"]).output().is_ok_and(|output| output.status.success())
}

const LOOKS: [&[&str]; 6] = [
    &["sessions", "--json"],
    &["show", "002-feature", "--json"],
    &["status", "--json"],
    &["outbox", "list", "--json"],
    &["store", "check", "--json"],
    &["store", "export"],
];

/// Runs every command that only looks, with the state directory mounted by `mount`, and compares with what they say as usual.
fn looks_as_usual(mount: &str, what: &str) {
    if !can_mount() {
        let skipped = "skipped: this machine does not let a test mount a file system\n";
        std::io::stderr().write_all(skipped.as_bytes()).unwrap();
        return;
    }
    let world = finished();
    let usual = LOOKS.map(|args| world.steadfast(args).expect(0).stdout);
    let before = files_under(&world.state());
    let script = format!("set -e; {mount}; shift; exec \"$@\"");
    let state = world.state();
    let under = ["unshare", "-rm", "sh", "-c", &script, "sh", state.to_str().unwrap()];
    for (args, usual) in LOOKS.into_iter().zip(usual) {
        let output = world.steadfast_under(&under, args).expect(0);
        assert_eq!(output.stdout, usual, "{args:?}");
        assert!(output.stderr.contains(what) && output.stderr.contains("only read"), "{}", output.stderr);
    }
    let refused = world.steadfast_under(&under, &["run", "idea.md", "--repo", "repo"]).expect(1);
    assert!(refused.stderr.contains(what), "{}", refused.stderr);
    assert!(files_under(&world.state()) == before);
}

#[test]
fn a_state_directory_that_is_read_only_can_be_looked_at() {
    looks_as_usual("mount --bind \"$1\" \"$1\"; mount -o remount,ro,bind \"$1\"", "read-only");
}

#[test]
fn a_full_disk_can_be_looked_at() {
    let copy = "mkdir -p \"$1.full\"; mount -t tmpfs -o size=8m none \"$1.full\"; cp -a \"$1\"/. \"$1.full\"; \
                cat /dev/zero > \"$1.full/filler\" 2>/dev/null || true; mount --bind \"$1.full\" \"$1\"";
    looks_as_usual(copy, "no space");
}
