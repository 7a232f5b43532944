//! Cases of attention. What came before the batch is put into the cache by earlier calls, which are checked as well; the
//! cache is poisoned at first and compared element by element, so that a stray append shows and a stray read makes NaN.
//!
//! Sequences are ragged and share a batch, because that is where a row that takes another's slot or position is seen: with
//! one sequence, or with all of one length, most such mistakes compute the right numbers.

use half::f16;

use super::bounds::{self, Attended};
use super::inputs::{Fill, Inputs};
use super::runner::{Bench, Guarded, POISON, Stop, compare, compare_words};
use crate::ops;
use crate::reference::{self, Attention, Row};
use crate::tensor::DType;

/// One batch of attention.
#[derive(Debug, Clone)]
pub(crate) struct Attending {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) causal: bool,
    /// Keys and values are kept as halves.
    pub(crate) half: bool,
    /// (positions in the cache, rows of the batch) of each sequence.
    pub(crate) sequences: Vec<(usize, usize)>,
    pub(crate) fill: Fill,
}

impl Attending {
    /// Positions per slot, with some to spare.
    fn context(&self) -> usize {
        self.sequences.iter().map(|(prefix, rows)| prefix + rows).max().unwrap_or(0) + 3
    }

    /// Rows of every sequence at positions `range(prefix, rows)`.
    fn rows(&self, range: impl Fn(usize, usize) -> std::ops::Range<usize>) -> Vec<Row> {
        let mut rows = Vec::new();
        for (i, &(prefix, count)) in self.sequences.iter().enumerate() {
            // Slots in another order than rows, and slot 0 unused.
            let (slot, first) = ((self.sequences.len() - i) as u32, rows.len() as u32);
            let row = |position: usize| Row { token: 0, slot, position: position as u32, first };
            rows.extend(range(prefix, count).map(row));
        }
        rows
    }
}

/// The cache on the device and as it should be. Halves are widened.
struct Cache {
    keys: Guarded,
    values: Guarded,
    true_keys: Vec<f32>,
    true_values: Vec<f32>,
}

pub(crate) fn attention(bench: &mut Bench<'_>, case: &Attending, mut inputs: Inputs) -> Result<f64, Stop> {
    let &Attending { heads, kv_heads, head_dim, causal, half, .. } = case;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let shape = Attention { heads, kv_heads, head_dim, context: case.context(), scale, causal };
    let kv_shape = [(case.sequences.len() + 1) * shape.context, kv_heads * head_dim];
    let dtype = if half { DType::F16 } else { DType::F32 };
    let empty = vec![POISON; kv_shape[0] * kv_shape[1]];
    let mut cache = Cache {
        keys: bench.in_out(&empty, &kv_shape, dtype)?,
        values: bench.in_out(&empty, &kv_shape, dtype)?,
        true_keys: bytemuck::cast_slice(&empty).to_vec(),
        true_values: bytemuck::cast_slice(&empty).to_vec(),
    };
    // Two thirds of what came before, the rest of it, then the batch.
    let two_thirds = |prefix: usize| prefix - prefix / 3;
    let calls = [
        case.rows(|prefix, _| 0..two_thirds(prefix)),
        case.rows(|prefix, _| two_thirds(prefix)..prefix),
        case.rows(|prefix, rows| prefix..prefix + rows),
    ];
    let mut worst = 0.0f64;
    for (i, rows) in calls.iter().enumerate().filter(|(i, rows)| *i == 2 || !rows.is_empty()) {
        let outcome = call(bench, &shape, rows, case.fill, &mut cache, &mut inputs);
        worst = worst.max(outcome.map_err(|stop| match stop {
            Stop::Failed(message) => Stop::Failed(format!("call {} of 3: {message}", i + 1)),
            skipped @ Stop::Skipped(_) => skipped,
        })?);
    }
    Ok(worst)
}

