//! One session: carries out what [`Run::action`] says and feeds what happened back into it.
//!
//! Invariant: a transition and all that goes with it (plan, milestone, issues) is handed to the store in one batch before
//! the next action begins, and the store keeps the order: an answer that is durable has every earlier transition durable
//! before it. Before anything outside changes (a branch moves, an issue is filed, an end is told), every batch so far is
//! waited for. A transition that a crash takes back is made again from answers that it cannot take back.

use std::sync::Arc;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use steadfast_core::ids::{Role, SessionId};
use steadfast_core::plan::Plan;
use steadfast_core::rates::Counts;
use steadfast_core::restart::{Restart, RestartBudget};
use steadfast_core::session::{
    Action, AgentResult, AgentTask, Debts, Event as Happened, Follow, Interrupt, MilestoneStatus, Owed, Phase,
    ReviewOutcome, Run, Stage, StepKey, Writer,
};
use steadfast_fault_point::{self as fault_point, Point};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::aggregator::{Aggregator, AggregatorArgs, AggregatorMsg};
use crate::alerts;
use crate::checkpoint_keeper::Saving;
use crate::context::{CoderWork, SessionContext};
use crate::event::{Event, RedemptionStep};
use crate::file_agent::StopReason;
use crate::issues;
use crate::records::Write;
use crate::supervisor::SupervisorMsg;
use crate::task::{TaskGuard, report_back};
use crate::worker::Executed;

/// What a session is told.
pub(crate) enum SessionMsg {
    /// The task with this number ended, or panicked with this text. Of another task than the current one it is late, and
    /// changes nothing.
    ActionEnded(u64, Result<Result<Done, StopReason>, String>),
    /// The aggregator has all results.
    AgentsEnded(Vec<(usize, AgentResult)>),
    /// Something that ends the session for now.
    CannotGoOn(StopReason),
    /// Save and stand still. Answered when that is durable, or with why it is not.
    Interrupt {
        /// Why.
        interrupt: Interrupt,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// Its owner stops it. Answered when that is durable, or with why it is not.
    Cancel(oneshot::Sender<Result<(), String>>),
    /// Ends the actor with a panic. For tests of supervision.
    #[cfg(test)]
    Crash,
}

/// What the task of an action brings.
pub(crate) enum Done {
    /// Something happened.
    Event(Happened),
    /// The transition is durable and the files lie ready: the aggregator may begin.
    ReadyToWrite {
        /// What the agents need to know.
        work: Arc<CoderWork>,
        /// The agents.
        tasks: Vec<AgentTask>,
    },
    /// The last transition is durable, and there is nothing more to do.
    Rest,
}

/// What a session is started with.
#[derive(Clone)]
pub(crate) struct SessionArgs {
    /// Its surroundings.
    pub context: Arc<SessionContext>,
    /// As it was loaded or submitted.
    pub run: Run,
    /// Who wants to hear of its end.
    pub supervisor: ActorRef<SupervisorMsg>,
}

/// The state of a session actor.
pub(crate) struct SessionState {
    args: SessionArgs,
    run: Run,
    /// The session's own files are what the state says.
    prepared: bool,
    /// Batches on their way to the disk that nobody has waited for yet.
    savings: Vec<Saving>,
    task: Option<TaskGuard>,
    /// The current task's number, from 1.
    task_number: u64,
    aggregator: Option<(ActorId, ActorRef<AggregatorMsg>)>,
    restarts: RestartBudget,
    origin: Instant,
    /// As they were handed to the store last.
    saved_debts: Debts,
}

/// The actor of one session.
pub(crate) struct SessionActor;

impl Actor for SessionActor {
    type Msg = SessionMsg;
    type State = SessionState;
    type Arguments = SessionArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<SessionMsg>,
        args: SessionArgs,
    ) -> Result<SessionState, ActorProcessingErr> {
        let settings = &args.context.settings;
        let restarts = settings.restart_budget();
        let mut state = SessionState {
            run: args.run.clone(),
            args,
            prepared: false,
            savings: Vec::new(),
            task: None,
            task_number: 0,
            aggregator: None,
            restarts,
            origin: Instant::now(),
            saved_debts: Debts::default(),
        };
        let now = state.now_ms();
        state.run.start(now);
        state.tell_moved();
        let writes = state.writes(Vec::new());
        state.act(&myself, writes);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<SessionMsg>,
        msg: SessionMsg,
        state: &mut SessionState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            // Both were on their way when the session was told to stand still.
            SessionMsg::ActionEnded(number, _) if number != state.task_number || state.task.is_none() => {}
            SessionMsg::AgentsEnded(_) | SessionMsg::CannotGoOn(_) if state.aggregator.is_none() => {}
            SessionMsg::ActionEnded(_, Ok(Ok(done))) => {
                state.task = None;
                match done {
                    Done::Event(happened) => state.happened(&myself, happened),
                    Done::ReadyToWrite { work, tasks } => state.aggregate(&myself, work, tasks).await?,
                    Done::Rest => state.over(&myself),
                }
            }
            SessionMsg::ActionEnded(_, Ok(Err(reason))) | SessionMsg::CannotGoOn(reason) => {
                state.halt();
                state.cannot_go_on(&myself, reason);
            }
            // The supervisor starts the session again from what is saved.
            SessionMsg::ActionEnded(_, Err(panic)) => return Err(panic.into()),
            SessionMsg::AgentsEnded(results) => {
                state.aggregator = None;
                state.happened(&myself, Happened::AgentsEnded(results));
            }
            SessionMsg::Interrupt { interrupt, reply } => {
                state.halt();
                state.end_now(&myself, Happened::Interrupted(interrupt), reply);
            }
            SessionMsg::Cancel(reply) => {
                state.halt();
                state.end_now(&myself, Happened::Cancelled, reply);
            }
            #[cfg(test)]
            SessionMsg::Crash => panic!("told to crash"),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SessionMsg>,
        event: SupervisionEvent,
        state: &mut SessionState,
    ) -> Result<(), ActorProcessingErr> {
        let (id, error) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell.get_id(), error.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, Some(reason)) => (cell.get_id(), reason),
            SupervisionEvent::ActorTerminated(_, _, None)
            | SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        if state.aggregator.as_ref().is_some_and(|(current, _)| *current == id) {
            state.aggregator = None;
            state.aggregator_failed(&myself, &error);
        }
        Ok(())
    }
}

