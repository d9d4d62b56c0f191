//! One try or one round of fixes of a milestone: runs its file agents, so many at a time, and hands their results to
//! the session all at once.
//!
//! Invariant: each task gets exactly one result. An agent that keeps failing ends the whole try with a reason; nothing
//! is left without an answer.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use steadfast_core::restart::{Restart, RestartBudget};
use steadfast_core::session::{AgentResult, AgentTask, Target};
use tokio::time::Instant;

use crate::context::{CoderWork, SessionContext};
use crate::event::Event;
use crate::file_agent::{AgentEnd, FileAgent, FileAgentArgs, StopReason};
use crate::session::SessionMsg;

/// What an aggregator is told.
pub(crate) enum AggregatorMsg {
    /// A file agent reports its end.
    AgentEnded {
        /// Its place in the milestone.
        place: usize,
        /// How it ended.
        end: AgentEnd,
    },
    /// Ends the actor with a panic. For tests of supervision.
    #[cfg(test)]
    Crash,
}

/// What an aggregator is started with.
#[derive(Clone)]
pub(crate) struct AggregatorArgs {
    /// The session's.
    pub context: Arc<SessionContext>,
    /// The milestone and what is wrong with it so far.
    pub work: Arc<CoderWork>,
    /// The agents to be run; never empty.
    pub tasks: Vec<AgentTask>,
    /// Who wants to hear.
    pub session: ActorRef<SessionMsg>,
}

/// The state of an aggregator.
pub(crate) struct AggregatorState {
    args: AggregatorArgs,
    waiting: VecDeque<AgentTask>,
    running: HashMap<ActorId, AgentTask>,
    results: BTreeMap<usize, AgentResult>,
    restarts: HashMap<usize, RestartBudget>,
    /// The budget is spent: no agent begins any more, and those whose calls were still within it end first.
    stopping: Option<StopReason>,
    origin: Instant,
}

/// The actor of one try.
pub(crate) struct Aggregator;

impl Actor for Aggregator {
    type Msg = AggregatorMsg;
    type State = AggregatorState;
    type Arguments = AggregatorArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<AggregatorMsg>,
        args: AggregatorArgs,
    ) -> Result<AggregatorState, ActorProcessingErr> {
        let mut state = AggregatorState {
            waiting: args.tasks.iter().cloned().collect(),
            running: HashMap::new(),
            results: BTreeMap::new(),
            restarts: HashMap::new(),
            stopping: None,
            origin: Instant::now(),
            args,
        };
        state.start_agents(&myself).await?;
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<AggregatorMsg>,
        msg: AggregatorMsg,
        state: &mut AggregatorState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            AggregatorMsg::AgentEnded { place, end: AgentEnd::Result(result) } => state.ended(place, result),
            AggregatorMsg::AgentEnded { place, end: AgentEnd::Stop(reason @ StopReason::Budget(_)) } => {
                state.running.retain(|_, running| running.place != place);
                state.waiting.clear();
                state.stopping.get_or_insert(reason);
            }
            AggregatorMsg::AgentEnded { end: AgentEnd::Stop(reason), .. } => {
                state.stop(&myself, reason);
                return Ok(());
            }
            #[cfg(test)]
            AggregatorMsg::Crash => panic!("told to crash"),
        }
        state.start_agents(&myself).await?;
        if let Some(reason) = state.stopping.take_if(|_| state.running.is_empty()) {
            state.stop(&myself, reason);
        } else if state.results.len() == state.args.tasks.len() {
            let results = std::mem::take(&mut state.results).into_iter().collect();
            // Fails only when the session has gone, and this actor with it.
            let _ = state.args.session.cast(SessionMsg::AgentsEnded(results));
            myself.stop(None);
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<AggregatorMsg>,
        event: SupervisionEvent,
        state: &mut AggregatorState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                let task = state.running.remove(&cell.get_id());
                // Without a reason it stopped by itself and has reported before; its message may still be in the mailbox.
                // With one it was killed.
                if let (Some(task), Some(reason)) = (task, reason) {
                    state.agent_failed(&myself, task, &reason);
                }
                state.start_agents(&myself).await
            }
            SupervisionEvent::ActorFailed(cell, error) => {
                let Some(task) = state.running.remove(&cell.get_id()) else { return Ok(()) };
                state.agent_failed(&myself, task, &error.to_string());
                state.start_agents(&myself).await
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => Ok(()),
        }
    }
}

impl AggregatorState {
    async fn start_agents(&mut self, myself: &ActorRef<AggregatorMsg>) -> Result<(), ActorProcessingErr> {
        let most = self.args.context.agents_at_once();
        while self.running.len() < most {
            let Some(task) = self.waiting.pop_front() else { return Ok(()) };
            let args = FileAgentArgs {
                context: Arc::clone(&self.args.context),
                work: Arc::clone(&self.args.work),
                task: task.clone(),
                aggregator: myself.clone(),
            };
            match Actor::spawn_linked(None, FileAgent, args, myself.get_cell()).await {
                Ok((agent, _)) => {
                    self.running.insert(agent.get_id(), task);
                }
                // A start that fails brings no supervision event; it spends the same budget.
                Err(error) => self.agent_failed(myself, task, &error.to_string()),
            }
        }
        Ok(())
    }

    fn ended(&mut self, place: usize, result: AgentResult) {
        let Some(task) = self.args.tasks.iter().find(|task| task.place == place) else { return };
        self.running.retain(|_, running| running.place != place);
        if self.results.contains_key(&place) {
            return;
        }
        let error = match &result {
            AgentResult::Done(_) => None,
            AgentResult::Failed(failed) => Some(failed.error.clone()),
        };
        self.args.context.events.tell(Event::FileEnded {
            session: self.args.context.session.clone(),
            milestone: self.args.work.milestone.index,
            file: label(&task.target),
            error,
        });
        self.results.insert(place, result);
    }

    fn agent_failed(&mut self, myself: &ActorRef<AggregatorMsg>, task: AgentTask, error: &str) {
        let settings = &self.args.context.settings;
        let budget = self.restarts.entry(task.place).or_insert_with(|| settings.restart_budget());
        let again = budget.spend(self.origin.elapsed()) == Restart::Again;
        let actor = format!("file agent {} of session {}", label(&task.target), self.args.context.session);
        self.args.context.events.tell(Event::ActorFailed { actor, error: error.to_owned(), restarted: again });
        if again {
            self.waiting.push_front(task);
        } else {
            let reason = format!("the file agent of {} keeps failing: {error}", label(&task.target));
            self.stop(myself, StopReason::Broken(reason));
        }
    }

    fn stop(&mut self, myself: &ActorRef<AggregatorMsg>, reason: StopReason) {
        self.waiting.clear();
        let _ = self.args.session.cast(SessionMsg::CannotGoOn(reason));
        myself.stop(None);
    }
}

/// What stands for a target in logs and messages.
pub(crate) fn label(target: &Target) -> String {
    match target {
        Target::File { path, .. } => path.as_str().to_owned(),
        Target::Free => "(files chosen by the coder)".to_owned(),
        Target::Refused { path, .. } => path.clone(),
    }
}
