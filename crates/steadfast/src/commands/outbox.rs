//! `outbox list` and `outbox flush`.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;
use steadfast_actors::{Handle, Keeper, KeeperError};

use crate::cli::Global;
use crate::exit::{FAILED, Failure, Outcome, failed};
use crate::report::OutboxReport;
use crate::setup::{Access, Setup};
use crate::{print, print_json, text};

/// How long a flush may take. A client of the daemon waits a little longer than this for its answer.
const FLUSH_AT_MOST: Duration = Duration::from_secs(25);

/// Every issue, closing and alert, oldest first.
pub(crate) fn entries(keeper: &Keeper) -> Result<Vec<OutboxReport>, Failure> {
    let read = || -> Result<Vec<OutboxReport>, KeeperError> {
        let mut reports = Vec::new();
        for record in keeper.issues()? {
            // Most are delivered, and have no trouble to be looked for.
            let trouble = if record.url.is_some() { None } else { keeper.trouble(&record.issue.key)? };
            reports.push((record.created_ms, OutboxReport::new(&record, trouble)));
        }
        for record in keeper.outgoing()? {
            let trouble = keeper.trouble(&record.key())?;
            reports.push((record.created_ms, OutboxReport::of_outgoing(&record, trouble)));
        }
        reports.sort_by_key(|(created_ms, _)| *created_ms);
        Ok(reports.into_iter().map(|(_, report)| report).collect())
    };
    read().map_err(|error| failed("cannot read the store", &error))
}

/// What waits for delivery, oldest first.
pub(crate) fn undelivered(keeper: &Keeper, limit: usize) -> Result<Vec<OutboxReport>, Failure> {
    let read = || -> Result<Vec<OutboxReport>, KeeperError> {
        let mut reports = Vec::new();
        for record in keeper.undelivered()? {
            reports.push((record.created_ms, OutboxReport::new(&record, keeper.trouble(&record.issue.key)?)));
        }
        for record in keeper.outgoing()?.iter().filter(|record| record.receipt.is_none()) {
            reports.push((record.created_ms, OutboxReport::of_outgoing(record, keeper.trouble(&record.key())?)));
        }
        reports.sort_by_key(|(created_ms, _)| *created_ms);
        Ok(reports.into_iter().map(|(_, report)| report).take(limit).collect())
    };
    read().map_err(|error| failed("cannot read the store", &error))
}

/// Tries everything now: what waited before, as it stands afterwards. `waiting`: what waited.
pub(crate) async fn flush_now(handle: &Handle, waiting: HashSet<String>) -> Result<Vec<OutboxReport>, Failure> {
    handle.flush_outbox(FLUSH_AT_MOST).await;
    Ok(entries(handle.keeper())?.into_iter().filter(|report| waiting.contains(&report.key)).collect())
}

/// The keys of what waits.
pub(crate) fn waiting(keeper: &Keeper) -> Result<HashSet<String>, Failure> {
    let reports = entries(keeper)?.into_iter();
    Ok(reports.filter(|report| !report.issue.delivered).map(|report| report.key).collect())
}

/// `steadfast outbox list`.
pub(crate) async fn list(global: &Global) -> Outcome {
    let setup = Setup::load(global)?;
    let reports: Vec<OutboxReport> = match setup.access_to_look().await? {
        Access::Served(client) => client.get("/v1/outbox").await?,
        Access::Own(keeper) => entries(&keeper)?,
    };
    if global.json {
        return print_json(&reports);
    }
    print(&text::outbox(&reports));
    Ok(())
}

/// `steadfast outbox flush`: exit code 1 when something is still not delivered.
pub(crate) async fn flush(global: &Global) -> Outcome {
    let setup = Setup::load(global)?;
    let reports: Vec<OutboxReport> = match setup.access().await? {
        Access::Served(client) => client.post("/v1/outbox/flush", &Value::Null).await?,
        Access::Own(keeper) => {
            // Before the actors begin, for they begin with a try.
            let waiting = waiting(&keeper)?;
            let handle = setup.start(setup.settings()?, keeper).await?;
            let reports = flush_now(&handle, waiting).await;
            handle.shutdown("the outbox was tried", async {}).await;
            reports?
        }
    };
    if global.json {
        print_json(&reports)?;
    } else if reports.is_empty() {
        print("nothing waits for delivery\n");
    } else {
        print(&text::outbox(&reports));
    }
    if reports.iter().all(|report| report.issue.delivered) { Ok(()) } else { Err(Failure::Code(FAILED)) }
}
