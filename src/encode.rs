//! From a list of steps to commands: one compute pass per run of dispatches, parameters, readbacks and, where somebody
//! wants to know how long it took, timestamps. The schedule is the same with and without them.
//!
//! The commands go to our queue ([`submit`]) or into an encoder that a caller submits ([`record`], [`record_in`]). The second
//! way has no queue: it submits, polls and maps nothing, and even its parameters lie in a buffer that is filled when it is
//! created, because a write through a queue would reach only the last of several recordings that are submitted together.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cache::PARAMS_STRIDE;
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::gpu::{Engine, GpuCompute};
use crate::kernel::{Kernel, ParamsVia};
use crate::own_kernel::OwnKernel;
use crate::pass::Pipeline;
use crate::pool::{Kind, Lease};
use crate::queue::Read;
use crate::queue::seam::Seam;
use crate::readback::Fetched;
use crate::result::{AsyncGpuResult, Promise};
use crate::tensor::Tensor;

/// Timestamps that one set may hold: WebGPU's limit.
const MAX_TIMESTAMPS: usize = 4096;

/// Which kernel a dispatch is of.
#[derive(Clone)]
pub(crate) enum Which {
    /// One of ours.
    House(&'static Kernel),
    /// A caller's.
    Own(OwnKernel),
}

impl Which {
    pub(crate) fn name(&self) -> Cow<'static, str> {
        match self {
            Which::House(kernel) => Cow::Borrowed(kernel.name),
            Which::Own(kernel) => Cow::Owned(kernel.name().to_owned()),
        }
    }

    fn op(&self) -> Cow<'static, str> {
        match self {
            Which::House(kernel) => Cow::Borrowed(kernel.op),
            Which::Own(kernel) => Cow::Owned(kernel.interface().op.clone()),
        }
    }
}

/// One command.
#[derive(Clone)]
pub(crate) enum Step {
    Dispatch {
        kernel: Which,
        pipeline: Pipeline,
        bindings: wgpu::BindGroup,
        params: [u8; crate::reflect::MAX_PARAMS_BYTES as usize],
        params_bytes: usize,
        grid: [u32; 3],
        work: Work,
    },
    Copy {
        source: Arc<Lease>,
        source_offset: u64,
        target: Arc<Lease>,
        target_offset: u64,
        bytes: u64,
    },
}

/// How finely a device can time its work.
///
/// ```
/// use gristmill::{Clock, ComputeBackend, GpuCompute};
///
/// assert!(Clock::Each > Clock::Whole); // what times each dispatch times the whole as well
/// assert_eq!(GpuCompute::new(ComputeBackend::Cpu)?.clock(), None);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clock {
    /// From the beginning of a pass's first dispatch to the end of its last.
    Whole,
    /// Every dispatch, by timestamps between them, all in one compute pass.
    Each,
}

/// What a dispatch is estimated to cost.
///
/// ```
/// let work = gristmill::Work { flops: 2e9, bytes: 1e8 };
/// assert_eq!(work.flops / work.bytes, 20.0); // operations per byte
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Floating-point operations, of products alone.
    pub flops: f64,
    /// Bytes that must be moved at least: every operand once, what is changed in place twice.
    pub bytes: f64,
}

/// The device's time of one dispatch.
///
/// ```
/// # use gristmill::{Clock, ComputeBackend, GpuCompute, ops};
/// let gpu = GpuCompute::new(ComputeBackend::Gpu)?;
/// if gpu.clock() == Some(Clock::Each) {
///     let (mut pass, mut x) = (gpu.pass(), gpu.zeros(&[64])?);
///     ops::relu(&mut pass, &mut x)?;
///     let times = pass.submit_timed(Clock::Each)?.wait(std::time::Duration::from_secs(60))?;
///     assert_eq!((&*times.dispatches[0].op, &*times.dispatches[0].kernel), ("relu", "relu"));
/// }
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DispatchTime {
    /// The op.
    pub op: Cow<'static, str>,
    /// The kernel.
    pub kernel: Cow<'static, str>,
    /// Seconds from the end of the dispatch before to its own end.
    pub seconds: f64,
    /// What it was estimated to cost.
    pub work: Work,
}

/// The device's time of one pass.
///
/// ```
/// # use gristmill::{Clock, ComputeBackend, GpuCompute, ops};
/// let gpu = GpuCompute::new(ComputeBackend::Gpu)?;
/// if let Some(clock) = gpu.clock() {
///     let (mut pass, mut x) = (gpu.pass(), gpu.zeros(&[64])?);
///     ops::relu(&mut pass, &mut x)?;
///     let times = pass.submit_timed(clock)?.wait(std::time::Duration::from_secs(60))?;
///     assert!(times.seconds >= 0.0);
/// }
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PassTimes {
    /// Seconds from the beginning of the first dispatch to the end of the last.
    pub seconds: f64,
    /// With [`Clock::Each`], every dispatch, in order; their times add up to `seconds`.
    pub dispatches: Vec<DispatchTime>,
}

