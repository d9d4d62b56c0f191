//! The HTTP API: over a Unix socket that only its owner may open, and over TCP for whoever has the token.

mod door;
mod health;
mod live;
mod openapi;
mod refusal;
mod server;
mod stream;
pub(crate) mod token;

pub(crate) use server::{Http, Server, serve};

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;
use steadfast_actors::{Handle, ShutDown};
use steadfast_core::ids::{ModelId, Role, SessionId};
use steadfast_prompt::Idea;
use tokio::sync::Semaphore;

use crate::cli::Global;
use crate::commands::look::now_minute;
use crate::commands::{self, look, orders, outbox, run};
use crate::exit::{Failure, failed};
use crate::feed::Feed;
use crate::page;
use crate::report::{OutboxReport, Report};
use crate::service_manager::{self, ServiceManager};
use crate::setup::Setup;
use crate::wire::{
    CheckBody, ModelRow, PruneDone, RateReport, Reloaded, ResetBody, ResetDone, Roles, StatusBody, SubmitBody,
    Submitted,
};

use door::Door;
use refusal::{Asked, Named, Refusal, Sent};

/// The largest body. An idea has at most 256 KiB, and JSON may spell each byte as six.
const MAX_BODY: usize = 2 << 20;
/// How long a body may take.
const BODY_AT_MOST: Duration = Duration::from_secs(30);
/// Sessions that may wait before no more are taken over HTTP.
const MAX_QUEUED: usize = 1000;
/// Readers of the event stream at once; fewer than there are connections, so that orders always get through.
const MAX_WATCHERS: usize = 256;

/// What the routes work on.
pub(crate) struct Control {
    /// Replaced as a whole by a reload.
    setup: RwLock<Arc<Setup>>,
    pub(crate) handle: Handle,
    serves: Serves,
    /// Held by the one reload that is under way.
    reloading: tokio::sync::Mutex<()>,
    pub(crate) feed: Feed,
    /// Places for readers of the event stream.
    watchers: Arc<Semaphore>,
}

/// What the process is there for.
pub(crate) enum Serves {
    /// It is a daemon.
    Everyone {
        /// What it was started with, for reading the configuration again.
        global: Global,
        /// Hears of a reload.
        manager: ServiceManager,
        /// Where HTTP is served besides the socket.
        http: Option<String>,
    },
    /// It carries one session in the foreground and ends with it: it can be looked at and cancelled, and takes nothing new.
    OneSession,
}

/// All routes. `door`: whom to let in; `None`: whoever could open the socket.
fn router(control: Arc<Control>, door: Option<Door>) -> Router {
    let router = Router::new()
        .route("/", get(async || page::answer(StatusCode::OK)))
        .route("/v1/status", get(status))
        .route("/v1/sessions", get(sessions).post(submit))
        .route("/v1/sessions/{id}", get(session))
        .route("/v1/sessions/{id}/cancel", post(cancel))
        .route("/v1/sessions/{id}/retry", post(retry))
        .route("/v1/sessions/{id}/resume", post(resume))
        .route("/v1/breakers/reset", post(reset))
        .route("/v1/prune", post(prune))
        .route("/v1/outbox", get(entries))
        .route("/v1/outbox/flush", post(flush))
        .merge(stream::routes())
        .merge(live::routes())
        .merge(health::routes())
        .merge(openapi::routes())
        .route("/v1/store/check", get(check))
        .route("/v1/reload", post(reload))
        .fallback(refusal::no_such_path)
        .method_not_allowed_fallback(refusal::no_such_method)
        .with_state(control)
        .layer(middleware::from_fn(bounded));
    let router = match door {
        Some(door) => router.layer(middleware::from_fn_with_state(Arc::new(door), door::check)),
        None => router,
    };
    router.layer(middleware::map_response(guarded))
}

/// Takes a body in whole before anybody works on it, within bounds of size and time.
async fn bounded(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if body.is_end_stream() {
        return next.run(Request::from_parts(parts, body)).await;
    }
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Refusal::too_large(MAX_BODY).into_response();
    }
    match tokio::time::timeout(BODY_AT_MOST, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(whole)) => next.run(Request::from_parts(parts, Body::from(whole.to_bytes()))).await,
        Ok(Err(error)) if error.is::<LengthLimitError>() => Refusal::too_large(MAX_BODY).into_response(),
        Ok(Err(_gone)) => Refusal::body_broken().into_response(),
        Err(_elapsed) => Refusal::body_too_slow().into_response(),
    }
}

