//! A unified diff of what a milestone changed, for the reviewer's prompt.

use git2::{DiffOptions, Patch};
use steadfast_core::ids::RepoPath;

use crate::error::{RepoError, git_at};

/// One file before and after; `None`: it does not exist on that side.
pub(crate) struct Pair<'a> {
    pub(crate) path: &'a RepoPath,
    pub(crate) old: Option<Vec<u8>>,
    pub(crate) new: Option<Vec<u8>>,
}

/// The last line of a diff that was cut.
pub(crate) const CUT: &str = "[the diff was cut here: it is longer than fits]\n";

/// Appends one file's part. Nothing for a file that did not change.
pub(crate) fn append(out: &mut String, pair: &Pair<'_>, context_lines: u32) -> Result<(), RepoError> {
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
pub(crate) fn cut(out: &mut String, max_bytes: usize) {
    if out.len() <= max_bytes {
        return;
    }
    let room = max_bytes.saturating_sub(CUT.len());
    let end = out.as_bytes()[..room].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    out.truncate(end);
    out.push_str(CUT);
}
