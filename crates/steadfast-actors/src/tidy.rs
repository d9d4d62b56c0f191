//! Finishes what a process that ended too early left of a session that is over.
//!
//! Two things tell what is left to do: the index of completed sessions that are not packed, and the worktrees on disk.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use steadfast_core::ids::SessionId;
use steadfast_core::session::{Phase, Session};
use steadfast_repo::Repository;

use crate::checkpoint_keeper::Keeper;

fn worktrees(state_dir: &Path) -> PathBuf {
    state_dir.join("worktrees")
}

/// Where a session works.
pub(crate) fn worktree(state_dir: &Path, session: &SessionId) -> PathBuf {
    worktrees(state_dir).join(session.as_str())
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

/// Packs a completed session, and removes the worktree of a completed or cancelled one. What fails is tried again at the
/// next start.
pub(crate) async fn one(keeper: &Keeper, state_dir: &Path, session: &Session) {
    if session.phase == Phase::Completed
        && let Err(error) = keeper.archive(&session.id).await
    {
        tracing::warn!(session = %session.id, error = %error, "finished session not packed");
        return;
    }
    let dir = worktree(state_dir, &session.id);
    if !matches!(session.phase, Phase::Completed | Phase::Cancelled) || !dir.exists() {
        return;
    }
    let repo = session.repo.clone();
    let removing = tokio::task::spawn_blocking(move || Repository::open(Path::new(&repo))?.remove_worktree(&dir));
    let error = match removing.await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => crate::chain(&error),
        Err(error) => crate::chain(&error),
    };
    tracing::warn!(session = %session.id, error, "worktree not removed");
}
