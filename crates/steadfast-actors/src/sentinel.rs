//! Watches memory, disk and the time limit, and tells the supervisor when one runs short (SPEC 8).

mod probe;

use std::path::PathBuf;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use steadfast_core::sentinel::{Limits, Reading, Sentinel, Verdict};
use tokio::time::Instant;

use crate::supervisor::{Emergency, SupervisorMsg};

pub use probe::read as read_machine;

/// How often it looks. A look reads three small files of the kernel and asks the file system for its free space.
const EVERY: Duration = Duration::from_secs(1);

/// Takes a reading; the state directory tells which disk.
pub type Probe = fn(&std::path::Path) -> Reading;

/// What the sentinel is told.
pub(crate) enum SentinelMsg {
    /// Time for a look.
    Look,
    /// Ends the actor with a panic. For tests of supervision.
    #[cfg(test)]
    Crash,
}

/// What it is started with.
#[derive(Clone)]
pub(crate) struct SentinelArgs {
    pub limits: Limits,
    pub probe: Probe,
    pub state_dir: PathBuf,
    /// When the process began.
    pub origin: Instant,
    /// Work has begun already: what is short now became so.
    pub at_work: bool,
    pub supervisor: ActorRef<SupervisorMsg>,
}

/// Its state.
pub(crate) struct SentinelState {
    args: SentinelArgs,
    sentinel: Sentinel,
}

/// The actor.
pub(crate) struct SentinelActor;

impl Actor for SentinelActor {
    type Msg = SentinelMsg;
    type State = SentinelState;
    type Arguments = SentinelArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<SentinelMsg>,
        args: SentinelArgs,
    ) -> Result<SentinelState, ActorProcessingErr> {
        let limits = args.limits.clone();
        let sentinel = if args.at_work { Sentinel::at_work(limits) } else { Sentinel::new(limits) };
        let mut state = SentinelState { args, sentinel };
        // Before anybody can hand in work: what is short at the start begins nothing.
        state.look();
        myself.send_interval(EVERY, || SentinelMsg::Look);
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<SentinelMsg>,
        msg: SentinelMsg,
        state: &mut SentinelState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            SentinelMsg::Look => state.look(),
            #[cfg(test)]
            SentinelMsg::Crash => panic!("told to crash"),
        }
        Ok(())
    }
}

impl SentinelState {
    fn look(&mut self) {
        let reading = (self.args.probe)(&self.args.state_dir);
        let message = match self.sentinel.read(&reading, self.args.origin.elapsed()) {
            Verdict::AsBefore => return,
            Verdict::Pause(shortage) => SupervisorMsg::Pause(Some(shortage.to_string())),
            Verdict::GoOn => SupervisorMsg::Pause(None),
            Verdict::Short(shortage) => SupervisorMsg::Emergency(Emergency::Failure(shortage.to_string())),
            Verdict::TimeUp => SupervisorMsg::Emergency(Emergency::TimeUp),
        };
        // Fails only when the supervisor has gone, and this actor with it.
        let _ = self.args.supervisor.cast(message);
    }
}
