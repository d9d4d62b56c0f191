//! What is done when a store has lost something: the indexes follow from what is left, and what is gone is named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use steadfast_core::ids::SessionId;
use steadfast_core::session::{Phase, Session};
use steadfast_repo::Repository;
use steadfast_store::{
    Batch, CheckpointStore, Key, OpenOptions, Prefix, Scan, SledStore, StoreError, decode, set_aside_folders,
};

use super::read::head_of;
use super::{
    COUNTS, FINISHED, ISSUE, KeeperError, MARK, finished, idea_mark, issue_key, open_mark, pending_mark, unpacked_mark,
};
use crate::records::{Counts, IssueRecord};

/// How many sessions are named one by one.
const MAX_NAMED: usize = 20;

/// Opens the store; answers what had to be mended and what is lost, for a person. Blocks.
pub(super) fn open(state_dir: &Path, wait: Duration) -> Result<(SledStore, Vec<String>), KeeperError> {
    let dir = state_dir.join("store");
    let is_missing = !dir.exists();
    let options = OpenOptions { lock_wait: wait };
    let (mut store, mut report) = SledStore::open(&dir, &options)?;
    if super::read::books(&store).is_err() {
        // A place that does not read shows when it is read; opening again mends it.
        drop(store);
        let (again, mended) = SledStore::open(&dir, &options)?;
        store = again;
        report.actions.extend(mended.actions);
        report.lost |= mended.lost;
    }
    let mut lines = report.actions;
    if is_missing {
        lines.extend(traces(state_dir));
    }
    if report.lost {
        lines.extend(after_a_loss(&store, state_dir)?);
    }
    Ok((store, lines))
}

/// What an earlier store has left beside it, when it is gone as a whole.
fn traces(state_dir: &Path) -> Option<String> {
    let count = |folder: &str| std::fs::read_dir(state_dir.join(folder)).into_iter().flatten().flatten().count();
    let (worktrees, issues) = (count("worktrees"), count("issues"));
    (worktrees + issues > 0).then(|| {
        format!(
            "there was no store in {}, though {issues} issue(s) and {worktrees} worktree(s) of earlier sessions lie beside \
             it: what it knew of them is lost here",
            state_dir.display()
        )
    })
}

/// Sessions that something names, and what is known of each.
type Named = BTreeMap<SessionId, Option<String>>;

/// Makes the indexes anew from the heads, and says what is named somewhere and has no head any more.
fn after_a_loss(store: &dyn CheckpointStore, state_dir: &Path) -> Result<Vec<String>, KeeperError> {
    let mut lines = Vec::new();
    let mut heads = BTreeMap::new();
    let mut batch = Batch::new();
    let mut counts = Counts::default();
    let scanned = store.scan(&Scan::all(Prefix::session_heads()))?;
    for (key, record) in &scanned.entries {
        let Ok(session) = head_of(record) else {
            lines.push(format!("the record {key} does not read"));
            continue;
        };
        put_marks(store, &mut batch, &session, record.tag == FINISHED.tag)?;
        *finished(&mut counts, session.phase) += 1;
        heads.insert(session.id.clone(), session);
    }
    let named = named(store, state_dir)?;
    for session in named.keys().filter(|session| !heads.contains_key(session)) {
        batch.delete(open_mark(session)).delete(unpacked_mark(session));
    }
    batch.put_value(Key::meta("counts"), COUNTS, &counts)?;
    store.apply(&batch)?;
    store.sync()?;
    lines.extend(gone(&heads, named, state_dir));
    Ok(lines)
}

/// What the indexes must say of a session.
fn put_marks(
    store: &dyn CheckpointStore,
    batch: &mut Batch,
    session: &Session,
    is_packed: bool,
) -> Result<(), StoreError> {
    batch.put_value(idea_mark(session), MARK, "")?;
    if session.phase.is_final() {
        batch.delete(open_mark(&session.id));
    } else {
        batch.put_value(open_mark(&session.id), MARK, "")?;
    }
    if is_packed || session.phase != Phase::Completed {
        batch.delete(unpacked_mark(&session.id));
    } else {
        batch.put_value(unpacked_mark(&session.id), MARK, "")?;
    }
    for (_, record) in store.scan(&Scan::all(Prefix::session_parts_named(&session.id, "i/")))?.entries {
        let Ok(issue) = decode::<IssueRecord>(ISSUE, &record) else { continue };
        if issue.url.is_none() {
            batch.put_value(pending_mark(&issue.issue.key), MARK, issue_key(&issue).as_str())?;
        }
    }
    Ok(())
}