impl SessionState {
    fn now_ms(&self) -> u64 {
        (self.args.context.clock)()
    }

    fn id(&self) -> &SessionId {
        &self.run.session.id
    }

    /// Ends all work under way. What it had bought is durable already, or is lost with its call.
    fn halt(&mut self) {
        self.task = None;
        if let Some((_, aggregator)) = self.aggregator.take() {
            aggregator.kill();
        }
    }

    /// Takes in what happened, and goes on once that is durable.
    fn happened(&mut self, myself: &ActorRef<SessionMsg>, happened: Happened) {
        self.tell(&happened);
        // Nothing lies ready yet on the other branch.
        let unprepared = matches!(happened, Happened::BranchTaken(_));
        let mut writes = self.apply(happened);
        if unprepared {
            self.prepared = false;
        }
        if self.run.session.phase == Phase::Failed {
            // Files are missing that nothing may stand in for (`graceful_degradation = false`).
            let reason = self.run.session.error.clone().unwrap_or_default();
            self.file_stopped(&reason, &mut writes);
        }
        self.act(myself, writes);
    }

    fn apply(&mut self, happened: Happened) -> Vec<Write> {
        let now = self.now_ms();
        let before = (self.run.session.phase, self.run.session.current);
        let planned = matches!(happened, Happened::Planned { .. });
        self.run.session.spent = self.args.context.ledger.spent(self.id());
        let alert = self.alert(&happened, now);
        let owed = self.run.redeeming();
        let stood = self.args.context.keeper.standing(self.id()).is_some().then(|| happened.clone());
        let mut follow = self.run.apply(happened, &self.args.context.settings.session, now);
        let mut writes = Vec::new();
        if planned {
            writes.extend(self.run.plan.clone().map(|plan| Write::Plan(self.id().clone(), plan)));
        }
        if follow.contains(&Follow::MilestoneDone) {
            self.milestone_done(&mut writes);
            follow.extend(self.run.advance(now));
            self.prepared = true;
        }
        if let Some(what) = owed {
            self.redemption_follows(what, &follow, &mut writes);
        }
        self.tell_follow(&follow);
        if (self.run.session.phase, self.run.session.current) != before {
            self.tell_moved();
        }
        writes.extend(alert.map(|alert| Write::Alert(Box::new(alert))));
        let comment = stood.and_then(|happened| issues::gone_on(&self.run.session, &happened));
        writes.extend(comment.map(|comment| Write::WentOn(self.id().clone(), comment, now)));
        self.writes(writes)
    }

