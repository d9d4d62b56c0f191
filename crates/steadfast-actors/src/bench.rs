//! What `benches/` need of the inside. Not for anyone else, and it may change at any time.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorRef, SpawnErr};
use steadfast_core::breaker::{BreakerConfig, Snapshot};
use steadfast_core::ids::ModelId;
use steadfast_core::rates::{History, Rates};
use steadfast_model::{CallRequest, ModelClient};
use tokio::sync::{oneshot, watch};

use crate::event::Events;
use crate::meter::Meter;
use crate::model::{Ask, BreakerMemory, Judge, ModelActor, ModelArgs, ModelMsg, ModelReply, SharedNetwork};

/// Keeps nothing: the cost of the store is measured elsewhere.
struct Forgetful;

impl BreakerMemory for Forgetful {
    fn save(&self, _: &ModelId, _: Snapshot) {}

    fn load(&self, _: &ModelId) -> Option<(Snapshot, Duration)> {
        None
    }
}

/// One model actor and what it takes to ask it.
pub struct ModelMailbox {
    actor: ActorRef<ModelMsg>,
    request: Arc<CallRequest>,
    judge: Judge,
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// The client's answer.
    Answered,
    /// No call was made.
    Refused,
    /// The client's fault, or none at all.
    Failed,
}

impl ModelMailbox {
    /// Starts the actor with the breaker's own defaults and room for 64 calls.
    ///
    /// # Errors
    /// When the actor cannot be started.
    pub async fn start(model: ModelId, client: Arc<dyn ModelClient>, request: CallRequest) -> Result<Self, SpawnErr> {
        let args = ModelArgs {
            model,
            client: Ok(client),
            mark: 0,
            breaker: BreakerConfig::default(),
            max_concurrency: NonZeroUsize::MIN.saturating_add(63),
            network: Arc::new(SharedNetwork::default()),
            memory: Arc::new(Forgetful),
            alerts: None,
            recoveries: Arc::new(watch::Sender::default()),
            meter: Arc::new(Meter::new(Rates::default(), History::default(), || 0)),
            events: Events::default(),
        };
        let (actor, _) = Actor::spawn(None, ModelActor, args).await?;
        Ok(Self { actor, request: Arc::new(request), judge: Arc::new(|_| Ok(())) })
    }

    /// Asks and waits for what comes of it.
    pub async fn call(&self) -> Came {
        let (reply, answer) = oneshot::channel();
        let ask = Ask {
            request: Arc::clone(&self.request),
            judge: Arc::clone(&self.judge),
            count_bad_answer: true,
            made: Arc::default(),
        };
        // A message that cannot be sent drops its reply.
        let _ = self.actor.cast(ModelMsg::Complete { ask, reply });
        match answer.await {
            Ok(ModelReply::Answered { .. }) => Came::Answered,
            Ok(ModelReply::Refused { .. }) => Came::Refused,
            Ok(ModelReply::Failed { .. }) | Err(_) => Came::Failed,
        }
    }
}
