//! What must hold of a dispatch before it is recorded. wgpu would find the same mistakes when the commands are submitted,
//! where nobody knows any more which op they came from, and would refuse all of them for one.

use std::sync::Arc;

use crate::cache::Blueprint;
use crate::encode::Wanted;
use crate::error::{Error, Result};
use crate::gpu::Engine;
use crate::kernel::MAX_GROUPS;
use crate::pool::Lease;
use crate::tensor::Tensor;

/// Bytes of the operands, given as (tensor, it is written, it is only written): what is read, what is written, and twice
/// what is changed in place.
pub(super) fn traffic<'a>(operands: impl Iterator<Item = (&'a Tensor, bool, bool)>) -> f64 {
    let times = |write: bool, only: bool| if write && !only { 2.0 } else { 1.0 };
    operands.map(|(tensor, write, only)| times(write, only) * tensor.bytes() as f64).sum()
}

/// Of this engine's pool, or the caller's own.
pub(super) fn is_home(engine: &Engine, lease: &Lease) -> bool {
    lease.pool().is_none_or(|pool| pool.is(&engine.pool))
}

pub(super) fn check_home(engine: &Engine, op: &'static str, lease: &Lease) -> Result<()> {
    if is_home(engine, lease) { Ok(()) } else { Err(Error::ForeignBuffer { op }) }
}

/// Marks which tensors are mapped themselves: those that nobody has but the pass, whose buffers these are, as it ends.
pub(super) fn give_up(reads: &mut [Wanted], held: &[&[Arc<Lease>]]) {
    for Wanted { tensor, itself, .. } in reads {
        let holders = |lease: &Lease| held.iter().copied().flatten().filter(|held| held.id == lease.id).count();
        *itself = tensor.offset == 0 && tensor.lease().is_some_and(|lease| lease.is_mappable(holders(lease)));
    }
}

/// Why tensors cannot be bound together.
pub(super) enum Clash {
    /// One is on the host, or on another device.
    Foreign,
    /// One is over the limit of a binding.
    TooLarge(Error),
    /// The bindings of these two numbers share a buffer, and one of them is written.
    Alias(usize, usize),
}

/// Belongs to this device, fits a binding, and nothing is both read and written.
pub(super) fn check_tensors(engine: &Engine, kernel: &Blueprint<'_>, tensors: &[&Tensor]) -> Result<(), Clash> {
    for (j, (tensor, write)) in tensors.iter().zip(kernel.writes).enumerate() {
        let lease = tensor.lease().filter(|lease| is_home(engine, lease)).ok_or(Clash::Foreign)?;
        engine.check_binding(tensor.bytes()).map_err(Clash::TooLarge)?;
        let earlier = tensors.iter().zip(kernel.writes).take(j).enumerate();
        for (i, (other, other_write)) in earlier {
            let shared = other.lease().is_some_and(|other| other.buffer == lease.buffer);
            if shared && (write || other_write) {
                return Err(Clash::Alias(i, j));
            }
        }
    }
    Ok(())
}

pub(crate) fn checked_grid(kernel: &str, grid: [u64; 3]) -> Result<[u32; 3]> {
    let mut checked = [0; 3];
    for (to, needed) in checked.iter_mut().zip(grid) {
        *to = u32::try_from(needed).ok().filter(|&n| u64::from(n) <= MAX_GROUPS).ok_or_else(|| Error::TooLarge {
            what: format!("the grid of {kernel}, in workgroups per dimension"),
            needed,
            limit: MAX_GROUPS,
        })?;
    }
    Ok(checked)
}
