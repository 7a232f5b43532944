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
/// [`Error::Shape`](crate::Error::Shape) unless x is f32.
pub fn gelu(pass: &mut Pass, x: &mut Tensor, form: Gelu) -> Result<()> {
    let modes = k::gelu::Modes { form: (form == Gelu::Exact).into() };
    let wg = k::gelu::Knobs::default().wg;
    one(
        pass,
        ("gelu", wg),
        x,
        |x| cpu::gelu(x, form),
        |pass, x, quads, groups| {
            pass.run(&k::gelu::Args { x }, k::gelu::Params { quads }, (Default::default(), modes), groups)
        },
    )
}

/// max(x, 0) of every element, in place.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless x is f32.
pub fn relu(pass: &mut Pass, x: &mut Tensor) -> Result<()> {
    let wg = k::relu::Knobs::default().wg;
    one(pass, ("relu", wg), x, cpu::relu, |pass, x, quads, groups| {
        pass.run(&k::relu::Args { x }, k::relu::Params { quads }, Default::default(), groups)
    })
}

/// 1 / (1 + exp(-x)) of every element, in place.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless x is f32.
pub fn sigmoid(pass: &mut Pass, x: &mut Tensor) -> Result<()> {
    const OP: &str = "sigmoid";
    let wg = k::sigmoid::Knobs::default().wg;
    one(pass, (OP, wg), x, cpu::sigmoid, |pass, x, quads, groups| {
        let params = k::sigmoid::Params { quads, n: count(OP, x.columns())?, pitch: count(OP, x.pitch() / 4)? };
        pass.run(&k::sigmoid::Args { x }, params, Default::default(), groups)
    })
}

/// x / (1 + exp(-x)) of every element, in place.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless x is f32.
pub fn silu(pass: &mut Pass, x: &mut Tensor) -> Result<()> {
    let wg = k::silu::Knobs::default().wg;
    one(pass, ("silu", wg), x, cpu::silu, |pass, x, quads, groups| {
        pass.run(&k::silu::Args { x }, k::silu::Params { quads }, Default::default(), groups)
    })
}

/// tanh of every element, in place: to a few units in the last place, near 0 as well.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless x is f32.
pub fn tanh(pass: &mut Pass, x: &mut Tensor) -> Result<()> {
    let wg = k::tanh::Knobs::default().wg;
    one(pass, ("tanh", wg), x, cpu::tanh, |pass, x, quads, groups| {
        pass.run(&k::tanh::Args { x }, k::tanh::Params { quads }, Default::default(), groups)
    })
}

/// x *= factor. The caller vouches that the factor and the products are finite.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless x is f32.
pub fn scale(pass: &mut Pass, x: &mut Tensor, factor: f32) -> Result<()> {
    const OP: &str = "scale";
    let wg = k::scale::Knobs::default().wg;
    let on_host = |x: &Tensor| cpu::scale(x, factor);
    one(pass, (OP, wg), x, on_host, |pass, x, quads, groups| {
        let (n, pitch) = (count(OP, x.columns())?, count(OP, x.pitch() / 4)?);
        let params = k::scale::Params { quads, n, pitch, factor };
        pass.run(&k::scale::Args { x }, params, Default::default(), groups)
    })
}

/// x = x * factor + x, `times` times, fused where the device fuses: what a device can do at most. With `times` large it is
/// bound by multiply-adds, 2 `times` operations an element; with 1 by memory, which x crosses twice. The caller vouches that
/// the products are finite.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless x is f32.
pub fn probe(pass: &mut Pass, x: &mut Tensor, factor: f32, times: u32) -> Result<()> {
    let wg = k::probe::Knobs::default().wg;
    let on_host = |x: &Tensor| cpu::probe(x, factor, times);
    one(pass, ("probe", wg), x, on_host, |pass, x, quads, groups| {
        pass.cost(8.0 * f64::from(quads) * f64::from(times));
        pass.run(&k::probe::Args { x }, k::probe::Params { quads, times, factor }, Default::default(), groups)
    })
}

