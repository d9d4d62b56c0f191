//! The repository as a session uses it, on real repositories, and looked at with the git command.

#![expect(clippy::unwrap_used, reason = "the fixture is a test as well")]

mod commits;
mod drafts;
mod fixture;
mod opening;
mod worktrees;
