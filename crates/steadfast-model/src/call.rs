//! One call: what is asked, for whom, and what comes back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use steadfast_core::fault::{CallFault, Usage};
use steadfast_core::ids::{AttemptId, IdeaId, RepoPath, Role, SessionId};

use crate::probe::{self, Probe};

/// What a model is told. Shared, never copied on its way from the builder to the wire.
#[derive(Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The standing instructions; empty: none are sent.
    pub system: Arc<str>,
    /// The task.
    pub user: Arc<str>,
}

impl fmt::Debug for Prompt {
    /// Sizes only: a prompt holds files of the user and has no place in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prompt({} + {} bytes)", self.system.len(), self.user.len())
    }
}

/// What a call is for. Goes along as `X-Steadfast-*` headers (SPEC 12), to a command as `STEADFAST_*` variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallContext {
    /// Who asks.
    pub role: Role,
    /// Of which session.
    pub session: SessionId,
    /// Of which idea.
    pub idea: IdeaId,
    /// Counted from 1; `None` while there is no plan.
    pub milestone: Option<u32>,
    /// The file that a coder writes; `None` for other roles and for a milestone without files.
    pub file: Option<RepoPath>,
    /// Counted from 1 within the execution.
    pub attempt: u32,
    /// Names this attempt alone.
    pub id: AttemptId,
}

/// One call of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRequest {
    /// What the model is told.
    pub prompt: Prompt,
    /// What it is for.
    pub context: CallContext,
    /// The most tokens that the answer may have; `None`: what the provider takes by itself (8,192 for Anthropic, whose
    /// API demands a number).
    pub max_output_tokens: Option<u32>,
    /// The answer is to be JSON. A hint: see [`ProviderSettings::json_mode`](crate::ProviderSettings::json_mode).
    pub json: bool,
    /// Bounds the whole call, from connecting to the answer's last byte, on tokio's clock.
    pub timeout: Duration,
}

/// Why the model stopped, when its answer is usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// It was done.
    Stop,
    /// Something else that does not make the text useless, in the provider's word, at most 200 characters; `none` when
    /// the provider gave no reason.
    Other(String),
}

/// An answer with text in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Completion {
    /// As it came, not trimmed; holds more than white space, at most 8 MiB.
    pub text: Arc<str>,
    /// Why it ended.
    pub finish: Finish,
    /// As the provider counted; zeros where it did not say.
    pub usage: Usage,
    /// The provider's id of this request, for asking it what happened; at most 200 characters.
    pub provider_request_id: Option<String>,
    /// The model that the provider says has answered; at most 200 characters.
    pub served_model: Option<String>,
}

impl fmt::Debug for Completion {
    /// The text by its size only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion")
            .field("text", &format_args!("{} bytes", self.text.len()))
            .field("finish", &self.finish)
            .field("usage", &self.usage)
            .field("provider_request_id", &self.provider_request_id)
            .field("served_model", &self.served_model)
            .finish()
    }
}

/// One model at one provider.
pub trait ModelClient: Send + Sync + 'static {
    /// Makes one call. Nothing happens before the future is polled; dropping it ends the call: the connection is closed,
    /// a command's whole process group is killed. Never repeats anything by itself.
    ///
    /// # Errors
    /// A [`CallFault`], classified as in SPEC 4. [`Fault::Cancelled`](steadfast_core::fault::Fault::Cancelled) is never
    /// among them: a cancelled call reports nothing.
    fn complete(&self, request: Arc<CallRequest>) -> BoxFuture<'static, Result<Completion, CallFault>>;

    /// Finds out whether the model answers, as cheaply as that can be known (see [`Probe`]): by its provider's list where
    /// that tells, else with a question of a few tokens. At most about a minute and a half.
    ///
    /// # Errors
    /// A [`CallFault`], as of a call.
    fn probe(&self, context: CallContext) -> BoxFuture<'static, Result<Probe, CallFault>> {
        let call = self.complete(probe::question(context));
        Box::pin(async move { probe::verdict(call.await) })
    }

    /// The host's name or address without its port, for telling an outage of our own network from one host's; `None`
    /// for a command.
    fn host(&self) -> Option<&str>;
}
