use std::fs;
use std::os::unix::fs::symlink;

use steadfast_repo::Draft;

use crate::fixture::{Fixture, path};

/// Files, directories, links, a submodule, data, and what lies below or above them.
const PATHS: [&str; 16] = [
    "README.md",
    "README.md/x",
    "src",
    "src/a.js",
    "src/b.js",
    "src/a.js/y",
    "run.sh",
    "new",
    "new/file",
    "new/file/z",
    "out",
    "out/x",
    "src/link",
    "vendor/sub",
    "vendor/sub/x",
    "data.bin",
];

#[test]
fn a_draft_accepts_refuses_and_shows_what_a_worktree_does() {
    let fixture = Fixture::new();
    symlink("src", fixture.top().join("out")).unwrap();
    symlink("a.js", fixture.top().join("src/link")).unwrap();
    fs::write(fixture.top().join("data.bin"), [0, 1, 2]).unwrap();
    fixture.git(&["add", "."]);
    let head = fixture.head();
    fixture.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},vendor/sub")]);
    fixture.git(&["commit", "-qm", "everything that may stand in the way"]);
    let repository = fixture.open();
    let worktree = fixture.worktree(&repository);
    let base = fixture.head();
    let draft = Draft::of(&base);
    let all = PATHS.map(path);
    // What can be written; a worktree words a submodule's place in another way there.
    let shown: Vec<_> = all.iter().filter(|path| !path.as_str().starts_with("vendor")).cloned().collect();
    let mut seed: u64 = 7;
    let mut below = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % n
    };
    let (mut accepted, mut refused) = (0, 0);
    for turn in 0..1_500 {
        if turn % 12 == 0 {
            worktree.reset_to(&base).unwrap();
            draft.reset_to(&base);
        }
        let path = &all[below(all.len())];
        let text = format!("text {turn}\n");
        let (on_disk, in_memory) = match below(3) {
            0 => (
                worktree.may_write(path).map_err(|error| error.to_string()).map(|()| true),
                draft.may_write(&repository, path).map_err(|error| error.to_string()).map(|()| true),
            ),
            1 => (
                worktree.write(path, text.as_bytes()).map_err(|error| error.to_string()).map(|()| true),
                draft.write(&repository, path, text.as_bytes()).map_err(|error| error.to_string()).map(|()| true),
            ),
            _ => (
                worktree.delete(path).map_err(|error| error.to_string()),
                draft.delete(&repository, path).map_err(|error| error.to_string()),
            ),
        };
        assert_eq!(in_memory, on_disk, "turn {turn}: {path}");
        *(if on_disk.is_ok() { &mut accepted } else { &mut refused }) += 1;
        if turn % 4 == 0 {
            let in_memory = draft.diff(&repository, &base, &shown, 3, 10_000).unwrap();
            assert_eq!(in_memory, worktree.diff(&base, &shown, 3, 10_000).unwrap(), "turn {turn}");
        }
    }
    assert!(accepted > 300 && refused > 300, "{accepted} accepted, {refused} refused");
}

#[test]
fn a_draft_writes_nothing_to_the_disk_and_is_over_with_a_reset() {
    let fixture = Fixture::new();
    let before = fixture.checkout_state();
    let repository = fixture.open();
    repository.add_branch("steadfast/x", &fixture.head()).unwrap();
    repository.add_branch("steadfast/x", &fixture.head()).unwrap();
    let draft = Draft::of(&fixture.head());
    draft.write(&repository, &path("src/new.js"), b"let d;\n").unwrap();
    let diff = |draft: &Draft| draft.diff(&repository, &fixture.head(), &[path("src/new.js")], 3, 1_000).unwrap();
    assert_eq!(
        diff(&draft),
        "diff --git a/src/new.js b/src/new.js\nnew file\n--- /dev/null\n+++ b/src/new.js\n@@ -0,0 +1 @@\n+let d;\n"
    );
    draft.reset_to(&fixture.head());
    assert_eq!(diff(&draft), "");
    assert_eq!(fixture.checkout_state(), before);
    assert_eq!(fixture.git(&["worktree", "list"]).lines().count(), 1);
}
