//! Bodies on the control socket that are not reports.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use steadfast_core::rates::{Counts, Metric, Rates};

use crate::feed::at_work::Work;
use crate::report::{OutboxReport, Report};

/// Any answer that is not a success.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ErrorBody {
    /// Stable, for programs.
    pub(crate) code: String,
    /// For a person.
    pub(crate) message: String,
    /// The session that stands in the way, where one does.
    #[serde(rename = "sessionId", default, skip_serializing_if = "Option::is_none")]
    pub(crate) session_id: Option<String>,
}

/// The answer of `/healthz` and `/readyz`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Health {
    /// `ok`.
    pub(crate) status: String,
}

/// `POST /v1/sessions`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SubmitBody {
    /// The idea's text.
    pub(crate) idea: String,
    /// The file's name without its ending: the id where the text has none.
    pub(crate) file_stem: String,
    /// The repository, absolute.
    pub(crate) repo: String,
    /// Begin although a role has no model that can be called.
    #[serde(default)]
    pub(crate) allow_degraded: bool,
}

/// The answer to it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Submitted {
    /// The new session.
    pub(crate) session_id: String,
}

/// `POST /v1/breakers/reset`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ResetBody {
    /// provider/name; `None`: all.
    #[serde(default)]
    pub(crate) model: Option<String>,
}

/// The answer to it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ResetDone {
    /// Breakers that were reset.
    pub(crate) reset: usize,
}

/// `prune --json`, and the answer to `POST /v1/prune`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PruneDone {
    /// Sessions that were over for longer than `keep_finished`.
    pub(crate) sessions: usize,
    /// Copies of broken stores of that age.
    pub(crate) set_aside: usize,
}

/// The answer to `POST /v1/reload`: what holds now.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reloaded {
    /// Files that were read, in order.
    pub(crate) sources: Vec<String>,
    /// Models that a role lists now, and none did before.
    pub(crate) models_added: Vec<String>,
    /// Models that no role lists any more.
    pub(crate) models_removed: Vec<String>,
    /// Keys whose new value holds from the next start on.
    pub(crate) at_next_start: Vec<String>,
    /// What is allowed but probably not meant.
    pub(crate) warnings: Vec<String>,
}

/// `status --json` (SPEC 13).
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct StatusBody {
    /// A daemon answered.
    pub(crate) daemon: bool,
    /// Why no session begins: memory or disk are short. Not there while they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) paused: Option<String>,
    /// Where the daemon serves HTTP, e.g. `http://127.0.0.1:7070`. Not there where it does so on its socket alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) http: Option<String>,
    pub(crate) roles: Roles,
    pub(crate) rates: BTreeMap<String, RateReport>,
    pub(crate) sessions: SessionCounts,
    pub(crate) outbox: OutboxCounts,
    pub(crate) store: StoreStatus,
}

impl StatusBody {
    /// Runs the times to the next tests down by `passed`; `None`: leaves them out.
    pub(crate) fn age(&mut self, passed: Option<Duration>) {
        let roles = [&mut self.roles.planner, &mut self.roles.coder, &mut self.roles.reviewer];
        for row in roles.into_iter().flatten() {
            let left = |ms: u64, passed: Duration| ms.saturating_sub(passed.as_millis() as u64);
            row.retry_in_ms = row.retry_in_ms.and_then(|ms| passed.map(|passed| left(ms, passed)));
        }
    }
}

/// How the store came out of its last opening.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StoreStatus {
    /// What the opening by the process that answers had to mend, and what was lost, as sentences; empty for a sound store.
    pub(crate) healed: Vec<String>,
    /// Records that did not verify and are set aside.
    pub(crate) set_aside_records: usize,
    /// Folders in which openings have kept damaged files.
    pub(crate) set_aside_files: Vec<String>,
}

/// `store check --json`, and `GET /v1/store/check`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CheckBody {
    /// Nothing is damaged, set aside or missing, and the opening had nothing to mend.
    pub(crate) sound: bool,
    /// Records that verify.
    pub(crate) records: u64,
    /// Records kept beside the ones that replaced them.
    pub(crate) previous: u64,
    /// Bytes of all payloads.
    pub(crate) payload_bytes: u64,
    /// Records that are counted and not there.
    pub(crate) missing: u64,
    /// Records that do not verify.
    pub(crate) damaged: Vec<DamagedRecord>,
    /// Keys of records that did not verify one day and were set aside.
    pub(crate) set_aside: Vec<String>,
    /// What the opening had to mend, and what was lost.
    pub(crate) healed: Vec<String>,
    /// Folders in which openings have kept damaged files.
    pub(crate) set_aside_files: Vec<String>,
}

