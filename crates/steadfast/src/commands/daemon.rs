//! `daemon`: the long-running service.

use std::sync::Arc;

use crate::cli::Global;
use crate::client::socket_path;
use crate::control::{self, Control};
use crate::exit::{FAILED, Failure, Outcome, failed};
use crate::setup::Setup;
use crate::{logging, signals};

/// `steadfast daemon`.
pub(crate) async fn daemon(global: &Global) -> Outcome {
    let setup = Setup::load(global)?;
    logging::start(global.log.as_deref(), Some("info"), setup.config.log.format)?;
    let signals = signals::listen()?;
    let handle = setup.start().await?;
    let resumable = handle.keeper().resumable().map_err(|error| failed("cannot read the store", &error))?;
    for session in &resumable {
        if let Err(error) = handle.take_up(&session.id, false).await {
            tracing::warn!(session = %session.id, error = %error, "session not resumed");
        }
    }
    let mut alarm = handle.alarm();
    let socket = socket_path(setup.state_dir());
    let control = Arc::new(Control { setup, handle });
    let server = control::serve(&socket, Arc::clone(&control)).await?;
    tracing::info!(socket = %socket.display(), resumed = resumable.len(), "ready");
    let (reason, failed_for_good) = tokio::select! {
        reason = signals::first(signals) => (reason.to_owned(), false),
        alarm = alarm.wait_for(Option::is_some) => {
            (alarm.ok().and_then(|reason| reason.clone()).unwrap_or_default(), true)
        }
    };
    server.stop().await;
    // The socket goes first, so that nobody finds a daemon that takes no work.
    let _ = std::fs::remove_file(&socket);
    let Ok(control) = Arc::try_unwrap(control).map_err(|_| ()) else {
        return Err(Failure::Failed("a request still holds the engine".to_owned()));
    };
    let saved = control.handle.shutdown(&reason).await;
    tracing::info!(reason, saved = saved.len(), "stopped; interrupted sessions go on at the next start");
    if failed_for_good { Err(Failure::Code(FAILED)) } else { Ok(()) }
}
