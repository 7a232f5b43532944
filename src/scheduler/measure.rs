//! Measuring a [`Calibration`]: a few dozen short products and transfers, each the first quartile of a few runs, because
//! what else the machine does only ever adds to them.
//!
//! A second is what a program can spend before its first product, so points that would take long are not run: they are in
//! proportion to a smaller neighbour, which is what large products are. The least time would be that of a lucky run, and
//! the median that of a machine that is busy half of the time; the first quartile is neither. What is measured is the call
//! as it is made, submission and waiting included, less the fixed cost of a call that computes nothing to speak of.

use std::time::Instant;

use super::calibration::{Calibration, Table};
use crate::error::Result;
use crate::gpu::GpuCompute;
use crate::ops::{self, MATVEC_ROWS};
use crate::tensor::{DType, Tensor};

/// Repetitions of a probe, after one that warms up.
const REPETITIONS: usize = 5;
/// Seconds after which a probe is not repeated again.
const LONG: f64 = 4e-3;
/// Seconds of a single run up to which a point is measured; beyond, it is in proportion to a smaller one.
const TOO_LONG: f64 = 16e-3;
/// Elements of the largest operand of a probe: 64 MiB.
const MAX_ELEMENTS: f64 = (16 << 20) as f64;
/// The part of a call's fixed seconds that a product takes at least; less is noise.
const LEAST: f64 = 0.02;

/// Columns of a tile, and rows.
const TILE: usize = 64;

/// The first quartile of a few runs, in seconds.
fn seconds(run: impl FnMut() -> Result<()>) -> Result<f64> {
    seconds_after(|| Ok(()), run)
}

/// [`seconds`] of `run`, each after `prepare`, which is not timed.
fn seconds_after(mut prepare: impl FnMut() -> Result<()>, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let (mut times, mut spent) = (Vec::with_capacity(REPETITIONS), 0.0);
    while times.len() < REPETITIONS && (times.len() < 2 || spent < LONG) {
        prepare()?;
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64());
        spent += start.elapsed().as_secs_f64();
    }
    times.sort_by(f64::total_cmp);
    Ok(times.get((times.len() - 1) / 4).copied().unwrap_or(f64::INFINITY))
}

/// A table of what `probe(x, y)` measures. Points that would take too long, or need too much memory, are in proportion to
/// their smaller neighbours.
fn table(
    x: &[usize],
    y: &[usize],
    elements: impl Fn(usize, usize) -> f64,
    mut probe: impl FnMut(usize, usize) -> Result<f64>,
) -> Result<Table> {
    let mut table = Table { x: Vec::new(), y: y.iter().map(|&y| y as f64).collect(), seconds: Vec::new() };
    for &x in x {
        let above = table.x.last().map_or(1.0, |last| x as f64 / last);
        table.x.push(x as f64);
        for (j, &at) in y.iter().enumerate() {
            let left = j.checked_sub(1).and_then(|left| Some((table.seconds.last()?, at as f64 / table.y.get(left)?)));
            let from_left = left.map(|(seconds, more)| seconds * more);
            let upper = table.seconds.len().checked_sub(y.len()).and_then(|upper| table.seconds.get(upper));
            let from_upper = upper.map(|seconds| seconds * above);
            // Neighbours that hold a part that does not grow predict too much.
            let predicted = from_left.into_iter().chain(from_upper).min_by(f64::total_cmp);
            let measured = match predicted {
                Some(predicted) if predicted > TOO_LONG || elements(x, at) > MAX_ELEMENTS => predicted,
                _ => probe(x, at)?,
            };
            table.seconds.push(measured);
        }
    }
    Ok(table)
}

/// A times B on one backend, whose product stays there.
struct Product {
    gpu: GpuCompute,
    a: Tensor,
    b: Tensor,
    out: Tensor,
}

impl Product {
    fn new(gpu: &GpuCompute, m: usize, k: usize, n: usize) -> Result<Product> {
        // On a device whatever was there, for filling it would take longer than the product. On the host it is written:
        // memory that was only asked for is one page of zeros over and over, and reading it costs nothing.
        let tensor = |rows: usize, columns: usize| match gpu.is_gpu() {
            true => gpu.empty(&[rows, columns], DType::F32),
            false => gpu.tensor(&vec![1.0; rows * columns], &[rows, columns]),
        };
        Ok(Product { gpu: gpu.clone(), a: tensor(m, k)?, b: tensor(k, n)?, out: tensor(m, n)? })
    }

