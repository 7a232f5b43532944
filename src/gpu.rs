//! `GpuCompute`: an opened backend. Opening it creates the device, so that what can fail fails here and not at the first
//! op. It says what it got, and why: a backend that quietly computes elsewhere than asked makes every figure after it
//! worthless.
//!
//! A device is ours or a caller's. On ours, errors and losses come to handlers that we install, and a thread of ours polls.
//! A caller's device ([`GpuCompute::from_existing`]) keeps its handlers and its owner's way of polling: an engine on it is a
//! guest. Everything else is one path for both, and there is no registry: an engine is a value, and two of them know
//! nothing of each other.

mod existing;
mod kept;
mod opening;
mod options;
mod tensors;
mod units;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::adapter::AdapterFacts;
use crate::cache::Cache;
use crate::counters::{Counters, Stats};
use crate::encode::Clock;
use crate::error::{Error, Result};
use crate::kernel::{Kernel, MAX_CONSTANTS, ParamsVia};
use crate::own_kernel::OwnKernel;
use crate::pass::Pass;
use crate::pool::{GpuBufferPool, Lease, PoolStats};
use crate::queue::seam::{Seam, WgpuSeam};
use crate::queue::{Driver, Poller, Settings, SubmissionQueue};
use crate::result::AsyncGpuResult;
use crate::tensor::Tensor;
use crate::tuning::{ShapeClass, Trial, Tuning};
use kept::Kept;
#[cfg(feature = "models")]
pub(crate) use kept::fnv1a64;
pub use options::{Arithmetic, ComputeBackend, Options};
use units::Units;

/// An opened backend: a device with its pool, queue and caches, or the CPU. Cloning makes another handle.
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Gpu)?; // or auto(), or from_existing(device, queue)
/// let c = gpu.matmul(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0], 2, 2, 2)?;
/// assert_eq!(c, [19.0, 22.0, 43.0, 50.0]);
/// assert_eq!(gpu.stats().dispatches, 1);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Clone)]
pub struct GpuCompute {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Option<Engine>,
    reason: String,
    /// What was asked for.
    arithmetic: Arithmetic,
}

/// Everything that belongs to one device. The queue comes first, so that it is drained before the rest is dropped.
pub(crate) struct Engine {
    pub(crate) queue: SubmissionQueue,
    pub(crate) pool: GpuBufferPool,
    pub(crate) cache: Cache,
    kept: Option<Kept>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) params: ParamsVia,
    pub(crate) subgroups: bool,
    /// Integers of 64 bits.
    int64: bool,
    /// What multiplies matrices at once, or why nothing does.
    units: Result<Units, &'static str>,
    /// What kernels run with instead of their defaults.
    tuning: RwLock<Tuning>,
    /// One kernel that is being tuned.
    trial: RwLock<Option<Trial>>,
    pub(crate) facts: AdapterFacts,
    /// A careful guess of this class of adapter's rate, for cutting long work into submissions.
    #[cfg_attr(not(feature = "models"), allow(dead_code, reason = "models alone need it"))]
    pub(crate) flops_per_second: f64,
    /// The finest clock there is.
    clock: Option<Clock>,
    /// Of a timestamp.
    pub(crate) seconds_per_tick: f64,
    /// Bytes written since something was submitted.
    pub(crate) staged: AtomicUsize,
    max_binding_bytes: u64,
    limits: wgpu::Limits,
    pub(crate) seam: Arc<dyn Seam>,
    device: wgpu::Device,
    device_queue: wgpu::Queue,
}

impl Drop for Engine {
    fn drop(&mut self) {
        // What a lost device says of its pipelines is not worth keeping.
        let Some(kept) = self.kept.as_ref().filter(|_| self.seam.lost().is_none()) else { return };
        if let Err(error) = kept.save() {
            log::warn!("compiled pipelines are not kept: {error}");
        }
    }
}

impl std::fmt::Debug for GpuCompute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GpuCompute").field("adapter", &self.adapter()).field("reason", &self.reason()).finish()
    }
}

impl GpuCompute {
    /// Whether ops run on an adapter, be it a software one.
    pub fn is_gpu(&self) -> bool {
        self.inner.engine.is_some()
    }