/// A record that does not verify.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct DamagedRecord {
    pub(crate) key: String,
    pub(crate) reason: String,
}

/// One of the five rates.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RateReport {
    pub(crate) last_hour: RateRow,
    pub(crate) since_start: RateRow,
}

/// A rate over a time.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RateRow {
    /// 0 to 1; for breaker opens a number; `null` while nothing was counted.
    pub(crate) value: Option<f64>,
    /// `good`, `warning` or `critical`.
    pub(crate) level: String,
}

impl RateReport {
    /// All five. `minute`: minutes since 1970.
    pub(crate) fn all(rates: &Rates, minute: u64) -> BTreeMap<String, Self> {
        let row = |metric: Metric, counts: &Counts| {
            let (part, all) = metric.fraction(counts);
            let value = (all > 0).then(|| part as f64 / all as f64);
            RateRow { value, level: metric.level(counts).as_str().to_owned() }
        };
        let report = |metric: Metric| Self {
            last_hour: row(metric, &rates.last_hour(minute)),
            since_start: row(metric, &rates.total()),
        };
        Metric::ALL.into_iter().map(|metric| (metric.as_str().to_owned(), report(metric))).collect()
    }
}

/// `GET /v1/live`: all that is not over, in one answer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LiveBody {
    /// Of the program.
    pub(crate) version: String,
    /// The daemon's clock (RFC 3339, UTC), for a reader whose own is off.
    pub(crate) now: String,
    /// What has happened up to the event of this number is in here. Divided by 2^31 it tells one process from the next.
    pub(crate) last_event_id: u64,
    /// Sessions that are not over.
    pub(crate) unfinished: usize,
    /// The newest of them, newest first, at most 100; with the files of the milestone at work.
    pub(crate) sessions: Vec<Report>,
    /// Executions and checks that are under way.
    pub(crate) at_work: Vec<Work>,
    /// What waits for delivery, oldest first, at most 50.
    pub(crate) undelivered: Vec<OutboxReport>,
}

/// `dashboard --json`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct DashboardAt {
    /// With the token.
    pub(crate) url: String,
    /// The desktop was asked to open it.
    pub(crate) opened: bool,
}

/// `GET /v1/rates/history`: the sliding hour over the last day.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RateHistory {
    /// The last minute of each hour (minutes since 1970), ascending.
    pub(crate) minutes: Vec<u64>,
    /// By the metric's name.
    pub(crate) rates: BTreeMap<String, RateSeries>,
}

/// One rate over time.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RateSeries {
    /// From here to `high`, both included, is `warning`.
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Above `high` is good and below `low` is critical; else the other way round.
    pub(crate) more_is_better: bool,
    /// One for each of the minutes: 0 to 1; for breaker opens a number; `null` where nothing was counted.
    pub(crate) values: Vec<Option<f64>>,
}

/// Each role's models in priority order.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Roles {
    pub(crate) planner: Vec<ModelRow>,
    pub(crate) coder: Vec<ModelRow>,
    pub(crate) reviewer: Vec<ModelRow>,
}

/// One model of a role.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModelRow {
    pub(crate) model: String,
    /// From 1.
    pub(crate) priority: usize,
    /// `CLOSED`, `MONITORING (1/3)`, `OPEN`, `HALF-OPEN`, `UNAVAILABLE (reason)`.
    pub(crate) circuit_breaker: String,
    /// Until the next test of an open breaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry_in_ms: Option<u64>,
    /// What `auto_timeout` has added to its timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_raised_by_ms: Option<u64>,
}

impl ModelRow {
    /// Nothing is shown where nothing was added.
    pub(crate) fn raised(by: Duration) -> Option<u64> {
        (!by.is_zero()).then_some(by.as_millis() as u64)
    }
}

/// Sessions by where they stand.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct SessionCounts {
    pub(crate) queued: usize,
    pub(crate) active: usize,
    pub(crate) interrupted: usize,
    pub(crate) completed: usize,
    pub(crate) failed: usize,
    pub(crate) cancelled: usize,
}

/// Issues that wait for delivery.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct OutboxCounts {
    pub(crate) undelivered: usize,
}
