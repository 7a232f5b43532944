//! What a device can do at most, measured on it: by the kernel `probe`, which does nothing else.
//!
//! Data sheets are not the measure: they are of another clock and of units that f32 does not use, software adapters have
//! none, and a figure above them shows no mistake where the device boosts. A probe on the same device, at the same size of
//! working set, bounds what a kernel may claim: caches make bandwidth a function of that size, so there is one ceiling for
//! each power of two. The best repetition counts rather than the median, for a ceiling is what was reached once. A figure
//! above 1.25 times it is a mistake in the figure, be it work that the compiler removed or a clock that stood still, and is
//! no result.

use std::collections::BTreeMap;

use super::harness::{Harness, Measurement, Output, Workload};
use crate::error::Result;
use crate::gpu::GpuCompute;
use crate::tensor::Tensor;
use crate::{ops, reference};

/// Multiply-adds an element in the probe of the peak; an odd number, so that the result is not what was there before.
const TIMES: u32 = 511;
/// Elements of each tensor in the probe of the peak: enough invocations for the largest device.
const PEAK_ELEMENTS: usize = 1 << 20;
/// The smallest working set that is told apart, in bytes.
const SMALLEST: u64 = 1 << 16;

/// The peak, and the bandwidth at each size of working set, measured when first asked for and kept.
///
/// ```
/// use std::time::Duration;
/// use gristmill::bench::{Ceilings, Harness};
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let mut harness = Harness::new(&gpu);
/// harness.sample = Duration::from_millis(1); // per repetition; 25 ms unless said otherwise
/// let mut ceilings = Ceilings::new();
/// let peak = ceilings.peak(&harness)?; // measured now
/// assert!(peak > 0.0);
/// assert_eq!(ceilings.peak(&harness)?, peak); // and kept
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Ceilings {
    peak: Option<f64>,
    /// By the power of two of the working set.
    bandwidth: BTreeMap<u32, f64>,
}

impl Ceilings {
    /// Nothing measured yet.
    pub fn new() -> Ceilings {
        Ceilings::default()
    }

    /// Forgets what was measured.
    pub fn forget(&mut self) {
        *self = Ceilings::default();
    }

    /// f32 operations a second in multiply-adds, each of which is two.
    ///
    /// # Errors
    /// As [`Harness::measure`].
    pub fn peak(&mut self, harness: &Harness<'_>) -> Result<f64> {
        if let Some(peak) = self.peak {
            return Ok(peak);
        }
        let elements = match harness.gpu().adapter() {
            Some(adapter) if adapter.software => PEAK_ELEMENTS / 16,
            Some(_) => 16 * PEAK_ELEMENTS,
            None => PEAK_ELEMENTS,
        };
        let mut workload = probe(harness.gpu(), elements, 1, TIMES)?;
        let measured = harness.measure(&mut [&mut workload])?;
        // The best of all repetitions: a ceiling is what was reached once.
        let fastest = measured.iter().flat_map(|m| &m.samples).copied().fold(f64::INFINITY, f64::min);
        Ok(*self.peak.insert(workload.flops / fastest))
    }

    /// Bytes a second, read and written, where `working_set` bytes are gone through again and again.
    ///
    /// # Errors
    /// As [`Harness::measure`].
    pub fn bandwidth(&mut self, harness: &Harness<'_>, working_set: u64) -> Result<f64> {
        let size = working_set.max(SMALLEST).ilog2();
        if let Some(&known) = self.bandwidth.get(&size) {
            return Ok(known);
        }
        let gpu = harness.gpu();
        let total = 1u64 << size;
        // Eight tensors, or as many more as bindings ask for.
        let most = gpu.binding_limit().min(1 << 30);
        let sets = 8.max(total.div_ceil(most));
        let (elements, sets) = ((total / sets / 4) as usize, sets as usize);
        // What is nearer to the limit depends on the device: one stream that turns round, or two in and one out.
        let (mut one, mut three) = (probe(gpu, elements, sets, 1)?, streams(gpu, elements / 2, sets)?);
        let measured = harness.measure(&mut [&mut one, &mut three])?;
        let fastest = |m: &Measurement| m.samples.iter().copied().fold(f64::INFINITY, f64::min);
        let rates = measured.iter().zip([one.bytes, three.bytes]).map(|(m, bytes)| bytes / fastest(m));
        let found = rates.fold(0.0, f64::max);
        self.bandwidth.insert(size, found);
        Ok(found)
    }
}

/// What every row is measured in turns with: the same work always, half arithmetic and half memory, so that a row can be
/// compared with that of another day.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn yardstick(gpu: &GpuCompute) -> Result<Workload> {
    let software = gpu.adapter().is_none_or(|adapter| adapter.software);
    probe(gpu, if software { 1 << 18 } else { 1 << 22 }, 4, 15)
}

