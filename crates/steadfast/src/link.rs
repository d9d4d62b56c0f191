//! Follows a daemon: how everything stands, kept up to date, and its events as they come, over its restarts. Where none
//! answers, what the store says.
//!
//! Invariant: the store is open only while it is read, so that a daemon can start at any time.

use std::time::Duration;

use serde_json::Value;
use steadfast_fault_point::{self as fault_point, Point};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::Instant;

use crate::client::{Client, is_locked};
use crate::commands::{look, outbox};
use crate::exit::Failure;
use crate::report::{OutboxReport, Report};
use crate::setup::Setup;
use crate::wire::StatusBody;

/// How often the socket is looked at while no daemon answers.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A daemon that has gone is waited for so long before the store is read instead: it may only be starting again.
const READ_AFTER: Duration = Duration::from_secs(1);
/// After an event the status is asked for so much later, so that events which come together cost one question.
const COALESCE: Duration = Duration::from_millis(20);
/// The status is asked for no more often than this,
const STATUS_GAP: Duration = Duration::from_millis(150);
/// the sessions, which are larger, than this,
const SESSIONS_GAP: Duration = Duration::from_millis(250);
/// and the outbox, for which every session is looked at, than this.
const OUTBOX_GAP: Duration = Duration::from_secs(2);
/// And no less often than this: failures that leave a breaker's window do so without an event.
const AT_LEAST: Duration = Duration::from_secs(5);
/// Sessions that are followed, the newest.
const SESSIONS: usize = 100;

/// What is wanted beside the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Nothing.
    Status,
    /// Sessions, outbox and the events that the daemon still has in memory.
    Everything,
}

/// What a follower hears.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A daemon answers.
    Up(Client),
    /// None answers, or none any more; it is waited for.
    Away,
    /// Something has happened.
    Event(Value),
    /// How everything stands.
    Standing(Box<Standing>),
    /// How it stands could not be found out; it is tried again.
    Trouble(String),
}

/// How everything stands. What was not asked for is as it was.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) status: StatusBody,
    /// Newest first.
    pub(crate) sessions: Option<Vec<Report>>,
    pub(crate) outbox: Option<Vec<OutboxReport>>,
}

/// Begins to follow the daemon of this state directory. It ends when the receiver is dropped.
pub(crate) fn follow(setup: Setup, depth: Depth) -> Receiver<Heard> {
    let (heard, receiver) = mpsc::channel(256);
    let link = Link { setup, depth, heard, last: None };
    // Fails only when nobody listens any more.
    tokio::spawn(async move { drop(link.run().await) });
    receiver
}

/// Nobody listens any more.
struct Unheard;

struct Link {
    setup: Setup,
    depth: Depth,
    heard: Sender<Heard>,
    /// The event that was told last.
    last: Option<u64>,
}

impl Link {
    async fn tell(&self, heard: Heard) -> Result<(), Unheard> {
        self.heard.send(heard).await.map_err(|_| Unheard)
    }

