//! What looks at a whole row: norms and softmax.

use super::{count, ensure, ensure_f32, in_place, in_quads, through};
use crate::cpu;
use crate::error::Result;
use crate::kernel::kernels as k;
use crate::pass::Pass;
use crate::tensor::Tensor;

/// out\[m,n\] = layer norm of rows `first_row..first_row + m` of x, times weight\[n\], plus bias\[n\].
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree.
pub fn layer_norm(
    pass: &mut Pass,
    (x, first_row): (&Tensor, usize),
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "layer_norm";
    let (m, n) = (out.rows(), out.columns());
    let enough = first_row.checked_add(m).is_some_and(|end| end <= x.rows());
    let fits = enough && x.columns() == n && weight.shape() == [n] && bias.shape() == [n];
    let message = || {
        let (x, w, b) = (x.shape(), weight.shape(), bias.shape());
        format!("rows {first_row}.. of x {x:?}, weight {w:?}, bias {b:?} into {:?}", out.shape())
    };
    ensure(OP, fits, message)?;
    ensure_f32(OP, &[x, weight, bias, out])?;
    if pass.is_cpu() {
        return cpu::layer_norm(x, first_row, weight, bias, eps, out);
    }
    pass.check_apart(OP, &[("x", x), ("weight", weight), ("bias", bias)], ("out", out))?;
    if n == 0 {
        return Ok(());
    }
    if !out.is_aligned() {
        return through(pass, out, |pass, out| layer_norm(pass, (x, first_row), weight, bias, eps, out));
    }
    let (x, weight, bias) = (&*in_quads(pass, x)?, &*in_quads(pass, weight)?, &*in_quads(pass, bias)?);
    let params = k::layer_norm::Params { m: count(OP, m)?, n: count(OP, n)?, row0: count(OP, first_row)?, eps };
    let knobs = pass.knobs::<k::layer_norm::Knobs>(out);
    let knobs = k::layer_norm::Knobs { rows: per_group(knobs.rows, n), ..knobs };
    let args = k::layer_norm::Args { x, weight, bias, out };
    pass.run(&args, params, (knobs, Default::default()), k::layer_norm::grid(&params, &knobs))
}

/// x\[m,n\] += y\[m,n\], rounded once, and out\[m,n\] = layer norm of what x then is, times weight\[n\], plus bias\[n\]:
/// [`add`](super::add) and [`layer_norm`] in one dispatch, as one block of a transformer ends and the next begins. Layer
/// norm: Ba, Kiros, Hinton 2016, arXiv 1607.06450.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree or something is not f32;
/// [`Error::Alias`](crate::Error::Alias) if x, y and out are not three tensors.
pub fn add_layer_norm(
    pass: &mut Pass,
    x: &mut Tensor,
    y: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "add_layer_norm";
    let (m, n) = (x.rows(), x.columns());
    let same = x.shape() == y.shape() && (out.rows(), out.columns()) == (m, n);
    let message = || {
        let (x, y, w, b) = (x.shape(), y.shape(), weight.shape(), bias.shape());
        format!("x {x:?}, y {y:?}, weight {w:?}, bias {b:?} into {:?}", out.shape())
    };
    ensure(OP, same && weight.shape() == [n] && bias.shape() == [n], message)?;
    ensure_f32(OP, &[x, y, weight, bias, out])?;
    if pass.is_cpu() {
        return cpu::add_layer_norm(x, y, weight, bias, eps, out);
    }
    pass.check_apart(OP, &[("y", y), ("weight", weight), ("bias", bias), ("x", x)], ("out", out))?;
    pass.check_apart(OP, &[("y", y), ("weight", weight), ("bias", bias)], ("x", x))?;
    if n == 0 {
        return Ok(());
    }
    if !x.is_aligned() {
        return in_place(pass, x, |pass, x| add_layer_norm(pass, x, y, weight, bias, eps, out));
    }
    if !out.is_aligned() {
        return through(pass, out, |pass, out| add_layer_norm(pass, x, y, weight, bias, eps, out));
    }
    let (y, weight, bias) = (&*in_quads(pass, y)?, &*in_quads(pass, weight)?, &*in_quads(pass, bias)?);
    let params = k::add_layer_norm::Params { m: count(OP, m)?, n: count(OP, n)?, eps };
    let knobs = pass.knobs(out);
    let args = k::add_layer_norm::Args { y, weight, bias, x, out };
    pass.run(&args, params, (knobs, Default::default()), k::add_layer_norm::grid(&params, &knobs))
}

