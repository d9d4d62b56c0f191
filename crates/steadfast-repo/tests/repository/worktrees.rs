use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use steadfast_repo::{Author, FileError, RepoError, Repository, Worktree};

use crate::fixture::{Fixture, git, path, write};

fn status(worktree: &Worktree) -> String {
    git(worktree.dir(), &["status", "--porcelain"])
}

#[test]
fn a_worktree_is_made_on_a_branch_of_its_own_without_touching_the_users_checkout() {
    let fixture = Fixture::new();
    fixture.write("README.md", "dirty");
    fixture.write("untracked", "x");
    let before = fixture.checkout_state();
    let repository = fixture.open();
    let worktree = fixture.worktree(&repository);
    assert_eq!(git(worktree.dir(), &["status", "--porcelain", "--branch"]), "## steadfast/x");
    assert_eq!(worktree.read(&path("README.md"), 100).unwrap().unwrap(), "# Sample\n");
    assert_eq!(fs::metadata(worktree.dir().join("run.sh")).unwrap().permissions().mode() & 0o111, 0o111);
    assert!(fixture.git(&["worktree", "list"]).contains("[steadfast/x]"));
    assert_eq!(fixture.checkout_state(), before);

    repository.remove_worktree(worktree.dir()).unwrap();
    repository.remove_worktree(worktree.dir()).unwrap();
    assert!(!worktree.dir().exists());
    assert_eq!(fixture.git(&["worktree", "list"]).lines().count(), 1);
    assert!(!fixture.top().join(".git/worktrees").exists());
    assert_eq!(repository.branch_tip("steadfast/x").unwrap().unwrap(), fixture.head());
    assert_eq!(fixture.checkout_state(), before);
}

#[test]
fn a_worktree_that_a_crash_left_half_made_is_completed() {
    let fixture = Fixture::new();
    let repository = fixture.open();
    let worktree = fixture.worktree(&repository);
    let dir = worktree.dir().to_owned();
    let admin = fixture.top().join(".git/worktrees/steadfast-s1");
    drop(worktree);
    let wreck: [(&str, &dyn Fn()); 8] = [
        ("no folder", &|| fs::remove_dir_all(&dir).unwrap()),
        ("no administration", &|| fs::remove_dir_all(&admin).unwrap()),
        ("neither", &|| {
            fs::remove_dir_all(&dir).unwrap();
            fs::remove_dir_all(&admin).unwrap();
        }),
        ("an empty administration", &|| {
            fs::remove_dir_all(&dir).unwrap();
            fs::remove_dir_all(&admin).unwrap();
            fs::create_dir(&admin).unwrap();
        }),
        ("an empty back link", &|| fs::write(admin.join("gitdir"), "").unwrap()),
        ("a checkout that did not end", &|| {
            fs::remove_file(admin.join("index")).unwrap();
            fs::remove_file(dir.join("src/a.js")).unwrap();
            fs::write(admin.join("index.lock"), "").unwrap();
        }),
        ("no link", &|| fs::remove_file(dir.join(".git")).unwrap()),
        ("a branch that is lost", &|| {
            fs::remove_file(fixture.top().join(".git/refs/heads/steadfast/x")).unwrap();
        }),
    ];
    for (what, wreck) in wreck {
        wreck();
        let again = fixture.worktree(&repository);
        again.reset_to(&fixture.head()).unwrap();
        assert_eq!(git(again.dir(), &["status", "--porcelain", "--branch"]), "## steadfast/x", "{what}");
        assert_eq!(fixture.git(&["worktree", "list"]).lines().count(), 2, "{what}");
        assert!(again.dir().join("src/a.js").exists(), "{what}");
    }
}

#[test]
fn a_worktree_that_is_there_keeps_its_files() {
    let fixture = Fixture::new();
    let repository = fixture.open();
    fixture.worktree(&repository).write(&path("src/a.js"), b"work").unwrap();
    let again = fixture.worktree(&repository);
    assert_eq!(again.read(&path("src/a.js"), 100).unwrap().unwrap(), "work");
}

