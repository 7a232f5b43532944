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

/// How to open a [`GpuCompute`].
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
    /// Without any completion for this long, results end with [`Error::Timeout`].
    pub deadline: Duration,
    /// Who polls the device. `None`: a thread of the engine's on a device of its own, the caller on a caller's.
    pub poller: Option<Poller>,
    /// Whether parameters may travel as immediates where the adapter has them.
    pub immediates: bool,
    /// Whether kernels may use subgroup operations where the adapter has them.
    pub subgroups: bool,
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
