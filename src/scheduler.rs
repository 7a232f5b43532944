//! [`HybridScheduler`]: the GPU or the CPU for one product, by what either is measured to take.
//!
//! A fixed rule such as "large ones on the GPU" is wrong on most machines: where the two meet depends on the adapter, the
//! bus, the number of threads, and on where the operands lie. So a second of measuring comes before the first decision, and
//! every decision can be asked for with its reason and both predicted costs. A threshold of the caller's own takes its
//! place, unmeasured.
//!
//! There is always a CPU side, so nothing fails for want of an adapter. But a GPU that fails is not replaced by the CPU in
//! silence: its error is returned, and only a measurement that fails leaves the products on the CPU, which `explain` says.

mod calibration;
mod decision;
mod host_pool;
mod measure;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use self::host_pool::{HostPool, zeros};
use crate::error::{Error, Result};
use crate::gpu::{ComputeBackend, GpuCompute};
use crate::readback::Fetched;
use crate::result::{AsyncGpuResult, lock};
use crate::tensor::{DType, Tensor};
use crate::{cpu, ops};
pub use calibration::{Calibration, Table};
pub use decision::{Cost, Decision, Place, Residency, Why};
pub use host_pool::HostPoolStats;

/// Cubes up to this side are looked at one by one for the smallest that the GPU wins.
const SIDES: usize = 4096;
/// Larger ones in steps of a tile, up to where no operand fits a binding.
const LARGEST_SIDE: usize = 32_768;

/// One product of a batch: C\[m,n\] = a\[m,k\] b\[k,n\].
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute, HybridScheduler, MatmulOp};
///
/// let scheduler = HybridScheduler::with_gpu(GpuCompute::new(ComputeBackend::Cpu)?)?;
/// let (a, b) = ([1.0, 2.0], [3.0, 4.0]);
/// let inner = MatmulOp { a: &a, b: &b, m: 1, k: 2, n: 1 };
/// let outer = MatmulOp { m: 2, k: 1, n: 2, ..inner };
/// assert_eq!(scheduler.matmul_batch(&[inner, outer])?, [vec![11.0], vec![3.0, 4.0, 6.0, 8.0]]);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct MatmulOp<'a> {
    /// m k elements.
    pub a: &'a [f32],
    /// k n elements.
    pub b: &'a [f32],
    /// Rows of a.
    pub m: usize,
    /// Columns of a.
    pub k: usize,
    /// Columns of b.
    pub n: usize,
}

/// Products that were started on each side. Counts only grow.
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute, HybridScheduler};
///
/// let scheduler = HybridScheduler::with_gpu(GpuCompute::new(ComputeBackend::Cpu)?)?;
/// scheduler.matmul(&[2.0], &[3.0], 1, 1, 1)?;
/// let stats = scheduler.stats();
/// assert_eq!((stats.gpu_calls, stats.cpu_calls), (0, 1));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SchedulerStats {
    /// Products on the GPU.
    pub gpu_calls: u64,
    /// Products on the CPU backend.
    pub cpu_calls: u64,
}

/// Which product of two slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Product {
    /// a b.
    Plain,
    /// a b^T.
    TransposeB,
}

impl Product {
    fn name(self) -> &'static str {
        match self {
            Product::Plain => "matmul",
            Product::TransposeB => "matmul_transpose_b",
        }
    }

    /// Refuses slices that are not as long as their matrices, before any decision.
    fn check(self, a: &[f32], b: &[f32], (m, k, n): Shape) -> Result<()> {
        if m.checked_mul(k) == Some(a.len()) && k.checked_mul(n) == Some(b.len()) {
            return Ok(());
        }
        let b_shape = if self == Product::Plain { [k, n] } else { [n, k] };
        let message = format!("a has {} elements for [{m}, {k}], b has {} for {b_shape:?}", a.len(), b.len());
        Err(Error::Shape { op: self.name(), message })
    }
}

/// m, k, n.
type Shape = (usize, usize, usize);

