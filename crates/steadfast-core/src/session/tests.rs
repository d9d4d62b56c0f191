use super::*;
use crate::fault::Usage;
use crate::ids::{CommitId, IdeaId, ModelId, RepoPath, Role, SessionId};
use crate::plan::{Change, Plan, PlannedFile, PlannedMilestone, RefusedFile, Review, ReviewIssue, Severity};
use crate::tally::{MinSuccessRate, Verdict};

fn commit(digit: char) -> CommitId {
    CommitId::new(&digit.to_string().repeat(40)).unwrap()
}

fn policy() -> Policy {
    Policy {
        milestone_retries: 2,
        max_review_rounds: 2,
        partial_success: true,
        min_success_rate: MinSuccessRate::HALF,
        graceful_degradation: true,
        has_checks: false,
        redeem: true,
    }
}

fn queued() -> Run {
    let session = Session {
        id: SessionId::new(1, 1),
        idea: IdeaId::new("002-feature").unwrap(),
        title: "A feature".to_owned(),
        repo: "/repo".to_owned(),
        base: commit('a'),
        branch: "steadfast/002-feature".to_owned(),
        tip: commit('a'),
        identity: Identity { name: "Ada".to_owned(), email: "ada@example.org".to_owned() },
        created_ms: 0,
        updated_ms: 0,
        phase: Phase::Queued,
        interrupt: None,
        current: 0,
        n_milestones: 0,
        plan_degraded: false,
        failing_before: None,
        spent: Spent::default(),
        abnormal_ends: 0,
        allow_degraded: false,
        error: None,
    };
    Run::of(session)
}

fn file(path: &str, change: Change) -> PlannedFile {
    PlannedFile { path: RepoPath::new(path).unwrap(), change }
}

fn planned(files: &[&str]) -> PlannedMilestone {
    PlannedMilestone {
        name: "Create API endpoints".to_owned(),
        description: "Write the endpoints.".to_owned(),
        files: files.iter().map(|path| file(path, Change::Create)).collect(),
        refused: Vec::new(),
    }
}

fn plan_of(milestones: Vec<PlannedMilestone>) -> Plan {
    Plan { milestones, risks: Vec::new(), confidence: 0.9 }
}

/// A session that is writing the first of two milestones, each with these files.
fn writing(files: &[&str]) -> Run {
    let mut run = queued();
    run.start(1);
    let plan = plan_of(vec![planned(files), planned(&["later.js"])]);
    assert!(run.apply(Event::Planned { plan, degraded: false }, &policy(), 2).is_empty());
    run
}

fn done(path: &str) -> AgentResult {
    let model = ModelId::new("p/m").unwrap();
    AgentResult::Done(AgentDone {
        writer: Writer::Model { model, fallback: false },
        paths: vec![RepoPath::new(path).unwrap()],
        answers: Vec::new(),
    })
}

fn failed(error: &str) -> AgentResult {
    AgentResult::Failed(AgentFailed { error: error.to_owned(), attempts: Vec::new() })
}

fn review(approved: bool, file: Option<&str>) -> Event {
    let issue = ReviewIssue {
        severity: Severity::High,
        issue: "wrong".to_owned(),
        suggestion: String::new(),
        file: file.map(str::to_owned),
    };
    Event::Reviewed(ReviewOutcome {
        review: Review {
            approved,
            code_quality: 80,
            issues: if approved { Vec::new() } else { vec![issue] },
            next_steps: Vec::new(),
        },
        writer: Writer::Model { model: ModelId::new("p/r").unwrap(), fallback: false },
        degraded: false,
    })
}

fn places(action: &Action) -> Vec<usize> {
    match action {
        Action::Write { agents, .. } => agents.iter().map(|task| task.place).collect(),
        other => panic!("expected to write, not {other:?}"),
    }
}

