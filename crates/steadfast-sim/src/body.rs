//! Bodies that are sent in steps, break off, stall or never end.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use crate::log::Ticket;

/// One step of sending a body.
#[derive(Debug)]
pub(crate) enum Step {
    /// These bytes.
    Data(Bytes),
    /// These bytes, so many times.
    Repeat(Bytes, u64),
    /// Nothing for this long.
    Wait(Duration),
    /// The connection ends here.
    Break,
    /// Nothing more, and no end.
    Stall,
}

/// The connection is to end without the rest of the answer.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the script drops this connection")]
pub(crate) struct Dropped;

/// A body sent step by step.
pub(crate) struct Steps {
    steps: VecDeque<Step>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Bytes still to come, where the length is announced; else it is sent in chunks.
    announced: Option<u64>,
    /// Reports to the log how the sending ended.
    ticket: Option<Ticket>,
}

impl Steps {
    pub(crate) fn new(steps: impl Into<VecDeque<Step>>, announced: Option<u64>, ticket: Option<Ticket>) -> Self {
        Self { steps: steps.into(), sleep: None, announced, ticket }
    }

    /// A body of known length that the log does not know of.
    pub(crate) fn unlogged(bytes: Bytes) -> Self {
        let length = bytes.len() as u64;
        Self::new([Step::Data(bytes)], Some(length), None)
    }

    fn sent(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            ticket.sent();
        }
    }

    fn data(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, Dropped>>> {
        if let Some(left) = &mut self.announced {
            *left = left.saturating_sub(bytes.len() as u64);
        }
        // Once the announced length is reached the server does not ask again for an end.
        if self.steps.is_empty() {
            self.sent();
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

impl Body for Steps {
    type Data = Bytes;
    type Error = Dropped;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Dropped>>> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                match sleep.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) => self.sleep = None,
                }
            }
            match self.steps.pop_front() {
                None => {
                    self.sent();
                    return Poll::Ready(None);
                }
                Some(Step::Data(bytes)) => return self.data(bytes),
                Some(Step::Repeat(bytes, times)) => {
                    if times > 1 {
                        self.steps.push_front(Step::Repeat(bytes.clone(), times - 1));
                    }
                    return self.data(bytes);
                }
                Some(Step::Wait(span)) => self.sleep = Some(Box::pin(tokio::time::sleep(span))),
                Some(Step::Break) => {
                    if let Some(ticket) = &mut self.ticket {
                        ticket.dropped();
                    }
                    return Poll::Ready(Some(Err(Dropped)));
                }
                Some(Step::Stall) => {
                    // Nobody wakes this body again: it ends when the connection does.
                    self.steps.push_front(Step::Stall);
                    return Poll::Pending;
                }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.announced.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
