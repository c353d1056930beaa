//! How fast connections to one replica are made.
//!
//! A server takes connections one after the other, between its other work, and the system keeps only so
//! many for it meanwhile. What comes above that is dropped without a word, and the system asks again
//! after a second: by then a request has failed, and a replica that is merely busy looks ill. So no more
//! connections are under way to a replica than the shortest usual queue holds. One is under way until
//! the first byte of its first answer shows that the server has taken it, or for a moment after it
//! came about, where that answer is long in coming.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Connections under way at once: what Python's servers keep waiting when nothing is said, and less than
/// others do (128 on old Linux systems, 1,024 and more since).
const UNDER_WAY_MAX: usize = 100;

/// How long a connection that has come about counts as under way while nothing is answered on it.
const UNANSWERED_MAX: Duration = Duration::from_millis(100);

/// Has those who want a connection take turns.
#[derive(Debug)]
pub(crate) struct Pace {
    turns: Arc<Semaphore>,
    given_up: Notify,
}

impl Default for Pace {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(UNDER_WAY_MAX)), given_up: Notify::new() }
    }
}

/// A connection's time under way; over when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Pace {
    /// Waits until a connection may be made; `None` when the replica was given up meanwhile.
    pub(crate) async fn turn(&self) -> Option<Turn> {
        tokio::select! {
            biased;
            permit = Arc::clone(&self.turns).acquire_owned() => {
                permit.ok().map(|it| Turn { _permit: it })
            }
            () = self.given_up.notified() => None,
        }
    }

    /// Sends away all who wait for their turn: nothing comes of it.
    pub(crate) fn give_up(&self) {
        self.given_up.notify_waiters();
    }
}

impl Turn {
    /// Awaits the first answer on the connection whose turn this is.
    pub(crate) async fn until_answered<T>(self, answer: impl Future<Output = T>) -> T {
        let mut answer = std::pin::pin!(answer);
        let soon = tokio::time::timeout(UNANSWERED_MAX, answer.as_mut()).await;
        drop(self);
        match soon {
            Ok(answered) => answered,
            Err(_) => answer.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::Instant;

    use super::*;

    async fn all(pace: &Pace) -> Vec<Turn> {
        let mut turns = Vec::new();
        for _ in 0..UNDER_WAY_MAX {
            turns.push(pace.turn().await.unwrap());
        }
        turns
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_over_with_its_answer_or_soon_without_one() {
        let pace = Pace::default();
        let mut turns = all(&pace).await;
        assert_eq!(pace.turns.available_permits(), 0);
        turns.pop().unwrap().until_answered(ready(())).await;
        assert_eq!(pace.turns.available_permits(), 1);

        let began = Instant::now();
        for turn in turns {
            tokio::spawn(turn.until_answered(pending::<()>()));
        }
        all(&pace).await;
        // Timers are as fine as a millisecond.
        let waited = began.elapsed().as_millis();
        assert!((100..=101).contains(&waited), "{waited} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_replica_that_is_given_up_is_sent_away() {
        let pace = Arc::new(Pace::default());
        let turns = all(&pace).await;
        let waiting = tokio::spawn({
            let pace = Arc::clone(&pace);
            async move { pace.turn().await.is_some() }
        });
        tokio::task::yield_now().await;
        pace.give_up();
        assert!(!waiting.await.unwrap());
        // Who comes later has it from nobody that it was given up.
        drop(turns);
        assert!(pace.turn().await.is_some());
    }
}
