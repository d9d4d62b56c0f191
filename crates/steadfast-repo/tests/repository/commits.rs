use std::fs;
use std::time::{Duration, SystemTime};

use steadfast_core::ids::CommitId;
use steadfast_repo::{Author, FileError, RepoError, Repository};

use crate::fixture::{Fixture, delete, path, session, write};

const TIME: i64 = 1_700_000_000;

fn author() -> Author {
    Author::new("Ada", "ada@example.org")
}

#[test]
fn a_commit_has_the_parents_files_with_the_changes_laid_over() {
    let fixture = Fixture::new();
    let (repository, head) = (fixture.open(), fixture.head());
    let before = fixture.checkout_state();
    let changes = [
        write("src/a.js", "new\n"),
        write("docs/deep/x.md", "x"),
        delete("src/b.js"),
        write("run.sh", "#!/bin/sh\ntrue\n"),
    ];
    let message = Repository::milestone_message("Add x", "Why.", &session(), 1);
    let commit = repository.commit_files(&head, &changes, &message, &author(), TIME).unwrap();

    let listed = fixture.git(&["ls-tree", "-r", "--format=%(objectmode) %(path)", commit.as_str()]);
    let expected = "100644 .gitignore\n100644 README.md\n100644 docs/deep/x.md\n100755 run.sh\n100644 src/a.js";
    assert_eq!(listed, expected);
    assert_eq!(fixture.git(&["show", &format!("{commit}:src/a.js")]), "new");
    let format = "--format=%P|%an|%ae|%ad|%cn|%cd|%s|%(trailers:only,unfold)";
    let shown = fixture.git(&["log", "-1", "--date=iso-strict", format, commit.as_str()]);
    let date = "2023-11-14T22:13:20Z";
    let trailers = format!("Steadfast-Session: {}\nSteadfast-Milestone: 1", session());
    assert_eq!(shown, format!("{head}|Ada|ada@example.org|{date}|Ada|{date}|Add x|{trailers}"));
    assert_eq!(fixture.git(&["fsck", "--strict", "--full", "--no-dangling"]), "");
    assert_eq!(fixture.checkout_state(), before);
}

#[test]
fn the_same_input_gives_the_same_commit_and_the_one_that_git_makes() {
    let fixture = Fixture::new();
    let (repository, head) = (fixture.open(), fixture.head());
    let changes = [write("src/a.js", "new\n"), write("src.md", "x\n"), write("src-x/y", "y\n")];
    let make = || repository.commit_files(&head, &changes, "m", &author(), TIME).unwrap();
    let (first, second) = (make(), make());
    assert_eq!(first, second);

    fixture.git(&["checkout", "-q", "-b", "by-git"]);
    for (file, content) in [("src/a.js", "new\n"), ("src.md", "x\n"), ("src-x/y", "y\n")] {
        fixture.write(file, content);
    }
    fixture.git(&["add", "."]);
    let tree = fixture.git(&["write-tree"]);
    assert_eq!(fixture.git(&["rev-parse", &format!("{first}^{{tree}}")]), tree);
}

