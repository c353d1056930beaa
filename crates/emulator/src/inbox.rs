//! Where the tokens of one request wait for the connection that sends them.
//!
//! An inbox holds no text, only how far each answer is; a connection that lags sends the tokens it
//! missed in one chunk. So a slow reader costs neither memory nor anybody else's time.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use engine::Progress;
use parking_lot::Mutex;
use types::quantity::Tokens;

/// How far each answer to a request is.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    choices: Vec<Reached>,
    reader: Option<Waker>,
}

/// How far one answer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Tokens generated.
    pub(crate) generated: Tokens,
    /// Prompt tokens that were cached; known from the first token on.
    pub(crate) cached: Tokens,
    /// Whether these are all.
    pub(crate) ended: bool,
}

/// What an inbox has for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// More tokens of the answer at this index.
    Tokens(usize, Reached),
    /// All answers have ended and been seen to the end.
    End,
}

impl Inbox {
    /// Waits for `choices` answers.
    pub(crate) fn new(choices: usize) -> Self {
        let choices = vec![Reached::default(); choices];
        Self { state: Mutex::new(State { choices, reader: None }) }
    }

    /// Notes a token of the answer at index `choice` and returns who must be woken for it.
    pub(crate) fn deliver(&self, choice: usize, progress: &Progress) -> Option<Waker> {
        let mut state = self.state.lock();
        *state.choices.get_mut(choice)? = Reached {
            generated: progress.generated,
            cached: progress.cached,
            ended: progress.last,
        };
        state.reader.take()
    }

    /// Finds an answer that is further than `seen` says, in the order of the answers.
    pub(crate) fn poll_news(&self, context: &Context<'_>, seen: &[Tokens]) -> Poll<News> {
        let mut state = self.state.lock();
        let mut reached = state.choices.iter().zip(seen).enumerate();
        if let Some((index, (it, _))) = reached.find(|(_, (it, seen))| it.generated > **seen) {
            return Poll::Ready(News::Tokens(index, *it));
        }
        if state.choices.iter().all(|it| it.ended) {
            return Poll::Ready(News::End);
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// Waits until all answers have ended.
    pub(crate) async fn ended(&self) -> Vec<Reached> {
        let poll = |context: &mut Context<'_>| {
            let mut state = self.state.lock();
            if state.choices.iter().all(|it| it.ended) {
                return Poll::Ready(state.choices.clone());
            }
            state.reader = Some(context.waker().clone());
            Poll::Pending
        };
        pin!(std::future::poll_fn(poll)).await
    }

    /// How far each answer is.
    pub(crate) fn reached(&self) -> Vec<Reached> {
        self.state.lock().choices.clone()
    }
}

#[cfg(test)]
mod tests {
    use types::request::RequestId;

    use super::*;

    fn token(generated: u32, last: bool) -> Progress {
        Progress { id: RequestId(1), generated: Tokens(generated), cached: Tokens(16), last }
    }

    #[test]
    fn a_reader_that_lags_gets_all_it_missed_at_once() {
        let inbox = Inbox::new(1);
        let context = Context::from_waker(Waker::noop());
        assert_eq!(inbox.poll_news(&context, &[Tokens(0)]), Poll::Pending);
        assert!(inbox.deliver(0, &token(1, false)).is_some());
        assert!(inbox.deliver(0, &token(2, false)).is_none());
        inbox.deliver(0, &token(3, true));
        let all = Reached { generated: Tokens(3), cached: Tokens(16), ended: true };
        assert_eq!(inbox.poll_news(&context, &[Tokens(0)]), Poll::Ready(News::Tokens(0, all)));
        assert_eq!(inbox.poll_news(&context, &[Tokens(3)]), Poll::Ready(News::End));
    }

    #[test]
    fn the_end_comes_after_every_answer() {
        let inbox = Inbox::new(2);
        let context = Context::from_waker(Waker::noop());
        inbox.deliver(1, &token(1, true));
        assert_eq!(inbox.poll_news(&context, &[Tokens(0), Tokens(1)]), Poll::Pending);
        inbox.deliver(0, &token(1, true));
        assert_eq!(inbox.poll_news(&context, &[Tokens(1), Tokens(1)]), Poll::Ready(News::End));
    }
}