#[test]
fn a_session_goes_from_plan_over_files_and_review_to_a_commit_and_the_next_milestone() {
    let policy = policy();
    let mut run = queued();
    assert_eq!(run.action(&policy), Action::Plan);
    run.start(1);
    assert_eq!(run.session.phase, Phase::Planning);
    run.apply(Event::Planned { plan: plan_of(vec![planned(&["a.js"])]), degraded: false }, &policy, 2);
    assert_eq!((run.session.phase, run.session.current), (Phase::Implementing, 1));
    assert_eq!(places(&run.action(&policy)), [0]);
    let follow = run.apply(Event::AgentsEnded(vec![(0, done("a.js"))]), &policy, 3);
    assert_eq!(follow, [Follow::Judged { ok: 1, all: 1, verdict: Verdict::Perfect, again: false }]);
    assert_eq!(run.session.phase, Phase::Reviewing);
    let step = StepKey::review(1, 0);
    assert_eq!(run.action(&policy), Action::Review { step, static_only: false });
    run.apply(review(true, None), &policy, 5_000);
    let Action::Commit(intent) = run.action(&policy) else { panic!("expected a commit") };
    assert_eq!((intent.parent.clone(), intent.time_s), (commit('a'), 5));
    assert!(intent.message.ends_with(&format!("Steadfast-Session: {}\nSteadfast-Milestone: 1\n", run.session.id)));
    assert_eq!(run.apply(Event::Committed(Some(commit('b'))), &policy, 6), [Follow::MilestoneDone]);
    assert_eq!(run.session.tip, commit('b'));
    assert_eq!(run.advance(7), [Follow::Ended]);
    assert_eq!((run.session.phase, run.action(&policy)), (Phase::Completed, Action::Rest));
}

#[test]
fn two_of_three_files_are_kept_as_good_and_the_third_is_named_in_the_commit() {
    let policy = policy();
    let mut run = writing(&["auth.js", "users.js", "posts.js"]);
    let results = vec![(0, done("auth.js")), (1, failed("Timeout")), (2, done("posts.js"))];
    let follow = run.apply(Event::AgentsEnded(results), &policy, 3);
    assert_eq!(follow, [Follow::Judged { ok: 2, all: 3, verdict: Verdict::Good, again: false }]);
    run.apply(review(true, None), &policy, 4);
    let Action::Commit(intent) = run.action(&policy) else { panic!("expected a commit") };
    assert!(intent.message.contains("Not written:\n- users.js: Timeout"), "{}", intent.message);
    run.apply(Event::Committed(Some(commit('b'))), &policy, 5);
    assert_eq!(run.milestone.as_ref().unwrap().status(), MilestoneStatus::Partial);
    assert!(run.advance(6).is_empty());
    assert_eq!((run.session.phase, run.session.current), (Phase::Implementing, 2));
}

#[test]
fn a_try_that_falls_short_is_rolled_back_and_only_the_failed_files_are_asked_for_anew() {
    let policy = policy();
    let mut run = writing(&["a.js", "b.js", "c.js"]);
    let results = vec![(0, done("a.js")), (1, failed("x")), (2, failed("y"))];
    let follow = run.apply(Event::AgentsEnded(results), &policy, 3);
    assert_eq!(follow, [Follow::Judged { ok: 1, all: 3, verdict: Verdict::TooLow, again: true }]);
    let action = run.action(&policy);
    assert_eq!(places(&action), [1, 2]);
    assert!(matches!(action, Action::Write { roll_back: true, .. }));
    run.apply(Event::AgentsEnded(vec![(1, failed("x")), (2, done("c.js"))]), &policy, 4);
    assert_eq!(run.session.phase, Phase::Reviewing, "2 of 3 is good");
}

#[test]
fn after_all_tries_the_coder_is_degraded_for_the_whole_milestone() {
    let policy = policy();
    let mut run = writing(&["a.js"]);
    for _ in 0..3 {
        assert_eq!(places(&run.action(&policy)), [0]);
        run.apply(Event::AgentsEnded(vec![(0, failed("x"))]), &policy, 3);
    }
    assert_eq!(run.action(&policy), Action::Degrade);
    run.apply(Event::Degraded(vec![RepoPath::new(".steadfast/tasks/002-feature-m1.md").unwrap()]), &policy, 4);
    let step = StepKey::review(1, 0);
    assert_eq!(run.action(&policy), Action::Review { step, static_only: true });
    run.apply(review(true, None), &policy, 5);
    run.apply(Event::Committed(Some(commit('b'))), &policy, 6);
    assert_eq!(run.milestone.as_ref().unwrap().status(), MilestoneStatus::Degraded);
}

