//! For those who look whether it is well: a load balancer, an orchestrator, Prometheus.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use steadfast_actors::Beat;

use super::refusal::Refusal;
use super::{Control, MAX_WATCHERS, Serves};
use crate::commands::look;
use crate::metrics::{CONTENT_TYPE as METRICS, Now, bytes_below};
use crate::wire::Health;

/// How long the supervisor may take to answer. It does so within microseconds where it is not stuck.
const ANSWER_AT_MOST: Duration = Duration::from_secs(2);

pub(super) fn routes() -> Router<Arc<Control>> {
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).route("/metrics", get(metrics))
}

async fn beat(control: &Control) -> Result<Beat, Refusal> {
    match tokio::time::timeout(ANSWER_AT_MOST, control.handle.beat()).await {
        Ok(Some(beat)) => Ok(beat),
        Ok(None) => Err(Refusal::shutting_down()),
        Err(_elapsed) => Err(Refusal::stuck()),
    }
}

/// The supervisor itself answers.
async fn healthz(State(control): State<Arc<Control>>) -> Result<Json<Health>, Refusal> {
    beat(&control).await?;
    Ok(Json(Health { status: "ok".to_owned() }))
}

/// It takes work, and begins it.
async fn readyz(State(control): State<Arc<Control>>) -> Result<Json<Health>, Refusal> {
    if matches!(control.serves, Serves::OneSession) {
        return Err(Refusal::not_ready("a session is carried in the foreground, and nothing else is begun beside it"));
    }
    match beat(&control).await?.paused {
        Some(reason) => Err(Refusal::not_ready(&reason)),
        None => Ok(Json(Health { status: "ok".to_owned() })),
    }
}

async fn metrics(State(control): State<Arc<Control>>) -> Result<Response, Refusal> {
    let status = tokio::time::timeout(ANSWER_AT_MOST, control.handle.status()).await;
    let status = status.map_err(|_elapsed| Refusal::stuck())?.ok_or_else(Refusal::shutting_down)?;
    let text = control.read(move |control| {
        let keeper = control.handle.keeper();
        let now = Now {
            status: &status,
            rates: &control.handle.meter().rates(),
            minute: look::now_minute(),
            sessions: &look::count(keeper, &status.active, &status.queued)?,
            undelivered: look::undelivered(keeper)?.undelivered,
            watchers: MAX_WATCHERS - control.watchers.available_permits(),
            store_bytes: bytes_below(&control.setup().state_dir().join("store")),
            flushes: keeper.flushes(),
        };
        Ok(control.feed.shared().metrics.text(&now))
    });
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(METRICS))], text.await?).into_response())
}