/// Parameters in a uniform buffer, one slot per dispatch, for devices without immediates.
struct UniformParams {
    lease: Arc<Lease>,
    bind_group: wgpu::BindGroup,
    bytes: Vec<u8>,
}

/// The parameters of all dispatches, a slot each, where they do not travel as immediates.
fn params_bytes(engine: &Engine, steps: &[Step]) -> Option<Vec<u8>> {
    if engine.params != ParamsVia::Uniform {
        return None;
    }
    let dispatches = steps.iter().filter_map(|step| match step {
        Step::Dispatch { params, .. } => Some(params),
        Step::Copy { .. } => None,
    });
    let mut bytes = Vec::new();
    for params in dispatches {
        bytes.extend_from_slice(params);
        bytes.resize(bytes.len().next_multiple_of(PARAMS_STRIDE as usize), 0);
    }
    (!bytes.is_empty()).then_some(bytes)
}

fn uniform_params(engine: &Engine, steps: &[Step]) -> Result<Option<UniformParams>> {
    let Some(bytes) = params_bytes(engine, steps) else { return Ok(None) };
    let lease = engine.pool.take(Kind::Uniform, bytes.len() as u64)?;
    let bind_group = engine.cache.uniform(lease.id, &lease.buffer)?;
    Ok(Some(UniformParams { lease, bind_group, bytes }))
}

/// The timestamps of a submission: a set, where its values go, and who waits for them.
struct Timestamps {
    clock: Clock,
    count: usize,
    resolved: Arc<Lease>,
    staging: Arc<Lease>,
}

/// A tensor that is to be read back, and who waits for it.
pub(crate) struct Wanted {
    pub(crate) tensor: Tensor,
    pub(crate) promise: Promise,
    /// Nobody else will use it any more, and the host can map it: it is not copied.
    pub(crate) itself: bool,
}

impl Wanted {
    /// Where the bytes will be mapped.
    fn staging(&self, engine: &Engine) -> Result<Arc<Lease>> {
        match self.tensor.lease() {
            Some(lease) if self.itself => Ok(Arc::clone(lease)),
            _ => engine.pool.take(Kind::Readback, self.tensor.bytes()),
        }
    }
}

/// Encodes the steps and the readbacks and hands them to the queue.
pub(crate) fn submit(engine: &Engine, steps: &[Step], reads: Vec<Wanted>) -> Result<()> {
    // A result that nobody holds any more is not read.
    let wanted: Vec<_> = reads.into_iter().filter(|wanted| !wanted.promise.is_abandoned()).collect();
    if steps.is_empty() && wanted.is_empty() {
        return Ok(());
    }
    hand_in(engine, steps, wanted, None)
}

/// [`submit`] with timestamps.
pub(crate) fn submit_timed(
    gpu: &GpuCompute,
    steps: &[Step],
    reads: Vec<Wanted>,
    clock: Clock,
) -> Result<AsyncGpuResult<PassTimes>> {
    let none = Error::Limit {
        op: "submit_timed".to_owned(),
        limit: "timestamps",
        wanted: clock as u64 + 1,
        granted: gpu.clock().map_or(0, |c| c as u64 + 1),
    };
    let Some(engine) = gpu.engine().filter(|_| gpu.clock() >= Some(clock)) else { return Err(none) };
    let dispatches: Vec<(Which, Work)> =
        steps.iter().filter_map(Step::dispatch).map(|(kernel, work)| (kernel.clone(), work)).collect();
    let count = if clock == Clock::Each { dispatches.len() + 1 } else { 2 };
    if count > MAX_TIMESTAMPS {
        let what = "the timestamps of a pass".to_owned();
        return Err(Error::TooLarge { what, needed: count as u64, limit: MAX_TIMESTAMPS as u64 });
    }
    let seconds_per_tick = engine.seconds_per_tick;
    let (times, promise) = AsyncGpuResult::new(move |fetched: Fetched| {
        let bytes: &[u8] = bytemuck::cast_slice(fetched.words());
        let ticks: Vec<u64> = bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned).take(count).collect();
        pass_times(&ticks, seconds_per_tick, if clock == Clock::Each { &dispatches } else { &[] })
    });
    hand_in(engine, steps, reads, Some((clock, count, promise)))?;
    Ok(times.driven_by(gpu.driver()))
}

