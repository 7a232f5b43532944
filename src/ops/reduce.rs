//! What makes one number of many. Both ops are deterministic: the order of every sum is fixed by the shapes and, on a
//! device, by the knob WG, which a tuning may set.

use super::{aligned, count, ensure, ensure_f32};
use crate::cpu;
use crate::error::Result;
use crate::kernel::kernels as k;
use crate::pass::Pass;
use crate::reference::Reduction;
use crate::tensor::Tensor;

/// Elements that one workgroup takes. What is longer is reduced in parts, and the parts' results in the same way.
pub(crate) const PART: usize = 1 << 14;

/// The sum, the largest element or the mean of every row of x. `out` has as many elements as x has rows, in their order,
/// in whatever shape: \[m\], \[m,1\], or that of x without its last dimension. The sum over no columns is 0.
///
/// An element of a row of n meets at most min(n, 2^14) / 32 + 8 roundings in its part, and as many more as a row of
/// n / 2^14 where there are several parts; the error of a sum is below that many 2^-23 times the sum of |x|.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree, unless both are f32, and for the largest element
/// or the mean of no columns; [`Error::Alias`](crate::Error::Alias).
pub fn reduce(pass: &mut Pass, x: &Tensor, how: Reduction, out: &mut Tensor) -> Result<()> {
    const OP: &str = "reduce";
    let (m, n) = (x.rows(), x.columns());
    let fits = out.rows() * out.columns() == m && (n > 0 || how == Reduction::Sum);
    ensure(OP, fits, || format!("{how:?} of {:?} into {:?}", x.shape(), out.shape()))?;
    ensure_f32(OP, &[x, out])?;
    if pass.is_cpu() {
        return cpu::reduce(x, how, out);
    }
    pass.check_apart(OP, &[("x", x)], ("out", out))?;
    let factor = if how == Reduction::Mean { 1.0 / n as f32 } else { 1.0 };
    fold(pass, x, how, factor, out)
}

/// One dispatch where a row is one part, else one to scratch memory, and the same again.
fn fold(pass: &mut Pass, x: &Tensor, how: Reduction, factor: f32, out: &mut Tensor) -> Result<()> {
    let parts = x.columns().div_ceil(PART);
    if parts <= 1 {
        return parts_of_rows(pass, x, how, 1, factor, out);
    }
    let mut partials = pass.tensor(&[x.rows(), parts])?;
    parts_of_rows(pass, x, how, parts, 1.0, &mut partials)?;
    fold(pass, &partials, how, factor, out)
}

fn parts_of_rows(
    pass: &mut Pass,
    x: &Tensor,
    how: Reduction,
    parts: usize,
    factor: f32,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "reduce";
    let groups = x.rows() * parts;
    let params = k::reduce::Params {
        count: count(OP, groups)?,
        n: count(OP, x.columns())?,
        x_pitch: count(OP, x.pitch())?,
        parts: count(OP, parts)?,
        length: PART as u32,
        out_n: count(OP, out.columns())?,
        out_pitch: count(OP, out.pitch())?,
        factor,
    };
    let modes = k::reduce::Modes { op: (how == Reduction::Max).into() };
    let knobs = pass.knobs(out);
    pass.run(&k::reduce::Args { x, out }, params, (knobs, modes), k::reduce::grid(&params, &knobs))
}

/// out\[1\] = the sum of x y over all elements of two tensors of one shape; 0 where there are none.
///
/// The error is at most d 2^-23 times the sum of |x y|, for d = min(n, 2^14) / 32 + n / 2^19 + 24 and n elements, up to 2^28
/// of them: a serial sum within an invocation, a tree within a workgroup, and [`reduce`] over the parts.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree, and unless all are f32;
/// [`Error::Alias`](crate::Error::Alias).
pub fn dot(pass: &mut Pass, x: &Tensor, y: &Tensor, out: &mut Tensor) -> Result<()> {
    const OP: &str = "dot";
    let fits = x.shape() == y.shape() && out.rows() * out.columns() == 1;
    ensure(OP, fits, || format!("{:?} . {:?} into {:?}", x.shape(), y.shape(), out.shape()))?;
    ensure_f32(OP, &[x, y, out])?;
    if pass.is_cpu() {
        return cpu::dot(x, y, out);
    }
    pass.check_apart(OP, &[("x", x), ("y", y)], ("out", out))?;
    if !x.is_aligned() {
        let x = aligned(pass, x)?;
        return dot(pass, &x, y, out);
    }
    if !y.is_aligned() {
        let y = aligned(pass, y)?;
        return dot(pass, x, &y, out);
    }
    let quads = x.rows() * x.pitch() / 4;
    let parts = quads.div_ceil(PART / 4);
    if parts <= 1 {
        return parts_of_dot(pass, x, y, quads, 1, out);
    }
    let mut partials = pass.tensor(&[parts])?;
    parts_of_dot(pass, x, y, quads, parts, &mut partials)?;
    fold(pass, &partials, Reduction::Sum, 1.0, out)
}

fn parts_of_dot(pass: &mut Pass, x: &Tensor, y: &Tensor, quads: usize, parts: usize, out: &mut Tensor) -> Result<()> {
    const OP: &str = "dot";
    let params = k::dot::Params {
        quads: count(OP, quads)?,
        parts: count(OP, parts)?,
        length: (PART / 4) as u32,
        out_pitch: count(OP, out.pitch())?,
    };
    let knobs = pass.knobs(out);
    pass.run(&k::dot::Args { x, y, out }, params, (knobs, Default::default()), k::dot::grid(&params, &knobs))
}
