//! A unified diff of what a milestone changed, for the reviewer's prompt.

use std::path::Path;

use git2::{DiffOptions, Patch};
use steadfast_core::ids::{CommitId, RepoPath};

use crate::error::{FileError, RepoError, git_at};
use crate::repository::find_commit;
use crate::worktree::MAX_DIFF_FILE_BYTES;

/// One file before and after; `None`: it does not exist on that side.
struct Pair<'a> {
    path: &'a RepoPath,
    old: Option<Vec<u8>>,
    new: Option<Vec<u8>>,
}

/// The last line of a diff that was cut.
pub(crate) const CUT: &str = "[the diff was cut here: it is longer than fits]\n";

/// The files at `paths` as they are in `base` against what `now` reads of them.
pub(crate) fn of_paths(
    git: &git2::Repository,
    base: &CommitId,
    paths: &[RepoPath],
    now: impl Fn(&RepoPath) -> Result<Option<Vec<u8>>, FileError>,
    context_lines: u32,
    max_bytes: usize,
) -> Result<String, RepoError> {
    let tree = find_commit(git, base)?.tree().map_err(git_at("read a tree"))?;
    let mut out = String::new();
    for path in paths {
        if out.len() > max_bytes {
            break;
        }
        let new = match now(path) {
            Ok(new) => new,
            Err(fault @ FileError::Io { .. }) => return Err(fault.into()),
            Err(fault) => {
                out.push_str(&format!("diff --git a/{path} b/{path}\n[not shown: {fault}]\n"));
                continue;
            }
        };
        let entry = tree.get_path(Path::new(path.as_str())).ok();
        let blob = entry.and_then(|entry| entry.to_object(git).ok()?.into_blob().ok());
        let old = blob.map(|blob| blob.content().to_vec());
        if old.as_ref().is_some_and(|old| old.len() as u64 > MAX_DIFF_FILE_BYTES) {
            out.push_str(&format!("diff --git a/{path} b/{path}\n[not shown: the old file is too large]\n"));
            continue;
        }
        append(&mut out, &Pair { path, old, new }, context_lines)?;
    }
    cut(&mut out, max_bytes);
    Ok(out)
}

/// Appends one file's part. Nothing for a file that did not change.
fn append(out: &mut String, pair: &Pair<'_>, context_lines: u32) -> Result<(), RepoError> {
    if pair.old == pair.new {
        return Ok(());
    }
    let path = pair.path;
    let name = |side: char, content: &Option<Vec<u8>>| match content {
        Some(_) => format!("{side}/{path}"),
        None => "/dev/null".to_owned(),
    };
    let (old_name, new_name) = (name('a', &pair.old), name('b', &pair.new));
    out.push_str(&format!("diff --git a/{path} b/{path}\n"));
    match (&pair.old, &pair.new) {
        (None, _) => out.push_str("new file\n"),
        (_, None) => out.push_str("deleted file\n"),
        (Some(_), Some(_)) => {}
    }
    let (old, new) = (pair.old.as_deref().unwrap_or_default(), pair.new.as_deref().unwrap_or_default());
    let mut options = DiffOptions::new();
    options.context_lines(context_lines);
    let mut patch =
        Patch::from_buffers(old, None, new, None, Some(&mut options)).map_err(git_at("compare two files"))?;
    if patch.delta().flags().is_binary() {
        out.push_str(&format!("Binary files {old_name} and {new_name} differ\n"));
        return Ok(());
    }
    out.push_str(&format!("--- {old_name}\n+++ {new_name}\n"));
    let printed = patch.print(&mut |_delta, _hunk, line| {
        let origin = line.origin();
        if matches!(origin, '+' | '-' | ' ') {
            out.push(origin);
        }
        // `F` is the file header, which stands above already.
        if origin != 'F' {
            out.push_str(&String::from_utf8_lossy(line.content()));
        }
        true
    });
    printed.map_err(git_at("compare two files"))?;
    if !out.ends_with('\n') {
        out.push('\n');
    }
    Ok(())
}

/// Cuts at the end of a line, so that the whole, with a last line that says so, has at most `max_bytes`.
fn cut(out: &mut String, max_bytes: usize) {
    if out.len() <= max_bytes {
        return;
    }
    let room = max_bytes.saturating_sub(CUT.len());
    let end = out.as_bytes()[..room].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    out.truncate(end);
    out.push_str(CUT);
}
