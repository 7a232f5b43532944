//! Attention on the host.

use super::{read, write, write_f64};
use crate::error::Result;
use crate::reference::{self, Attention, Row};
use crate::tensor::Tensor;

pub(crate) fn attention(
    rows: &Tensor,
    qkv: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    shape: &Attention,
    out: &Tensor,
) -> Result<()> {
    let op = "attention";
    let mut k: Vec<f32> = read(keys, op)?.as_slice().to_vec();
    let mut v: Vec<f32> = read(values, op)?.as_slice().to_vec();
    let result = {
        let (rows, qkv) = (read(rows, op)?, read(qkv, op)?);
        reference::attention(rows.as_slice::<Row>(), qkv.as_slice(), &mut k, &mut v, shape)
    };
    write(keys, op, k.into_iter().map(f32::to_bits))?;
    write(values, op, v.into_iter().map(f32::to_bits))?;
    write_f64(out, op, result)
}
