//! The six rows of the GPU.

use std::time::Duration;

use gristmill::bench::{Estimate, ModelTest, TestKind, ratios, turns};
use gristmill::model::Config;
use gristmill::{Error, GpuCompute, GpuModel, HybridScheduler, Result, ops};

use crate::{Found, Outcome, Run, Setup, Skip, Target};

const fn target(id: &'static str, name: &'static str, target: f64, unit: &'static str, higher: bool) -> Target {
    Target { id, name, target, unit, higher }
}

pub(crate) const ROWS: [(Target, Run); 6] = [
    (target("GPU-001", "matmul 512^3, slices to slice", 100.0, "GFLOP/s", true), matmul),
    (target("GPU-002", "GPU over CPU, matmul 1024^3", 10.0, "x", true), hybrid),
    (target("GPU-003", "relu and sigmoid on the device", 50.0, "GB/s", true), activations),
    (target("GPU-004", "pooled over fresh buffers", 1.5, "x", true), pool),
    (target("GPU-005", "a job in flight over one alone", 1.2, "x", false), asynchronous),
    (target("GPU-006", "GPT-2 small, tokens from 128 on", 128.0, "tok/s", true), generation),
];

/// The adapter, or the row is skipped.
macro_rules! adapter {
    ($setup:expr) => {
        match &$setup.gpu {
            Ok(gpu) => gpu,
            Err(reason) => return Ok(Err(Skip(format!("no adapter: {reason}")))),
        }
    };
}

