//! Taking samples: the same way for everything that is timed.
//!
//! Each rule answers a way in which benchmarks have lied. The result is checked first, at the shape that is timed, because
//! what computes nothing is fast. Operands rotate through more memory than caches hold, because a weight that stays in a
//! cache is not what a model reads. What is compared takes turns, and whoever is first in one turn is last in another,
//! because a machine that slows down half way favours whoever came first. A repetition is as many calls as take 25 ms: long
//! enough for any clock, and far below what a watchdog allows. The device's own clock counts where there is one; the wall's
//! time stands beside it, since it is what a caller waits for.

use std::time::{Duration, Instant};

use super::ceilings::Ceilings;
use super::statistics::Estimate;
use crate::encode::Clock;
use crate::error::{Error, Result};
use crate::gpu::{Arithmetic, GpuCompute};
use crate::pass::Pass;
use crate::tensor::{DType, Tensor};

/// Repetitions at least.
const REPETITIONS: usize = 7;
/// How long one repetition should take: long enough for the clocks, short enough for any watchdog.
const SAMPLE: Duration = Duration::from_millis(25);
/// Calls in one pass at most.
const MAX_CALLS: usize = 512;
/// How far above a ceiling a figure may be: probes have their spread too.
const SLACK: f64 = 1.25;

/// What a call computed, and where it was right.
///
/// ```
/// use gristmill::bench::{Harness, Output, yardstick};
/// use gristmill::{ComputeBackend, Error, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let mut workload = yardstick(&gpu)?;
/// let tensor = workload.output.tensor.clone();
/// workload.output = Output { tensor, expected: vec![(0, 1e9, 0.0)] }; // it computes no such thing
/// let outcome = Harness::new(&gpu).measure(&mut [&mut workload]);
/// assert!(matches!(outcome, Err(Error::WrongResult { .. }))); // so it is not timed
/// # Ok::<(), gristmill::Error>(())
/// ```
pub struct Output {
    /// What the first set's call wrote: f32 or words.
    pub tensor: Tensor,
    /// `(position in the dense tensor, value, largest error)`.
    pub expected: Vec<(usize, f64, f64)>,
}

/// Records one call on the operands of a set.
type Record = Box<dyn FnMut(&mut Pass, usize) -> Result<()>>;

/// Records what puts operands back.
type Reset = Box<dyn FnMut(&mut Pass) -> Result<()>>;

/// Something that can be timed: calls of one op on one shape, on several sets of operands.
///
/// ```
/// use gristmill::bench::{Harness, Output, Workload};
/// use gristmill::{ComputeBackend, GpuCompute, ops};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let x = gpu.tensor(&[1.0, -2.0], &[2])?;
/// let mut operand = x.clone(); // the same elements
/// let mut workload = Workload {
///     name: "relu n=2 f32".to_owned(),
///     flops: 0.0,
///     bytes: 16.0,
///     sets: 1,
///     working_set: 8,
///     record: Box::new(move |pass, _| ops::relu(pass, &mut operand)),
///     reset: None, // relu of relu is relu
///     output: Output { tensor: x, expected: vec![(0, 1.0, 0.0), (1, 0.0, 0.0)] },
/// };
/// Harness::new(&gpu).check(&mut workload)?;
/// # Ok::<(), gristmill::Error>(())
/// ```
pub struct Workload {
    /// `matmul m=256,k=256,n=256 f32`.
    pub name: String,
    /// Floating-point operations of a call; 0 where they do not count.
    pub flops: f64,
    /// Bytes that a call moves at least.
    pub bytes: f64,
    /// Sets of operands.
    pub sets: usize,
    /// Bytes of all sets.
    pub working_set: u64,
    /// One call.
    pub record: Record,
    /// Puts the operands of every set back to what they were: an op in place changes them.
    pub reset: Option<Reset>,
    /// What is checked before anything is timed.
    pub output: Output,
}

/// One repetition, in seconds per call.
#[derive(Debug, Clone, Copy)]
struct Sample {
    wall: f64,
    device: Option<f64>,
}

/// What a workload took.
///
/// ```
/// use std::time::Duration;
/// use gristmill::bench::{Harness, yardstick};
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let mut harness = Harness::new(&gpu);
/// harness.sample = Duration::from_millis(1); // per repetition; 25 ms unless said otherwise
/// let mut probe = yardstick(&gpu)?;
/// let measured = harness.measure(&mut [&mut probe])?;
/// let time = measured[0].time(); // per call, by the device's clock if it has one
/// assert!(time.low <= time.median && time.median <= time.high && measured[0].samples.len() >= 7);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Measurement {
    /// The workload's name.
    pub name: String,
    /// Seconds per call by the wall: recording, submitting, computing and waiting.
    pub wall: Estimate,
    /// Seconds per call by the device's clock, if it has one: from the beginning of the first call to the end of the last.
    pub device: Option<Estimate>,
    /// Seconds per call of each repetition, by the device's clock, else by the wall.
    pub samples: Vec<f64>,
    /// Calls per repetition.
    pub calls: usize,
    /// The kernels that ran; none on the CPU backend.
    pub kernels: Vec<&'static str>,
}

