//! Cases of the ops that work row by row: layer_norm, softmax, embed, argmax and advance.

use super::bounds::{self, Normed};
use super::inputs::Inputs;
use super::runner::{Bench, Stop, compare, compare_words, stored};
use crate::kernel::Format;
use crate::ops;
use crate::reference::{self, Row};
use crate::tensor::DType;

/// One layer norm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm {
    pub(crate) m: usize,
    pub(crate) n: usize,
    /// Mean of x; its deviation is 0.58.
    pub(crate) mean: f32,
    pub(crate) eps: f32,
    pub(crate) first_row: usize,
    /// Every element of a row is the mean.
    pub(crate) constant: bool,
}

pub(crate) fn layer_norm(bench: &mut Bench<'_>, case: &Norm, mut inputs: Inputs) -> Result<f64, Stop> {
    let &Norm { m, n, mean, eps, first_row, constant } = case;
    let spread = if constant { 0.0 } else { 1.0 };
    let x: Vec<f32> = inputs.uniform(m * n).into_iter().map(|v| mean + spread * v).collect();
    let (weight, bias) = (inputs.uniform(n), inputs.uniform(n));
    // The rows before and after those of the case are NaN.
    let mut all = vec![f32::NAN; first_row * n];
    all.extend(&x);
    all.resize((first_row + m + 1) * n, f32::NAN);
    let x_tensor = bench.input(&all, &[first_row + m + 1, n])?;
    let (w_tensor, b_tensor) = (bench.input(&weight, &[n])?, bench.input(&bias, &[n])?);
    let mut out = bench.output(&[m, n], DType::F32)?;
    bench.run(|pass| ops::layer_norm(pass, (&x_tensor, first_row), &w_tensor, &b_tensor, eps, &mut out.tensor))?;
    let truth = reference::layer_norm(&x, &weight, &bias, eps);
    let rows: Vec<(f64, Normed)> = x.chunks(n.max(1)).map(|row| normed(row, eps)).collect();
    compare(&bench.read_f32(&out)?, &truth, n, |i| {
        let (row, column) = (&rows[i / n], i % n);
        row.1.bound(f64::from(x[i]) - row.0, weight[column].into(), bias[column].into(), truth[i])
    })
}

/// A row's mean, and what its bound depends on.
fn normed(row: &[f32], eps: f32) -> (f64, Normed) {
    let mean_of = |f: &dyn Fn(f64) -> f64| row.iter().map(|&v| f(f64::from(v))).sum::<f64>() / row.len() as f64;
    let mean = mean_of(&|v| v);
    let variance = mean_of(&|v| (v - mean).powi(2));
    let scale = 1.0 / (variance + f64::from(eps)).sqrt();
    (mean, Normed { n: row.len(), magnitude: mean_of(&f64::abs), scale })
}

/// What a row of logits is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Logits {
    /// U\[-1, 1\] times a factor.
    Scaled(f32),
    /// All equal.
    Equal(f32),
    /// One is larger than the rest by this much.
    Dominant(f32),
    /// Multiples of 2^-6, and the same again 1000 higher: the results must be equal, bit by bit.
    Shifted,
}

pub(crate) fn softmax(
    bench: &mut Bench<'_>,
    (m, n): (usize, usize),
    logits: Logits,
    mut inputs: Inputs,
) -> Result<f64, Stop> {
    let mut x = inputs.uniform(m * n);
    match logits {
        Logits::Scaled(factor) => x.iter_mut().for_each(|v| *v *= factor),
        Logits::Equal(value) => x.fill(value),
        Logits::Dominant(lead) => x.chunks_mut(n).for_each(|row| row[inputs.below(n)] += lead),
        Logits::Shifted => x.iter_mut().for_each(|v| *v = (*v * 640.0).round() / 64.0),
    }
    let got = softmax_of(bench, &x, (m, n))?;
    if logits == Logits::Shifted {
        let shifted: Vec<f32> = x.iter().map(|v| v + 1000.0).collect();
        let again = softmax_of(bench, &shifted, (m, n))?;
        compare_words("shifted", bytemuck::cast_slice(&again), bytemuck::cast_slice(&got), n)?;
    }
    for (row, probabilities) in got.chunks(n.max(1)).enumerate() {
        let sum: f64 = probabilities.iter().map(|&p| f64::from(p)).sum();
        if (sum - 1.0).abs() > bounds::softmax_sum(n) {
            return Err(Stop::Failed(format!("row {row} adds up to {sum}")));
        }
    }
    let truth = reference::softmax(&x, n);
    let highest: Vec<f32> = x.chunks(n.max(1)).map(|row| row.iter().copied().fold(f32::MIN, f32::max)).collect();
    compare(&got, &truth, n, |i| bounds::softmax(f64::from(x[i]) - f64::from(highest[i / n]), n, truth[i]))
}

fn softmax_of(bench: &mut Bench<'_>, x: &[f32], (m, n): (usize, usize)) -> Result<Vec<f32>, Stop> {
    let mut tensor = bench.in_out(bytemuck::cast_slice(x), &[m, n], DType::F32)?;
    bench.run(|pass| ops::softmax(pass, &mut tensor.tensor))?;
    bench.read_f32(&tensor)
}

