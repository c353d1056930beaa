//! The timer of the heads of a connection, kept from one to the next.
//!
//! hyper sets a timer for each head and drops it once that has come. To tell the runtime of a timer, and to have it
//! forgotten again, takes several times what putting it off does. So it stays where it is: when its time comes in
//! the middle of an answer, the connection is looked at once for nothing.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;

/// A timer while nobody waits for it.
type Spare = Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>;

/// Sets the timer of one connection.
#[derive(Debug, Default)]
pub(crate) struct HeadTimer(Spare);

/// The timer while it is waited for.
struct Waiting {
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    spare: Spare,
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let spare = self.0.lock().take();
        let timer = match spare {
            Some(mut timer) => {
                timer.as_mut().reset(deadline.into());
                timer
            }
            None => Box::pin(tokio::time::sleep_until(deadline.into())),
        };
        Box::pin(Waiting { timer: Some(timer), spare: Arc::clone(&self.0) })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

impl Future for Waiting {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().map_or(Poll::Ready(()), |it| it.as_mut().poll(cx))
    }
}

impl Sleep for Waiting {}

impl Drop for Waiting {
    fn drop(&mut self) {
        *self.spare.lock() = self.timer.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_used_again_fires_when_it_is_set_to_and_not_before() {
        let timer = HeadTimer::default();
        for (dropped_after_s, lasts_s) in [(0, 10), (3, 10), (3, 2), (1, 60)] {
            let mut dropped = timer.sleep(Duration::from_secs(10));
            let early = tokio::time::timeout(Duration::from_secs(dropped_after_s), &mut dropped);
            assert!(early.await.is_err());
            drop(dropped);
            let began = tokio::time::Instant::now();
            timer.sleep(Duration::from_secs(lasts_s)).await;
            assert_eq!(began.elapsed().as_secs(), lasts_s);
        }
    }
}
