//! Joining neighbours: what byte-level BPE and SentencePiece's BPE have in common.
//!
//! Both begin with the smallest symbols of a text and join two neighbours again and again, always the pair of the lowest
//! rank, the leftmost of several; they differ in what has a rank. A queue of candidates and a list of what is left of the
//! symbols make that O(n log n), where searching the text for the best pair each time would be O(n²).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No symbol, or no id.
pub(super) const NONE: u32 = u32::MAX;

/// A stretch of the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    /// Its first byte.
    pub(super) begin: u32,
    /// The byte behind it. A symbol that was joined to its left neighbour is empty.
    pub(super) end: u32,
    /// Its id; [`NONE`] if the vocabulary does not have it.
    pub(super) id: u32,
    before: u32,
    after: u32,
}

/// Symbols of one text, and a queue, kept from text to text for their memory.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    /// (rank, place of the left symbol, end of the right one, id of both together), the lowest first.
    queue: BinaryHeap<Reverse<(u32, u32, u32, u32)>>,
}

impl Merger {
    /// Begins a text.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
    }

    /// The next symbol of the text, of so many bytes.
    pub(super) fn push(&mut self, bytes: u32, id: u32) {
        let place = self.symbols.len() as u32;
        let begin = self.symbols.last().map_or(0, |last| last.end);
        let before = place.checked_sub(1).unwrap_or(NONE);
        if let Some(last) = self.symbols.last_mut() {
            last.after = place;
        }
        self.symbols.push(Symbol { begin, end: begin + bytes, id, before, after: NONE });
    }

    /// Joins until no pair has a rank. `joined` is the rank and the id of two neighbours together.
    pub(super) fn merge(&mut self, joined: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        let offer = |symbols: &[Symbol], left: u32| {
            let first = symbols.get(left as usize)?;
            let second = symbols.get(first.after as usize)?;
            joined(first, second).map(|(rank, id)| Reverse((rank, left, second.end, id)))
        };
        self.queue.clear();
        self.queue.extend((0..self.symbols.len() as u32).filter_map(|left| offer(&self.symbols, left)));
        while let Some(Reverse((_, left, end, id))) = self.queue.pop() {
            if let Some(before) = join(&mut self.symbols, left, end, id) {
                self.queue.extend(offer(&self.symbols, before));
                self.queue.extend(offer(&self.symbols, left));
            }
        }
    }

    /// What is left, in the order of the text.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|symbol| symbol.begin < symbol.end)
    }
}

/// Joins the symbol at `left` to its right neighbour, if the pair that was queued is still there: symbols only grow, so it
/// is if both are left and the second ends where it did. Returns the place before the pair, [`NONE`] at the beginning.
fn join(symbols: &mut [Symbol], left: u32, end: u32, id: u32) -> Option<u32> {
    let first = *symbols.get(left as usize)?;
    let second = *symbols.get(first.after as usize)?;
    if first.begin == first.end || second.end != end {
        return None;
    }
    if let Some(gone) = symbols.get_mut(first.after as usize) {
        gone.end = gone.begin;
    }
    if let Some(next) = symbols.get_mut(second.after as usize) {
        next.before = left;
    }
    if let Some(both) = symbols.get_mut(left as usize) {
        *both = Symbol { end, id, after: second.after, ..first };
    }
    Some(first.before)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Rank and id of two ids together, some with none and many with the same rank.
    fn joined(left: u32, right: u32) -> Option<(u32, u32)> {
        let mixed = left.wrapping_mul(0x9e37_79b1) ^ right.wrapping_mul(0x85eb_ca77);
        let mixed = mixed ^ (mixed >> 15);
        (!mixed.is_multiple_of(3)).then_some((mixed % 7, mixed % 1000))
    }

    /// The definition: the lowest rank, the leftmost of several, until there is none.
    fn by_searching(mut ids: Vec<u32>) -> Vec<u32> {
        loop {
            let pairs = ids.windows(2).enumerate();
            let best = pairs.filter_map(|(at, pair)| joined(pair[0], pair[1]).map(|(rank, id)| (rank, at, id))).min();
            let Some((_, at, id)) = best else { return ids };
            ids.splice(at..at + 2, [id]);
        }
    }

    fn by_queue(ids: &[u32], joined: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) -> Vec<u32> {
        let mut merger = Merger::default();
        // What another text left behind does not count.
        merger.push(1, 7);
        merger.clear();
        ids.iter().for_each(|&id| merger.push(1, id));
        merger.merge(joined);
        merger.symbols().map(|symbol| symbol.id).collect()
    }

    #[test]
    fn the_queue_finds_what_searching_finds() {
        let mut random = 1_u32;
        for length in (0..60).chain(60..64) {
            for _ in 0..20 {
                let mut next = || {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    random >> 29
                };
                let ids: Vec<u32> = (0..length).map(|_| next()).collect();
                let found = by_queue(&ids, |left, right| joined(left.id, right.id));
                assert_eq!(found, by_searching(ids.clone()), "{ids:?}");
            }
        }
    }

    /// Each pair is offered once: at the beginning, and two for each join.
    #[test]
    fn the_work_grows_with_the_text() {
        for length in [10, 100, 1000, 10_000] {
            let asked = Cell::new(0);
            let found = by_queue(&vec![1; length], |left, right| {
                asked.set(asked.get() + 1);
                Some((left.id.max(right.id), left.id.max(right.id) + 1))
            });
            assert_eq!(found.len(), 1);
            assert!(asked.get() <= 3 * length, "{} pairs for {length} symbols", asked.get());
        }
    }
}
