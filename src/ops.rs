//! The host half of each op: check the shapes, choose kernel and grid, make one call. Every op records into a [`Pass`], takes
//! (m, k, n) in this order and returns `Result`; on the CPU backend it computes at once.
//!
//! An op refuses what does not fit before anything is recorded, and names itself and the shapes. Empty results need no
//! dispatch, and a product over k = 0 is zero.

use crate::cpu;
use crate::error::{Error, Result};
use crate::kernel::kernels as k;
use crate::pass::{Pass, grid};
pub use crate::reference::{Attention, Gelu, Row};
use crate::tensor::{DType, Tensor, Weight};

/// Rows up to which a product is matrix times vectors rather than matrix times matrix.
pub const MATVEC_ROWS: usize = 8;

fn ensure(op: &'static str, holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Shape { op, message: message() }) }
}

fn ensure_f32(op: &'static str, tensors: &[&Tensor]) -> Result<()> {
    tensors.iter().try_for_each(|t| ensure(op, t.dtype() == DType::F32, || format!("{t:?}; f32 is needed")))
}

/// `value` as the u32 that kernels count in.
fn count(op: &'static str, value: usize) -> Result<u32> {
    let limit = u64::from(u32::MAX);
    u32::try_from(value).map_err(|_| Error::TooLarge {
        what: format!("a dimension of {op}"),
        needed: value as u64,
        limit,
    })
}

/// Quads of 16 bytes from one row to the next.
fn row_quads(op: &'static str, tensor: &Tensor) -> Result<u32> {
    count(op, tensor.pitch() * tensor.dtype().bytes() / 16)
}

