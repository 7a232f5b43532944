//! Casts on the host.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::{MIN_LEN, floats, floats_mut, lock};
use crate::error::Result;
use crate::reference::Cast;
use crate::tensor::Tensor;

pub(crate) fn cast(x: &Tensor, kind: Cast, out: &Tensor) -> Result<()> {
    let count = x.rows() * x.columns();
    let mut locked = lock("cast", [("x", x)], ("out", out))?;
    let ([x], out) = locked.parts();
    match kind {
        Cast::F32ToF16 => {
            let out: &mut [f16] = bytemuck::cast_slice_mut(out);
            // Of an odd number the last word has a half to spare.
            let (out, spare) = out.split_at_mut(count.min(out.len()));
            spare.fill(f16::ZERO);
            let chunks = out.par_chunks_mut(MIN_LEN).zip(floats(x).par_chunks(MIN_LEN));
            chunks.for_each(|(out, x)| out.convert_from_f32_slice(x));
        }
        Cast::F16ToF32 => {
            let x = bytemuck::cast_slice::<u32, f16>(x).get(..count).unwrap_or_default();
            let chunks = floats_mut(out).par_chunks_mut(MIN_LEN).zip(x.par_chunks(MIN_LEN));
            chunks.for_each(|(out, x)| x.convert_to_f32_slice(out));
        }
        Cast::Bf16ToF32 => {
            let x = bytemuck::cast_slice::<u32, bf16>(x).get(..count).unwrap_or_default();
            let chunks = floats_mut(out).par_chunks_mut(MIN_LEN).zip(x.par_chunks(MIN_LEN));
            chunks.for_each(|(out, x)| x.convert_to_f32_slice(out));
        }
    }
    Ok(())
}
