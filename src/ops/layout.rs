//! The same elements, lying otherwise.

use super::{contiguous, count, ensure};
use crate::cpu;
use crate::error::{Error, Result};
use crate::kernel::kernels as k;
use crate::pass::Pass;
use crate::tensor::Tensor;

/// out\[m,n\] = x\[m,n\], where the rows of the two may start at other distances; 32-bit elements of any kind. What a view
/// of a tensor shows, [`contiguous`] copies.
///
/// # Errors
/// [`Error::Shape`] if the shapes disagree, or for elements of 16 bits.
pub fn repitch(pass: &mut Pass, x: &Tensor, out: &mut Tensor) -> Result<()> {
    ensure("repitch", x.shape() == out.shape(), || format!("{x:?} to {out:?}"))?;
    contiguous(pass, x, out)
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
    let params = k::transpose::Params {
        batches: count(OP, batches)?,
        m: count(OP, m)?,
        n: count(OP, n)?,
        x_pitch: count(OP, x.pitch())?,
        out_pitch: count(OP, out.pitch())?,
    };
    let knobs = pass.knobs(out);
    pass.run(&k::transpose::Args { x, out }, params, (knobs, Default::default()), k::transpose::grid(&params, &knobs))
}
