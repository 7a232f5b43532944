//! What looks at one element at a time, on the host.

use rayon::prelude::*;

use super::{MIN_LEN, floats, floats_mut, lock, read, write_f64};
use crate::error::Result;
use crate::reference::{self, Gelu};
use crate::tensor::Tensor;

pub(crate) fn gelu(x: &Tensor, form: Gelu) -> Result<()> {
    let result = reference::gelu(read(x, "gelu")?.as_slice(), form);
    write_f64(x, "gelu", result)
}

pub(crate) fn relu(x: &Tensor) -> Result<()> {
    let mut locked = lock("relu", [], ("x", x))?;
    let ([], x) = locked.parts();
    floats_mut(x).par_iter_mut().with_min_len(MIN_LEN).for_each(|v| *v = v.max(0.0));
    Ok(())
}

pub(crate) fn add(x: &Tensor, y: &Tensor) -> Result<()> {
    let mut locked = lock("add", [("y", y)], ("x", x))?;
    let ([y], x) = locked.parts();
    floats_mut(x).par_iter_mut().zip(floats(y)).with_min_len(MIN_LEN).for_each(|(x, y)| *x += y);
    Ok(())
}