/// The GPU or the CPU backend for products of f32 on host slices, whichever is sooner.
///
/// There is always the CPU backend, and a GPU if there is a hardware adapter; a software adapter computes on the same CPU
/// and counts only if it is handed over ([`HybridScheduler::with_gpu`]). The choice is by a fixed threshold for m k n, or by a
/// [`Calibration`] that counts the transfers. That one is measured at the first decision that needs it, which takes about a
/// second, or ahead by [`HybridScheduler::calibration`]; it is never measured where there is no GPU or a fixed threshold.
///
/// ```
/// use gristmill::HybridScheduler;
///
/// let scheduler = HybridScheduler::with_threshold(1 << 24)?;
/// let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
/// assert!(!scheduler.should_use_gpu(2, 3, 2));
/// assert_eq!(scheduler.matmul(&a, &b, 2, 3, 2)?, [4.0, 5.0, 10.0, 11.0]);
/// println!("{}", scheduler.explain(2, 3, 2));
/// # Ok::<(), gristmill::Error>(())
/// ```
pub struct HybridScheduler {
    gpu: Option<GpuCompute>,
    cpu: GpuCompute,
    /// Why there is a GPU, or none.
    reason: String,
    threshold: Option<usize>,
    calibration: OnceLock<Result<Calibration>>,
    crossover: OnceLock<usize>,
    memory: HostPool,
    gpu_calls: AtomicU64,
    cpu_calls: AtomicU64,
}

impl std::fmt::Debug for HybridScheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("HybridScheduler");
        f.field("gpu", &self.gpu).field("reason", &self.reason).field("threshold", &self.threshold).finish()
    }
}

impl HybridScheduler {
    /// A hardware adapter, if there is one, and the CPU backend; the choice is by what both are measured to take.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if an adapter was asked for by name and is not there.
    pub fn new() -> Result<HybridScheduler> {
        HybridScheduler::with_gpu(GpuCompute::auto()?)
    }

    /// The same devices; the GPU, if there is one, computes where m k n is at least `threshold`. `usize::MAX`: never.
    ///
    /// # Errors
    /// As [`HybridScheduler::new`].
    pub fn with_threshold(threshold: usize) -> Result<HybridScheduler> {
        Ok(HybridScheduler::new()?.threshold(threshold))
    }

    /// A given device, be it a software one, and the CPU backend. On the CPU backend alone there is no GPU.
    ///
    /// # Errors
    /// None where the CPU backend opens, which it always does.
    pub fn with_gpu(gpu: GpuCompute) -> Result<HybridScheduler> {
        Ok(HybridScheduler {
            reason: gpu.reason().to_owned(),
            gpu: gpu.is_gpu().then_some(gpu),
            cpu: GpuCompute::new(ComputeBackend::Cpu)?,
            threshold: None,
            calibration: OnceLock::new(),
            crossover: OnceLock::new(),
            memory: HostPool::default(),
            gpu_calls: AtomicU64::new(0),
            cpu_calls: AtomicU64::new(0),
        })
    }

    /// [`HybridScheduler::with_gpu`] with what was measured before.
    ///
    /// # Errors
    /// As [`Calibration::check`].
    pub fn with_calibration(gpu: GpuCompute, calibration: Calibration) -> Result<HybridScheduler> {
        calibration.check(&gpu)?;
        Ok(HybridScheduler { calibration: Ok(calibration).into(), ..HybridScheduler::with_gpu(gpu)? })
    }

    /// With a fixed threshold for m k n instead of a calibration. `usize::MAX`: never the GPU.
    #[must_use]
    pub fn threshold(self, threshold: usize) -> HybridScheduler {
        HybridScheduler { threshold: Some(threshold), ..self }
    }

    /// Whether any product may go to a GPU.
    pub fn has_gpu(&self) -> bool {
        self.gpu.is_some()
    }

    /// The GPU, if there is one.
    pub fn gpu(&self) -> Option<&GpuCompute> {
        self.gpu.as_ref()
    }

    /// Why there is a GPU, or none.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What was measured; measures it if that was not done before. `None` where there is no GPU.
    ///
    /// # Errors
    /// What the device said. Every product is then computed on the CPU, unless there is a fixed threshold.
    pub fn calibration(&self) -> Result<Option<&Calibration>> {
        let Some(gpu) = &self.gpu else { return Ok(None) };
        let measured = self.calibration.get_or_init(|| Calibration::measure(gpu, &self.cpu));
        measured.as_ref().map(Some).map_err(Error::clone)
    }

