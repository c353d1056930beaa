//! A client's HTTP/2 streams, each given up when the client takes nothing of it.
//!
//! A client bounds by itself how much of a stream it is sent, so one that allows nothing more holds its
//! replica for as long as it likes, and its connection looks well all the while. Over HTTP/1 the writes
//! of the connection stand still then; here the body is simply not asked for more. So each stream's
//! future is watched from outside: when it has been given a piece and does not come back for the next,
//! the client is what it waits for.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::time::Sleep;

/// What the body that was last polled on this thread said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    /// It has nothing more for now.
    Wait,
    /// It has given a piece, or its end.
    Given,
}

thread_local! {
    /// Read by the future that polls the body, right after it has.
    static SAID: Cell<Said> = const { Cell::new(Said::Nothing) };
}

/// Learns what a body said when it was asked for a piece.
pub(crate) fn body_said<T>(piece: &Poll<T>) {
    SAID.set(if piece.is_pending() { Said::Wait } else { Said::Given });
}

/// Runs the streams of HTTP/2 connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams {
    stall: Duration,
}

impl Streams {
    /// Gives a stream up when its client has taken nothing for `stall`.
    pub(crate) const fn new(stall: Duration) -> Self {
        Self { stall }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let stream = Box::pin(stream);
        tokio::spawn(Watched { stream, stall: self.stall, has_body: false, waiting: None });
    }
}

/// One stream: its request, then its answer.
struct Watched<F> {
    stream: Pin<Box<F>>,
    stall: Duration,
    /// Whether the answer has begun.
    has_body: bool,
    /// Runs while the client is waited for.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        SAID.set(Said::Nothing);
        if this.stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let said = SAID.get();
        this.has_body |= said != Said::Nothing;
        match said {
            Said::Wait => {
                this.waiting = None;
                return Poll::Pending;
            }
            // Some of what was given before has been taken.
            Said::Given => this.waiting = None,
            Said::Nothing => {}
        }
        if !this.has_body {
            return Poll::Pending;
        }
        let stall = this.stall;
        let waiting = this.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        waiting.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const STALL: Duration = Duration::from_secs(60);

    /// A stream that asks its body at each of its wake-ups, a second apart, as `says` it is answered.
    async fn ended_after(says: impl Fn(u64) -> Said + Send + 'static) -> Option<u64> {
        let began = tokio::time::Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        let stream = poll_fn(move |cx| {
            while ticks.poll_tick(cx).is_ready() {
                match says(began.elapsed().as_secs()) {
                    Said::Nothing => {}
                    Said::Wait => body_said::<()>(&Poll::Pending),
                    Said::Given => body_said(&Poll::Ready(())),
                }
            }
            Poll::Pending
        });
        let stream = Box::pin(stream);
        let watched = Watched { stream, stall: STALL, has_body: false, waiting: None };
        let ended = tokio::time::timeout(Duration::from_secs(600), watched).await;
        ended.is_ok().then(|| began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_client_that_takes_nothing_is_given_up() {
        assert_eq!(ended_after(|_| Said::Nothing).await, None, "its answer has not begun");
        assert_eq!(ended_after(|_| Said::Wait).await, None, "its replica is waited for");
        assert_eq!(ended_after(|_| Said::Given).await, None, "it takes a piece each second");
        let slow = |at: u64| if at.is_multiple_of(50) { Said::Given } else { Said::Nothing };
        assert_eq!(ended_after(slow).await, None, "it is slow");
        let stuck = |at: u64| if at < 5 { Said::Given } else { Said::Nothing };
        assert_eq!(ended_after(stuck).await, Some(64));
    }
}
