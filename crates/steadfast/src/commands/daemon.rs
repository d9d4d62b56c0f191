//! `daemon`: the long-running service.

use std::sync::Arc;

use steadfast_actors::{Emergency, ShutDown};

use crate::cli::Global;
use crate::client::socket_path;
use crate::control::{self, Control, Serves};
use crate::exit::{FAILED, Failure, Outcome, failed};
use crate::feed::Feed;
use crate::setup::Setup;
use crate::{logging, signals};

/// `steadfast daemon`.
pub(crate) async fn daemon(global: &Global) -> Outcome {
    let setup = Setup::load(global)?;
    logging::start(global.log.as_deref(), Some("info"), setup.config.log.format)?;
    let signals = signals::listen()?;
    let settings = setup.settings()?;
    let keeper = setup.open_store().await?;
    let resumable = steadfast_actors::take_stock(&settings, &keeper).await;
    let resumable = resumable.map_err(|error| failed("cannot take up what an earlier process has left", &error))?;
    let handle = setup.start(settings, keeper).await?;
    let feed = Feed::start(handle.events(), handle.keeper());
    for session in &resumable {
        if let Err(error) = handle.take_up(session, false).await {
            tracing::warn!(%session, error = %error, "session not resumed");
        }
    }
    let mut alarm = handle.alarm().subscribe();
    signals::panics_raise(handle.alarm().clone());
    let socket = socket_path(setup.state_dir());
    let control = Arc::new(Control { setup, handle, serves: Serves::Everyone, feed });
    let server = control::serve(&socket, Arc::clone(&control)).await?;
    tracing::info!(socket = %socket.display(), resumed = resumable.len(), "ready");
    let (reason, failed_for_good) = tokio::select! {
        reason = signals::first(signals) => (reason.to_owned(), false),
        emergency = signals::alarm(&mut alarm) => {
            (emergency.to_string(), matches!(emergency, Emergency::Failure(_)))
        }
    };
    let ShutDown { saved, not_saved } = control::end(control, server, &socket, &reason).await;
    tracing::info!(reason, saved = saved.len(), "stopped; interrupted sessions go on at the next start");
    for session in &not_saved {
        tracing::error!(%session, "not saved in the end; it goes on from where it was saved before");
    }
    if failed_for_good || !not_saved.is_empty() { Err(Failure::Code(FAILED)) } else { Ok(()) }
}