    /// [`ComputeBackend::Gpu`] or [`ComputeBackend::Cpu`], never `Auto`.
    pub fn backend(&self) -> ComputeBackend {
        if self.is_gpu() { ComputeBackend::Gpu } else { ComputeBackend::Cpu }
    }

    /// Has kernels run with these knobs instead of those that ship for this adapter, in what is recorded from now on. The CPU
    /// backend has no knobs.
    pub fn set_tuning(&self, tuning: Tuning) {
        if let Some(engine) = &self.inner.engine {
            *engine.tuning.write().unwrap_or_else(PoisonError::into_inner) = tuning;
        }
    }

    /// The knobs that kernels run with instead of their defaults.
    pub fn tuning(&self) -> Tuning {
        let tuning = |engine: &Engine| engine.tuning.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.inner.engine.as_ref().map(tuning).unwrap_or_default()
    }

    /// The adapter, unless this is the CPU backend.
    pub fn adapter(&self) -> Option<&AdapterFacts> {
        self.engine().map(|engine| &engine.facts)
    }

    /// Why this backend was chosen.
    pub fn reason(&self) -> &str {
        &self.inner.reason
    }

    /// What products of many rows are computed in.
    pub fn arithmetic(&self) -> Arithmetic {
        match self.engine().map(|engine| engine.units) {
            Some(Ok(_)) => Arithmetic::F16,
            _ => Arithmetic::F32,
        }
    }

    /// What became of another arithmetic than the default, and why; `None` where none was asked for.
    pub fn arithmetic_note(&self) -> Option<String> {
        if self.inner.arithmetic == Arithmetic::F32 {
            return None;
        }
        Some(match self.engine().map(|engine| engine.units) {
            Some(Ok(units)) => format!("f16 products on {units}"),
            Some(Err(why)) => format!("f32 products, though f16 was asked for: {why}"),
            None => "f32 products, though f16 was asked for: the CPU backend has no others".to_owned(),
        })
    }

    /// What was done since opening. All zeros on the CPU backend.
    pub fn stats(&self) -> Stats {
        self.engine().map(|engine| engine.counters.snapshot()).unwrap_or_default()
    }

    /// Gauges of the buffer pool. All zeros on the CPU backend.
    pub fn pool_stats(&self) -> PoolStats {
        self.pool().map(GpuBufferPool::stats).unwrap_or_default()
    }

    /// The buffer pool, unless this is the CPU backend.
    pub fn pool(&self) -> Option<&GpuBufferPool> {
        self.engine().map(|engine| &engine.pool)
    }

    /// The limits the device was granted, unless this is the CPU backend.
    pub fn limits(&self) -> Option<&wgpu::Limits> {
        self.engine().map(|engine| &engine.limits)
    }

    /// The device, unless this is the CPU backend: for buffers and encoders of a caller's own.
    pub fn device(&self) -> Option<&wgpu::Device> {
        self.engine().map(|engine| &engine.device)
    }

    /// The queue of the device, unless this is the CPU backend.
    pub fn queue(&self) -> Option<&wgpu::Queue> {
        self.engine().map(|engine| &engine.device_queue)
    }

    /// The finest clock of the device itself; `None` where it has none, and on the CPU backend.
    pub fn clock(&self) -> Option<Clock> {
        self.engine().and_then(|engine| engine.clock)
    }

    /// Starts recording.
    pub fn pass(&self) -> Pass {
        Pass::new(self.clone())
    }

    /// Blocks until everything submitted so far is done.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::DeviceLost`].
    pub fn wait_idle(&self) -> Result<()> {
        self.engine().map_or(Ok(()), |engine| engine.queue.drain())
    }

    /// Reads a tensor back and waits for it.
    ///
    /// # Errors
    /// As [`Pass::read`] and [`AsyncGpuResult::wait`].
    pub fn read<T: bytemuck::Pod + Send>(&self, tensor: &Tensor) -> Result<Vec<T>> {
        let mut pass = self.pass();
        let result = pass.read(tensor)?;
        pass.submit()?;
        self.wait(result)
    }

