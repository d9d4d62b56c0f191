//! `daemon`: the long-running service.

use std::sync::Arc;

use crate::cli::Global;
use crate::client::socket_path;
use crate::control::{self, Control, Serves};
use crate::exit::{FAILED, Failure, Outcome, failed};
use crate::setup::Setup;
use crate::{logging, signals};

/// `steadfast daemon`.
pub(crate) async fn daemon(global: &Global) -> Outcome {
    let setup = Setup::load(global)?;
    logging::start(global.log.as_deref(), Some("info"), setup.config.log.format)?;
    let signals = signals::listen()?;
    let settings = setup.settings()?;
    let handle = setup.start(settings, setup.open_store().await?).await?;
    let resumable = handle.keeper().resumable().map_err(|error| failed("cannot read the store", &error))?;
    for session in &resumable {
        if let Err(error) = handle.take_up(&session.id, false).await {
            tracing::warn!(session = %session.id, error = %error, "session not resumed");
        }
    }
    let mut alarm = handle.alarm();
    let socket = socket_path(setup.state_dir());
    let control = Arc::new(Control { setup, handle, serves: Serves::Everyone });
    let server = control::serve(&socket, Arc::clone(&control)).await?;
    tracing::info!(socket = %socket.display(), resumed = resumable.len(), "ready");
    let (reason, failed_for_good) = tokio::select! {
        reason = signals::first(signals) => (reason.to_owned(), false),
        alarm = alarm.wait_for(Option::is_some) => {
            (alarm.ok().and_then(|reason| reason.clone()).unwrap_or_default(), true)
        }
    };
    let saved = control::end(control, server, &socket, &reason).await?;
    tracing::info!(reason, saved = saved.len(), "stopped; interrupted sessions go on at the next start");
    if failed_for_good { Err(Failure::Code(FAILED)) } else { Ok(()) }
}
