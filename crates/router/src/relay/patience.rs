//! How long a replica that says nothing is waited for in the middle of its answer.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::Break;
use crate::app::Signal;

/// How long a stream that has said that it is at its end is waited for, so that its connection can be used
/// again.
const END_LONGEST: Duration = Duration::from_secs(1);

/// How long a silent replica is waited for, and until when the router serves at all.
#[derive(Debug)]
pub(super) struct Patience {
    stall: Duration,
    cut: Signal,
    /// What is set up once there is something to wait for; most short answers need none of it.
    waiting: Option<Box<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    silence: Pin<Box<Sleep>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Who is woken when either comes.
    waker: Waker,
}

impl Patience {
    /// Waits for `stall` after each byte.
    pub(super) const fn new(stall: Duration, cut: Signal) -> Self {
        Self { stall, cut, waiting: None }
    }

    /// Waits no longer than for `END_LONGEST` from now on.
    pub(super) fn hurry(&mut self) {
        if END_LONGEST < self.stall {
            (self.stall, self.waiting) = (END_LONGEST, None);
        }
    }

    /// Ready when patience is over. Looking at the timer and the cut costs as much as relaying an
    /// event, so nothing is done while both stand as they were left; and the timer is not set anew
    /// with every byte: when it fires, it is set to what is left since the last byte.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, last_byte: Instant) -> Poll<Break> {
        let Self { stall, cut, waiting } = self;
        let waiting = waiting.get_or_insert_with(|| {
            Box::new(Waiting {
                silence: Box::pin(tokio::time::sleep_until(last_byte + *stall)),
                cut: Box::pin(cut.comes()),
                waker: Waker::noop().clone(),
            })
        });
        if waiting.waker.will_wake(cx.waker()) && !waiting.silence.is_elapsed() && !cut.has_come() {
            return Poll::Pending;
        }
        waiting.waker.clone_from(cx.waker());
        if waiting.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Break::Cut);
        }
        loop {
            ready!(waiting.silence.as_mut().poll(cx));
            let deadline = last_byte + *stall;
            if deadline <= Instant::now() {
                return Poll::Ready(Break::Silence);
            }
            waiting.silence.as_mut().reset(deadline);
        }
    }
}