#[test]
fn without_graceful_degradation_a_milestone_that_falls_short_fails_the_session_resumably() {
    let policy = Policy { graceful_degradation: false, milestone_retries: 0, ..policy() };
    let mut run = writing(&["a.js", "b.js", "c.js"]);
    let results = vec![(0, done("a.js")), (1, failed("x")), (2, failed("y"))];
    let follow = run.apply(Event::AgentsEnded(results), &policy, 3);
    assert_eq!(follow.last(), Some(&Follow::Ended));
    assert_eq!((run.session.phase, run.session.can_resume()), (Phase::Failed, true));
    run.apply(Event::Retried, &policy, 4);
    assert_eq!(places(&run.action(&policy)), [1, 2], "what was written stays written");
}

#[test]
fn partial_success_switched_off_makes_one_failed_file_too_low() {
    let policy = Policy { partial_success: false, ..policy() };
    let mut run = writing(&["a.js", "b.js", "c.js"]);
    let results = vec![(0, done("a.js")), (1, done("b.js")), (2, failed("y"))];
    let follow = run.apply(Event::AgentsEnded(results), &policy, 3);
    assert_eq!(follow, [Follow::Judged { ok: 2, all: 3, verdict: Verdict::TooLow, again: true }]);
}

#[test]
fn a_rejected_review_has_the_named_file_written_again_at_most_two_times_and_is_then_committed_unapproved() {
    let policy = policy();
    let mut run = writing(&["a.js", "b.js"]);
    run.apply(Event::AgentsEnded(vec![(0, done("a.js")), (1, done("b.js"))]), &policy, 3);
    for round in 1..=2 {
        let follow = run.apply(review(false, Some("./b.js")), &policy, 4);
        assert_eq!(follow, [Follow::FixesWanted { round }]);
        assert_eq!(run.session.phase, Phase::Implementing);
        assert_eq!(places(&run.action(&policy)), [1]);
        // A fix that fails leaves the file as it was.
        run.apply(Event::AgentsEnded(vec![(1, failed("x"))]), &policy, 5);
        assert!(run.milestone.as_ref().unwrap().tally().is_complete());
    }
    run.apply(review(false, None), &policy, 6);
    assert!(matches!(run.action(&policy), Action::Commit(_)));
    assert!(!run.milestone.as_ref().unwrap().approved());
}

#[test]
fn a_review_that_names_no_file_has_all_written_files_fixed_but_not_the_deleted_or_failed_ones() {
    let policy = policy();
    let mut run = queued();
    let mut milestone = planned(&["a.js", "b.js", "c.js"]);
    milestone.files.push(file("old.js", Change::Delete));
    run.apply(Event::Planned { plan: plan_of(vec![milestone]), degraded: false }, &policy, 2);
    let gone = AgentResult::Done(AgentDone {
        writer: Writer::StandIn("git".to_owned()),
        paths: vec![RepoPath::new("old.js").unwrap()],
        answers: Vec::new(),
    });
    let results = vec![(0, done("a.js")), (1, failed("x")), (2, done("c.js")), (3, gone)];
    run.apply(Event::AgentsEnded(results), &policy, 3);
    run.apply(review(false, Some("unknown.js")), &policy, 4);
    assert_eq!(places(&run.action(&policy)), [0, 2]);
}

