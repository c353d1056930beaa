//! Steps that differ in nothing but the length of each sequence, planned and ended together.
//!
//! While everybody decodes and nobody can come or go, each step takes the room that the growing
//! sequences need and brings each of them one token. What such steps do is known beforehand, so a
//! driver can let many of them pass at once; blocks are still taken and named in the order in which
//! the single steps would have.

use types::block::BlockHash;

use crate::{batch::Batch, job::Answer, sequence::Sequence};

/// What a sequence needs of the cache in one of the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    /// The step, counted from one.
    step: u32,
    /// The sequence, in the order of admission.
    place: u32,
    /// Whether it is a name for a block that is full now; else an empty block.
    name: bool,
}

impl Batch {
    /// How many steps like the one just scheduled can follow it, at most `most`: everybody decodes,
    /// nobody has the last token before the last of them, nobody waiting can be admitted, and the
    /// free blocks suffice.
    pub(crate) fn repeats(&self, most: u32) -> u32 {
        if !self.steady {
            return 0;
        }
        let remaining = self.running.iter().map(Sequence::remaining).min().unwrap_or(0);
        let mut steps = remaining.saturating_sub(1).min(most);
        if self.growth(steps) > u64::from(self.kv.free()) {
            let (mut fits, mut too_many) = (0, steps);
            while too_many.saturating_sub(fits) > 1 {
                let middle = fits.midpoint(too_many);
                let enough = self.growth(middle) <= u64::from(self.kv.free());
                *(if enough { &mut fits } else { &mut too_many }) = middle;
            }
            steps = fits;
        }
        match self.awaited() {
            Some(name) => self.until_named(name, steps),
            None => steps,
        }
    }

    /// Blocks that `steps` steps after the one just scheduled take.
    pub(crate) fn growth(&self, steps: u32) -> u64 {
        let grow = |sequence: &Sequence| {
            let now = sequence.computed.saturating_add(1);
            let then = now.saturating_add(steps);
            u64::from(then.div_ceil(self.block).saturating_sub(now.div_ceil(self.block)))
        };
        self.running.iter().map(grow).sum()
    }

    /// The first of `steps` steps that gives a block the name that the head of the queue waits for
    /// is no repetition: it may admit the head.
    fn until_named(&self, name: BlockHash, steps: u32) -> u32 {
        let known = |it: &&Sequence| matches!(it.job.answer, Answer::Known(_));
        let named = self.running.iter().filter(known).filter_map(|sequence| {
            let now = sequence.computed.saturating_add(1);
            let first = self.block.saturating_sub(now.checked_rem(self.block).unwrap_or(0));
            (first..=steps).step_by(self.block as usize).find(|step| {
                let full = now.saturating_add(*step).checked_div(self.block).unwrap_or(0);
                sequence.job.name_of(full.saturating_sub(1) as usize) == name
            })
        });
        named.min().map_or(steps, |step| step.saturating_sub(1).min(steps))
    }

    /// Ends the step that was scheduled and `steps - 1` (at least one) like it, and schedules one
    /// more; returns the tokens that they brought.
    pub(crate) fn repeat(&mut self, steps: u32) -> u64 {
        self.running.iter_mut().for_each(|sequence| sequence.decode(1));
        self.needs.clear();
        for (sequence, place) in self.running.iter().zip(0..) {
            let filled = sequence.computed.checked_rem(self.block).unwrap_or(0);
            let full = self.block.saturating_sub(filled);
            let empty = if filled == 0 { 1 } else { full.saturating_add(1) };
            for (first, name) in [(empty, false), (full, true)] {
                let due = (first..=steps).step_by(self.block as usize);
                self.needs.extend(due.map(|step| Need { step, place, name }));
            }
        }
        self.needs.sort_unstable();
        for need in &self.needs {
            let Some(sequence) = self.running.get_mut(need.place as usize) else { continue };
            if need.name {
                sequence.name_next(&mut self.kv);
            } else {
                let has_room = self.kv.take(&mut sequence.table, 1);
                debug_assert!(has_room, "a repeated step lacks room");
            }
        }
        for sequence in &mut self.running {
            sequence.decode(steps.saturating_sub(1));
            sequence.scheduled = 1;
        }
        u64::from(steps).saturating_mul(self.running.len() as u64)
    }
}

#[cfg(test)]
mod tests;
