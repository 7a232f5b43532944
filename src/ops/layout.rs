//! The same elements, lying otherwise.

use super::{count, ensure};
use crate::cpu;
use crate::error::{Error, Result};
use crate::kernel::kernels as k;
use crate::pass::{Pass, grid};
use crate::tensor::Tensor;

/// out\[m,n\] = x\[m,n\], where the rows of the two may start at other distances; 32-bit elements of any kind.
///
/// # Errors
/// [`Error::Shape`] if the shapes disagree, or for elements of 16 bits.
pub fn repitch(pass: &mut Pass, x: &Tensor, out: &mut Tensor) -> Result<()> {
    const OP: &str = "repitch";
    let fits = x.shape() == out.shape() && x.dtype() == out.dtype() && x.dtype().bytes() == 4;
    ensure(OP, fits, || format!("{x:?} to {out:?}; rows of halves must start at multiples of 16 bytes"))?;
    if pass.is_cpu() {
        return cpu::repitch(x, out);
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

/// out\[b,n,m\] = x\[b,m,n\] with rows and columns exchanged, for two or three dimensions; 32-bit elements of any kind.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the shapes disagree or have another number of dimensions, or for f16.
pub fn transpose(pass: &mut Pass, x: &Tensor, out: &mut Tensor) -> Result<()> {
    const OP: &str = "transpose";
    let dims = match (x.shape(), out.shape()) {
        (&[m, n], &[out_n, out_m]) if (out_n, out_m) == (n, m) => Some((1, m, n)),
        (&[b, m, n], &[out_b, out_n, out_m]) if (out_b, out_n, out_m) == (b, n, m) => Some((b, m, n)),
        _ => None,
    };
    let of_words = x.dtype() == out.dtype() && x.dtype().bytes() == 4;
    let (batches, m, n) = match dims.filter(|_| of_words) {
        Some(dims) => dims,
        None => return Err(Error::Shape { op: OP, message: format!("{x:?} to {out:?}") }),
    };
    if pass.is_cpu() {
        return cpu::transpose(x, (m, n), out);
    }
    let tile = k::transpose::Knobs::default().tile as usize;
    let params = k::transpose::Params {
        batches: count(OP, batches)?,
        m: count(OP, m)?,
        n: count(OP, n)?,
        x_pitch: count(OP, x.pitch())?,
        out_pitch: count(OP, out.pitch())?,
    };
    let groups = grid(batches * m.div_ceil(tile) * n.div_ceil(tile));
    pass.run(&k::transpose::Args { x, out }, params, Default::default(), groups)
}