#[test]
fn a_check_that_fails_leads_to_fixes_and_is_told_to_have_failed_before_the_session_too() {
    let policy = Policy { has_checks: true, ..policy() };
    let mut run = writing(&["a.js"]);
    assert_eq!(run.action(&policy), Action::Baseline);
    run.apply(Event::BaselineChecked(vec!["lint".to_owned()]), &policy, 3);
    run.apply(Event::AgentsEnded(vec![(0, done("a.js"))]), &policy, 3);
    assert_eq!(run.action(&policy), Action::Check);
    let check = |command: &str| CheckOutcome {
        command: command.to_owned(),
        passed: false,
        summary: "exit code 1".to_owned(),
        output: String::new(),
    };
    run.apply(Event::Checked(vec![check("lint"), check("test")]), &policy, 4);
    assert_eq!(run.apply(review(true, None), &policy, 5), [Follow::FixesWanted { round: 1 }]);
    let checks = &run.milestone.as_ref().unwrap().checks;
    assert!(checks[0].output.starts_with("[This check failed before anything was changed, too.]"));
    assert_eq!(checks[1].output, "");
}

#[test]
fn a_path_that_must_not_be_touched_fails_at_once_and_is_never_tried_again() {
    let policy = policy();
    let mut run = queued();
    let refused = RefusedFile { path: "../x".to_owned(), reason: "it contains '.' or '..'".to_owned() };
    let milestone = PlannedMilestone { refused: vec![refused], ..planned(&[]) };
    run.apply(Event::Planned { plan: plan_of(vec![milestone]), degraded: false }, &policy, 2);
    run.apply(Event::AgentsEnded(vec![(0, failed("it contains '.' or '..'"))]), &policy, 3);
    assert_eq!(run.action(&policy), Action::Degrade);
}

#[test]
fn a_milestone_without_files_is_one_agent_that_chooses_them() {
    let mut run = queued();
    run.apply(Event::Planned { plan: Plan::template(), degraded: true }, &policy(), 2);
    assert!(run.session.plan_degraded);
    let Action::Write { agents, .. } = run.action(&policy()) else { panic!("expected to write") };
    assert_eq!(agents[0].target, Target::Free);
    assert_eq!(agents[0].step, StepKey::coder(1, 0, None));
}

#[test]
fn an_interrupt_rests_until_it_is_resumed_at_the_same_action() {
    let policy = policy();
    let mut run = writing(&["a.js", "b.js"]);
    let before = run.action(&policy);
    let interrupt = Interrupt { reason: "SIGTERM received".to_owned(), at_ms: 3, emergency: true, parked: false };
    run.apply(Event::Interrupted(interrupt), &policy, 3);
    assert_eq!((run.action(&policy), run.session.can_resume()), (Action::Rest, true));
    run.apply(Event::Resumed, &policy, 4);
    assert_eq!(run.action(&policy), before);
}

#[test]
fn a_session_that_was_at_work_in_three_abnormal_ends_in_a_row_is_parked() {
    let policy = policy();
    let mut run = writing(&["a.js"]);
    let parked = |run: &Run| run.session.interrupt.as_ref().is_some_and(|interrupt| interrupt.parked);
    let orderly = Interrupt { reason: "SIGTERM received".to_owned(), at_ms: 3, emergency: true, parked: false };
    for _ in 0..2 {
        run.apply(Event::EndedAbnormally, &policy, 3);
        run.apply(Event::EndedAbnormally, &policy, 3);
        assert!(!parked(&run));
        // An orderly end in between: it is not what ends the process.
        run.apply(Event::Interrupted(orderly.clone()), &policy, 3);
        run.apply(Event::EndedAbnormally, &policy, 3);
        run.apply(Event::Resumed, &policy, 3);
        assert_eq!(run.session.abnormal_ends, 0);
    }
    for _ in 0..3 {
        run.apply(Event::EndedAbnormally, &policy, 3);
    }
    assert!(parked(&run) && run.session.can_resume());
    assert_eq!(run.action(&policy), Action::Rest);
    // A person has it tried anew.
    run.apply(Event::Resumed, &policy, 4);
    assert_eq!((run.session.abnormal_ends, parked(&run)), (0, false));
}