#[test]
fn worktrees_of_one_name_do_not_meet() {
    let fixture = Fixture::new();
    let repository = fixture.open();
    let make = |parent: &str, branch: &str| {
        repository.add_worktree(&fixture.path(parent).join("same"), branch, &fixture.head()).unwrap()
    };
    let (first, second) = (make("one", "steadfast/1"), make("two", "steadfast/2"));
    first.write(&path("x"), b"1").unwrap();
    assert_eq!((status(&first), status(&second)), ("?? x".to_owned(), String::new()));
    repository.remove_worktree(first.dir()).unwrap();
    second.write(&path("y"), b"2").unwrap();
    assert_eq!(status(&make("two", "steadfast/2")), "?? y");
    assert_eq!(fixture.git(&["worktree", "list"]).lines().count(), 2);
}

#[test]
fn a_folder_with_other_files_is_no_place_for_a_worktree() {
    let fixture = Fixture::new();
    let repository = fixture.open();
    fs::create_dir(fixture.path("full")).unwrap();
    fs::write(fixture.path("full/precious"), "x").unwrap();
    let added = repository.add_worktree(&fixture.path("full"), "steadfast/x", &fixture.head());
    assert!(matches!(added, Err(RepoError::WorktreeOccupied { .. })));
    let removed = repository.remove_worktree(&fixture.path("full"));
    assert!(matches!(removed, Err(RepoError::WorktreeOccupied { .. })));
    assert!(fixture.path("full/precious").exists());
}

#[test]
fn a_branch_of_somebody_else_is_not_taken_over() {
    let fixture = Fixture::new();
    let first = fixture.head();
    fixture.write("x", "x");
    fixture.git(&["add", "."]);
    fixture.git(&["commit", "-q", "-m", "second"]);
    fixture.git(&["branch", "steadfast/x", first.as_str()]);
    let repository = fixture.open();
    let behind = repository.add_worktree(&fixture.path("w"), "steadfast/x", &fixture.head());
    assert!(matches!(behind, Err(RepoError::ForeignCommit { .. })));
    // One that has gone on from our start is ours: a session that is resumed.
    fixture.git(&["branch", "-f", "steadfast/x", "main"]);
    let ahead = repository.add_worktree(&fixture.path("w"), "steadfast/x", &first).unwrap();
    assert!(ahead.dir().join("x").exists());
}

