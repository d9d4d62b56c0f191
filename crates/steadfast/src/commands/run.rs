//! `run`, `resume` and `retry`: one session in the foreground, or through the daemon where one runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use steadfast_actors::{Emergency, Event, Keeper, Settings, Submission, SubmitError};
use steadfast_core::ids::SessionId;
use steadfast_core::session::Phase;
use steadfast_prompt::Idea;
use tokio::sync::broadcast::Receiver;

use crate::cli::{Global, RunArgs};
use crate::client::{Client, socket_path};
use crate::commands::look;
use crate::commands::orders::{self, read_idea};
use crate::control::{self, Control, Server, Serves};
use crate::exit::{Failure, INTERRUPTED, Outcome, failed};
use crate::feed::Feed;
use crate::progress::Progress;
use crate::report::Report;
use crate::setup::{Access, Setup, is_set};
use crate::traces::Traces;
use crate::{logging, print, print_json, signals, text};

/// How often a followed session of a daemon is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// How long a session that is over stays for the delivery of its issues: some requests to a tracker far away. What fails is not
/// waited for; it is tried again at the next start.
const LAST_DELIVERIES: Duration = Duration::from_secs(15);

/// `steadfast run`.
pub(crate) async fn run(global: &Global, args: RunArgs) -> Outcome {
    if is_set("RESUME")? {
        let id = std::env::var("IDEA_ID").ok().filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| {
            Failure::Usage("RESUME is set, but IDEA_ID is not: say which idea, e.g. IDEA_ID=002-feature".to_owned())
        })?;
        return resume_one(global, Some(id), false).await;
    }
    let Some(path) = &args.idea else {
        return Err(Failure::Usage("say which idea to run: `steadfast run IDEA.md --repo DIR`".to_owned()));
    };
    let setup = Setup::load(global)?;
    let idea = read_idea(path)?;
    if let Some(client) = Client::connect(setup.state_dir()).await {
        let session = orders::submit_to(&client, path, &args.repo, args.allow_degraded).await?;
        return follow(global, &client, &session).await;
    }
    logging::start(global.log.as_deref(), None, setup.config.log.format)?;
    // What is wrong is said before a store is made.
    setup.check_callable(args.allow_degraded)?;
    let submission = prepare(idea, args.repo.clone(), args.allow_degraded).await?;
    let settings = setup.settings()?;
    match setup.access().await? {
        Access::Served(client) => {
            let session = orders::submit_to(&client, path, &args.repo, args.allow_degraded).await?;
            follow(global, &client, &session).await
        }
        Access::Own(keeper) => Foreground::begin(setup, settings, keeper).await?.submit(global, submission).await,
    }
}

/// Looks at the repository without holding up the runtime.
pub(crate) async fn prepare(idea: Idea, repo: PathBuf, allow_degraded: bool) -> Result<Submission, Failure> {
    let work = tokio::task::spawn_blocking(move || Submission::prepare(idea, &repo, allow_degraded));
    let prepared = work.await.map_err(|error| failed("cannot look at the repository", &error))?;
    prepared.map_err(|error| Failure::Usage(steadfast_actors::chain(&error)))
}

fn submit_failure(error: &SubmitError) -> Failure {
    match error {
        SubmitError::Running { .. } | SubmitError::Interrupted { .. } => Failure::Usage(error.to_string()),
        SubmitError::NotSaved(_) | SubmitError::ShuttingDown => Failure::Failed(error.to_string()),
    }
}

/// `steadfast resume`.
pub(crate) async fn resume(global: &Global, id: Option<String>) -> Outcome {
    resume_one(global, id, false).await
}

/// `steadfast retry`.
pub(crate) async fn retry(global: &Global, id: &str) -> Outcome {
    resume_one(global, Some(id.to_owned()), true).await
}

async fn resume_one(global: &Global, id: Option<String>, retry: bool) -> Outcome {
    let setup = Setup::load(global)?;
    let settings = setup.settings()?;
    let keeper = match setup.access().await? {
        Access::Served(client) => {
            let order = if retry { "retry" } else { "resume" };
            return orders::order(global, &client, id.as_deref(), order).await;
        }
        Access::Own(keeper) => keeper,
    };
    logging::start(global.log.as_deref(), None, setup.config.log.format)?;
    let session = look::find(&keeper, id.as_deref(), retry)?;
    let foreground = Foreground::begin(setup, settings, keeper).await?;
    match foreground.control.handle.take_up(&session, retry).await {
        Ok(()) => foreground.carry(global, session).await,
        Err(error) => foreground.nothing(Failure::Usage(error.to_string())).await,
    }
}

/// The actors and the control socket of a process that carries one session. What is listened to is so from before the
/// session begins: none of its events is missed, and no signal that comes when it is durable already ends the process without
/// a word.
pub(crate) struct Foreground {
    control: Arc<Control>,
    server: Server,
    signals: signals::Signals,
    events: Receiver<Arc<Event>>,
    traces: Option<Traces>,
}