#[test]
fn a_commit_lies_in_one_pack_and_is_repeated_without_a_second_one() {
    let fixture = Fixture::new();
    let (repository, head) = (fixture.open(), fixture.head());
    let packs = || {
        let entries = fs::read_dir(fixture.top().join(".git/objects/pack")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let commit = repository.commit_files(&head, &[write("a/b/c", "x")], "m", &author(), TIME).unwrap();
    assert_eq!(packs().len(), 2, "{:?}", packs());
    let first = packs();
    assert_eq!(repository.commit_files(&head, &[write("a/b/c", "x")], "m", &author(), TIME).unwrap(), commit);
    assert_eq!(packs(), first);
    let index = first.iter().find(|name| name.ends_with(".idx")).unwrap();
    let verified = fixture.git(&["verify-pack", "-v", &format!(".git/objects/pack/{index}")]);
    // The blob, three trees and the commit.
    assert!(verified.contains("non delta: 5 objects"), "{verified}");
}

#[test]
fn changes_that_change_nothing_are_recognized() {
    let fixture = Fixture::new();
    let (repository, head) = (fixture.open(), fixture.head());
    let mut n = 0;
    let mut changes = |list: &[_]| {
        n += 1;
        let branch = format!("steadfast/{n}");
        repository.add_branch(&branch, &head).unwrap();
        let commit = repository.commit_and_advance(&branch, &head, list, "m", &author(), TIME).unwrap();
        assert_eq!(commit.is_some(), repository.branch_tip(&branch).unwrap() != Some(head.clone()));
        commit.is_some()
    };
    assert!(!changes(&[]));
    assert!(!changes(&[write("src/b.js", "const c = 3;\n"), delete("none"), delete("README.md/x"), delete("a/b/c")]));
    assert!(changes(&[write("src/b.js", "x")]));
    assert!(changes(&[delete("src/b.js")]));
}

#[test]
fn the_last_file_of_a_folder_takes_the_folder_with_it() {
    let fixture = Fixture::new();
    let (repository, head) = (fixture.open(), fixture.head());
    let all = [delete("src/a.js"), delete("src/b.js")];
    let commit = repository.commit_files(&head, &all, "m", &author(), TIME).unwrap();
    assert!(!fixture.git(&["ls-tree", "--name-only", commit.as_str()]).contains("src"));
    let rest = [delete("README.md"), delete("run.sh"), delete(".gitignore")];
    let empty = repository.commit_files(&commit, &rest, "m", &author(), TIME).unwrap();
    assert_eq!(fixture.git(&["ls-tree", empty.as_str()]), "");
    fixture.git(&["fsck", "--strict", "--no-dangling"]);
}

#[test]
fn a_file_may_become_a_folder_and_a_folder_a_file_when_that_is_said() {
    let fixture = Fixture::new();
    let (repository, head) = (fixture.open(), fixture.head());
    let changes =
        [delete("README.md"), write("README.md/x", "x"), delete("src/a.js"), delete("src/b.js"), write("src", "s")];
    let commit = repository.commit_files(&head, &changes, "m", &author(), TIME).unwrap();
    let listed = fixture.git(&["ls-tree", "-r", "--name-only", commit.as_str()]);
    assert_eq!(listed, ".gitignore\nREADME.md/x\nrun.sh\nsrc");
}

#[test]
fn a_change_that_does_not_fit_makes_no_commit_and_names_what_is_in_its_way() {
    let fixture = Fixture::new();
    std::os::unix::fs::symlink("src", fixture.top().join("link")).unwrap();
    fixture.git(&["add", "link"]);
    fixture.git(&["commit", "-q", "-m", "link"]);
    let (repository, head) = (fixture.open(), fixture.head());
    let fault = |change| match repository.commit_files(&head, &[change], "m", &author(), TIME) {
        Err(RepoError::File(fault)) => fault,
        other => panic!("{other:?}"),
    };
    assert!(matches!(fault(write("src", "x")), FileError::IsDirectory { .. }));
    assert!(matches!(fault(delete("src")), FileError::IsDirectory { .. }));
    assert!(matches!(fault(write("link", "x")), FileError::SymbolicLink { .. }));
    assert!(matches!(fault(write("link/a", "x")), FileError::SymbolicLink { link, .. } if link == "link"));
    assert!(matches!(fault(write("src/a.js/b/c", "x")), FileError::ParentIsFile { file, .. } if file == "src/a.js"));
    let unknown = CommitId::new(&"1".repeat(40)).unwrap();
    let lost = repository.commit_files(&unknown, &[], "m", &author(), TIME);
    assert!(matches!(lost, Err(RepoError::UnknownCommit { .. })));
}

#[test]
fn a_branch_moves_only_from_where_it_is_expected_and_may_be_moved_again() {
    let fixture = Fixture::new();
    let (repository, head) = (fixture.open(), fixture.head());
    let worktree = fixture.worktree(&repository);
    let branch = worktree.branch();
    let commit = |text: &str| repository.commit_files(&head, &[write("x", text)], text, &author(), TIME).unwrap();
    let (ours, foreign) = (commit("ours"), commit("foreign"));
    repository.advance(branch, &head, &ours).unwrap();
    repository.advance(branch, &head, &ours).unwrap();
    assert_eq!(repository.branch_tip(branch).unwrap().unwrap(), ours);
    assert_eq!(
        fixture.git(&["reflog", "show", "--format=%H %gs", branch]).lines().next().unwrap(),
        format!("{ours} steadfast: milestone")
    );

    fixture.git(&["update-ref", "refs/heads/steadfast/x", foreign.as_str()]);
    fixture.git(&["pack-refs", "--all"]);
    match repository.advance(branch, &head, &ours) {
        Err(RepoError::ForeignCommit { found: Some(found), .. }) => assert_eq!(found, foreign),
        other => panic!("{other:?}"),
    }
    assert_eq!(repository.branch_tip(branch).unwrap().unwrap(), foreign);
    // From a packed reference.
    let next = repository.commit_files(&foreign, &[write("y", "y")], "m", &author(), TIME).unwrap();
    repository.advance(branch, &foreign, &next).unwrap();
    assert_eq!(fixture.git(&["rev-parse", branch]), next.as_str());

    fixture.git(&["update-ref", "-d", "refs/heads/steadfast/x"]);
    let gone = repository.advance(branch, &next, &ours);
    assert!(matches!(gone, Err(RepoError::ForeignCommit { found: None, .. })));
    let unknown = CommitId::new(&"1".repeat(40)).unwrap();
    assert!(matches!(repository.advance(branch, &next, &unknown), Err(RepoError::UnknownCommit { .. })));
    fixture.git(&["fsck", "--strict", "--no-dangling"]);
}

#[test]
fn committing_and_advancing_in_one_gives_the_same_and_may_be_repeated() {
    let fixture = Fixture::new();
    let (repository, head) = (fixture.open(), fixture.head());
    fixture.worktree(&repository);
    let changes = [write("x", "1")];
    let apart = repository.commit_files(&head, &changes, "m", &author(), TIME).unwrap();
    let in_one =
        || repository.commit_and_advance("steadfast/x", &head, &changes, "m", &author(), TIME).unwrap().unwrap();
    assert_eq!(in_one(), apart);
    assert_eq!(in_one(), apart);
    assert_eq!(fixture.git(&["rev-parse", "steadfast/x"]), apart.as_str());
    let other = repository.commit_and_advance("steadfast/x", &head, &[write("x", "2")], "m", &author(), TIME);
    assert!(matches!(other, Err(RepoError::ForeignCommit { found: Some(found), .. }) if found == apart));
    assert_eq!(fixture.git(&["rev-parse", "steadfast/x"]), apart.as_str());
    assert!(!fixture.top().join(".git/refs/heads/steadfast/x.lock").exists());
    assert_eq!(fixture.git(&["fsck", "--strict", "--no-dangling"]), "");
}

#[test]
fn a_lock_that_a_killed_process_left_does_not_stop_a_branch() {
    let fixture = Fixture::new();
    let (repository, head) = (fixture.open(), fixture.head());
    fixture.worktree(&repository);
    let lock = fixture.top().join(".git/refs/heads/steadfast/x.lock");
    let first = repository.commit_files(&head, &[write("x", "1")], "m", &author(), TIME).unwrap();
    // Our own: it holds what is to be written.
    fs::write(&lock, format!("{first}\n")).unwrap();
    repository.advance("steadfast/x", &head, &first).unwrap();
    // Anybody's, from an hour ago.
    let second = repository.commit_files(&first, &[write("x", "2")], "m", &author(), TIME).unwrap();
    let file = fs::File::create(&lock).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3_600)).unwrap();
    repository.advance("steadfast/x", &first, &second).unwrap();
    assert!(!lock.exists());
    assert_eq!(fixture.git(&["rev-parse", "steadfast/x"]), second.as_str());
}