    /// The fixed threshold; else s^3 of the smallest s at which the GPU wins a product of \[s,s\] host matrices, `usize::MAX`
    /// if it never does.
    pub fn gpu_threshold(&self) -> usize {
        self.threshold.unwrap_or_else(|| *self.crossover.get_or_init(|| self.find_crossover()))
    }

    fn find_crossover(&self) -> usize {
        let mut sides = (1..=SIDES).chain((SIDES..=LARGEST_SIDE).step_by(64));
        let found = if self.has_gpu() { sides.find(|&s| self.should_use_gpu(s, s, s)) } else { None };
        found.map_or(usize::MAX, |side| side.saturating_pow(3))
    }

    /// Whether the GPU computes C\[m,n\] = A\[m,k\] B\[k,n\] of host slices.
    pub fn should_use_gpu(&self, m: usize, k: usize, n: usize) -> bool {
        self.explain(m, k, n).is_gpu()
    }

    /// Which side computes a product of host slices, and why.
    pub fn explain(&self, m: usize, k: usize, n: usize) -> Decision {
        self.explain_resident(m, k, n, Residency::HOST)
    }

    /// Which side computes a product of operands that lie anywhere, and why.
    pub fn explain_resident(&self, m: usize, k: usize, n: usize, residency: Residency) -> Decision {
        let on_cpu = |why| Decision { backend: ComputeBackend::Cpu, gpu: None, cpu: None, why };
        let choose = |gpu| if gpu { ComputeBackend::Gpu } else { ComputeBackend::Cpu };
        let Some(gpu) = &self.gpu else { return on_cpu(Why::NoGpu(self.reason.clone())) };
        let predict = |c: &Calibration| (c.gpu_cost(m, k, n, residency), c.cpu_cost(m, k, n, residency));
        if let Some(threshold) = self.threshold {
            // A dimension of 0 makes the product 0 wherever it comes.
            let work = if m == 0 || n == 0 { 0 } else { m.saturating_mul(n).saturating_mul(k) };
            let backend = choose(work >= threshold && threshold != usize::MAX);
            let known = self.calibration.get().and_then(|measured| measured.as_ref().ok()).map(predict);
            let (gpu, cpu) = (known.map(|costs| costs.0), known.map(|costs| costs.1));
            return Decision { backend, gpu, cpu, why: Why::Threshold { work, threshold } };
        }
        if m == 0 || k == 0 || n == 0 {
            return on_cpu(Why::Empty);
        }
        if !ops::fits(gpu.binding_limit(), (m, k, n)) {
            return on_cpu(Why::DoesNotFit);
        }
        match self.calibration() {
            Ok(Some(calibration)) => {
                let (gpu, cpu) = predict(calibration);
                let backend = choose(gpu.total() < cpu.total());
                Decision { backend, gpu: Some(gpu), cpu: Some(cpu), why: Why::Predicted }
            }
            Ok(None) => on_cpu(Why::NoGpu(self.reason.clone())),
            Err(error) => on_cpu(Why::NotMeasured(error)),
        }
    }