/// Numbers that look random, the same on every run.
pub(crate) fn draw(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

/// Refuses to time what is wrong: some elements against inner products in f64.
fn check(what: &str, (a, b, c): (&[f32], &[f32], &[f32]), (m, k, n): (usize, usize, usize)) -> Result<()> {
    for at in (0..m * n).step_by((m * n / 61).max(1)) {
        let terms = (0..k).map(|i| f64::from(a[at / n * k + i]) * f64::from(b[i * n + at % n]));
        let (sum, magnitude) = terms.fold((0.0, 0.0), |(sum, magnitude), t: f64| (sum + t, magnitude + t.abs()));
        let bound = k as f64 * f64::from(f32::EPSILON) * magnitude;
        let error = (f64::from(c[at]) - sum).abs();
        if error.is_nan() || error > bound {
            let message = format!("element {at} is {}, expected {sum} within {bound:.1e}", c[at]);
            return Err(Error::WrongResult { what: what.to_owned(), message });
        }
    }
    Ok(())
}

fn estimate(samples: &[f64]) -> Result<Estimate> {
    Estimate::of(samples).ok_or(Error::Implausible { what: "a row".to_owned(), message: "no samples".to_owned() })
}

/// Upload, product and readback of a call, no compiling: as the documents' 512^3 was, but for that.
fn matmul(setup: &Setup) -> Result<Outcome> {
    let gpu = adapter!(setup);
    let n = if setup.quick { 128 } else { 512 };
    let (a, b) = (draw(n * n, 1), draw(n * n, 2));
    check("matmul", (&a, &b, &gpu.matmul(&a, &b, n, n, n)?), (n, n, n))?;
    let (x, y) = (gpu.tensor(&a, &[n, n])?, gpu.tensor(&b, &[n, n])?);
    let mut out = gpu.zeros(&[n, n])?;
    let mut slices = || gpu.matmul(&a, &b, n, n, n).map(drop);
    let mut resident = || {
        let mut pass = gpu.pass();
        ops::matmul(&mut pass, &x, &y, &mut out)?;
        pass.submit()?;
        gpu.wait_idle()
    };
    let times = turns(setup.repetitions(), &mut [&mut slices, &mut resident])?;
    let work = 2e-9 * (n as f64).powi(3);
    let resident = estimate(&times[1])?.rate(work);
    let note = format!("{n}^3; {:.2} GFLOP/s with operands on the device", resident.median);
    Ok(Ok(Found { value: estimate(&times[0])?.rate(work), note }))
}

/// The GPU against the best the CPU has, not against a naive loop; and what the scheduler says of it.
fn hybrid(setup: &Setup) -> Result<Outcome> {
    let gpu = adapter!(setup);
    let n = if setup.quick { 256 } else { 1024 };
    let (a, b) = (draw(n * n, 3), draw(n * n, 4));
    for side in [gpu, &setup.cpu] {
        check("matmul", (&a, &b, &side.matmul(&a, &b, n, n, n)?), (n, n, n))?;
    }
    let mut on_gpu = || gpu.matmul(&a, &b, n, n, n).map(drop);
    let mut on_cpu = || setup.cpu.matmul(&a, &b, n, n, n).map(drop);
    let times = turns(setup.repetitions().min(if is_software(gpu) { 3 } else { 9 }), &mut [&mut on_gpu, &mut on_cpu])?;
    let value = ratios(&times[1], &times[0]);
    let value = value.ok_or(Error::Implausible { what: "GPU-002".to_owned(), message: "no samples".to_owned() })?;
    let scheduler = HybridScheduler::with_gpu(gpu.clone())?;
    let note = format!("{n}^3 on host slices, the CPU's gemm = 1; the scheduler: {}", scheduler.explain(n, n, n));
    Ok(Ok(Found { value, note }))
}

fn is_software(gpu: &GpuCompute) -> bool {
    gpu.adapter().is_none_or(|adapter| adapter.software)
}

/// Both ops on 2^24 elements that stay on the device; each reads and writes all of them.
fn activations(setup: &Setup) -> Result<Outcome> {
    let gpu = adapter!(setup);
    let count = if setup.quick || is_software(gpu) { 1 << 20 } else { 1 << 24 };
    let data = draw(count, 5);
    let mut x = gpu.tensor(&data, &[count / 1024, 1024])?;
    let mut pass = gpu.pass();
    ops::relu(&mut pass, &mut x)?;
    ops::sigmoid(&mut pass, &mut x)?;
    pass.submit()?;
    for (found, v) in gpu.read::<f32>(&x)?.iter().zip(&data).step_by(997) {
        let expected = 1.0 / (1.0 + (-f64::from(v.max(0.0))).exp());
        let error = (f64::from(*found) - expected).abs();
        if error.is_nan() || error > 1e-6 {
            let message = format!("{found}, expected {expected}");
            return Err(Error::WrongResult { what: "relu and sigmoid".to_owned(), message });
        }
    }
    const CALLS: usize = 8;
    let mut resident = || {
        let mut pass = gpu.pass();
        for _ in 0..CALLS {
            ops::relu(&mut pass, &mut x)?;
            ops::sigmoid(&mut pass, &mut x)?;
        }
        pass.submit()?;
        gpu.wait_idle()
    };
    let small = &data[..1 << 20];
    let mut slices = || gpu.sigmoid(&gpu.relu(small)?).map(drop);
    let times = turns(setup.repetitions(), &mut [&mut resident, &mut slices])?;
    let gigabytes = |elements: usize, calls: usize| 16e-9 * (elements * calls) as f64;
    let with_transfer = estimate(&times[1])?.rate(gigabytes(small.len(), 1));
    let note =
        format!("{count} elements, 16 bytes each for both; {:.2} GB/s from slice to slice", with_transfer.median);
    Ok(Ok(Found { value: estimate(&times[0])?.rate(gigabytes(count, CALLS)), note }))
}

/// The same products with a warm pool, and with one that is emptied before each.
fn pool(setup: &Setup) -> Result<Outcome> {
    let gpu = adapter!(setup);
    let pool = gpu.pool().ok_or(Error::ForeignBuffer { op: "pool" })?;
    const N: usize = 128;
    let (a, b) = (draw(N * N, 6), draw(N * N, 7));
    check("matmul", (&a, &b, &gpu.matmul(&a, &b, N, N, N)?), (N, N, N))?;
    let created = || gpu.stats().buffers_created;
    let (before, mut fresh_created) = (created(), 0);
    let mut pooled = || gpu.matmul(&a, &b, N, N, N).map(drop);
    let mut fresh = || {
        let before = created();
        pool.trim();
        gpu.matmul(&a, &b, N, N, N)?;
        fresh_created += created() - before;
        Ok(())
    };
    let times = turns(10 * setup.repetitions(), &mut [&mut pooled, &mut fresh])?;
    let value = ratios(&times[1], &times[0]);
    let value = value.ok_or(Error::Implausible { what: "GPU-004".to_owned(), message: "no samples".to_owned() })?;
    let note = format!(
        "{N}^3 on host slices; {} buffers created, {fresh_created} of them by the fresh arm",
        created() - before
    );
    Ok(Ok(Found { value, note }))
}

/// Many products in flight, per product, over one that is waited for.
fn asynchronous(setup: &Setup) -> Result<Outcome> {
    let gpu = adapter!(setup);
    const N: usize = 128;
    const JOBS: usize = 16;
    let (a, b) = (draw(N * N, 8), draw(N * N, 9));
    let scheduler = HybridScheduler::with_gpu(gpu.clone())?.threshold(0);
    let wait = |result: gristmill::AsyncGpuResult<Vec<f32>>| result.wait(Duration::from_secs(60));
    check("matmul_async", (&a, &b, &wait(scheduler.matmul_async(&a, &b, N, N, N)?)?), (N, N, N))?;
    let mut serial = || (0..JOBS).try_for_each(|_| scheduler.matmul(&a, &b, N, N, N).map(drop));
    let mut in_flight = || {
        let jobs = (0..JOBS).map(|_| scheduler.matmul_async(&a, &b, N, N, N)).collect::<Result<Vec<_>>>()?;
        jobs.into_iter().try_for_each(|job| wait(job).map(drop))
    };
    let times = turns(setup.repetitions(), &mut [&mut in_flight, &mut serial])?;
    let value = ratios(&times[0], &times[1]);
    let value = value.ok_or(Error::Implausible { what: "GPU-005".to_owned(), message: "no samples".to_owned() })?;
    let note = format!("{JOBS} products of {N}^3 in flight, in {:.2} of the time of one after the other", value.median);
    Ok(Ok(Found { value, note }))
}

/// 124 million random weights, real attention over 128 positions and more, tokens chosen on the device.
fn generation(setup: &Setup) -> Result<Outcome> {
    let gpu = adapter!(setup);
    tokens(setup, gpu)
}

/// Tokens a second of GPT-2 small, or of a quarter of it where it must be quick.
pub(crate) fn tokens(setup: &Setup, gpu: &GpuCompute) -> Result<Outcome> {
    let config = if setup.quick { Config::new(5000, 256, 192, 3, 3) } else { Config::gpt2_small() };
    let model = GpuModel::random(gpu, &config, 0)?;
    let (depth, count) = (128, if setup.quick || (gpu.is_gpu() && is_software(gpu)) { 8 } else { 64 });
    let repetitions = if gpu.is_gpu() && is_software(gpu) { 3 } else { setup.repetitions() };
    let test = ModelTest { kind: TestKind::Generation(count), depth };
    let row = test.run(&model, "random", repetitions)?;
    let million = config.parameters()? as f64 / 1e6;
    let note = format!("{million:.1} M random weights, {count} tokens from position {depth} on, chosen by argmax");
    Ok(Ok(Found { value: row.tokens_per_s, note }))
}
