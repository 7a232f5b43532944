//! `ops::matmul` on the CPU backend against the `gemm` crate called directly, on the same threads: the two take turns, so
//! that whatever else the machine does happens to both. Prints medians, quartiles and the ratio of every pair of runs.
//! The acceptance is a ratio of 0.95 at 1024^3. `cargo bench --bench cpu`

use std::hint::black_box;
use std::time::Instant;

use gristmill::{ComputeBackend, GpuCompute, Result, ops};

/// Pairs of runs.
const PAIRS: usize = 41;

/// First quartile, median and third quartile.
fn quartiles(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|i| values[(values.len() - 1) * i / 4])
}

fn seconds(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

/// c = a b, all \[n,n\], by the crate alone.
fn direct(a: &[f32], b: &[f32], c: &mut [f32], n: usize) {
    let row = n as isize;
    assert!([a.len(), b.len(), c.len()] == [n * n; 3]);
    let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
    #[expect(unsafe_code, reason = "the crate's interface is pointers")]
    // SAFETY: three dense matrices of n x n elements, as asserted.
    unsafe {
        let threads = gemm::Parallelism::Rayon(0);
        gemm::gemm(n, n, n, c, 1, row, false, a, 1, row, b, 1, row, 0.0, 1.0, false, false, false, threads);
    }
}

fn compare(gpu: &GpuCompute, n: usize) -> Result<()> {
    // Small integers: both products are exact.
    let draw = |step: usize| (0..n * n).map(|i| ((i * step + i / 31) % 7) as f32 - 3.0).collect::<Vec<f32>>();
    let (a, b, mut c) = (draw(3), draw(5), vec![0.0; n * n]);
    let (x, y, mut out) = (gpu.tensor(&a, &[n, n])?, gpu.tensor(&b, &[n, n])?, gpu.zeros(&[n, n])?);
    let mut ours = || ops::matmul(&mut gpu.pass(), &x, &y, black_box(&mut out));
    let (mut of_op, mut of_crate, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..PAIRS + 3 {
        let mut result = Ok(());
        let (op, direct) = if pair % 2 == 0 {
            let op = seconds(|| result = ours());
            (op, seconds(|| direct(&a, &b, black_box(&mut c), n)))
        } else {
            let direct = seconds(|| direct(&a, &b, black_box(&mut c), n));
            (seconds(|| result = ours()), direct)
        };
        result?;
        // The first pairs warm up.
        if pair >= 3 {
            of_op.push(op);
            of_crate.push(direct);
            ratios.push(direct / op);
        }
    }
    assert_eq!(gpu.read::<f32>(&out)?, c, "the two products differ");
    let rate = |seconds: f64| 2.0 * (n as f64).powi(3) / seconds / 1e9;
    let ([q1, median, q3], [d1, direct, d3]) = (quartiles(&mut of_op), quartiles(&mut of_crate));
    let [r1, ratio, r3] = quartiles(&mut ratios);
    println!(
        "matmul {n}^3: {:.1} GFLOPS ({:.1} to {:.1}); gemm {:.1} ({:.1} to {:.1}); ratio {ratio:.3} ({r1:.3} to {r3:.3})",
        rate(median),
        rate(q3),
        rate(q1),
        rate(direct),
        rate(d3),
        rate(d1)
    );
    Ok(())
}

fn main() {
    // An error here is for the one who measures: it ends the program and says what it is.
    let gpu = GpuCompute::new(ComputeBackend::Cpu).expect("the CPU backend");
    println!("{} threads, {PAIRS} pairs, medians and quartiles", rayon::current_num_threads());
    for n in [256, 1024] {
        compare(&gpu, n).expect("a product");
    }
}
