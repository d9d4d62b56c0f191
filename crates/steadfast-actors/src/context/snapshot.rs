//! What a session knows of the commit that its milestone builds on: listed once, read once, and carried over to the next
//! commit, which differs only in the files that were just written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use steadfast_core::ids::{CommitId, RepoPath};
use steadfast_prompt::prompt::{SourceFile, TreeEntry, tokens};
use steadfast_repo::{EntryKind, Exclude, FileError, RepoError, Repository};

use super::files::Contents;
use super::{MAX_FILE_BYTES, broken};
use crate::file_agent::StopReason;

/// The most files of a repository that are listed for prompts; a larger one is cut at its end.
pub(super) const MAX_LISTED: usize = 20_000;
/// The most text that is kept in memory for a session; beyond it files are read again.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// A commit as the session has read it so far.
pub(crate) struct Snapshot {
    pub(crate) commit: CommitId,
    /// The files that may be shown to a model, sorted by path.
    pub(crate) shown: Vec<TreeEntry>,
    /// Texts that were read; `None`: not there, or no text.
    texts: Mutex<HashMap<RepoPath, Option<Arc<str>>>>,
}

impl Snapshot {
    pub(super) fn list(repository: &Repository, commit: &CommitId, exclude: &Exclude) -> Result<Self, StopReason> {
        let listing = repository.tree(commit, MAX_LISTED).map_err(broken)?;
        let entry = |file: steadfast_repo::TreeEntry| {
            let plain = matches!(file.kind, EntryKind::File | EntryKind::Executable);
            // A name that cannot be a path of ours cannot be written either; it is not shown.
            let path = RepoPath::new(&file.path).ok().filter(|_| plain && !exclude.matches(&file.path))?;
            Some(TreeEntry { path, size: file.size })
        };
        let shown = listing.entries.into_iter().filter_map(entry).collect();
        Ok(Self { commit: commit.clone(), shown, texts: Mutex::default() })
    }

    /// The text of any file of the commit; `None` where it is not there or is no text.
    pub(super) fn text(&self, repository: &Repository, path: &RepoPath) -> Result<Option<Arc<str>>, StopReason> {
        if let Some(text) = self.texts.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
            return Ok(text.clone());
        }
        let text = match repository.read(&self.commit, path, MAX_FILE_BYTES as u64) {
            // A file that is not UTF-8 cannot be shown; it can only be replaced as a whole.
            Ok(bytes) => bytes.and_then(|bytes| String::from_utf8(bytes).ok()).map(Arc::from),
            Err(RepoError::File(FileError::TooLarge { .. })) => None,
            Err(error) => return Err(broken(error)),
        };
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if texts.values().flatten().map(|text| text.len()).sum::<usize>() > MAX_KEPT_BYTES {
            texts.clear();
        }
        texts.insert(path.clone(), text.clone());
        Ok(text)
    }

    /// The texts of the ranked files, those of `over` in its place, until `budget` tokens are full. What cannot be read
    /// is left out: it only helps.
    pub(super) fn read_ranked(
        &self,
        repository: &Repository,
        ranked: &[&TreeEntry],
        over: &Contents,
        budget: usize,
    ) -> Vec<SourceFile> {
        let mut used = 0;
        let mut files = Vec::new();
        for entry in ranked {
            if used >= budget {
                break;
            }
            let text = match over.get(&entry.path) {
                Some(text) => text.as_deref().map(Arc::from),
                None => self.text(repository, &entry.path).ok().flatten(),
            };
            if let Some(text) = text {
                used += tokens(&text);
                files.push(SourceFile { path: entry.path.clone(), text: text.to_string() });
            }
        }
        files
    }

    /// The snapshot of a commit that differs from this one by `changes`.
    pub(super) fn after(&self, commit: &CommitId, changes: &Contents, exclude: &Exclude) -> Self {
        let kept = self.shown.iter().filter(|entry| !changes.contains_key(&entry.path)).cloned();
        let written = changes.iter().filter_map(|(path, text)| {
            let size = text.as_ref()?.len() as u64;
            (!exclude.matches(path.as_str())).then(|| TreeEntry { path: path.clone(), size })
        });
        let mut shown: Vec<TreeEntry> = kept.chain(written).collect();
        shown.sort_by(|one, other| one.path.cmp(&other.path));
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        texts.extend(changes.iter().map(|(path, text)| (path.clone(), text.as_deref().map(Arc::from))));
        Self { commit: commit.clone(), shown, texts: Mutex::new(texts) }
    }
}