/// What a browser must know about every answer: it is what it says it is, is not kept, and is shown in no frame.
async fn guarded(mut response: Response) -> Response {
    let usual = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    for (name, value) in usual {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Stops listening, saves every session and ends the actors. Answers what became of the sessions.
pub(crate) async fn end(control: Arc<Control>, server: Server, reason: &str) -> ShutDown {
    control.feed.send_away();
    // The socket goes first, so that nobody finds a process that takes no work.
    server.stop().await;
    control.handle.shutdown(reason, control.feed.finish()).await
}

type Shared = State<Arc<Control>>;

impl Control {
    pub(crate) fn new(setup: Setup, handle: Handle, serves: Serves, feed: Feed) -> Self {
        Self {
            setup: RwLock::new(Arc::new(setup)),
            handle,
            serves,
            reloading: tokio::sync::Mutex::default(),
            feed,
            watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
        }
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
            Serves::OneSession => Err(Failure::Conflict(
                "a session is carried in the foreground on this state directory, and nothing else is begun beside it: \
                 wait for its end, or use `steadfast daemon`, which carries many"
                    .to_owned(),
            )),
        }
    }

    /// The session that a path names; `latest`: the newest that can go on.
    async fn find(self: &Arc<Self>, id: String) -> Result<SessionId, Failure> {
        self.read(move |control| {
            let id = (id != "latest").then_some(id);
            look::find(control.handle.keeper(), id.as_deref(), true)
        })
        .await
    }

    async fn take_up(self: &Arc<Self>, id: String, retry: bool) -> Result<Json<Submitted>, Refusal> {
        let session = self.find(id).await?;
        self.takes_work()?;
        self.handle.take_up(&session, retry).await?;
        Ok(Json(Submitted { session_id: session.to_string() }))
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

async fn sessions(State(control): Shared, Asked(query): Asked<Limit>) -> Result<Json<Vec<Report>>, Refusal> {
    let limit = query.limit.unwrap_or(usize::MAX);
    let list =
        control.read(move |control| look::list(control.handle.keeper(), limit, &control.setup().session_policy()));
    Ok(Json(list.await?))
}

async fn session(State(control): Shared, Named(id): Named) -> Result<Json<Report>, Refusal> {
    let one = control.read(move |control| {
        let keeper = control.handle.keeper();
        let session = look::find(keeper, Some(&id), true)?;
        look::one(keeper, &session, &control.setup().session_policy())
    });
    Ok(Json(one.await?))
}

async fn submit(State(control): Shared, Sent(body): Sent<SubmitBody>) -> Result<Json<Submitted>, Refusal> {
    control.takes_work()?;
    let beat = control.handle.beat().await.ok_or_else(Refusal::shutting_down)?;
    if beat.n_queued >= MAX_QUEUED {
        return Err(Refusal::queue_full(MAX_QUEUED));
    }
    let idea = Idea::parse(&body.idea, &body.file_stem).map_err(|error| Failure::Usage(error.to_string()))?;
    control.setup().check_callable(body.allow_degraded)?;
    let submission = run::prepare(idea, PathBuf::from(body.repo), body.allow_degraded).await?;
    let session = control.handle.submit(submission).await?;
    Ok(Json(Submitted { session_id: session.to_string() }))
}

async fn cancel(State(control): Shared, Named(id): Named) -> Result<Json<Submitted>, Refusal> {
    let session = control.find(id).await?;
    control.handle.cancel(&session).await?;
    Ok(Json(Submitted { session_id: session.to_string() }))
}

async fn retry(State(control): Shared, Named(id): Named) -> Result<Json<Submitted>, Refusal> {
    control.take_up(id, true).await
}

async fn resume(State(control): Shared, Named(id): Named) -> Result<Json<Submitted>, Refusal> {
    control.take_up(id, false).await
}

async fn reset(State(control): Shared, Sent(body): Sent<ResetBody>) -> Result<Json<ResetDone>, Refusal> {
    let model = body.model.map(|model| ModelId::new(&model)).transpose();
    let model = model.map_err(|error| Failure::Usage(error.to_string()))?;
    let reset = control.handle.reset(model.clone()).await;
    match model {
        Some(model) if reset == 0 => Err(Failure::NotFound(format!("no role uses the model {model}")).into()),
        Some(_) | None => Ok(Json(ResetDone { reset })),
    }
}

async fn entries(State(control): Shared) -> Result<Json<Vec<OutboxReport>>, Refusal> {
    Ok(Json(control.read(|control| outbox::entries(control.handle.keeper())).await?))
}

async fn flush(State(control): Shared) -> Result<Json<Vec<OutboxReport>>, Refusal> {
    let waiting = control.read(|control| outbox::waiting(control.handle.keeper())).await?;
    Ok(Json(outbox::flush_now(&control.handle, waiting).await?))
}

/// SIGHUP ends the daemon (SPEC 8), so a reload is an order like others; `ExecReload=` of the unit gives it.
async fn reload(State(control): Shared) -> Result<Json<Reloaded>, Refusal> {
    let Serves::Everyone { global, manager, .. } = &control.serves else {
        let what = "a session is carried in the foreground; it keeps the configuration that it began with";
        return Err(Failure::Conflict(what.to_owned()).into());
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
    Ok(Json(result?))
}

async fn prune(State(control): Shared) -> Result<Json<PruneDone>, Refusal> {
    Ok(Json(orders::pruned(control.handle.prune().await)?))
}

async fn check(State(control): Shared) -> Result<Json<CheckBody>, Refusal> {
    let check = control
        .read(|control| commands::store::checked(control.handle.keeper(), control.setup().state_dir(), &mut |_, _| ()));
    Ok(Json(check.await?))
}

async fn status(State(control): Shared) -> Result<Json<StatusBody>, Refusal> {
    let status = control.handle.status().await;
    let status = status.ok_or_else(Refusal::shutting_down)?;
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
    let (daemon, http) = match &control.serves {
        Serves::Everyone { http, .. } => (true, http.clone()),
        Serves::OneSession => (false, None),
    };
    Ok(Json(StatusBody {
        daemon,
        paused: status.paused,
        http,
        roles,
        rates: RateReport::all(&control.handle.meter().rates(), now_minute()),
        sessions,
        outbox,
        store,
    }))
}
