//! The same numbers in another type.

use super::{count, ensure};
use crate::cpu;
use crate::error::{Error, Result};
use crate::kernel::kernels as k;
use crate::pass::Pass;
use crate::reference::Cast;
use crate::tensor::{DType, Tensor};

/// out\[m,n\] = x\[m,n\] in the type of out: f32 to f16, rounded to the nearest, ties to even, beyond its range to infinity;
/// f16 or bf16 to f32, exactly. NaN stay NaN. Rows may lie anyhow, those of a caller's dense buffer included.
///
/// # Errors
/// [`Error::Shape`] if the shapes disagree, or for any other pair of types.
pub fn cast(pass: &mut Pass, x: &Tensor, out: &mut Tensor) -> Result<()> {
    const OP: &str = "cast";
    ensure(OP, x.shape() == out.shape(), || format!("{:?} into {:?}", x.shape(), out.shape()))?;
    let kind = match (x.dtype(), out.dtype()) {
        (DType::F32, DType::F16) => Cast::F32ToF16,
        (DType::F16, DType::F32) => Cast::F16ToF32,
        (DType::BF16, DType::F32) => Cast::Bf16ToF32,
        (from, to) => {
            let message = format!("{from:?} to {to:?}; F32 to F16, F16 to F32 and BF16 to F32 are what there is");
            return Err(Error::Shape { op: OP, message });
        }
    };
    if pass.is_cpu() {
        return cpu::cast(x, kind, out);
    }
    let params = k::cast_bits::Params {
        m: count(OP, x.rows())?,
        n: count(OP, x.columns())?,
        x_pitch: count(OP, x.pitch())?,
        out_pitch: count(OP, out.pitch())?,
    };
    let knobs = pass.knobs(out);
    let modes = k::cast_bits::Modes { kind: kind as u32 };
    let groups = k::cast_bits::grid(&params, &knobs, out.words() as u64);
    pass.run(&k::cast_bits::Args { x, out }, params, (knobs, modes), groups)
}
