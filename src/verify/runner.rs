//! Runs an op between guards. An output is a view in the middle of a buffer, at least 4 KiB from either end; afterwards the
//! whole buffer is read back, and outside the view not a bit may have changed, the tails of the view's rows must be zero,
//! and the rest is the result. On the CPU backend tensors are dense and there is nothing to guard.
//!
//! A comparison of results alone sees none of that: a kernel that writes past its rows corrupts a neighbour in a model and
//! not in a test, and one that reads beyond them finds zeros in a fresh buffer. So memory is poisoned with NaN before it is
//! used, guards differ from buffer to buffer, and operands lie in several layouts, in which no pitch can pass for another.

use std::cell::Cell;
use std::collections::BTreeSet;

use super::inputs::Inputs;
use super::stored::Stored;
use super::{Layout, Submit};
use crate::error::Error;
use crate::gpu::GpuCompute;
use crate::kernel::{Format, Kernel, kernels};
use crate::pass::{Pass, Pipeline};
use crate::tensor::{DType, Tensor, Weight, to_pitch, to_words, unpitch};

/// Words of guard on either side: 4 KiB, which keeps the view at a multiple of 256 bytes.
const GUARD: usize = 1024;
/// All bits set: NaN as a float, an index far out of range as an integer.
pub(crate) const POISON: u32 = u32::MAX;

/// What stands at word `i` of a guard of buffer `id`: NaN and large numbers of both signs in turn, because arithmetic on NaN
/// leaves NaN as it was, and silu a large number; and in no two buffers the same, because what is copied from guard to guard would not be seen.
fn guard(id: u64, i: usize) -> u32 {
    let salt = (id.wrapping_mul(0x9e37_79b9) as u32 ^ i as u32) & 0xffff;
    salt | [0xffc0_0000, 0x7e00_0000, 0xfe00_0000][i % 3]
}

/// Why a case did not end with a figure.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It is wrong.
    Failed(String),
    /// The adapter cannot run it.
    Skipped(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        match error {
            Error::TooLarge { .. } | Error::Limit { .. } => Stop::Skipped(error.to_string()),
            _ => Stop::Failed(error.to_string()),
        }
    }
}

/// Where a case runs.
pub(crate) struct Bench<'a> {
    gpu: &'a GpuCompute,
    layout: Layout,
    submit: Submit<'a>,
    kernels: BTreeSet<&'static str>,
    /// A hash of all that was read back.
    bits: Cell<u64>,
    /// Which of their variants, each with its kernel.
    #[cfg_attr(not(feature = "bench"), allow(dead_code, reason = "the tuner alone asks"))]
    pub(crate) pipelines: Vec<(&'static str, Pipeline)>,
}

