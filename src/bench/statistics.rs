//! Medians with intervals: a machine that does other things makes means and standard deviations say little.
//!
//! Times have a floor and a long tail, so a mean follows the tail, and an interval of two standard deviations reaches below
//! what is possible. The interval of a median follows from ranks alone, whatever the distribution; it needs six samples for
//! 95 %, and the harness takes seven at least. Ratios are taken pair by pair, of samples that took turns, so that what
//! happened to both drops out before the median is taken.

use serde::{Deserialize, Serialize};

/// A median and its 95 % interval, from the order of the samples alone, whatever their distribution.
///
/// ```
/// use gristmill::bench::Estimate;
///
/// let seconds = Estimate::of(&[0.3, 0.1, 0.2, 0.9, 0.25, 0.2, 0.22]).expect("samples");
/// assert_eq!((seconds.median, seconds.low, seconds.high), (0.22, 0.1, 0.9)); // seven samples: all of their range
/// let per_second = seconds.rate(11.0);
/// assert!((per_second.median - 50.0).abs() < 1e-9 && per_second.low < per_second.high);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Estimate {
    /// Of at least one sample; below six samples the interval is from the least to the largest, and less sure than 95 %.
    pub fn of(samples: &[f64]) -> Option<Estimate> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let at = |i: usize| sorted.get(i).copied();
        let cut = ranks_cut(n);
        let median = 0.5 * (at(n.checked_sub(1)? / 2)? + at(n / 2)?);
        Some(Estimate { median, low: at(cut)?, high: at(n - 1 - cut)? })
    }

    /// The same in another unit: every number through a rising function.
    pub fn map(self, f: impl Fn(f64) -> f64) -> Estimate {
        Estimate { median: f(self.median), low: f(self.low), high: f(self.high) }
    }

    /// Work per time: `work` over every number, the ends exchanged.
    pub fn rate(self, work: f64) -> Estimate {
        Estimate { median: work / self.median, low: work / self.high, high: work / self.low }
    }

    /// Half the interval, of the median.
    pub fn spread(self) -> f64 {
        (self.high - self.low) / (2.0 * self.median)
    }
}

/// How many samples lie beyond each end of the interval of a median: the most for which the median of the distribution is
/// outside with a chance of at most 2.5 % a side. Hahn and Meeker, Statistical Intervals, 5.2.
fn ranks_cut(n: usize) -> usize {
    // Of n samples k lie below the median with a chance of C(n, k) / 2^n.
    let mut chance = 0.5f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let (mut below, mut cut) = (chance, 0);
    while below <= 0.025 && 2 * (cut + 1) < n {
        cut += 1;
        chance *= (n - cut + 1) as f64 / cut as f64;
        below += chance;
    }
    cut.saturating_sub(1)
}

/// How many times as long `a` takes as `b`, for samples that were taken in turns: of each pair.
pub fn ratios(a: &[f64], b: &[f64]) -> Option<Estimate> {
    Estimate::of(&a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<f64>>())
}

#[cfg(test)]
mod tests {
    use super::{Estimate, ratios};

    fn of(count: usize) -> Estimate {
        Estimate::of(&(1..=count).map(|i| i as f64).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn intervals_are_those_of_the_tables() {
        // Order statistics of the 95 % interval of a median, as tabulated: n -> (lower, upper).
        for (n, low, high) in
            [(6, 1, 6), (7, 1, 7), (8, 1, 8), (9, 2, 8), (11, 2, 10), (15, 4, 12), (20, 6, 15), (30, 10, 21)]
        {
            let Estimate { low: l, high: h, .. } = of(n);
            assert_eq!((l, h), (f64::from(low), f64::from(high)), "{n} samples");
        }
        assert_eq!(of(1), Estimate { median: 1.0, low: 1.0, high: 1.0 });
        assert_eq!(of(4).median, 2.5);
        assert!(Estimate::of(&[]).is_none());
    }

    #[test]
    fn the_interval_covers_the_median_as_often_as_it_says() {
        // A skewed distribution whose median is ln 2.
        let mut state = 1u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            -(((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64).ln()
        };
        for n in [7, 11, 25] {
            let covers = |_: &i32| {
                let estimate = Estimate::of(&(0..n).map(|_| draw()).collect::<Vec<_>>()).unwrap();
                (estimate.low..=estimate.high).contains(&std::f64::consts::LN_2)
            };
            let covered = (0..4000).filter(covers).count();
            assert!((3780..=4000).contains(&covered), "{n} samples: {covered} of 4000");
        }
    }

    #[test]
    fn pairs_cancel_what_happens_to_both() {
        let b: Vec<f64> = (0..9).map(|i| 1.0 + f64::from(i % 3)).collect();
        let a: Vec<f64> = b.iter().map(|b| 1.5 * b).collect();
        assert_eq!(ratios(&a, &b), Some(Estimate { median: 1.5, low: 1.5, high: 1.5 }));
        assert_eq!(of(9).rate(30.0), Estimate { median: 6.0, low: 30.0 / 8.0, high: 15.0 });
    }
}
