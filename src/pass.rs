//! Commands being recorded. A [`Pass`] is a flat list of dispatches and copies; one op call adds one line to it. Submitting
//! encodes the list in a loop. A [`Plan`] is the same list kept, and replayed: no graph, no intermediate representation.
//!
//! Everything that can be wrong with a dispatch is found when it is added: what a caller's encoder is given it cannot give
//! back, and an invalid command would take all of the caller's own commands with it.

mod checks;
mod reading;
mod recording;

use std::sync::Arc;

use crate::encode::{Clock, PassTimes, Step, Wanted, Which, Work, submit, submit_timed};
use crate::error::{Error, Result};
use crate::gpu::GpuCompute;
use crate::kernel::{Arguments, Constants, Format, Kernel, Variant};
use crate::own_kernel::OwnKernel;
use crate::pool::{Kind, Lease};
use crate::result::AsyncGpuResult;
use crate::tensor::{DType, Storage, Tensor, device_bytes};
use crate::tuning::{Knobs, ShapeClass};
pub(crate) use checks::checked_grid;
use checks::{Clash, check_home, check_tensors, give_up, traffic};
pub use recording::Recording;

/// A variant of a kernel, compiled: equal to another if it is the same one.
pub(crate) type Pipeline = Arc<crate::cache::Pipeline>;

/// Commands being recorded, to be submitted together. On the CPU backend ops run at once and a pass is empty.
///
/// Tensors from [`Pass::tensor`] are scratch: once the last handle on one is dropped, the pass may use its buffer again for
/// the next, and the pool gets it back when the pass is submitted or dropped.
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute, ops};
///
/// let gpu = GpuCompute::new(ComputeBackend::Gpu)?;
/// let (x, w) = (gpu.tensor(&[1.0, 2.0], &[1, 2])?, gpu.tensor(&[3.0, 4.0, 5.0, -6.0], &[2, 2])?);
///
/// let mut pass = gpu.pass();
/// let mut y = pass.tensor(&[1, 2])?;
/// ops::matmul_transpose_b(&mut pass, &x, &w, 1.0, &mut y)?;
/// ops::relu(&mut pass, &mut y)?;
/// let result = pass.read::<f32>(&y)?;
/// pass.submit()?;
/// assert_eq!(result.wait(std::time::Duration::from_secs(60))?, [11.0, 0.0]);
/// # Ok::<(), gristmill::Error>(())
/// ```
pub struct Pass {
    gpu: GpuCompute,
    steps: Vec<Step>,
    /// Buffers that came from this pass, idle where nobody else holds them.
    scratch: Vec<Arc<Lease>>,
    /// Other buffers that the steps use.
    held: Vec<Arc<Lease>>,
    reads: Vec<Wanted>,
    /// The estimate of everything since the last flush.
    flops: f64,
    /// What an op said of its next dispatch: operations, and bytes if they are not those of its operands.
    next: (f64, Option<f64>),
    /// And the format of the weight it reads.
    format: Format,
    /// Where dispatches are timed: the times of each part that was flushed.
    timings: Option<Vec<AsyncGpuResult<PassTimes>>>,
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pass").field("steps", &self.steps.len()).field("reads", &self.reads.len()).finish()
    }
}

impl Pass {
    pub(crate) fn new(gpu: GpuCompute) -> Pass {
        let (steps, scratch, held, reads) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Pass { gpu, steps, scratch, held, reads, flops: 0.0, next: (0.0, None), format: Format::F32, timings: None }
    }

    /// The device it records for.
    pub fn gpu(&self) -> &GpuCompute {
        &self.gpu
    }

    /// Whether ops run on the host, at once.
    pub fn is_cpu(&self) -> bool {
        !self.gpu.is_gpu()
    }

