//! The rows of a batch: what becomes of tokens on their way in and out.

use super::{aligned, count, ensure, ensure_f32, repitch, row_quads, through};
use crate::cpu;
use crate::error::Result;
use crate::kernel::kernels as k;
use crate::pass::Pass;
use crate::reference::{Pairing, Rope};
use crate::tensor::{DType, Tensor, Weight};

/// out\[r\] = w\[token of r\], + positions\[position of r\] where positions have embeddings of their own. The caller vouches
/// for tokens and positions.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree, rows are not words, or positions or out not f32.
pub fn embed(pass: &mut Pass, rows: &Tensor, w: &Weight, positions: Option<&Tensor>, out: &mut Tensor) -> Result<()> {
    const OP: &str = "embed";
    let (m, columns) = (out.rows(), out.columns());
    let fits = rows.columns() == 4
        && rows.dtype() == DType::U32
        && rows.rows() == m
        && w.columns() == columns
        && positions.is_none_or(|positions| positions.columns() == columns);
    let message = || {
        let (rows, w, positions) = (rows.shape(), [w.rows(), w.columns()], positions.map(Tensor::shape));
        format!("rows {rows:?}, w {w:?}, positions {positions:?} into {:?}", out.shape())
    };
    ensure(OP, fits, message)?;
    ensure_f32(OP, &[positions.unwrap_or(out), out])?;
    if pass.is_cpu() {
        return cpu::embed(rows, w, positions, out);
    }
    if let Some(unaligned) = positions.filter(|positions| !positions.is_aligned()) {
        let positions = aligned(pass, unaligned)?;
        return embed(pass, rows, w, Some(&positions), out);
    }
    if !out.is_aligned() {
        return through(pass, out, |pass, out| embed(pass, rows, w, positions, out));
    }
    // From the last, so that it would show if a chunk wrote what belongs to the one after it.
    for chunk in w.chunks.iter().rev() {
        let params = k::embed::Params {
            m: count(OP, m)?,
            quads: row_quads(OP, out)?,
            w_pitch: row_quads(OP, &chunk.tensor)?,
            row0: count(OP, chunk.first_row)?,
            n: count(OP, chunk.tensor.rows())?,
        };
        // A row of each table is read for each that is written.
        pass.moves(if positions.is_some() { 3.0 } else { 2.0 } * out.bytes() as f64);
        pass.reads(chunk.format);
        let modes = k::embed::Modes { positions: positions.is_some().into() };
        let knobs = pass.knobs(out);
        let args = k::embed::Args { rows, w: &chunk.tensor, positions: positions.unwrap_or(&chunk.tensor), out };
        pass.run(&args, params, (knobs, modes), k::embed::grid(&params, &knobs))?;
    }
    Ok(())
}

/// out\[m,k\] = row `ids[r]` of w\[n,k\] for every r, as f32; a row of zeros where `ids[r]` >= n. ids: \[m\], words.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree, ids are not words or out is not f32.
pub fn gather(pass: &mut Pass, ids: &Tensor, w: &Weight, out: &mut Tensor) -> Result<()> {
    const OP: &str = "gather";
    let (m, columns) = (out.rows(), out.columns());
    let fits = ids.shape() == [m] && ids.dtype() == DType::U32 && w.columns() == columns;
    let message = || format!("{ids:?} of w {:?} into {:?}", [w.rows(), w.columns()], out.shape());
    ensure(OP, fits, message)?;
    ensure_f32(OP, &[out])?;
    if pass.is_cpu() {
        return cpu::gather(ids, w, out);
    }
    if w.rows() == 0 {
        // A weight without rows has no chunk to dispatch for.
        let zeros = pass.gpu().zeros(out.shape())?;
        return repitch(pass, &zeros, out);
    }
    if !out.is_aligned() {
        return through(pass, out, |pass, out| gather(pass, ids, w, out));
    }
    // From the last, so that it would show if a chunk wrote what belongs to the one after it.
    for chunk in w.chunks.iter().rev() {
        let params = k::gather::Params {
            m: count(OP, m)?,
            quads: row_quads(OP, out)?,
            w_pitch: row_quads(OP, &chunk.tensor)?,
            row0: count(OP, chunk.first_row)?,
            n: count(OP, chunk.tensor.rows())?,
            rows: count(OP, w.rows())?,
        };
        pass.moves(2.0 * out.bytes() as f64);
        pass.reads(chunk.format);
        let knobs = pass.knobs(out);
        let args = k::gather::Args { ids, w: &chunk.tensor, out };
        pass.run(&args, params, (knobs, Default::default()), k::gather::grid(&params, &knobs))?;
    }
    Ok(())
}