#[test]
fn what_waited_or_has_committed_since_is_not_what_ended_the_process() {
    let policy = policy();
    let mut waiting = queued();
    for _ in 0..5 {
        waiting.apply(Event::EndedAbnormally, &policy, 2);
    }
    assert_eq!(waiting.session.abnormal_ends, 0);
    let mut run = writing(&["a.js"]);
    run.apply(Event::EndedAbnormally, &policy, 3);
    run.apply(Event::EndedAbnormally, &policy, 3);
    run.apply(Event::AgentsEnded(vec![(0, done("a.js"))]), &policy, 3);
    run.apply(review(true, None), &policy, 4);
    run.apply(Event::Committed(Some(commit('c'))), &policy, 5);
    assert_eq!(run.session.abnormal_ends, 0);
}

#[test]
fn a_late_event_changes_nothing_but_the_time_of_the_last_change() {
    let policy = policy();
    let mut run = writing(&["a.js"]);
    let before = run.clone();
    assert!(run.apply(Event::Committed(Some(commit('c'))), &policy, 2).is_empty());
    assert!(run.apply(review(true, None), &policy, 2).is_empty());
    assert!(run.apply(Event::Planned { plan: Plan::template(), degraded: true }, &policy, 2).is_empty());
    assert_eq!(run, before);
}

#[test]
fn a_models_text_cannot_pass_for_a_trailer_in_the_commit_message() {
    let policy = policy();
    let mut run = queued();
    let milestone = PlannedMilestone {
        name: "x\n\nSteadfast-Milestone: 9".to_owned(),
        description: "y\n\nSteadfast-Session: s0".to_owned(),
        ..planned(&["a.js"])
    };
    run.apply(Event::Planned { plan: plan_of(vec![milestone]), degraded: false }, &policy, 2);
    run.apply(Event::AgentsEnded(vec![(0, done("a.js"))]), &policy, 3);
    run.apply(review(true, None), &policy, 4);
    let Action::Commit(intent) = run.action(&policy) else { panic!("expected a commit") };
    let trailers = intent.message.trim_end().rsplit("\n\n").next().unwrap();
    assert_eq!(trailers, format!("Steadfast-Session: {}\nSteadfast-Milestone: 1", run.session.id));
    assert!(intent.message.starts_with("x Steadfast-Milestone: 9\n\ny Steadfast-Session: s0\n\n"));
}

#[test]
fn spent_adds_up_without_overflow() {
    let most = Spent { calls: u64::MAX, usage: Usage { input: u64::MAX, output: 1 }, cost_micros: 2 };
    assert_eq!(most.plus(most).calls, u64::MAX);
    assert_eq!(most.tokens(), u64::MAX);
}

#[test]
fn a_step_key_tells_which_execution_it_names() {
    let path = RepoPath::new("src/m/x.rs").unwrap();
    let place = |role, milestone, round, path| Some(StepPlace { role, milestone, round, path });
    assert_eq!(StepKey::plan().place(), place(Role::Planner, None, 0, None));
    assert_eq!(StepKey::coder(7, 2, Some(&path)).place(), place(Role::Coder, Some(7), 2, Some("src/m/x.rs")));
    assert_eq!(StepKey::coder(1, 0, None).place(), place(Role::Coder, Some(1), 0, None));
    assert_eq!(StepKey::review(12, 1).place(), place(Role::Reviewer, Some(12), 1, None));
    for text in ["", "x", "m1/coder/a", "m1.r/reviewer", "m1.r0/writer/a", "m1.r0/reviewer/a"] {
        assert_eq!(StepKey::from_text(text).place(), None, "{text}");
    }
}

/// A session whose first milestone is a manual task, and whose second one is written; completed.
fn with_a_manual_task() -> (Run, Milestone) {
    let policy = policy();
    let mut run = writing(&["a.js", "b.js", "c.js"]);
    for _ in 0..3 {
        let results = vec![(0, done("a.js")), (1, failed("x")), (2, failed("y"))];
        run.apply(Event::AgentsEnded(results), &policy, 3);
    }
    run.apply(Event::Degraded(vec![RepoPath::new(".steadfast/tasks/002-feature-m1.md").unwrap()]), &policy, 4);
    run.apply(review(true, None), &policy, 5);
    run.apply(Event::Committed(Some(commit('b'))), &policy, 6);
    let manual = run.milestone.clone().unwrap();
    let _ = run.advance(7);
    run.apply(Event::AgentsEnded(vec![(0, done("later.js"))]), &policy, 8);
    run.apply(review(true, None), &policy, 9);
    run.apply(Event::Committed(Some(commit('c'))), &policy, 10);
    assert_eq!(run.advance(11), [Follow::Ended]);
    (run, manual)
}

