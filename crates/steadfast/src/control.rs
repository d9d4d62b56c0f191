//! The control socket: HTTP over a Unix socket that only its owner may open.

mod stream;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use steadfast_actors::{Handle, ShutDown, SubmitError, SupervisorError};
use steadfast_core::ids::{ModelId, Role, SessionId};
use steadfast_prompt::Idea;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::cli::Global;
use crate::commands::look::now_minute;
use crate::commands::{self, look, orders, outbox, run};
use crate::exit::{Failure, failed};
use crate::feed::Feed;
use crate::report::{OutboxReport, Report};
use crate::service_manager::{self, ServiceManager};
use crate::setup::Setup;
use crate::wire::{
    CheckBody, ErrorBody, ModelRow, PruneDone, RateReport, Reloaded, ResetBody, ResetDone, Roles, StatusBody,
    SubmitBody, Submitted,
};

/// What the routes work on.
pub(crate) struct Control {
    /// Replaced as a whole by a reload.
    setup: RwLock<Arc<Setup>>,
    pub(crate) handle: Handle,
    serves: Serves,
    /// Held by the one reload that is under way.
    reloading: tokio::sync::Mutex<()>,
    pub(crate) feed: Feed,
}

/// What the process is there for.
pub(crate) enum Serves {
    /// It is a daemon.
    Everyone {
        /// What it was started with, for reading the configuration again.
        global: Global,
        /// Hears of a reload.
        manager: ServiceManager,
    },
    /// It carries one session in the foreground and ends with it: it can be looked at and cancelled, and takes nothing new.
    OneSession,
}

/// A server that can be stopped.
pub(crate) struct Server {
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// Answers what is under way, and no more.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), self.task).await;
    }
}

/// Listens. The store's lock is held, so a socket that lies there is a dead one.
pub(crate) async fn serve(socket: &Path, control: Arc<Control>) -> Result<Server, Failure> {
    let what = || format!("cannot listen on {}", socket.display());
    match std::fs::remove_file(socket) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&what(), &error)),
    }
    // Made under a name that nobody knows, shut, and only then put in its place: there is no instant in which others may
    // open it.
    let hidden = PathBuf::from(format!("{}.{}", socket.display(), std::process::id()));
    let listener = UnixListener::bind(&hidden).map_err(|error| failed(&what(), &error))?;
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&hidden, socket))
        .map_err(|error| failed(&what(), &error))?;
    let (stop, stopped) = oneshot::channel::<()>();
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/sessions", get(sessions).post(submit))
        .route("/v1/sessions/{id}", get(session))
        .route("/v1/sessions/{id}/{order}", post(order))
        .route("/v1/breakers/reset", post(reset))
        .route("/v1/prune", post(prune))
        .route("/v1/outbox", get(entries))
        .route("/v1/outbox/flush", post(flush))
        .merge(stream::routes())
        .route("/v1/store/check", get(check))
        .route("/v1/reload", post(reload))
        .with_state(control);
    let server = axum::serve(listener, router).with_graceful_shutdown(async {
        // Dropped or sent: either way it is time to stop.
        let _ = stopped.await;
    });
    Ok(Server { stop, task: tokio::spawn(async move { server.await }) })
}

/// Stops listening, saves every session and ends the actors. Answers what became of the sessions.
pub(crate) async fn end(control: Arc<Control>, server: Server, socket: &Path, reason: &str) -> ShutDown {
    control.feed.send_away();
    server.stop().await;
    // The socket goes first, so that nobody finds a process that takes no work.
    let _ = std::fs::remove_file(socket);
    control.handle.shutdown(reason, control.feed.finish()).await
}

type Shared = State<Arc<Control>>;

/// The one place where a failure becomes a status.
impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, code) = match &self {
            Self::Usage(_) => (StatusCode::BAD_REQUEST, "usage"),
            Self::Failed(_) | Self::Code(_) => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        };
        (status, Json(ErrorBody { code: code.to_owned(), message: self.to_string() })).into_response()
    }
}

impl Control {
    pub(crate) fn new(setup: Setup, handle: Handle, serves: Serves, feed: Feed) -> Self {
        Self { setup: RwLock::new(Arc::new(setup)), handle, serves, reloading: tokio::sync::Mutex::default(), feed }
    }