    fn alert(&self, happened: &Happened, now: u64) -> Option<steadfast_notify::Alert> {
        self.args.context.settings.alerts.as_ref()?;
        let milestone = self.run.milestone.as_ref();
        let is_manual = milestone.is_some_and(|milestone| milestone.manual.is_some());
        let round = milestone.map_or(0, |milestone| milestone.round);
        alerts::of_transition(&self.run.session, is_manual, round, happened, now)
    }

    /// What is to be saved and told when somebody makes up for something. `what`: it was at work before.
    fn redemption_follows(&self, what: Owed, follow: &[Follow], writes: &mut Vec<Write>) {
        self.args.context.set_redeems(self.run.redeeming().is_some());
        for follow in follow {
            let step = match follow {
                Follow::PutBack { why, for_good } => {
                    let milestone = self.run.milestone.iter().cloned();
                    writes.extend(milestone.map(|milestone| Write::Milestone(self.id().clone(), Box::new(milestone))));
                    match for_good {
                        true => RedemptionStep::Left { why: why.clone() },
                        false => RedemptionStep::PutBack { why: why.clone() },
                    }
                }
                Follow::MadeGood(_) => RedemptionStep::Done,
                Follow::Judged { .. } | Follow::FixesWanted { .. } | Follow::MilestoneDone | Follow::Ended => continue,
            };
            self.args.context.events.tell(Event::Redemption { session: self.id().clone(), what, step });
        }
    }

    /// The head and the milestone at work go with every transition. One that is done went with the transition that ended it.
    fn writes(&mut self, mut writes: Vec<Write>) -> Vec<Write> {
        if self.run.debts != self.saved_debts {
            self.saved_debts = self.run.debts.clone();
            writes.push(Write::Debts(self.id().clone(), Box::new(self.run.debts.clone())));
        }
        writes.push(Write::Head(Box::new(self.run.session.clone())));
        let at_work = self.run.milestone.iter().filter(|milestone| milestone.stage != Stage::Done);
        writes.extend(at_work.map(|milestone| Write::Milestone(self.id().clone(), Box::new(milestone.clone()))));
        writes
    }

    fn milestone_done(&self, writes: &mut Vec<Write>) {
        let Some(milestone) = &self.run.milestone else { return };
        writes.push(Write::Milestone(self.id().clone(), Box::new(milestone.clone())));
        let (context, session) = (&self.args.context, &self.run.session);
        let issues = issues::of_milestone(session, milestone, &context.settings.issues);
        if let Some(what) = self.run.redeeming() {
            // It was counted when it was done first, and an issue that is there already is not filed again.
            let before = context.keeper.issue_keys(self.id());
            issues.into_iter().filter(|issue| !before.contains(&issue.key)).for_each(|issue| self.file(issue, writes));
            let closing = issues::made_good(session, milestone, what).filter(|closing| before.contains(&closing.issue));
            writes.extend(closing.map(|closing| Write::Close(closing, session.updated_ms)));
            return;
        }
        let partial = u64::from(milestone.status() == MilestoneStatus::Partial);
        context.meter.count(Counts { milestones: 1, partial, ..Counts::default() });
        writes.extend(context.meter.writes());
        for issue in issues {
            self.file(issue, writes);
        }
    }

    fn file(&self, issue: steadfast_notify::Issue, writes: &mut Vec<Write>) {
        self.tell_filed(&issue);
        writes.push(Write::Issue(self.id().clone(), Box::new(issue), self.run.session.updated_ms));
    }

    fn tell_filed(&self, issue: &steadfast_notify::Issue) {
        let (session, title) = (self.id().clone(), issue.title.clone());
        self.args.context.events.tell(Event::IssueFiled { session, title });
    }

    /// Files the issue of a session that stands still or failed, unless it has one.
    fn file_stopped(&self, reason: &str, writes: &mut Vec<Write>) {
        let context = &self.args.context;
        let now = self.run.session.updated_ms;
        let more = issues::stop(&context.keeper, &self.run.session, reason, &context.settings.issues, now);
        for write in &more {
            if let Write::Issue(_, issue, _) = write {
                self.tell_filed(issue);
            }
        }
        writes.extend(more);
    }

