//! Cases of the ops on the rows of a batch: embed, gather, rope, norm_rope and argmax.
//!
//! They read indices, and an index out of range is clamped and answers with another row, in silence. So the ends of every
//! table and chunk are among the ids, fields that an op has no business with hold numbers that would show, and results are
//! compared for equality wherever nothing is computed.

use super::bounds;
use super::inputs::{Fill, Inputs};
use super::runner::{Bench, Stop, compare, compare_words};
use super::stored::Stored;
use crate::kernel::Format;
use crate::ops;
use crate::reference::{self, Pairing, Rope, Row};
use crate::tensor::DType;

/// One gather.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gather {
    pub(crate) m: usize,
    pub(crate) vocab: usize,
    pub(crate) columns: usize,
    pub(crate) format: Format,
    pub(crate) rows_per_chunk: Option<usize>,
}

pub(crate) fn embed(
    bench: &mut Bench<'_>,
    case: &Gather,
    with_positions: bool,
    mut inputs: Inputs,
) -> Result<f64, Stop> {
    const POSITIONS: usize = 37;
    let &Gather { m, vocab, columns, format, rows_per_chunk } = case;
    let w = Stored::draw(&mut inputs, Fill::Uniform, (vocab, columns), format);
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
    let w_tensor = bench.weight(&w, (vocab, columns), rows_per_chunk)?;
    let p_tensor = bench.input(&positions, &[POSITIONS, columns])?;
    let mut out = bench.output(&[m, columns], DType::F32)?;
    bench.run(|pass| {
        let positions = with_positions.then_some(&p_tensor);
        ops::embed(pass, &rows_tensor, &w_tensor, positions, &mut out.tensor)
    })?;
    let truth = reference::embed(&rows, &w.values, with_positions.then_some(&positions), columns);
    let bound = |i: usize| if with_positions { bounds::sum(truth[i]) } else { bounds::stored(truth[i], format) };
    compare(&bench.read_f32(&out)?, &truth, columns, bound)
}

/// Ids in range, and among them the ends of every chunk and ids that no row has.
pub(crate) fn gather(bench: &mut Bench<'_>, case: &Gather, mut inputs: Inputs) -> Result<f64, Stop> {
    let &Gather { m, vocab, columns, format, rows_per_chunk } = case;
    let w = Stored::draw(&mut inputs, Fill::Uniform, (vocab, columns), format);
    let chunk = rows_per_chunk.unwrap_or(vocab).max(1);
    let ends = (0..vocab).step_by(chunk).flat_map(|first| [first, (first + chunk).min(vocab) - 1]);
    let special: Vec<usize> = ends.chain([vocab, vocab + 1, vocab + chunk, u32::MAX as usize]).collect();
    let draw = |_| match inputs.below(3) {
        0 => special[inputs.below(special.len())] as u32,
        _ => inputs.below(vocab) as u32,
    };
    let ids: Vec<u32> = (0..m).map(draw).collect();
    let ids_tensor = bench.input_u32(&ids, &[m])?;
    let w_tensor = bench.weight(&w, (vocab, columns), rows_per_chunk)?;
    let mut out = bench.output(&[m, columns], DType::F32)?;
    bench.run(|pass| ops::gather(pass, &ids_tensor, &w_tensor, &mut out.tensor))?;
    let truth = reference::gather(&ids, &w.values, columns);
    compare(&bench.read_f32(&out)?, &truth, columns, |i| bounds::stored(truth[i], format))
}

/// One rotary embedding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turning {
    pub(crate) m: usize,
    pub(crate) shape: Rope,
    /// Columns of x beyond those of the heads.
    pub(crate) more: usize,
    /// Positions of the table; the last and the first are among the rows.
    pub(crate) positions: usize,
}

pub(crate) fn rope(bench: &mut Bench<'_>, case: &Turning, mut inputs: Inputs) -> Result<f64, Stop> {
    let &Turning { m, shape, more, positions } = case;
    let Rope { heads, head_dim, rotary_dim, .. } = shape;
    let columns = heads * head_dim + more;
    let (table, rows) = (turns(&shape, positions, 1.0), case.rows(&mut inputs));
    let x = inputs.uniform(m * columns);
    let rows_tensor = bench.input_u32(bytemuck::cast_slice(&rows), &[m, 4])?;
    let table_tensor = bench.either(&mut inputs).input(&table, &[positions, rotary_dim])?;
    let mut tensor = bench.in_out(bytemuck::cast_slice(&x), &[m, columns], DType::F32)?;
    bench.run(|pass| ops::rope(pass, &rows_tensor, &table_tensor, &mut tensor.tensor, &shape))?;
    let truth = reference::rope(&rows, &table, &x, columns, &shape);
    let bounds = turned_bounds(&rows, &x, columns, (&table, &shape, None));
    compare(&bench.read_f32(&tensor)?, &truth, columns, |i| {
        // What is not rotated stays, and so does everything at position 0.
        let turned = pair(&shape, i, columns).is_some() && rows[i / columns].position > 0;
        if turned { bounds[i] } else { 0.0 }
    })
}

