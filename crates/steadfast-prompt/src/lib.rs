//! What is said to a model and how its answer is read: ideas, prompts and answers (SPEC 12), as pure functions.
//!
//! Everything that a model or a repository says is data here: it is shown inside fences that it cannot end, and read
//! with rules that refuse what is ambiguous instead of guessing, because a guess would become a commit.
//!
//! Must not know: files, clocks, tokio, any provider's format. Prompts are the texts in `prompts/`; other texts for them
//! are handed in as strings.

pub mod answer;
pub mod fence;
pub mod idea;
pub mod prompt;
pub mod rank;

pub use answer::AnswerFault;
pub use idea::{Idea, IdeaError};
pub use prompt::{Prompt, Templates};
