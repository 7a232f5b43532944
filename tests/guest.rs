//! On a caller's own device: what is recorded is right, what is the caller's stays the caller's, and nothing is submitted,
//! polled or mapped behind its back.

// Whether wgpu's types are `Sync` is a question more than 128 types deep.
#![recursion_limit = "256"]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gristmill::wgpu::{self, BufferUsages};
use gristmill::{
    AsyncGpuResult, ComputeBackend, DType, Error, GpuCompute, Options, OwnKernel, Pass, Poller, Recording, Tensor, ops,
    reference,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A caller's device, with no features and default limits. `None`, said loudly, where there is no adapter.
fn device() -> Option<(wgpu::Device, wgpu::Queue)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(wgpu::util::initialize_adapter_from_env_or_default(&instance, None));
    let opened = adapter.map_err(|e| e.to_string()).and_then(|adapter| {
        pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())).map_err(|e| e.to_string())
    });
    match opened {
        Ok(opened) => Some(opened),
        Err(error) if std::env::var("GRISTMILL_REQUIRE_ADAPTER").is_ok_and(|v| v == "1") => panic!("{error}"),
        Err(error) => {
            eprintln!("SKIPPED, nothing ran on an adapter: {error}");
            None
        }
    }
}

fn guest() -> Option<GpuCompute> {
    let (device, queue) = device()?;
    Some(GpuCompute::from_existing(device, queue).expect("an engine on any device"))
}

fn encoder(gpu: &GpuCompute) -> wgpu::CommandEncoder {
    gpu.device().expect("a device").create_command_encoder(&Default::default())
}

fn submit(gpu: &GpuCompute, encoder: wgpu::CommandEncoder) {
    gpu.queue().expect("a queue").submit([encoder.finish()]);
}

const SHAPE: (usize, usize, usize) = (9, 22, 13);

/// Operands of integers and their product, exact in any order of summation.
fn operands(gpu: &GpuCompute, seed: usize) -> (Tensor, Tensor, Vec<f32>) {
    let (m, k, n) = SHAPE;
    let integers =
        |count: usize, step: usize| -> Vec<f32> { (0..count).map(|i| ((i + seed) * step % 17) as f32 - 8.0).collect() };
    let (a, b) = (integers(m * k, 5), integers(k * n, 7));
    let right = reference::matmul(&a, &b, SHAPE).iter().map(|&v| v as f32).collect();
    (gpu.tensor(&a, &[m, k]).unwrap(), gpu.tensor(&b, &[k, n]).unwrap(), right)
}

fn product(pass: &mut Pass, a: &Tensor, b: &Tensor) -> Tensor {
    let mut c = pass.tensor(&[SHAPE.0, SHAPE.2]).unwrap();
    ops::matmul(pass, a, b, &mut c).unwrap();
    c
}

#[test]
fn handles_cross_threads() {
    fn both<T: Send + Sync>() {}
    fn send<T: Send>(value: T) -> T {
        value
    }
    both::<GpuCompute>();
    both::<Tensor>();
    both::<gristmill::Weight>();
    both::<OwnKernel>();
    both::<Recording>();
    both::<Error>();
    both::<gristmill::GpuBufferPool>();
    both::<gristmill::HybridScheduler>();
    both::<gristmill::kernel::Kernel>();
    #[cfg(feature = "models")]
    both::<gristmill::GpuModel>();
    drop(send(GpuCompute::open_async(&Options::new(ComputeBackend::Cpu))));
    let gpu = GpuCompute::new(ComputeBackend::Cpu).unwrap();
    send(gpu.pass());
    drop(send(gpu.pass().submit_async()));
    let _: Option<AsyncGpuResult<Vec<f32>>> = send(None);
}

