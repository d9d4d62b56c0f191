//! Finishes what a process that ended too early left of a session that is over.
//!
//! Two things tell what is left to do: the index of completed sessions that are not packed, and the worktrees on disk.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use steadfast_core::ids::SessionId;
use steadfast_core::session::{Phase, Session};
use steadfast_fault_point::{self as fault_point, Point};
use steadfast_repo::{RepoError, Repository};

use crate::checkpoint_keeper::Keeper;

fn worktrees(state_dir: &Path) -> PathBuf {
    state_dir.join("worktrees")
}

/// Where a session works.
pub(crate) fn worktree(state_dir: &Path, session: &SessionId) -> PathBuf {
    worktrees(state_dir).join(session.as_str())
}

/// Where it is noted which check of a session runs.
pub(crate) fn check_note(state_dir: &Path, session: &SessionId) -> PathBuf {
    worktrees(state_dir).join(format!("{session}.check"))
}

/// Packs completed sessions and clears worktrees of those that are over. At a start, before anything works.
pub(crate) async fn all(keeper: &Keeper, state_dir: &Path) {
    let unpacked = keeper.unpacked().unwrap_or_else(|error| {
        tracing::warn!(error = %error, "finished sessions not packed");
        Vec::new()
    });
    let on_disk = std::fs::read_dir(worktrees(state_dir)).into_iter().flatten().flatten();
    let named = on_disk.filter_map(|entry| SessionId::parse(entry.file_name().to_str()?).ok());
    for id in unpacked.into_iter().chain(named).collect::<BTreeSet<_>>() {
        if let Ok(Some(session)) = keeper.head(&id) {
            one(keeper, state_dir, &session).await;
        }
    }
}

/// Packs a completed session for which no model is to do anything any more, and removes the worktree of a completed or
/// cancelled one. What fails is tried again at the next start.
pub(crate) async fn one(keeper: &Keeper, state_dir: &Path, session: &Session) {
    if session.phase == Phase::Completed && !keeper.owes(&session.id) {
        fault_point::reach(Point::PackingBefore);
        if let Err(error) = keeper.archive(&session.id).await {
            tracing::warn!(session = %session.id, error = %error, "finished session not packed");
            return;
        }
        fault_point::reach(Point::Packed);
    }
    if matches!(session.phase, Phase::Completed | Phase::Cancelled) && keeper.fence().is_ok() {
        remove_worktree(state_dir, session).await;
    }
}

/// Removes a session's worktree, where it has one. Where its repository is gone, the folder alone.
async fn remove_worktree(state_dir: &Path, session: &Session) {
    let dir = worktree(state_dir, &session.id);
    if !dir.exists() {
        return;
    }
    let repo = PathBuf::from(&session.repo);
    let removing = tokio::task::spawn_blocking(move || {
        if repo.exists() {
            return Repository::open(&repo)?.remove_worktree(&dir);
        }
        std::fs::remove_dir_all(&dir).map_err(|source| RepoError::Io { what: "remove", path: dir, source })
    });
    let error = match removing.await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => crate::chain(&error),
        Err(error) => crate::chain(&error),
    };
    tracing::warn!(session = %session.id, error, "worktree not removed");
}

/// What the retention has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Sessions that had been over for longer than they are kept.
    pub sessions: usize,
    /// Copies of broken stores of that age.
    pub copies: usize,
}

/// Applies the retention: sessions that were over before `before_ms` (milliseconds since 1970) go, but for those in
/// `spare`; so do copies of broken stores. Branches stay. `is_asked`: a person waits for it, and for the space.
///
/// # Errors
/// For a person. A part may be removed then, and a repetition goes on.
pub(crate) async fn prune(
    keeper: &Keeper,
    state_dir: &Path,
    before_ms: u64,
    spare: HashSet<SessionId>,
    is_asked: bool,
) -> Result<Pruned, String> {
    let sessions = keeper.prune(before_ms, spare).await.map_err(|error| crate::chain(&error))?;
    for session in &sessions {
        // A failed one has kept its worktree so far.
        remove_worktree(state_dir, session).await;
    }
    let store = state_dir.join("store");
    let before = UNIX_EPOCH + Duration::from_millis(before_ms);
    let removing = tokio::task::spawn_blocking(move || match store.exists() {
        true => steadfast_store::remove_copies(&store, before),
        false => Ok(0),
    });
    let copies = removing.await.map_err(|error| crate::chain(&error))?.map_err(|error| crate::chain(&error))?;
    if is_asked {
        keeper.compact().await.map_err(|error| crate::chain(&error))?;
    }
    Ok(Pruned { sessions: sessions.len(), copies })
}
