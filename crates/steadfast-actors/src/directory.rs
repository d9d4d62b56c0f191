//! Where the shared actors are found. A restarted actor is another one than before, so nobody keeps an address of theirs
//! for longer than one message.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use ractor::ActorRef;
use steadfast_core::ids::{ModelId, Role};

use crate::model::ModelMsg;
use crate::outbox::OutboxMsg;
use crate::worker::{ModelDirectory, WorkerMsg};

/// The addresses of the shared actors; the supervisor keeps them current.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    models: RwLock<HashMap<ModelId, ActorRef<ModelMsg>>>,
    workers: RwLock<HashMap<Role, ActorRef<WorkerMsg>>>,
    outbox: RwLock<Option<ActorRef<OutboxMsg>>>,
}

impl Directory {
    pub(crate) fn set_model(&self, id: ModelId, actor: ActorRef<ModelMsg>) {
        self.models.write().unwrap_or_else(PoisonError::into_inner).insert(id, actor);
    }

    pub(crate) fn set_worker(&self, role: Role, actor: ActorRef<WorkerMsg>) {
        self.workers.write().unwrap_or_else(PoisonError::into_inner).insert(role, actor);
    }

    pub(crate) fn set_outbox(&self, actor: ActorRef<OutboxMsg>) {
        *self.outbox.write().unwrap_or_else(PoisonError::into_inner) = Some(actor);
    }

    pub(crate) fn worker(&self, role: Role) -> Option<ActorRef<WorkerMsg>> {
        self.workers.read().unwrap_or_else(PoisonError::into_inner).get(&role).cloned()
    }

    pub(crate) fn outbox(&self) -> Option<ActorRef<OutboxMsg>> {
        self.outbox.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ModelDirectory for Directory {
    fn model(&self, id: &ModelId) -> Option<ActorRef<ModelMsg>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}