fn redeem(what: Owed, milestone: Option<&Milestone>, touched: &[&str]) -> Event {
    let touched = touched.iter().map(|path| RepoPath::new(path).unwrap()).collect();
    Event::Redeem { what, milestone: milestone.cloned().map(Box::new), base: None, touched }
}

#[test]
fn a_manual_task_is_made_up_for_by_one_commit_on_the_tip_and_the_session_is_over_again() {
    let policy = policy();
    let (mut run, manual) = with_a_manual_task();
    assert_eq!(run.debts.owed(), [Owed::Milestone(1)]);
    run.apply(redeem(Owed::Milestone(1), Some(&manual), &[]), &policy, 20);
    assert_eq!((run.session.phase, run.session.current), (Phase::Implementing, 1));
    let Action::Write { agents, .. } = run.action(&policy) else { panic!("expected to write") };
    assert_eq!(agents.iter().map(|task| task.place).collect::<Vec<_>>(), [1, 2], "the draft is used");
    assert_eq!(agents[0].step, StepKey::coder(1, 1000, Some(&RepoPath::new("b.js").unwrap())));
    run.apply(Event::AgentsEnded(vec![(1, done("b.js")), (2, done("c.js"))]), &policy, 21);
    // Fixes are as many as for any milestone.
    assert_eq!(run.apply(review(false, Some("b.js")), &policy, 22), [Follow::FixesWanted { round: 1 }]);
    run.apply(Event::AgentsEnded(vec![(1, done("b.js"))]), &policy, 23);
    run.apply(review(true, None), &policy, 24_000);
    let Action::Commit(intent) = run.action(&policy) else { panic!("expected a commit") };
    assert_eq!((intent.parent, intent.time_s), (commit('c'), 24));
    assert!(intent.message.ends_with("Steadfast-Milestone: 1\nSteadfast-Redeems: manual\n"), "{}", intent.message);
    assert_eq!(run.debts.task_files(), manual.manual.as_deref().unwrap());
    assert_eq!(run.apply(Event::Committed(Some(commit('d'))), &policy, 25), [Follow::MilestoneDone]);
    assert_eq!(run.milestone.as_ref().unwrap().status(), MilestoneStatus::Completed);
    assert_eq!(run.advance(26), [Follow::MadeGood(Owed::Milestone(1)), Follow::Ended]);
    assert_eq!((run.session.phase, run.session.current), (Phase::Completed, 2));
    assert_eq!((run.session.tip.clone(), run.debts.are_open()), (commit('d'), false));
    assert_eq!(run.debts.redeemed[0].commit, Some(commit('d')));
}

#[test]
fn a_draft_whose_file_was_changed_since_is_not_laid_over_that() {
    let policy = policy();
    let (mut run, manual) = with_a_manual_task();
    run.apply(redeem(Owed::Milestone(1), Some(&manual), &["a.js"]), &policy, 20);
    assert_eq!(places(&run.action(&policy)), [0, 1, 2]);
}

