//! One file of a milestone: asks the coder, writes what it answers, and reports once.
//!
//! Invariant: the answer is durable before the file is written, and the file is written before success is reported.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use steadfast_core::ids::Role;
use steadfast_core::plan::Change;
use steadfast_core::session::{AgentDone, AgentFailed, AgentResult, AgentTask, Target, Writer};

use crate::aggregator::AggregatorMsg;
use crate::context::{CoderWork, SessionContext};
use crate::task::{TaskGuard, report_back};
use crate::worker::Executed;

/// How an agent ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AgentEnd {
    /// With a result of its own.
    Result(AgentResult),
    /// The session as a whole cannot go on.
    Stop(StopReason),
}

/// Why a session as a whole cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// Its budget is spent.
    Budget(String),
    /// What was bought or decided could not be made durable.
    NotSaved(String),
    /// Something of the session's own failed for good: the repository, the worktree, an actor.
    Broken(String),
}

impl StopReason {
    /// Executions of a role panic each time.
    pub(crate) fn keeps_failing(role: Role) -> Self {
        Self::Broken(format!("executions of the {role} keep failing; the log says how"))
    }

    /// The reason alone, for a person.
    pub(crate) fn into_text(self) -> String {
        match self {
            Self::Budget(text) | Self::NotSaved(text) | Self::Broken(text) => text,
        }
    }
}

/// What a file agent is told.
pub(crate) enum FileAgentMsg {
    /// Its work ended, or panicked with this text.
    Ended(Result<AgentEnd, String>),
    /// Ends the actor with a panic. For tests of supervision.
    #[cfg(test)]
    Crash,
}

/// What a file agent is started with.
#[derive(Clone)]
pub(crate) struct FileAgentArgs {
    /// The session's.
    pub context: Arc<SessionContext>,
    /// The milestone and what is wrong with it so far.
    pub work: Arc<CoderWork>,
    /// Its own part.
    pub task: AgentTask,
    /// Who wants to hear.
    pub aggregator: ActorRef<AggregatorMsg>,
}

/// The state of a file agent.
pub(crate) struct FileAgentState {
    args: FileAgentArgs,
    /// Ends the work when the agent ends.
    _work: TaskGuard,
}

/// The actor of one file.
pub(crate) struct FileAgent;

impl Actor for FileAgent {
    type Msg = FileAgentMsg;
    type State = FileAgentState;
    type Arguments = FileAgentArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<FileAgentMsg>,
        args: FileAgentArgs,
    ) -> Result<FileAgentState, ActorProcessingErr> {
        let (context, work, task) = (Arc::clone(&args.context), Arc::clone(&args.work), args.task.clone());
        let guard = report_back(myself, async move { carry_out(&context, &work, &task).await }, FileAgentMsg::Ended);
        Ok(FileAgentState { args, _work: guard })
    }

    async fn handle(
        &self,
        myself: ActorRef<FileAgentMsg>,
        msg: FileAgentMsg,
        state: &mut FileAgentState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            FileAgentMsg::Ended(Ok(end)) => {
                let place = state.args.task.place;
                // Fails only when the aggregator has gone, and this agent with it.
                let _ = state.args.aggregator.cast(AggregatorMsg::AgentEnded { place, end });
                myself.stop(None);
                Ok(())
            }
            // The aggregator decides whether it is worth another start.
            FileAgentMsg::Ended(Err(panic)) => Err(panic.into()),
            #[cfg(test)]
            FileAgentMsg::Crash => panic!("told to crash"),
        }
    }
}

fn failed(error: impl Into<String>) -> AgentEnd {
    AgentEnd::Result(AgentResult::Failed(AgentFailed { error: error.into(), attempts: Vec::new() }))
}

async fn carry_out(context: &Arc<SessionContext>, work: &Arc<CoderWork>, task: &AgentTask) -> AgentEnd {
    match &task.target {
        Target::Refused { reason, .. } => failed(reason.clone()),
        Target::File { path, change: Change::Delete } => match context.delete(path.clone()).await {
            Ok(()) => AgentEnd::Result(AgentResult::Done(AgentDone {
                writer: Writer::StandIn("git".to_owned()),
                paths: vec![path.clone()],
                answers: Vec::new(),
            })),
            Err(error) => failed(error),
        },
        Target::File { .. } | Target::Free => write(context, work, task).await,
    }
}

async fn write(context: &Arc<SessionContext>, work: &Arc<CoderWork>, task: &AgentTask) -> AgentEnd {
    let asked = match context.coder_task(work, task).await {
        Ok(asked) => asked,
        Err(error) => return failed(error),
    };
    let previous = work.answers_of(task.place);
    let answer = match context.execute(asked).await {
        Executed::Answered(answer) => answer,
        Executed::Exhausted { attempts } => {
            let error = crate::context::why_exhausted(&attempts);
            return AgentEnd::Result(AgentResult::Failed(AgentFailed { error, attempts }));
        }
        Executed::BudgetSpent(reason) => return AgentEnd::Stop(StopReason::Budget(reason)),
        Executed::KeepsFailing => return AgentEnd::Stop(StopReason::keeps_failing(Role::Coder)),
        Executed::NotSaved(reason) => return AgentEnd::Stop(StopReason::NotSaved(reason)),
    };
    let mut answers = previous;
    answers.push(task.step.clone());
    match context.write_answers(&work.base, &task.target, &answers) {
        Ok(paths) => AgentEnd::Result(AgentResult::Done(AgentDone {
            writer: Writer::Model { model: answer.model, fallback: answer.fallback },
            paths,
            answers,
        })),
        Err(error) => failed(error),
    }
}