/// Times from timestamps: one at the beginning, and one after every dispatch or one at the end.
fn pass_times(ticks: &[u64], seconds_per_tick: f64, dispatches: &[(Which, Work)]) -> PassTimes {
    let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 * seconds_per_tick;
    let time = |(pair, (kernel, work)): (&[u64], &(Which, Work))| DispatchTime {
        op: kernel.op(),
        kernel: kernel.name(),
        seconds: pair.first().zip(pair.last()).map_or(0.0, |(&from, &to)| seconds(from, to)),
        work: *work,
    };
    PassTimes {
        seconds: ticks.first().zip(ticks.last()).map_or(0.0, |(&from, &to)| seconds(from, to)),
        dispatches: ticks.windows(2).zip(dispatches).map(time).collect(),
    }
}

impl Step {
    fn dispatch(&self) -> Option<(&Which, Work)> {
        match self {
            Step::Dispatch { kernel, work, .. } => Some((kernel, *work)),
            Step::Copy { .. } => None,
        }
    }
}

/// Makes the pipelines that steps need and nobody needed before.
pub(crate) fn make_pipelines(engine: &Engine, steps: &[Step]) -> Result<()> {
    engine.cache.make_all(steps.iter().filter_map(|step| match step {
        Step::Dispatch { pipeline, .. } => Some(pipeline),
        Step::Copy { .. } => None,
    }))
}

/// Leases what a submission needs beside its tensors, and submits.
fn hand_in(engine: &Engine, steps: &[Step], wanted: Vec<Wanted>, timed: Option<(Clock, usize, Promise)>) -> Result<()> {
    let take = |kind: Kind, bytes: u64| engine.pool.take(kind, bytes);
    let staging = wanted.iter().map(|wanted| wanted.staging(engine));
    let leased = make_pipelines(engine, steps).and_then(|()| staging.collect::<Result<Vec<_>>>()).and_then(|staging| {
        let timestamps = |&(clock, count, _): &(Clock, usize, Promise)| {
            let bytes = 8 * count as u64;
            Ok(Timestamps {
                clock,
                count,
                resolved: take(Kind::Queries, bytes)?,
                staging: take(Kind::Readback, bytes)?,
            })
        };
        Ok((staging, uniform_params(engine, steps)?, timed.as_ref().map(timestamps).transpose()?))
    });
    let (staging, uniforms, timestamps) = match leased {
        Ok(leased) => leased,
        Err(error) => {
            let promises = wanted.into_iter().map(|wanted| wanted.promise).chain(timed.map(|(.., promise)| promise));
            promises.for_each(|promise| promise.complete(Err(error.clone())));
            return Err(error);
        }
    };
    let mut copies = Vec::new();
    let mut queued = Vec::new();
    for (Wanted { tensor, promise, itself }, staging) in wanted.into_iter().zip(staging) {
        queued.push(Read { staging: Arc::clone(&staging), bytes: tensor.bytes(), promise });
        copies.extend((!itself).then_some((tensor, staging)));
    }
    if let (Some((_, count, promise)), Some(timestamps)) = (timed, &timestamps) {
        queued.push(Read { staging: Arc::clone(&timestamps.staging), bytes: 8 * count as u64, promise });
    }
    count_dispatches(engine, steps);
    let prepare = |seam: &dyn Seam| {
        // This buffer is leased for this submission alone, so the write precedes it and follows all earlier ones.
        uniforms.as_ref().map_or(Ok(()), |uniforms| seam.write(&uniforms.lease.buffer, 0, &uniforms.bytes))
    };
    engine.staged.store(0, Ordering::Relaxed);
    engine.queue.push(queued, prepare, &mut |device| {
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let params = uniforms.as_ref().map(|uniforms| &uniforms.bind_group);
        match &timestamps {
            None => encode(&mut encoder, steps, params, None),
            Some(timestamps) => encode_timed(device, &mut encoder, steps, params, timestamps),
        }
        for (tensor, staging) in &copies {
            if let Some(lease) = tensor.lease() {
                encoder.copy_buffer_to_buffer(&lease.buffer, tensor.offset, &staging.buffer, 0, tensor.bytes());
            }
        }
        encoder.finish()
    })
}

/// [`encode`] between timestamps, which go to their readback buffer.
fn encode_timed(
    device: &wgpu::Device,
    encoder: &mut wgpu::CommandEncoder,
    steps: &[Step],
    params: Option<&wgpu::BindGroup>,
    timestamps: &Timestamps,
) {
    let Timestamps { clock, count, resolved, staging } = timestamps;
    let count = *count as u32;
    let set = device.create_query_set(&wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count });
    encode(encoder, steps, params, Some((&set, *clock)));
    encoder.resolve_query_set(&set, 0..count, &resolved.buffer, 0);
    encoder.copy_buffer_to_buffer(&resolved.buffer, 0, &staging.buffer, 0, 8 * u64::from(count));
}

