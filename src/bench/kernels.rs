//! What is timed of the kernels: each op at shapes of the models it is for, and any kernel at any shape.
//!
//! Operands are made when it is a row's turn and dropped after it, since all of them together would fit few devices. A row
//! has as many sets of them as exceed the caches, 512 MiB on hardware: with one set a matvec would read its weight from a
//! cache, which a model never does. A software adapter and the CPU backend get the rows that they finish in reasonable
//! time, and sets that exceed the caches of a processor; a row that is left out is left out by its size, before it is run,
//! and not by its result.
//!
//! A row is checked again and again, by whoever compares the variants of a kernel. So what it wrote is poisoned before each
//! check: a variant that writes nothing would be the fastest, and right by what the one before it left.

mod shape;
mod specs;

use super::harness::{Output, Workload};
use crate::error::{Error, Result};
use crate::gpu::{Arithmetic, GpuCompute};
use crate::kernel::{Format, Kernel};
use crate::pass::Pass;
use crate::tensor::{Tensor, Weight};
use crate::verify::stored::Stored;

/// Bytes that the sets of a workload come to at least, where as many sets as that takes are allowed.
const BYTES_ON_HARDWARE: u64 = 512 << 20;
/// On the processor: beyond the caches of most.
const BYTES_IN_SOFTWARE: u64 = 64 << 20;
/// Sets of operands at least.
const MIN_SETS: u64 = 8;
/// Of sets of which each exceeds the caches alone.
const MIN_LARGE_SETS: u64 = 2;
/// And at most: what is small needs many, and what is tiny never comes to so much.
const MAX_SETS: u64 = 256;
/// Work of one call that a software adapter is given, in operations.
const SOFTWARE_FLOPS: f64 = 2.5e8;
/// And in bytes.
const SOFTWARE_BYTES: f64 = 6.5e7;
/// Elements of one set at most: they are drawn, and what they are worth is kept beside them, in the host's memory.
const MAX_ELEMENTS: u64 = 1 << 29;

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
    spec: Box<dyn Fn(Arithmetic) -> Spec>,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

/// Elements of a tensor on the host.
enum Host {
    F32(Vec<f32>),
    F16(Vec<half::f16>),
    BF16(Vec<half::bf16>),
    Words(Vec<u32>),
}

impl Host {
    fn put(&self, gpu: &GpuCompute, shape: &[usize]) -> Result<Tensor> {
        match self {
            Host::F32(data) => gpu.tensor(data, shape),
            Host::F16(data) => gpu.tensor_f16(data, shape),
            Host::BF16(data) => gpu.tensor_bf16(data, shape),
            Host::Words(data) => gpu.tensor_u32(data, shape),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Host::F32(data) => 4 * data.len(),
            Host::F16(data) => 2 * data.len(),
            Host::BF16(data) => 2 * data.len(),
            Host::Words(data) => 4 * data.len(),
        }
    }
}

/// Records one call on a set of operands.
type Call = Box<dyn Fn(&mut Pass, &mut Set) -> Result<()>>;

/// Everything of a workload but its sets.
struct Spec {
    /// Operands, with their shapes. What is only written is poison.
    tensors: Vec<(Host, Vec<usize>)>,
    /// A matrix in a stored format, with its rows and columns.
    weight: Option<(Stored, (usize, usize))>,
    /// Which tensor is compared.
    out: usize,
    /// Which one is read and written, and must be put back before it is read again.
    in_place: Option<usize>,
    call: Call,
    /// `(position, value, largest error)` of some elements.
    expected: Vec<(usize, f64, f64)>,
}

/// Operands on the device.
struct Set {
    t: Vec<Tensor>,
    w: Option<Weight>,
}

impl Row {
    /// As a workload is called: op, shape and type.
    pub fn name(&self) -> String {
        format!("{} {} {}", self.op, self.shape, self.dtype)
    }

    /// What a call computes, as the lines of a [`Tuning`](crate::Tuning) see it. Draws the operands, on the host.
    pub fn class(&self) -> crate::tuning::ShapeClass {
        let Spec { tensors, out, .. } = (self.spec)(Arithmetic::F32);
        let shape = tensors.get(out).map_or(&[][..], |(_, shape)| shape);
        let format = Format::ALL.into_iter().find(|format| format.name() == self.dtype).unwrap_or_default();
        let elements: usize = shape.iter().product();
        crate::tuning::ShapeClass::new(elements / shape.last().copied().unwrap_or(1).max(1), elements, format)
    }

    /// Puts the operands on a device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::TooLarge`].
    pub fn workload(&self, gpu: &GpuCompute) -> Result<Workload> {
        let Spec { tensors, weight, out, in_place, call, expected } = (self.spec)(gpu.arithmetic());
        let software = gpu.adapter().is_none_or(|adapter| adapter.software);
        let wanted = if software { BYTES_IN_SOFTWARE } else { BYTES_ON_HARDWARE };
        let one = bytes_of(&tensors, &weight);
        let count = wanted.div_ceil(one.max(1)).clamp(if one < wanted { MIN_SETS } else { MIN_LARGE_SETS }, MAX_SETS);
        let set = |_| {
            let w = weight.as_ref().map(|(stored, shape)| stored.weight(gpu, *shape, u64::MAX));
            let tensors = tensors.iter().map(|(host, shape)| host.put(gpu, shape));
            Ok(Set { t: tensors.collect::<Result<_>>()?, w: w.transpose()? })
        };
        let mut sets = (0..count).map(set).collect::<Result<Vec<Set>>>()?;
        let of = |i: usize| sets.iter().filter_map(move |set| set.t.get(i).cloned()).collect::<Vec<Tensor>>();
        let tensor = of(out).first().cloned().map_or_else(|| gpu.zeros(&[0]), Ok)?;
        // Of what is only written the first set's is poisoned again, which is the one that is compared.
        let restored = in_place.map(|i| (i, of(i))).into_iter();
        let poisoned = (in_place != Some(out)).then(|| (out, vec![tensor.clone()]));
        let mut fresh = Vec::new();
        for (i, targets) in restored.chain(poisoned) {
            let source = tensors.get(i).map(|(host, shape)| host.put(gpu, shape)).transpose()?;
            fresh.extend(source.map(|source| (source, targets)));
        }
        Ok(Workload {
            name: self.name(),
            flops: self.flops,
            bytes: self.bytes,
            sets: sets.len(),
            working_set: one * count,
            record: Box::new(move |pass, set| sets.get_mut(set).map_or(Ok(()), |set| call(pass, set))),
            reset: Some(put_back(fresh)),
            output: Output { tensor, expected },
        })
    }
}