    /// What is configured now.
    fn setup(&self) -> Arc<Setup> {
        Arc::clone(&self.setup.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the configuration again and has it hold, or keeps the old one.
    async fn reload(self: &Arc<Self>, global: &Global) -> Result<Reloaded, Failure> {
        let old = self.setup();
        let (before, global) = (Arc::clone(&old), global.clone());
        // Files are read, and bubblewrap is tried.
        let reading = tokio::task::spawn_blocking(move || {
            let (new, at_next_start) = before.load_again(&global)?;
            let settings = new.settings()?;
            Ok((new, settings, at_next_start))
        });
        let (new, settings, at_next_start) = reading.await.map_err(|error| failed("cannot read it", &error))??;
        self.handle.configure(settings).await.map_err(|error| Failure::Failed(error.to_string()))?;
        let (was, is) = (old.models(), new.models());
        let names =
            |some: std::collections::btree_set::Difference<'_, ModelId>| some.map(ToString::to_string).collect();
        let callable = new.check_callable(false).err().map(|failure| failure.to_string());
        let done = Reloaded {
            sources: new.loaded.files.iter().map(|path| path.display().to_string()).collect(),
            models_added: names(is.difference(&was)),
            models_removed: names(was.difference(&is)),
            at_next_start: at_next_start.into_iter().map(str::to_owned).collect(),
            warnings: new.loaded.warnings.iter().map(ToString::to_string).chain(callable).collect(),
        };
        *self.setup.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(done)
    }

    fn takes_work(&self) -> Result<(), Failure> {
        match self.serves {
            Serves::Everyone { .. } => Ok(()),
            Serves::OneSession => Err(Failure::Usage(
                "a session is carried in the foreground on this state directory, and nothing else is begun beside it: \
                 wait for its end, or use `steadfast daemon`, which carries many"
                    .to_owned(),
            )),
        }
    }

    /// Reading the store may touch the disk; the runtime's threads are not for waiting on it.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let control = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&control)).await;
        done.map_err(|error| failed("a request ended badly", &error))?
    }
}

#[derive(Deserialize)]
struct Limit {
    limit: Option<usize>,
}

async fn sessions(State(control): Shared, Query(query): Query<Limit>) -> Result<Json<Vec<Report>>, Failure> {
    let limit = query.limit.unwrap_or(usize::MAX);
    let list =
        control.read(move |control| look::list(control.handle.keeper(), limit, &control.setup().session_policy()));
    list.await.map(Json)
}

async fn session(State(control): Shared, UrlPath(id): UrlPath<String>) -> Result<Json<Report>, Failure> {
    let one = control.read(move |control| {
        let keeper = control.handle.keeper();
        let session = look::find(keeper, Some(&id), true)?;
        look::one(keeper, &session, &control.setup().session_policy())
    });
    one.await.map(Json)
}

async fn submit(State(control): Shared, Json(body): Json<SubmitBody>) -> Result<Json<Submitted>, Response> {
    let submission = async {
        control.takes_work()?;
        let idea = Idea::parse(&body.idea, &body.file_stem).map_err(|error| Failure::Usage(error.to_string()))?;
        control.setup().check_callable(body.allow_degraded)?;
        run::prepare(idea, PathBuf::from(body.repo), body.allow_degraded).await
    };
    let submission = submission.await.map_err(IntoResponse::into_response)?;
    match control.handle.submit(submission).await {
        Ok(session) => Ok(Json(Submitted { session_id: session.to_string() })),
        Err(error) => {
            let (status, code) = match &error {
                SubmitError::Running { .. } | SubmitError::Interrupted { .. } => {
                    (StatusCode::CONFLICT, "already-there")
                }
                SubmitError::NotSaved(_) => (StatusCode::INTERNAL_SERVER_ERROR, "not-saved"),
                SubmitError::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting-down"),
            };
            Err((status, Json(ErrorBody { code: code.to_owned(), message: error.to_string() })).into_response())
        }
    }
}

async fn order(
    State(control): Shared,
    UrlPath((id, order)): UrlPath<(String, String)>,
) -> Result<Json<Submitted>, Failure> {
    let session: SessionId = control
        .read(move |control| {
            let id = (id != "latest").then_some(id);
            look::find(control.handle.keeper(), id.as_deref(), true)
        })
        .await?;
    if order != "cancel" {
        control.takes_work()?;
    }
    let done = match order.as_str() {
        "cancel" => control.handle.cancel(&session).await,
        "resume" => control.handle.take_up(&session, false).await,
        "retry" => control.handle.take_up(&session, true).await,
        other => return Err(Failure::Usage(format!("there is no order {other}: use cancel, resume or retry"))),
    };
    match done {
        Ok(()) => Ok(Json(Submitted { session_id: session.to_string() })),
        Err(error @ (SupervisorError::Store(_) | SupervisorError::ShuttingDown)) => {
            Err(Failure::Failed(error.to_string()))
        }
        Err(error) => Err(Failure::Usage(error.to_string())),
    }
}

async fn reset(State(control): Shared, Json(body): Json<ResetBody>) -> Result<Json<ResetDone>, Failure> {
    let model = body.model.map(|model| ModelId::new(&model)).transpose();
    let model = model.map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(Json(ResetDone { reset: control.handle.reset(model).await }))
}

async fn entries(State(control): Shared) -> Result<Json<Vec<OutboxReport>>, Failure> {
    control.read(|control| outbox::entries(control.handle.keeper())).await.map(Json)
}

async fn flush(State(control): Shared) -> Result<Json<Vec<OutboxReport>>, Failure> {
    let waiting = control.read(|control| outbox::waiting(control.handle.keeper())).await?;
    outbox::flush_now(&control.handle, waiting).await.map(Json)
}

/// SIGHUP ends the daemon (SPEC 8), so a reload is an order like others; `ExecReload=` of the unit gives it.
async fn reload(State(control): Shared) -> Result<Json<Reloaded>, Failure> {
    let Serves::Everyone { global, manager } = &control.serves else {
        return Err(Failure::Usage(
            "a session is carried in the foreground; it keeps the configuration that it began with".to_owned(),
        ));
    };
    let _alone = control.reloading.lock().await;
    manager.tell(&service_manager::reloading());
    let result = control.reload(global).await;
    let status = match &result {
        Ok(done) => {
            let Reloaded { models_added, models_removed, at_next_start, warnings, .. } = done;
            tracing::info!(?models_added, ?models_removed, ?at_next_start, ?warnings, "configuration read again");
            "the configuration was read again".to_owned()
        }
        Err(failure) => {
            tracing::error!(error = %failure, "configuration refused, the old one is kept");
            format!("the configuration is refused and the old one kept: {failure}")
        }
    };
    manager.tell(&format!("READY=1\n{}", service_manager::status(&status)));
    result.map(Json)
}

async fn prune(State(control): Shared) -> Result<Json<PruneDone>, Failure> {
    orders::pruned(control.handle.prune().await).map(Json)
}

async fn check(State(control): Shared) -> Result<Json<CheckBody>, Failure> {
    let check = control
        .read(|control| commands::store::checked(control.handle.keeper(), control.setup().state_dir(), &mut |_, _| ()));
    check.await.map(Json)
}

async fn status(State(control): Shared) -> Result<Json<StatusBody>, Failure> {
    let status = control.handle.status().await;
    let status = status.ok_or_else(|| Failure::Failed("steadfast is shutting down".to_owned()))?;
    let mut roles = Roles::default();
    for role in status.roles {
        let row = |(at, (model, status)): (usize, (ModelId, steadfast_actors::ModelStatus))| ModelRow {
            model: model.to_string(),
            priority: at + 1,
            circuit_breaker: status.circuit_breaker,
            retry_in_ms: status.retry_in.map(|time| time.as_millis() as u64),
            timeout_raised_by_ms: ModelRow::raised(status.timeout_raised_by),
        };
        let rows = role.models.into_iter().enumerate().map(row).collect();
        match role.role {
            Role::Planner => roles.planner = rows,
            Role::Coder => roles.coder = rows,
            Role::Reviewer => roles.reviewer = rows,
        }
    }
    let (active, queued) = (status.active, status.queued);
    let shared = Arc::clone(&control);
    let rest = shared.read(move |control| {
        let keeper = control.handle.keeper();
        let store = look::store_status(keeper, control.setup().state_dir())?;
        Ok((look::count(keeper, &active, &queued)?, look::undelivered(keeper)?, store))
    });
    let (sessions, outbox, store) = rest.await?;
    Ok(Json(StatusBody {
        daemon: matches!(control.serves, Serves::Everyone { .. }),
        paused: status.paused,
        roles,
        rates: RateReport::all(&control.handle.meter().rates(), now_minute()),
        sessions,
        outbox,
        store,
    }))
}
