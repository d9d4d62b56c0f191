//! `events`: the story of one session, from the store or as it happens.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use crate::cli::{EventsArgs, Global};
use crate::client::{Client, LOOK_AGAIN};
use crate::commands::look;
use crate::exit::{Failure, INTERRUPTED, Outcome};
use crate::report::{Report, is_over};
use crate::setup::{Access, Setup};
use crate::story::Story;
use crate::{feed, print, print_json};

/// `steadfast events`.
pub(crate) async fn events(global: &Global, args: &EventsArgs) -> Outcome {
    let setup = Setup::load(global)?;
    let story = match setup.access_to_look().await? {
        Access::Served(client) if args.follow => return follow(global, &client, &args.id).await,
        Access::Served(client) => client.get(&format!("/v1/sessions/{}/events", args.id)).await?,
        Access::Own(keeper) => {
            let session = look::find(&keeper, Some(&args.id), true)?;
            feed::stored(&keeper, &session)?
        }
    };
    if global.json {
        return print_json(&story);
    }
    let mut told = Story::default();
    for event in &story {
        print(&told.tell(event));
    }
    if args.follow {
        crate::progress::note("nobody is at work on it: there is no daemon, and nothing more to follow");
    }
    Ok(())
}

/// Connections in a row that show nothing new, after which it is given up: some two seconds.
const MAX_FAILURES: u32 = 100;
/// How long the last events of a session that is over may take to come.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// Shows what was and what comes, until the session rests, also over a restart of the daemon. With `--json` one event a line.
async fn follow(global: &Global, client: &Client, id: &str) -> Outcome {
    let report: Report = client.get(&format!("/v1/sessions/{id}")).await?;
    let mut follower = Follower { json: global.json, session: report.session_id, story: Story::default(), last: 0 };
    let mut failures = 0;
    loop {
        let shown = follower.last;
        let cut_off = match follower.watch(client).await {
            Ok(Some(outcome)) => return outcome,
            // The daemon ended, or this reader was too slow.
            Ok(None) => Failure::Failed("the daemon has ended; `steadfast events` shows what was".to_owned()),
            Err(failure) => failure,
        };
        failures = if follower.last > shown { 0 } else { failures + 1 };
        if failures > MAX_FAILURES || !client.comes_back().await {
            return Err(cut_off);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

struct Follower {
    json: bool,
    session: String,
    story: Story,
    /// The last event that was shown.
    last: u64,
}

impl Follower {
    /// One connection's time; `None`: it was cut off.
    async fn watch(&mut self, client: &Client) -> Result<Option<Outcome>, Failure> {
        let path = format!("/v1/sessions/{}/events", self.session);
        // The stream first, so that nothing falls between the two.
        let mut stream = client.stream(&path).await?;
        let story: Vec<Value> = client.get(&path).await?;
        story.iter().for_each(|event| self.show(event));
        let report: Report = client.get(&format!("/v1/sessions/{}", self.session)).await?;
        let is_told = story.iter().rfind(|event| event["event"] == "session_moved").is_some_and(is_end);
        let patience = match (report.is_over(), is_told) {
            (false, _) => Duration::MAX,
            (true, true) => return Ok(Some(Ok(()))),
            // It ended between the two questions, and the stream brings the last events; or a kill took them, and they never
            // come.
            (true, false) => LAST_EVENTS,
        };
        loop {
            let Ok(next) = timeout(patience, stream.next()).await else { return Ok(Some(Ok(()))) };
            let Some(event) = next else { return Ok(None) };
            self.show(&event);
            if is_end(&event) {
                return Ok(Some(Ok(())));
            }
            if event["event"] == "interrupted" {
                return Ok(Some(Err(Failure::Code(INTERRUPTED))));
            }
        }
    }

    fn show(&mut self, event: &Value) {
        let id = event["id"].as_u64().unwrap_or(0);
        if id > self.last {
            self.last = id;
            let lines = if self.json { format!("{event}\n") } else { self.story.tell(event) };
            print(&lines);
        }
    }
}

/// Whether it tells that the session is over.
fn is_end(event: &Value) -> bool {
    event["event"] == "session_moved" && event["phase"].as_str().is_some_and(is_over)
}
