//! Why a script was refused.

/// A fault in a script: where it is and what is wrong, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ScriptError {
    /// The line in the text that was parsed, from 1.
    pub line: usize,
    /// What is wrong and, where it can be told, what was meant; no full stop at the end.
    pub message: String,
}