impl Measurement {
    /// Seconds per call, by the device's clock where there is one.
    pub fn time(&self) -> Estimate {
        self.device.unwrap_or(self.wall)
    }
}

/// Takes samples on one backend.
///
/// ```
/// use std::time::Duration;
/// use gristmill::bench::{Harness, ratios, yardstick};
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let mut harness = Harness::new(&gpu);
/// harness.sample = Duration::from_millis(1); // per repetition; 25 ms unless said otherwise
/// let (mut one, mut other) = (yardstick(&gpu)?, yardstick(&gpu)?);
/// let measured = harness.measure(&mut [&mut one, &mut other])?; // in turns
/// let ratio = ratios(&measured[0].samples, &measured[1].samples).expect("as many samples of both");
/// println!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.low, ratio.high); // 1, but for noise
/// assert!(ratio.median > 0.0);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug)]
pub struct Harness<'a> {
    gpu: &'a GpuCompute,
    /// Repetitions of everything; at least seven.
    pub repetitions: usize,
    /// How long one repetition should take.
    pub sample: Duration,
}

impl<'a> Harness<'a> {
    /// Seven repetitions of 25 ms.
    pub fn new(gpu: &'a GpuCompute) -> Harness<'a> {
        Harness { gpu, repetitions: REPETITIONS, sample: SAMPLE }
    }

    /// Where it measures.
    pub fn gpu(&self) -> &'a GpuCompute {
        self.gpu
    }

    /// Checks every workload, warms up, and lets them take turns.
    ///
    /// # Errors
    /// [`Error::WrongResult`] for a workload that computes something else; what the device says.
    pub fn measure(&self, workloads: &mut [&mut Workload]) -> Result<Vec<Measurement>> {
        let mut calls = Vec::new();
        let mut kernels = Vec::new();
        for workload in workloads.iter_mut() {
            kernels.push(self.check(workload)?);
            calls.push(self.warm_up(workload)?);
        }
        let mut samples: Vec<Vec<Sample>> = workloads.iter().map(|_| Vec::new()).collect();
        let count = workloads.len();
        for repetition in 0..self.repetitions.max(REPETITIONS) {
            // Whoever comes first in one turn comes last in another.
            for i in (0..count).map(|i| (i + repetition) % count) {
                if let (Some(workload), Some(&calls), Some(samples)) =
                    (workloads.get_mut(i), calls.get(i), samples.get_mut(i))
                {
                    samples.push(self.sample(workload, calls)?);
                }
            }
        }
        let facts = workloads.iter().zip(samples).zip(calls.iter().zip(kernels));
        let measurements = facts.map(|((workload, samples), (&calls, kernels))| {
            let wall: Vec<f64> = samples.iter().map(|s| s.wall).collect();
            let device: Option<Vec<f64>> = samples.iter().map(|s| s.device).collect();
            let none = Estimate { median: f64::NAN, low: f64::NAN, high: f64::NAN };
            Measurement {
                name: workload.name.clone(),
                wall: Estimate::of(&wall).unwrap_or(none),
                device: device.as_deref().and_then(Estimate::of),
                samples: device.unwrap_or(wall),
                calls,
                kernels,
            }
        });
        Ok(measurements.collect())
    }

    /// [`Harness::measure`] of one workload, in turns with the [`yardstick`](super::yardstick), judged by what the device can
    /// do at most. What is above that is measured again, both of them.
    ///
    /// # Errors
    /// [`Error::Implausible`] for a figure that stays above; as [`Harness::measure`].
    pub fn measure_below(
        &self,
        workload: &mut Workload,
        yardstick: &mut Workload,
        ceilings: &mut Ceilings,
    ) -> Result<(Measurement, Measurement)> {
        let mut message = String::new();
        for _ in 0..2 {
            let measured = self.measure(&mut [&mut *workload, &mut *yardstick])?;
            let Ok([of_workload, of_yardstick]) = <[Measurement; 2]>::try_from(measured) else { break };
            match self.above(workload, of_workload.time().median, ceilings)? {
                None => return Ok((of_workload, of_yardstick)),
                Some(above) => message = above,
            }
            ceilings.forget();
        }
        Err(Error::Implausible { what: workload.name.clone(), message })
    }

    /// In what a call in so many seconds is above a ceiling.
    pub(crate) fn above(&self, workload: &Workload, seconds: f64, ceilings: &mut Ceilings) -> Result<Option<String>> {
        let (flops, bytes) = (workload.flops / seconds, workload.bytes / seconds);
        // The probe multiplies floats, which is no ceiling for units that multiply matrices of halves.
        let peak = match self.gpu.arithmetic() {
            Arithmetic::F32 => ceilings.peak(self)?,
            Arithmetic::F16 => f64::INFINITY,
        };
        let bandwidth = ceilings.bandwidth(self, workload.working_set)?;
        let message = |found: f64, ceiling: f64, unit: &str| {
            Some(format!("{:.1} {unit}, {:.2} times what the probe reached", found / 1e9, found / ceiling))
        };
        Ok(match () {
            () if seconds.is_nan() || seconds <= 0.0 => Some("no time passed".to_owned()),
            () if flops > SLACK * peak => message(flops, peak, "GFLOP/s"),
            () if bytes > SLACK * bandwidth => message(bytes, bandwidth, "GB/s"),
            () => None,
        })
    }