    /// Waits for a result as long as the queue's own deadlines allow.
    pub(crate) fn wait<T>(&self, result: AsyncGpuResult<T>) -> Result<T> {
        // The poller restarts its deadline at every completion and ends each result; this is only the outer bound.
        result.wait(Duration::from_secs(24 * 3600))
    }

    /// What completes results, unless a thread does.
    pub(crate) fn driver(&self) -> Option<Driver> {
        self.engine().and_then(|engine| engine.queue.driver())
    }

    pub(crate) fn engine(&self) -> Option<&Engine> {
        self.inner.engine.as_ref()
    }

    /// The most bytes one binding may have.
    pub(crate) fn binding_limit(&self) -> u64 {
        self.engine().map_or(u64::MAX, |engine| engine.max_binding_bytes)
    }

    /// Sends written bytes on their way and waits for them.
    pub(crate) fn flush(&self) -> Result<()> {
        let Some(engine) = self.engine() else { return Ok(()) };
        engine.staged.store(0, Ordering::Relaxed);
        let empty =
            |device: &wgpu::Device| device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default()).finish();
        engine.queue.push(Vec::new(), |_| Ok(()), &mut { empty })?;
        engine.queue.drain()
    }
}

/// A device and its queue.
struct Opened {
    device: wgpu::Device,
    queue: wgpu::Queue,
    facts: AdapterFacts,
    /// Ours, and not a caller's.
    owned: bool,
    units: Result<Units, &'static str>,
}

impl Opened {
    /// The finest clock that the device's features allow.
    fn clock(&self) -> Option<Clock> {
        match self.device.features() {
            features if !features.contains(wgpu::Features::TIMESTAMP_QUERY) => None,
            features if !features.contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES) => Some(Clock::Whole),
            _ => Some(Clock::Each),
        }
    }
}

