//! gristmill's operations between a program's own dispatches, in one compute pass of one encoder: the program's kernel makes
//! waves, gristmill normalises and multiplies them, and the program's kernel looks at the result. Nothing leaves the device
//! in between, nobody submits but the program, and the whole is replayed for several frames.
//!
//! `cargo run --release --example record_into_encoder`

use gristmill::wgpu::{self, BufferUsages};
use gristmill::{DType, GpuCompute, Tensor, ops, reference};

const ROWS: usize = 19;
const COLUMNS: usize = 52;
const OUTPUTS: usize = 7;
const FRAMES: usize = 3;

/// The program's own shader: fills a buffer from its index and a frame number.
const WAVES: &str = "
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> frame: u32;
@compute @workgroup_size(64)
fn waves(@builtin(global_invocation_id) id: vec3u) {
    if id.x < arrayLength(&x) { x[id.x] = f32((id.x * 7u + frame * 3u) % 17u) - 8.0; }
}
@compute @workgroup_size(1)
fn next() { frame += 1u; }
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(wgpu::util::initialize_adapter_from_env_or_default(&instance, None))?;
    // The program asks for what gristmill can use, and would add what it needs itself.
    let descriptor = GpuCompute::recommended_device_descriptor(&adapter);
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))?;
    let gpu = GpuCompute::from_existing(device.clone(), queue.clone())?;

    let buffer = |size: usize, usage| {
        let size = 4 * size as u64;
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let (x_buffer, frame) = (buffer(ROWS * COLUMNS, BufferUsages::STORAGE), buffer(1, BufferUsages::STORAGE));
    let y_buffer = buffer(ROWS * OUTPUTS, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let readback = buffer(FRAMES * ROWS * OUTPUTS, BufferUsages::MAP_READ | BufferUsages::COPY_DST);

    let source = wgpu::ShaderSource::Wgsl(WAVES.into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some("waves"), source });
    let pipeline = |entry: &'static str| {
        device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry),
            layout: None,
            module: &module,
            entry_point: Some(entry),
            compilation_options: Default::default(),
            cache: None,
        })
    };
    let (waves, next) = (pipeline("waves"), pipeline("next"));
    let group = |pipeline: &wgpu::ComputePipeline, bound: &[(u32, &wgpu::Buffer)]| {
        let entries: Vec<_> = bound
            .iter()
            .map(|&(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let layout = &pipeline.get_bind_group_layout(0);
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
    };
    let (waves_group, next_group) = (group(&waves, &[(0, &x_buffer), (1, &frame)]), group(&next, &[(1, &frame)]));

    // What gristmill holds: a weight, the program's buffers as tensors. Uploads wait on the program's queue for its submit.
    let weight: Vec<f32> = (0..OUTPUTS * COLUMNS).map(|i| ((i * 5 % 13) as f32 - 6.0) / 8.0).collect();
    let (ones, zeros) = (vec![1.0; COLUMNS], vec![0.0; COLUMNS]);
    let w = gpu.tensor(&weight, &[OUTPUTS, COLUMNS])?;
    let (scale, shift) = (gpu.tensor(&ones, &[COLUMNS])?, gpu.tensor(&zeros, &[COLUMNS])?);
    let x = Tensor::from_buffer(x_buffer, 0, &[ROWS, COLUMNS], DType::F32)?;
    let mut y = Tensor::from_buffer(y_buffer.clone(), 0, &[ROWS, OUTPUTS], DType::F32)?;

    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let mut recordings = Vec::new();
    for i in 0..FRAMES {
        let mut compute = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        compute.set_pipeline(&waves);
        compute.set_bind_group(0, &waves_group, &[]);
        compute.dispatch_workgroups((ROWS * COLUMNS).div_ceil(64) as u32, 1, 1);

        let mut pass = gpu.pass();
        let mut normed = pass.tensor(&[ROWS, COLUMNS])?;
        ops::layer_norm(&mut pass, (&x, 0), &scale, &shift, 1e-5, &mut normed)?;
        ops::matmul_transpose_b(&mut pass, &normed, &w, 1.0, &mut y)?;
        recordings.push(pass.record_in(&mut compute)?);

        compute.set_pipeline(&next);
        compute.set_bind_group(0, &next_group, &[]);
        compute.dispatch_workgroups(1, 1, 1);
        drop(compute);
        let bytes = 4 * (ROWS * OUTPUTS) as u64;
        encoder.copy_buffer_to_buffer(&y_buffer, 0, &readback, i as u64 * bytes, bytes);
    }

    let stats = gpu.stats();
    println!("before the submit: submits {}, polls {}, maps {}", stats.submits, stats.polls, stats.maps);
    assert_eq!((stats.submits, stats.polls, stats.maps), (0, 0, 0));

    queue.submit([encoder.finish()]);
    recordings.into_iter().for_each(gristmill::Recording::submitted);

    readback.map_async(wgpu::MapMode::Read, .., |outcome| outcome.expect("a map of our own buffer"));
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let got: Vec<f32> = bytemuck::pod_collect_to_vec(&readback.get_mapped_range(..)?);

    let mut worst = 0.0f64;
    for (i, got) in got.chunks(ROWS * OUTPUTS).enumerate() {
        let x: Vec<f32> = (0..ROWS * COLUMNS).map(|j| ((j * 7 + i * 3) % 17) as f32 - 8.0).collect();
        let normed: Vec<f32> = reference::layer_norm(&x, &ones, &zeros, 1e-5).iter().map(|&v| v as f32).collect();
        let right = reference::matmul_transpose_b(&normed, &weight, None, 1.0, (ROWS, COLUMNS, OUTPUTS));
        assert_eq!(got.len(), right.len());
        worst = got.iter().zip(&right).map(|(&g, r)| (f64::from(g) - r).abs()).fold(worst, f64::max);
    }
    // Sums of 52 products of normed values and weights below 1, in f32.
    assert!(worst < 1e-4, "a wrong result: off by {worst:e}");
    println!(
        "{FRAMES} frames on {}: {} elements verified, off by at most {worst:.1e}",
        gpu.adapter().ok_or("no adapter")?,
        got.len()
    );
    Ok(())
}
