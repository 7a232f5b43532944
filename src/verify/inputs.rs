//! Inputs from a seed: the same on every machine, for one case alone or for all of them.
//!
//! A stream of its own for each name, so that a case that is added or run alone changes no other's numbers, and no crate
//! whose next version draws others. Integers make results exact in any order of summing, so a missing tile or a shifted
//! index cannot hide in a tolerance; outliers a hundred times as large are what transformers have, and what cancellation
//! shows on.

/// A splitmix64 stream.
pub(crate) struct Inputs(u64);

/// What the numbers are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Integers of -8..=8: every partial sum of fewer than 2^18 products is exact, in any order, so results are equal or
    /// wrong.
    Integers,
    /// U\[-1, 1\].
    Uniform,
    /// U\[-1, 1\], with one column in 64 a hundred times as large, as the residual stream of a transformer has them.
    Outliers,
}

impl Inputs {
    /// A stream of its own for every name.
    pub(crate) fn new(name: &str) -> Inputs {
        // FNV-1a.
        Inputs(
            name.bytes()
                .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)),
        )
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0..bound.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// U\[-1, 1\], in steps of 2^-23.
    pub(crate) fn unit(&mut self) -> f32 {
        ((self.next() >> 40) as f32) / (1 << 23) as f32 - 1.0
    }

    /// A matrix of `count` elements in rows of `columns`.
    pub(crate) fn fill(&mut self, fill: Fill, count: usize, columns: usize) -> Vec<f32> {
        let outlier = |i: usize| (i % columns.max(1)) % 64 == 5;
        (0..count)
            .map(|i| match fill {
                Fill::Integers => self.below(17) as f32 - 8.0,
                Fill::Outliers if outlier(i) => 100.0 * self.unit(),
                Fill::Uniform | Fill::Outliers => self.unit(),
            })
            .collect()
    }

    /// `count` of U\[-1, 1\].
    pub(crate) fn uniform(&mut self, count: usize) -> Vec<f32> {
        self.fill(Fill::Uniform, count, 1)
    }
}