    async fn run(mut self) -> Result<(), Unheard> {
        if self.depth == Depth::Everything {
            self.last = Some(0);
        }
        let mut read_after = Duration::ZERO;
        loop {
            let client = match Client::connect(self.setup.state_dir()).await {
                Some(client) => client,
                None => {
                    self.tell(Heard::Away).await?;
                    self.wait_for_one(read_after).await?
                }
            };
            read_after = READ_AFTER;
            self.tell(Heard::Up(client.clone())).await?;
            if let Err(failure) = self.with(&client).await? {
                self.tell(Heard::Trouble(failure.to_string())).await?;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until a daemon answers, and reads the store once meanwhile.
    async fn wait_for_one(&self, read_after: Duration) -> Result<Client, Unheard> {
        let begun = Instant::now();
        let mut is_read = false;
        loop {
            if let Some(client) = Client::connect(self.setup.state_dir()).await {
                return Ok(client);
            }
            if !is_read && begun.elapsed() >= read_after && !is_locked(self.setup.state_dir()) {
                is_read = true;
                match self.read().await {
                    Ok(standing) => self.tell(Heard::Standing(Box::new(standing))).await?,
                    Err(failure) => self.tell(Heard::Trouble(failure.to_string())).await?,
                }
            }
            if self.heard.is_closed() {
                return Err(Unheard);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What the store says, without anybody at work.
    async fn read(&self) -> Result<Standing, Failure> {
        let keeper = self.setup.open_to_look(Duration::ZERO).await?;
        let read = || {
            let status = look::from_store(&self.setup, &keeper)?;
            if self.depth == Depth::Status {
                return Ok(Standing { status, sessions: None, outbox: None });
            }
            let mut sessions = look::list(&keeper, SESSIONS, &self.setup.session_policy())?;
            sessions.iter_mut().for_each(Report::nobody_carries_it);
            Ok(Standing { status, sessions: Some(sessions), outbox: Some(outbox::entries(&keeper)?) })
        };
        let standing = read();
        keeper.close().await;
        standing
    }

    /// One daemon's time.
    async fn with(&mut self, client: &Client) -> Result<Result<(), Failure>, Unheard> {
        // The stream first, so that nothing falls between it and the first answer.
        let mut stream = match client.stream_after("/v1/events", self.last).await {
            Ok(stream) => stream,
            Err(failure) => return Ok(Err(failure)),
        };
        let mut due = Due::new(self.depth);
        loop {
            tokio::select! {
                biased;
                () = self.heard.closed() => return Err(Unheard),
                () = tokio::time::sleep_until(due.at) => match due.ask(client).await {
                    Ok(standing) => {
                        self.tell(Heard::Standing(Box::new(standing))).await?;
                        fault_point::reach_async(Point::Watching).await;
                    }
                    Err(failure) => return Ok(Err(failure)),
                },
                event = stream.next() => match event {
                    Some(event) => {
                        self.last = event["id"].as_u64().or(self.last);
                        due.after(&event);
                        self.tell(Heard::Event(event)).await?;
                    }
                    None => return Ok(Ok(())),
                },
            }
        }
    }
}

/// What is to be asked anew, and when.
struct Due {
    depth: Depth,
    at: Instant,
    status_at: Instant,
    sessions: Option<Instant>,
    sessions_at: Instant,
    outbox: Option<Instant>,
    outbox_at: Instant,
    undelivered: Option<usize>,
}

impl Due {
    fn new(depth: Depth) -> Self {
        let now = Instant::now();
        let wanted = (depth == Depth::Everything).then_some(now);
        Self {
            depth,
            at: now,
            status_at: now,
            sessions: wanted,
            sessions_at: now,
            outbox: wanted,
            outbox_at: now,
            undelivered: None,
        }
    }

    /// An event has come: some answers are out of date.
    fn after(&mut self, event: &Value) {
        let soon = Instant::now() + COALESCE;
        self.at = self.at.min(soon.max(self.status_at + STATUS_GAP));
        if self.depth == Depth::Status {
            return;
        }
        let moves = ["session_moved", "planned", "file_ended", "judged", "reviewed", "committed", "interrupted"];
        let kind = event["event"].as_str().unwrap_or_default();
        if moves.contains(&kind) {
            self.sessions = Some(self.sessions.unwrap_or_else(|| soon.max(self.sessions_at + SESSIONS_GAP)));
        }
        if kind == "issue_filed" {
            self.outbox = Some(self.outbox.unwrap_or_else(|| soon.max(self.outbox_at + OUTBOX_GAP)));
        }
        self.at = [self.sessions, self.outbox].into_iter().flatten().fold(self.at, Instant::min);
    }

    /// Asks for what is out of date.
    async fn ask(&mut self, client: &Client) -> Result<Standing, Failure> {
        let now = Instant::now();
        self.status_at = now;
        let status: StatusBody = client.get("/v1/status").await?;
        let sessions = if self.sessions.is_some_and(|at| at <= now) {
            (self.sessions, self.sessions_at) = (None, now);
            Some(client.get(&format!("/v1/sessions?limit={SESSIONS}")).await?)
        } else {
            None
        };
        // Something was delivered, or came in, without an event.
        if self.depth == Depth::Everything && self.undelivered.is_some_and(|n| n != status.outbox.undelivered) {
            self.outbox = Some(self.outbox.unwrap_or(now.max(self.outbox_at + OUTBOX_GAP)));
        }
        self.undelivered = Some(status.outbox.undelivered);
        let outbox = if self.outbox.is_some_and(|at| at <= now) {
            (self.outbox, self.outbox_at) = (None, now);
            Some(client.get("/v1/outbox").await?)
        } else {
            None
        };
        self.at = [self.sessions, self.outbox].into_iter().flatten().fold(now + AT_LEAST, Instant::min);
        Ok(Standing { status, sessions, outbox })
    }
}
