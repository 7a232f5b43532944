//! The host half of each op: check the shapes, choose kernel and grid, make one call. Every op records into a [`Pass`], takes
//! (m, k, n) in this order and returns `Result`; on the CPU backend it computes at once.
//!
//! An op refuses what does not fit before anything is recorded, and names itself and the shapes. Empty results need no
//! dispatch, and a product over k = 0 is zero. A caller's dense tensor whose rows do not start at multiples of 16 bytes goes
//! through scratch memory ([`repitch`]) where the kernel reads quads.

mod products;

use crate::cpu;
use crate::error::{Error, Result};
use crate::kernel::kernels as k;
use crate::pass::{Pass, grid};
pub use crate::reference::{Attention, Gelu, Row};
use crate::tensor::{DType, Tensor, Weight};
pub use products::{MATVEC_ROWS, linear, matmul, matmul_transpose_b, matvec};

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

/// A copy of a caller's dense tensor in scratch memory, rows at multiples of 16 bytes.
fn aligned(pass: &mut Pass, x: &Tensor) -> Result<Tensor> {
    let mut copy = pass.tensor_of(x.shape(), x.dtype())?;
    repitch(pass, x, &mut copy)?;
    Ok(copy)
}

/// Lets an op write to scratch memory and copies the result to a caller's dense tensor.
fn through(pass: &mut Pass, out: &mut Tensor, op: impl FnOnce(&mut Pass, &mut Tensor) -> Result<()>) -> Result<()> {
    let mut scratch = pass.tensor_of(out.shape(), out.dtype())?;
    op(pass, &mut scratch)?;
    repitch(pass, &scratch, out)
}

/// Lets an in-place op work on a copy of a caller's dense tensor.
fn in_place(pass: &mut Pass, x: &mut Tensor, op: impl FnOnce(&mut Pass, &mut Tensor) -> Result<()>) -> Result<()> {
    let mut copy = aligned(pass, x)?;
    op(pass, &mut copy)?;
    repitch(pass, &copy, x)
}

/// out\[m,n\] = x\[m,n\], where the rows of the two may start at other distances; 32-bit elements of any kind.
///
/// # Errors
/// [`Error::Shape`] if the shapes disagree, or for f16.
pub fn repitch(pass: &mut Pass, x: &Tensor, out: &mut Tensor) -> Result<()> {
    const OP: &str = "repitch";
    let fits = x.shape() == out.shape() && x.dtype() == out.dtype() && x.dtype() != DType::F16;
    ensure(OP, fits, || format!("{x:?} to {out:?}; f16 rows must start at multiples of 16 bytes"))?;
    if pass.is_cpu() {
        return pass.copy(x, out);
    }
    let (m, out_pitch) = (x.rows(), out.pitch());
    let params = k::repitch::Params {
        m: count(OP, m)?,
        n: count(OP, x.columns())?,
        x_pitch: count(OP, x.pitch())?,
        out_pitch: count(OP, out_pitch)?,
    };
    let wg = k::repitch::Knobs::default().wg as usize;
    let groups = grid((m * out_pitch).div_ceil(wg));
    pass.run(&k::repitch::Args { x, out }, params, Default::default(), groups)
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
    let params = k::layer_norm::Params {
        m: count(OP, m)?,
        n: count(OP, n)?,
        x_pitch: count(OP, x.pitch())?,
        out_pitch: count(OP, out.pitch())?,
        row0: count(OP, first_row)?,
        eps,
    };
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
    if !x.is_aligned() {
        return in_place(pass, x, |pass, x| gelu(pass, x, form));
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
    if !x.is_aligned() {
        return in_place(pass, x, relu);
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
    if !x.is_aligned() || !y.is_aligned() {
        let y = aligned(pass, y)?;
        return in_place(pass, x, |pass, x| add(pass, x, &y));
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
    ensure(OP, fits, || format!("{:?} to {:?}", picked.shape(), rows.shape()))?;
    if pass.is_cpu() {
        return cpu::advance(picked, rows);
    }
    let wg = k::advance::Knobs::default().wg as usize;
    let params = k::advance::Params { m: count(OP, m)?, picked_pitch: count(OP, picked.pitch())? };
    pass.run(&k::advance::Args { picked, rows }, params, Default::default(), grid(m.div_ceil(wg)))
}
