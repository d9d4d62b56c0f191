//! `daemon`: the long-running service.

use std::sync::Arc;
use std::time::Duration;

use steadfast_actors::{Emergency, ShutDown};

use crate::cli::Global;
use crate::client::{Client, socket_path};
use crate::control::{self, Control, Http, Serves};
use crate::exit::{FAILED, Failure, Outcome, failed};
use crate::feed::Feed;
use crate::service_manager::{self, ServiceManager};
use crate::setup::Setup;
use crate::traces::Traces;
use crate::wire::StatusBody;
use crate::{logging, signals};

/// How long the start may take once it is under way, whatever the unit says: mending a large store takes its time.
const STARTING_AT_MOST: Duration = Duration::from_secs(300);

/// `steadfast daemon`.
pub(crate) async fn daemon(global: &Global) -> Outcome {
    let setup = Setup::load(global)?;
    logging::start(global.log.as_deref(), Some("info"), setup.config.log.format)?;
    let manager = ServiceManager::of_process();
    let outcome = serve(global, setup, &manager).await;
    if let Err(failure) = &outcome
        && !matches!(failure, Failure::Code(_))
    {
        manager.tell(&service_manager::status(&format!("ended: {failure}")));
    }
    outcome
}

async fn serve(global: &Global, setup: Setup, manager: &ServiceManager) -> Outcome {
    let signals = signals::listen()?;
    let settings = setup.settings()?;
    let extend = STARTING_AT_MOST.as_micros();
    manager.tell(&format!("{}\nEXTEND_TIMEOUT_USEC={extend}", service_manager::status("opening the store")));
    let keeper = setup.open_store().await?;
    // Behind the store's lock, so that the address of a daemon that is just ending is free; before anything is taken up.
    let http = Http::open(setup.config.daemon.listen, setup.state_dir()).await?;
    let resumable = steadfast_actors::take_stock(&settings, &keeper).await;
    let resumable = resumable.map_err(|error| failed("cannot take up what an earlier process has left", &error))?;
    let handle = setup.start(settings, keeper).await?;
    let feed = Feed::start(handle.events(), handle.keeper());
    let traces = Traces::start(handle.events(), &setup)?;
    for session in &resumable {
        if let Err(error) = handle.take_up(session, false).await {
            tracing::warn!(%session, error = %error, "session not resumed");
        }
    }
    handle.begin_redeeming();
    let mut alarm = handle.alarm().subscribe();
    signals::panics_raise(handle.alarm().clone());
    let socket = socket_path(setup.state_dir());
    let state_dir = setup.state_dir().to_owned();
    let http_at = http.as_ref().map(Http::address);
    let serves = Serves::Everyone { global: global.clone(), manager: manager.clone(), http: http_at.clone() };
    let control = Arc::new(Control::new(setup, handle, serves, feed));
    let server = control::serve(&socket, http, Arc::clone(&control)).await?;
    // Ready is who answers: the socket, the supervisor and all models behind it.
    let client = Client::connect(&state_dir).await;
    let client = client.ok_or_else(|| Failure::Failed(format!("nobody answers on {}", socket.display())))?;
    let _: StatusBody = client.get("/v1/status").await?;
    manager.tell("READY=1");
    let mut watching = service_manager::watch(manager, &control);
    let http = http_at.map(tracing::field::display);
    tracing::info!(socket = %socket.display(), http, resumed = resumable.len(), "ready");
    let (reason, failed_for_good) = tokio::select! {
        reason = signals::first(signals) => (reason.to_owned(), false),
        emergency = signals::alarm(&mut alarm) => {
            (emergency.to_string(), matches!(emergency, Emergency::Failure(_)))
        }
    };
    // The unit may allow less time than the daemon allows itself; then the longer one holds.
    let extend = (signals::HARD_DEADLINE + Duration::from_secs(5)).as_micros();
    let stopping = service_manager::status(&format!("stopping: {reason}"));
    manager.tell(&format!("STOPPING=1\n{stopping}\nEXTEND_TIMEOUT_USEC={extend}"));
    // Nothing but this may be told from here on, and whoever watches holds the engine.
    watching.shutdown().await;
    let ShutDown { saved, not_saved } = control::end(control, server, &reason).await;
    if let Some(traces) = traces {
        traces.finish().await;
    }
    tracing::info!(reason, saved = saved.len(), "stopped; interrupted sessions go on at the next start");
    for session in &not_saved {
        tracing::error!(%session, "not saved in the end; it goes on from where it was saved before");
    }
    if failed_for_good || !not_saved.is_empty() { Err(Failure::Code(FAILED)) } else { Ok(()) }
}
