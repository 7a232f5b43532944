//! Products: matrix times matrix, matrix times a transposed one, and the layers of a model.

use super::{aligned, count, ensure, ensure_f32, flops, row_quads, through};
use crate::cpu;
use crate::error::{Error, Result};
use crate::kernel::kernels as k;
use crate::pass::{Pass, grid};
use crate::tensor::{Chunk, DType, Tensor, Weight};

/// Rows up to which a product is matrix times vectors rather than matrix times matrix.
pub const MATVEC_ROWS: usize = 8;

/// What kernels read as a weight.
fn ensure_weight(op: &'static str, b: &Tensor) -> Result<()> {
    let fits = matches!(b.dtype(), DType::F32 | DType::F16);
    ensure(op, fits, || format!("{b:?}; f32 or f16 is needed"))
}

/// out\[m,n\] = a\[m,k\] b\[k,n\]; b may be f32 or f16.
///
/// # Errors
/// [`Error::Shape`] if the dimensions disagree.
pub fn matmul(pass: &mut Pass, a: &Tensor, b: &Tensor, out: &mut Tensor) -> Result<()> {
    const OP: &str = "matmul";
    let (m, depth, n) = (a.rows(), a.columns(), b.columns());
    let fits = b.rows() == depth && out.rows() == m && out.columns() == n;
    ensure(OP, fits, || format!("{:?} x {:?} into {:?}", a.shape(), b.shape(), out.shape()))?;
    ensure_f32(OP, &[a, out])?;
    ensure_weight(OP, b)?;
    if pass.is_cpu() {
        return cpu::matmul(a, b, out);
    }
    if !a.is_aligned() {
        let a = aligned(pass, a)?;
        return matmul(pass, &a, b, out);
    }
    if !b.is_aligned() {
        let b = aligned(pass, b)?;
        return matmul(pass, a, &b, out);
    }
    if !out.is_aligned() {
        return through(pass, out, |pass, out| matmul(pass, a, b, out));
    }
    pass.cost(flops(m, depth, n));
    let knobs = k::matmul::Knobs::default();
    let n_quads = out.pitch() / 4;
    let params = k::matmul::Params {
        m: count(OP, m)?,
        k: count(OP, depth)?,
        x_pitch: row_quads(OP, a)?,
        w_pitch: row_quads(OP, b)?,
        n_quads: count(OP, n_quads)?,
    };
    let groups = [(4 * n_quads).div_ceil(knobs.bn as usize) as u64, m.div_ceil(knobs.bm as usize) as u64, 1];
    pass.run(&k::matmul::Args { x: a, w: b, out }, params, (knobs, k::matmul::Modes::default()), groups)
}

/// out\[b,m,n\] = scale * a\[b,m,k\] b\[b,n,k\]^T, for two or three dimensions; a two-dimensional b serves every batch.
/// b may be f32 or f16.
///
/// # Errors
/// [`Error::Shape`] if the dimensions disagree.
pub fn matmul_transpose_b(pass: &mut Pass, a: &Tensor, b: &Tensor, scale: f32, out: &mut Tensor) -> Result<()> {
    const OP: &str = "matmul_transpose_b";
    let batched = |t: &Tensor| match *t.shape() {
        [rows, _] => Some((1, rows)),
        [batches, rows, _] => Some((batches, rows)),
        _ => None,
    };
    let message = || format!("{:?} x {:?} transposed into {:?}", a.shape(), b.shape(), out.shape());
    let all = batched(a).zip(batched(b)).zip(batched(out));
    let Some((((batches, m), (b_batches, n)), (out_batches, out_m))) = all else {
        return Err(Error::Shape { op: OP, message: message() });
    };
    let shared = b.shape().len() == 2;
    let fits = a.columns() == b.columns() && out.columns() == n && out_m == m && out_batches == batches;
    ensure(OP, fits && (shared || b_batches == batches), message)?;
    ensure_f32(OP, &[a, out])?;
    ensure_weight(OP, b)?;
    if pass.is_cpu() {
        return cpu::matmul_transpose_b(a, b, scale, out);
    }
    if !a.is_aligned() {
        let a = aligned(pass, a)?;
        return matmul_transpose_b(pass, &a, b, scale, out);
    }
    if !b.is_aligned() {
        let b = aligned(pass, b)?;
        return matmul_transpose_b(pass, a, &b, scale, out);
    }
    let w_batch = if shared { 0 } else { n };
    transpose_b(pass, a, b, None, scale, (batches, m, n, w_batch), (0, out.pitch()), out)
}

/// One dispatch of the kernel: `(batches, m, n, rows of w per batch)` and `(first column, columns to write)` of out.
#[expect(clippy::too_many_arguments, reason = "the kernel's own parameters, used by two ops")]
fn transpose_b(
    pass: &mut Pass,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    scale: f32,
    (batches, m, n, w_batch): (usize, usize, usize, usize),
    (column, columns): (usize, usize),
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "matmul_transpose_b";
    pass.cost(flops(batches * m, x.columns(), n));
    let knobs = k::matmul_transpose_b::Knobs::default();
    let params = k::matmul_transpose_b::Params {
        m: count(OP, m)?,
        n: count(OP, n)?,
        quads: count(OP, x.columns().div_ceil(4))?,
        x_pitch: row_quads(OP, x)?,
        w_pitch: row_quads(OP, w)?,
        out_pitch: count(OP, out.pitch())?,
        column: count(OP, column)?,
        columns: count(OP, columns)?,
        w_batch: count(OP, w_batch)?,
        scale,
    };
    let modes = k::matmul_transpose_b::Modes { bias: bias.is_some().into() };
    let groups = [columns.div_ceil(knobs.bn as usize) as u64, m.div_ceil(knobs.bm as usize) as u64, batches as u64];
    let args = k::matmul_transpose_b::Args { x, w, bias: bias.unwrap_or(x), out };
    pass.run(&args, params, (knobs, modes), groups)
}