/// `sets` tensors of so many elements, each gone through in a call.
fn probe(gpu: &GpuCompute, elements: usize, sets: usize, times: u32) -> Result<Workload> {
    let columns = elements.min(1024);
    let shape = [elements / columns, columns];
    let data: Vec<f32> = (0..shape[0] * columns).map(|i| (i % 61) as f32 - 30.5).collect();
    let mut tensors: Vec<Tensor> = (0..sets).map(|_| gpu.tensor(&data, &shape)).collect::<Result<_>>()?;
    let (fresh, mut first) = (gpu.tensor(&data, &shape)?, tensors.first().cloned());
    // -2 turns the sign at each step: exact, and as large at the end as at the beginning.
    const FACTOR: f32 = -2.0;
    let head = data.get(..128.min(data.len())).unwrap_or_default();
    let truth = reference::probe(head, FACTOR, times);
    let output = Output {
        tensor: tensors.first().cloned().map_or_else(|| gpu.zeros(&[0]), Ok)?,
        expected: truth.into_iter().enumerate().map(|(i, v)| (i, v, 0.0)).collect(),
    };
    let bytes = 4.0 * data.len() as f64;
    Ok(Workload {
        name: format!("probe n={elements} times={times}"),
        flops: 2.0 * data.len() as f64 * f64::from(times),
        bytes: 2.0 * bytes,
        sets,
        working_set: bytes as u64 * sets as u64,
        record: Box::new(move |pass, set| match tensors.get_mut(set) {
            Some(x) => ops::probe(pass, x, FACTOR, times),
            None => Ok(()),
        }),
        reset: Some(Box::new(move |pass| first.as_mut().map_or(Ok(()), |first| pass.copy(&fresh, first)))),
        output,
    })
}

/// x *= y on `sets` pairs of tensors; y holds signs, so that the numbers stay as large as they are.
fn streams(gpu: &GpuCompute, elements: usize, sets: usize) -> Result<Workload> {
    let columns = elements.min(1024);
    let shape = [elements / columns, columns];
    let count = shape[0] * columns;
    let data: Vec<f32> = (0..count).map(|i| (i % 61) as f32 - 30.5).collect();
    let signs: Vec<f32> = (0..count).map(|i| if i % 3 == 0 { -1.0 } else { 1.0 }).collect();
    let pair = |_| Ok((gpu.tensor(&data, &shape)?, gpu.tensor(&signs, &shape)?));
    let mut pairs = (0..sets).map(pair).collect::<Result<Vec<(Tensor, Tensor)>>>()?;
    let (fresh, mut first) = (gpu.tensor(&data, &shape)?, pairs.first().map(|(x, _)| x.clone()));
    let truth = data.iter().zip(&signs).take(128).map(|(x, y)| f64::from(x * y));
    let output = Output {
        tensor: first.clone().map_or_else(|| gpu.zeros(&[0]), Ok)?,
        expected: truth.enumerate().map(|(i, v)| (i, v, 0.0)).collect(),
    };
    let bytes = 4.0 * count as f64;
    Ok(Workload {
        name: format!("mul n={elements}"),
        flops: 0.0,
        bytes: 3.0 * bytes,
        sets,
        working_set: 2 * bytes as u64 * sets as u64,
        record: Box::new(move |pass, set| match pairs.get_mut(set) {
            Some((x, y)) => ops::mul(pass, x, y),
            None => Ok(()),
        }),
        reset: Some(Box::new(move |pass| first.as_mut().map_or(Ok(()), |first| pass.copy(&fresh, first)))),
        output,
    })
}

/// What the maker says of an adapter: `(f32 GFLOP/s outside the matrix units, GB/s, source)`.
pub fn datasheet(adapter: &str) -> Option<(f64, f64, &'static str)> {
    const KNOWN: [(&str, f64, f64, &str); 3] = [
        ("H200", 66_900.0, 4_800.0, "NVIDIA H200 data sheet: 67 TFLOPS f32, 4.8 TB/s"),
        ("H100 PCIe", 51_200.0, 2_000.0, "NVIDIA H100 data sheet, PCIe: 51 TFLOPS f32, 2 TB/s"),
        ("RTX 4090", 82_600.0, 1_008.0, "NVIDIA Ada whitepaper: 82.6 TFLOPS f32, 1008 GB/s"),
    ];
    KNOWN
        .iter()
        .find(|(name, ..)| adapter.contains(name))
        .map(|&(_, peak, bandwidth, source)| (peak, bandwidth, source))
}
