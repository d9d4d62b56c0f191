use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use steadfast_core::ids::IdeaId;
use steadfast_repo::{EntryKind, RepoError, Repository};

use crate::fixture::{Fixture, git, path};

#[test]
fn a_repository_is_opened_from_any_folder_in_it() {
    let fixture = Fixture::new();
    let from_below = Repository::open(&fixture.top().join("src")).unwrap();
    assert_eq!(from_below.top(), fixture.top());
    assert_eq!(from_below.head().unwrap(), fixture.head());
}

#[test]
fn what_is_no_usable_repository_is_refused_with_the_reason() {
    let fixture = Fixture::new();
    let open = |name: &str| Repository::open(&fixture.path(name)).unwrap_err();
    assert!(matches!(open("nowhere"), RepoError::NotFound { .. }));
    fs::create_dir(fixture.path("plain")).unwrap();
    assert!(matches!(open("plain"), RepoError::NoRepository { .. }));
    git(&fixture.path("plain"), &["init", "-q"]);
    assert!(matches!(open("plain"), RepoError::NoCommit { .. }));
    fixture.git(&["clone", "-q", "--bare", ".", "../bare"]);
    assert!(matches!(open("bare"), RepoError::Bare { .. }));
    fs::create_dir(fixture.path("sha256")).unwrap();
    git(&fixture.path("sha256"), &["init", "-q", "--object-format=sha256"]);
    let RepoError::UnsupportedFormat { format, .. } = open("sha256") else { panic!("opened") };
    assert_eq!(format, "extensions.objectformat = sha256");
    let odd = fixture.path("x").with_file_name(OsStr::from_bytes(b"caf\xe9"));
    fixture.git(&["clone", "-q", ".", "../cloned"]);
    fs::rename(fixture.path("cloned"), &odd).unwrap();
    assert!(matches!(Repository::open(&odd).unwrap_err(), RepoError::NotUtf8 { .. }));
}

#[test]
fn a_repository_of_another_user_is_refused_with_what_to_do() {
    let fixture = Fixture::new();
    for place in [".", ".git"] {
        if std::os::unix::fs::chown(fixture.top().join(place), Some(4_242), None).is_err() {
            println!("skipped: only root can give a folder away");
            return;
        }
    }
    fs::create_dir_all(fixture.top().join("sub")).unwrap();
    for place in [".", "sub"] {
        let refused = Repository::open(&fixture.top().join(place)).unwrap_err();
        assert!(matches!(refused, RepoError::UnsafeOwner { .. }), "{refused:?}");
        let top = fs::canonicalize(fixture.top()).unwrap();
        let advice = format!("`git config --global --add safe.directory '{}'`", top.display());
        assert!(refused.to_string().contains(&advice), "{refused}");
    }
}

#[test]
fn linked_worktrees_submodules_and_a_linked_git_folder_can_be_worked_in() {
    let fixture = Fixture::new();
    fixture.git(&["worktree", "add", "-q", "../linked", "-b", "side"]);
    fixture.git(&["clone", "-q", ".", "../outer"]);
    git(&fixture.path("outer"), &["submodule", "--quiet", "add", fixture.top().to_str().unwrap(), "inner"]);
    fixture.git(&["clone", "-q", ".", "../moved"]);
    fs::rename(fixture.path("moved/.git"), fixture.path("moved-git")).unwrap();
    symlink(fixture.path("moved-git"), fixture.path("moved/.git")).unwrap();
    for name in ["linked", "outer/inner", "moved"] {
        let top = fixture.path(name);
        let repository = Repository::open(&top).unwrap();
        assert_eq!(repository.top(), top, "{name}");
        let head = repository.head().unwrap();
        let worktree = repository.add_worktree(&fixture.path(&format!("w/{name}")), "steadfast/x", &head).unwrap();
        assert_eq!(git(worktree.dir(), &["status", "--porcelain", "--branch"]), "## steadfast/x", "{name}");
        assert_eq!(worktree.read(&path("src/b.js"), 100).unwrap().unwrap(), "const c = 3;\n", "{name}");
        repository.remove_worktree(worktree.dir()).unwrap();
        git(&top, &["fsck", "--strict"]);
    }
}

