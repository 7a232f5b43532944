//! Norms and softmax on the host.

use super::{read, write_f64};
use crate::error::Result;
use crate::reference;
use crate::tensor::Tensor;

pub(crate) fn layer_norm(
    x: &Tensor,
    first_row: usize,
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
    out: &Tensor,
) -> Result<()> {
    let op = "layer_norm";
    let n = out.columns();
    let result = {
        let (x, weight, bias) = (read(x, op)?, read(weight, op)?, read(bias, op)?);
        let x = &x.as_slice::<f32>()[first_row * n..][..out.rows() * n];
        reference::layer_norm(x, weight.as_slice(), bias.as_slice(), eps)
    };
    write_f64(out, op, result)
}

pub(crate) fn softmax(x: &Tensor) -> Result<()> {
    let result = reference::softmax(read(x, "softmax")?.as_slice(), x.columns());
    write_f64(x, "softmax", result)
}