#[test]
fn a_reset_brings_back_the_commit_and_keeps_what_is_ignored() {
    let fixture = Fixture::new();
    let repository = fixture.open();
    let worktree = fixture.worktree(&repository);
    worktree.write(&path("src/a.js"), b"changed").unwrap();
    worktree.delete(&path("src/b.js")).unwrap();
    worktree.write(&path("new/deep/file"), b"x").unwrap();
    worktree.write(&path("target/cache"), b"cache").unwrap();
    fs::set_permissions(worktree.dir().join("run.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    // A milestone's own .gitignore must not save its files from the reset.
    worktree.write(&path(".gitignore"), b"*.hidden\ntarget/\n").unwrap();
    worktree.write(&path("a.hidden"), b"x").unwrap();
    symlink("/etc", worktree.dir().join("etc")).unwrap();
    let admin = fixture.top().join(".git/worktrees/steadfast-s1");
    for lock in ["index.lock", "HEAD.lock"] {
        fs::write(admin.join(lock), "").unwrap();
    }
    worktree.reset_to(&fixture.head()).unwrap();
    assert_eq!(git(worktree.dir(), &["status", "--porcelain", "--ignored"]), "!! target/");
    assert_eq!(worktree.read(&path("src/a.js"), 100).unwrap().unwrap(), "const a = 1;\nconst b = 2;\n");
    assert!(!worktree.dir().join("new").exists());
    assert!(worktree.dir().join("target/cache").exists());
    assert!(fs::symlink_metadata(worktree.dir().join("etc")).is_err());
    assert!(!admin.join("index.lock").exists());
}

#[test]
fn a_reset_writes_through_no_link_and_mends_a_broken_index_and_a_bent_git_link() {
    let fixture = Fixture::new();
    let repository = fixture.open();
    let worktree = fixture.worktree(&repository);
    let outside = fixture.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("a.js"), "theirs").unwrap();
    fs::remove_dir_all(worktree.dir().join("src")).unwrap();
    symlink(&outside, worktree.dir().join("src")).unwrap();
    fs::write(outside.join("README.md"), "theirs").unwrap();
    fs::remove_file(worktree.dir().join("README.md")).unwrap();
    symlink(outside.join("README.md"), worktree.dir().join("README.md")).unwrap();
    let other_git = fixture.path("other-git");
    fs::write(&other_git, "theirs").unwrap();
    fs::write(fixture.top().join(".git/worktrees/steadfast-s1/index"), "broken").unwrap();
    fs::remove_file(worktree.dir().join(".git")).unwrap();
    symlink(&other_git, worktree.dir().join(".git")).unwrap();
    fs::write(fixture.top().join(".git/worktrees/steadfast-s1/index"), "broken").unwrap();
    worktree.reset_to(&fixture.head()).unwrap();
    assert_eq!(status(&worktree), "");
    for file in ["outside/a.js", "outside/README.md", "other-git"] {
        assert_eq!(fs::read_to_string(fixture.path(file)).unwrap(), "theirs", "{file}");
    }
    assert!(fs::symlink_metadata(worktree.dir().join("src")).unwrap().is_dir());
}

#[test]
fn a_reset_goes_back_and_forth_between_commits() {
    let fixture = Fixture::new();
    let (repository, head) = (fixture.open(), fixture.head());
    let worktree = fixture.worktree(&repository);
    let changes = [write("src/a.js", "next\n"), write("lib/x.js", "x\n"), crate::fixture::delete("README.md")];
    let next = repository.commit_files(&head, &changes, "m", &Author::steadfast(), 0).unwrap();
    repository.advance(worktree.branch(), &head, &next).unwrap();
    worktree.reset_to(&next).unwrap();
    assert_eq!(status(&worktree), "");
    assert!(!worktree.dir().join("README.md").exists());
    worktree.reset_to(&head).unwrap();
    assert!(worktree.dir().join("README.md").exists());
    assert!(!worktree.dir().join("lib").exists());
    worktree.reset_to(&next).unwrap();
    assert_eq!(status(&worktree), "");
}

#[test]
fn after_a_milestone_the_status_is_clean() {
    let fixture = Fixture::new();
    let (repository, head) = (fixture.open(), fixture.head());
    let worktree = fixture.worktree(&repository);
    worktree.write(&path("src/new.js"), b"new\n").unwrap();
    worktree.write(&path("run.sh"), b"#!/bin/sh\ntrue\n").unwrap();
    worktree.delete(&path("src/b.js")).unwrap();
    let changes =
        [write("src/new.js", "new\n"), write("run.sh", "#!/bin/sh\ntrue\n"), crate::fixture::delete("src/b.js")];
    let next = repository.commit_files(&head, &changes, "m", &Author::steadfast(), 0).unwrap();
    repository.advance(worktree.branch(), &head, &next).unwrap();
    worktree.sync_index(&next).unwrap();
    assert_eq!(status(&worktree), "");
    worktree.reset_to(&next).unwrap();
    assert_eq!(status(&worktree), "");
}

#[test]
fn the_diff_shows_the_named_files_in_order() {
    let fixture = Fixture::new();
    let (repository, head) = (fixture.open(), fixture.head());
    let worktree = fixture.worktree(&repository);
    worktree.write(&path("src/a.js"), b"const a = 1;\nconst b = 5;").unwrap();
    worktree.write(&path("new.md"), "# Näu\n".as_bytes()).unwrap();
    worktree.write(&path("bin"), &[0, 1, 2]).unwrap();
    worktree.write(&path("unnamed"), b"x").unwrap();
    worktree.delete(&path("src/b.js")).unwrap();
    let paths = ["src/b.js", "src/a.js", "new.md", "bin", "README.md", "none"].map(path);
    let diff = worktree.diff(&head, &paths, 1, 10_000).unwrap();
    let expected = "diff --git a/src/b.js b/src/b.js\ndeleted file\n--- a/src/b.js\n+++ /dev/null\n@@ -1 +0,0 @@\n-const c = 3;\n\
        diff --git a/src/a.js b/src/a.js\n--- a/src/a.js\n+++ b/src/a.js\n@@ -1,2 +1,2 @@\n const a = 1;\n-const b = 2;\n+const b = 5;\n\\ No newline at end of file\n\
        diff --git a/new.md b/new.md\nnew file\n--- /dev/null\n+++ b/new.md\n@@ -0,0 +1 @@\n+# Näu\n\
        diff --git a/bin b/bin\nnew file\nBinary files /dev/null and b/bin differ\n";
    assert_eq!(diff, expected);

    let short = worktree.diff(&head, &paths, 1, 200).unwrap();
    assert!(short.len() <= 200 && short.ends_with("cut here: it is longer than fits]\n"), "{short}");
    assert!(short.starts_with("diff --git a/src/b.js"));
    assert_eq!(worktree.diff(&head, &[path("README.md")], 3, 200).unwrap(), "");
}

#[test]
fn nothing_is_written_into_a_submodule() {
    let fixture = Fixture::new();
    let head = fixture.git(&["rev-parse", "HEAD"]);
    fixture.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{},vendor/sub", head.trim())]);
    fixture.git(&["commit", "-qm", "a submodule that nobody has cloned"]);
    let repository = Repository::open(&fixture.top()).unwrap();
    let head = repository.head().unwrap();
    let worktree = repository.add_worktree(&fixture.path("w"), "steadfast/x", &head).unwrap();
    let refused = |end: Result<(), FileError>| matches!(end, Err(FileError::Submodule { submodule, .. }) if submodule == "vendor/sub");
    for bad in ["vendor/sub", "vendor/sub/x", "vendor/sub/a/b"] {
        assert!(refused(worktree.may_write(&path(bad))), "{bad}");
        assert!(refused(worktree.write(&path(bad), b"x")), "{bad}");
        assert!(refused(worktree.read(&path(bad), 9).map(|_| ())), "{bad}");
        assert!(refused(worktree.delete(&path(bad)).map(|_| ())), "{bad}");
    }
    worktree.write(&path("vendor/subs"), b"x").unwrap();
    worktree.reset_to(&head).unwrap();
    assert!(refused(worktree.write(&path("vendor/sub/x"), b"x")));
    assert_eq!(std::fs::read_dir(worktree.dir().join("vendor/sub")).unwrap().count(), 0);
}

#[test]
fn text_is_told_from_what_is_none() {
    let fixture = Fixture::new();
    let repository = fixture.open();
    let worktree = fixture.worktree(&repository);
    worktree.write(&path("bin"), &[0xff, 0xfe]).unwrap();
    assert!(matches!(worktree.read(&path("bin"), 9), Err(FileError::NotText { .. })));
    worktree.write(&path("nul"), b"a\0b").unwrap();
    assert!(matches!(worktree.read(&path("nul"), 9), Err(FileError::NotText { .. })));
    // A text takes the place of no other file than one that could be shown.
    worktree.write(&path("large"), &vec![b'x'; (1 << 20) + 1]).unwrap();
    assert!(matches!(worktree.may_write(&path("bin")), Err(FileError::NotText { .. })));
    assert!(matches!(worktree.may_write(&path("nul")), Err(FileError::NotText { .. })));
    assert!(matches!(worktree.may_write(&path("large")), Err(FileError::TooLarge { .. })));
    worktree.write(&path("empty"), b"").unwrap();
    for fine in ["README.md", "empty", "none", "none/x"] {
        worktree.may_write(&path(fine)).unwrap();
    }
    assert_eq!(worktree.read(&path("none"), 9).unwrap(), None);
    assert!(worktree.diff(&fixture.head(), &[path("bin")], 3, 999).unwrap().contains("bin"));
}

#[test]
fn a_worktree_with_read_only_folders_can_be_removed() {
    let fixture = Fixture::new();
    let repository = fixture.open();
    let worktree = fixture.worktree(&repository);
    worktree.write(&path("target/mod/file"), b"x").unwrap();
    fs::set_permissions(worktree.dir().join("target/mod"), fs::Permissions::from_mode(0o555)).unwrap();
    repository.remove_worktree(worktree.dir()).unwrap();
    assert!(!worktree.dir().exists());
}

#[test]
fn handles_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Repository>();
    shared::<Worktree>();
}