/// out\[m,n\] = rows `first_row..first_row + m` of x\[_,n\], each over the square root of the mean of its squares plus `eps`,
/// times weight\[n\]. Zhang, Sennrich 2019, arXiv 1910.07467. The sum of a row's squares must be a finite f32, and `eps`
/// positive where a row may be all zeros.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree or something is not f32.
pub fn rms_norm(
    pass: &mut Pass,
    (x, first_row): (&Tensor, usize),
    weight: &Tensor,
    eps: f32,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "rms_norm";
    let (m, n) = (out.rows(), out.columns());
    let enough = first_row.checked_add(m).is_some_and(|end| end <= x.rows());
    let fits = enough && x.columns() == n && weight.shape() == [n];
    let message =
        || format!("rows {first_row}.. of x {:?}, weight {:?} into {:?}", x.shape(), weight.shape(), out.shape());
    ensure(OP, fits, message)?;
    ensure_f32(OP, &[x, weight, out])?;
    if pass.is_cpu() {
        return cpu::rms_norm(x, first_row, weight, eps, out);
    }
    pass.check_apart(OP, &[("x", x), ("weight", weight)], ("out", out))?;
    if n == 0 {
        return Ok(());
    }
    if !out.is_aligned() {
        return through(pass, out, |pass, out| rms_norm(pass, (x, first_row), weight, eps, out));
    }
    let (x, weight) = (&*in_quads(pass, x)?, &*in_quads(pass, weight)?);
    let params = k::rms_norm::Params { m: count(OP, m)?, n: count(OP, n)?, row0: count(OP, first_row)?, eps };
    let knobs = pass.knobs(out);
    let args = k::rms_norm::Args { x, weight, out };
    pass.run(&args, params, (knobs, Default::default()), k::rms_norm::grid(&params, &knobs))
}

/// x\[m,n\] += y\[m,n\], rounded once, and out\[m,n\] = [`rms_norm`] of what x then is, times weight\[n\]: one dispatch, as one
/// block of a transformer ends and the next begins.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree or something is not f32;
/// [`Error::Alias`](crate::Error::Alias) if x, y and out are not three tensors.
pub fn add_rms_norm(
    pass: &mut Pass,
    x: &mut Tensor,
    y: &Tensor,
    weight: &Tensor,
    eps: f32,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "add_rms_norm";
    let (m, n) = (x.rows(), x.columns());
    let same = x.shape() == y.shape() && (out.rows(), out.columns()) == (m, n);
    let message = || {
        let (x, y, w) = (x.shape(), y.shape(), weight.shape());
        format!("x {x:?}, y {y:?}, weight {w:?} into {:?}", out.shape())
    };
    ensure(OP, same && weight.shape() == [n], message)?;
    ensure_f32(OP, &[x, y, weight, out])?;
    if pass.is_cpu() {
        return cpu::add_rms_norm(x, y, weight, eps, out);
    }
    pass.check_apart(OP, &[("y", y), ("weight", weight), ("x", x)], ("out", out))?;
    pass.check_apart(OP, &[("y", y), ("weight", weight)], ("x", x))?;
    if n == 0 {
        return Ok(());
    }
    if !x.is_aligned() {
        return in_place(pass, x, |pass, x| add_rms_norm(pass, x, y, weight, eps, out));
    }
    if !out.is_aligned() {
        return through(pass, out, |pass, out| add_rms_norm(pass, x, y, weight, eps, out));
    }
    let (y, weight) = (&*in_quads(pass, y)?, &*in_quads(pass, weight)?);
    let params = k::add_rms_norm::Params { m: count(OP, m)?, n: count(OP, n)?, eps };
    let knobs = pass.knobs(out);
    let args = k::add_rms_norm::Args { y, weight, x, out };
    pass.run(&args, params, (knobs, Default::default()), k::add_rms_norm::grid(&params, &knobs))
}

/// Softmax of every row of x\[.., n\], in place: exp(x - max) over its sum. The difference between the largest and the
/// smallest element of a row must be a finite f32.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless x is f32.
pub fn softmax(pass: &mut Pass, x: &mut Tensor) -> Result<()> {
    const OP: &str = "softmax";
    ensure_f32(OP, &[x])?;
    if pass.is_cpu() {
        return cpu::softmax(x);
    }
    softmax_kernel(pass, OP, x, k::softmax::Modes { log: 0 })
}

/// The logarithm of the softmax of every row of x\[.., n\], in place: x - max - ln(sum of exp(x - max)), which has digits
/// where the softmax itself is too small for an f32. As for [`softmax`], max - min must be a finite f32.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) unless x is f32.
pub fn log_softmax(pass: &mut Pass, x: &mut Tensor) -> Result<()> {
    const OP: &str = "log_softmax";
    ensure_f32(OP, &[x])?;
    if pass.is_cpu() {
        return cpu::log_softmax(x);
    }
    softmax_kernel(pass, OP, x, k::softmax::Modes { log: 1 })
}

/// Rows that a workgroup has at most: a long one has all its invocations, because a software adapter (llvmpipe) ends an
/// invocation's loops after 65,535 rounds and says nothing.
fn per_group(rows: u32, n: usize) -> u32 {
    if n > 32_768 { 1 } else { rows }
}

fn softmax_kernel(pass: &mut Pass, op: &'static str, x: &mut Tensor, modes: k::softmax::Modes) -> Result<()> {
    let (m, n) = (x.rows(), x.columns());
    if n == 0 {
        return Ok(());
    }
    if !x.is_aligned() {
        return in_place(pass, x, |pass, x| softmax_kernel(pass, op, x, modes));
    }
    let params = k::softmax::Params { m: count(op, m)?, n: count(op, n)? };
    let knobs = pass.knobs::<k::softmax::Knobs>(x);
    let knobs = k::softmax::Knobs { rows: per_group(knobs.rows, n), ..knobs };
    pass.run(&k::softmax::Args { x }, params, (knobs, modes), k::softmax::grid(&params, &knobs))
}
