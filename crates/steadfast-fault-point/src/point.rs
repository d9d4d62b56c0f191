//! The points, in one list. A name is the crate's or the part's, the thing, and how far it has come; a step that is made
//! durable has one point before it begins and one after each of its parts.

macro_rules! points {
    ($($(#[doc = $doc:literal])+ $point:ident = $name:literal,)+) => {
        /// A place in the program at which a fault can be told to happen.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Point {
            $($(#[doc = $doc])+ $point,)+
        }

        impl Point {
            /// All of them, in the order of the list.
            pub const ALL: &[Self] = &[$(Self::$point),+];

            /// Its name in the environment, unique.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)+
                }
            }
        }
    };
}

impl Point {
    /// The point of this name; `None`: there is none.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|point| point.name() == name)
    }
}

points! {
    /// The supervisor is about to answer a ping.
    SupervisorPing = "supervisor-ping",
    /// A view in the terminal has connected.
    Watching = "watching",

    // The store: opening.
    /// What journals hold is in the tree, and the epoch is not raised yet.
    StoreEpochBefore = "store-epoch-before",
    /// The raised epoch is on disk in the journal's header, and the small file beside it does not say so yet.
    StoreEpochRaised = "store-epoch-raised",
    /// The store is open and all of it is on disk.
    StoreOpened = "store-opened",
    /// The small file of the epoch is about to be written.
    StoreWitnessBefore = "store-witness-before",
    /// Its new text is written, and it does not have its name yet.
    StoreWitnessUnnamed = "store-witness-unnamed",
    /// It has its name.
    StoreWitnessWritten = "store-witness-written",

    // The store: one group of batches.
    /// A frame is about to be written into the journal.
    StoreFrameBefore = "store-frame-before",
    /// It is written, and not synced.
    StoreFrameWritten = "store-frame-written",
    /// It is on disk, and nobody has been told.
    StoreFrameSynced = "store-frame-synced",
    /// All who waited for it have been told.
    StoreFrameTold = "store-frame-told",
    /// The journal's header says how far the file has grown.
    StoreJournalGrown = "store-journal-grown",

    // The store: the journal's files.
    /// A journal's header is about to be written, which forgets the frames behind it.
    StoreJournalBefore = "store-journal-before",
    /// It is written, and not synced.
    StoreJournalWritten = "store-journal-written",
    /// It is on disk.
    StoreJournalBegun = "store-journal-begun",
    /// A journal's file is about to be removed.
    StoreJournalRemoving = "store-journal-removing",
    /// It is removed, and its folder not synced.
    StoreJournalRemoved = "store-journal-removed",

    // The store: folding.
    /// The tables have changed places; the next journal takes the writes.
    StoreFrozen = "store-frozen",
    /// A piece of the frozen table is in the tree, perhaps not on disk.
    StorePieceFolded = "store-piece-folded",
    /// All pieces are in the tree, and it is about to be flushed.
    StoreTreeFlushing = "store-tree-flushing",
    /// sled has flushed, and its file is not synced.
    StoreTreeFlushed = "store-tree-flushed",
    /// The tree is on disk, and the journal still holds the same.
    StoreTreeSynced = "store-tree-synced",
    /// The journal's frames are forgotten.
    StoreRetired = "store-retired",

    // The store: giving space back.
    /// The fresh tree is whole, beside the old one.
    StoreCopied = "store-copied",
    /// The old tree has its new name, and none has the place.
    StoreOldAside = "store-old-aside",
    /// The fresh tree has its place, and the old one is still there.
    StoreSwapped = "store-swapped",

    // The store: closing.
    /// The store is about to be closed.
    StoreClosing = "store-closing",
    /// The tree is closed, and about to be opened for sled's snapshot.
    StoreSnapshotBefore = "store-snapshot-before",
    /// sled has written its snapshot.
    StoreSnapshotWritten = "store-snapshot-written",
    /// The store is closed.
    StoreClosed = "store-closed",

    // The repository: the objects of a commit.
    /// The objects of a commit are about to be written.
    RepoPackBefore = "repo-pack-before",
    /// They are written and synced under temporary names.
    RepoPackWritten = "repo-pack-written",
    /// The pack has its name, its index not.
    RepoPackNamed = "repo-pack-named",
    /// Both have their names, and the folder is not synced.
    RepoPackIndexed = "repo-pack-indexed",
    /// They are on disk.
    RepoPackSynced = "repo-pack-synced",

    // The repository: a branch, when it is made and when it moves.
    /// The branch is about to be locked.
    RepoBranchBefore = "repo-branch-before",
    /// It is locked, and its new value lies in the lock.
    RepoBranchLocked = "repo-branch-locked",
    /// What is moved is on disk, and the branch is where it was.
    RepoBranchMoving = "repo-branch-moving",
    /// The reflog tells of the move, and the branch does not.
    RepoReflogWritten = "repo-reflog-written",
    /// The branch has moved, and its folder is not synced.
    RepoBranchMoved = "repo-branch-moved",
    /// The move is on disk.
    RepoBranchSynced = "repo-branch-synced",

    // The repository: a session's worktree.
    /// A worktree is about to be made.
    RepoWorktreeBefore = "repo-worktree-before",
    /// Its administrative folder is there and empty.
    RepoWorktreeAdmin = "repo-worktree-admin",
    /// Its own folder is there.
    RepoWorktreeFolder = "repo-worktree-folder",
    /// One of the four files that tie the two together is written.
    RepoWorktreeLink = "repo-worktree-link",
    /// They are tied together, and nothing is checked out.
    RepoWorktreeLinked = "repo-worktree-linked",
    /// The commit's files are checked out.
    RepoWorktreeCheckedOut = "repo-worktree-checked-out",
    /// A worktree is about to be reset.
    RepoWorktreeResetting = "repo-worktree-resetting",
    /// The tracked files are those of the commit; others are still there.
    RepoWorktreeTracked = "repo-worktree-tracked",
    /// It is reset.
    RepoWorktreeReset = "repo-worktree-reset",
    /// A worktree is about to be removed.
    RepoWorktreeRemoving = "repo-worktree-removing",
    /// Its files are gone; its folder and its administrative folder are not.
    RepoWorktreeEmptied = "repo-worktree-emptied",
    /// Its administrative folder is gone, and the empty folder not.
    RepoWorktreeAdminGone = "repo-worktree-admin-gone",
    /// Both are gone.
    RepoWorktreeGone = "repo-worktree-gone",

    // The repository: files and checks in it.
    /// A file is about to be written.
    RepoFileBefore = "repo-file-before",
    /// Its bytes are written under a temporary name.
    RepoFileUnnamed = "repo-file-unnamed",
    /// It has its name.
    RepoFileWritten = "repo-file-written",
    /// A file is deleted.
    RepoFileDeleted = "repo-file-deleted",
    /// A file is written into a draft, which lies in memory.
    RepoDraftWritten = "repo-draft-written",
    /// A check runs, and it is not noted which process it is.
    RepoCheckBegun = "repo-check-begun",
    /// It runs, and is noted.
    RepoCheckNoted = "repo-check-noted",
    /// It has ended, and is still noted.
    RepoCheckEnded = "repo-check-ended",
    /// Its note is gone.
    RepoCheckForgotten = "repo-check-forgotten",

    // What reaches people outside.
    /// A local issue's file is about to be written, or written anew.
    NotifyFileBefore = "notify-file-before",
    /// Its text is on disk under a temporary name.
    NotifyFileUnnamed = "notify-file-unnamed",
    /// It has its name, and its folder is not synced.
    NotifyFileNamed = "notify-file-named",
    /// It is on disk.
    NotifyFileSynced = "notify-file-synced",
    /// A request is about to be sent to GitHub.
    NotifyGithubBefore = "notify-github-before",
    /// GitHub has answered.
    NotifyGithubAnswered = "notify-github-answered",
    /// An alert is about to be sent to the webhook.
    NotifyWebhookBefore = "notify-webhook-before",
    /// The webhook has answered.
    NotifyWebhookAnswered = "notify-webhook-answered",

    // What the actors save, and do when it is saved.
    /// A submission is about to be saved.
    SubmissionBefore = "submission-before",
    /// It is on disk, and nobody has been told.
    SubmissionSaved = "submission-saved",
    /// An action of a session is about to begin; what it builds on is on disk where it changes something outside.
    SessionAction = "session-action",
    /// The action has ended, and nothing of it is saved.
    SessionActionDone = "session-action-done",
    /// An answer has come, and is not saved.
    AnswerBefore = "answer-before",
    /// It is on disk, and nobody has been told.
    AnswerSaved = "answer-saved",
    /// The session's branch is about to be claimed.
    ClaimBefore = "claim-before",
    /// It is claimed.
    Claimed = "claimed",
    /// A milestone's intent is on disk, and whether this process may still commit is about to be asked.
    CommitBefore = "commit-before",
    /// The commit is there, the branch has moved, and there is no receipt.
    CommitDone = "commit-done",
    /// The checks are about to run.
    ChecksBefore = "checks-before",
    /// They have run, and nothing of it is saved.
    ChecksDone = "checks-done",
    /// A manual task is saved.
    ManualSaved = "manual-saved",
    /// A delivery is about to begin, and whether this process may still deliver is about to be asked.
    DeliveryBefore = "delivery-before",
    /// It has arrived, and there is no receipt.
    DeliveryArrived = "delivery-arrived",
    /// Its receipt is on disk.
    DeliveryReceipt = "delivery-receipt",
    /// A completed session is about to be packed.
    PackingBefore = "packing-before",
    /// It is packed.
    Packed = "packed",
    /// A chunk of events is about to be handed to the store.
    FeedChunk = "feed-chunk",
}
