//! What looks at one element at a time.

use super::{aligned, count, ensure, ensure_f32, in_place};
use crate::cpu;
use crate::error::Result;
use crate::kernel::kernels as k;
use crate::pass::{Pass, grid};
use crate::reference::Gelu;
use crate::tensor::Tensor;

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
