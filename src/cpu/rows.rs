//! The rows of a batch, on the host.

use super::{read, write, write_f64};
use crate::error::Result;
use crate::reference::{self, Row};
use crate::tensor::{Tensor, Weight};

pub(crate) fn embed(rows: &Tensor, w: &Weight, positions: &Tensor, out: &Tensor) -> Result<()> {
    let op = "embed";
    let Some(chunk) = w.chunks.first() else { return Ok(()) };
    let result = {
        let (rows, w, positions) = (read(rows, op)?, read(&chunk.tensor, op)?, read(positions, op)?);
        reference::embed(rows.as_slice(), w.as_slice(), positions.as_slice(), out.columns())
    };
    write_f64(out, op, result)
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
