//! Products at random shapes, on the adapter: small integers, so that results are equal to the twins' or wrong; and shapes
//! that do not fit, which are errors and never a panic.

// Whether wgpu's types are `Sync` is a question more than 128 types deep.
#![recursion_limit = "256"]

use std::sync::OnceLock;

use gristmill::{ComputeBackend, Error, Format, GpuCompute, Pass, Tensor, Weight, ops, reference};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

/// One device for all properties, a software one if there is no other; without any, the CPU backend, said aloud.
fn gpu() -> &'static GpuCompute {
    static OPENED: OnceLock<GpuCompute> = OnceLock::new();
    OPENED.get_or_init(|| match GpuCompute::new(ComputeBackend::Gpu) {
        Ok(gpu) => gpu,
        Err(error) => {
            let required = std::env::var("GRISTMILL_REQUIRE_ADAPTER").is_ok_and(|value| value == "1");
            assert!(!required, "{error}");
            eprintln!("NO ADAPTER: the properties run on the CPU backend. {error}");
            GpuCompute::new(ComputeBackend::Cpu).expect("the CPU backend always opens")
        }
    })
}

/// Runs a property on seeds and shapes; failures are shrunk and printed, and leave no files behind.
fn check<S: Strategy>(cases: u32, strategy: S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&strategy, property).unwrap_or_else(|error| panic!("{error}"));
}

/// Integers of -8..=8 from a seed.
fn integers(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % 17
    };
    (0..count).map(|_| next() as f32 - 8.0).collect()
}

/// (m, k, n), small and uneven, zeros included.
fn shapes() -> impl Strategy<Value = (usize, usize, usize)> {
    (0..80usize, 0..150usize, 0..140usize)
}

/// What an op writes, read back.
fn run(shape: &[usize], record: impl FnOnce(&mut Pass, &mut Tensor) -> gristmill::Result<()>) -> Vec<f64> {
    let mut pass = gpu().pass();
    let mut out = pass.tensor(shape).expect("a tensor");
    record(&mut pass, &mut out).expect("shapes that fit");
    pass.submit().expect("submitted");
    gpu().read::<f32>(&out).expect("read").into_iter().map(f64::from).collect()
}

fn tensor(data: &[f32], shape: &[usize]) -> Tensor {
    gpu().tensor(data, shape).expect("a tensor")
}

#[test]
fn matmul_is_the_product() {
    check(40, (shapes(), any::<u32>()), |((m, k, n), seed)| {
        let (a, b) = (integers(seed, m * k), integers(!seed, k * n));
        let (x, w) = (tensor(&a, &[m, k]), tensor(&b, &[k, n]));
        let got = run(&[m, n], |pass, out| ops::matmul(pass, &x, &w, out));
        prop_assert_eq!(got, reference::matmul(&a, &b, (m, k, n)));
        Ok(())
    });
}

#[test]
fn matmul_transpose_b_is_the_product_of_every_batch() {
    check(40, (1..4usize, shapes(), any::<bool>(), any::<u32>()), |(batches, (m, k, n), shared, seed)| {
        let a = integers(seed, batches * m * k);
        let b = integers(!seed, if shared { n * k } else { batches * n * k });
        let b_shape = if shared { vec![n, k] } else { vec![batches, n, k] };
        let (x, w) = (tensor(&a, &[batches, m, k]), tensor(&b, &b_shape));
        let got = run(&[batches, m, n], |pass, out| ops::matmul_transpose_b(pass, &x, &w, 0.5, out));
        let of_batch = |i: usize| {
            let b = if shared { &b[..] } else { &b[i * n * k..] };
            reference::matmul_transpose_b(&a[i * m * k..], b, None, 0.5, (m, k, n))
        };
        prop_assert_eq!(got, (0..batches).flat_map(of_batch).collect::<Vec<f64>>());
        Ok(())
    });
}

#[test]
fn linear_and_matvec_are_the_layer() {
    check(60, (shapes(), any::<bool>(), any::<bool>(), any::<u32>()), |((m, k, n), f16, biased, seed)| {
        let (a, b) = (integers(seed, m * k), integers(!seed, n * k));
        let bias = biased.then(|| integers(seed ^ 7, n));
        let x = tensor(&a, &[m, k]);
        let w = Weight::from_f32(gpu(), &b, (n, k), if f16 { Format::F16 } else { Format::F32 }).expect("a weight");
        let bias_tensor = bias.as_ref().map(|bias| tensor(bias, &[n]));
        let truth = reference::matvec(&a, &b, bias.as_deref(), (m, k, n));
        let got = run(&[m, n], |pass, out| ops::linear(pass, &x, &w, bias_tensor.as_ref(), out));
        prop_assert_eq!(got, truth.clone());
        if m <= ops::MATVEC_ROWS {
            let got = run(&[m, n], |pass, out| ops::matvec(pass, &x, &w, bias_tensor.as_ref(), out));
            prop_assert_eq!(got, truth);
        }
        Ok(())
    });
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let three = || prop::collection::vec(0..5usize, 0..5);
    check(300, (three(), three(), three(), three()), |(a, b, c, d)| {
        let of = |shape: &[usize]| gpu().zeros(shape).expect("zeros");
        let (x, y, mut out, other) = (of(&a), of(&b), of(&c), of(&d));
        let w = Weight::from_f32(gpu(), &vec![0.0; y.rows() * y.columns()], (y.rows(), y.columns()), Format::F32)
            .expect("a weight");
        let rope = ops::Rope { heads: a.len(), head_dim: 2, rotary_dim: 2, pairing: ops::Pairing::Halves };
        let mut pass = gpu().pass();
        let results = [
            ops::matmul(&mut pass, &x, &y, &mut out),
            ops::matmul_transpose_b(&mut pass, &x, &y, 1.0, &mut out),
            ops::linear(&mut pass, &x, &w, Some(&other), &mut out),
            ops::matvec(&mut pass, &x, &w, None, &mut out),
            ops::layer_norm(&mut pass, (&x, a.len()), &y, &other, 1e-5, &mut out),
            ops::rms_norm(&mut pass, (&x, a.len()), &y, 1e-5, &mut out),
            ops::transpose(&mut pass, &x, &mut out),
            ops::gather(&mut pass, &y, &w, &mut out),
            ops::rope(&mut pass, &x, &y, &mut out, &rope),
            ops::add(&mut pass, &mut out, &x),
            ops::embed(&mut pass, &x, &w, &y, &mut out),
            ops::argmax(&mut pass, &x, &mut out),
            ops::advance(&mut pass, &x, &mut out),
        ];
        for error in results.into_iter().filter_map(Result::err) {
            prop_assert!(matches!(error, Error::Shape { .. }), "{error}");
        }
        pass.submit().expect("what fits runs");
        gpu().wait_idle().expect("what fits runs");
        Ok(())
    });
}
