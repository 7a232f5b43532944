//! Products on the host.

use super::{Elements, read, write_f64};
use crate::error::Result;
use crate::reference;
use crate::tensor::{Tensor, Weight};

pub(crate) fn matmul(x: &Tensor, w: &Tensor, out: &Tensor) -> Result<()> {
    let shape = (x.rows(), x.columns(), w.columns());
    let product = reference::matmul(read(x, "matmul")?.as_slice(), read(w, "matmul")?.as_slice(), shape);
    write_f64(out, "matmul", product)
}

pub(crate) fn linear(x: &Tensor, w: &Weight, bias: Option<&Tensor>, out: &Tensor) -> Result<()> {
    let op = "linear";
    let Some(chunk) = w.chunks.first() else { return Ok(()) };
    let shape = (x.rows(), x.columns(), w.rows());
    let product = {
        let (x, w, bias) = (read(x, op)?, read(&chunk.tensor, op)?, bias.map(|bias| read(bias, op)).transpose()?);
        reference::matvec(x.as_slice(), w.as_slice(), bias.as_ref().map(Elements::as_slice), shape)
    };
    write_f64(out, op, product)
}