/// The whole of command encoding: one compute pass per run of dispatches.
fn encode(
    encoder: &mut wgpu::CommandEncoder,
    steps: &[Step],
    uniforms: Option<&wgpu::BindGroup>,
    timed: Option<(&wgpu::QuerySet, Clock)>,
) {
    let runs = steps.chunk_by(|a, b| a.dispatch().is_some() == b.dispatch().is_some());
    let last = steps.iter().rposition(|step| step.dispatch().is_some());
    let (mut done, mut slot) = (0, 0u32);
    for run in runs {
        done += run.len();
        if run.iter().all(|step| step.dispatch().is_none()) {
            run.iter().for_each(|step| copy(encoder, step));
            continue;
        }
        let is_last = last.is_some_and(|last| last < done);
        let timestamp_writes = timed.map(|(query_set, clock)| wgpu::ComputePassTimestampWrites {
            query_set,
            beginning_of_pass_write_index: Some(0).filter(|_| slot == 0),
            end_of_pass_write_index: Some(1).filter(|_| is_last && clock == Clock::Whole),
        });
        // A pass that writes no timestamp must not name a set.
        let timestamp_writes = timestamp_writes
            .filter(|w| w.beginning_of_pass_write_index.is_some() || w.end_of_pass_write_index.is_some());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
        for step in run {
            dispatch(&mut pass, step, uniforms, slot);
            slot += 1;
            if let Some((set, Clock::Each)) = timed {
                pass.write_timestamp(set, slot);
            }
        }
    }
}

/// One dispatch, the `slot`th of its submission or recording.
fn dispatch(pass: &mut wgpu::ComputePass<'_>, step: &Step, uniforms: Option<&wgpu::BindGroup>, slot: u32) {
    let Step::Dispatch { pipeline, bindings, params, params_bytes, grid, .. } = step else { return };
    let Some(pipeline) = pipeline.get() else { return };
    pass.set_pipeline(pipeline);
    pass.set_bind_group(0, bindings, &[]);
    match uniforms {
        Some(group) => pass.set_bind_group(1, group, &[slot * PARAMS_STRIDE as u32]),
        None => pass.set_immediates(0, params.get(..*params_bytes).unwrap_or_default()),
    }
    pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
}

/// The parameters of a recording, in a buffer that is filled without a queue.
fn recorded_params(engine: &Engine, steps: &[Step]) -> Result<Option<wgpu::BindGroup>> {
    let Some(bytes) = params_bytes(engine, steps) else { return Ok(None) };
    let buffer = engine.seam.create_filled(&bytes, wgpu::BufferUsages::UNIFORM)?;
    engine.cache.uniform_once(&buffer).map(Some)
}

fn count_dispatches(engine: &Engine, steps: &[Step]) {
    let dispatches = steps.iter().filter_map(Step::dispatch).count();
    Counters::add(&engine.counters.dispatches, dispatches as u64);
}

/// Encodes the steps into a caller's encoder, in compute passes of their own.
pub(crate) fn record(engine: &Engine, steps: &[Step], encoder: &mut wgpu::CommandEncoder) -> Result<()> {
    make_pipelines(engine, steps)?;
    let params = recorded_params(engine, steps)?;
    count_dispatches(engine, steps);
    encode(encoder, steps, params.as_ref(), None);
    Ok(())
}

/// Encodes the steps into a caller's compute pass.
pub(crate) fn record_in(engine: &Engine, steps: &[Step], pass: &mut wgpu::ComputePass<'_>) -> Result<()> {
    if steps.iter().any(|step| step.dispatch().is_none()) {
        return Err(Error::Recording(
            "a compute pass holds dispatches alone, and this is a copy; record into its encoder",
        ));
    }
    make_pipelines(engine, steps)?;
    let params = recorded_params(engine, steps)?;
    count_dispatches(engine, steps);
    (0u32..).zip(steps).for_each(|(slot, step)| dispatch(pass, step, params.as_ref(), slot));
    Ok(())
}

fn copy(encoder: &mut wgpu::CommandEncoder, step: &Step) {
    if let Step::Copy { source, source_offset, target, target_offset, bytes } = step {
        encoder.copy_buffer_to_buffer(&source.buffer, *source_offset, &target.buffer, *target_offset, *bytes);
    }
}
