//! How a model is reached: one request goes out, one answer or one classified fault comes back.
//!
//! Each provider kind is one file (`openai`, `anthropic`, `command`) and one line in `KINDS`. What they share
//! lies beside them: the HTTP pools and the way an answer is read (`http`), server-sent events (`sse`), what a refusal
//! means (`refusal`, `wording`, `retry_after`), and the one function that makes a text fit for people (`report`).
//!
//! Invariants: a call is made once, never repeated. A fault is classified here and nowhere else, exactly as SPEC 4's
//! table says. No key is in any text that leaves this crate. Dropping the future of a call ends the call.
//!
//! Must not know: ractor, breakers, which model is asked next, how often, or when.

mod answer;
mod anthropic;
mod call;
mod command;
mod context;
mod http;
mod openai;
mod pool;
mod probe;
mod refusal;
mod report;
mod retry_after;
mod settings;
mod sse;
mod transport;
mod wording;

use std::sync::Arc;

pub use call::{CallContext, CallRequest, Completion, Finish, ModelClient, Prompt};
pub use futures_util::future::BoxFuture;
pub use probe::Probe;
pub use secrecy::SecretString;
pub use settings::{ProviderSettings, Uncallable};

type Build = fn(&ProviderSettings, &str) -> Result<Arc<dyn ModelClient>, Uncallable>;

/// Every provider kind: the word in the configuration and what makes a client of it.
const KINDS: &[(&str, Build)] =
    &[("openai", openai::build), ("anthropic", anthropic::build), ("command", command::build)];

/// The words that `kind` may be, in the order in which they are documented.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(kind, _)| *kind)
}

/// A client for one model of a provider. `model_name` is the part of the model's id after the first slash.
///
/// Reads no file but the search path (for a command), opens no connection and needs no runtime. Clients are cheap: all
/// of a process share one pool of connections for each kind of address.
///
/// # Errors
/// [`Uncallable`] with the reason, for a person: an unknown kind, a base URL that is none, a key that cannot go into a
/// header, a program that is not there.
pub fn client(settings: &ProviderSettings, model_name: &str) -> Result<Arc<dyn ModelClient>, Uncallable> {
    let Some((_, build)) = KINDS.iter().find(|(kind, _)| *kind == settings.kind) else {
        let known = kinds().collect::<Vec<_>>().join(", ");
        return Err(Uncallable::new(format!("provider kind {:?} is unknown (known: {known})", settings.kind)));
    };
    build(settings, model_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_kind_is_refused_with_the_known_ones() {
        let settings = ProviderSettings { kind: "opnai".to_owned(), ..ProviderSettings::default() };
        let refused = client(&settings, "m").err().unwrap();
        assert_eq!(refused.reason, "provider kind \"opnai\" is unknown (known: openai, anthropic, command)");
    }
}