    /// How long `calls` calls take: by the device's clock, else by the wall. Nothing is checked.
    ///
    /// # Errors
    /// What the device says.
    pub fn time(&self, workload: &mut Workload, calls: usize) -> Result<Duration> {
        let mut total = 0.0;
        for first in (0..calls).step_by(MAX_CALLS) {
            let count = MAX_CALLS.min(calls - first);
            let sample = self.sample(workload, count)?;
            total += sample.device.unwrap_or(sample.wall) * count as f64;
        }
        Ok(Duration::from_secs_f64(total))
    }

    /// Runs one call on the first set and compares what it wrote. Returns the kernels.
    ///
    /// # Errors
    /// [`Error::WrongResult`].
    pub fn check(&self, workload: &mut Workload) -> Result<Vec<&'static str>> {
        self.reset(workload)?;
        let mut pass = self.gpu.pass();
        (workload.record)(&mut pass, 0)?;
        let mut kernels: Vec<&'static str> = pass.kernels().collect();
        kernels.dedup();
        pass.submit()?;
        let found: Vec<f64> = match workload.output.tensor.dtype() {
            DType::U32 => self.gpu.read::<u32>(&workload.output.tensor)?.into_iter().map(f64::from).collect(),
            DType::F16 => self.gpu.read::<half::f16>(&workload.output.tensor)?.into_iter().map(f64::from).collect(),
            _ => self.gpu.read::<f32>(&workload.output.tensor)?.into_iter().map(f64::from).collect(),
        };
        for &(at, expected, bound) in &workload.output.expected {
            let found = found.get(at).copied().unwrap_or(f64::NAN);
            let error = (found - expected).abs();
            if error.is_nan() || error > bound {
                let message = format!("element {at} is {found}, expected {expected} within {bound:.2e}");
                return Err(Error::WrongResult { what: workload.name.clone(), message });
            }
        }
        Ok(kernels)
    }

    fn reset(&self, workload: &mut Workload) -> Result<()> {
        if let Some(reset) = &mut workload.reset {
            let mut pass = self.gpu.pass();
            reset(&mut pass)?;
            pass.submit()?;
            self.gpu.wait_idle()?;
        }
        Ok(())
    }

    /// Goes through every set, then says how many calls make a repetition.
    fn warm_up(&self, workload: &mut Workload) -> Result<usize> {
        let start = Instant::now();
        let mut fastest = f64::INFINITY;
        let mut runs = 0;
        // The first runs compile and fault pages in; the clocks of a device rise while it works.
        while runs < 3 || (start.elapsed() < 2 * self.sample && runs < 100) {
            let sample = self.sample(workload, if runs == 0 { 1 } else { workload.sets.min(MAX_CALLS) })?;
            fastest = fastest.min(sample.wall);
            runs += 1;
            if start.elapsed() > 20 * self.sample {
                break;
            }
        }
        Ok(((self.sample.as_secs_f64() / fastest) as usize).clamp(1, MAX_CALLS))
    }

    fn sample(&self, workload: &mut Workload, calls: usize) -> Result<Sample> {
        self.reset(workload)?;
        let start = Instant::now();
        let mut pass = self.gpu.pass();
        for i in 0..calls {
            (workload.record)(&mut pass, i % workload.sets.max(1))?;
        }
        let times = match self.gpu.clock() {
            Some(_) => Some(pass.submit_timed(Clock::Whole)?),
            None => pass.submit().map(|()| None)?,
        };
        self.gpu.wait_idle()?;
        let wall = start.elapsed().as_secs_f64() / calls as f64;
        let device = times.map(|times| self.gpu.wait(times)).transpose()?.map(|times| times.seconds / calls as f64);
        Ok(Sample { wall, device })
    }
}

/// Runs each of `arms` once to warm up, then lets them take turns; seconds of each. For what is more than one pass.
///
/// # Errors
/// The first error of any of them.
pub fn turns(repetitions: usize, arms: &mut [&mut dyn FnMut() -> Result<()>]) -> Result<Vec<Vec<f64>>> {
    let count = arms.len();
    let mut seconds = vec![Vec::new(); count];
    for arm in arms.iter_mut() {
        arm()?;
    }
    for repetition in 0..repetitions {
        for i in (0..count).map(|i| (i + repetition) % count) {
            let (Some(arm), Some(seconds)) = (arms.get_mut(i), seconds.get_mut(i)) else { continue };
            let start = Instant::now();
            arm()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(seconds)
}

impl std::fmt::Debug for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workload").field("name", &self.name).field("sets", &self.sets).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("tensor", &self.tensor).field("expected", &self.expected.len()).finish()
    }
}
