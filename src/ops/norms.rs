//! What looks at a whole row: norms and softmax.

use super::{count, ensure, ensure_f32};
use crate::cpu;
use crate::error::Result;
use crate::kernel::kernels as k;
use crate::pass::{Pass, grid};
use crate::tensor::Tensor;

/// out\[m,n\] = layer norm of rows `first_row..first_row + m` of x, times weight\[n\], plus bias\[n\].
///
/// # Errors
/// [`Error::Shape`] if the dimensions disagree.
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
    if n == 0 {
        return Ok(());
    }
    let params = k::layer_norm::Params {
        m: count(OP, m)?,
        n: count(OP, n)?,
        x_pitch: count(OP, x.pitch())?,
        out_pitch: count(OP, out.pitch())?,
        row0: count(OP, first_row)?,
        eps,
    };
    let args = k::layer_norm::Args { x, weight, bias, out };
    pass.run(&args, params, Default::default(), grid(m))
}

/// Softmax of every row of x, in place.
///
/// # Errors
/// [`Error::Shape`] unless x is f32.
pub fn softmax(pass: &mut Pass, x: &mut Tensor) -> Result<()> {
    const OP: &str = "softmax";
    ensure_f32(OP, &[x])?;
    if pass.is_cpu() {
        return cpu::softmax(x);
    }
    let (m, n, pitch) = (x.rows(), x.columns(), x.pitch());
    if n == 0 {
        return Ok(());
    }
    let params = k::softmax::Params { m: count(OP, m)?, n: count(OP, n)?, pitch: count(OP, pitch)? };
    pass.run(&k::softmax::Args { x }, params, Default::default(), grid(m))
}
