//! `sessions`, `show`, `status`: through the daemon where one runs, else from the store itself.

use std::path::{Path, PathBuf};

use steadfast_actors::Keeper;
use steadfast_core::ids::{ModelId, Role, SessionId};
use steadfast_core::session::{Phase, Policy, Session};
use steadfast_core::tuning::Timeouts;

use crate::cli::{Global, SessionsArgs, StatusArgs};
use crate::exit::{FAILED, Failure, Outcome, failed};
use crate::report::Report;
use crate::setup::{Access, DEFAULT_TIMEOUT, Setup};
use crate::wire::{ModelRow, OutboxCounts, RateReport, Roles, SessionCounts, StatusBody, StoreStatus};
use crate::{print, print_json, text};

/// How far back a failed session is looked for when none is named.
const RECENT: usize = 50;

/// Finds the session that a person means: by its id, by its idea's id (the newest), or, with nothing given, the newest that
/// can be taken up. `finished`: failed and cancelled ones can be meant, too.
pub(crate) fn find(keeper: &Keeper, id: Option<&str>, finished: bool) -> Result<SessionId, Failure> {
    let store = |error: steadfast_actors::KeeperError| failed("cannot read the store", &error);
    let Some(id) = id else {
        let fits = |session: &Session| !session.phase.is_final() || (finished && session.phase == Phase::Failed);
        let newest = keeper.unfinished().map_err(store)?.into_iter().filter(fits).map(|session| session.id).max();
        if let Some(newest) = newest {
            return Ok(newest);
        }
        // A failed one can go on as well; it says so itself.
        let failed =
            keeper.newest(RECENT).map_err(store)?.into_iter().find(|record| record.session.phase == Phase::Failed);
        return failed
            .map(|record| record.session.id)
            .ok_or_else(|| Failure::NotFound("there is no session to go on with".to_owned()));
    };
    if let Ok(session) = SessionId::parse(id) {
        return match keeper.head(&session).map_err(store)? {
            Some(_) => Ok(session),
            None if keeper.damaged(&session).map_err(store)?.contains(&"head".to_owned()) => {
                Err(Failure::Failed(format!(
                    "the record of session {id} did not verify and is set aside: look at its branch, keep what is good, and \
                 run the idea again"
                )))
            }
            None => Err(Failure::NotFound(format!("there is no session {id}; `steadfast sessions` lists them"))),
        };
    }
    let found = keeper.newest_of_idea(id).map_err(store)?;
    found.ok_or_else(|| Failure::NotFound(format!("there is no session of idea {id}; `steadfast sessions` lists them")))
}

/// The newest sessions, without their files.
pub(crate) fn list(keeper: &Keeper, limit: usize, policy: &Policy) -> Result<Vec<Report>, Failure> {
    let records = keeper.newest(limit).map_err(|error| failed("cannot read the store", &error))?;
    Ok(records.iter().map(|record| Report::new(record, policy, false)).collect())
}

/// One session in full.
pub(crate) fn one(keeper: &Keeper, id: &SessionId, policy: &Policy) -> Result<Report, Failure> {
    let record = keeper.record(id).map_err(|error| failed("cannot read the store", &error))?;
    let record = record.ok_or_else(|| Failure::NotFound(format!("there is no session {id}")))?;
    let mut report = Report::new(&record, policy, true);
    report.add_history(keeper, id)?;
    report.damaged = keeper.damaged(id).map_err(|error| failed("cannot read the store", &error))?;
    let debts = keeper.debts(id).map_err(|error| failed("cannot read the store", &error))?;
    debts.iter().for_each(|debts| report.add_debts(debts));
    Ok(report)
}

/// One session with the files of the milestone at work alone.
pub(crate) fn at_its_milestone(keeper: &Keeper, id: &SessionId, policy: &Policy) -> Result<Report, Failure> {
    let mut report = one(keeper, id, policy)?;
    let current = report.current_milestone;
    report.milestones.iter_mut().filter(|milestone| milestone.index != current).for_each(|milestone| {
        milestone.files = None;
    });
    Ok(report)
}

/// `steadfast sessions`.
pub(crate) async fn sessions(global: &Global, args: &SessionsArgs) -> Outcome {
    let setup = Setup::load(global)?;
    let limit = args.limit.unwrap_or(usize::MAX);
    let reports: Vec<Report> = match setup.access_to_look().await? {
        Access::Served(client) => client.get(&format!("/v1/sessions?limit={limit}")).await?,
        Access::Own(keeper) => {
            let mut reports = list(&keeper, limit, &setup.session_policy())?;
            reports.iter_mut().for_each(Report::nobody_carries_it);
            reports
        }
    };
    if global.json {
        return print_json(&reports);
    }
    let aside = steadfast_actors::set_aside_files(setup.state_dir());
    match aside.last() {
        Some(newest) if reports.is_empty() => {
            print(&format!("no sessions in the store; files of it that were damaged lie in {}\n", newest.display()));
        }
        _ => print(&text::sessions(&reports)),
    }
    Ok(())
}

