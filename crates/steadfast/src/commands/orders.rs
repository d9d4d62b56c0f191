//! `submit`, `cancel` and `reload`, and orders about a session that go to the daemon.

use std::path::Path;

use serde_json::Value;
use steadfast_actors::Pruned;
use steadfast_prompt::Idea;

use crate::cli::{Global, SubmitArgs};
use crate::client::Client;
use crate::commands::look;
use crate::commands::run::absolute;
use crate::exit::{Failure, Outcome};
use crate::setup::{Access, Setup};
use crate::text::n_of;
use crate::wire::{PruneDone, Reloaded, SubmitBody, Submitted};
use crate::{print, print_json, text};

/// The largest idea file that is read; the idea itself may have 256 KiB.
const MAX_IDEA_FILE: u64 = 1 << 20;

fn idea_text(path: &Path) -> Result<(String, String), Failure> {
    let shown = path.display();
    let wrong = |what: &str| Failure::Usage(format!("{shown}: {what}"));
    let size = std::fs::metadata(path).map_err(|error| wrong(&format!("cannot read the idea: {error}")))?;
    if size.is_dir() {
        return Err(wrong("this is a folder; give the idea's Markdown file"));
    }
    if size.len() > MAX_IDEA_FILE {
        return Err(wrong("the file is larger than 1 MiB; an idea may have 256 KiB"));
    }
    let bytes = std::fs::read(path).map_err(|error| wrong(&format!("cannot read the idea: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("the file is not UTF-8 text"))?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Ok((text, stem))
}

/// Reads and checks an idea file.
pub(crate) fn read_idea(path: &Path) -> Result<Idea, Failure> {
    let (text, stem) = idea_text(path)?;
    Idea::parse(&text, &stem).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

/// Hands an idea to a daemon; answers the new session's id.
pub(crate) async fn submit_to(
    client: &Client,
    path: &Path,
    repo: &Path,
    allow_degraded: bool,
) -> Result<String, Failure> {
    let (idea, file_stem) = idea_text(path)?;
    let repo = absolute(repo)?.to_string_lossy().into_owned();
    let body = SubmitBody { idea, file_stem, repo, allow_degraded };
    let submitted: Submitted = client.post("/v1/sessions", &body).await?;
    Ok(submitted.session_id)
}

/// `steadfast submit`.
pub(crate) async fn submit(global: &Global, args: SubmitArgs) -> Outcome {
    let setup = Setup::load(global)?;
    read_idea(&args.idea)?;
    let Some(client) = Client::connect_waiting(setup.state_dir()).await else {
        return Err(Failure::Failed(format!(
            "no daemon answers for {}: start one with `steadfast daemon`, or use `steadfast run`",
            setup.state_dir().display()
        )));
    };
    let session_id = submit_to(&client, &args.idea, &args.repo, args.allow_degraded).await?;
    if args.follow {
        return crate::commands::run::follow(global, &client, &session_id).await;
    }
    if global.json {
        return print_json(&Submitted { session_id });
    }
    print(&format!("session {session_id}\nWatch it with `steadfast show {session_id}`.\n"));
    Ok(())
}

/// `steadfast cancel`.
pub(crate) async fn cancel(global: &Global, id: &str) -> Outcome {
    let setup = Setup::load(global)?;
    let keeper = match setup.access().await? {
        Access::Served(client) => return order(global, &client, Some(id), "cancel").await,
        Access::Own(keeper) => keeper,
    };
    let handle = setup.start(setup.settings()?, keeper).await?;
    let result = match look::find(handle.keeper(), Some(id), true) {
        Ok(session) => {
            handle.cancel(&session).await.map(|()| session).map_err(|error| Failure::Usage(error.to_string()))
        }
        Err(failure) => Err(failure),
    };
    handle.shutdown("nothing was begun", async {}).await;
    let session = result?;
    if global.json {
        return print_json(&Submitted { session_id: session.to_string() });
    }
    print(&format!("session {session} is cancelled; its branch is kept\n"));
    Ok(())
}

/// `steadfast prune`.
pub(crate) async fn prune(global: &Global) -> Outcome {
    let setup = Setup::load(global)?;
    let done: PruneDone = match setup.access().await? {
        Access::Served(client) => client.post("/v1/prune", &Value::Null).await?,
        Access::Own(keeper) => {
            let handle = setup.start(setup.settings()?, keeper).await?;
            let done = handle.prune().await;
            handle.shutdown("nothing was begun", async {}).await;
            pruned(done)?
        }
    };
    if global.json {
        return print_json(&done);
    }
    let sessions = n_of(done.sessions, "session");
    print(&format!("removed {sessions} that had been over for longer than keep_finished; branches are kept\n"));
    if done.set_aside > 0 {
        print(&format!("removed {} set-aside store files of that age\n", done.set_aside));
    }
    Ok(())
}

pub(crate) fn pruned(done: Result<Pruned, String>) -> Result<PruneDone, Failure> {
    let Pruned { sessions, copies } =
        done.map_err(|error| Failure::Failed(format!("the retention could not be applied: {error}")))?;
    Ok(PruneDone { sessions, set_aside: copies })
}

/// Sends an order about a session to the daemon.
pub(crate) async fn order(global: &Global, client: &Client, id: Option<&str>, order: &str) -> Outcome {
    let id = id.unwrap_or("latest");
    let done: Submitted = client.post(&format!("/v1/sessions/{id}/{order}"), &Value::Null).await?;
    if global.json {
        return print_json(&done);
    }
    print(&format!("session {}: {order} done\n", done.session_id));
    Ok(())
}

/// `steadfast reload`. With `--state-dir` the configuration is not read here at all: that is for the daemon to do, which
/// knows where its own comes from.
pub(crate) async fn reload(global: &Global) -> Outcome {
    let state_dir = match &global.state_dir {
        Some(dir) => absolute(dir)?,
        None => Setup::load(global)?.state_dir().to_owned(),
    };
    let Some(client) = Client::connect_waiting(&state_dir).await else {
        return Err(Failure::Failed(format!(
            "no daemon answers for {}; one that was started with another state directory is named by --state-dir",
            state_dir.display()
        )));
    };
    let done: Reloaded = client.post("/v1/reload", &Value::Null).await?;
    if global.json {
        return print_json(&done);
    }
    print(&text::reloaded(&done));
    Ok(())
}
