//! The same elements, lying otherwise.

use super::{contiguous, ensure};
use crate::error::Result;
use crate::pass::Pass;
use crate::tensor::Tensor;

/// out\[m,n\] = x\[m,n\], where the rows of the two may start at other distances; 32-bit elements of any kind. What a view
/// of a tensor shows, [`contiguous`] copies.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the shapes disagree, or for f16.
pub fn repitch(pass: &mut Pass, x: &Tensor, out: &mut Tensor) -> Result<()> {
    ensure("repitch", x.shape() == out.shape(), || format!("{x:?} to {out:?}"))?;
    contiguous(pass, x, out)
}
