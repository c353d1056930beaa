//! Which replica serves which conversation.
//!
//! A binding is made when a conversation's first request is placed, so that requests sent together
//! go together; it is kept when the replica serves, refreshed with each use, dropped when following
//! it failed, and untouched by a client that gives up.

use lru::LruCache;
use rustc_hash::FxBuildHasher;
use types::{quantity::Tokens, replica::ReplicaId, request::SessionKey, time::Timestamp};

use crate::config::SessionConfig;

/// Remembers conversations, the least recently used giving way to new ones.
#[derive(Debug)]
pub struct Sessions {
    config: SessionConfig,
    bindings: LruCache<SessionKey, Binding, FxBuildHasher>,
}

#[derive(Clone, Copy, Debug)]
struct Binding {
    replica: ReplicaId,
    used: Timestamp,
    turn: Turn,
}

/// The last turn of a conversation whose answer came to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Length of its prompt.
    pub prompt: Tokens,
    /// Length of its answer, which the replica holds as well as the prompt.
    pub answer: Tokens,
}

impl Turn {
    /// Tokens of a prompt that are cached where `hits` of it are known to be: the next prompt quotes the
    /// answer, which no router has seen as tokens.
    #[must_use]
    pub fn continued(self, hits: Tokens, block: Tokens, prompt: Tokens) -> Tokens {
        let held = self.prompt + self.answer;
        // The prompt's last block is not full, and so not known.
        let holds_prompt = self.prompt.saturating_sub(block) < hits;
        if !holds_prompt || prompt < held {
            return hits;
        }
        hits.max(held.full_blocks(block).tokens(block))
    }

    /// Tokens of a prompt that goes on from this turn and that its replica, which had them, has no more,
    /// where it has `found` of them.
    #[must_use]
    pub fn lost(self, found: Tokens, block: Tokens, prompt: Tokens) -> Tokens {
        let held = self.prompt + self.answer;
        if prompt < held { Tokens::ZERO } else { held.saturating_sub(found + block) }
    }
}

impl Sessions {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new(config: SessionConfig) -> Self {
        // Unbounded and trimmed by hand: a bounded cache would claim room for all at once.
        Self { config, bindings: LruCache::unbounded_with_hasher(FxBuildHasher) }
    }

    /// The replica that serves `session`, unless that was longer ago than sessions live.
    pub fn replica_of(&mut self, now: Timestamp, session: SessionKey) -> Option<ReplicaId> {
        let Binding { replica, used, .. } = *self.bindings.get(&session)?;
        if self.config.ttl < now.since(used) {
            self.bindings.pop(&session);
            return None;
        }
        Some(replica)
    }

    /// The last turn of `session` on `replica`; nothing where another one serves it.
    #[must_use]
    pub fn last_turn(&self, session: SessionKey, replica: ReplicaId) -> Turn {
        let binding = self.bindings.peek(&session).filter(|it| it.replica == replica);
        binding.map(|it| it.turn).unwrap_or_default()
    }

    /// Learns of an answer that `replica` gave in `session`.
    pub fn answered(&mut self, session: SessionKey, replica: ReplicaId, turn: Turn) {
        if let Some(it) = self.bindings.peek_mut(&session).filter(|it| it.replica == replica) {
            it.turn = turn;
        }
    }

    /// Binds `session` to `replica`, whatever it was bound to before.
    pub fn bind(&mut self, now: Timestamp, session: SessionKey, replica: ReplicaId) {
        let turn = self.last_turn(session, replica);
        self.bindings.put(session, Binding { replica, used: now, turn });
        if self.config.sessions_max.get() < self.bindings.len() {
            self.bindings.pop_lru();
        }
    }

    /// Learns that `replica` serves `session`: keeps the binding, or makes it where there is none.
    /// A request that was served elsewhere because its replica was saturated changes nothing.
    pub fn served(&mut self, now: Timestamp, session: SessionKey, replica: ReplicaId) {
        if self.replica_of(now, session).is_none_or(|it| it == replica) {
            self.bind(now, session, replica);
        }
    }

    /// Learns that `replica` failed `session`, and drops the binding if it led there.
    pub fn failed(&mut self, session: SessionKey, replica: ReplicaId) {
        if self.bindings.peek(&session).is_some_and(|it| it.replica == replica) {
            self.bindings.pop(&session);
        }
    }

    /// Conversations remembered, those past their time included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bindings.len()
    }

    /// Whether no conversation is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroUsize, time::Duration};

    use super::*;

    const A: SessionKey = SessionKey(1);
    const B: SessionKey = SessionKey(2);
    const C: SessionKey = SessionKey(3);
    const ONE: ReplicaId = ReplicaId(1);
    const TWO: ReplicaId = ReplicaId(2);

    fn sessions() -> Sessions {
        let sessions_max = NonZeroUsize::new(2).unwrap();
        Sessions::new(SessionConfig { ttl: Duration::from_secs(10), sessions_max })
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_secs(secs))
    }

    #[test]
    fn a_binding_lives_as_long_as_it_is_used() {
        let mut sessions = sessions();
        sessions.bind(at(0), A, ONE);
        sessions.served(at(8), A, ONE);
        assert_eq!(sessions.replica_of(at(18), A), Some(ONE));
        assert_eq!(sessions.replica_of(at(19), A), None);
        assert!(sessions.is_empty());
    }

    #[test]
    fn the_least_recently_used_gives_way() {
        let mut sessions = sessions();
        sessions.bind(at(0), A, ONE);
        sessions.bind(at(0), B, ONE);
        assert_eq!(sessions.replica_of(at(1), A), Some(ONE));
        sessions.bind(at(1), C, TWO);
        assert_eq!(sessions.len(), 2);
        assert_eq!(sessions.replica_of(at(1), B), None);
    }

    #[test]
    fn a_prompt_that_quotes_the_answer_finds_it_where_the_conversation_was() {
        let mut sessions = sessions();
        sessions.bind(at(0), A, ONE);
        let turn = Turn { prompt: Tokens(100), answer: Tokens(60) };
        sessions.answered(A, ONE, turn);
        sessions.bind(at(1), A, ONE);
        assert_eq!(sessions.last_turn(A, ONE), turn);
        assert_eq!(sessions.last_turn(A, TWO), Turn::default());
        let block = Tokens(16);
        assert_eq!(turn.continued(Tokens(96), block, Tokens(200)), Tokens(160));
        // The replica lost the prompt, or the prompt is another one.
        assert_eq!(turn.continued(Tokens(80), block, Tokens(200)), Tokens(80));
        assert_eq!(turn.continued(Tokens(96), block, Tokens(150)), Tokens(96));
        assert_eq!(turn.lost(Tokens(96), block, Tokens(200)), Tokens(48));
        assert_eq!(turn.lost(Tokens(144), block, Tokens(200)), Tokens::ZERO);
        assert_eq!(turn.lost(Tokens(0), block, Tokens(150)), Tokens::ZERO);
    }

    #[test]
    fn being_served_elsewhere_once_moves_nothing() {
        let mut sessions = sessions();
        sessions.bind(at(0), A, ONE);
        sessions.served(at(1), A, TWO);
        assert_eq!(sessions.replica_of(at(1), A), Some(ONE));
    }

    #[test]
    fn a_failure_drops_only_the_binding_that_led_to_it() {
        let mut sessions = sessions();
        sessions.bind(at(0), A, ONE);
        sessions.failed(A, TWO);
        assert_eq!(sessions.replica_of(at(0), A), Some(ONE));
        sessions.failed(A, ONE);
        assert_eq!(sessions.replica_of(at(0), A), None);
    }
}