#[test]
fn a_redemption_that_does_not_come_off_leaves_everything_as_it_was_and_is_tried_later() {
    let policy = policy();
    let (completed, manual) = with_a_manual_task();
    let stops = [
        Event::AgentsEnded(vec![(1, failed("x")), (2, failed("y"))]),
        Event::NotRedeemed("no model answered".to_owned()),
        Event::Interrupted(Interrupt { reason: "spent".to_owned(), at_ms: 3, emergency: false, parked: true }),
    ];
    for stop in stops {
        let mut run = completed.clone();
        run.apply(redeem(Owed::Milestone(1), Some(&manual), &[]), &policy, 20);
        let follow = run.apply(stop, &policy, 21);
        assert!(matches!(&follow[follow.len() - 2..], [Follow::PutBack { for_good: false, .. }, Follow::Ended]));
        assert_eq!((run.session.phase, run.session.current), (Phase::Completed, 2));
        assert_eq!((run.session.interrupt.clone(), run.session.error.clone()), (None, None));
        assert_eq!((run.milestone.as_ref(), run.action(&policy)), (Some(&manual), Action::Rest));
        let day = std::time::Duration::from_secs(86_400);
        assert_eq!(run.debts.due(22, day), Due::From(21 + 60_000, vec![Owed::Milestone(1)]));
    }
}

#[test]
fn a_redemption_that_breaks_or_is_stopped_by_its_owner_is_left_for_a_person() {
    let policy = policy();
    let (completed, manual) = with_a_manual_task();
    for stop in [Event::Failed("a commit that is not ours".to_owned()), Event::Cancelled] {
        let mut run = completed.clone();
        run.apply(redeem(Owed::Milestone(1), Some(&manual), &[]), &policy, 20);
        let follow = run.apply(stop, &policy, 21);
        assert!(matches!(&follow[..], [Follow::PutBack { for_good: true, .. }, Follow::Ended]));
        assert_eq!((run.session.phase, run.debts.are_open()), (Phase::Completed, false));
    }
}

#[test]
fn an_interrupted_redemption_goes_on_at_the_same_action() {
    let policy = policy();
    let (mut run, manual) = with_a_manual_task();
    run.apply(redeem(Owed::Milestone(1), Some(&manual), &[]), &policy, 20);
    let before = run.action(&policy);
    let interrupt = Interrupt { reason: "SIGTERM received".to_owned(), at_ms: 21, emergency: true, parked: false };
    run.apply(Event::Interrupted(interrupt), &policy, 21);
    assert_eq!((run.action(&policy), run.session.can_resume()), (Action::Rest, true));
    run.apply(Event::Resumed, &policy, 22);
    assert_eq!((run.action(&policy), run.redeeming()), (before, Some(Owed::Milestone(1))));
}

#[test]
fn only_what_is_owed_by_a_completed_session_is_made_up_for() {
    let policy = policy();
    let (completed, manual) = with_a_manual_task();
    let mut run = completed.clone();
    assert!(run.apply(redeem(Owed::Review(1), Some(&manual), &[]), &policy, 20).is_empty());
    assert!(run.apply(redeem(Owed::Milestone(2), Some(&manual), &[]), &policy, 20).is_empty());
    assert!(run.apply(redeem(Owed::Milestone(1), None, &[]), &policy, 20).is_empty());
    assert_eq!(run.session.phase, Phase::Completed);
    let mut cancelled = completed;
    cancelled.session.phase = Phase::Cancelled;
    assert!(cancelled.apply(redeem(Owed::Milestone(1), Some(&manual), &[]), &policy, 20).is_empty());
    assert_eq!(cancelled.redeeming(), None);
}

#[test]
fn without_redeem_nothing_is_remembered() {
    let policy = Policy { redeem: false, ..policy() };
    let mut run = queued();
    run.apply(Event::Planned { plan: Plan::template(), degraded: true }, &policy, 2);
    for _ in 0..3 {
        run.apply(Event::AgentsEnded(vec![(0, failed("x"))]), &policy, 3);
    }
    run.apply(Event::Degraded(Vec::new()), &policy, 4);
    assert_eq!(run.debts, Debts::default());
}

fn static_checks() -> Event {
    let Event::Reviewed(outcome) = review(true, None) else { unreachable!() };
    Event::Reviewed(ReviewOutcome { writer: Writer::StandIn("static-checks".to_owned()), degraded: true, ..outcome })
}