type Reset = Box<dyn FnMut(&mut Pass) -> Result<()>>;

/// Copies each source to its targets.
fn put_back(mut fresh: Vec<(Tensor, Vec<Tensor>)>) -> Reset {
    Box::new(move |pass| {
        fresh.iter_mut().try_for_each(|(source, targets)| targets.iter_mut().try_for_each(|to| pass.copy(source, to)))
    })
}

fn bytes_of(tensors: &[(Host, Vec<usize>)], weight: &Option<(Stored, (usize, usize))>) -> u64 {
    let bytes: usize = tensors.iter().map(|(host, _)| host.bytes()).sum();
    let weight = weight.as_ref().map_or(0, |(stored, _)| stored.bytes.len());
    (bytes + weight) as u64
}

/// Whether a backend finishes a row in reasonable time: by its size, as there is no other way before it is run.
fn finishes(gpu: &GpuCompute, row: &Row) -> bool {
    match gpu.adapter() {
        Some(adapter) if !adapter.software => true,
        Some(_) => row.flops <= SOFTWARE_FLOPS && row.bytes <= SOFTWARE_BYTES,
        None => row.flops <= 40.0 * SOFTWARE_FLOPS && row.bytes <= 4.0 * SOFTWARE_BYTES,
    }
}

/// Everything that is timed on this backend: a software adapter and the CPU backend get what they can finish.
pub fn rows(gpu: &GpuCompute) -> Vec<Row> {
    let all = specs::RECIPES
        .iter()
        .flat_map(|recipe| recipe.table().filter_map(|(shape, format)| recipe.row(shape, format).ok()));
    all.filter(|row| finishes(gpu, row)).collect()
}

/// The row that times one kernel at a shape, such as `m=256,k=256,n=256`: keys in any order, those of the rows of
/// [`rows`]. `format` is what its weight is stored in; of `attention` what keys and values are kept in, of `cast_bits` what is
/// cast (f32 to f16, f16 and bf16 to f32); of any other kernel f32, which is all it reads.
///
/// A row calls the op, which chooses the kernel: `matvec` and `matvec_subgroup` have one row, and a device with subgroups
/// takes the second. `matmul_transpose_b` is called by `linear`, as models do, for more than eight rows of x.
///
/// # Errors
/// [`Error::BadOption`] for a shape that lacks a key, has an unknown one or an impossible value, and for a format that the
/// kernel does not read; [`Error::TooLarge`] for operands that the host is not given; each says what is expected.
///
/// ```
/// use gristmill::bench::{Harness, row_of};
/// use gristmill::{ComputeBackend, Format, GpuCompute, kernels};
///
/// let row = row_of(&kernels::matvec_subgroup::KERNEL, "m=1,k=64,n=96", Format::Q4_0)?;
/// assert_eq!(row.name(), "matvec m=1,k=64,n=96 q4_0");
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// Harness::new(&gpu).check(&mut row.workload(&gpu)?)?;
///
/// let refused = row_of(&kernels::softmax::KERNEL, "m=4,k=8", Format::F32).unwrap_err();
/// assert_eq!(refused.to_string(), "shape: `m=4,k=8` of softmax: no key `k`; it takes m, n");
/// # Ok::<(), gristmill::Error>(())
/// ```
pub fn row_of(kernel: &Kernel, shape: &str, format: Format) -> Result<Row> {
    let recipe = specs::RECIPES.iter().find(|recipe| recipe.kernels.contains(&kernel.name)).ok_or_else(|| {
        let known: Vec<&str> = specs::RECIPES.iter().flat_map(|recipe| recipe.kernels).copied().collect();
        let message = format!("`{}` is timed at no shape; there are {}", kernel.name, known.join(", "));
        Error::BadOption { option: "kernel", message }
    })?;
    recipe.row(shape, format)
}

/// The rows of one kernel: at the shapes of [`rows`] that dispatch it, and that this backend finishes. Each is what
/// [`row_of`] makes of its shape and format.
///
/// ```
/// use gristmill::bench::rows_of;
/// use gristmill::{ComputeBackend, GpuCompute, kernels};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let rows = rows_of(&gpu, &kernels::attention::KERNEL);
/// assert!(rows.iter().any(|row| row.shape == "m=1,position=511,heads=12,d=64"));
/// # Ok::<(), gristmill::Error>(())
/// ```
pub fn rows_of(gpu: &GpuCompute, kernel: &Kernel) -> Vec<Row> {
    let mut found: Vec<Row> = Vec::new();
    for recipe in specs::RECIPES.iter().filter(|recipe| recipe.kernels.contains(&kernel.name)) {
        for row in recipe.table().filter_map(|(shape, format)| row_of(kernel, shape, format).ok()) {
            if finishes(gpu, &row) && !found.iter().any(|other| other.name() == row.name()) {
                found.push(row);
            }
        }
    }
    found
}