impl Foreground {
    /// Once a process, after the store is open: whoever waits for its lock must still be stopped by the first signal.
    pub(crate) async fn begin(setup: Setup, settings: Settings, keeper: Keeper) -> Result<Self, Failure> {
        let handle = setup.start(settings, keeper).await?;
        let (signals, events) = (signals::listen()?, handle.events().watch());
        let feed = Feed::start(handle.events(), handle.keeper());
        let traces = Traces::start(handle.events(), &setup)?;
        let socket = socket_path(setup.state_dir());
        let control = Arc::new(Control::new(setup, handle, Serves::OneSession, feed));
        let server = control::serve(&socket, None, Arc::clone(&control)).await?;
        Ok(Self { control, server, signals, events, traces })
    }

    /// Carries a new session.
    pub(crate) async fn submit(self, global: &Global, submission: Submission) -> Outcome {
        match self.control.handle.submit(submission).await {
            Ok(session) => self.carry(global, session).await,
            Err(error) => self.nothing(submit_failure(&error)).await,
        }
    }

    /// Ends it, for a reason that the caller has to tell.
    async fn nothing(self, failure: Failure) -> Outcome {
        control::end(self.control, self.server, "nothing was begun").await;
        Err(failure)
    }

    /// Shows the way of one session until it is over or a signal comes, and prints its report.
    async fn carry(self, global: &Global, session: SessionId) -> Outcome {
        let Self { control, server, signals, events, traces } = self;
        // A log tells the same, and whoever reads it wants nothing between its lines.
        let progress = global.log.is_none().then(|| Progress::start(events));
        let mut alarm = control.handle.alarm().subscribe();
        signals::panics_raise(control.handle.alarm().clone());
        let over = async {
            control.handle.wait(&session).await;
            // Nobody may be there to deliver its issues later.
            control.handle.settle_outbox(LAST_DELIVERIES).await;
        };
        let stopped = tokio::select! {
            () = over => None,
            reason = signals::first(signals) => Some(reason.to_owned()),
            emergency = signals::alarm(&mut alarm) => Some(emergency.to_string()),
        };
        let failed_for_good = matches!(*control.handle.alarm().borrow(), Some(Emergency::Failure(_)));
        let keeper = control.handle.keeper().clone();
        control::end(control, server, stopped.as_deref().unwrap_or("the session is over")).await;
        if let Some(progress) = progress {
            progress.finish().await;
        }
        if let Some(traces) = traces {
            traces.finish().await;
        }
        report(global, &keeper, &session, failed_for_good)
    }
}

/// Prints how a session stands, and says it with the exit code.
fn report(global: &Global, keeper: &Keeper, session: &SessionId, failed_for_good: bool) -> Outcome {
    let record = keeper
        .record(session)
        .map_err(|error| {
            let what = "what happened last could not be saved, and the session cannot be read";
            let next = format!("Mend that (a full disk, most often), then go on with `steadfast resume {session}`");
            Failure::Failed(format!("{what}: {}. {next}", steadfast_actors::chain(&error)))
        })?
        .ok_or_else(|| Failure::Failed(format!("session {session} is not in the store")))?;
    let policy = keeper.policy();
    let mut report = Report::new(&record, policy, true);
    report.add_history(keeper, session)?;
    if global.json {
        print_json(&report)?;
    } else {
        print(&text::report(&report));
    }
    let session = &record.session;
    match session.phase {
        Phase::Completed => Ok(()),
        Phase::Failed => Err(Failure::Code(crate::exit::FAILED)),
        _ if failed_for_good => Err(Failure::Code(crate::exit::FAILED)),
        _ if session.interrupt.is_some() => Err(Failure::Code(INTERRUPTED)),
        _ => Err(Failure::Code(crate::exit::FAILED)),
    }
}

/// Waits for a session that a daemon carries, and prints its report.
pub(crate) async fn follow(global: &Global, client: &Client, session: &str) -> Outcome {
    let path = format!("/v1/sessions/{session}");
    let mut shown = String::new();
    loop {
        let report: Report = client.get(&path).await?;
        let line = text::progress_line(&report);
        if line != shown {
            crate::progress::note(&line);
            shown = line;
        }
        if report.is_over() || report.interrupted {
            if global.json {
                print_json(&report)?;
            } else {
                print(&text::report(&report));
            }
            return match (report.phase.as_str(), report.interrupted) {
                ("completed", _) => Ok(()),
                (_, true) => Err(Failure::Code(INTERRUPTED)),
                _ => Err(Failure::Code(crate::exit::FAILED)),
            };
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

/// The path as the daemon sees it, which has another working folder.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| failed(&format!("cannot find {}", path.display()), &error))
}
