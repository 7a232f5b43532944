//! Cases of attention. What came before the batch is put into the cache by earlier calls, which are checked as well; the
//! cache is poisoned at first and compared element by element, so that a stray append shows and a stray read makes NaN.
//!
//! Sequences are ragged and share a batch, because that is where a row that takes another's slot or position is seen: with
//! one sequence, or with all of one length, most such mistakes compute the right numbers.

use half::f16;

use super::bounds::{self, Attended};
use super::inputs::{Fill, Inputs};
use super::rows::{turned_bounds, turns};
use super::runner::{Bench, Guarded, POISON, Stop, compare, compare_words};
use crate::ops;
use crate::reference::{self, Attention, Pairing, Rope, Row};
use crate::tensor::{DType, Tensor};

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
    /// The batch is one row of each sequence, by [`ops::attention_decode`].
    pub(crate) decode: Option<Decoding>,
}

/// How the one row of each sequence is decoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoding {
    pub(crate) parts: Option<usize>,
    /// Elements of a head that are turned, and how they are paired.
    pub(crate) turn: Option<(usize, Pairing)>,
    /// The heads are normed before they are turned.
    pub(crate) norm: bool,
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
        let decode = case.decode.filter(|_| i == 2);
        let outcome = call(bench, &shape, (rows, case.fill, decode), &mut cache, &mut inputs);
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
    (rows, fill, decode): (&[Row], Fill, Option<Decoding>),
    cache: &mut Cache,
    inputs: &mut Inputs,
) -> Result<f64, Stop> {
    const EPS: f32 = 1e-6;
    let width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
    let (m, out_width, kv_width) = (rows.len(), shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let mut qkv = inputs.fill(fill, m * width, width);
    let rows_tensor = bench.input_u32(bytemuck::cast_slice(rows), &[m, 4])?;
    let qkv_tensor = bench.input(&qkv, &[m, width])?;
    let mut out = bench.output(&[m, out_width], DType::F32)?;
    let turning = decode.and_then(|decode| Turning::draw(shape, decode, inputs));
    let tensors = turning.as_ref().map(|turning| turning.tensors(bench)).transpose()?;
    bench.run(|pass| {
        let kv = (&mut cache.keys.tensor, &mut cache.values.tensor);
        let Some(Decoding { parts, .. }) = decode else {
            return ops::attention(pass, &rows_tensor, &qkv_tensor, kv, shape, &mut out.tensor);
        };
        let turn = turning.as_ref().zip(tensors.as_ref()).map(|(turning, (table, weight))| ops::Turn {
            table,
            rotary_dim: turning.shape.rotary_dim,
            pairing: turning.shape.pairing,
            norm: weight.as_ref().map(|weight| (weight, EPS)),
        });
        let decode = ops::Decode { attention: *shape, turn, parts };
        ops::attention_decode(pass, &rows_tensor, &qkv_tensor, kv, &decode, &mut out.tensor)
    })?;
    let (keys, values) = (kept(bench, &cache.keys)?, kept(bench, &cache.values)?);
    // What queries and keys are once they are turned, and how far the device's may be from that.
    let mut slack = vec![0.0; qkv.len()];
    if let Some(Turning { table, shape: turned, weight }) = &turning {
        let turned = (&table[..], turned, weight.as_deref().map(|weight| (weight, EPS)));
        slack = turned_bounds(rows, &qkv, width, turned);
        qkv = reference::ready(rows, &qkv, Some(turned), shape);
        slack.iter_mut().zip(&qkv).for_each(|(slack, v)| *slack += bounds::U * f64::from(v.abs()));
    }
    let half = cache.keys.tensor.dtype() == DType::F16;
    if half || turning.is_some() {
        let slack = |i: usize| slack[i];
        take_kept("keys", rows, &mut qkv, (width, out_width), &keys, shape, (half, &slack))?;
        take_kept("values", rows, &mut qkv, (width, out_width + kv_width), &values, shape, (half, &|_| 0.0))?;
    }
    // Turned already, where they are.
    let cached = (&mut cache.true_keys[..], &mut cache.true_values[..]);
    let truth = reference::attention_decode(rows, &qkv, None, cached, shape);
    for (what, kept, expected) in [("keys", &keys, &cache.true_keys), ("values", &values, &cache.true_values)] {
        compare_words(what, bytemuck::cast_slice(kept), bytemuck::cast_slice(expected), kv_width)?;
    }
    let split = decode.is_some_and(|decode| decode.parts.is_none_or(|parts| parts > 1));
    let known = (&cache.true_keys[..], &cache.true_values[..]);
    let bounds = error_bounds_with(rows, &qkv, known, shape, (&slack, split));
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

/// What turns the heads of a decoded batch.
struct Turning {
    table: Vec<f32>,
    shape: Rope,
    weight: Option<Vec<f32>>,
}

impl Turning {
    fn draw(shape: &Attention, decode: Decoding, inputs: &mut Inputs) -> Option<Turning> {
        let (rotary_dim, pairing) = decode.turn?;
        let heads = shape.heads + shape.kv_heads;
        let shape = Rope { heads, head_dim: shape.head_dim, rotary_dim, pairing };
        let weight = decode.norm.then(|| inputs.uniform(heads * shape.head_dim));
        Some(Turning { table: turns(&shape, TURNED, 1.0), shape, weight })
    }

    fn tensors(&self, bench: &Bench<'_>) -> Result<(Tensor, Option<Tensor>), Stop> {
        let table = bench.input(&self.table, &[TURNED, self.shape.rotary_dim])?;
        let weight = |weight: &Vec<f32>| bench.input(weight, &[self.shape.heads, self.shape.head_dim]);
        Ok((table, self.weight.as_ref().map(weight).transpose()?))
    }
}

/// Positions of a table: more than any case has.
const TURNED: usize = 1100;

/// Takes the keys, or values, of qkv, which begin at `column`, as the device has kept them: within `slack` of what they are,
/// and as halves rounded to either neighbour. Whatever it took, the rows must have been computed from that.
fn take_kept(
    what: &str,
    rows: &[Row],
    qkv: &mut [f32],
    (width, column): (usize, usize),
    cache: &[f32],
    shape: &Attention,
    (half, slack): (bool, &dyn Fn(usize) -> f64),
) -> Result<(), Stop> {
    let kv_width = shape.kv_heads * shape.head_dim;
    for (r, (row, qkv)) in rows.iter().zip(qkv.chunks_mut(width)).enumerate() {
        let at = (row.slot as usize * shape.context + row.position as usize) * kv_width;
        for (i, (v, &kept)) in qkv[column..][..kv_width].iter_mut().zip(&cache[at..]).enumerate() {
            let error = (f64::from(kept) - f64::from(*v)).abs();
            let slack = slack(r * width + column + i);
            let rounded = if half { bounds::half(f64::from(*v).abs() + slack) } else { 0.0 };
            if error.is_nan() || error > slack + rounded {
                let Row { slot, position, .. } = row;
                return Err(Stop::Failed(format!("{what} of slot {slot}, position {position} [{i}]: {kept} for {v}")));
            }
            *v = kept;
        }
    }
    Ok(())
}

/// The bound of every element of out: the sum over positions of p |v| times the relative error of that position.
#[cfg(feature = "bench")]
pub(crate) fn error_bounds(rows: &[Row], qkv: &[f32], keys: &[f32], values: &[f32], shape: &Attention) -> Vec<f64> {
    error_bounds_with(rows, qkv, (keys, values), shape, (&vec![0.0; qkv.len()], false))
}

/// [`error_bounds`] where elements of qkv may be off by `slack`, and, if `split`, parts of the positions are put together by
/// the logarithms l of their sums: l is off by what scores are, 3 ULP of itself and a rounding, is subtracted from another
/// (as much again), and the exp of that and the sums of parts are not more than those of positions.
fn error_bounds_with(
    rows: &[Row],
    qkv: &[f32],
    (keys, values): (&[f32], &[f32]),
    shape: &Attention,
    (slack, split): (&[f64], bool),
) -> Vec<f64> {
    let &Attention { heads, kv_heads, head_dim: d, context, scale, causal } = shape;
    let mut bounds = Vec::new();
    for (r, row) in rows.iter().enumerate() {
        let of_slot = rows.iter().filter(|other| other.slot == row.slot).map(|other| other.position);
        let last = if causal { row.position } else { of_slot.max().unwrap_or(row.position) } as usize;
        for head in 0..heads {
            let at_query = r * (heads + 2 * kv_heads) * d + head * d;
            let (query, slack) = (&qkv[at_query..][..d], &slack[at_query..][..d]);
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
            let off =
                |j: usize| slack.iter().zip(&keys[at(j)..][..d]).map(|(s, &k)| s * f64::from(k).abs()).sum::<f64>();
            let from_query = f64::from(scale).abs() * (0..=last).map(off).fold(0.0, f64::max);
            let logarithm = if split { 8.0 * bounds::U * (1.0 + max.abs() + ((last + 1) as f64).ln()) } else { 0.0 };
            let score_error = bounds::gamma(d + 2) * (largest + from_query) + from_query + logarithm;
            let head = Attended { n: last + 1, score_error, span: max - min };
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
