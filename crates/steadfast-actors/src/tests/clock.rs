//! The paused clock jumps to the next timer whenever the runtime has nothing to do, and it does not know that the
//! store's own thread is at work for it. A blocking task of tokio's holds it meanwhile.

use std::sync::mpsc::{Sender, channel};

/// Holds the clock until it is dropped.
pub(crate) struct Held(#[expect(dead_code, reason = "dropping it ends the blocking task")] Sender<()>);

pub(crate) fn hold() -> Held {
    let (held, released) = channel::<()>();
    tokio::task::spawn_blocking(move || {
        // Ends with an error when the sender is dropped, which is what it waits for.
        let _ = released.recv();
    });
    Held(held)
}

/// Lets every task that can run do so, without moving the clock: enough turns for any chain of messages in these tests.
pub(crate) async fn settle() {
    let _held = hold();
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}