/// Every session that an index, a part or a worktree names.
fn named(store: &dyn CheckpointStore, state_dir: &Path) -> Result<Named, StoreError> {
    let mut named = Named::new();
    for key in store.keys(&Scan::all(Prefix::everything()))? {
        if let Some(session) = key.session() {
            named.entry(session).or_default();
            continue;
        }
        let mut words = key.name().split('/');
        let (index, first, second) = (words.next(), words.next(), words.next());
        let (session, idea) = match index {
            Some("open" | "unpacked" | "standing" | "events") => (first, None),
            Some("idea") => (second, first),
            _ => continue,
        };
        if let Some(session) = session.and_then(|id| SessionId::parse(id).ok()) {
            let known = named.entry(session).or_default();
            *known = known.take().or(idea.map(|idea| format!("idea {idea}")));
        }
    }
    for (session, _) in worktrees(state_dir) {
        named.entry(session).or_default();
    }
    Ok(named)
}

fn worktrees(state_dir: &Path) -> Vec<(SessionId, PathBuf)> {
    let entries = std::fs::read_dir(state_dir.join("worktrees")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((SessionId::parse(entry.file_name().to_str()?).ok()?, entry.path()))).collect()
}

/// Sentences about sessions that have no head: by their ids, and with their branches where a repository is known that has
/// them, by a worktree or by another session.
fn gone(heads: &BTreeMap<SessionId, Session>, named: Named, state_dir: &Path) -> Vec<String> {
    let mut branches: BTreeMap<SessionId, String> = BTreeMap::new();
    let known = heads.values().map(|session| PathBuf::from(&session.repo)).collect::<BTreeSet<_>>();
    for place in known.into_iter().chain(worktrees(state_dir).into_iter().map(|(_, place)| place)) {
        // A repository that does not open says nothing.
        let Ok(repository) = Repository::open(&place) else { continue };
        let common = repository.git_dir().parent().map_or(place, Path::to_owned);
        for (branch, session) in repository.session_branches().unwrap_or_default() {
            branches.entry(session).or_insert(format!("branch {branch} in {}", common.display()));
        }
    }
    let missing: Vec<_> = named.into_iter().filter(|(session, _)| !heads.contains_key(session)).collect();
    let mut lines: Vec<String> = missing
        .iter()
        .take(MAX_NAMED)
        .map(|(session, idea)| {
            let idea = idea.as_deref().map_or(String::new(), |idea| format!(" ({idea})"));
            match branches.get(session) {
                Some(branch) => format!("session {session}{idea} is lost here; its commits are on {branch}"),
                None => format!("session {session}{idea} is lost here; what it had committed is on its branch"),
            }
        })
        .collect();
    // Of an earlier loss, of another state directory, or let go of long ago.
    let strangers = branches
        .iter()
        .filter(|(session, _)| !heads.contains_key(session) && !missing.iter().any(|(missing, _)| missing == *session));
    lines.extend(strangers.take(MAX_NAMED).map(|(session, branch)| {
        format!("{branch} holds commits of session {session}, which the store does not know, or not any more")
    }));
    if missing.len() > MAX_NAMED {
        lines.push(format!("{} more sessions are lost here", missing.len() - MAX_NAMED));
    }
    lines.push(format!(
        "what to do: put a backup of the store back, if there is one ({} is where it lies); else look at the branches \
         `steadfast/…` of your repositories, keep what is good, and run the ideas again that are not finished",
        state_dir.join("store").display()
    ));
    lines
}

