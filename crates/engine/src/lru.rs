//! The order in which free blocks are reused: a list of block numbers, oldest first.

/// A doubly linked list over the numbers `0..capacity`, each in it at most once.
///
/// Links live in one array, so that taking a block out of the middle costs as little as adding one.
/// The entry at `capacity` closes the ring: its `next` is the oldest, its `previous` the newest.
#[derive(Debug)]
pub(crate) struct Lru {
    links: Vec<Link>,
    ring: u32,
    len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
}

impl Lru {
    /// Makes a list of all of `0..capacity`, zero the oldest.
    pub(crate) fn full(capacity: u32) -> Self {
        let mut list = Self { links: Vec::new(), ring: capacity, len: 0 };
        list.links = (0..=capacity).map(|it| Link { previous: it, next: it }).collect();
        for number in 0..capacity {
            list.push_newest(number);
        }
        list
    }

    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    fn link(&self, number: u32) -> Link {
        self.links.get(number as usize).copied().unwrap_or(Link { previous: number, next: number })
    }

    fn join(&mut self, left: u32, right: u32) {
        if let Some(link) = self.links.get_mut(left as usize) {
            link.next = right;
        }
        if let Some(link) = self.links.get_mut(right as usize) {
            link.previous = left;
        }
    }

    /// Adds `number`, which must not be in the list.
    pub(crate) fn push_newest(&mut self, number: u32) {
        let newest = self.link(self.ring).previous;
        self.join(newest, number);
        self.join(number, self.ring);
        self.len = self.len.saturating_add(1);
    }

    /// Adds `number`, which must not be in the list, as the next to be taken out.
    pub(crate) fn push_oldest(&mut self, number: u32) {
        let oldest = self.link(self.ring).next;
        self.join(number, oldest);
        self.join(self.ring, number);
        self.len = self.len.saturating_add(1);
    }

    /// Takes out `number`, which must be in the list.
    pub(crate) fn remove(&mut self, number: u32) {
        let Link { previous, next } = self.link(number);
        self.join(previous, next);
        self.len = self.len.saturating_sub(1);
    }

    /// Takes out the oldest.
    pub(crate) fn pop_oldest(&mut self) -> Option<u32> {
        let oldest = self.link(self.ring).next;
        if oldest == self.ring {
            return None;
        }
        self.remove(oldest);
        Some(oldest)
    }

    /// Visits every number, oldest first.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let step = |number: u32| Some(self.link(number).next).filter(|next| *next != self.ring);
        std::iter::successors(step(self.ring), move |number| step(*number))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The list orders as a plain queue would.
        #[test]
        fn the_ring_behaves_as_a_queue(moves in prop::collection::vec((0..3_u8, 0..8_u32), 0..60)) {
            let mut list = Lru::full(8);
            let mut queue: VecDeque<u32> = (0..8).collect();
            for (kind, number) in moves {
                if kind == 0 {
                    prop_assert_eq!(list.pop_oldest(), queue.pop_front());
                } else if let Some(at) = queue.iter().position(|it| *it == number) {
                    queue.remove(at);
                    list.remove(number);
                } else if kind == 1 {
                    queue.push_back(number);
                    list.push_newest(number);
                } else {
                    queue.push_front(number);
                    list.push_oldest(number);
                }
                prop_assert_eq!(list.len() as usize, queue.len());
                prop_assert_eq!(list.iter().collect::<VecDeque<u32>>(), queue.clone());
            }
        }
    }
}
