//! Is it slower than it was? Beyond what the two measurements differ by chance.
//!
//! Times of two days cannot be compared on a machine that does other things, nor on one whose clock follows its
//! temperature. So each row is measured in turns with a yardstick, the same work always, and what is compared is how many
//! times as long as that it took: whatever slows both drops out. The two intervals say how much of a difference is chance;
//! less than 5 % is never called a change. Where the noise hides a difference that would matter, the answer is "unclear",
//! and the row is to be measured again: neither a pass nor a failure was seen.

use super::record::{Entry, KernelRow, Record};

/// A change that is no change, whatever the intervals say.
const SMALL: f64 = 0.05;

/// How a row compares with the same row of an earlier run.
///
/// ```
/// use gristmill::bench::Change;
///
/// let change = Change { name: "relu m=256,n=3072 f32".to_owned(), ratio: 1.2, noise: 0.06 };
/// assert!(change.is_slower());
/// let noisy = Change { noise: 0.3, ..change };
/// assert!(!noisy.is_slower() && noisy.is_unclear()); // to be measured again
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The row.
    pub name: String,
    /// How many times as long as before, in units of the yardstick; above 1 is slower.
    pub ratio: f64,
    /// What the two intervals leave open: the ratio counts beyond it.
    pub noise: f64,
}

impl Change {
    /// Slower, beyond the noise.
    pub fn is_slower(&self) -> bool {
        self.ratio > 1.0 + self.noise
    }

    /// It looks slower, and the noise is too large to say.
    pub fn is_unclear(&self) -> bool {
        !self.is_slower() && self.ratio > 1.0 + SMALL && self.noise > 2.0 * SMALL
    }

    /// Faster, beyond the noise.
    pub fn is_faster(&self) -> bool {
        self.ratio < 1.0 / (1.0 + self.noise)
    }
}

/// Compares a row with that of the same name, if an earlier run on the same adapter has it.
pub fn compare(now: &KernelRow, before: &[Record], adapter: Option<&str>) -> Option<Change> {
    let known = before.iter().filter(|record| record.environment.adapter.as_ref().map(|a| a.name.as_str()) == adapter);
    let row = known.filter_map(|record| match &record.entry {
        Entry::Kernel(row) if row.name == now.name => Some(row),
        _ => None,
    });
    // The last one counts, where a file has several.
    let before = row.reduce(|_, later| later)?;
    let ratio = now.relative.median / before.relative.median;
    // Both medians may lie at the wrong end of their intervals.
    let noise = now.relative.spread() + before.relative.spread();
    Some(Change { name: now.name.clone(), ratio, noise: noise.max(SMALL) })
}
