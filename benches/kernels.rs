//! A handful of kernels at the shapes of GPT-2 small, by the wall clock: recording, submitting and waiting included, many
//! calls in a pass. Each is compared with its reference first; what is wrong is not timed. A software adapter gets only
//! the shapes it can finish. Throughput of products in elements is in floating-point operations, of the rest in bytes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use gristmill::{ComputeBackend, Format, GpuCompute, Pass, Result, Tensor, Weight, ops, reference};

/// Calls recorded into one pass at most.
const CALLS: u64 = 32;
/// Work of one call that a software adapter is given, in operations.
const SOFTWARE_WORK: u64 = 200_000_000;

/// Adds one call to a pass.
type Record = Box<dyn Fn(&mut Pass, &mut Tensor) -> Result<()>>;

/// One op at one shape, with the tensors it works on.
struct Case {
    name: String,
    work: Throughput,
    record: Record,
    out: Tensor,
    expected: Vec<f64>,
    /// The largest error that passes.
    tolerance: f64,
}

/// Small integers, so that products are exact.
fn integers(count: usize, step: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * step + i / 31) % 7) as f32 - 3.0).collect()
}

fn matmul(gpu: &GpuCompute, (m, k, n): (usize, usize, usize)) -> Result<Case> {
    let (a, b) = (integers(m * k, 3), integers(k * n, 5));
    let (x, y) = (gpu.tensor(&a, &[m, k])?, gpu.tensor(&b, &[k, n])?);
    Ok(Case {
        name: format!("matmul m={m},k={k},n={n}"),
        work: Throughput::Elements(2 * (m * k * n) as u64),
        record: Box::new(move |pass, out| ops::matmul(pass, &x, &y, out)),
        out: gpu.zeros(&[m, n])?,
        expected: reference::matmul(&a, &b, (m, k, n)),
        tolerance: 0.0,
    })
}

/// Rows of x against a weight: the tiled kernel, or the one for few rows.
fn linear(gpu: &GpuCompute, (m, k, n): (usize, usize, usize), format: Format) -> Result<Case> {
    let (x, w) = (integers(m * k, 3), integers(n * k, 5));
    let expected = reference::matmul_transpose_b(&x, &w, None, 1.0, (m, k, n));
    let (x, w) = (gpu.tensor(&x, &[m, k])?, Weight::from_f32(gpu, &w, (n, k), format)?);
    let few = m <= ops::MATVEC_ROWS;
    Ok(Case {
        name: format!("linear m={m},k={k},n={n} {}", format.name()),
        // Few rows are bound by the reading of the weight.
        work: if few { Throughput::BytesDecimal(w.bytes()) } else { Throughput::Elements(2 * (m * k * n) as u64) },
        record: Box::new(move |pass, out| ops::linear(pass, &x, &w, None, out)),
        out: gpu.zeros(&[m, n])?,
        expected,
        tolerance: 0.0,
    })
}

fn layer_norm(gpu: &GpuCompute, (m, n): (usize, usize)) -> Result<Case> {
    let (x, weight, bias) = (integers(m * n, 3), vec![1.0; n], vec![0.0; n]);
    let expected = reference::layer_norm(&x, &weight, &bias, 1e-5);
    let (x, weight, bias) = (gpu.tensor(&x, &[m, n])?, gpu.tensor(&weight, &[n])?, gpu.tensor(&bias, &[n])?);
    Ok(Case {
        name: format!("layer_norm m={m},n={n}"),
        work: Throughput::BytesDecimal(2 * x.bytes()),
        record: Box::new(move |pass, out| ops::layer_norm(pass, (&x, 0), &weight, &bias, 1e-5, out)),
        out: gpu.zeros(&[m, n])?,
        expected,
        tolerance: 1e-5,
    })
}

impl Case {
    /// How long `calls` calls take.
    fn time(&mut self, gpu: &GpuCompute, calls: u64) -> Result<Duration> {
        let start = Instant::now();
        let mut left = calls;
        while left > 0 {
            let mut pass = gpu.pass();
            for _ in 0..left.min(CALLS) {
                (self.record)(&mut pass, &mut self.out)?;
            }
            pass.submit()?;
            left -= left.min(CALLS);
        }
        gpu.wait_idle()?;
        Ok(start.elapsed())
    }

    fn is_right(&mut self, gpu: &GpuCompute) -> Result<bool> {
        self.time(gpu, 1)?;
        let found: Vec<f32> = gpu.read(&self.out)?;
        let close = |(found, expected): (&f32, &f64)| (f64::from(*found) - expected).abs() <= self.tolerance;
        Ok(found.len() == self.expected.len() && found.iter().zip(&self.expected).all(close))
    }
}

fn cases(gpu: &GpuCompute, software: bool) -> Result<Vec<Case>> {
    let fits = |m: usize, k: usize, n: usize| !software || (2 * m * k * n) as u64 <= SOFTWARE_WORK;
    let mut cases = Vec::new();
    for shape @ (m, k, n) in [(256, 256, 256), (1024, 1024, 1024), (2048, 2048, 2048)] {
        if fits(m, k, n) {
            cases.push(matmul(gpu, shape)?);
        }
    }
    for shape @ (m, k, n) in [(1, 768, 3072), (1, 768, 50_257), (64, 768, 768), (512, 768, 3072)] {
        for format in [Format::F32, Format::F16] {
            if fits(m, k, n) {
                cases.push(linear(gpu, shape, format)?);
            }
        }
    }
    cases.push(layer_norm(gpu, (1024, 768))?);
    Ok(cases)
}

fn main() {
    // An error here is for the one who measures: it ends the program and says what it is.
    let gpu = GpuCompute::new(ComputeBackend::Gpu).expect("an adapter");
    let adapter = gpu.adapter().expect("an adapter").clone();
    println!("adapter: {adapter}");
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let mut group = criterion.benchmark_group("kernels");
    group.sampling_mode(SamplingMode::Flat);
    for mut case in cases(&gpu, adapter.software).expect("the tensors of the cases") {
        assert!(case.is_right(&gpu).expect("a result"), "{} is wrong; it is not timed", case.name);
        group.throughput(case.work.clone());
        group.bench_function(case.name.clone(), |bencher| {
            bencher.iter_custom(|calls| black_box(case.time(&gpu, calls).expect("a result")));
        });
    }
    group.finish();
    criterion.final_summary();
}
