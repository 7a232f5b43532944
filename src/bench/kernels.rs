//! What is timed of the kernels: each op at shapes of the models it is for.
//!
//! Operands are made when it is a row's turn and dropped after it, since all of them together would fit few devices. A row
//! has as many sets of them as exceed the caches, 512 MiB on hardware: with one set a matvec would read its weight from a
//! cache, which a model never does. A software adapter and the CPU backend get the rows that they finish in reasonable
//! time, and sets that exceed the caches of a processor; a row that is left out is left out by its size, before it is run,
//! and not by its result.

mod specs;

use super::harness::{Output, Workload};
use crate::error::Result;
use crate::gpu::GpuCompute;
use crate::kernel::Format;
use crate::pass::Pass;
use crate::tensor::{Tensor, Weight};
use crate::verify::stored::Stored;

/// Bytes that the sets of a workload come to at least, where as many sets as that takes are allowed.
const BYTES_ON_HARDWARE: u64 = 512 << 20;
/// On the processor: beyond the caches of most.
const BYTES_IN_SOFTWARE: u64 = 64 << 20;
/// Sets of operands at least.
const MIN_SETS: u64 = 8;
/// And at most: what is small needs many, and what is tiny never comes to so much.
const MAX_SETS: u64 = 256;
/// Work of one call that a software adapter is given, in operations.
const SOFTWARE_FLOPS: f64 = 2.5e8;
/// And in bytes.
const SOFTWARE_BYTES: f64 = 6.5e7;

/// One op at one shape: built, with its operands, when it is its turn.
///
/// ```
/// use gristmill::bench;
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let rows = bench::rows(&gpu);
/// let row = rows.iter().find(|row| row.name() == "matmul m=256,k=256,n=256 f32").expect("a row of the table");
/// assert_eq!(row.flops, 2.0 * 256.0 * 256.0 * 256.0);
/// # Ok::<(), gristmill::Error>(())
/// ```
pub struct Row {
    /// The op.
    pub op: &'static str,
    /// `m=1,k=768,n=2304`.
    pub shape: String,
    /// What the weight, or what stands for one, is stored in.
    pub dtype: &'static str,
    /// Floating-point operations of products in a call; 0 for what has none.
    pub flops: f64,
    /// Bytes of the operands, what is changed in place twice.
    pub bytes: f64,
    spec: Box<dyn Fn() -> Spec>,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

/// Elements of a tensor on the host.
pub(super) enum Host {
    F32(Vec<f32>),
    Words(Vec<u32>),
}

/// Everything of a workload but its sets.
pub(super) struct Spec {
    /// Operands, with their shapes.
    tensors: Vec<(Host, Vec<usize>)>,
    /// A matrix in a stored format, with its rows and columns.
    weight: Option<(Stored, (usize, usize))>,
    /// Which tensor is written.
    out: usize,
    /// The one that is written is read too.
    in_place: bool,
    call: fn(&mut Pass, &mut Set) -> Result<()>,
    /// `(position, value, largest error)` of some elements.
    expected: Vec<(usize, f64, f64)>,
}

/// Operands on the device.
pub(super) struct Set {
    pub(super) t: Vec<Tensor>,
    pub(super) w: Option<Weight>,
}

impl Row {
    /// As a workload is called: op, shape and type.
    pub fn name(&self) -> String {
        format!("{} {} {}", self.op, self.shape, self.dtype)
    }

    /// Puts the operands on a device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::TooLarge`](crate::Error::TooLarge).
    pub fn workload(&self, gpu: &GpuCompute) -> Result<Workload> {
        let Spec { tensors, weight, out, in_place, call, expected } = (self.spec)();
        let software = gpu.adapter().is_none_or(|adapter| adapter.software);
        let wanted = if software { BYTES_IN_SOFTWARE } else { BYTES_ON_HARDWARE };
        let one = bytes_of(&tensors, &weight);
        let count = wanted.div_ceil(one.max(1)).clamp(MIN_SETS, MAX_SETS);
        let put = |(host, shape): &(Host, Vec<usize>)| match host {
            Host::F32(data) => gpu.tensor(data, shape),
            Host::Words(data) => gpu.tensor_u32(data, shape),
        };
        let set = |_| {
            let w = weight.as_ref().map(|(stored, shape)| stored.weight(gpu, *shape, u64::MAX));
            Ok(Set { t: tensors.iter().map(put).collect::<Result<_>>()?, w: w.transpose()? })
        };
        let mut sets = (0..count).map(set).collect::<Result<Vec<Set>>>()?;
        let written: Vec<Tensor> = sets.iter().filter_map(|set| set.t.get(out).cloned()).collect();
        let tensor = written.first().cloned().map_or_else(|| gpu.zeros(&[0]), Ok)?;
        let reset = match tensors.get(out).filter(|_| in_place) {
            None => None,
            Some(host) => Some(put_back(put(host)?, written)),
        };
        Ok(Workload {
            name: self.name(),
            flops: self.flops,
            bytes: self.bytes,
            sets: sets.len(),
            working_set: one * count,
            record: Box::new(move |pass, set| sets.get_mut(set).map_or(Ok(()), |set| call(pass, set))),
            reset,
            output: Output { tensor, expected },
        })
    }
}

type Reset = Box<dyn FnMut(&mut Pass) -> Result<()>>;

fn put_back(fresh: Tensor, mut written: Vec<Tensor>) -> Reset {
    Box::new(move |pass| written.iter_mut().try_for_each(|tensor| pass.copy(&fresh, tensor)))
}

fn bytes_of(tensors: &[(Host, Vec<usize>)], weight: &Option<(Stored, (usize, usize))>) -> u64 {
    let words: usize = tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let weight = weight.as_ref().map_or(0, |(stored, _)| stored.bytes.len());
    (4 * words + weight) as u64
}

/// Everything that is timed on this backend: a software adapter and the CPU backend get what they can finish.
pub fn rows(gpu: &GpuCompute) -> Vec<Row> {
    let fits = |row: &Row| match gpu.adapter() {
        Some(adapter) if !adapter.software => true,
        Some(_) => row.flops <= SOFTWARE_FLOPS && row.bytes <= SOFTWARE_BYTES,
        None => row.flops <= 40.0 * SOFTWARE_FLOPS && row.bytes <= 4.0 * SOFTWARE_BYTES,
    };
    specs::all().into_iter().filter(fits).collect()
}
