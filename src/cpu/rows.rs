//! The rows of a batch, on the host.

use rayon::prelude::*;

use super::{MIN_LEN, floats, floats_mut, lock, read, weight_row, write};
use crate::error::Result;
use crate::reference::{self, Row};
use crate::tensor::{Tensor, Weight};

pub(crate) fn embed(rows: &Tensor, w: &Weight, positions: &Tensor, out: &Tensor) -> Result<()> {
    let Some(w) = w.chunks.first().map(|chunk| &chunk.tensor) else { return Ok(()) };
    let (dtype, n) = (w.dtype(), out.columns());
    let mut locked = lock("embed", [("rows", rows), ("w", w), ("positions", positions)], ("out", out))?;
    let ([rows, w, positions], out) = locked.parts();
    if n == 0 {
        return Ok(());
    }
    let (rows, positions) = (bytemuck::cast_slice::<u32, Row>(rows), floats(positions));
    let batch = floats_mut(out).par_chunks_exact_mut(n).zip(rows).with_min_len((MIN_LEN / n).max(1));
    batch.for_each(|(out, row)| {
        weight_row(w, dtype, n, row.token as usize, out);
        let position = positions.chunks_exact(n).nth(row.position as usize).unwrap_or_default();
        out.iter_mut().zip(position).for_each(|(out, p)| *out += p);
    });
    Ok(())
}

pub(crate) fn argmax(x: &Tensor, out: &Tensor) -> Result<()> {
    let result = reference::argmax(read(x, "argmax")?.as_slice(), x.columns());
    write(out, "argmax", result.into_iter().flatten())
}

pub(crate) fn advance(picked: &Tensor, rows: &Tensor) -> Result<()> {
    let op = "advance";
    let mut next: Vec<Row> = read(rows, op)?.as_slice().to_vec();
    reference::advance(read(picked, op)?.as_slice(), &mut next);
    write(rows, op, bytemuck::cast_slice(&next).iter().copied())
}