#[test]
fn a_sessions_commits_are_found_by_their_trailers_and_others_told_apart() {
    let fixture = Fixture::new();
    let (repository, head) = (fixture.open(), fixture.head());
    fixture.worktree(&repository);
    let mut tip = head.clone();
    let mut made = Vec::new();
    let forged = format!("Text that a model wrote.\n\nSteadfast-Session: {}\nSteadfast-Milestone: 9", session());
    for (n, body) in [(1, "why"), (2, forged.as_str())] {
        let message = Repository::milestone_message("A step", body, &session(), n);
        let next = repository.commit_files(&tip, &[write("x", &n.to_string())], &message, &author(), TIME).unwrap();
        repository.advance("steadfast/x", &tip, &next).unwrap();
        made.push((next.clone(), n));
        tip = next;
    }
    let foreign = repository.commit_files(&tip, &[write("x", "f")], "by hand", &author(), TIME).unwrap();
    repository.advance("steadfast/x", &tip, &foreign).unwrap();
    let log = repository.commits_of(&session(), "steadfast/x", &head).unwrap();
    let ours: Vec<(CommitId, u32)> = log.ours.into_iter().map(|commit| (commit.id, commit.milestone)).collect();
    assert_eq!(ours, made);
    assert_eq!(log.foreign, [foreign]);
    let none = repository.commits_of(&session(), "steadfast/none", &head);
    assert!(matches!(none, Err(RepoError::UnknownBranch { .. })));
}

#[test]
fn a_message_has_a_short_title_and_its_trailers_last() {
    let message = Repository::milestone_message(&format!("\n  {}\nrest", "t".repeat(100)), " ", &session(), 3);
    let lines: Vec<&str> = message.lines().collect();
    assert_eq!(lines[0], "t".repeat(72));
    assert_eq!(lines[1..], ["", &format!("Steadfast-Session: {}", session()), "Steadfast-Milestone: 3"]);
}

#[test]
fn the_users_own_git_gc_keeps_what_was_committed() {
    let fixture = Fixture::new();
    let (repository, head) = (fixture.open(), fixture.head());
    fixture.worktree(&repository);
    let commit = repository.commit_files(&head, &[write("x", "1")], "m", &author(), TIME).unwrap();
    repository.advance("steadfast/x", &head, &commit).unwrap();
    fixture.git(&["gc", "-q", "--prune=now"]);
    // The handle was opened before the packs were exchanged.
    assert!(repository.has_commit(&commit));
    assert_eq!(repository.read(&commit, &path("x"), 9).unwrap().unwrap(), b"1");
}