fn call(
    bench: &mut Bench<'_>,
    shape: &Attention,
    rows: &[Row],
    fill: Fill,
    cache: &mut Cache,
    inputs: &mut Inputs,
) -> Result<f64, Stop> {
    let width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
    let (m, out_width, kv_width) = (rows.len(), shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let mut qkv = inputs.fill(fill, m * width, width);
    let rows_tensor = bench.input_u32(bytemuck::cast_slice(rows), &[m, 4])?;
    let qkv_tensor = bench.input(&qkv, &[m, width])?;
    let mut out = bench.output(&[m, out_width], DType::F32)?;
    bench.run(|pass| {
        let kv = (&mut cache.keys.tensor, &mut cache.values.tensor);
        ops::attention(pass, &rows_tensor, &qkv_tensor, kv, shape, &mut out.tensor)
    })?;
    let (keys, values) = (kept(bench, &cache.keys)?, kept(bench, &cache.values)?);
    if cache.keys.tensor.dtype() == DType::F16 {
        round_like("keys", rows, &mut qkv, (width, out_width), &keys, shape)?;
        round_like("values", rows, &mut qkv, (width, out_width + kv_width), &values, shape)?;
    }
    let truth = reference::attention(rows, &qkv, &mut cache.true_keys, &mut cache.true_values, shape);
    for (what, kept, expected) in [("keys", &keys, &cache.true_keys), ("values", &values, &cache.true_values)] {
        compare_words(what, bytemuck::cast_slice(kept), bytemuck::cast_slice(expected), kv_width)?;
    }
    let bounds = error_bounds(rows, &qkv, &cache.true_keys, &cache.true_values, shape);
    compare(&bench.read_f32(&out)?, &truth, out_width, |i| bounds[i])
}

/// The cache as floats. Poison stays what it is.
fn kept(bench: &Bench<'_>, cache: &Guarded) -> Result<Vec<f32>, Stop> {
    if cache.tensor.dtype() == DType::F32 {
        return bench.read_f32(cache);
    }
    let widen = |half: u16| if half == u16::MAX { f32::from_bits(POISON) } else { f16::from_bits(half).to_f32() };
    Ok(bench.read::<u16>(cache)?.into_iter().map(widen).collect())
}

/// Rounds the keys, or values, of qkv, which begin at `column`, as the device has done: pack2x16float may take either
/// neighbour. Whatever it took, the rows must have been computed from that.
fn round_like(
    what: &str,
    rows: &[Row],
    qkv: &mut [f32],
    (width, column): (usize, usize),
    cache: &[f32],
    shape: &Attention,
) -> Result<(), Stop> {
    let kv_width = shape.kv_heads * shape.head_dim;
    for (row, qkv) in rows.iter().zip(qkv.chunks_mut(width)) {
        let at = (row.slot as usize * shape.context + row.position as usize) * kv_width;
        for (i, (v, &kept)) in qkv[column..][..kv_width].iter_mut().zip(&cache[at..]).enumerate() {
            let error = (f64::from(kept) - f64::from(*v)).abs();
            if error.is_nan() || error > bounds::half(f64::from(*v)) {
                let Row { slot, position, .. } = row;
                return Err(Stop::Failed(format!("{what} of slot {slot}, position {position} [{i}]: {kept} for {v}")));
            }
            *v = kept;
        }
    }
    Ok(())
}

/// The bound of every element of out: the sum over positions of p |v| times the relative error of that position.
pub(crate) fn error_bounds(rows: &[Row], qkv: &[f32], keys: &[f32], values: &[f32], shape: &Attention) -> Vec<f64> {
    let &Attention { heads, kv_heads, head_dim: d, context, scale, causal } = shape;
    let mut bounds = Vec::new();
    for (r, row) in rows.iter().enumerate() {
        let of_slot = rows.iter().filter(|other| other.slot == row.slot).map(|other| other.position);
        let last = if causal { row.position } else { of_slot.max().unwrap_or(row.position) } as usize;
        for head in 0..heads {
            let query = &qkv[r * (heads + 2 * kv_heads) * d + head * d..][..d];
            let at = |j: usize| (row.slot as usize * context + j) * kv_heads * d + head / (heads / kv_heads) * d;
            let dot = |j: usize, f: fn(f64) -> f64| -> f64 {
                let products = query.iter().zip(&keys[at(j)..][..d]).map(|(&q, &k)| f64::from(q) * f64::from(k));
                f64::from(scale) * products.map(f).sum::<f64>()
            };
            let scores: Vec<f64> = (0..=last).map(|j| dot(j, |v| v)).collect();
            let largest = (0..=last).map(|j| dot(j, f64::abs)).fold(0.0, f64::max);
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let min = scores.iter().copied().fold(f64::INFINITY, f64::min);
            let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            let head = Attended { n: last + 1, score_error: bounds::gamma(d + 2) * largest, span: max - min };
            for i in 0..d {
                let of = |(j, s): (usize, &f64)| {
                    let magnitude = f64::from(values[at(j) + i]).abs();
                    (s - max).exp() / sum * magnitude * head.relative(s - max) + bounds::TINY * (1.0 + magnitude)
                };
                bounds.push(scores.iter().enumerate().map(of).sum());
            }
        }
    }
    bounds
}
