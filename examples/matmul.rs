//! Multiplies two matrices on the adapter at hand and compares every element with the plain loop.
//!
//! `cargo run --release --example matmul`

use gristmill::{ComputeBackend, GpuCompute, reference};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gpu = GpuCompute::new(ComputeBackend::Gpu)?; // or GpuCompute::auto(), which may choose the CPU and says so
    let (m, k, n) = (33, 70, 129);
    // Small integers: every order of summation gives the same f32.
    let a: Vec<f32> = (0..m * k).map(|i| (i * 7 % 17) as f32 - 8.0).collect();
    let b: Vec<f32> = (0..k * n).map(|i| (i * 5 % 13) as f32 - 6.0).collect();

    let c = gpu.matmul(&a, &b, m, k, n)?;

    let right: Vec<f32> = reference::matmul(&a, &b, (m, k, n)).iter().map(|&v| v as f32).collect();
    assert_eq!(c, right, "a wrong product");
    println!("[{m}, {k}] x [{k}, {n}] on {}: {} elements verified", gpu.adapter().ok_or("no adapter")?, c.len());
    Ok(())
}