/// x += y.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless both have one shape; [`Error::Alias`](crate::Error::Alias).
pub fn add(pass: &mut Pass, x: &mut Tensor, y: &Tensor) -> Result<()> {
    let wg = k::add::Knobs::default().wg;
    two(pass, ("add", "+=", wg), x, y, cpu::add, |pass, x, y, quads, groups| {
        pass.run(&k::add::Args { y, x }, k::add::Params { quads }, Default::default(), groups)
    })
}

/// x *= y, element by element.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless both have one shape; [`Error::Alias`](crate::Error::Alias).
pub fn mul(pass: &mut Pass, x: &mut Tensor, y: &Tensor) -> Result<()> {
    let wg = k::mul::Knobs::default().wg;
    two(pass, ("mul", "*=", wg), x, y, cpu::mul, |pass, x, y, quads, groups| {
        pass.run(&k::mul::Args { y, x }, k::mul::Params { quads }, Default::default(), groups)
    })
}

/// out\[m,n\] = silu(gate) * up for x\[m,2n\] = gate | up, which lie in one row as a product with both weights at once leaves
/// them.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree; [`Error::Alias`](crate::Error::Alias).
pub fn swiglu(pass: &mut Pass, x: &Tensor, out: &mut Tensor) -> Result<()> {
    const OP: &str = "swiglu";
    let (m, n) = (out.rows(), out.columns());
    let fits = x.rows() == m && Some(x.columns()) == n.checked_mul(2);
    ensure(OP, fits, || format!("{:?} into {:?}", x.shape(), out.shape()))?;
    ensure_f32(OP, &[x, out])?;
    if pass.is_cpu() {
        return cpu::swiglu(x, out);
    }
    let (x_pitch, out_pitch) = (count(OP, x.pitch())?, count(OP, out.pitch())?);
    let params = k::swiglu::Params { m: count(OP, m)?, n: count(OP, n)?, x_pitch, out_pitch };
    let groups = grid((m * out.pitch()).div_ceil(k::swiglu::Knobs::default().wg as usize));
    pass.run(&k::swiglu::Args { x, out }, params, Default::default(), groups)
}

/// An op on the quads of x: on the host, or `run` with how many quads and workgroups of `wg` there are.
fn one(
    pass: &mut Pass,
    (op, wg): (&'static str, u32),
    x: &mut Tensor,
    on_host: impl FnOnce(&Tensor) -> Result<()>,
    run: impl FnOnce(&mut Pass, &mut Tensor, u32, [u64; 3]) -> Result<()>,
) -> Result<()> {
    ensure_f32(op, &[x])?;
    if pass.is_cpu() {
        return on_host(x);
    }
    let run = |pass: &mut Pass, x: &mut Tensor| {
        let (quads, groups) = quads(op, x, wg)?;
        run(pass, x, quads, groups)
    };
    if x.is_aligned() { run(pass, x) } else { in_place(pass, x, run) }
}

/// [`one`] with another operand y of the shape of x.
fn two(
    pass: &mut Pass,
    (op, sign, wg): (&'static str, &'static str, u32),
    x: &mut Tensor,
    y: &Tensor,
    on_host: impl FnOnce(&Tensor, &Tensor) -> Result<()>,
    run: impl FnOnce(&mut Pass, &mut Tensor, &Tensor, u32, [u64; 3]) -> Result<()>,
) -> Result<()> {
    ensure(op, x.shape() == y.shape(), || format!("{:?} {sign} {:?}", x.shape(), y.shape()))?;
    ensure_f32(op, &[x, y])?;
    pass.check_apart(op, &[("y", y)], ("x", x))?;
    if !pass.is_cpu() && !y.is_aligned() {
        let y = aligned(pass, y)?;
        return two(pass, (op, sign, wg), x, &y, on_host, run);
    }
    one(pass, (op, wg), x, |x| on_host(x, y), |pass, x, quads, groups| run(pass, x, y, quads, groups))
}

/// Quads of a tensor, padding included, and the grid of workgroups of `wg` for them.
fn quads(op: &'static str, x: &Tensor, wg: u32) -> Result<(u32, [u64; 3])> {
    let quads = x.rows() * x.pitch() / 4;
    Ok((count(op, quads)?, grid(quads.div_ceil(wg as usize))))
}