/// out\[m,n\] = x\[m,k\] w\[n,k\]^T + bias\[n\]: a layer of a model. Few rows take [`matvec`], more take the tiled kernel of
/// [`matmul_transpose_b`]; a weight in chunks takes a dispatch per chunk.
///
/// # Errors
/// [`Error::Shape`] if the dimensions disagree.
pub fn linear(pass: &mut Pass, x: &Tensor, w: &Weight, bias: Option<&Tensor>, out: &mut Tensor) -> Result<()> {
    if x.rows() <= MATVEC_ROWS || pass.is_cpu() {
        return matvec(pass, x, w, bias, out);
    }
    check_linear("linear", x, w, bias, out)?;
    if !x.is_aligned() {
        let x = aligned(pass, x)?;
        return linear(pass, &x, w, bias, out);
    }
    let m = x.rows();
    for (chunk, columns) in chunk_columns(w, out) {
        let n = chunk.tensor.rows();
        transpose_b(pass, x, &chunk.tensor, bias, 1.0, (1, m, n, 0), (chunk.first_row, columns), out)?;
    }
    Ok(())
}

fn check_linear(op: &'static str, x: &Tensor, w: &Weight, bias: Option<&Tensor>, out: &Tensor) -> Result<()> {
    let message = || {
        let bias = bias.map(Tensor::shape);
        let w = [w.rows(), w.columns()];
        format!("x {:?}, w {w:?}, bias {bias:?} into {:?}", x.shape(), out.shape())
    };
    let fits = x.columns() == w.columns() && out.rows() == x.rows() && out.columns() == w.rows();
    ensure(op, fits && bias.is_none_or(|bias| bias.shape() == [w.rows()]), message)?;
    ensure_f32(op, &[x, out])?;
    bias.map_or(Ok(()), |bias| ensure_f32(op, &[bias]))
}

/// The chunks of w, each with the columns of out it writes: the last one also writes the row's padding.
fn chunk_columns<'a>(w: &'a Weight, out: &Tensor) -> Vec<(&'a Chunk, usize)> {
    let pitch = out.pitch();
    let columns = |chunk: &Chunk| {
        let end = chunk.first_row + chunk.tensor.rows();
        if end == w.rows() { pitch - chunk.first_row } else { chunk.tensor.rows() }
    };
    w.chunks.iter().map(|chunk| (chunk, columns(chunk))).collect()
}

/// out\[m,n\] = x\[m,k\] w\[n,k\]^T + bias\[n\] for m = 1..=8. The subgroup kernel where the adapter has subgroups, else the
/// plain one.
///
/// # Errors
/// [`Error::Shape`] if the dimensions disagree or m > 8.
pub fn matvec(pass: &mut Pass, x: &Tensor, w: &Weight, bias: Option<&Tensor>, out: &mut Tensor) -> Result<()> {
    const OP: &str = "matvec";
    check_linear(OP, x, w, bias, out)?;
    if pass.is_cpu() {
        return cpu::linear(x, w, bias, out);
    }
    let m = x.rows();
    ensure(OP, m <= MATVEC_ROWS, || format!("{m} rows of x; at most {MATVEC_ROWS}"))?;
    if m == 0 {
        return Ok(());
    }
    if !x.is_aligned() {
        let x = aligned(pass, x)?;
        return matvec(pass, &x, w, bias, out);
    }
    pass.cost(flops(m, w.columns(), w.rows()));
    let (subgroups, software) = pass.gpu().engine().map_or((false, false), |e| (e.subgroups, e.facts.software));
    for (chunk, columns) in chunk_columns(w, out) {
        let params = k::matvec::Params {
            n: count(OP, chunk.tensor.rows())?,
            quads: count(OP, x.columns().div_ceil(4))?,
            x_pitch: row_quads(OP, x)?,
            w_pitch: row_quads(OP, &chunk.tensor)?,
            out_pitch: count(OP, out.pitch())?,
            column: count(OP, chunk.first_row)?,
            columns: count(OP, columns)?,
        };
        let (w, bias_or_any) = (&chunk.tensor, bias.unwrap_or(x));
        if subgroups {
            use k::matvec_subgroup::{Args, Knobs, Modes, Params};
            // A software adapter's subgroup is one SIMD register, and its barriers are dear.
            let knobs = if software { Knobs { wg: 8, ..Knobs::default() } } else { Knobs::default() };
            let modes = Modes { m: m as u32, bias: bias.is_some().into() };
            let groups = grid(columns.div_ceil(knobs.rows as usize));
            let params: Params = bytemuck::cast(params);
            pass.run(&Args { x, w, bias: bias_or_any, out }, params, (knobs, modes), groups)?;
        } else {
            use k::matvec::{Args, Knobs, Modes};
            let knobs = Knobs::default();
            let modes = Modes { m: m as u32, bias: bias.is_some().into() };
            let groups = grid(columns.div_ceil(knobs.rows as usize));
            pass.run(&Args { x, w, bias: bias_or_any, out }, params, (knobs, modes), groups)?;
        }
    }
    Ok(())
}
