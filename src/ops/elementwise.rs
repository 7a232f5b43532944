//! What looks at one element at a time.

use super::{aligned, count, ensure, ensure_f32, in_place};
use crate::cpu;
use crate::error::Result;
use crate::kernel::{Format, kernels as k};
use crate::pass::Pass;
use crate::reference::Gelu;
use crate::tensor::Tensor;

/// GELU of every element, in place.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless x is f32.
pub fn gelu(pass: &mut Pass, x: &mut Tensor, form: Gelu) -> Result<()> {
    let exact = (form == Gelu::Exact).into();
    one(
        pass,
        "gelu",
        x,
        |x| cpu::gelu(x, form),
        |pass, x, quads| {
            if quads % 2 == 0 && pass.picks(&k::gelu_wide::KERNEL, false, x, Format::F32) {
                use k::gelu_wide::{Args, Modes, Params, grid};
                let (knobs, params) = (pass.knobs(x), Params { eights: quads / 2 });
                return pass.run(&Args { x }, params, (knobs, Modes { form: exact }), grid(&params, &knobs));
            }
            use k::gelu::{Args, Modes, Params, grid};
            let (knobs, params) = (pass.knobs(x), Params { quads });
            pass.run(&Args { x }, params, (knobs, Modes { form: exact }), grid(&params, &knobs))
        },
    )
}

/// max(x, 0) of every element, in place.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless x is f32.
pub fn relu(pass: &mut Pass, x: &mut Tensor) -> Result<()> {
    one(pass, "relu", x, cpu::relu, |pass, x, quads| {
        let knobs = pass.knobs(x);
        let params = k::relu::Params { quads };
        pass.run(&k::relu::Args { x }, params, (knobs, Default::default()), k::relu::grid(&params, &knobs))
    })
}

/// 1 / (1 + exp(-x)) of every element, in place.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless x is f32.
pub fn sigmoid(pass: &mut Pass, x: &mut Tensor) -> Result<()> {
    const OP: &str = "sigmoid";
    one(pass, OP, x, cpu::sigmoid, |pass, x, quads| {
        let params = k::sigmoid::Params { quads, n: count(OP, x.columns())?, pitch: count(OP, x.pitch() / 4)? };
        let knobs = pass.knobs(x);
        pass.run(&k::sigmoid::Args { x }, params, (knobs, Default::default()), k::sigmoid::grid(&params, &knobs))
    })
}

/// x / (1 + exp(-x)) of every element, in place.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless x is f32.
pub fn silu(pass: &mut Pass, x: &mut Tensor) -> Result<()> {
    one(pass, "silu", x, cpu::silu, |pass, x, quads| {
        let knobs = pass.knobs(x);
        let params = k::silu::Params { quads };
        pass.run(&k::silu::Args { x }, params, (knobs, Default::default()), k::silu::grid(&params, &knobs))
    })
}

/// tanh of every element, in place: to a few units in the last place, near 0 as well.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless x is f32.
pub fn tanh(pass: &mut Pass, x: &mut Tensor) -> Result<()> {
    one(pass, "tanh", x, cpu::tanh, |pass, x, quads| {
        let knobs = pass.knobs(x);
        let params = k::tanh::Params { quads };
        pass.run(&k::tanh::Args { x }, params, (knobs, Default::default()), k::tanh::grid(&params, &knobs))
    })
}

/// x *= factor. The caller vouches that the factor and the products are finite.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless x is f32.
pub fn scale(pass: &mut Pass, x: &mut Tensor, factor: f32) -> Result<()> {
    const OP: &str = "scale";
    let on_host = |x: &Tensor| cpu::scale(x, factor);
    one(pass, OP, x, on_host, |pass, x, quads| {
        let (n, pitch) = (count(OP, x.columns())?, count(OP, x.pitch() / 4)?);
        let params = k::scale::Params { quads, n, pitch, factor };
        let knobs = pass.knobs(x);
        pass.run(&k::scale::Args { x }, params, (knobs, Default::default()), k::scale::grid(&params, &knobs))
    })
}