/// One gather.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gather {
    pub(crate) m: usize,
    pub(crate) vocab: usize,
    pub(crate) columns: usize,
    pub(crate) format: Format,
    pub(crate) rows_per_chunk: Option<usize>,
}

pub(crate) fn embed(bench: &mut Bench<'_>, case: &Gather, mut inputs: Inputs) -> Result<f64, Stop> {
    const POSITIONS: usize = 37;
    let &Gather { m, vocab, columns, format, rows_per_chunk } = case;
    let w = stored(inputs.uniform(vocab * columns), format);
    let positions = inputs.uniform(POSITIONS * columns);
    let mut rows: Vec<Row> = (0..m)
        .map(|_| Row {
            token: inputs.below(vocab) as u32,
            position: inputs.below(POSITIONS) as u32,
            // Not this op's business.
            slot: POSITIONS as u32,
            first: POSITIONS as u32,
        })
        .collect();
    // The ends of both tables, at the ends of the batch.
    if let Some(row) = rows.first_mut() {
        (row.token, row.position) = (vocab as u32 - 1, 0);
    }
    if let Some(row) = rows.last_mut() {
        (row.token, row.position) = (0, POSITIONS as u32 - 1);
    }
    let rows_tensor = bench.input_u32(bytemuck::cast_slice(&rows), &[m, 4])?;
    let w_tensor = bench.weight(&w, (vocab, columns), format, rows_per_chunk)?;
    let p_tensor = bench.input(&positions, &[POSITIONS, columns])?;
    let mut out = bench.output(&[m, columns], DType::F32)?;
    bench.run(|pass| ops::embed(pass, &rows_tensor, &w_tensor, &p_tensor, &mut out.tensor))?;
    let truth = reference::embed(&rows, &w, &positions, columns);
    compare(&bench.read_f32(&out)?, &truth, columns, |i| bounds::sum(truth[i]))
}

/// What is hidden in a row for argmax to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// U\[-1, 1\].
    Nothing,
    /// Multiples of 1/4: many are largest.
    Ties,
    /// 0 and -0 only, which are equal.
    Zeros,
    /// Negative numbers only.
    Negative,
    /// Some are infinite; minus infinity at the beginning.
    Infinite,
    /// Some are NaN of either sign.
    NaN,
}

pub(crate) fn argmax(
    bench: &mut Bench<'_>,
    (m, n): (usize, usize),
    hidden: Hidden,
    mut inputs: Inputs,
) -> Result<f64, Stop> {
    let mut x = inputs.uniform(m * n);
    for (i, v) in x.iter_mut().enumerate() {
        let rare = inputs.below(7) == 0;
        *v = match hidden {
            Hidden::Nothing => *v,
            Hidden::Ties => (*v * 4.0).round() / 4.0,
            Hidden::Zeros => 0.0f32.copysign(*v),
            Hidden::Negative => -1.0 - v.abs(),
            Hidden::Infinite if i % n == 0 => f32::NEG_INFINITY,
            Hidden::Infinite if rare => f32::INFINITY.copysign(*v),
            // Every payload, so that no bit of it may stand for all.
            Hidden::NaN if rare => f32::from_bits(v.to_bits() & 0x8000_0000 | 0x7fc0_0000 | i as u32),
            Hidden::Infinite | Hidden::NaN => *v,
        };
    }
    let x_tensor = bench.input(&x, &[m, n])?;
    let mut out = bench.output(&[m, 2], DType::U32)?;
    bench.run(|pass| ops::argmax(pass, &x_tensor, &mut out.tensor))?;
    let mut got = bench.read(&out)?;
    let mut truth = reference::argmax(&x, n).concat();
    if hidden == Hidden::NaN {
        // Nothing is largest among NaN; the count says so, and the id must only be one.
        if let Some(id) = got.iter().step_by(2).find(|&&id| id as usize >= n) {
            return Err(Stop::Failed(format!("id {id} of {n}")));
        }
        let counts = |words: Vec<u32>| words.into_iter().skip(1).step_by(2).collect::<Vec<u32>>();
        (got, truth) = (counts(got), counts(truth));
        return compare_words("count", &got, &truth, 1);
    }
    compare_words("(id, count)", &got, &truth, 2)
}

/// How far positions have come.
pub(crate) fn advance(bench: &mut Bench<'_>, m: usize, position: u32, mut inputs: Inputs) -> Result<f64, Stop> {
    let mut word = |bound: usize| inputs.below(bound) as u32;
    let mut rows: Vec<Row> = (0..m)
        .map(|_| Row { token: word(50257), slot: word(64), position: position + word(1024), first: word(64) })
        .collect();
    let picked: Vec<[u32; 2]> = (0..m).map(|_| [word(50257), word(3)]).collect();
    let picked_tensor = bench.input_u32(bytemuck::cast_slice(&picked), &[m, 2])?;
    let mut rows_tensor = bench.in_out(bytemuck::cast_slice(&rows), &[m, 4], DType::U32)?;
    bench.run(|pass| ops::advance(pass, &picked_tensor, &mut rows_tensor.tensor))?;
    reference::advance(&picked, &mut rows);
    compare_words("rows", &bench.read(&rows_tensor)?, bytemuck::cast_slice(&rows), 4)
}
