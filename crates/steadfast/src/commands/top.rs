//! `top`: the shell around the full-screen view. Keys, the daemon's events and answers go in; drawings and orders come out.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cli::Global;
use crate::client::Client;
use crate::commands::look;
use crate::exit::{Failure, Outcome};
use crate::link::{self, Depth, Heard};
use crate::report::{OutboxReport, Report};
use crate::screen::{self, Input, Screen};
use crate::setup::Setup;
use crate::story::Story;
use crate::top::{Action, Look, Top, draw};
use crate::wire::{ResetBody, ResetDone, Submitted};
use crate::{feed, text};

/// How often the times that run are drawn anew.
const TICK: Duration = Duration::from_secs(1);
/// Events that come together are drawn together; sooner than this nobody sees a difference.
const FRAME: Duration = Duration::from_millis(30);
/// How often the rates of the hours before are asked for.
const HISTORY_EVERY: Duration = Duration::from_secs(60);

/// `steadfast top`.
pub(crate) async fn top(global: &Global) -> Outcome {
    if global.json {
        return Err(Failure::Usage("top is for a person; programs read `steadfast status --watch --json`".to_owned()));
    }
    // A faulty configuration is said before the screen is taken.
    let setup = Setup::load(global)?;
    if !screen::is_there() {
        return Err(Failure::Usage(
            "top needs a terminal; elsewhere `steadfast status --watch` prints every change".to_owned(),
        ));
    }
    let look = Look { color: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
    let heard = link::follow(Setup::load(global)?, Depth::Everything);
    let screen = Screen::take()?;
    Shell { setup: std::sync::Arc::new(setup), screen, look, top: Top::default(), client: None, doing: JoinSet::new() }
        .run(heard)
        .await
}

/// What came of something that was begun.
enum Done {
    Told(String),
    Opened { session: String, text: String },
    History(Value),
}

struct Shell {
    setup: std::sync::Arc<Setup>,
    screen: Screen,
    look: Look,
    top: Top,
    /// Who answers.
    client: Option<Client>,
    doing: JoinSet<Done>,
}

impl Shell {
    async fn run(mut self, mut heard: Receiver<Heard>) -> Outcome {
        let mut tick = tokio::time::interval(TICK);
        let mut history = tokio::time::interval(HISTORY_EVERY);
        let mut draw_at = Some(Instant::now());
        loop {
            let mut is_due = false;
            tokio::select! {
                biased;
                input = self.screen.input() => match input {
                    Input::End => return Ok(()),
                    Input::Redraw => is_due = true,
                    Input::Key(key) => {
                        is_due = true;
                        match self.top.press(key, Timestamp::now()) {
                            Some(Action::Quit) => return Ok(()),
                            Some(action) => self.begin(action),
                            None => {}
                        }
                    }
                },
                () = tokio::time::sleep_until(draw_at.unwrap_or_else(Instant::now)), if draw_at.is_some() => is_due = true,
                one = heard.recv() => {
                    let one = one.ok_or_else(|| Failure::Failed("whoever follows the daemon has ended".to_owned()))?;
                    self.hear(one);
                    draw_at = draw_at.or_else(|| Some(Instant::now() + FRAME));
                }
                Some(done) = self.doing.join_next() => {
                    if let Ok(done) = done {
                        self.done(done);
                    }
                    is_due = true;
                }
                _ = tick.tick() => is_due = true,
                _ = history.tick() => self.ask_history(),
            }
            if is_due {
                draw_at = None;
                let (top, look) = (&mut self.top, self.look);
                self.screen.draw(|frame| draw(top, frame, look, Timestamp::now()))?;
            }
        }
    }

    fn hear(&mut self, heard: Heard) {
        match &heard {
            Heard::Up(client) => {
                self.client = Some(client.clone());
                self.ask_history();
            }
            Heard::Away => self.client = None,
            Heard::Event(_) | Heard::Standing(_) | Heard::Trouble(_) => {}
        }
        self.top.hear(heard, Timestamp::now());
    }

    fn ask_history(&mut self) {
        let Some(client) = self.client.clone() else { return };
        self.doing.spawn(async move {
            // An earlier daemon does not tell; the points are then those that were seen here.
            Done::History(client.get("/v1/rates/history").await.unwrap_or_default())
        });
    }

    fn begin(&mut self, action: Action) {
        let client = self.client.clone();
        let setup = std::sync::Arc::clone(&self.setup);
        self.doing.spawn(async move {
            let told = match (action, client) {
                (Action::Open(session), client) => return open(&setup, client.as_ref(), session).await,
                (Action::Quit, _) => return Done::Told(String::new()),
                (Action::Order { .. } | Action::Reset(_) | Action::Flush, None) => {
                    Ok("no daemon answers: start one with `steadfast daemon`".to_owned())
                }
                (Action::Order { session, verb }, Some(client)) => order(&client, &session, verb).await,
                (Action::Reset(model), Some(client)) => reset(&client, model).await,
                (Action::Flush, Some(client)) => flush(&client).await,
            };
            Done::Told(told.unwrap_or_else(|failure| failure.to_string()))
        });
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Told(what) => self.top.told(what, Timestamp::now()),
            Done::Opened { session, text } => self.top.opened(&session, &text),
            Done::History(history) => self.top.remember(&history),
        }
    }
}

async fn order(client: &Client, session: &str, verb: &str) -> Result<String, Failure> {
    let done: Submitted = client.post(&format!("/v1/sessions/{session}/{verb}"), &Value::Null).await?;
    Ok(format!("{verb}: done, session {}", done.session_id))
}

async fn reset(client: &Client, model: Option<String>) -> Result<String, Failure> {
    let what = model.clone().unwrap_or_else(|| "all models".to_owned());
    let done: ResetDone = client.post("/v1/breakers/reset", &ResetBody { model }).await?;
    Ok(format!("{what}: {} breaker(s) reset", done.reset))
}

async fn flush(client: &Client) -> Result<String, Failure> {
    let left: Vec<OutboxReport> = client.post("/v1/outbox/flush", &Value::Null).await?;
    let n_left = left.iter().filter(|entry| !entry.issue.delivered).count();
    Ok(match n_left {
        0 => "the outbox is delivered".to_owned(),
        n => format!("{n} of the outbox could still not be delivered"),
    })
}

/// A session's report and its story.
async fn open(setup: &Setup, client: Option<&Client>, session: String) -> Done {
    let read = async {
        match client {
            Some(client) => {
                let report: Report = client.get(&format!("/v1/sessions/{session}")).await?;
                let story: Vec<Value> = client.get(&format!("/v1/sessions/{session}/events")).await?;
                Ok((report, story))
            }
            None => {
                let keeper = setup.open_to_look(Duration::ZERO).await?;
                let id = look::find(&keeper, Some(&session), true)?;
                let mut report = look::one(&keeper, &id, &setup.session_policy())?;
                report.nobody_carries_it();
                let story = feed::stored(&keeper, &id)?;
                keeper.close().await;
                Ok((report, story))
            }
        }
    };
    let text = match read.await {
        Ok((report, story)) => {
            let mut told = Story::default();
            let story: String = story.iter().map(|event| told.tell(event)).collect();
            format!("{}\n\nStory (UTC)\n{story}", text::report(&report).trim_start())
        }
        Err::<_, Failure>(failure) => format!("it cannot be read: {failure}"),
    };
    Done::Opened { session, text }
}
