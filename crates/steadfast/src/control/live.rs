//! What the dashboard begins with: everything that is not over, what is under way in this instant, what waits for delivery, and
//! the rates of a day. Afterwards it follows the events.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use steadfast_core::rates::Metric;

use super::Control;
use super::refusal::Refusal;
use crate::commands::look::now_minute;
use crate::commands::{look, outbox};
use crate::exit::failed;
use crate::wire::{LiveBody, RateHistory, RateSeries};

/// Sessions that are not over and are told of in full; the page shows no more of them, and says how many there are.
const SESSIONS: usize = 100;
/// The same for what waits for delivery.
const UNDELIVERED: usize = 50;

pub(super) fn routes() -> Router<Arc<Control>> {
    Router::new().route("/v1/live", get(live)).route("/v1/rates/history", get(history))
}

async fn live(State(control): State<Arc<Control>>) -> Result<Json<LiveBody>, Refusal> {
    // Read before the rest: what happens meanwhile is told twice rather than never.
    let (at_work, last_event_id) = control.feed.shared().at_work();
    let body = control.read(move |control| {
        let keeper = control.handle.keeper();
        let policy = control.setup().session_policy();
        let unfinished = keeper.unfinished().map_err(|error| failed("cannot read the store", &error))?;
        let newest = unfinished.iter().rev().take(SESSIONS);
        let sessions = newest.map(|session| look::at_its_milestone(keeper, &session.id, &policy));
        let undelivered = outbox::undelivered(keeper, UNDELIVERED)?;
        Ok(LiveBody {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now: Timestamp::now().to_string(),
            last_event_id,
            unfinished: unfinished.len(),
            sessions: sessions.collect::<Result<_, _>>()?,
            at_work,
            undelivered,
        })
    });
    Ok(Json(body.await?))
}

async fn history(State(control): State<Arc<Control>>) -> Json<RateHistory> {
    let (history, rates) = control.handle.meter().history();
    let hours = history.hours(&rates, now_minute());
    let series = |metric: Metric| {
        let (low, high) = metric.bounds();
        let scale = if metric == Metric::BreakerOpens { 1.0 } else { 100.0 };
        let value = |hour: &steadfast_core::rates::Hour| {
            let (part, all) = metric.fraction(&hour.counts);
            // Four places are a hundredth of a percent; a chart shows less.
            (all > 0).then(|| (part as f64 / all as f64 * 10_000.0).round() / 10_000.0)
        };
        RateSeries {
            low: low as f64 / scale,
            high: high as f64 / scale,
            more_is_better: metric.more_is_better(),
            values: hours.iter().map(value).collect(),
        }
    };
    Json(RateHistory {
        minutes: hours.iter().map(|hour| hour.until).collect(),
        rates: Metric::ALL.into_iter().map(|metric| (metric.as_str().to_owned(), series(metric))).collect(),
    })
}