#[test]
fn the_callers_handlers_stay() {
    let Some((device, queue)) = device() else { return };
    let caught = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&caught);
    device.on_uncaptured_error(Arc::new(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    let gpu = GpuCompute::from_existing(device.clone(), queue).unwrap();
    let (a, b, right) = operands(&gpu, 1);
    // What goes wrong in ours is ours to say, and reaches no handler.
    let mut pass = gpu.pass();
    assert!(matches!(ops::matmul(&mut pass, &b, &a, &mut b.clone()), Err(Error::Shape { .. })));
    let c = product(&mut pass, &a, &b);
    pass.submit().unwrap();
    assert_eq!(gpu.read::<f32>(&c).unwrap(), right);
    assert_eq!(caught.load(Ordering::SeqCst), 0);
    // What goes wrong in the caller's reaches the caller's handler.
    let size = u64::MAX;
    let _ = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size,
        usage: BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    assert_eq!(caught.load(Ordering::SeqCst), 1);
}

#[test]
fn recordings_run_when_the_caller_submits_them() {
    let Some(gpu) = guest() else { return };
    let (a, b, right) = operands(&gpu, 2);
    let mut all = Vec::new();
    // Several in one encoder: each has parameters of its own.
    let mut commands = encoder(&gpu);
    for _ in 0..3 {
        let mut pass = gpu.pass();
        let c = product(&mut pass, &a, &b);
        let mut narrow = pass.tensor(&[4, SHAPE.2]).unwrap();
        ops::matmul(&mut pass, &a.first_rows(4).unwrap(), &b, &mut narrow).unwrap();
        ops::scale(&mut pass, &mut narrow, 2.0).unwrap();
        ops::scale(&mut pass, &mut narrow, -0.25).unwrap();
        all.push((c, narrow, pass.record(&mut commands).unwrap()));
    }
    let stats = gpu.stats();
    assert_eq!((stats.submits, stats.polls, stats.maps), (0, 0, 0));
    submit(&gpu, commands);
    for (c, narrow, recording) in all {
        recording.submitted();
        assert_eq!(gpu.read::<f32>(&c).unwrap(), right);
        let scaled: Vec<f32> = right[..4 * SHAPE.2].iter().map(|v| v * -0.5).collect();
        assert_eq!(gpu.read::<f32>(&narrow).unwrap(), scaled);
    }
}

#[test]
fn buffers_of_a_recording_are_nobody_elses_until_it_is_submitted() {
    let Some(gpu) = guest() else { return };
    let (a, b, right) = operands(&gpu, 3);
    let pool = || gpu.pool_stats();
    let record = |commands: &mut wgpu::CommandEncoder| {
        let mut pass = gpu.pass();
        let c = product(&mut pass, &a, &b);
        (c, pass.record(commands).unwrap())
    };
    let mut commands = encoder(&gpu);
    let (c, recording) = record(&mut commands);
    let held = pool().live_buffers;
    drop(c);
    assert_eq!(pool().live_buffers, held, "given back before the commands are submitted");
    // What is uploaded meanwhile must go elsewhere.
    let others: Vec<Tensor> = (0..4).map(|i| gpu.tensor(&[i as f32; 117], &[9, 13]).unwrap()).collect();
    submit(&gpu, commands);
    recording.submitted();
    assert_eq!(pool().live_buffers, held - 1 + others.len() as u64);
    for (i, other) in others.iter().enumerate() {
        assert_eq!(gpu.read::<f32>(other).unwrap(), [i as f32; 117]);
    }
    // Without the word they are freed, not handed out, and the commands are none the worse.
    let mut commands = encoder(&gpu);
    let (c, recording) = record(&mut commands);
    let idle = pool().idle_buffers;
    drop(recording);
    let copy = gpu.zeros(&[SHAPE.0, SHAPE.2]).unwrap();
    let (from, to) = (c.buffer().unwrap(), copy.buffer().unwrap());
    commands.copy_buffer_to_buffer(from, c.offset(), to, copy.offset(), c.bytes());
    drop(c);
    assert!(pool().idle_buffers <= idle, "handed out again without a word");
    submit(&gpu, commands);
    assert_eq!(gpu.read::<f32>(&copy).unwrap(), right);
}

#[test]
fn what_cannot_be_recorded_is_said() {
    let Some(gpu) = guest() else { return };
    let (a, b, _) = operands(&gpu, 4);
    let mut commands = encoder(&gpu);
    let mut pass = gpu.pass();
    let c = product(&mut pass, &a, &b);
    let result = pass.read::<f32>(&c).unwrap();
    assert!(matches!(pass.record(&mut commands), Err(Error::Recording(_))));
    assert!(matches!(result.wait(PATIENCE), Err(Error::NotSubmitted)));
    let mut pass = gpu.pass();
    pass.copy(&c, &mut gpu.zeros(&[SHAPE.0, SHAPE.2]).unwrap()).unwrap();
    assert!(matches!(pass.record_in(&mut commands.begin_compute_pass(&Default::default())), Err(Error::Recording(_))));
    let cpu = GpuCompute::new(ComputeBackend::Cpu).unwrap();
    assert!(matches!(cpu.pass().record(&mut commands), Err(Error::Recording(_))));
    submit(&gpu, commands);
}

#[test]
fn engines_know_nothing_of_each_other() {
    let Some((device, queue)) = device() else { return };
    let first = GpuCompute::from_existing(device.clone(), queue.clone()).unwrap();
    let second = GpuCompute::from_existing(device, queue).unwrap();
    let third = GpuCompute::new(ComputeBackend::Gpu).unwrap();
    std::thread::scope(|scope| {
        for (seed, gpu) in [&first, &second, &third].into_iter().enumerate() {
            scope.spawn(move || {
                let (a, b, right) = operands(gpu, seed);
                for _ in 0..10 {
                    assert_eq!(gpu.read::<f32>(&gpu.matmul_tensor(&a, &b).unwrap()).unwrap(), right);
                }
            });
        }
    });
    let (a, b, _) = operands(&first, 9);
    for other in [&second, &third] {
        let mut pass = other.pass();
        let mut c = pass.tensor(&[SHAPE.0, SHAPE.2]).unwrap();
        assert!(matches!(ops::matmul(&mut pass, &a, &b, &mut c), Err(Error::ForeignBuffer { .. })));
    }
}

#[test]
fn a_poller_is_there_where_it_is_asked_for() {
    let Some((device, queue)) = device() else { return };
    let options = Options { poller: Some(Poller::Thread), ..Options::default() };
    let gpu = GpuCompute::from_existing_with(device, queue, &options).unwrap();
    let (a, b, right) = operands(&gpu, 5);
    let mut pass = gpu.pass();
    let c = product(&mut pass, &a, &b);
    let mut result = pass.read::<f32>(&c).unwrap();
    pass.submit().unwrap();
    // Nobody waits, and it arrives.
    let start = std::time::Instant::now();
    while !result.is_ready() {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(result.try_get().unwrap().unwrap(), right);
}

#[test]
fn tasks_wait_for_room_and_for_results() {
    let Some(gpu) = guest() else { return };
    let third = GpuCompute::new(ComputeBackend::Gpu).unwrap();
    for gpu in [&gpu, &third] {
        let (a, b, right) = operands(gpu, 6);
        let results: Vec<AsyncGpuResult<Vec<f32>>> = pollster::block_on(async {
            let mut results = Vec::new();
            for _ in 0..3 {
                let mut pass = gpu.pass();
                let c = product(&mut pass, &a, &b);
                results.push(pass.read::<f32>(&c).unwrap());
                pass.submit_async().await.unwrap();
            }
            results
        });
        for result in results {
            assert_eq!(result.wait(PATIENCE).unwrap(), right);
        }
    }
}

#[test]
fn an_offset_and_a_padded_pitch_are_where_they_say() {
    let Some(gpu) = guest() else { return };
    let (a, _, _) = operands(&gpu, 7);
    assert_eq!((a.offset(), a.pitch(), a.bytes()), (0, 24, 4 * 24 * 9));
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    let descriptor = wgpu::BufferDescriptor { label: None, size: 1024, usage, mapped_at_creation: false };
    let buffer = gpu.device().unwrap().create_buffer(&descriptor);
    gpu.queue().unwrap().write_buffer(&buffer, 512, bytemuck::cast_slice(&[-1.0f32, 2.0, -3.0, 4.0]));
    let mut x = Tensor::from_buffer(buffer.clone(), 512, &[4], DType::F32).unwrap();
    assert_eq!((x.offset(), x.buffer()), (512, Some(&buffer)));
    let mut pass = gpu.pass();
    ops::relu(&mut pass, &mut x).unwrap();
    pass.submit().unwrap();
    assert_eq!(gpu.read::<f32>(&x).unwrap(), [0.0, 2.0, 0.0, 4.0]);
}
