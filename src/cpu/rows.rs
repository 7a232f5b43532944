//! The rows of a batch, on the host.

use rayon::prelude::*;

use super::norms::rms_scale;
use super::{MIN_LEN, floats, floats_mut, lock, weight_row};
use crate::error::Result;
use crate::reference::{Pairing, Rope, Row};
use crate::tensor::{Chunk, Tensor, Weight};

pub(crate) fn embed(rows: &Tensor, w: &Weight, positions: Option<&Tensor>, out: &Tensor) -> Result<()> {
    let n = out.columns();
    for Chunk { first_row, format, tensor } in &w.chunks {
        let some = positions.unwrap_or(tensor);
        let mut locked = lock("embed", [("rows", rows), ("w", tensor), ("positions", some)], ("out", out))?;
        let ([rows, w, some], out) = locked.parts();
        if n == 0 {
            return Ok(());
        }
        let rows = bytemuck::cast_slice::<u32, Row>(rows);
        let positions = if positions.is_some() { floats(some) } else { &[] };
        let batch = floats_mut(out).par_chunks_exact_mut(n).zip(rows).with_min_len((MIN_LEN / n).max(1));
        batch.for_each(|(out, row)| {
            let Some(token) = within(row.token, *first_row, tensor) else { return };
            weight_row(w, *format, n, token, out);
            let position = positions.chunks_exact(n).nth(row.position as usize).unwrap_or_default();
            out.iter_mut().zip(position).for_each(|(out, p)| *out += p);
        });
    }
    Ok(())
}

/// Which row of a chunk, that begins at row `first` of its weight, a row of the weight is.
fn within(row: u32, first: usize, chunk: &Tensor) -> Option<usize> {
    (row as usize).checked_sub(first).filter(|&row| row < chunk.rows())
}

pub(crate) fn gather(ids: &Tensor, w: &Weight, out: &Tensor) -> Result<()> {
    let (n, rows) = (out.columns(), w.rows());
    for Chunk { first_row, format, tensor } in &w.chunks {
        let mut locked = lock("gather", [("ids", ids), ("w", tensor)], ("out", out))?;
        let ([ids, w], out) = locked.parts();
        if n == 0 {
            return Ok(());
        }
        let batch = floats_mut(out).par_chunks_exact_mut(n).zip(ids).with_min_len((MIN_LEN / n).max(1));
        batch.for_each(|(out, id)| match within(*id, *first_row, tensor) {
            Some(row) => weight_row(w, *format, n, row, out),
            None if *id as usize >= rows => out.fill(0.0),
            // Another chunk has it.
            None => (),
        });
    }
    Ok(())
}

pub(crate) fn rope(rows: &Tensor, table: &Tensor, x: &Tensor, shape: &Rope) -> Result<()> {
    let columns = x.columns();
    let mut locked = lock("rope", [("rows", rows), ("table", table)], ("x", x))?;
    let ([rows, table], x) = locked.parts();
    if shape.rotary_dim > 0 {
        for_heads(rows, floats_mut(x), columns, shape, |position, _, head| {
            rotate(head, floats(table), position, shape);
        });
    }
    Ok(())
}

pub(crate) fn norm_rope(
    rows: &Tensor,
    (weight, eps): (&Tensor, f32),
    table: &Tensor,
    x: &Tensor,
    shape: &Rope,
) -> Result<()> {
    let columns = x.columns();
    let mut locked = lock("norm_rope", [("rows", rows), ("weight", weight), ("table", table)], ("x", x))?;
    let ([rows, weight, table], x) = locked.parts();
    let (weight, table) = (floats(weight), floats(table));
    let arch = pulp::Arch::new();
    for_heads(rows, floats_mut(x), columns, shape, |position, number, head| {
        arch.dispatch(|| {
            let scale = rms_scale(head, eps);
            let weight = weight.chunks_exact(shape.head_dim).nth(number).unwrap_or_default();
            head.iter_mut().zip(weight).for_each(|(v, weight)| *v = *v * scale * weight);
            rotate(head, table, position, shape);
        });
    });
    Ok(())
}

/// Calls `f` with position, number and elements of the first heads of every row of x.
fn for_heads(rows: &[u32], x: &mut [f32], columns: usize, shape: &Rope, f: impl Fn(usize, usize, &mut [f32]) + Sync) {
    let &Rope { heads, head_dim, .. } = shape;
    if columns == 0 || head_dim == 0 {
        return;
    }
    let rows = bytemuck::cast_slice::<u32, Row>(rows);
    let batch = x.par_chunks_exact_mut(columns).zip(rows).with_min_len((MIN_LEN / columns).max(1));
    batch.for_each(|(x, row)| {
        let of_row = x.chunks_exact_mut(head_dim).take(heads).enumerate();
        of_row.for_each(|(number, head)| f(row.position as usize, number, head));
    });
}

/// Turns the pairs of a head.
fn rotate(head: &mut [f32], table: &[f32], position: usize, shape: &Rope) {
    let &Rope { rotary_dim, pairing, .. } = shape;
    let angles = table.chunks_exact(rotary_dim.max(1)).nth(position).unwrap_or_default().as_chunks::<2>().0;
    let rotated = head.get_mut(..rotary_dim).unwrap_or_default();
    match pairing {
        Pairing::Interleaved => {
            let pairs = rotated.as_chunks_mut::<2>().0;
            pairs.iter_mut().zip(angles).for_each(|([a, b], angle)| turn(a, b, *angle));
        }
        Pairing::Halves => {
            let (a, b) = rotated.split_at_mut(rotated.len() / 2);
            a.iter_mut().zip(b).zip(angles).for_each(|((a, b), angle)| turn(a, b, *angle));
        }
    }
}

fn turn(a: &mut f32, b: &mut f32, [cos, sin]: [f32; 2]) {
    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
}

pub(crate) fn argmax(x: &Tensor, out: &Tensor) -> Result<()> {
    let n = x.columns();
    let mut locked = lock("argmax", [("x", x)], ("out", out))?;
    let ([x], out) = locked.parts();
    let arch = pulp::Arch::new();
    let pairs = out.as_chunks_mut::<2>().0.par_iter_mut();
    let rows = pairs.zip(floats(x).par_chunks_exact(n)).with_min_len((MIN_LEN / n).max(1));
    rows.for_each(|(out, x)| *out = arch.dispatch(|| argmax_of(x)));
    Ok(())
}

/// (the lowest index of a largest element, how many are NaN or infinite): a loop for the largest and the count, another for
/// where it is, both in lanes. Without anything larger than a NaN, index 0.
#[inline(always)]
fn argmax_of(x: &[f32]) -> [u32; 2] {
    const LANES: usize = 32;
    let (blocks, rest) = x.as_chunks::<LANES>();
    let (mut highest, mut faults) = ([f32::NEG_INFINITY; LANES], [0u32; LANES]);
    for block in blocks {
        for ((highest, faults), &v) in highest.iter_mut().zip(&mut faults).zip(block) {
            *highest = if v > *highest { v } else { *highest };
            *faults += u32::from(!v.is_finite());
        }
    }
    let largest = highest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let faults = faults.iter().sum::<u32>() + rest.iter().filter(|v| !v.is_finite()).count() as u32;
    let block = blocks.iter().position(|block| block.iter().fold(false, |found, v| found | (*v == largest)));
    let first = block.unwrap_or(blocks.len()) * LANES;
    let at = x.iter().skip(first).position(|v| *v == largest).map_or(0, |at| first + at);
    [at as u32, faults]
}
