//! The host half of each op: check the shapes, choose kernel and grid, make one call. Every op records into a [`Pass`], takes
//! (m, k, n) in this order and returns `Result`; on the CPU backend it computes at once.
//!
//! An op refuses what does not fit before anything is recorded, and names itself and the shapes. Empty results need no
//! dispatch, and a product over k = 0 is zero. A caller's dense tensor whose rows do not start at multiples of 16 bytes goes
//! through scratch memory ([`repitch`]) where the kernel reads quads.

mod attention;
mod cast;
mod elementwise;
mod layers;
mod layout;
mod matrices;
mod norms;
mod products;
mod reduce;
mod rows;
mod sample;

use std::borrow::Cow;

use crate::error::{Error, Result};
use crate::pass::Pass;
pub use crate::reference::{Activation, Attention, Gelu, Pairing, Reduction, Rope, Row, Sampler};
use crate::tensor::{DType, Tensor};
pub use attention::{Decode, Turn, attention, attention_decode};
pub use cast::cast;
pub use elementwise::{add, gelu, mul, probe, relu, scale, sigmoid, silu, swiglu, tanh};
pub use layers::{MATVEC_ROWS, Norm, linear, linear_with, matvec, matvec_with, norm_linear};
pub use layout::{repitch, transpose};
pub use matrices::{Matrices, contiguous};
pub use norms::{add_layer_norm, add_rms_norm, layer_norm, log_softmax, rms_norm, softmax};
pub use products::{Epilogue, matmul, matmul_transpose_b, matmul_with};
pub(crate) use products::{fits, tiled};
pub(crate) use reduce::PART;
pub use reduce::{dot, reduce};
pub use rows::{argmax, embed, gather, norm_rope, rope, rope_frequencies, rope_table};
pub use sample::{TOP_K, sample};

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

/// x, or [a copy](aligned) where its rows do not start at multiples of 16 bytes.
fn in_quads<'a>(pass: &mut Pass, x: &'a Tensor) -> Result<Cow<'a, Tensor>> {
    if x.is_aligned() { Ok(Cow::Borrowed(x)) } else { aligned(pass, x).map(Cow::Owned) }
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

/// Lets an op of the host overwrite out, or add to it.
fn accumulated(
    pass: &mut Pass,
    accumulate: bool,
    out: &mut Tensor,
    op: impl FnOnce(&mut Pass, &mut Tensor) -> Result<()>,
) -> Result<()> {
    if !accumulate {
        return op(pass, out);
    }
    let mut product = pass.tensor(out.shape())?;
    op(pass, &mut product)?;
    add(pass, out, &product)
}