/// How far every element of x may be off once its first heads are normed, if they are, and turned by the table.
pub(super) fn turned_bounds(
    rows: &[Row],
    x: &[f32],
    columns: usize,
    (table, shape, norm): reference::Turned<'_>,
) -> Vec<f64> {
    let &Rope { heads, head_dim: d, rotary_dim, .. } = shape;
    // The magnitude of an element before it is turned, and how far it may be off.
    let normed = |i: usize| {
        let (row, column) = (i / columns, i % columns);
        let Some((weight, eps)) = norm.filter(|_| column < heads * d) else { return (f64::from(x[i]).abs(), 0.0) };
        let head = &x[row * columns + column / d * d..][..d];
        let squares: f64 = head.iter().map(|&v| f64::from(v).powi(2)).sum();
        let scale = 1.0 / (squares / d as f64 + f64::from(eps)).sqrt();
        let (weight, value) = (f64::from(weight[column]), f64::from(x[i]) * scale * f64::from(weight[column]));
        (value.abs(), bounds::rms_norm(d, scale, weight, value))
    };
    let bound = |i: usize| match pair(shape, i, columns) {
        None => normed(i).1,
        Some((pair, partner)) => {
            let angle = rows[i / columns].position as usize * rotary_dim + 2 * pair;
            let (cos, sin) = (f64::from(table[angle]).abs(), f64::from(table[angle + 1]).abs());
            let ((a, a_error), (b, b_error)) = (normed(i), normed(partner));
            let error = cos * a_error + sin * b_error;
            error + bounds::rope(cos * a + sin * b + error)
        }
    };
    (0..x.len()).map(bound).collect()
}

impl Turning {
    /// Rows at the last position, the first, and others.
    fn rows(&self, inputs: &mut Inputs) -> Vec<Row> {
        let (last, other) = (self.positions - 1, u32::MAX);
        let mut below = || inputs.below(last + 1);
        let row = |r: usize| Row {
            token: other,
            slot: other,
            position: [last, 0, below(), below()][r % 4] as u32,
            first: other,
        };
        (0..self.m).map(row).collect()
    }
}

/// The pair that element `i` belongs to, and the place of its partner; `None` where it is not rotated.
fn pair(shape: &Rope, i: usize, columns: usize) -> Option<(usize, usize)> {
    let &Rope { heads, head_dim, rotary_dim, pairing } = shape;
    let (column, half) = (i % columns, rotary_dim / 2);
    let within = column % head_dim.max(1);
    if column >= heads * head_dim || within >= rotary_dim {
        return None;
    }
    Some(match pairing {
        Pairing::Interleaved if within.is_multiple_of(2) => (within / 2, i + 1),
        Pairing::Interleaved => (within / 2, i - 1),
        Pairing::Halves if within < half => (within, i + half),
        Pairing::Halves => (within - half, i - half),
    })
}

pub(super) fn turns(shape: &Rope, positions: usize, magnitude: f64) -> Vec<f32> {
    ops::rope_table(positions, &ops::rope_frequencies(shape.rotary_dim, 10_000.0), magnitude)
}

/// A head is what [`reference::rms_norm`] has, within its bound, and turning it adds up the errors of a pair. The table turns
/// and stretches, as some models' do.
pub(crate) fn norm_rope(bench: &mut Bench<'_>, case: &Turning, eps: f32, mut inputs: Inputs) -> Result<f64, Stop> {
    let &Turning { m, shape, more, positions } = case;
    let Rope { heads, head_dim: d, rotary_dim, .. } = shape;
    let columns = heads * d + more;
    let (table, rows) = (turns(&shape, positions, 1.25), case.rows(&mut inputs));
    let (x, weight) = (inputs.uniform(m * columns), inputs.uniform(heads * d));
    let rows_tensor = bench.input_u32(bytemuck::cast_slice(&rows), &[m, 4])?;
    let table_tensor = bench.either(&mut inputs).input(&table, &[positions, rotary_dim])?;
    let w_tensor = bench.either(&mut inputs).input(&weight, &[heads, d])?;
    let mut tensor = bench.in_out(bytemuck::cast_slice(&x), &[m, columns], DType::F32)?;
    bench
        .run(|pass| ops::norm_rope(pass, &rows_tensor, (&w_tensor, eps), &table_tensor, &mut tensor.tensor, &shape))?;
    let truth = reference::norm_rope(&rows, (&weight, eps), &table, &x, columns, &shape);
    let bounds = turned_bounds(&rows, &x, columns, (&table, &shape, Some((&weight, eps))));
    compare(&bench.read_f32(&tensor)?, &truth, columns, |i| if i % columns < heads * d { bounds[i] } else { 0.0 })
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
    let x_tensor = bench.either(&mut inputs).input(&x, &[m, n])?;
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
