//! One session as a state and the way it goes: what to do next, and what follows from what happened.
//!
//! Invariant: the state alone says what comes next ([`Run::action`]), so a process that starts from a saved state goes
//! on exactly where the last one saved. Every action may be done twice: answers are looked up before they are asked
//! for, files are written from answers, and a commit's parent, author and date are fixed in its saved intent.

mod machine;
mod redeem;
mod state;

pub use machine::{Action, AgentTask, Event, Follow, Policy, Run};
pub use redeem::{AtWork, Debt, Debts, Due, Owed, Redeemed};
pub use state::{
    AgentDone, AgentFailed, AgentResult, AgentState, Attempt, AttemptOutcome, CheckOutcome, CommitIntent, Identity,
    Interrupt, Milestone, MilestoneStatus, Phase, ReviewOutcome, Session, Spent, Stage, StepKey, StepPlace, Target,
    Writer,
};

#[cfg(test)]
mod tests;
