//! Attention over a key-value cache.

use super::{count, ensure, ensure_f32, flops};
use crate::cpu;
use crate::error::{Error, Result};
use crate::kernel::kernels as k;
use crate::pass::Pass;
use crate::reference::Attention;
use crate::tensor::{DType, Tensor};

/// Attention of `rows` (\[m,4\] words, see [`Row`](crate::ops::Row)) over a key-value cache. `qkv` is \[m, (heads + 2 kv_heads) head_dim\];
/// its keys and values are appended to `keys` and `values`, \[slots * context, kv_heads * head_dim\]; `out` is
/// \[m, heads * head_dim\]. The caller vouches for slots and positions.
///
/// Keys and values are kept in the type of those two tensors, f32 or f16. Halves are rounded when they are appended, and
/// every row sees them rounded, its own too; beyond 65504 they are infinite.
///
/// # Errors
/// [`Error::Shape`] if the dimensions disagree, or `head_dim` is odd where two halves are to share a word;
/// [`Error::TooLarge`] for heads beyond workgroup memory.
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
    let width = |heads: usize| heads.checked_mul(head_dim);
    let all_heads = kv_heads.checked_mul(2).and_then(|kv_heads| heads.checked_add(kv_heads));
    let fits = rows.columns() == 4
        && rows.dtype() == DType::U32
        && (qkv.rows(), Some(qkv.columns())) == (m, all_heads.and_then(width))
        && (out.rows(), Some(out.columns())) == (m, width(heads))
        && keys.shape() == values.shape()
        && keys.dtype() == values.dtype()
        && (keys.dtype() == DType::F32 || keys.dtype() == DType::F16 && head_dim.is_multiple_of(2))
        && Some(keys.columns()) == width(kv_heads)
        && (context == 0 || keys.rows() % context == 0);
    let shapes = || {
        let (rows, qkv, keys, keys_dtype) = (rows.shape(), qkv.shape(), keys.shape(), keys.dtype());
        let dtypes = (keys_dtype, values.dtype());
        format!("rows {rows:?}, qkv {qkv:?}, keys {keys:?} {dtypes:?}, out {:?}, {shape:?}", out.shape())
    };
    ensure(OP, fits, shapes)?;
    ensure_f32(OP, &[qkv, out])?;
    if pass.is_cpu() {
        return cpu::attention(rows, qkv, keys, values, shape, out);
    }
    let limit = (crate::reflect::MAX_WORKGROUP_BYTES / 8).into();
    if head_dim as u64 > limit {
        return Err(Error::TooLarge { what: "head_dim of attention".to_owned(), needed: head_dim as u64, limit });
    }
    // A guess: half the context is filled.
    pass.cost(flops(m * heads, head_dim, context));
    pass.moves((qkv.bytes() + out.bytes()) as f64 + (m * context * keys.columns() * keys.dtype().bytes()) as f64);
    let params = k::attention::Params {
        m: count(OP, m)?,
        heads: count(OP, heads)?,
        kv_heads: count(OP, kv_heads)?,
        qkv_pitch: count(OP, qkv.pitch())?,
        kv_pitch: count(OP, keys.pitch() * keys.dtype().bytes() / 4)?,
        out_pitch: count(OP, out.pitch())?,
        context: count(OP, context)?,
        scale,
    };
    let half = (keys.dtype() == DType::F16).into();
    let modes = k::attention::Modes { d: count(OP, head_dim)?, causal: causal.into(), half };
    let knobs = pass.knobs(out);
    let args = k::attention::Args { rows, qkv, keys, values, out };
    pass.run(&args, params, (knobs, modes), k::attention::grid(&params, &knobs))
}
