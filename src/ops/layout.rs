//! The same elements, lying otherwise.

use super::{count, ensure};
use crate::error::Result;
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