    /// Products started on each side.
    pub fn stats(&self) -> SchedulerStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SchedulerStats { gpu_calls: get(&self.gpu_calls), cpu_calls: get(&self.cpu_calls) }
    }

    /// The GPU, counted, if it computes a product of this shape; else the CPU is counted.
    fn chosen(&self, (m, k, n): Shape, residency: Residency) -> Option<&GpuCompute> {
        let gpu = self.gpu.as_ref().filter(|_| self.explain_resident(m, k, n, residency).is_gpu());
        let counter = if gpu.is_some() { &self.gpu_calls } else { &self.cpu_calls };
        counter.fetch_add(1, Ordering::Relaxed);
        gpu
    }

    /// C\[m,n\] = a\[m,k\] b\[k,n\].
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths are not m k and k n; what the device says.
    pub fn matmul(&self, a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Result<Vec<f32>> {
        self.product(Product::Plain, a, b, (m, k, n), zeros)
    }

    /// C\[m,n\] = a\[m,k\] b\[n,k\]^T. Decided as [`HybridScheduler::matmul`] of the same dimensions.
    ///
    /// # Errors
    /// As [`HybridScheduler::matmul`].
    pub fn matmul_transpose_b(&self, a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Result<Vec<f32>> {
        self.product(Product::TransposeB, a, b, (m, k, n), zeros)
    }

    /// [`HybridScheduler::matmul`] into memory that [`HybridScheduler::release_buffer`] got, where some fits.
    ///
    /// # Errors
    /// As [`HybridScheduler::matmul`].
    pub fn matmul_pooled(&self, a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Result<Vec<f32>> {
        self.product(Product::Plain, a, b, (m, k, n), |count| self.memory.take(count))
    }

    /// Gives the memory of a vector to products to come, whoever made it. Up to 32 vectors of 256 MiB together are kept.
    pub fn release_buffer(&self, buffer: Vec<f32>) {
        self.memory.give(buffer);
    }

    /// Gauges and counters of that memory, and of the buffers on the device.
    pub fn pool_stats(&self) -> HostPoolStats {
        self.memory.stats(self.gpu.as_ref().map(GpuCompute::pool_stats).unwrap_or_default())
    }

    /// [`HybridScheduler::matmul`] that does not wait: the operands are read before it returns, the product is computed by the
    /// GPU or by a thread of rayon's. Submitting to the GPU waits only while its queue is full.
    ///
    /// # Errors
    /// As [`HybridScheduler::matmul`]; what happens later is in the result.
    pub fn matmul_async(&self, a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Result<AsyncGpuResult<Vec<f32>>> {
        let (product, shape) = (Product::Plain, (m, k, n));
        product.check(a, b, shape)?;
        let out = zeros(elements(product, shape)?)?;
        match self.chosen(shape, Residency::HOST) {
            Some(gpu) => start(gpu, product, a, b, shape, out),
            None => Ok(spawn(product, a.to_vec(), b.to_vec(), shape, out)),
        }
    }

    /// Every product of `batch`, in its order. Those for the GPU are submitted one after the other and gathered at the end;
    /// those for the CPU are computed meanwhile.
    ///
    /// # Errors
    /// As [`HybridScheduler::matmul`], of the first product that fails; shapes are checked before anything is computed.
    pub fn matmul_batch(&self, batch: &[MatmulOp<'_>]) -> Result<Vec<Vec<f32>>> {
        let product = Product::Plain;
        batch.iter().try_for_each(|op| product.check(op.a, op.b, (op.m, op.k, op.n)))?;
        let mut results: Vec<Result<Vec<f32>>> = batch.iter().map(|_| Ok(Vec::new())).collect();
        rayon::in_place_scope(|scope| {
            let mut started = Vec::new();
            for (op, result) in batch.iter().zip(&mut results) {
                let shape = (op.m, op.k, op.n);
                let out = elements(product, shape).and_then(zeros);
                match (self.chosen(shape, Residency::HOST), out) {
                    (_, Err(error)) => *result = Err(error),
                    (Some(gpu), Ok(out)) => started.push((gpu, start(gpu, product, op.a, op.b, shape, out), result)),
                    (None, Ok(out)) => scope.spawn(move |_| *result = on_cpu(product, op.a, op.b, shape, out)),
                }
            }
            for (gpu, pending, result) in started {
                *result = pending.and_then(|pending| gpu.wait(pending));
            }
        });
        results.into_iter().collect()
    }

    /// a\[m,k\] b\[k,n\] of tensors, on the device or in host memory; b may be f16. The product is where a is. What lies where
    /// it is needed costs no transfer, and the decision counts none.
    ///
    /// # Errors
    /// As [`ops::matmul`](crate::ops::matmul); [`Error::ForeignBuffer`] for a tensor of another device.
    pub fn matmul_tensor(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        const OP: &str = "matmul";
        let (m, k, n) = (a.rows(), a.columns(), b.columns());
        if b.rows() != k {
            return Err(Error::Shape { op: OP, message: format!("{:?} x {:?}", a.shape(), b.shape()) });
        }
        let place = |tensor: &Tensor| if tensor.lease().is_some() { Place::Device } else { Place::Host };
        let residency = Residency { a: place(a), b: place(b), out: place(a) };
        let to = self.chosen((m, k, n), residency).unwrap_or(&self.cpu);
        let out = to.matmul_tensor(&self.moved(OP, a, to)?, &self.moved(OP, b, to)?)?;
        let home = if residency.out == Place::Device { self.gpu.as_ref() } else { Some(&self.cpu) };
        self.moved(OP, &out, home.unwrap_or(&self.cpu))
    }

    /// The same numbers where `to` computes.
    fn moved(&self, op: &'static str, tensor: &Tensor, to: &GpuCompute) -> Result<Tensor> {
        let on_device = tensor.lease().is_some();
        if on_device == to.is_gpu() {
            return Ok(tensor.clone());
        }
        let from = if on_device { self.gpu.as_ref() } else { Some(&self.cpu) };
        let from = from.ok_or(Error::ForeignBuffer { op })?;
        match tensor.dtype() {
            DType::F32 => to.tensor(&from.read::<f32>(tensor)?, tensor.shape()),
            DType::F16 => to.tensor_f16(&from.read::<half::f16>(tensor)?, tensor.shape()),
            _ => Err(Error::Shape { op, message: format!("{tensor:?}; f32 or f16 is needed") }),
        }
    }

    /// A product in memory that `memory` hands out: as many elements, of any value.
    fn product(
        &self,
        product: Product,
        a: &[f32],
        b: &[f32],
        shape: Shape,
        memory: impl FnOnce(usize) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        product.check(a, b, shape)?;
        let out = memory(elements(product, shape)?)?;
        match self.chosen(shape, Residency::HOST) {
            Some(gpu) => start(gpu, product, a, b, shape, out).and_then(|pending| gpu.wait(pending)),
            None => on_cpu(product, a, b, shape, out),
        }
    }
}

/// m n, if it can be counted.
fn elements(product: Product, (m, _, n): Shape) -> Result<usize> {
    let message = || format!("[{m}, {n}] has more elements than can be counted");
    m.checked_mul(n).ok_or_else(|| Error::Shape { op: product.name(), message: message() })
}

/// Uploads, computes, and reads back into `out`, not yet waited for.
fn start(
    gpu: &GpuCompute,
    product: Product,
    a: &[f32],
    b: &[f32],
    (m, k, n): Shape,
    out: Vec<f32>,
) -> Result<AsyncGpuResult<Vec<f32>>> {
    let b_shape = if product == Product::Plain { [k, n] } else { [n, k] };
    let (a, b) = gpu.matrices(product.name(), (a, [m, k]), (b, b_shape))?;
    let mut pass = gpu.pass();
    let mut written = pass.tensor(&[m, n])?;
    match product {
        Product::Plain => ops::matmul(&mut pass, &a, &b, &mut written)?,
        Product::TransposeB => ops::matmul_transpose_b(&mut pass, &a, &b, 1.0, &mut written)?,
    }
    let result = pass.read_into(&written, out)?;
    pass.submit()?;
    Ok(result)
}

/// Computes where the slices lie.
fn on_cpu(product: Product, a: &[f32], b: &[f32], shape: Shape, mut out: Vec<f32>) -> Result<Vec<f32>> {
    cpu::product_of_slices(a, b, product == Product::TransposeB, shape, &mut out)?;
    Ok(out)
}

/// [`on_cpu`] on a thread of rayon's, unless the result is dropped before it starts.
fn spawn(product: Product, a: Vec<f32>, b: Vec<f32>, shape: Shape, out: Vec<f32>) -> AsyncGpuResult<Vec<f32>> {
    // The product goes through a slot: as the bytes of a promise it would be copied twice.
    let slot = Arc::new(Mutex::new(Vec::new()));
    let filled = Arc::clone(&slot);
    let (result, promise) = AsyncGpuResult::new(move |_| std::mem::take(&mut *lock(&filled)));
    rayon::spawn(move || {
        if promise.is_abandoned() {
            return;
        }
        let outcome = on_cpu(product, &a, &b, shape, out).map(|product| {
            *lock(&slot) = product;
            Fetched::Host(Vec::new())
        });
        promise.complete(outcome);
    });
    result
}