    fn run(&mut self) -> Result<()> {
        let mut pass = self.gpu.pass();
        ops::matmul(&mut pass, &self.a, &self.b, &mut self.out)?;
        pass.submit()?;
        self.gpu.wait_idle()
    }

    /// Reads `tensor` back after it.
    fn run_and_read(&mut self, tensor: &Tensor) -> Result<()> {
        let mut pass = self.gpu.pass();
        ops::matmul(&mut pass, &self.a, &self.b, &mut self.out)?;
        let result = pass.read::<f32>(tensor)?;
        pass.submit()?;
        self.gpu.wait(result).map(drop)
    }
}

/// Transfers are measured at these bytes.
const BYTES: [usize; 5] = [1 << 12, 1 << 15, 1 << 18, 1 << 21, 1 << 24];

impl Calibration {
    /// Measures an adapter and the CPU backend beside it: about a second, once the adapter's kernels are compiled.
    ///
    /// # Errors
    /// What the device says.
    pub fn measure(gpu: &GpuCompute, cpu: &GpuCompute) -> Result<Calibration> {
        let mut small = Product::new(gpu, 1, 1, 1)?;
        let fixed = seconds(|| small.run())?;
        let beyond = |seconds: f64| (seconds - fixed).max(LEAST * fixed).max(1e-9);
        let elements = |_, bytes: usize| bytes as f64 / 4.0;
        let upload = table(&[1], &BYTES, elements, |_, bytes| {
            let data = vec![0.0; bytes / 4];
            seconds(|| {
                let tensor = gpu.tensor(&data, &[data.len()])?;
                small.run()?;
                drop(tensor);
                Ok(())
            })
            .map(beyond)
        })?;
        let download = table(&[1], &BYTES, elements, |_, bytes| {
            let tensor = gpu.empty(&[bytes / 4], DType::F32)?;
            seconds(|| small.run_and_read(&tensor)).map(beyond)
        })?;
        let on_gpu = |m, k, n| {
            let mut product = Product::new(gpu, m, k, n)?;
            seconds(|| product.run()).map(beyond)
        };
        let depths = [8, 64, 512, 4096];
        let gpu_few_rows = table(&[64, 512, 4096], &depths, |n, k| (n * k) as f64, |n, k| on_gpu(1, k, n))?;
        // Tiles side by side: 1, 4, 16, 64, 256, 1024.
        let sides = [1, 2, 4, 8, 16, 32].map(|side| side * side * TILE * TILE);
        let side = |outputs: usize| outputs.isqrt().max(MATVEC_ROWS + 1);
        let gpu_tiles = table(
            &sides,
            &depths,
            |outputs, k| outputs.max(side(outputs) * k) as f64,
            |outputs, k| on_gpu(side(outputs), k, side(outputs)),
        )?;
        let (cpu_products, cpu_write, allocate) = measure_cpu(cpu, &mut small)?;
        let calibration = Calibration {
            adapter: String::new(),
            driver: String::new(),
            threads: rayon::current_num_threads(),
            fixed,
            upload,
            download,
            gpu_few_rows,
            gpu: gpu_tiles,
            cpu: cpu_products,
            cpu_write,
            allocate,
        };
        Ok(calibration.named_after(gpu))
    }
}

/// Products, writes and allocations on the CPU. Each product comes after a small one on the GPU: a call that follows other
/// work has to wake the threads first, and they are awake only where products follow each other at once.
fn measure_cpu(cpu: &GpuCompute, small: &mut Product) -> Result<(Table, Table, Table)> {
    let mut on_cpu = |m, k, n| {
        let mut product = Product::new(cpu, m, k, n)?;
        seconds_after(|| small.run(), || product.run())
    };
    let weights = [64, 256, 1024, 4096].map(|side| side * side);
    let products = table(
        &[1, 4, 16, 64, 256],
        &weights,
        |_, weights| weights as f64,
        |rows, weights| on_cpu(rows, weights.isqrt(), weights.isqrt()),
    )?;
    let elements = |_, bytes: usize| bytes as f64 / 4.0;
    let write = table(&[1], &BYTES, elements, |_, bytes| {
        let side = (bytes / 4).isqrt();
        on_cpu(side, 1, bytes / 4 / side)
    })?;
    let allocate = table(&[1], &BYTES, elements, |_, bytes| {
        let touch = || {
            let mut memory = super::host_pool::zeros(bytes / 4)?;
            // One element of every page.
            memory.iter_mut().step_by(1024).for_each(|element| *element = 1.0);
            std::hint::black_box(memory);
            Ok(())
        };
        seconds(touch).map(|seconds| seconds.max(1e-9))
    })?;
    Ok((products, write, allocate))
}
