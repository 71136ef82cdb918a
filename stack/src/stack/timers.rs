//! When which connection wants to be called: a binary heap in which each has at most one place, and knows it.
//!
//! The deadlines of a busy connection change with every segment. Here that costs a few comparisons and no memory.

use crate::time::Instant;

/// A connection's number and when it wants to be called.
type Due = (Instant, u32);

/// The deadlines of all connections, earliest first; the lower number breaks ties.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: Vec<Due>,
    /// Where in the heap a connection stands, by its number; [`NOWHERE`] for none.
    places: Vec<usize>,
}

const NOWHERE: usize = usize::MAX;

impl Timers {
    /// The earliest deadline and whose it is.
    pub(super) fn first(&self) -> Option<Due> {
        self.heap.first().copied()
    }

    /// Connection `index` wants to be called at `at`, and at no other time.
    #[inline]
    pub(super) fn set(&mut self, index: u32, at: Option<Instant>) {
        // The only one there is has its place already.
        match (self.heap.as_mut_slice(), at) {
            ([due], Some(at)) if due.1 == index => due.0 = at,
            ([due], None) if due.1 == index => {
                self.heap.clear();
                self.note(index, NOWHERE);
            }
            ([], Some(at)) if (index as usize) < self.places.len() => {
                self.heap.push((at, index));
                self.note(index, 0);
            }
            ([], None) => {}
            _ => self.set_among_others(index, at),
        }
    }

    fn set_among_others(&mut self, index: u32, at: Option<Instant>) {
        let place = self.places.get(index as usize).copied().unwrap_or(NOWHERE);
        match (at, place) {
            (None, NOWHERE) => {}
            (None, place) => self.remove(index, place),
            (Some(at), NOWHERE) => {
                if self.places.len() <= index as usize {
                    self.places.resize(index as usize + 1, NOWHERE);
                }
                self.heap.push((at, index));
                self.rise(self.heap.len() - 1);
            }
            (Some(at), place) => {
                if let Some(due) = self.heap.get_mut(place) {
                    due.0 = at;
                }
                self.settle(place);
            }
        }
    }

    fn remove(&mut self, index: u32, place: usize) {
        if place < self.heap.len() {
            self.heap.swap_remove(place);
        }
        self.note(index, NOWHERE);
        if place < self.heap.len() {
            self.settle(place);
        }
    }

    /// Moves what stands at `place` to where it belongs.
    fn settle(&mut self, place: usize) {
        let place = self.rise(place);
        self.sink(place);
    }

    fn rise(&mut self, mut place: usize) -> usize {
        while place > 0 {
            let above = (place - 1) / 2;
            if self.heap.get(above) <= self.heap.get(place) {
                break;
            }
            self.swap(above, place);
            place = above;
        }
        self.note_at(place);
        place
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let Some(&first) = self.heap.get(left) else { break };
            let below = if self.heap.get(right).is_some_and(|other| *other < first) { right } else { left };
            if self.heap.get(place) <= self.heap.get(below) {
                break;
            }
            self.swap(below, place);
            place = below;
        }
        self.note_at(place);
    }

    /// Exchanges two entries: the one that moves on comes to `to`, the other one makes room.
    fn swap(&mut self, to: usize, from: usize) {
        if to < self.heap.len() && from < self.heap.len() {
            self.heap.swap(to, from);
        }
        self.note_at(from);
    }

    fn note_at(&mut self, place: usize) {
        if let Some(&(_, index)) = self.heap.get(place) {
            self.note(index, place);
        }
    }

    fn note(&mut self, index: u32, place: usize) {
        if let Some(noted) = self.places.get_mut(index as usize) {
            *noted = place;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    proptest! {
        /// Whatever is set, moved and withdrawn, the order is that of a sorted set.
        #[test]
        fn the_earliest_is_first(steps in prop::collection::vec((0u32..20, prop::option::of(0u64..30)), 0..200)) {
            let (mut timers, mut of, mut set) = (Timers::default(), BTreeMap::new(), BTreeSet::new());
            for (index, at) in steps {
                let at = at.map(Instant::from_nanos);
                timers.set(index, at);
                if let Some(old) = of.remove(&index) {
                    set.remove(&(old, index));
                }
                if let Some(at) = at {
                    of.insert(index, at);
                    set.insert((at, index));
                }
                prop_assert_eq!(timers.first(), set.first().copied());
                prop_assert_eq!(timers.heap.len(), set.len());
            }
            while let Some((at, index)) = timers.first() {
                prop_assert_eq!(set.pop_first(), Some((at, index)));
                timers.set(index, None);
            }
            prop_assert!(set.is_empty());
        }
    }
}