/// `steadfast show`.
pub(crate) async fn show(global: &Global, id: &str) -> Outcome {
    let setup = Setup::load(global)?;
    let report: Report = match setup.access_to_look().await? {
        Access::Served(client) => client.get(&format!("/v1/sessions/{id}")).await?,
        Access::Own(keeper) => {
            let mut report = one(&keeper, &find(&keeper, Some(id), true)?, &setup.session_policy())?;
            report.nobody_carries_it();
            report
        }
    };
    if global.json {
        return print_json(&report);
    }
    print(&text::report(&report));
    Ok(())
}

/// `steadfast status`.
pub(crate) async fn status(global: &Global, args: &StatusArgs) -> Outcome {
    let setup = Setup::load(global)?;
    let status: StatusBody = match setup.access_to_look().await? {
        Access::Served(client) => client.get("/v1/status").await?,
        Access::Own(keeper) => from_store(&setup, &keeper)?,
    };
    if global.json {
        print_json(&status)?;
    } else {
        print(&text::status(&status));
    }
    if args.check && is_critical(&status) {
        return Err(Failure::Code(FAILED));
    }
    Ok(())
}

/// A role none of whose models can be called is critical, and so is a rate at its critical level.
fn is_critical(status: &StatusBody) -> bool {
    let out = |row: &ModelRow| row.circuit_breaker == "OPEN" || row.circuit_breaker.starts_with("UNAVAILABLE");
    let roles = [&status.roles.planner, &status.roles.coder, &status.roles.reviewer];
    let critical = |rate: &RateReport| rate.last_hour.level == "critical";
    roles.iter().any(|models| models.iter().all(out)) || status.rates.values().any(critical)
}

/// Minutes since 1970.
pub(crate) fn now_minute() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second() / 60).unwrap_or(0)
}

/// What the store alone says: how everything stood when it was saved last.
pub(crate) fn from_store(setup: &Setup, keeper: &Keeper) -> Result<StatusBody, Failure> {
    let (clients, breaker) = (setup.clients(), setup.breaker());
    let rates = keeper.rates().map_err(|error| failed("cannot read the store", &error))?;
    let timeouts = match setup.config.failover.auto_timeout {
        true => Timeouts::new(keeper.raises().map_err(|error| failed("cannot read the store", &error))?),
        false => Timeouts::default(),
    };
    let raised = |model: &ModelId| {
        let configured = setup.config.models.get(model).map_or(DEFAULT_TIMEOUT, |model| model.timeout);
        ModelRow::raised(timeouts.raised_by(model, configured))
    };
    let rows = |role: Role| -> Vec<ModelRow> {
        let row = |(at, model): (usize, &ModelId)| {
            let unavailable = clients.get(model).and_then(|client| client.as_ref().err());
            let (circuit_breaker, retry_in) = match unavailable {
                Some(reason) => (format!("UNAVAILABLE ({reason})"), None),
                None => keeper.saved_breaker(model, breaker.clone()),
            };
            ModelRow {
                model: model.to_string(),
                priority: at + 1,
                circuit_breaker,
                retry_in_ms: retry_in.map(|time| time.as_millis() as u64),
                timeout_raised_by_ms: raised(model),
            }
        };
        setup.config.roles.of(role).iter().enumerate().map(row).collect()
    };
    let roles = Roles { planner: rows(Role::Planner), coder: rows(Role::Coder), reviewer: rows(Role::Reviewer) };
    Ok(StatusBody {
        daemon: false,
        paused: None,
        http: None,
        roles,
        rates: RateReport::all(&rates, now_minute()),
        sessions: count(keeper, &[], &[])?,
        outbox: undelivered(keeper)?,
        store: store_status(keeper, setup.state_dir())?,
    })
}

pub(crate) fn store_status(keeper: &Keeper, state_dir: &Path) -> Result<StoreStatus, Failure> {
    let set_aside_records = keeper.n_set_aside().map_err(|error| failed("cannot read the store", &error))?;
    let shown = |folder: &PathBuf| folder.display().to_string();
    let set_aside_files = steadfast_actors::set_aside_files(state_dir).iter().map(shown).collect();
    Ok(StoreStatus { healed: keeper.report().to_vec(), set_aside_records, set_aside_files })
}

/// Sessions by where they stand; those at work and in the queue as the supervisor says.
pub(crate) fn count(keeper: &Keeper, active: &[SessionId], queued: &[SessionId]) -> Result<SessionCounts, Failure> {
    let counts = keeper.counts().map_err(|error| failed("cannot read the store", &error))?;
    let standing = counts.unfinished.saturating_sub(active.len() + queued.len());
    Ok(SessionCounts {
        queued: queued.len(),
        active: active.len(),
        interrupted: standing,
        completed: counts.completed,
        failed: counts.failed,
        cancelled: counts.cancelled,
    })
}

pub(crate) fn undelivered(keeper: &Keeper) -> Result<OutboxCounts, Failure> {
    let undelivered = keeper.n_undelivered().map_err(|error| failed("cannot read the store", &error))?;
    Ok(OutboxCounts { undelivered })
}