/// The frequency theta_i = base^(-2i / rotary_dim) of each pair i, in radians per position (Su et al. 2021, arXiv
/// 2104.09864). Of an odd `rotary_dim` the last element belongs to no pair, and is left out.
pub fn rope_frequencies(rotary_dim: usize, base: f64) -> Vec<f64> {
    // From libm rather than the platform, so that they are the same everywhere.
    (0..rotary_dim / 2).map(|i| libm::pow(base, -2.0 * i as f64 / rotary_dim as f64)).collect()
}

/// The angles of [`rope`], `[positions, rotary_dim]`: the row of position p holds (cos, sin) of p theta for the `frequencies`
/// theta of all pairs, side by side, each times `magnitude`. Computed in f64, rounded to f32 once: in f32 the angle itself
/// would be off by 2^-8 at position 100,000.
pub fn rope_table(positions: usize, frequencies: &[f64], magnitude: f64) -> Vec<f32> {
    let mut table = Vec::with_capacity(positions * 2 * frequencies.len());
    for position in 0..positions {
        for frequency in frequencies {
            let (sin, cos) = libm::sincos(position as f64 * frequency);
            table.extend([(magnitude * cos) as f32, (magnitude * sin) as f32]);
        }
    }
    table
}

/// Rotary position embedding, in place: each of the `rotary_dim` / 2 pairs (a, b) of the first `heads` heads of a row of x
/// becomes (a cos - b sin, b cos + a sin), with the angle that `table` has for that pair and the row's position. The other
/// elements of a head and the columns from heads * head_dim on, say the values of a q|k|v row, stay. rows: \[m,4\] words, see
/// [`Row`](super::Row); table: \[positions, rotary_dim\] of [`rope_table`]; x: \[m, >= heads * head_dim\]. The caller vouches
/// for positions. Su et al. 2021, arXiv 2104.09864.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree, or `rotary_dim` is odd or larger than `head_dim`.
pub fn rope(pass: &mut Pass, rows: &Tensor, table: &Tensor, x: &mut Tensor, shape: &Rope) -> Result<()> {
    const OP: &str = "rope";
    let &Rope { heads, head_dim, rotary_dim, pairing } = shape;
    check_rope(OP, rows, table, x, shape)?;
    if pass.is_cpu() {
        return cpu::rope(rows, table, x, shape);
    }
    let pairs = x.rows() * heads * rotary_dim / 2;
    count(OP, pairs)?;
    let params = k::rope::Params {
        m: count(OP, x.rows())?,
        heads: count(OP, heads)?,
        head_dim: count(OP, head_dim)?,
        pairs: count(OP, rotary_dim / 2)?,
        x_pitch: count(OP, x.pitch())?,
        table_pitch: count(OP, table.pitch() / 2)?,
    };
    let knobs = pass.knobs(x);
    let groups = k::rope::grid(&params, &knobs);
    let modes = k::rope::Modes { halves: (pairing == Pairing::Halves).into() };
    pass.moves(3.0 * x.bytes() as f64);
    pass.run(&k::rope::Args { rows, table, x }, params, (knobs, modes), groups)
}

/// QK-norm and [`rope`], in place: each of the first `heads` heads of a row of x is divided by the root of the mean of its
/// squares plus `eps` and multiplied by its row of weight\[heads, head_dim\], then turned. As [`rope`] otherwise: columns
/// from heads * head_dim on stay. The sum of a head's squares must be a finite f32, and `eps` positive where a head may be
/// all zeros. Norm: Zhang, Sennrich 2019, arXiv 1910.07467.
///
/// # Errors
/// As [`rope`]; [`Error::Shape`](crate::Error::Shape) too if weight has another shape.
pub fn norm_rope(
    pass: &mut Pass,
    rows: &Tensor,
    (weight, eps): (&Tensor, f32),
    table: &Tensor,
    x: &mut Tensor,
    shape: &Rope,
) -> Result<()> {
    const OP: &str = "norm_rope";
    let &Rope { heads, head_dim, rotary_dim, pairing } = shape;
    check_rope(OP, rows, table, x, shape)?;
    ensure(OP, weight.shape() == [heads, head_dim], || format!("weight {:?}, {shape:?}", weight.shape()))?;
    ensure_f32(OP, &[weight])?;
    if pass.is_cpu() {
        return cpu::norm_rope(rows, (weight, eps), table, x, shape);
    }
    if head_dim == 0 {
        return Ok(());
    }
    count(OP, x.rows() * heads * head_dim)?;
    let params = k::norm_rope::Params {
        m: count(OP, x.rows())?,
        heads: count(OP, heads)?,
        head_dim: count(OP, head_dim)?,
        pairs: count(OP, rotary_dim / 2)?,
        x_pitch: count(OP, x.pitch())?,
        weight_pitch: count(OP, weight.pitch())?,
        table_pitch: count(OP, table.pitch() / 2)?,
        eps,
    };
    let modes = k::norm_rope::Modes { halves: (pairing == Pairing::Halves).into() };
    pass.moves(3.0 * x.bytes() as f64);
    let knobs = pass.knobs(x);
    let args = k::norm_rope::Args { rows, weight, table, x };
    pass.run(&args, params, (knobs, modes), k::norm_rope::grid(&params, &knobs))
}

