//! Where the operands of a product lie, what it is predicted to cost on either side, and why a side was chosen.
//!
//! A choice that cannot be explained cannot be corrected. So a decision is a value with both costs, by their parts, and a
//! reason, and prints as one line: whether it is the transfer, the fixed cost or the product that decides is what a caller
//! can act on, by keeping an operand on the device or by batching. A reason is an enum, and a test can ask for it, where a
//! text would be compared with itself.

use crate::error::Error;
use crate::gpu::ComputeBackend;

/// Where an operand lies, or where the product shall.
///
/// ```
/// use gristmill::{Calibration, Place, Residency};
///
/// // Bytes a second to the device and back, seconds of a call, multiplications a second on the GPU and on the CPU.
/// let calibration = Calibration::from_rates(1e9, 1e9, 1e-4, 1e12, 1e10);
/// let cost = |b| calibration.gpu_cost(1, 4096, 4096, Residency { b, ..Residency::HOST });
/// assert!(cost(Place::Host).upload > 1e3 * cost(Place::Device).upload); // the weight is on the device already
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    /// In host memory: the GPU needs a transfer.
    #[default]
    Host,
    /// On the device: the CPU needs a transfer.
    Device,
    /// Wherever it is needed: neither does.
    Either,
}

/// Where the operands a and b of a product lie, and where it shall lie.
///
/// ```
/// use gristmill::{Calibration, Residency};
///
/// // Bytes a second to the device and back, seconds of a call, multiplications a second on the GPU and on the CPU.
/// let calibration = Calibration::from_rates(1e9, 1e9, 1e-4, 1e12, 1e10);
/// let there = calibration.gpu_cost(64, 64, 64, Residency::DEVICE);
/// assert_eq!((there.upload, there.download), (0.0, 0.0));
/// let here = calibration.cpu_cost(64, 64, 64, Residency::HOST);
/// assert_eq!((here.upload, here.download), (0.0, 0.0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Residency {
    /// The first operand.
    pub a: Place,
    /// The second operand.
    pub b: Place,
    /// The product.
    pub out: Place,
}

impl Residency {
    /// Everything in host memory, as in [`HybridScheduler::matmul`](super::HybridScheduler::matmul).
    pub const HOST: Residency = Residency::all(Place::Host);
    /// Everything on the device.
    pub const DEVICE: Residency = Residency::all(Place::Device);
    /// Everything where the chosen side wants it: no transfer counts.
    pub const EITHER: Residency = Residency::all(Place::Either);

    /// Operands and product in one place.
    pub const fn all(place: Place) -> Residency {
        Residency { a: place, b: place, out: place }
    }
}

/// What one side is predicted to take, in seconds.
///
/// ```
/// use gristmill::Cost;
///
/// let cost = Cost { upload: 2e-5, fixed: 2.5e-4, compute: 1e-3, download: 0.0 };
/// assert_eq!(cost.to_string(), "1.27 ms = upload 20.0 us + fixed 250.0 us + compute 1.00 ms");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Transfers to the device.
    pub upload: f64,
    /// What a call costs whatever its size: on the GPU the submission and the notice of its end. On the CPU it is part of
    /// `compute`.
    pub fixed: f64,
    /// The product itself; on the CPU with the memory for it.
    pub compute: f64,
    /// Transfers to the host.
    pub download: f64,
}

impl Cost {
    /// The sum of the parts.
    pub fn total(&self) -> f64 {
        self.upload + self.fixed + self.compute + self.download
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", Time(self.total()))?;
        let parts =
            [("upload", self.upload), ("fixed", self.fixed), ("compute", self.compute), ("download", self.download)];
        for (i, (name, seconds)) in parts.into_iter().filter(|(_, seconds)| *seconds > 0.0).enumerate() {
            write!(f, "{}{name} {}", if i == 0 { " = " } else { " + " }, Time(seconds))?;
        }
        Ok(())
    }
}

/// Seconds in a readable unit.
struct Time(f64);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            s if s < 1e-3 => write!(f, "{:.1} us", s * 1e6),
            s if s < 1.0 => write!(f, "{:.2} ms", s * 1e3),
            s => write!(f, "{s:.3} s"),
        }
    }
}

/// Why a side was chosen.
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute, HybridScheduler, Why};
///
/// let scheduler = HybridScheduler::with_gpu(GpuCompute::new(ComputeBackend::Cpu)?)?;
/// assert!(matches!(scheduler.explain(64, 64, 64).why, Why::NoGpu(_)));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Why {
    /// There is no GPU, for this reason.
    NoGpu(String),
    /// The product has no element, or each is an empty sum.
    Empty,
    /// An operand or the product is over a binding or a grid of the device.
    DoesNotFit,
    /// m k n, counted up to `usize::MAX`, against a fixed threshold.
    Threshold {
        /// m k n.
        work: usize,
        /// From where on the GPU computes.
        threshold: usize,
    },
    /// The predicted costs.
    Predicted,
    /// The adapter could not be measured.
    NotMeasured(Error),
}

/// A choice, with its reason. `Display` is one line.
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute, HybridScheduler};
///
/// let scheduler = HybridScheduler::with_gpu(GpuCompute::new(ComputeBackend::Cpu)?)?;
/// let decision = scheduler.explain(64, 64, 64);
/// assert!(!decision.is_gpu());
/// assert!(decision.to_string().starts_with("CPU: there is no GPU: "));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Decision {
    /// [`ComputeBackend::Gpu`] or [`ComputeBackend::Cpu`].
    pub backend: ComputeBackend,
    /// What the GPU is predicted to take; `None` where nothing is measured.
    pub gpu: Option<Cost>,
    /// What the CPU is predicted to take; `None` where nothing is measured.
    pub cpu: Option<Cost>,
    /// The reason.
    pub why: Why,
}

impl Decision {
    /// Whether the GPU computes.
    pub fn is_gpu(&self) -> bool {
        self.backend == ComputeBackend::Gpu
    }
}

impl std::fmt::Display for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_gpu() { "GPU: " } else { "CPU: " })?;
        match &self.why {
            Why::NoGpu(reason) => write!(f, "there is no GPU: {reason}")?,
            Why::Empty => f.write_str("there is nothing to multiply")?,
            Why::DoesNotFit => f.write_str("a matrix is over what the adapter takes")?,
            Why::Threshold { work, threshold } => {
                let relation = if self.is_gpu() { "reaches" } else { "is below" };
                write!(f, "m k n = {work} {relation} the threshold {threshold}")?;
            }
            Why::Predicted => f.write_str("it is predicted to be sooner")?,
            Why::NotMeasured(error) => write!(f, "the adapter could not be measured: {error}")?,
        }
        if let (Some(gpu), Some(cpu)) = (self.gpu, self.cpu) {
            write!(f, "; GPU {gpu}; CPU {cpu}")?;
        }
        Ok(())
    }
}