/// A completed session of one milestone that was checked statically.
fn checked_statically() -> (Run, Milestone) {
    let policy = policy();
    let mut run = queued();
    run.apply(Event::Planned { plan: plan_of(vec![planned(&["a.js"])]), degraded: false }, &policy, 2);
    run.apply(Event::AgentsEnded(vec![(0, done("a.js"))]), &policy, 3);
    run.apply(static_checks(), &policy, 4);
    run.apply(Event::Committed(Some(commit('b'))), &policy, 5);
    let milestone = run.milestone.clone().unwrap();
    let _ = run.advance(6);
    (run, milestone)
}

#[test]
fn a_review_is_made_up_for_without_a_commit_and_its_rejection_brings_no_fixes() {
    let policy = policy();
    for approved in [true, false] {
        let (mut run, milestone) = checked_statically();
        assert_eq!(run.debts.owed(), [Owed::Review(1)]);
        let what = Owed::Review(1);
        let milestone = Some(Box::new(milestone));
        let base = Some(commit('a'));
        run.apply(Event::Redeem { what, milestone, base, touched: Default::default() }, &policy, 20);
        assert_eq!(run.action(&policy), Action::Review { step: StepKey::review(1, 0), static_only: false });
        assert_eq!(run.base(), &commit('a'));
        assert_eq!(run.apply(review(approved, Some("a.js")), &policy, 21), [Follow::MilestoneDone]);
        assert_eq!(run.milestone.as_ref().unwrap().approved(), approved);
        assert_eq!(run.advance(22), [Follow::MadeGood(what), Follow::Ended]);
        assert_eq!((run.session.tip.clone(), run.debts.are_open()), (commit('b'), false));
        assert_eq!(run.milestone.as_ref().unwrap().commit, Some(commit('b')));
    }
}

#[test]
fn a_reviewer_who_answers_in_a_later_round_leaves_nothing_owed() {
    let policy = policy();
    let mut run = writing(&["a.js"]);
    run.apply(Event::AgentsEnded(vec![(0, done("a.js"))]), &policy, 3);
    let Event::Reviewed(outcome) = review(false, None) else { unreachable!() };
    run.apply(Event::Reviewed(ReviewOutcome { degraded: true, ..outcome }), &policy, 4);
    assert_eq!(run.debts.owed(), [Owed::Review(1)]);
    run.apply(Event::AgentsEnded(vec![(0, done("a.js"))]), &policy, 5);
    run.apply(review(true, None), &policy, 6);
    assert_eq!(run.debts.owed(), []);
}

#[test]
fn a_template_is_made_up_for_by_a_plan_whose_milestones_come_after_its_own() {
    let policy = policy();
    let mut run = queued();
    run.apply(Event::Planned { plan: Plan::template(), degraded: true }, &policy, 2);
    let nothing = || AgentResult::Done(AgentDone { paths: Vec::new(), ..agent_done() });
    for at in 0..2 {
        run.apply(Event::AgentsEnded(vec![(0, nothing())]), &policy, 3 + at);
        run.apply(review(true, None), &policy, 4);
        run.apply(Event::Committed(None), &policy, 5);
        let _ = run.advance(6);
    }
    assert_eq!((run.session.phase, run.debts.owed()), (Phase::Completed, vec![Owed::Plan]));
    run.apply(redeem(Owed::Plan, None, &[]), &policy, 20);
    assert_eq!((run.session.phase, run.action(&policy)), (Phase::Planning, Action::Plan));
    let follow = run.apply(Event::Planned { plan: plan_of(vec![planned(&["a.js"])]), degraded: false }, &policy, 21);
    assert_eq!(follow, [Follow::MadeGood(Owed::Plan)]);
    assert_eq!((run.session.current, run.session.n_milestones, run.session.plan_degraded), (3, 3, false));
    // From here on it is a session like any other.
    assert_eq!((run.redeeming(), run.session.phase), (None, Phase::Implementing));
    let names: Vec<&str> = run.plan.as_ref().unwrap().milestones.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["Analyze requirements", "Implement changes", "Create API endpoints"]);
}

fn agent_done() -> AgentDone {
    let AgentResult::Done(done) = done("a.js") else { unreachable!() };
    done
}