/// Whether heads, pairs and angles fit each other.
fn check_rope(op: &'static str, rows: &Tensor, table: &Tensor, x: &Tensor, shape: &Rope) -> Result<()> {
    let &Rope { heads, head_dim, rotary_dim, .. } = shape;
    let fits = rows.shape() == [x.rows(), 4]
        && rows.dtype() == DType::U32
        && table.columns() == rotary_dim
        && rotary_dim.is_multiple_of(2)
        && rotary_dim <= head_dim
        && heads.checked_mul(head_dim).is_some_and(|columns| columns <= x.columns());
    let message = || format!("rows {:?}, table {:?}, x {:?}, {shape:?}", rows.shape(), table.shape(), x.shape());
    ensure(op, fits, message)?;
    ensure_f32(op, &[table, x])
}

/// out\[m,2\] (words) = for every row of x\[m,n\]: the lowest index of a largest element, and how many elements are NaN or
/// infinite.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree or n = 0, x is not f32 or out is not words.
pub fn argmax(pass: &mut Pass, x: &Tensor, out: &mut Tensor) -> Result<()> {
    const OP: &str = "argmax";
    let (m, n) = (x.rows(), x.columns());
    let fits = n > 0 && out.rows() == m && out.columns() == 2 && out.dtype() == DType::U32;
    ensure(OP, fits, || format!("{:?} into {out:?}", x.shape()))?;
    ensure_f32(OP, &[x])?;
    if pass.is_cpu() {
        return cpu::argmax(x, out);
    }
    let (x_pitch, out_pitch) = (count(OP, x.pitch())?, count(OP, out.pitch())?);
    let params = k::argmax::Params { m: count(OP, m)?, n: count(OP, n)?, x_pitch, out_pitch };
    let knobs = pass.knobs(x);
    pass.run(&k::argmax::Args { x, out }, params, (knobs, Default::default()), k::argmax::grid(&params, &knobs))
}

#[cfg(test)]
mod tests {
    use super::{rope_frequencies, rope_table};

    /// (position, rotary_dim, base, pair, cos, sin), with Python's mpmath at 60 digits:
    /// `a = mpf(p) * power(mpf(base), mpf(-2 * i) / d)`, then `nstr(cos(a), 12)` and `nstr(sin(a), 12)`.
    const ANGLES: [(usize, usize, f64, usize, f64, f64); 12] = [
        (1, 2, 10000.0, 0, 0.540302305868, 0.841470984808),
        (1, 128, 10000.0, 1, 0.647905872267, 0.761720408472),
        (17, 6, 10000.0, 2, 0.999329365385, 0.0366172019464),
        (1023, 64, 10000.0, 5, -0.771948432702, -0.635685155757),
        (4095, 128, 500000.0, 63, 0.999949460963, 0.0100536321693),
        (8191, 128, 500000.0, 17, 0.921040879011, -0.389465915313),
        (32767, 4, 10000.0, 1, 0.586258214969, 0.810124253051),
        (65535, 80, 1000000.0, 3, 0.196157630845, -0.980572375636),
        (131071, 4, 10000.0, 0, -0.817983499388, -0.575241683755),
        (131071, 128, 500000.0, 31, 0.218317535171, 0.975877786322),
        (131072, 128, 10000.0, 7, 0.360061467113, -0.932928582422),
        (131072, 64, 10000.0, 31, 0.19864239938, -0.980072036724),
    ];

    #[test]
    fn rope_tables_hold_cosines_and_sines() {
        for (position, rotary_dim, base, pair, cos, sin) in ANGLES {
            let table = rope_table(position + 1, &rope_frequencies(rotary_dim, base), 1.0);
            assert_eq!(table.len(), (position + 1) * rotary_dim);
            assert_eq!(table[..2], [1.0, 0.0]);
            let at = position * rotary_dim + 2 * pair;
            for (got, expected) in [(table[at], cos), (table[at + 1], sin)] {
                let error = (f64::from(got) - expected).abs();
                let ulps = 4.0 * f64::from(f32::EPSILON) * expected.abs();
                assert!(error <= ulps, "position {position}, pair {pair} of {rotary_dim}: {got}, not {expected}");
            }
        }
    }

    #[test]
    fn rope_tables_may_be_empty() {
        assert!(rope_table(0, &rope_frequencies(64, 10000.0), 1.0).is_empty());
        assert!(rope_table(9, &rope_frequencies(0, 10000.0), 1.0).is_empty());
    }
}