impl Engine {
    fn new(opened: Opened, options: &Options, wrap: impl FnOnce(Arc<dyn Seam>) -> Arc<dyn Seam>) -> Result<Engine> {
        let clock = opened.clock();
        let Opened { device, queue, facts, owned, units } = opened;
        let (features, limits) = (device.features(), device.limits());
        let immediates = options.immediates
            && features.contains(wgpu::Features::IMMEDIATES)
            && limits.max_immediate_size >= crate::reflect::MAX_PARAMS_BYTES;
        let params = if immediates { ParamsVia::Immediate } else { ParamsVia::Uniform };
        let seconds_per_tick = f64::from(queue.get_timestamp_period()) * 1e-9;
        let counters = Arc::new(Counters::default());
        let seam = if owned { WgpuSeam::owned } else { WgpuSeam::borrowed };
        let real = Arc::new(seam(device.clone(), queue.clone(), Arc::clone(&counters)));
        let kept = options.pipelines.as_deref().and_then(|folder| Kept::open(&device, &facts, folder));
        let compiled = kept.as_ref().map(|kept| kept.cache().clone());
        let how = (params, options.unchecked);
        let cache = Cache::new(Arc::clone(&real), how, compiled, &limits, Arc::clone(&counters))?;
        let seam = wrap(real);
        // Shader toolchains compute byte offsets in i32, so no binding of ours reaches 2^31.
        let granted = limits.max_storage_buffer_binding_size.min((1 << 31) - 256);
        let poller = options.poller.unwrap_or(if owned { Poller::Thread } else { Poller::Caller });
        let settings = Settings { depth: options.depth, deadline: options.deadline, poller, owned };
        // An integrated GPU may compute more slowly in memory that the host maps; that was not measured.
        let mapped = facts.software && features.contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS);
        Ok(Engine {
            queue: SubmissionQueue::new(Arc::clone(&seam), &settings)?,
            pool: GpuBufferPool::new(Arc::clone(&seam), limits.max_buffer_size, mapped, Box::new(cache.forgetter())),
            cache,
            kept,
            counters,
            params,
            subgroups: options.subgroups && features.contains(wgpu::Features::SUBGROUP),
            int64: features.contains(wgpu::Features::SHADER_INT64),
            units: if options.subgroups { units } else { Err("subgroups were not to be used") },
            flops_per_second: match facts.kind {
                "discrete" => 1e12,
                "integrated" | "virtual" => 1e11,
                _ => 2e9,
            },
            clock,
            seconds_per_tick,
            staged: AtomicUsize::new(0),
            tuning: RwLock::new(Tuning::shipped(&facts.name, facts.kind)),
            trial: RwLock::default(),
            facts,
            max_binding_bytes: options.max_binding_bytes.map_or(granted, |bytes| bytes.min(granted)),
            limits,
            seam,
            device,
            device_queue: queue,
        })
    }

    /// The knobs that a kernel runs with, where they are not its defaults.
    pub(crate) fn knobs(&self, kernel: &Kernel, class: ShapeClass) -> Option<[u32; MAX_CONSTANTS]> {
        let trial = self.trial.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(trial) = trial.as_ref().filter(|trial| trial.kernel.index == kernel.index) {
            return Some(trial.knobs);
        }
        self.tuning.read().unwrap_or_else(PoisonError::into_inner).knobs(kernel, class)
    }

    /// Why a kernel does not run here; `None`: it does.
    pub(crate) fn lacks(&self, kernel: &Kernel) -> Option<&'static str> {
        match self.units {
            _ if kernel.needs.subgroups && !self.subgroups => Some("no subgroups are used"),
            _ if kernel.needs.int64 && !self.int64 => Some("the device has no integers of 64 bits"),
            _ if kernel.needs.matrix == 0 => None,
            Ok(units) => units.lack(kernel),
            Err(why) => Some(why),
        }
    }

    /// Lanes of a subgroup, where matrices are multiplied at once.
    pub(crate) fn lanes(&self) -> u32 {
        self.units.map_or(0, |units| units.lanes)
    }

    /// Whether an op runs this one of its kernels for a class of shapes: one that is being tuned, else the one that the
    /// tuning names, else `otherwise`. What is computed in halves is not up to the tuning: it chooses among kernels of one
    /// arithmetic.
    pub(crate) fn picks(&self, kernel: &Kernel, otherwise: bool, class: ShapeClass) -> bool {
        if self.lacks(kernel).is_some() {
            return false;
        }
        let trial = self.trial.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(trial) = trial.as_ref().filter(|trial| trial.kernel.op == kernel.op) {
            return trial.kernel.index == kernel.index;
        }
        let tuning = self.tuning.read().unwrap_or_else(PoisonError::into_inner);
        let fits = |other: &Kernel| other.needs.f16 == kernel.needs.f16 && self.lacks(other).is_none();
        tuning.kernel(kernel.op, class, fits).map_or(otherwise, |preferred| preferred.index == kernel.index)
    }

    /// What runs in a kernel's place, and with which knobs.
    pub(crate) fn stand_in(&self, kernel: &Kernel) -> Option<(OwnKernel, Vec<u32>)> {
        let trial = self.trial.read().unwrap_or_else(PoisonError::into_inner);
        trial.as_ref().filter(|trial| trial.kernel.index == kernel.index).and_then(|trial| trial.own.clone())
    }

    /// Has one kernel run with other knobs, or another text, from now on; `None`: as it is.
    #[cfg_attr(not(feature = "bench"), allow(dead_code, reason = "the tuner alone needs it"))]
    pub(crate) fn set_trial(&self, trial: Option<Trial>) {
        *self.trial.write().unwrap_or_else(PoisonError::into_inner) = trial;
    }

    /// A buffer of the pool. Where there is no memory for it, once more when nothing is in flight: until then a device keeps
    /// what the pool has let go.
    pub(crate) fn take(&self, from: impl Fn(&GpuBufferPool) -> Result<Arc<Lease>>) -> Result<Arc<Lease>> {
        match from(&self.pool) {
            Err(Error::OutOfMemory { .. }) => {
                self.queue.drain()?;
                from(&self.pool)
            }
            taken => taken,
        }
    }

    /// # Errors
    /// [`Error::TooLarge`] if a binding of `bytes` is over the limit.
    pub(crate) fn check_binding(&self, bytes: u64) -> Result<()> {
        if bytes > self.max_binding_bytes {
            let what = "a tensor's binding, in bytes".to_owned();
            return Err(Error::TooLarge { what, needed: bytes, limit: self.max_binding_bytes });
        }
        Ok(())
    }
}
