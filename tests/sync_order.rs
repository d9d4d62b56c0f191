//! What a power cut may leave is decided by the order of syncs. This records the system calls of a real run and looks at it.

use std::io::Write as _;
use std::process::Command;

use crate::support::{World, milestone, rule};

const BRANCH: &str = "refs/heads/steadfast/002-feature";

/// A system call as strace shows it: where its begin and its end stand in the recording.
#[derive(Debug)]
struct Call {
    begun: usize,
    ended: usize,
    name: String,
    /// Arguments; each open file with its path.
    text: String,
}

impl Call {
    fn is(&self, names: &[&str], part: &str) -> bool {
        names.contains(&self.name.as_str()) && self.text.contains(part)
    }
}

const SYNCS: &[&str] = &["fsync", "fdatasync"];
const WRITES: &[&str] = &["write", "pwrite64"];
const RENAMES: &[&str] = &["rename", "renameat", "renameat2"];

/// Puts the halves of calls together that other threads have come between.
fn calls(recording: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut open: Vec<(String, usize)> = Vec::new();
    for (at, line) in recording.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let place = open.iter().position(|(other, _)| other == thread);
            if let Some((_, index)) = place.map(|place| open.swap_remove(place)) {
                calls[index].ended = at;
                calls[index].text.push_str(resumed);
            }
            continue;
        }
        let Some((name, text)) = rest.split_once('(') else { continue };
        let call = Call { begun: at, ended: at, name: name.to_owned(), text: text.to_owned() };
        if rest.contains("<unfinished ...>") {
            open.push((thread.to_owned(), calls.len()));
        }
        calls.push(call);
    }
    calls
}

/// A recording in which one thing must come after another.
struct Recording(Vec<Call>);

impl Recording {
    #[track_caller]
    fn first(&self, names: &[&str], part: &str) -> &Call {
        self.0.iter().find(|call| call.is(names, part)).unwrap_or_else(|| panic!("no {names:?} of {part:?}"))
    }

    #[track_caller]
    fn last(&self, names: &[&str], part: &str) -> &Call {
        self.0.iter().rfind(|call| call.is(names, part)).unwrap_or_else(|| panic!("no {names:?} of {part:?}"))
    }

    /// Whether a sync of such a file lies wholly between the end of one call and the begin of another.
    fn synced_between(&self, path: &str, after: &Call, before: &Call) -> bool {
        let between = |call: &&Call| call.begun > after.ended && call.ended < before.begun;
        self.0.iter().filter(between).any(|call| call.is(SYNCS, path))
    }
}

/// Records a run that commits one milestone and files one issue. `None` where that cannot be done here.
fn record() -> Option<Recording> {
    if !Command::new("strace").args(["-o", "/dev/null", "true"]).output().is_ok_and(|output| output.status.success()) {
        std::io::stderr().write_all(b"skipped: there is no strace here, or it may not trace\n").unwrap();
        return None;
    }
    let script = milestone("Write", &["a.js", "b.js", "c.js"], &[], &[])
        + &rule("role = \"coder\", file = \"c.js\"", "", "{ status = 400 }");
    let world = World::new(&script, &[]);
    let trace = world.path("trace");
    let wanted = "trace=write,pwrite64,fsync,fdatasync,rename,renameat,renameat2";
    let under = ["strace", "-f", "-y", "-s", "200000", "-e", wanted, "-o", trace.to_str().unwrap()];
    world.steadfast_under(&under, &["run", "idea.md", "--repo", "repo", "--json"]).expect(0);
    let text = std::fs::read(&trace).unwrap();
    Some(Recording(calls(&String::from_utf8_lossy(&text))))
}

#[test]
fn everything_is_on_disk_before_what_is_built_on_it_as_the_system_calls_show() {
    let Some(run) = record() else { return };
    let moved = run.last(RENAMES, BRANCH);

    // The intent, which holds the commit's message, is in the journal and synced before any object is written.
    let intent = run.first(WRITES, "Steadfast-Milestone: 1\\n");
    assert!(intent.text.contains("store/journal-"), "the journal is the first to hear of a commit");
    let pack = run.first(WRITES, "objects/pack/tmp_pack");
    assert!(run.synced_between("store/journal-", intent, pack), "the intent is synced before the objects are written");

    // Objects and index are synced before they get their names, and their folder before the branch points at them.
    let named = |end: &str| run.0.iter().find(|call| call.is(RENAMES, &format!(".{end}\""))).expect("it gets its name");
    for (temporary, end) in [("tmp_pack", "pack"), ("tmp_idx", "idx")] {
        let written = run.last(WRITES, &format!("objects/pack/{temporary}"));
        assert!(run.synced_between(temporary, written, named(end)), "{end} is synced before it has its name");
    }
    assert!(named("pack").ended < named("idx").begun, "the index comes last");
    assert!(run.synced_between("objects/pack>", named("idx"), moved), "the names are synced before the branch moves");

    // The branch's new value is synced before it takes its place, and the place after it.
    let value = run.last(WRITES, &format!("{BRANCH}.lock"));
    assert!(run.synced_between(&format!("{BRANCH}.lock"), value, moved), "the value is synced before the branch moves");
    let url = "file://";
    let receipt = run.0.iter().find(|call| call.is(WRITES, "store/journal-") && call.text.contains(url));
    let receipt = receipt.expect("the issue has a receipt");
    assert!(run.synced_between("refs/heads/steadfast>", moved, receipt), "the branch is synced");

    // The issue is in the journal before it is filed, whole and synced before its receipt is in the journal.
    let filed = run.first(RENAMES, "/issues/");
    let recorded =
        run.0.iter().find(|call| call.is(WRITES, "store/journal-") && call.text.contains("c.js` could not be"));
    let recorded = recorded.expect("the issue is recorded");
    assert!(run.synced_between("store/journal-", recorded, filed), "the issue is on disk before it is filed");
    assert!(run.synced_between("/issues/.", recorded, filed), "its text is synced before it has its name");
    assert!(run.synced_between("/issues>", filed, receipt), "its name is synced before the receipt is written");

    // At the end the tree is synced before the journal forgets what is in it.
    let tree = run.last(WRITES, "store/sled/db");
    let forgets = |call: &&Call| call.is(&["pwrite64"], "store/journal-") && call.text.contains("\"SFJ1");
    let forgotten = run.0.iter().rfind(forgets).expect("the journal is begun again");
    assert!(tree.ended < forgotten.begun && run.synced_between("store/sled/db", tree, forgotten), "the tree is synced");
}

#[test]
fn halves_of_a_recorded_call_are_put_together() {
    let found = calls("7  fsync(3</a> <unfinished ...>\n8  write(4</b>, \"x\", 1) = 1\n7  <... fsync resumed>) = 0\n");
    let spans: Vec<_> = found.iter().map(|call| (call.name.as_str(), call.begun, call.ended)).collect();
    assert_eq!(spans, [("fsync", 0, 2), ("write", 1, 1)]);
}