    /// Hands the writes over and does what comes next, as a task.
    fn act(&mut self, myself: &ActorRef<SessionMsg>, writes: Vec<Write>) {
        let action = self.run.action(&self.args.context.settings.session);
        let sends = writes.iter().any(Write::is_for_outbox);
        let begun = self.args.context.keeper.begin_save(writes);
        let context = Arc::clone(&self.args.context);
        let run = self.run.clone();
        let prepared = std::mem::replace(&mut self.prepared, true);
        let shows = sends || matches!(action, Action::Commit(_) | Action::Rest);
        let (refused, savings) = match begun {
            Ok(saving) => {
                self.savings.push(saving);
                (None, if shows { std::mem::take(&mut self.savings) } else { Vec::new() })
            }
            Err(error) => (Some(StopReason::NotSaved(error.to_string())), Vec::new()),
        };
        let work = async move {
            if let Some(reason) = refused {
                return Err(reason);
            }
            wait_for(savings).await?;
            if sends {
                context.wake_outbox();
            }
            perform(&context, &run, action, prepared).await
        };
        self.run_task(myself, work);
    }

    /// Runs a task in the place of the one before, whose report would be late from now on.
    fn run_task(
        &mut self,
        myself: &ActorRef<SessionMsg>,
        work: impl Future<Output = Result<Done, StopReason>> + Send + 'static,
    ) {
        self.task_number += 1;
        let number = self.task_number;
        self.task = Some(report_back(myself.clone(), work, move |end| SessionMsg::ActionEnded(number, end)));
    }

    async fn aggregate(
        &mut self,
        myself: &ActorRef<SessionMsg>,
        work: Arc<CoderWork>,
        tasks: Vec<AgentTask>,
    ) -> Result<(), ActorProcessingErr> {
        let context = Arc::clone(&self.args.context);
        let args = AggregatorArgs { context, work, tasks, session: myself.clone() };
        match Actor::spawn_linked(None, Aggregator, args, myself.get_cell()).await {
            Ok((aggregator, _)) => self.aggregator = Some((aggregator.get_id(), aggregator)),
            // A start that fails brings no supervision event; it spends the same budget.
            Err(error) => self.aggregator_failed(myself, &error.to_string()),
        }
        Ok(())
    }

    fn aggregator_failed(&mut self, myself: &ActorRef<SessionMsg>, error: &str) {
        let again = self.restarts.spend(self.origin.elapsed()) == Restart::Again;
        let actor = format!("aggregator of session {}", self.id());
        self.args.context.events.tell(Event::ActorFailed { actor, error: error.to_owned(), restarted: again });
        if again {
            // Answers that had come are durable and will be found; the files are laid out again.
            self.prepared = false;
            self.act(myself, Vec::new());
        } else {
            let reason = format!("the aggregator of milestone {} keeps failing: {error}", self.run.session.current);
            self.cannot_go_on(myself, StopReason::Broken(reason));
        }
    }

    fn cannot_go_on(&mut self, myself: &ActorRef<SessionMsg>, reason: StopReason) {
        let (happened, reason) = match reason {
            StopReason::Budget(reason) => {
                let at_ms = self.now_ms();
                let interrupt = Interrupt { reason: reason.clone(), at_ms, emergency: false, parked: true };
                (Happened::Interrupted(interrupt), reason)
            }
            StopReason::Broken(reason) => (Happened::Failed(reason.clone()), reason),
            StopReason::NotSaved(reason) => {
                // Nothing may be built on what is not durable, and saying so cannot be saved either.
                self.args.context.events.tell(Event::Interrupted {
                    session: self.id().clone(),
                    idea: self.run.session.idea.clone(),
                    reason: format!("its state could not be saved: {reason}"),
                });
                let _ = self.args.supervisor.cast(SupervisorMsg::SaveFailed { session: self.id().clone(), reason });
                myself.stop(None);
                return;
            }
        };
        if self.run.redeeming().is_some() {
            // What the stand-in has done stays, and the session is over as before.
            let writes = self.apply(happened);
            return self.act(myself, writes);
        }
        self.tell(&happened);
        let mut writes = self.apply(happened);
        self.file_stopped(&reason, &mut writes);
        self.act(myself, writes);
    }

    /// Saves an end that was ordered, answers, and stops.
    fn end_now(
        &mut self,
        myself: &ActorRef<SessionMsg>,
        happened: Happened,
        reply: oneshot::Sender<Result<(), String>>,
    ) {
        self.tell(&happened);
        let writes = self.apply(happened);
        let sends = writes.iter().any(Write::is_for_outbox);
        let begun = self.args.context.keeper.begin_save(writes);
        let savings = std::mem::take(&mut self.savings);
        let context = Arc::clone(&self.args.context);
        let run = self.run.clone();
        let work = async move {
            let saved = match begun {
                Ok(saving) => wait_for(savings.into_iter().chain([saving]).collect()).await,
                Err(error) => Err(StopReason::NotSaved(error.to_string())),
            };
            // Whoever ordered it may have given up waiting; the state is saved all the same.
            let _ = reply.send(saved.clone().map_err(StopReason::into_text));
            saved?;
            if sends {
                context.wake_outbox();
            }
            perform(&context, &run, Action::Rest, true).await
        };
        self.run_task(myself, work);
    }