#[test]
fn nothing_of_a_hostile_configuration_is_run() {
    let fixture = Fixture::new();
    let trap = fixture.path("trap");
    let script = fixture.path("trap.sh");
    fs::write(&script, format!("#!/bin/sh\ntouch {}\ncat\n", trap.display())).unwrap();
    fixture.git(&["update-index", "--chmod=+x", "run.sh"]);
    git(&fixture.path("."), &["-C", "repo", "status"]);
    let command = format!("sh {}", script.display());
    for key in [
        "core.fsmonitor",
        "filter.evil.smudge",
        "filter.evil.clean",
        "filter.evil.process",
        "core.sshCommand",
        "gpg.program",
        "diff.external",
    ] {
        fixture.git(&["config", key, &command]);
    }
    for (key, value) in [("commit.gpgsign", "true"), ("filter.evil.required", "true"), ("core.autocrlf", "true")] {
        fixture.git(&["config", key, value]);
    }
    fs::write(fixture.top().join(".git/info/attributes"), "* filter=evil\n").unwrap();
    for hook in ["post-checkout", "pre-commit", "reference-transaction", "post-commit", "post-index-change"] {
        let file = fixture.top().join(".git/hooks").join(hook);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::copy(&script, &file).unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs::remove_file(&trap).ok();
    let repository = fixture.open();
    let head = repository.head().unwrap();
    let worktree = repository.add_worktree(&fixture.path("w"), "steadfast/x", &head).unwrap();
    worktree.write(&path("src/a.js"), b"new\n").unwrap();
    worktree.diff(&head, &[path("src/a.js")], 3, 1_000).unwrap();
    let change = [crate::fixture::write("src/a.js", "new\n")];
    let next = repository.commit_files(&head, &change, "m", &repository.identity(), 0).unwrap();
    repository.advance("steadfast/x", &head, &next).unwrap();
    worktree.sync_index(&next).unwrap();
    worktree.reset_to(&next).unwrap();
    assert!(!trap.exists());
    // Contents are those of the commit, whatever core.autocrlf wants.
    assert_eq!(worktree.read(&path("src/b.js"), 100).unwrap().unwrap(), "const c = 3;\n");
}

#[test]
fn the_identity_is_the_configured_one_or_steadfasts() {
    let fixture = Fixture::new();
    fixture.git(&["config", "user.name", "Grace"]);
    fixture.git(&["config", "user.email", "grace@example.org"]);
    let author = fixture.open().identity();
    assert_eq!((author.name.as_str(), author.email.as_str()), ("Grace", "grace@example.org"));
    // Empty values say "none" also where the machine has an identity of its own.
    fixture.git(&["config", "user.name", ""]);
    fixture.git(&["config", "user.email", ""]);
    let author = fixture.open().identity();
    assert_eq!((author.name.as_str(), author.email.as_str()), ("Steadfast", "steadfast@localhost"));
}

#[test]
fn a_branch_name_that_is_taken_gets_a_number() {
    let fixture = Fixture::new();
    let repository = fixture.open();
    let idea = IdeaId::new("002-feature").unwrap();
    let free = || repository.free_branch(&idea).unwrap();
    assert_eq!(free(), "steadfast/002-feature");
    fixture.git(&["branch", "steadfast/002-feature"]);
    assert_eq!(free(), "steadfast/002-feature-2");
    // A folder of that name is in the way just the same, and packed references count.
    fixture.git(&["branch", "steadfast/002-feature-2/below"]);
    fixture.git(&["pack-refs", "--all"]);
    assert_eq!(free(), "steadfast/002-feature-3");
}

#[test]
fn a_branch_called_steadfast_blocks_all_names() {
    let fixture = Fixture::new();
    fixture.git(&["branch", "steadfast"]);
    let repository = fixture.open();
    let idea = IdeaId::new("x").unwrap();
    assert!(matches!(repository.free_branch(&idea), Err(RepoError::BranchBlocked { .. })));
    let added = repository.add_worktree(&fixture.path("w"), "steadfast/x", &fixture.head());
    assert!(matches!(added, Err(RepoError::BranchBlocked { .. })));
}

#[test]
fn files_of_a_commit_are_listed_in_order_and_read() {
    let fixture = Fixture::new();
    symlink("README.md", fixture.top().join("link")).unwrap();
    fixture.git(&["add", "link"]);
    fixture.git(&["commit", "-q", "-m", "link"]);
    let (repository, head) = (fixture.open(), fixture.head());
    let listing = repository.tree(&head, 100).unwrap();
    let seen: Vec<(&str, u64, EntryKind)> = listing.entries.iter().map(|e| (e.path.as_str(), e.size, e.kind)).collect();
    let expected = [
        (".gitignore", 14, EntryKind::File),
        ("README.md", 9, EntryKind::File),
        ("link", 9, EntryKind::Symlink),
        ("run.sh", 10, EntryKind::Executable),
        ("src/a.js", 26, EntryKind::File),
        ("src/b.js", 13, EntryKind::File),
    ];
    assert_eq!(seen, expected);
    assert!(!listing.truncated);
    let short = repository.tree(&head, 5).unwrap();
    assert!(short.truncated && short.entries == listing.entries[..5]);

    assert_eq!(repository.read(&head, &path("src/b.js"), 13).unwrap().unwrap(), b"const c = 3;\n");
    assert_eq!(repository.read(&head, &path("src"), 13).unwrap(), None);
    assert_eq!(repository.read(&head, &path("src/none.js"), 13).unwrap(), None);
    assert!(matches!(repository.read(&head, &path("src/b.js"), 12), Err(RepoError::File(_))));
    assert!(matches!(repository.read(&head, &path("link"), 100), Err(RepoError::File(_))));
}
