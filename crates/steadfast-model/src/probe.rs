//! Whether a model answers, found out as cheaply as it can be known.
//!
//! A provider's list of models costs nothing. It is believed when it names the model and is not given to whoever has no key:
//! OpenRouter and others show theirs to everybody, and then it says nothing of the key. Else only an answer tells.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::Url;
use serde_json::Value;
use steadfast_core::fault::{CallFault, Fault, Usage};

use crate::call::{CallContext, CallRequest, Completion, Prompt};
use crate::http::Endpoint;

/// A list comes from a database, and no model has to be loaded for it.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that loads a model of some gigabytes from a disk first takes so long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Enough for the one word.
const MAX_OUTPUT_TOKENS: u32 = 16;
/// Each further try takes the other of two ways to say the same (`max_tokens`, `stream_options`).
const MAX_TRIES: usize = 3;

/// How it is known that a model answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// The provider took the key, where there is one, and lists the model. It cost nothing.
    Listed,
    /// The model was asked for one word and said something. It cost these tokens, zeros where the provider did not say.
    Answered(Usage),
}

/// A question of a few tokens.
pub(crate) fn question(context: CallContext) -> Arc<CallRequest> {
    Arc::new(CallRequest {
        prompt: Prompt { system: "".into(), user: "Reply with the one word OK.".into() },
        context,
        max_output_tokens: Some(MAX_OUTPUT_TOKENS),
        json: false,
        timeout: ANSWER_TIMEOUT,
    })
}

/// What came of the question.
pub(crate) fn verdict(outcome: Result<Completion, CallFault>) -> Result<Probe, CallFault> {
    match outcome {
        Ok(completion) => Ok(Probe::Answered(completion.usage)),
        // A model that spends its 16 tokens on thinking, or has nothing to say to this, works all the same.
        Err(CallFault { fault: Fault::Truncated | Fault::BadAnswer | Fault::Filtered, usage, .. }) => {
            Ok(Probe::Answered(usage))
        }
        Err(fault) => Err(fault),
    }
}

/// Whether the document at `url` names the model and nobody sees it without the key; `false`: only an answer tells.
///
/// # Errors
/// Nobody is there, the key is wrong, or it was too much already: a question would fare no better.
pub(crate) async fn is_listed(
    endpoint: &Endpoint,
    url: Url,
    names_it: impl Fn(&Value) -> bool,
) -> Result<bool, CallFault> {
    match endpoint.get(url.clone(), true, LIST_TIMEOUT).await {
        Ok(list) if names_it(&list) => {}
        // An alias, or the name of a router: it may be answered all the same.
        Ok(_) => return Ok(false),
        Err(fault) if matches!(fault.status, None | Some(401 | 429)) => return Err(fault),
        // There is no list here, or this key may not see it.
        Err(_) => return Ok(false),
    }
    if !endpoint.has_key() {
        return Ok(true);
    }
    let without_key = endpoint.get(url, false, LIST_TIMEOUT).await;
    Ok(without_key.is_err_and(|fault| matches!(fault.status, Some(401 | 403))))
}

/// Asks until the way to ask is the one that this server understands.
pub(crate) async fn answers(
    ask: impl Fn() -> BoxFuture<'static, Result<Completion, CallFault>>,
) -> Result<Probe, CallFault> {
    let mut tries = 1;
    loop {
        match ask().await {
            Err(fault) if fault.should_retry == Some(true) && fault.fault == Fault::BadRequest && tries < MAX_TRIES => {
                tries += 1;
            }
            outcome => return verdict(outcome),
        }
    }
}