    /// A tensor of f32 for this pass to write. Its contents are undefined.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn tensor(&mut self, shape: &[usize]) -> Result<Tensor> {
        self.tensor_of(shape, DType::F32)
    }

    /// [`Pass::tensor`] of any type.
    ///
    /// # Errors
    /// As [`Pass::tensor`].
    pub fn tensor_of(&mut self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let Some(engine) = self.gpu.engine() else { return self.gpu.zeros_of(shape, dtype) };
        let bytes = device_bytes(shape, dtype)?;
        engine.check_binding(bytes)?;
        // The smallest idle buffer that fits without wasting more than half of itself.
        let idle = self.scratch.iter().filter(|lease| Arc::strong_count(lease) == 1);
        let fits = idle.filter(|lease| lease.size >= bytes && lease.size <= bytes.max(256) * 2);
        let lease = match fits.min_by_key(|lease| lease.size) {
            Some(lease) => Arc::clone(lease),
            None => {
                let lease = engine.take(|pool| pool.take(Kind::Storage, bytes))?;
                self.scratch.push(Arc::clone(&lease));
                lease
            }
        };
        Tensor::on_device(lease, 0, shape, dtype)
    }

    /// The knobs of the kernel that is to write `out`.
    pub(crate) fn knobs<K: Knobs>(&self, out: &Tensor) -> K {
        self.knobs_for(out, Format::F32)
    }

    /// The same for a kernel that reads a weight of a format.
    pub(crate) fn knobs_for<K: Knobs>(&self, out: &Tensor, format: Format) -> K {
        let tuned = self.gpu.engine().and_then(|engine| engine.knobs(K::KERNEL, ShapeClass::of(out, format)));
        tuned.map_or_else(K::default, |values| K::read(&values))
    }

    /// Records one dispatch of `grid` workgroups, for ops, which have checked the shapes.
    pub(crate) fn run<A: Arguments>(
        &mut self,
        args: &A,
        params: A::Params,
        (knobs, modes): (A::Knobs, A::Modes),
        grid: [u64; 3],
    ) -> Result<()> {
        let kernel = A::KERNEL;
        // Of this dispatch, even if it comes to nothing.
        let format = std::mem::take(&mut self.format);
        let tensors = args.tensors();
        let tensors = tensors.get(..A::COUNT).unwrap_or_default();
        let gpu = self.gpu.clone();
        let Some(engine) = gpu.engine() else { return Err(Error::ForeignBuffer { op: kernel.op }) };
        let blueprint = kernel.blueprint();
        check_tensors(engine, &blueprint, tensors).map_err(|clash| match clash {
            Clash::Foreign => Error::ForeignBuffer { op: kernel.op },
            Clash::TooLarge(error) => error,
            Clash::Alias(i, j) => {
                let name = |i: usize| kernel.bindings.get(i).map_or("", |binding| binding.name);
                Error::Alias { op: kernel.op, first: name(i), second: name(j) }
            }
        })?;
        let grid = checked_grid(kernel.name, grid)?;
        if grid.contains(&0) {
            return Ok(());
        }
        let mut variant = kernel.default_variant();
        variant.params = engine.params;
        knobs.write(&mut variant.constants);
        modes.write(variant.constants.get_mut(A::Knobs::COUNT..).unwrap_or_default());
        variant.format = format;
        let (pipeline, bindings) = match engine.stand_in(kernel) {
            None => (engine.cache.pipeline(kernel, &variant)?, engine.cache.bind_group(&blueprint, tensors)?),
            Some((own, knobs)) => {
                let variant = own.in_place_of(kernel, &variant, &knobs);
                let blueprint = own.blueprint();
                engine.cache.note(own.known());
                let pipeline = engine.cache.pipeline_of(&blueprint, &variant, || own.wgsl(&variant))?;
                (pipeline, engine.cache.bind_group(&blueprint, tensors)?)
            }
        };
        let written = |name: &str| name == "out";
        let moved = traffic(tensors.iter().zip(kernel.bindings).map(|(t, slot)| (*t, slot.write, written(slot.name))));
        self.add((Which::House(kernel), pipeline, bindings), tensors, bytemuck::bytes_of(&params), grid, moved);
        Ok(())
    }

    /// Records one dispatch of a caller's kernel, whose arguments fit its interface.
    ///
    /// # Errors
    /// What the tensors have to do with each other and with the device; what the device says of the pipeline.
    pub(crate) fn run_own(
        &mut self,
        kernel: &OwnKernel,
        tensors: &[&Tensor],
        params: &[u8],
        mut variant: Variant,
        grid: [u32; 3],
    ) -> Result<()> {
        let gpu = self.gpu.clone();
        let engine = gpu.engine().ok_or_else(|| kernel.refuse("a caller's kernel runs on an adapter".to_owned()))?;
        let blueprint = kernel.blueprint();
        let slots = &kernel.interface().bindings;
        check_tensors(engine, &blueprint, tensors).map_err(|clash| match clash {
            Clash::Foreign => kernel.refuse("a tensor belongs to another device than the pass".to_owned()),
            Clash::TooLarge(error) => error,
            Clash::Alias(i, j) => {
                let name = |i: usize| slots.get(i).map_or("", |slot| slot.name.as_str());
                kernel.refuse(format!("`{}` and `{}` share one buffer, and one is written", name(i), name(j)))
            }
        })?;
        let grid = checked_grid(kernel.name(), grid.map(u64::from))?;
        if grid.contains(&0) {
            return Ok(());
        }
        variant.params = engine.params;
        engine.cache.note(kernel.known());
        let pipeline = engine.cache.pipeline_of(&blueprint, &variant, || kernel.wgsl(&variant))?;
        // What is wrong with a caller's kernel, its call says.
        engine.cache.make_all(std::iter::once(&pipeline))?;
        let bindings = engine.cache.bind_group(&blueprint, tensors)?;
        // Whether a kernel reads what it writes is not known: counted as changed in place.
        let moved = traffic(tensors.iter().zip(slots).map(|(t, slot)| (*t, slot.write, false)));
        self.add((Which::Own(kernel.clone()), pipeline, bindings), tensors, params, grid, moved);
        Ok(())
    }

    /// Adds a dispatch that was checked.
    fn add(
        &mut self,
        (kernel, pipeline, bindings): (Which, Pipeline, wgpu::BindGroup),
        tensors: &[&Tensor],
        params: &[u8],
        grid: [u32; 3],
        operands: f64,
    ) {
        for tensor in tensors {
            self.hold(tensor);
        }
        let mut bytes = [0; crate::reflect::MAX_PARAMS_BYTES as usize];
        bytes.get_mut(..params.len()).unwrap_or_default().copy_from_slice(params);
        let (flops, moved) = std::mem::take(&mut self.next);
        let work = Work { flops, bytes: moved.unwrap_or(operands) };
        let params_bytes = params.len();
        self.steps.push(Step::Dispatch { kernel, pipeline, bindings, params: bytes, params_bytes, grid, work });
    }

    /// Refuses an input that is the output, and what is of another device, where no single dispatch would see both. On the
    /// host, ops see for themselves.
    ///
    /// # Errors
    /// [`Error::Alias`], [`Error::ForeignBuffer`].
    pub(crate) fn check_apart(
        &self,
        op: &'static str,
        inputs: &[(&'static str, &Tensor)],
        (second, out): (&'static str, &Tensor),
    ) -> Result<()> {
        let (Some(engine), Some(target)) = (self.gpu.engine(), out.lease()) else { return Ok(()) };
        // Buffers of two devices may compare as equal.
        check_home(engine, op, target)?;
        for (first, input) in inputs {
            let Some(lease) = input.lease() else { continue };
            check_home(engine, op, lease)?;
            if lease.buffer == target.buffer {
                return Err(Error::Alias { op, first, second });
            }
        }
        Ok(())
    }

    /// Whether an op runs this one of its kernels to write `out`: what the tuning says of the class of shapes, else
    /// `otherwise`, and never where the adapter lacks what it needs.
    pub(crate) fn picks(&self, kernel: &Kernel, otherwise: bool, out: &Tensor, format: Format) -> bool {
        self.gpu.engine().is_some_and(|engine| engine.picks(kernel, otherwise, ShapeClass::of(out, format)))
    }

    /// The pipelines of the house recorded so far, with the kernels they are of.
    pub(crate) fn pipelines(&self) -> impl Iterator<Item = (&'static str, &Pipeline)> {
        self.steps.iter().filter_map(|step| match step {
            Step::Dispatch { kernel: Which::House(kernel), pipeline, .. } => Some((kernel.name, pipeline)),
            Step::Dispatch { .. } | Step::Copy { .. } => None,
        })
    }

    /// The kernels of the house recorded so far.
    pub(crate) fn kernels(&self) -> impl Iterator<Item = &'static str> {
        self.pipelines().map(|(kernel, _)| kernel)
    }

    /// Adds to the estimate of what this pass costs, in floating-point operations: those of the next dispatch.
    pub(crate) fn cost(&mut self, flops: f64) {
        self.flops += flops;
        self.next.0 = flops;
    }

    /// Bytes that the next dispatch moves, where it does not go through all of its operands.
    pub(crate) fn moves(&mut self, bytes: f64) {
        self.next.1 = Some(bytes);
    }

    /// The format of the weight that the next dispatch reads: a tensor of words does not know what it holds.
    pub(crate) fn reads(&mut self, format: Format) {
        self.format = format;
    }

    /// Whether the pass may run for longer than the 200 ms that a watchdog certainly allows.
    #[cfg_attr(not(feature = "models"), allow(dead_code, reason = "models alone need it"))]
    pub(crate) fn is_long(&self) -> bool {
        self.gpu.engine().is_some_and(|engine| self.flops > 0.2 * engine.flops_per_second)
    }

    /// Copies all of `source` to the beginning of `target`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `target` is shorter or has another pitch, or a caller's buffer was created without
    /// `COPY_SRC` or `COPY_DST`; [`Error::Alias`] if they share a buffer; [`Error::ForeignBuffer`].
    pub fn copy(&mut self, source: &Tensor, target: &mut Tensor) -> Result<()> {
        if source.lease().is_some() != target.lease().is_some() {
            return Err(Error::ForeignBuffer { op: "copy" });
        }
        if source.bytes() > target.bytes() || source.pitch() != target.pitch() {
            let message = format!("{target:?} does not hold {source:?}");
            return Err(Error::Shape { op: "copy", message });
        }
        match (&source.storage, &target.storage) {
            (Storage::Device(from), Storage::Device(to)) => {
                if let Some(engine) = self.gpu.engine() {
                    check_home(engine, "copy", from)?;
                    check_home(engine, "copy", to)?;
                }
                if from.buffer == to.buffer {
                    return Err(Error::Alias { op: "copy", first: "source", second: "target" });
                }
                from.check_usage("copy", wgpu::BufferUsages::COPY_SRC)?;
                to.check_usage("copy", wgpu::BufferUsages::COPY_DST)?;
                let (source_offset, target_offset, bytes) = (source.offset, target.offset, source.bytes());
                let (source, target) = (Arc::clone(from), Arc::clone(to));
                self.steps.push(Step::Copy { source, source_offset, target, target_offset, bytes });
                Ok(())
            }
            (Storage::Host(_), Storage::Host(_)) => crate::cpu::copy(source, target),
            _ => Err(Error::ForeignBuffer { op: "copy" }),
        }
    }

    /// Submits. Blocks only while the queue is full.
    ///
    /// # Errors
    /// What wgpu or the device says; the results of this pass then carry the same error.
    pub fn submit(mut self) -> Result<()> {
        let Some(engine) = self.gpu.engine() else { return Ok(()) };
        give_up(&mut self.reads, &[self.scratch.as_slice(), &self.held]);
        submit(engine, &self.steps, self.reads)
    }

    /// [`Pass::submit`] for a task: where the queue is full, the task waits instead of its thread.
    ///
    /// # Errors
    /// As [`Pass::submit`].
    pub async fn submit_async(self) -> Result<()> {
        if let Some(engine) = self.gpu.engine() {
            std::future::poll_fn(|context| engine.queue.poll_room(context.waker())).await?;
        }
        self.submit()
    }

    /// [`Pass::submit`], timed by the device's own clock.
    ///
    /// # Errors
    /// [`Error::Limit`] if the device has no such clock ([`GpuCompute::clock`]); [`Error::TooLarge`] for more dispatches than a
    /// set of timestamps has room for.
    pub fn submit_timed(self, clock: Clock) -> Result<AsyncGpuResult<PassTimes>> {
        submit_timed(&self.gpu, &self.steps, self.reads, clock)
    }

    /// Submits what was recorded so far and goes on recording, with the same tensors.
    #[cfg_attr(not(feature = "models"), allow(dead_code, reason = "models alone need it"))]
    pub(crate) fn flush(&mut self) -> Result<()> {
        let Some(engine) = self.gpu.engine() else { return Ok(()) };
        self.flops = 0.0;
        let (steps, reads) = (std::mem::take(&mut self.steps), std::mem::take(&mut self.reads));
        match &mut self.timings {
            Some(timings) if !steps.is_empty() => {
                timings.push(submit_timed(&self.gpu, &steps, reads, Clock::Each)?);
                Ok(())
            }
            _ => submit(engine, &steps, reads),
        }
    }

    /// Times every dispatch of what is flushed from here on; [`Pass::finish`] hands the times out.
    #[cfg_attr(not(feature = "models"), allow(dead_code, reason = "models alone need it"))]
    pub(crate) fn time_each(&mut self) {
        self.timings = Some(Vec::new());
    }

    /// [`Pass::submit`], with the times of everything that was timed.
    #[cfg_attr(not(feature = "models"), allow(dead_code, reason = "models alone need it"))]
    pub(crate) fn finish(mut self) -> Result<Vec<AsyncGpuResult<PassTimes>>> {
        self.flush()?;
        Ok(self.timings.unwrap_or_default())
    }

    /// Keeps the commands for replay.
    #[cfg_attr(not(feature = "models"), allow(dead_code, reason = "models alone need it"))]
    pub(crate) fn into_plan(self) -> Plan {
        let Pass { gpu, steps, scratch, held, .. } = self;
        Plan { gpu, steps, _held: scratch.into_iter().chain(held).collect() }
    }

    /// Keeps a buffer alive until submission, unless it is this pass's own scratch.
    fn hold(&mut self, tensor: &Tensor) {
        let Some(lease) = tensor.lease() else { return };
        if !self.scratch.iter().chain(&self.held).any(|known| known.id == lease.id) {
            self.held.push(Arc::clone(lease));
        }
    }
}

/// A recorded pass, to be submitted any number of times. It keeps its buffers.
#[cfg_attr(not(feature = "models"), allow(dead_code, reason = "models alone need it"))]
pub(crate) struct Plan {
    gpu: GpuCompute,
    steps: Vec<Step>,
    _held: Vec<Arc<Lease>>,
}

#[cfg_attr(not(feature = "models"), allow(dead_code, reason = "models alone need it"))]
impl Plan {
    /// Submits the commands once more and reads `tensor` back after them.
    pub(crate) fn replay<T: bytemuck::Pod + Send>(&self, tensor: &Tensor) -> Result<AsyncGpuResult<Vec<T>>> {
        let mut reader = Pass::new(self.gpu.clone());
        let result = reader.read(tensor)?;
        if let Some(engine) = self.gpu.engine() {
            submit(engine, &self.steps, reader.reads)?;
        }
        Ok(result)
    }

    /// [`Plan::replay`], with the device's time of every dispatch.
    pub(crate) fn replay_timed<T: bytemuck::Pod + Send>(
        &self,
        tensor: &Tensor,
    ) -> Result<(AsyncGpuResult<Vec<T>>, AsyncGpuResult<PassTimes>)> {
        let mut reader = Pass::new(self.gpu.clone());
        let result = reader.read(tensor)?;
        Ok((result, submit_timed(&self.gpu, &self.steps, reader.reads, Clock::Each)?))
    }
}
