//! How often requests of a size, or greater ones, are let in.
//!
//! Where more comes than can be served, room never opens for good: it opens now and then, the more rarely the more
//! a request asks for, and is taken at once. When it was the turn of others like it of late says best when it
//! will be the turn of one that is turned away.

use std::time::Duration;

use types::time::Timestamp;

use crate::estimate::decay::Decayed;

/// Over how long turns are counted.
const TIME: Duration = Duration::from_secs(6);

/// Size classes: each is a quarter more than the one before, from a five-hundredth of a second of GPU time on.
const CLASSES: usize = 32;
const SMALLEST_S: f64 = 0.002;
const STEP: f64 = 1.25;

/// Requests that must have been let in of late for that to tell anything.
const TELLING: f64 = 2.0;

/// Requests that were let in, by size.
#[derive(Debug)]
pub(crate) struct Turns {
    classes: [Decayed; CLASSES],
}

impl Default for Turns {
    fn default() -> Self {
        Self { classes: [Decayed::new(TIME); CLASSES] }
    }
}

impl Turns {
    /// Counts a request of `work_s` that was let in.
    pub(crate) fn let_in(&mut self, now: Timestamp, work_s: f64) {
        if let Some(class) = self.classes.get_mut(class_of(work_s)) {
            class.add(now, 1.0);
        }
    }

    /// Mean time until a request of no less than `work_s` is let in, seconds; nothing where hardly any was of
    /// late.
    pub(crate) fn next_s(&self, now: Timestamp, work_s: f64) -> Option<f64> {
        let mut of_class = self.classes.iter().skip(class_of(work_s)).map(|it| it.rate(now));
        // Half of its own class are greater.
        let rate = of_class.next().unwrap_or(0.0) / 2.0 + of_class.sum::<f64>();
        (TELLING < rate * TIME.as_secs_f64()).then(|| 1.0 / rate)
    }
}

fn class_of(work_s: f64) -> usize {
    let mut bound = SMALLEST_S;
    for class in 0..CLASSES {
        if work_s < bound {
            return class;
        }
        bound *= STEP;
    }
    CLASSES - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greater_a_request_the_longer_until_it_is_the_turn_of_one_like_it() {
        let at = |ms| Timestamp::from_elapsed(Duration::from_millis(ms));
        let mut turns = Turns::default();
        assert_eq!(turns.next_s(at(0), 0.02), None);
        for step in 0..10_000 {
            turns.let_in(at(step * 10), 0.02);
            if step % 10 == 0 {
                turns.let_in(at(step * 10), 1.0);
            }
        }
        let next_s = |work_s| turns.next_s(at(100_000), work_s).unwrap();
        // Of a hundred a second half are taken to be no less, and ten are greater by far.
        assert!((next_s(0.02) - 1.0 / 60.0).abs() < 0.003, "{}", next_s(0.02));
        assert!((next_s(0.5) - 0.1).abs() < 0.015, "{}", next_s(0.5));
        assert_eq!(turns.next_s(at(100_000), 5.0), None);
    }
}