    fn over(&mut self, myself: &ActorRef<SessionMsg>) {
        let session = Box::new(self.run.session.clone());
        // Fails only when the supervisor has gone, and this actor with it.
        let _ = self.args.supervisor.cast(SupervisorMsg::SessionOver { session });
        myself.stop(None);
    }

    fn tell_moved(&self) {
        let session = &self.run.session;
        let name = self.run.milestone.as_ref().map(|milestone| milestone.plan.name.clone());
        self.args.context.events.tell(Event::SessionMoved {
            session: session.id.clone(),
            idea: session.idea.clone(),
            phase: session.phase,
            milestone: session.current,
            n_milestones: session.n_milestones,
            text: if session.phase == Phase::Failed { session.error.clone() } else { name },
        });
    }

    fn tell(&self, happened: &Happened) {
        let (events, session) = (&self.args.context.events, self.id().clone());
        let milestone = self.run.session.current;
        match happened {
            Happened::Planned { plan, degraded } => {
                let milestones = plan.milestones.iter().map(|milestone| milestone.name.clone()).collect();
                events.tell(Event::Planned { session, milestones, degraded: *degraded });
            }
            Happened::Reviewed(outcome) => events.tell(Event::Reviewed {
                session,
                milestone,
                approved: outcome.review.approved,
                code_quality: outcome.review.code_quality,
                n_issues: outcome.review.issues.len(),
            }),
            Happened::Committed(commit) => {
                let (commit, branch) = (commit.clone(), self.run.session.branch.clone());
                events.tell(Event::Committed { session, milestone, commit, branch });
            }
            Happened::Interrupted(interrupt) => {
                let (idea, reason) = (self.run.session.idea.clone(), interrupt.reason.clone());
                events.tell(Event::Interrupted { session, idea, reason });
            }
            Happened::Degraded(_) => {
                let place = self.args.context.place(Role::Coder, Some(milestone), None);
                events.tell(Event::Degraded { place, stand_in: "manual" });
            }
            Happened::BaselineChecked(_)
            | Happened::AgentsEnded(_)
            | Happened::Checked(_)
            | Happened::Failed(_)
            | Happened::EndedAbnormally
            | Happened::BranchTaken(_)
            | Happened::Resumed
            | Happened::Retried
            | Happened::Redeem { .. }
            | Happened::NotRedeemed(_)
            | Happened::Cancelled => {}
        }
    }

    fn tell_follow(&self, follow: &[Follow]) {
        let (events, session) = (&self.args.context.events, self.id());
        let milestone = self.run.session.current;
        for follow in follow {
            match follow {
                Follow::Judged { ok, all, verdict, again } => events.tell(Event::Judged {
                    session: session.clone(),
                    milestone,
                    ok: *ok,
                    all: *all,
                    verdict: *verdict,
                    again: *again,
                }),
                Follow::FixesWanted { round } => {
                    events.tell(Event::FixRound { session: session.clone(), milestone, round: *round });
                }
                Follow::MilestoneDone | Follow::Ended | Follow::PutBack { .. } | Follow::MadeGood(_) => {}
            }
        }
    }
}

async fn wait_for(savings: Vec<Saving>) -> Result<(), StopReason> {
    for saving in savings {
        saving.wait().await.map_err(|error| StopReason::NotSaved(error.to_string()))?;
    }
    Ok(())
}

