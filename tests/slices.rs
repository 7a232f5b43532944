//! Ops on host slices, on the adapter and on the CPU backend, against plain loops in f64.

// Whether wgpu's types are `Sync` is a question more than 128 types deep.
#![recursion_limit = "256"]

use gristmill::{ComputeBackend, Error, GpuCompute, Options, reference};

/// The adapter, a software one if there is no other, and the CPU backend; without an adapter, said aloud, the latter alone.
fn backends() -> Vec<GpuCompute> {
    backends_with(|_| ())
}

fn backends_with(set: impl Fn(&mut Options)) -> Vec<GpuCompute> {
    let open = |backend| {
        let mut options = Options::new(backend);
        set(&mut options);
        GpuCompute::open(&options)
    };
    let adapter = open(ComputeBackend::Gpu);
    if let Err(error) = &adapter {
        let required = std::env::var("GRISTMILL_REQUIRE_ADAPTER").is_ok_and(|value| value == "1");
        assert!(!required, "{error}");
        eprintln!("NO ADAPTER: the CPU backend alone. {error}");
    }
    adapter.into_iter().chain(open(ComputeBackend::Cpu)).collect()
}

/// U[-1, 1] from a seed.
fn uniform(mut seed: u64, count: usize) -> Vec<f32> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Integers of -8..=8, whose products add up exactly.
fn integers(seed: u64, count: usize) -> Vec<f32> {
    uniform(seed, count).into_iter().map(|v| (8.0 * v).round()).collect()
}

fn doubles(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

fn is_shape<T: std::fmt::Debug>(result: gristmill::Result<T>) -> bool {
    matches!(result, Err(Error::Shape { .. }))
}

#[test]
fn products_of_slices() {
    for gpu in backends() {
        for (m, k, n) in
            [(1, 1, 1), (3, 5, 7), (33, 65, 17), (64, 128, 32), (1, 300, 257), (0, 4, 3), (3, 0, 2), (2, 3, 0)]
        {
            let (a, b) = (integers(1, m * k), integers(2, k * n));
            let product = gpu.matmul(&a, &b, m, k, n).unwrap();
            assert_eq!(doubles(&product), reference::matmul(&a, &b, (m, k, n)), "matmul {m},{k},{n}");
            let product = gpu.matmul_transpose_b(&a, &b, m, k, n).unwrap();
            let truth = reference::matmul_transpose_b(&a, &b, None, 1.0, (m, k, n));
            assert_eq!(doubles(&product), truth, "matmul_transpose_b {m},{k},{n}");
        }
    }
}

#[test]
fn a_product_of_tensors_stays_where_it_is() {
    for gpu in backends() {
        let (a, b, c) = (integers(1, 15), integers(2, 35), integers(3, 14));
        let tensor = |data: &[f32], shape: [usize; 2]| gpu.tensor(data, &shape).unwrap();
        let ab = gpu.matmul_tensor(&tensor(&a, [3, 5]), &tensor(&b, [5, 7])).unwrap();
        let abc = gpu.matmul_tensor(&ab, &tensor(&c, [7, 2])).unwrap();
        assert_eq!(abc.shape(), [3, 2]);
        let ab: Vec<f32> = reference::matmul(&a, &b, (3, 5, 7)).into_iter().map(|v| v as f32).collect();
        assert_eq!(doubles(&gpu.read::<f32>(&abc).unwrap()), reference::matmul(&ab, &c, (3, 7, 2)));
        assert!(is_shape(gpu.matmul_tensor(&tensor(&a, [3, 5]), &tensor(&c, [7, 2]))));
    }
}

#[test]
fn lengths_that_do_not_fit_are_errors() {
    const HUGE: usize = 1 << (usize::BITS - 1);
    for gpu in backends() {
        let six = [1.0; 6];
        assert!(is_shape(gpu.matmul(&six, &six, 2, 3, 3)));
        assert!(is_shape(gpu.matmul(&six, &six, 3, 3, 2)));
        assert!(is_shape(gpu.matmul_transpose_b(&six, &six, 2, 2, 3)));
        // Products that would wrap to what the slices have.
        assert!(is_shape(gpu.matmul(&[], &[], HUGE, 2, HUGE)));
        assert!(is_shape(gpu.matmul(&[], &[], 0, HUGE, 2)));
        assert!(is_shape(gpu.matmul(&six, &six, HUGE + 3, 2, 3)));
        assert!(is_shape(gpu.dot(&six, &six[1..])));
        // A product that no memory holds, of matrices with nothing in them.
        let result = gpu.matmul(&[], &[], HUGE, 0, HUGE);
        assert!(matches!(result, Err(Error::Shape { .. } | Error::TooLarge { .. })), "{result:?}");
    }
}

#[test]
fn nothing_is_something() {
    for gpu in backends() {
        assert_eq!(gpu.dot(&[], &[]).unwrap(), 0.0);
        assert_eq!(gpu.relu(&[]).unwrap(), [0.0; 0]);
        assert_eq!(gpu.sigmoid(&[]).unwrap(), [0.0; 0]);
        assert_eq!(gpu.matmul(&[], &[], 0, 0, 0).unwrap(), [0.0; 0]);
        assert_eq!(gpu.matmul(&[], &[], 2, 0, 2).unwrap(), [0.0; 4]);
    }
}

/// Pieces of 1024 elements, and what is left of them.
#[test]
fn what_is_longer_than_a_binding_goes_in_pieces() {
    for gpu in backends_with(|options| options.max_binding_bytes = Some(4096)) {
        for count in [1, 1023, 1024, 1025, 10_000] {
            let (x, y) = (integers(3, count), integers(4, count));
            assert_eq!(doubles(&gpu.relu(&x).unwrap()), reference::relu(&x));
            assert_eq!(f64::from(gpu.dot(&x, &y).unwrap()), reference::dot(&x, &y));
            let sigmoid = gpu.sigmoid(&x).unwrap();
            assert_eq!(sigmoid.len(), count);
            for (got, truth) in sigmoid.into_iter().zip(reference::sigmoid(&x)) {
                // 7 + 2 |x| units in the last place: `verify/bounds.rs`.
                assert!((f64::from(got) / truth - 1.0).abs() < 23.0 / (1 << 23) as f64, "{got} for {truth}");
            }
        }
        if gpu.is_gpu() {
            let error = gpu.matmul(&[1.0; 1028], &[1.0; 1028], 1, 1028, 1).unwrap_err();
            assert!(matches!(error, Error::TooLarge { limit: 4096, .. }), "{error}");
        }
    }
}

/// Eight pieces of 2^23 elements, each of 512 parts.
#[test]
fn a_dot_of_two_to_the_26() {
    let count = 1 << 26;
    let (x, y) = (uniform(5, count), uniform(6, count));
    let (mut truth, mut magnitude) = (0.0, 0.0);
    for (&x, &y) in x.iter().zip(&y) {
        let product = f64::from(x) * f64::from(y);
        truth += product;
        magnitude += product.abs();
    }
    // As `ops::dot` states it, for pieces of 2^23.
    let roundings = (1 << 14) as f64 / 32.0 + (1 << 23) as f64 / (1 << 19) as f64 + 24.0;
    let bound = roundings / (1 << 23) as f64 * magnitude;
    // Random errors add up to some 10^-3 here, a lost quad is 0.5 or so.
    let bound = bound.min(0.05);
    for gpu in backends() {
        let got = f64::from(gpu.dot(&x, &y).unwrap());
        assert!((got - truth).abs() <= bound, "{got} for {truth}, bound {bound}, {gpu:?}");
    }
}