fn flops(m: usize, k: usize, n: usize) -> f64 {
    2.0 * m as f64 * k as f64 * n as f64
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
    if pass.is_cpu() {
        return cpu::matmul(a, b, out);
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
    if pass.is_cpu() {
        return cpu::matmul_transpose_b(a, b, scale, out);
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
fn chunk_columns<'a>(w: &'a Weight, out: &Tensor) -> Vec<(&'a crate::tensor::Chunk, usize)> {
    let pitch = out.pitch();
    let columns = |chunk: &crate::tensor::Chunk| {
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

/// Attention of `rows` (\[m,4\] words, see [`Row`]) over a key-value cache. `qkv` is \[m, (heads + 2 kv_heads) head_dim\];
/// its keys and values are appended to `keys` and `values`, \[slots * context, kv_heads * head_dim\]; `out` is
/// \[m, heads * head_dim\]. The caller vouches for slots and positions.
///
/// # Errors
/// [`Error::Shape`] if the dimensions disagree; [`Error::TooLarge`] for heads beyond workgroup memory.
pub fn attention(
    pass: &mut Pass,
    rows: &Tensor,
    qkv: &Tensor,
    (keys, values): (&mut Tensor, &mut Tensor),
    shape: &Attention,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "attention";
    let &Attention { heads, kv_heads, head_dim, context, scale, causal } = shape;
    let m = rows.rows();
    ensure(OP, kv_heads > 0 && heads % kv_heads == 0 && head_dim > 0, || format!("{shape:?}"))?;
    let fits = rows.columns() == 4
        && rows.dtype() == DType::U32
        && (qkv.rows(), qkv.columns()) == (m, (heads + 2 * kv_heads) * head_dim)
        && (out.rows(), out.columns()) == (m, heads * head_dim)
        && keys.shape() == values.shape()
        && keys.columns() == kv_heads * head_dim
        && (context == 0 || keys.rows() % context == 0);
    let shapes = || {
        let (rows, qkv, keys) = (rows.shape(), qkv.shape(), keys.shape());
        format!("rows {rows:?}, qkv {qkv:?}, keys {keys:?}, out {:?}, {shape:?}", out.shape())
    };
    ensure(OP, fits, shapes)?;
    ensure_f32(OP, &[qkv, keys, values, out])?;
    if pass.is_cpu() {
        return cpu::attention(rows, qkv, keys, values, shape, out);
    }
    let limit = (crate::reflect::MAX_WORKGROUP_BYTES / 8).into();
    if head_dim as u64 > limit {
        return Err(Error::TooLarge { what: "head_dim of attention".to_owned(), needed: head_dim as u64, limit });
    }
    // A guess: half the context is filled.
    pass.cost(flops(m * heads, head_dim, context));
    let params = k::attention::Params {
        m: count(OP, m)?,
        heads: count(OP, heads)?,
        kv_heads: count(OP, kv_heads)?,
        qkv_pitch: count(OP, qkv.pitch())?,
        kv_pitch: count(OP, keys.pitch())?,
        out_pitch: count(OP, out.pitch())?,
        context: count(OP, context)?,
        scale,
    };
    let modes = k::attention::Modes { d: count(OP, head_dim)?, causal: causal.into() };
    let args = k::attention::Args { rows, qkv, keys, values, out };
    pass.run(&args, params, (k::attention::Knobs::default(), modes), [m as u64, heads as u64, 1])
}

/// out\[m,n\] = layer norm of rows `first_row..first_row + m` of x, times weight\[n\], plus bias\[n\].
///
/// # Errors
/// [`Error::Shape`] if the dimensions disagree.
pub fn layer_norm(
    pass: &mut Pass,
    (x, first_row): (&Tensor, usize),
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "layer_norm";
    let (m, n) = (out.rows(), out.columns());
    let enough = first_row.checked_add(m).is_some_and(|end| end <= x.rows());
    let fits = enough && x.columns() == n && weight.shape() == [n] && bias.shape() == [n];
    let message = || {
        let (x, w, b) = (x.shape(), weight.shape(), bias.shape());
        format!("rows {first_row}.. of x {x:?}, weight {w:?}, bias {b:?} into {:?}", out.shape())
    };
    ensure(OP, fits, message)?;
    ensure_f32(OP, &[x, weight, bias, out])?;
    if pass.is_cpu() {
        return cpu::layer_norm(x, first_row, weight, bias, eps, out);
    }
    if n == 0 {
        return Ok(());
    }
    let (pitch, row0) = (count(OP, x.pitch())?, count(OP, first_row)?);
    let params = k::layer_norm::Params { m: count(OP, m)?, n: count(OP, n)?, pitch, row0, eps };
    let args = k::layer_norm::Args { x, weight, bias, out };
    pass.run(&args, params, Default::default(), grid(m))
}

/// Softmax of every row of x, in place.
///
/// # Errors
/// [`Error::Shape`] unless x is f32.
pub fn softmax(pass: &mut Pass, x: &mut Tensor) -> Result<()> {
    const OP: &str = "softmax";
    ensure_f32(OP, &[x])?;
    if pass.is_cpu() {
        return cpu::softmax(x);
    }
    let (m, n, pitch) = (x.rows(), x.columns(), x.pitch());
    if n == 0 {
        return Ok(());
    }
    let params = k::softmax::Params { m: count(OP, m)?, n: count(OP, n)?, pitch: count(OP, pitch)? };
    pass.run(&k::softmax::Args { x }, params, Default::default(), grid(m))
}

/// GELU of every element, in place.
///
/// # Errors
/// [`Error::Shape`] unless x is f32.
pub fn gelu(pass: &mut Pass, x: &mut Tensor, form: Gelu) -> Result<()> {
    ensure_f32("gelu", &[x])?;
    if pass.is_cpu() {
        return cpu::gelu(x, form);
    }
    let (quads, groups) = quads("gelu", x, k::gelu::Knobs::default().wg)?;
    let modes = k::gelu::Modes { form: (form == Gelu::Exact).into() };
    pass.run(&k::gelu::Args { x }, k::gelu::Params { quads }, (Default::default(), modes), groups)
}

/// max(x, 0) of every element, in place.
///
/// # Errors
/// [`Error::Shape`] unless x is f32.
pub fn relu(pass: &mut Pass, x: &mut Tensor) -> Result<()> {
    ensure_f32("relu", &[x])?;
    if pass.is_cpu() {
        return cpu::relu(x);
    }
    let (quads, groups) = quads("relu", x, k::relu::Knobs::default().wg)?;
    pass.run(&k::relu::Args { x }, k::relu::Params { quads }, Default::default(), groups)
}

/// x += y.
///
/// # Errors
/// [`Error::Shape`] unless both have one shape.
pub fn add(pass: &mut Pass, x: &mut Tensor, y: &Tensor) -> Result<()> {
    const OP: &str = "add";
    ensure(OP, x.shape() == y.shape(), || format!("{:?} += {:?}", x.shape(), y.shape()))?;
    ensure_f32(OP, &[x, y])?;
    if pass.is_cpu() {
        return cpu::add(x, y);
    }
    let (quads, groups) = quads(OP, x, k::add::Knobs::default().wg)?;
    pass.run(&k::add::Args { y, x }, k::add::Params { quads }, Default::default(), groups)
}

/// Quads of a tensor, padding included, and the grid of workgroups of `wg` for them.
fn quads(op: &'static str, x: &Tensor, wg: u32) -> Result<(u32, [u64; 3])> {
    let quads = x.rows() * x.pitch() / 4;
    Ok((count(op, quads)?, grid(quads.div_ceil(wg as usize))))
}

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
    let params = k::argmax::Params { m: count(OP, m)?, n: count(OP, n)?, pitch: count(OP, x.pitch())? };
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
    ensure(OP, fits, || format!("{:?} to {:?}", picked.shape(), rows.shape()))?;
    if pass.is_cpu() {
        return cpu::advance(picked, rows);
    }
    let wg = k::advance::Knobs::default().wg as usize;
    let params = k::advance::Params { m: count(OP, m)? };
    pass.run(&k::advance::Args { picked, rows }, params, Default::default(), grid(m.div_ceil(wg)))
}