/// Does one action. Every part of it can be done again.
async fn perform(context: &Arc<SessionContext>, run: &Run, action: Action, prepared: bool) -> Result<Done, StopReason> {
    fault_point::reach_async(Point::SessionAction).await;
    let milestone = run.milestone.as_ref();
    if !prepared && action != Action::Rest {
        if let Some(other) = context.claim(&run.session).await? {
            return Ok(Done::Event(Happened::BranchTaken(other)));
        }
        context.prepare(run).await?;
    }
    let current = || milestone.ok_or_else(|| StopReason::Broken("there is no milestone at work".to_owned()));
    let happened = match action {
        Action::Plan => plan(context, run).await?,
        Action::Baseline => Happened::BaselineChecked(context.baseline().await?),
        Action::Write { agents, roll_back } => {
            if roll_back && prepared {
                context.lay_out(current()?).await?;
            }
            let work = Arc::new(context.coder_work(run, current()?).await?);
            return Ok(Done::ReadyToWrite { work, tasks: agents });
        }
        Action::Degrade => Happened::Degraded(context.degrade(run, current()?).await?),
        Action::Check => Happened::Checked(context.check(current()?.index).await?),
        Action::Review { step, static_only } => review(context, run, step, static_only).await?,
        Action::Commit(intent) => Happened::Committed(context.commit(run, current()?, &intent).await?),
        Action::Rest => {
            context.rest(&run.session).await;
            return Ok(Done::Rest);
        }
    };
    fault_point::reach(Point::SessionActionDone);
    Ok(Done::Event(happened))
}

async fn plan(context: &Arc<SessionContext>, run: &Run) -> Result<Happened, StopReason> {
    let task = context.planner_task(&run.session).await?;
    let place = task.place.clone();
    match context.execute(task).await {
        Executed::Answered(answer) => {
            // The worker accepted it, so it reads; a store that changed it would have been noticed by its checksum.
            let plan = steadfast_prompt::answer::plan(&answer.text)
                .map_err(|fault| StopReason::Broken(format!("the saved plan does not read: {fault}")))?;
            Ok(Happened::Planned { plan, degraded: false })
        }
        Executed::Exhausted { attempts } if run.redeeming().is_some() => {
            Ok(Happened::NotRedeemed(crate::context::why_exhausted(&attempts)))
        }
        Executed::Exhausted { attempts } if context.settings.session.graceful_degradation => {
            let _ = attempts;
            context.events.tell(Event::Degraded { place, stand_in: "template" });
            Ok(Happened::Planned { plan: Plan::template(), degraded: true })
        }
        Executed::Exhausted { attempts } => Err(StopReason::Broken(format!(
            "no planner answered, and graceful_degradation is off: {}",
            crate::context::why_exhausted(&attempts)
        ))),
        Executed::BudgetSpent(reason) => Err(StopReason::Budget(reason)),
        Executed::KeepsFailing => Err(StopReason::keeps_failing(Role::Planner)),
        Executed::NotSaved(reason) => Err(StopReason::NotSaved(reason)),
    }
}

async fn review(
    context: &Arc<SessionContext>,
    run: &Run,
    step: StepKey,
    static_only: bool,
) -> Result<Happened, StopReason> {
    let Some(milestone) = &run.milestone else {
        return Err(StopReason::Broken("there is no milestone to review".to_owned()));
    };
    let place = context.place(Role::Reviewer, Some(milestone.index), None);
    if !static_only {
        let task = context.reviewer_task(run, milestone, step).await?;
        match context.execute(task).await {
            Executed::Answered(answer) => {
                let review = steadfast_prompt::answer::review(&answer.text)
                    .map_err(|fault| StopReason::Broken(format!("the saved review does not read: {fault}")))?;
                let writer = Writer::Model { model: answer.model, fallback: answer.fallback };
                return Ok(Happened::Reviewed(ReviewOutcome { review, writer, degraded: false }));
            }
            Executed::Exhausted { attempts } if matches!(run.redeeming(), Some(Owed::Review(_))) => {
                return Ok(Happened::NotRedeemed(crate::context::why_exhausted(&attempts)));
            }
            Executed::Exhausted { attempts } if !context.settings.session.graceful_degradation => {
                let why = crate::context::why_exhausted(&attempts);
                let reason = format!("no reviewer answered, and graceful_degradation is off: {why}");
                return Err(StopReason::Broken(reason));
            }
            Executed::Exhausted { .. } => {}
            Executed::BudgetSpent(reason) => return Err(StopReason::Budget(reason)),
            Executed::KeepsFailing => return Err(StopReason::keeps_failing(Role::Reviewer)),
            Executed::NotSaved(reason) => return Err(StopReason::NotSaved(reason)),
        }
    }
    context.events.tell(Event::Degraded { place, stand_in: "static-checks" });
    let review = context.static_review(&run.session, milestone).await?;
    let writer = Writer::StandIn("static-checks".to_owned());
    Ok(Happened::Reviewed(ReviewOutcome { review, writer, degraded: true }))
}

/// Whether the milestone's files must lie ready before the next action.
pub(crate) fn needs_files(stage: &Stage) -> bool {
    !matches!(stage, Stage::Degrading | Stage::Done)
}
