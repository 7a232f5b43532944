//! The same elements, lying otherwise, on the host.

use rayon::prelude::*;

use super::{MIN_LEN, lock};
use crate::error::Result;
use crate::tensor::Tensor;

pub(crate) fn transpose(x: &Tensor, (m, n): (usize, usize), out: &Tensor) -> Result<()> {
    /// Rows and columns of a tile, whose lines stay in the first cache.
    const TILE: usize = 32;
    let mut locked = lock("transpose", [("x", x)], ("out", out))?;
    let ([x], out) = locked.parts();
    if m == 0 || n == 0 {
        return Ok(());
    }
    let batches = out.par_chunks_exact_mut(n * m).zip(x.par_chunks_exact(m * n));
    batches.with_min_len((MIN_LEN / (m * n)).max(1)).for_each(|(out, x)| {
        // A band is TILE rows of out, columns j of x.
        let bands = out.par_chunks_mut(TILE * m).enumerate().with_min_len((MIN_LEN / (TILE * m)).max(1));
        bands.for_each(|(band, out)| {
            for first in (0..m).step_by(TILE) {
                for (j, row) in out.chunks_exact_mut(m).enumerate() {
                    let column = x.iter().skip(first * n + band * TILE + j).step_by(n);
                    row.iter_mut().skip(first).take(TILE).zip(column).for_each(|(to, from)| *to = *from);
                }
            }
        });
    });
    Ok(())
}