/// x = x * factor + x, `times` times, fused where the device fuses: what a device can do at most. With `times` large it is
/// bound by multiply-adds, 2 `times` operations an element; with 1 by memory, which x crosses twice. The caller vouches that
/// the products are finite.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless x is f32.
pub fn probe(pass: &mut Pass, x: &mut Tensor, factor: f32, times: u32) -> Result<()> {
    let on_host = |x: &Tensor| cpu::probe(x, factor, times);
    one(pass, "probe", x, on_host, |pass, x, quads| {
        pass.cost(8.0 * f64::from(quads) * f64::from(times));
        let knobs = pass.knobs(x);
        let params = k::probe::Params { quads, times, factor };
        pass.run(&k::probe::Args { x }, params, (knobs, Default::default()), k::probe::grid(&params, &knobs))
    })
}

/// x += y.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless both are f32 of one shape; [`Error::Alias`](crate::Error::Alias).
pub fn add(pass: &mut Pass, x: &mut Tensor, y: &Tensor) -> Result<()> {
    two(pass, ("add", "+="), x, y, cpu::add, |pass, x, y, quads| {
        let knobs = pass.knobs(x);
        let params = k::add::Params { quads };
        pass.run(&k::add::Args { y, x }, params, (knobs, Default::default()), k::add::grid(&params, &knobs))
    })
}

/// x *= y, element by element.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless both are f32 of one shape; [`Error::Alias`](crate::Error::Alias).
pub fn mul(pass: &mut Pass, x: &mut Tensor, y: &Tensor) -> Result<()> {
    two(pass, ("mul", "*="), x, y, cpu::mul, |pass, x, y, quads| {
        let knobs = pass.knobs(x);
        let params = k::mul::Params { quads };
        pass.run(&k::mul::Args { y, x }, params, (knobs, Default::default()), k::mul::grid(&params, &knobs))
    })
}

/// out\[m,n\] = silu(gate) * up for x\[m,2n\] = gate | up, which lie in one row as a product with both weights at once leaves
/// them.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree, and unless both are f32;
/// [`Error::Alias`](crate::Error::Alias).
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
    let knobs = pass.knobs(out);
    pass.run(&k::swiglu::Args { x, out }, params, (knobs, Default::default()), k::swiglu::grid(&params, &knobs))
}

/// An op on the quads of x: on the host, or `run` with how many quads there are, padding included.
fn one(
    pass: &mut Pass,
    op: &'static str,
    x: &mut Tensor,
    on_host: impl FnOnce(&Tensor) -> Result<()>,
    run: impl FnOnce(&mut Pass, &mut Tensor, u32) -> Result<()>,
) -> Result<()> {
    ensure_f32(op, &[x])?;
    if pass.is_cpu() {
        return on_host(x);
    }
    let run = |pass: &mut Pass, x: &mut Tensor| {
        let quads = count(op, x.rows() * x.pitch() / 4)?;
        run(pass, x, quads)
    };
    if x.is_aligned() { run(pass, x) } else { in_place(pass, x, run) }
}

/// [`one`] with another operand y of the shape of x.
fn two(
    pass: &mut Pass,
    (op, sign): (&'static str, &'static str),
    x: &mut Tensor,
    y: &Tensor,
    on_host: impl FnOnce(&Tensor, &Tensor) -> Result<()>,
    run: impl FnOnce(&mut Pass, &mut Tensor, &Tensor, u32) -> Result<()>,
) -> Result<()> {
    ensure(op, x.shape() == y.shape(), || format!("{:?} {sign} {:?}", x.shape(), y.shape()))?;
    ensure_f32(op, &[x, y])?;
    pass.check_apart(op, &[("y", y)], ("x", x))?;
    if !pass.is_cpu() && !y.is_aligned() {
        let y = aligned(pass, y)?;
        return two(pass, (op, sign), x, &y, on_host, run);
    }
    one(pass, op, x, |x| on_host(x, y), |pass, x, quads| run(pass, x, y, quads))
}
