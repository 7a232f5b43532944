//! A program that has a wgpu device already, with no features and WebGPU's default limits: gristmill records a product into
//! the program's encoder, on the program's buffers, and the program submits it.
//!
//! `cargo run --release --example own_device`

use gristmill::wgpu::{self, BufferUsages, util::DeviceExt};
use gristmill::{DType, GpuCompute, Tensor, ops, reference};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The program's own wgpu, as it would be without gristmill.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(wgpu::util::initialize_adapter_from_env_or_default(&instance, None))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))?;

    let (m, k, n) = (24, 50, 36);
    let a: Vec<f32> = (0..m * k).map(|i| (i * 7 % 17) as f32 - 8.0).collect();
    let b: Vec<f32> = (0..k * n).map(|i| (i * 5 % 13) as f32 - 6.0).collect();
    let filled = |label, data: &[f32]| {
        let contents = bytemuck::cast_slice(data);
        device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some(label),
            contents,
            usage: BufferUsages::STORAGE,
        })
    };
    let empty = |label, usage| {
        let size = 4 * (m * n) as u64;
        device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
    };
    let (a_buffer, b_buffer) = (filled("a", &a), filled("b", &b));
    let c_buffer = empty("c", BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let readback = empty("readback", BufferUsages::MAP_READ | BufferUsages::COPY_DST);

    // gristmill as a guest on it. Handles are cheap to clone.
    let gpu = GpuCompute::from_existing(device.clone(), queue.clone())?;
    let a_tensor = Tensor::from_buffer(a_buffer, 0, &[m, k], DType::F32)?;
    let b_tensor = Tensor::from_buffer(b_buffer, 0, &[k, n], DType::F32)?;
    let mut c_tensor = Tensor::from_buffer(c_buffer.clone(), 0, &[m, n], DType::F32)?;

    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let mut pass = gpu.pass();
    ops::matmul(&mut pass, &a_tensor, &b_tensor, &mut c_tensor)?;
    let recording = pass.record(&mut encoder)?;
    encoder.copy_buffer_to_buffer(&c_buffer, 0, &readback, 0, 4 * (m * n) as u64);

    let stats = gpu.stats();
    println!("before the submit: submits {}, polls {}, maps {}", stats.submits, stats.polls, stats.maps);
    assert_eq!((stats.submits, stats.polls, stats.maps), (0, 0, 0));

    queue.submit([encoder.finish()]);
    recording.submitted();

    readback.map_async(wgpu::MapMode::Read, .., |outcome| outcome.expect("a map of our own buffer"));
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let c: Vec<f32> = bytemuck::pod_collect_to_vec(&readback.get_mapped_range(..)?);

    let right: Vec<f32> = reference::matmul(&a, &b, (m, k, n)).iter().map(|&v| v as f32).collect();
    assert_eq!(c, right, "a wrong product");
    println!("[{m}, {k}] x [{k}, {n}] on {}: {} elements verified", gpu.adapter().ok_or("no adapter")?, c.len());
    Ok(())
}
