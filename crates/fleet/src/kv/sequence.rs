//! What the number of a message says: whether messages were missed, and whether the engine restarted.
//!
//! An engine numbers its messages from nought. What arrives live is in order, so a number that goes
//! back means that another process speaks, whose cache is empty. What was missed can be asked for
//! again; until it has come, live messages may come that it will hold as well.

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the next one.
    Next,
    /// It came before.
    Known,
    /// Those from this number on were missed.
    Missed(u64),
    /// The engine restarted: what is known of it is void. The message is then to be judged again.
    Restarted,
}

/// How far one stream of messages is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sequence {
    /// The number of the message that is to be applied next.
    next: u64,
    /// The least number that may come live.
    live: u64,
}

impl Sequence {
    /// The number of the message that is to be applied next.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Judges a message that came live.
    pub(super) fn live(&mut self, number: u64) -> Verdict {
        if number < self.live {
            *self = Self::default();
            return Verdict::Restarted;
        }
        self.live = number.saturating_add(1);
        self.judge(number)
    }

    /// Judges a message that was asked for.
    pub(super) fn replayed(&mut self, number: u64) -> Verdict {
        self.judge(number)
    }

    /// Goes on with `number`, whatever was missed before.
    pub(super) fn skip_to(&mut self, number: u64) {
        self.next = number.saturating_add(1);
    }

    fn judge(&mut self, number: u64) -> Verdict {
        match number.cmp(&self.next) {
            std::cmp::Ordering::Less => Verdict::Known,
            std::cmp::Ordering::Greater => Verdict::Missed(self.next),
            std::cmp::Ordering::Equal => {
                self.next = number.saturating_add(1);
                Verdict::Next
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_seen_and_what_comes_twice_is_known() {
        let mut sequence = Sequence::default();
        assert_eq!(sequence.live(0), Verdict::Next);
        assert_eq!(sequence.live(3), Verdict::Missed(1));
        let replayed: Vec<_> = (0..6).map(|it| sequence.replayed(it)).collect();
        assert_eq!(replayed[0], Verdict::Known);
        assert_eq!(replayed[1..], [Verdict::Next; 5]);
        // The replay went further than the live message that had it asked for.
        assert_eq!([3, 4, 5].map(|it| sequence.replayed(it)), [Verdict::Known; 3]);
        assert_eq!(
            [4, 5, 6].map(|it| sequence.live(it)),
            [Verdict::Known, Verdict::Known, Verdict::Next]
        );
    }

    #[test]
    fn a_number_that_goes_back_is_a_restart() {
        let mut sequence = Sequence::default();
        (0..100).for_each(|it| assert_eq!(sequence.live(it), Verdict::Next));
        assert_eq!(sequence.live(7), Verdict::Restarted);
        assert_eq!(sequence.live(7), Verdict::Missed(0));
        assert_eq!(sequence.replayed(0), Verdict::Next);
    }

    #[test]
    fn what_cannot_be_had_is_skipped() {
        let mut sequence = Sequence::default();
        assert_eq!(sequence.live(50), Verdict::Missed(0));
        sequence.skip_to(50);
        assert_eq!(sequence.live(51), Verdict::Next);
    }
}
