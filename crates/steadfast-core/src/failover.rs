//! What follows when a model fails (SPEC 4): the table, in one function ([`rule`]), and the walk over a role's models
//! ([`Execution`]) that obeys it. Nothing here waits: [`Execution::next`] says until when to.

mod execution;
mod table;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world_tests;

pub use execution::{Ask, Candidate, Execution, Pause, Policy, Refused, Step};
pub use table::{Again, BreakerEffect, NextModel, Rule, rule};