/// A tensor between guards.
pub(crate) struct Guarded {
    pub(crate) tensor: Tensor,
    /// The guards and what is between them; `None` on the CPU backend.
    whole: Option<Tensor>,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(gpu: &'a GpuCompute, layout: Layout, submit: Submit<'a>) -> Bench<'a> {
        Bench { gpu, layout, submit, kernels: BTreeSet::new(), bits: Cell::new(0), pipelines: Vec::new() }
    }

    /// The same place with the other layout of operands.
    pub(crate) fn with_layout(&self, layout: Layout) -> Bench<'a> {
        Bench::new(self.gpu, layout, self.submit)
    }

    /// The same place for an operand that lies one way or the other: where all lie alike, one pitch may pass for another.
    pub(crate) fn either(&self, inputs: &mut Inputs) -> Bench<'a> {
        self.with_layout([Layout::Padded, Layout::Dense][inputs.below(2)])
    }

    /// The same for the same bits.
    #[cfg(test)]
    pub(crate) fn bits(&self) -> u64 {
        self.bits.get()
    }

    pub(crate) fn into_kernels(self) -> BTreeSet<&'static str> {
        self.kernels
    }

    /// An f32 tensor to read.
    pub(crate) fn input(&self, data: &[f32], shape: &[usize]) -> Result<Tensor, Stop> {
        self.words(bytemuck::cast_slice(data), shape, DType::F32)
    }

    /// A tensor of words to read.
    pub(crate) fn input_u32(&self, data: &[u32], shape: &[usize]) -> Result<Tensor, Stop> {
        self.words(data, shape, DType::U32)
    }

    fn words(&self, words: &[u32], shape: &[usize], dtype: DType) -> Result<Tensor, Stop> {
        let layout = if self.layout == Layout::Mixed { Layout::Dense } else { self.layout };
        Ok(self.with_layout(layout).in_out(words, shape, dtype)?.tensor)
    }

    /// A matrix of f32 or f16 to read, as a tensor.
    pub(crate) fn matrix(&self, stored: &Stored, shape: &[usize]) -> Result<Tensor, Stop> {
        if stored.format == Format::F16 {
            return Ok(self.gpu.tensor_f16(&bytemuck::pod_collect_to_vec(&stored.bytes), shape)?);
        }
        self.input(&stored.values, shape)
    }

    /// A weight in chunks of `rows_per_chunk` rows, or as the adapter's limits have it.
    pub(crate) fn weight(
        &self,
        stored: &Stored,
        (rows, columns): (usize, usize),
        rows_per_chunk: Option<usize>,
    ) -> Result<Weight, Stop> {
        let limit = rows_per_chunk.map_or(u64::MAX, |rows| (rows * stored.format.row_bytes(columns)) as u64);
        Ok(stored.weight(self.gpu, (rows, columns), limit)?)
    }

    /// A tensor to write, poisoned, tails included.
    pub(crate) fn output(&self, shape: &[usize], dtype: DType) -> Result<Guarded, Stop> {
        self.guarded(shape, dtype, |tensor| vec![POISON; tensor.words()])
    }

    /// A tensor to read and write. Its tails are zero, as every op leaves them. Halves lie two to a word.
    pub(crate) fn in_out(&self, words: &[u32], shape: &[usize], dtype: DType) -> Result<Guarded, Stop> {
        self.guarded(shape, dtype, |tensor| {
            let row_bytes = dtype.bytes() * tensor.columns();
            let dense = bytemuck::cast_slice(words).get(..tensor.rows() * row_bytes).unwrap_or_default();
            to_words(&to_pitch(dense, row_bytes, dtype.bytes() * tensor.pitch()))
        })
    }

    fn guarded(
        &self,
        shape: &[usize],
        dtype: DType,
        contents: impl FnOnce(&Tensor) -> Vec<u32>,
    ) -> Result<Guarded, Stop> {
        if !self.gpu.is_gpu() {
            let empty = Tensor::on_host(Vec::new(), shape, dtype)?;
            return Ok(Guarded { tensor: Tensor::on_host(contents(&empty), shape, dtype)?, whole: None });
        }
        let count = match self.layout {
            Layout::Padded | Layout::Mixed => crate::tensor::device_bytes(shape, dtype)? as usize / 4,
            Layout::Dense => (shape.iter().product::<usize>() * dtype.bytes()).div_ceil(4),
        };
        let whole = self.gpu.empty(&[count + 2 * GUARD], DType::U32)?;
        let lease = whole.lease().ok_or_else(|| Stop::Failed("a tensor without a buffer".to_owned()))?;
        for start in [0, GUARD + count] {
            let words: Vec<u32> = (start..start + GUARD).map(|i| guard(lease.id, i)).collect();
            self.gpu.write_bytes(&whole, 4 * start as u64, bytemuck::cast_slice(&words))?;
        }
        let tensor = match self.layout {
            Layout::Padded | Layout::Mixed => Tensor::on_device(lease.clone(), 4 * GUARD as u64, shape, dtype)?,
            Layout::Dense => Tensor::dense_on_device(lease.clone(), 4 * GUARD as u64, shape, dtype)?,
        };
        self.gpu.write_bytes(&tensor, 0, bytemuck::cast_slice(&contents(&tensor)))?;
        Ok(Guarded { tensor, whole: Some(whole) })
    }

    /// Records and submits one pass.
    pub(crate) fn run(&mut self, record: impl FnOnce(&mut Pass) -> crate::Result<()>) -> Result<(), Stop> {
        let mut pass = self.gpu.pass();
        record(&mut pass)?;
        self.kernels.extend(pass.kernels());
        self.pipelines.extend(pass.pipelines().map(|(kernel, pipeline)| (kernel, pipeline.clone())));
        Ok((self.submit)(pass)?)
    }

    /// Whether a kernel that ran rounds what it multiplies to halves.
    pub(crate) fn halves(&self) -> bool {
        let ran = |kernel: &&Kernel| self.kernels.contains(kernel.name);
        kernels::ALL.iter().filter(|kernel| kernel.needs.f16).any(ran)
    }

    /// The elements of a guarded tensor, after its guards and tails were checked. `T` is as large as an element.
    pub(crate) fn read<T: bytemuck::Pod + Send>(&self, guarded: &Guarded) -> Result<Vec<T>, Stop> {
        let Some(whole) = &guarded.whole else { return Ok(self.gpu.read(&guarded.tensor)?) };
        let words: Vec<u32> = self.gpu.read(whole)?;
        let (before, rest) = words.split_at_checked(GUARD).unwrap_or_default();
        let (body, after) = rest.split_at_checked(rest.len().saturating_sub(GUARD)).unwrap_or_default();
        let id = whole.lease().map_or(0, |lease| lease.id);
        let is_changed = |start: usize| move |(i, word): (usize, &u32)| *word != guard(id, start + i);
        if let Some(at) = before.iter().enumerate().rposition(is_changed(0)) {
            let bytes = 4 * (before.len() - at);
            return Err(Stop::Failed(format!("wrote outside its output, {bytes} bytes before the beginning")));
        }
        if let Some(at) = after.iter().enumerate().position(is_changed(GUARD + body.len())) {
            return Err(Stop::Failed(format!("wrote outside its output, {} bytes after the end", 4 * at)));
        }
        let bytes: &[u8] = bytemuck::cast_slice(body);
        self.bits.set(body.iter().fold(self.bits.get(), |hash, &word| {
            (hash ^ u64::from(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
        }));
        let ((rows, columns), pitch) = ((guarded.tensor.rows(), guarded.tensor.columns()), guarded.tensor.pitch());
        let size = guarded.tensor.dtype().bytes();
        for (row, bytes) in bytes.chunks((pitch * size).max(1)).enumerate() {
            // What follows the last row of an odd number of dense halves is a tail as well.
            let tail = bytes.get(if row < rows { columns * size } else { 0 }..).unwrap_or_default();
            if let Some(at) = tail.iter().position(|&byte| byte != 0) {
                let (at, byte) = (columns + at / size, tail[at]);
                return Err(Stop::Failed(format!(
                    "row {row}: padding [{at}] has a byte {byte:#04x}, not zero, in rows of {columns}"
                )));
            }
        }
        Ok(unpitch(body, (rows, columns), pitch))
    }

    /// [`Bench::read`] as floats.
    pub(crate) fn read_f32(&self, guarded: &Guarded) -> Result<Vec<f32>, Stop> {
        self.read(guarded)
    }
}

/// The largest error over its bound. Where the bound is zero the values must be equal, where NaN is expected they must not be
/// finite.
pub(crate) fn compare(
    got: &[f32],
    expected: &[f64],
    columns: usize,
    bound: impl Fn(usize) -> f64,
) -> Result<f64, Stop> {
    if got.len() != expected.len() {
        return Err(Stop::Failed(format!("{} elements; {} are expected", got.len(), expected.len())));
    }
    let (mut worst, mut worst_at, mut wrong) = (0.0, 0, 0);
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs();
        let ratio = match (error, bound(i)) {
            (0.0, _) => 0.0,
            // What is no number must not look like one.
            _ if expected.is_nan() && !got.is_finite() => 0.0,
            // Neither a NaN nor a bound that is none may pass for a small error.
            (error, bound) if error.is_finite() && bound.is_finite() && bound > 0.0 => error / bound,
            _ => f64::INFINITY,
        };
        wrong += usize::from(ratio > 1.0);
        if ratio > worst {
            (worst, worst_at) = (ratio, i);
        }
    }
    if wrong == 0 {
        return Ok(worst);
    }
    let (row, column) = (worst_at / columns.max(1), worst_at % columns.max(1));
    Err(Stop::Failed(format!(
        "{wrong} of {} elements are wrong; worst [{row}, {column}]: {} for {}, {worst:.3} times the bound {:.3e}",
        got.len(),
        got[worst_at],
        expected[worst_at],
        bound(worst_at)
    )))
}

/// Words must be equal.
pub(crate) fn compare_words(what: &str, got: &[u32], expected: &[u32], columns: usize) -> Result<f64, Stop> {
    let differs = got.iter().zip(expected).position(|(got, expected)| got != expected);
    match differs {
        None if got.len() == expected.len() => Ok(0.0),
        None => Err(Stop::Failed(format!("{what}: {} words; {} are expected", got.len(), expected.len()))),
        Some(i) => {
            let (row, column) = (i / columns.max(1), i % columns.max(1));
            let (got, expected) = (got[i], expected[i]);
            Err(Stop::Failed(format!("{what} [{row}, {column}]: {got:#010x}, not {expected:#010x}")))
        }
    }
}