/// Folders in which openings of this state directory's store have kept damaged files, oldest first.
pub fn set_aside_files(state_dir: &Path) -> Vec<PathBuf> {
    set_aside_folders(&state_dir.join("store"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use steadfast_notify::{Issue, IssueKind};
    use steadfast_prompt::Idea;
    use steadfast_store::MemoryStore;

    use super::*;
    use crate::Submission;
    use crate::checkpoint_keeper::Keeper;
    use crate::records::Write;

    /// Sessions of these ideas, saved as new; the last one with an issue that waits for delivery.
    async fn saved(store: &MemoryStore, ideas: &[&str]) -> (tempfile::TempDir, Vec<Session>) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let repo = dir.path().join("repo");
        std::fs::create_dir(&repo).expect("made");
        std::fs::write(repo.join("a"), "a").expect("written");
        Repository::init_with_files(&repo, "Begin").expect("a repository");
        let keeper = keeper(store);
        let mut sessions = Vec::new();
        for name in ideas {
            let idea = Idea::parse("# Title\n\nText.\n", name).expect("an idea");
            let submission = Submission::prepare(idea.clone(), &repo, true).expect("prepared");
            let session = submission.session;
            let issue = Issue {
                key: format!("{}-m1-a", session.id),
                kind: IssueKind::FailedFile,
                title: "Write it".to_owned(),
                body: String::new(),
                labels: Vec::new(),
                assignee: None,
            };
            let writes = vec![
                Write::Head(Box::new(session.clone())),
                Write::Idea(session.id.clone(), Box::new(idea)),
                Write::Issue(session.id.clone(), Box::new(issue), 1),
            ];
            keeper.save(writes).await.expect("saved");
            sessions.push(session);
        }
        keeper.close().await;
        (dir, sessions)
    }

    fn keeper(store: &MemoryStore) -> Keeper {
        let policy = crate::tests::rig::session_policy();
        Keeper::over(Arc::new(store.clone()), policy, Vec::new()).expect("opens")
    }

    #[tokio::test]
    async fn after_a_loss_the_indexes_follow_from_the_heads_and_what_has_none_is_named() {
        let store = MemoryStore::new();
        let (dir, sessions) = saved(&store, &["lost", "kept"]).await;
        let [lost, kept] = &sessions[..] else { panic!("two") };
        let mut batch = Batch::new();
        batch.delete(Key::session_head(&lost.id)).delete(open_mark(&kept.id)).delete(Key::meta("counts"));
        batch.delete(pending_mark(&format!("{}-m1-a", kept.id))).delete(idea_mark(kept));
        store.apply(&batch).and_then(|()| store.sync()).expect("damaged");
        let lines = after_a_loss(&store, dir.path()).expect("mended").join("\n");
        assert!(lines.contains(&format!("session {} (idea lost) is lost here", lost.id)), "{lines}");
        assert!(!lines.contains(kept.id.as_str()) && lines.contains("what to do: "), "{lines}");
        let keeper = keeper(&store);
        assert_eq!(keeper.unfinished().expect("reads"), std::slice::from_ref(kept));
        assert_eq!(keeper.counts().expect("counted").unfinished, 1);
        assert_eq!(keeper.newest_of_idea("kept").expect("reads"), Some(kept.id.clone()));
        let waiting: Vec<SessionId> =
            keeper.undelivered().expect("reads").into_iter().map(|issue| issue.session).collect();
        assert!(waiting.contains(&kept.id));
        keeper.close().await;
    }

    #[tokio::test]
    async fn a_record_that_was_set_aside_is_named_for_its_session_from_then_on() {
        let store = MemoryStore::new();
        let (_dir, sessions) = saved(&store, &["one", "two"]).await;
        let [one, two] = &sessions[..] else { panic!("two") };
        let keeper = keeper(&store);
        assert_eq!((keeper.damaged(&one.id).expect("reads"), keeper.n_set_aside().expect("reads")), (Vec::new(), 0));
        let issue = store.keys(&Scan::all(Prefix::session_parts_named(&one.id, "i/"))).expect("keys").remove(0);
        assert!(store.damage(&issue) && store.damage(&Key::session_head(&two.id)));
        assert!(keeper.record(&one.id).expect("reads").expect("is there").issues.is_empty());
        assert!(keeper.record(&two.id).is_err(), "there is none before it");
        for _ in 0..2 {
            assert_eq!(keeper.damaged(&one.id).expect("reads"), [issue.name()]);
            assert_eq!(keeper.damaged(&two.id).expect("reads"), ["head"]);
        }
        assert_eq!(keeper.n_set_aside().expect("reads"), 2);
        keeper.close().await;
    }
}
