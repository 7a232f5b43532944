//! A kernel of one's own: WGSL from a file, judged by the rules of the house, called with arguments by name, between
//! gristmill's own operations. And what is said where something is wrong.
//!
//! `cargo run --release --example own_kernel [FILE]`

use gristmill::{ComputeBackend, GpuCompute, OwnKernel, ops};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/own_kernel/hard_swish.wgsl");
    let path = std::env::args().nth(1).unwrap_or_else(|| here.to_owned());
    let kernel = OwnKernel::from_file(&path)?;
    let interface = kernel.interface();
    println!("{}: {} invocations a workgroup", kernel.name(), interface.workgroup_size[0]);
    for slot in &interface.bindings {
        println!("  {:10} array<{}>, {}", slot.name, slot.ty, if slot.write { "written" } else { "read" });
    }

    let gpu = GpuCompute::new(ComputeBackend::Gpu)?;
    let (m, n) = (5usize, 37usize);
    let data: Vec<f32> = (0..m * n).map(|i| (i as f32 * 0.37).sin() * 5.0).collect();
    let gains: Vec<f32> = (0..n).map(|i| 1.0 + i as f32 / 64.0).collect();
    let mut x = gpu.tensor(&data, &[m, n])?;
    let gain = gpu.tensor(&gains, &[n])?;

    let mut pass = gpu.pass();
    let (pitch, wg) = (x.pitch(), 128u32);
    let grid = [(m * pitch).div_ceil(wg as usize) as u32, 1, 1];
    let call = kernel.call().read("gain", &gain).write("x", &mut x).constant("WG", wg);
    let call = call.param("m", m as u32).param("n", n as u32).param("pitch", pitch as u32).param("six", 6.0);
    call.record(&mut pass, grid)?;
    ops::relu(&mut pass, &mut x)?;
    let result = pass.read::<f32>(&x)?;
    pass.submit()?;
    let got = result.wait(std::time::Duration::from_secs(60))?;

    let right = |i: usize| {
        let v = f64::from(data[i]);
        (v * (v + 3.0).clamp(0.0, 6.0) / 6.0 * f64::from(gains[i % n])).max(0.0)
    };
    let worst = (0..m * n).map(|i| (f64::from(got[i]) - right(i)).abs()).fold(0.0, f64::max);
    assert!(got.len() == m * n && worst < 1e-5, "a wrong result: off by {worst:e}");
    println!("{} elements verified, off by at most {worst:.1e}", got.len());

    // Every argument is compared with the file.
    let mut pass = gpu.pass();
    let mistakes = [
        kernel.call().write("gain", &mut gain.clone()).record(&mut pass, grid),
        kernel.call().read("bias", &gain).record(&mut pass, grid),
        kernel.call().param("m", -1).record(&mut pass, grid),
        kernel.call().read("gain", &gain).write("x", &mut gain.clone()).record(&mut pass, grid),
    ];
    for error in mistakes.into_iter().filter_map(Result::err) {
        println!("refused: {error}");
    }
    let typo = kernel.source().replace("clamp(v", "clmap(v");
    if let Err(error) = OwnKernel::new("hard_swish.wgsl", &typo) {
        println!("refused: {error}");
    }
    Ok(())
}
