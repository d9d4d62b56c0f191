//! The clients against real servers on loopback and real processes.

#![expect(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

mod anthropic;
mod command;
mod faults;
mod openai;
mod probe;
mod secrecy;
mod server;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::fault::{CallFault, Fault};
use steadfast_core::ids::{AttemptId, IdeaId, RepoPath, Role, SessionId};
use steadfast_model::{
    CallContext, CallRequest, Completion, ModelClient, Prompt, ProviderSettings, SecretString, client,
};

use crate::server::{Reply, Server};

/// Long enough to be never reached, unless a test is about to fail.
const PATIENT: Duration = Duration::from_secs(60);
/// For the calls that are to time out.
const SHORT: Duration = Duration::from_millis(50);

fn request() -> CallRequest {
    CallRequest {
        prompt: Prompt { system: "Be brief.".into(), user: "Write a \"file\".\n".into() },
        context: CallContext {
            role: Role::Coder,
            session: SessionId::new(1_700_000_000_000, 7),
            idea: IdeaId::new("002-feature").unwrap(),
            milestone: Some(2),
            file: Some(RepoPath::new("src/a b.rs").unwrap()),
            attempt: 1,
            id: AttemptId::new(1),
        },
        max_output_tokens: None,
        json: false,
        timeout: PATIENT,
    }
}

fn settings(kind: &str, server: &Server) -> ProviderSettings {
    ProviderSettings {
        kind: kind.to_owned(),
        base_url: format!("http://{}/v1", server.address),
        key: Some(SecretString::from("sk-secret-1234")),
        ..ProviderSettings::default()
    }
}

fn model(settings: &ProviderSettings) -> Arc<dyn ModelClient> {
    client(settings, "vendor/model-1").unwrap()
}

async fn call(kind: &str, replies: Vec<Reply>) -> Result<Completion, CallFault> {
    let server = Server::start(replies).await;
    model(&settings(kind, &server)).complete(Arc::new(request())).await
}

async fn fault(kind: &str, reply: Reply) -> CallFault {
    call(kind, vec![reply]).await.unwrap_err()
}

fn rate_limited(millis: u64) -> Fault {
    Fault::RateLimited { retry_after: Some(Duration::from_millis(millis)) }
}
