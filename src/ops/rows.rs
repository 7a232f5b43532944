//! The rows of a batch: what becomes of tokens on their way in and out.

use super::{aligned, count, ensure, ensure_f32, row_quads, through};
use crate::cpu;
use crate::error::Result;
use crate::kernel::kernels as k;
use crate::pass::{Pass, grid};
use crate::tensor::{DType, Tensor, Weight};

/// out\[r\] = w\[token of r\] + positions\[position of r\]. The caller vouches for tokens and positions.
///
/// # Errors
/// [`Error::Shape`] if the dimensions disagree.
pub fn embed(pass: &mut Pass, rows: &Tensor, w: &Weight, positions: &Tensor, out: &mut Tensor) -> Result<()> {
    const OP: &str = "embed";
    let (m, columns) = (out.rows(), out.columns());
    let fits = rows.columns() == 4
        && rows.dtype() == DType::U32
        && rows.rows() == m
        && w.columns() == columns
        && positions.columns() == columns;
    let message = || {
        let (rows, w, positions) = (rows.shape(), [w.rows(), w.columns()], positions.shape());
        format!("rows {rows:?}, w {w:?}, positions {positions:?} into {:?}", out.shape())
    };
    ensure(OP, fits, message)?;
    ensure_f32(OP, &[positions, out])?;
    if pass.is_cpu() {
        return cpu::embed(rows, w, positions, out);
    }
    if !positions.is_aligned() {
        let positions = aligned(pass, positions)?;
        return embed(pass, rows, w, &positions, out);
    }
    if !out.is_aligned() {
        return through(pass, out, |pass, out| embed(pass, rows, w, positions, out));
    }
    for chunk in &w.chunks {
        let params = k::embed::Params {
            m: count(OP, m)?,
            quads: row_quads(OP, out)?,
            w_pitch: row_quads(OP, &chunk.tensor)?,
            row0: count(OP, chunk.first_row)?,
            n: count(OP, chunk.tensor.rows())?,
        };
        let args = k::embed::Args { rows, w: &chunk.tensor, positions, out };
        pass.run(&args, params, Default::default(), grid(m))?;
    }
    Ok(())
}

/// out\[m,2\] (words) = for every row of x\[m,n\]: the lowest index of a largest element, and how many elements are NaN or
/// infinite.
///
/// # Errors
/// [`Error::Shape`] if the dimensions disagree or n = 0.
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
    pass.run(&k::argmax::Args { x, out }, params, Default::default(), grid(m))
}

/// The next step's rows: the token that [`argmax`] picked, one position on.
///
/// # Errors
/// [`Error::Shape`] if the dimensions disagree.
pub fn advance(pass: &mut Pass, picked: &Tensor, rows: &mut Tensor) -> Result<()> {
    const OP: &str = "advance";
    let m = rows.rows();
    let fits = picked.rows() == m && picked.columns() == 2 && rows.columns() == 4;
    let fits = fits && picked.dtype() == DType::U32 && rows.dtype() == DType::U32;
    ensure(OP, fits, || format!("{picked:?} to {rows:?}"))?;
    if pass.is_cpu() {
        return cpu::advance(picked, rows);
    }
    let wg = k::advance::Knobs::default().wg as usize;
    let params = k::advance::Params { m: count(OP, m)?, picked_pitch: count(OP, picked.pitch())? };
    pass.run(&k::advance::Args { picked, rows }, params, Default::default(), grid(m.div_ceil(wg)))
}
