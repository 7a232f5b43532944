//! Attention on the host. Keys and values that are kept as halves are widened for each head that reads them.

use half::f16;
use half::slice::HalfFloatSliceExt;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::vectors::dots;
use super::{MIN_WORK, check_apart, floats, floats_mut, lock};
use crate::error::Result;
use crate::reference::{Attention, Row};
use crate::tensor::{DType, Tensor};

const OP: &str = "attention";

pub(crate) fn attention(
    rows: &Tensor,
    qkv: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    shape: &Attention,
    out: &Tensor,
) -> Result<()> {
    let &Attention { heads, kv_heads, head_dim: d, context, scale, causal } = shape;
    check_apart(OP, &[("rows", rows), ("qkv", qkv), ("keys", keys), ("values", values), ("out", out)], 3)?;
    append(rows, (qkv, heads * d), ("keys", keys), context)?;
    append(rows, (qkv, (heads + kv_heads) * d), ("values", values), context)?;
    let (width, stride, dtype) = (qkv.columns(), keys.columns(), keys.dtype());
    let inputs = [("rows", rows), ("qkv", qkv), ("keys", keys), ("values", values)];
    let mut locked = lock(OP, inputs, ("out", out))?;
    let ([rows, qkv, keys, values], out) = locked.parts();
    let rows: &[Row] = bytemuck::cast_slice(rows);
    let qkv = floats(qkv);
    let ends: Vec<usize> = rows.iter().enumerate().map(|(r, row)| end(rows, r, row, causal)).collect();
    // A guess: every row attends to as many positions as the one that attends to most.
    let work = 2 * d * ends.iter().copied().max().unwrap_or(1);
    let all = floats_mut(out).par_chunks_exact_mut(d).enumerate().with_min_len((MIN_WORK / work.max(1)).max(1));
    let scratch = || (Vec::new(), Vec::new(), Vec::new());
    all.for_each_init(scratch, |(scores, wide_keys, wide_values), (i, out)| {
        let (r, head) = (i / heads, i % heads);
        let first = rows[r].slot as usize * context * stride + head / (heads / kv_heads) * d;
        scores.resize(ends[r], 0.0);
        let (keys, values, stride) = match dtype {
            DType::F16 => {
                let from = |words| halves(words).get(first..).unwrap_or_default();
                (
                    widen(from(keys), stride, (ends[r], d), wide_keys),
                    widen(from(values), stride, (ends[r], d), wide_values),
                    d,
                )
            }
            _ => {
                let from = |words| floats(words).get(first..).unwrap_or_default();
                (from(keys), from(values), stride)
            }
        };
        let query = &qkv[r * width + head * d..][..d];
        Arch::new().dispatch(Head { query, keys, values, stride, scale, scores, out });
    });
    Ok(())
}

fn halves(words: &[u32]) -> &[f16] {
    bytemuck::cast_slice(words)
}

/// `n` rows of `d` halves that begin `stride` halves apart, as floats without anything between them.
fn widen<'a>(from: &[f16], stride: usize, (n, d): (usize, usize), wide: &'a mut Vec<f32>) -> &'a [f32] {
    wide.resize(n * d, 0.0);
    for (wide, row) in wide.chunks_exact_mut(d).zip(from.chunks(stride)) {
        if let Some(row) = row.get(..d) {
            row.convert_to_f32_slice(wide);
        }
    }
    wide
}

/// Copies the keys, or values, of the batch to their places. They stand in qkv from `column` on.
fn append(
    rows: &Tensor,
    (qkv, column): (&Tensor, usize),
    cache: (&'static str, &Tensor),
    context: usize,
) -> Result<()> {
    let (width, stride, dtype) = (qkv.columns(), cache.1.columns(), cache.1.dtype());
    let mut locked = lock(OP, [("rows", rows), ("qkv", qkv)], cache)?;
    let ([rows, qkv], cache) = locked.parts();
    for (row, qkv) in bytemuck::cast_slice::<u32, Row>(rows).iter().zip(qkv.chunks_exact(width)) {
        let to = (row.slot as usize * context + row.position as usize) * stride;
        let qkv = &floats(qkv)[column..][..stride];
        match dtype {
            DType::F16 => {
                let all: &mut [f16] = bytemuck::cast_slice_mut(cache);
                if let Some(place) = all.get_mut(to..).and_then(|from| from.get_mut(..stride)) {
                    place.convert_from_f32_slice(qkv);
                }
            }
            _ => {
                if let Some(place) = floats_mut(cache).get_mut(to..).and_then(|from| from.get_mut(..stride)) {
                    place.copy_from_slice(qkv);
                }
            }
        }
    }
    Ok(())
}

/// How many positions row r attends to: those up to its own, or to the last one of its sequence.
fn end(rows: &[Row], r: usize, row: &Row, causal: bool) -> usize {
    let later = rows.get(r..).unwrap_or_default().iter().take_while(|other| !causal && other.first == row.first);
    later.last().unwrap_or(row).position as usize + 1
}

/// One query and the keys and values of its slot and head, which begin `stride` elements apart.
struct Head<'a> {
    query: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    stride: usize,
    scale: f32,
    /// One per position, to be computed.
    scores: &'a mut [f32],
    out: &'a mut [f32],
}

impl WithSimd for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let d = self.query.len();
        let key = |j: usize| &self.keys[j * self.stride..][..d];
        let (fours, rest) = self.scores.as_chunks_mut::<4>();
        for (i, four) in fours.iter_mut().enumerate() {
            let keys = std::array::from_fn(|j| key(4 * i + j));
            *four = dots(simd, keys, [self.query]).map(|[product]| self.scale * product);
        }
        let done = 4 * fours.len();
        for (j, score) in rest.iter_mut().enumerate() {
            let [[product]] = dots(simd, [key(done + j)], [self.query]);
            *score = self.scale * product;
        }
        let max = self.scores.iter().copied().fold(f32::MIN, f32::max);
        let mut sum = 0.0;
        for score in self.scores.iter_mut() {
            *score = (*score - max).exp();
            sum += *score;
        }
        self.out.fill(0.0);
        let (out, out_rest) = S::as_mut_simd_f32s(self.out);
        for (j, &weight) in self.scores.iter().enumerate() {
            let (value, value_rest) = S::as_simd_f32s(&self.values[j * self.stride..][..d]);
            let weights = simd.splat_f32s(weight);
            for (out, value) in out.iter_mut().zip(value) {
                *out = simd.mul_add_e_f32s(weights, *value, *out);
            }
            for (out, value) in out_rest.iter_mut().zip(value_rest) {
                *out += weight * value;
            }
        }
        self.out.iter_mut().for_each(|v| *v /= sum);
    }
}
