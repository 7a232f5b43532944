//! What can be asked of an engine when it is opened.

use std::path::PathBuf;
use std::time::Duration;

use crate::queue::Poller;

/// Where to compute.
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Auto)?;
/// // It says what it got, and why.
/// println!("{:?}: {}", gpu.backend(), gpu.reason());
/// assert_ne!(gpu.backend(), ComputeBackend::Auto);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ComputeBackend {
    /// A hardware adapter, else a software one, else an error.
    Gpu,
    /// The CPU backend.
    Cpu,
    /// A hardware adapter, else the CPU backend.
    #[default]
    Auto,
}

/// What products of many rows are computed in: those of [`matmul_transpose_b`](crate::ops::matmul_transpose_b), and of layers over
/// more rows than [`MATVEC_ROWS`](crate::ops::MATVEC_ROWS).
///
/// ```
/// use gristmill::{Arithmetic, ComputeBackend, GpuCompute, Options};
///
/// let options = Options { arithmetic: Arithmetic::F16, ..Options::new(ComputeBackend::Cpu) };
/// let gpu = GpuCompute::open(&options)?;
/// // It says what it got, and why.
/// assert_eq!(gpu.arithmetic(), Arithmetic::F32);
/// println!("{}", gpu.arithmetic_note().unwrap_or_default());
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Arithmetic {
    /// Factors as they are, sums of f32.
    #[default]
    F32,
    /// Factors rounded to halves, 11 digits, and sums of f32, where the adapter has units that multiply matrices at once;
    /// elsewhere as [`Arithmetic::F32`], which [`GpuCompute::arithmetic_note`](crate::GpuCompute::arithmetic_note) says. Halves end at 65,504: a factor beyond
    /// becomes infinite, and what it contributes to is infinite or NaN, which models report as
    /// [`Error::NonFinite`](crate::Error::NonFinite). Numbers below 2^-14 lose digits, or become zero.
    F16,
}

/// How to open a [`GpuCompute`](crate::GpuCompute).
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute, Options};
/// use std::time::Duration;
///
/// let options = Options { deadline: Duration::from_secs(5), ..Options::new(ComputeBackend::Gpu) };
/// let gpu = GpuCompute::open(&options)?;
/// assert!(gpu.is_gpu());
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to compute.
    pub backend: ComputeBackend,
    /// Part of the adapter's name. `None`: `GRISTMILL_ADAPTER`, else `WGPU_ADAPTER_NAME`, else any.
    pub adapter: Option<String>,
    /// Submissions in flight before submitting blocks.
    pub depth: usize,
    /// Without any completion for this long, results end with [`Error::Timeout`](crate::Error::Timeout).
    pub deadline: Duration,
    /// Who polls the device. `None`: a thread of the engine's on a device of its own, the caller on a caller's.
    pub poller: Option<Poller>,
    /// Whether parameters may travel as immediates where the adapter has them.
    pub immediates: bool,
    /// Whether kernels may use subgroup operations where the adapter has them.
    pub subgroups: bool,
    /// What products of many rows are computed in.
    pub arithmetic: Arithmetic,
    /// Compiles kernels of this crate without the checks that wgpu puts into every shader: of each index, and of loops
    /// without an end. The cases of [`verify`](crate::verify) pass both ways, between guards, and give the same bits, but
    /// for some of attention and of products of few rows. A caller's own kernels keep the checks.
    pub unchecked: bool,
    /// A folder where compiled pipelines are kept from one run to the next, for each adapter and driver; `None`: nowhere. They
    /// are written when the engine is dropped, where the device can ([`wgpu::Features::PIPELINE_CACHE`]).
    pub pipelines: Option<PathBuf>,
    /// The most bytes of one binding; `None`: the adapter's limit. For tests of the chunked paths.
    pub max_binding_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            backend: ComputeBackend::Auto,
            adapter: None,
            depth: 3,
            deadline: Duration::from_secs(60),
            poller: None,
            immediates: true,
            subgroups: true,
            arithmetic: Arithmetic::F32,
            unchecked: false,
            pipelines: None,
            max_binding_bytes: None,
        }
    }
}

impl Options {
    /// The defaults for a backend.
    pub fn new(backend: ComputeBackend) -> Options {
        Options { backend, ..Options::default() }
    }
}
