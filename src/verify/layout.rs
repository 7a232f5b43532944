//! Cases of transpose.
//!
//! Nothing is computed, so results are equal bit by bit, and the words are any bits at all: a kernel that moves floats
//! through arithmetic may flush a subnormal or quieten a NaN, and numbers from -1 to 1 would not show it.

use super::inputs::Inputs;
use super::runner::{Bench, Stop, compare_words};
use crate::tensor::DType;
use crate::{ops, reference};

/// Any bits at all, subnormals and NaN among them: nothing may look at what it moves.
pub(crate) fn transpose(
    bench: &mut Bench<'_>,
    (batches, m, n): (Option<usize>, usize, usize),
    dtype: DType,
    mut inputs: Inputs,
) -> Result<f64, Stop> {
    let shape = |rows: usize, columns: usize| batches.into_iter().chain([rows, columns]).collect::<Vec<usize>>();
    let count = batches.unwrap_or(1);
    let x: Vec<u32> = (0..count * m * n).map(|_| inputs.below(1 << 32) as u32).collect();
    let x_tensor = bench.either(&mut inputs).in_out(&x, &shape(m, n), dtype)?.tensor;
    let mut out = bench.output(&shape(n, m), dtype)?;
    bench.run(|pass| ops::transpose(pass, &x_tensor, &mut out.tensor))?;
    compare_words("out", &bench.read(&out)?, &reference::transpose(&x, (count, m, n)), m)
}
