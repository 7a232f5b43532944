//! In which order combinations are tried: all of few, of many the neighbours of the best.

/// Legal combinations that are all tried; of more, the neighbours of the best.
pub(super) const ALL: usize = 128;

/// The combinations that are left.
pub(super) struct Search {
    pending: Vec<Vec<u32>>,
    all: bool,
}

impl Search {
    /// Of all legal combinations, the one to begin with first.
    pub(super) fn new(legal: Vec<Vec<u32>>) -> Search {
        let all = legal.len() <= ALL;
        Search { pending: legal, all }
    }

    /// In words.
    pub(super) fn text(&self) -> String {
        let total = self.pending.len();
        match self.all {
            true => format!("all of {total} legal combinations"),
            false => format!("of {total} legal combinations the neighbours of the best, one knob at a time"),
        }
    }

    /// The next one to try, after `best` was the best: its neighbours come first; where not all are tried, nothing else comes.
    pub(super) fn next(&mut self, best: &[u32]) -> Option<Vec<u32>> {
        let differs = |values: &Vec<u32>| values.iter().zip(best).filter(|(a, b)| a != b).count();
        let near = self.pending.iter().position(|values| differs(values) <= 1);
        let place = near.or_else(|| (self.all && !self.pending.is_empty()).then_some(0))?;
        Some(self.pending.remove(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination of three knobs of `values` values each.
    fn combinations(values: u32) -> Vec<Vec<u32>> {
        (0..values.pow(3)).map(|i| vec![i / (values * values), i / values % values, i % values]).collect()
    }

    /// Tries what the search says, where `cost` is the time: what was tried, and the best of it.
    fn walk(legal: Vec<Vec<u32>>, cost: impl Fn(&[u32]) -> f64) -> (Vec<Vec<u32>>, Vec<u32>) {
        let (mut best, mut search, mut tried) = (legal[0].clone(), Search::new(legal), Vec::new());
        while let Some(values) = search.next(&best) {
            if cost(&values) < cost(&best) {
                best = values.clone();
            }
            tried.push(values);
        }
        (tried, best)
    }

    #[test]
    fn a_planted_best_among_many_is_found_without_trying_all() {
        let legal = combinations(8);
        for planted in [[7, 7, 7], [3, 6, 1], [0, 0, 5], [0, 0, 0]] {
            // Each knob has its own best value, and the knobs do not forgive each other: the sum of distances.
            let cost =
                |values: &[u32]| -> f64 { values.iter().zip(planted).map(|(&v, p)| f64::from(v.abs_diff(p))).sum() };
            let (tried, best) = walk(legal.clone(), cost);
            assert_eq!(best, planted);
            assert!(tried.len() < legal.len() / 2, "{} of {} tried", tried.len(), legal.len());
            let once: std::collections::BTreeSet<_> = tried.iter().collect();
            assert_eq!(once.len(), tried.len(), "a combination was tried twice");
        }
    }

    #[test]
    fn few_are_all_tried_where_no_neighbour_leads_to_the_best() {
        // The best is two knobs away from everything that is not slow.
        let (tried, best) = walk(combinations(5), |values| if values == [4, 4, 4] { 0.0 } else { 1.0 });
        assert_eq!((tried.len(), best), (125, vec![4, 4, 4]));
    }
}
