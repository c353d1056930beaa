//! Sums over a changing array: Fenwick's tree (Software: Practice and Experience 24, 1994).

/// Numbers at places `0..len`, each change and each prefix sum in O(log len).
#[derive(Debug)]
pub(crate) struct Fenwick {
    /// `sums[i − 1]` holds the sum of the last `i & −i` places up to `i − 1`.
    sums: Vec<u64>,
}

impl Fenwick {
    /// `len` zeros.
    pub(crate) fn new(len: usize) -> Self {
        Self { sums: vec![0; len] }
    }

    pub(crate) const fn len(&self) -> usize {
        self.sums.len()
    }

    /// Adds `value` at `place`.
    pub(crate) fn add(&mut self, place: usize, value: u64) {
        self.change(place, |sum| *sum = sum.saturating_add(value));
    }

    /// Takes away at `place` what was added there before.
    pub(crate) fn subtract(&mut self, place: usize, value: u64) {
        self.change(place, |sum| *sum = sum.saturating_sub(value));
    }

    fn change(&mut self, place: usize, change: impl Fn(&mut u64)) {
        let mut at = place;
        while let Some(sum) = self.sums.get_mut(at) {
            change(sum);
            // Sets the lowest zero bits and the one above: the next tree that covers the place.
            at |= at.saturating_add(1);
        }
    }

    /// The sum of the places before `place`.
    pub(crate) fn sum_before(&self, place: usize) -> u64 {
        let (mut rest, mut sum) = (place.min(self.len()), 0_u64);
        while let Some(at) = rest.checked_sub(1) {
            sum = sum.saturating_add(self.sums.get(at).copied().unwrap_or(0));
            rest &= at;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Sums are those of a plain array.
        #[test]
        fn sums_are_those_of_an_array(changes in prop::collection::vec((0..20_usize, 0..9_u64), 0..50)) {
            let (mut tree, mut plain) = (Fenwick::new(20), [0_u64; 20]);
            for (place, value) in changes {
                tree.subtract(place, plain[place]);
                tree.add(place, value);
                plain[place] = value;
                for end in 0..=20 {
                    prop_assert_eq!(tree.sum_before(end), plain[..end].iter().sum::<u64>());
                }
            }
        }
    }
}
