//! Products at random shapes, on the adapter: small integers, so that results are equal to the twins' or wrong; and shapes
//! that do not fit, which are errors and never a panic. Products of views are those of copies gathered on the host.

// Whether wgpu's types are `Sync` is a question more than 128 types deep.
#![recursion_limit = "256"]

use std::sync::OnceLock;

use gristmill::ops::Matrices;
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

/// Where a random view lies: the order of its dimensions in the tensor, and rows and columns before and after it.
type Placement = (usize, [usize; 2], [usize; 2]);

fn placements() -> impl Strategy<Value = Placement> {
    let margins = || [0..6usize, 0..6usize];
    (0..6usize, margins(), margins())
}

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// A tensor of integers, what is seen of it at a placement, and the elements of that, one by one.
struct Seen {
    tensor: Tensor,
    shape: [usize; 4],
    placement: Placement,
    elements: Vec<f32>,
}

impl Seen {
    fn new(seed: u32, shape @ [outer, inner, rows, columns]: [usize; 4], placement: Placement) -> Seen {
        let (order, [above, below], [left, right]) = placement;
        let mut dims = [0, 0, 0, left + columns + right];
        for (&to, count) in ORDERS[order].iter().zip([outer, inner, above + rows + below]) {
            dims[to] = count;
        }
        let data = integers(seed, dims.iter().product());
        let mut elements = Vec::new();
        for (i, j, row, column) in indices(shape) {
            let mut at = [0; 3];
            for (&to, index) in ORDERS[order].iter().zip([i, j, above + row]) {
                at[to] = index;
            }
            elements.push(data[((at[0] * dims[1] + at[1]) * dims[2] + at[2]) * dims[3] + left + column]);
        }
        Seen { tensor: tensor(&data, &dims), shape, placement, elements }
    }

    /// The view, its rows cut before or after the dimensions change places.
    fn view(&self, cut_first: bool) -> gristmill::Result<Matrices<'_>> {
        let (order, [above, _], [left, _]) = self.placement;
        let (rows, columns) = (above..above + self.shape[2], left..left + self.shape[3]);
        let whole = Matrices::from(&self.tensor);
        let view = match cut_first {
            true => whole.columns(columns)?.permuted(ORDERS[order])?,
            false => whole.permuted(ORDERS[order])?.columns(columns)?,
        };
        view.rows(rows)
    }
}

/// Every index of a shape, in order.
fn indices([a, b, c, d]: [usize; 4]) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..a * b * c * d).map(move |i| (i / (b * c * d), i / (c * d) % b, i / d % c, i % d))
}

#[test]
fn a_product_of_views_is_the_product_of_their_copies() {
    let batches = || ((0..3usize, 1..4usize), (1..3usize, 1..4usize));
    let strategy = (batches(), shapes(), (placements(), placements()), any::<bool>(), any::<u32>());
    check(150, strategy, |(((b_outer, r), (b_inner, s)), (m, k, n), (of_a, of_b), cut_first, seed)| {
        let (m, k, n) = (m / 3, k / 3, n / 3);
        let a = Seen::new(seed, [b_outer * r, b_inner * s, m, k], of_a);
        let b = Seen::new(!seed, [b_outer, b_inner, n, k], of_b);
        let (x, w) = (a.view(cut_first).expect("a view"), b.view(!cut_first).expect("a view"));
        prop_assert_eq!((x.shape(), w.shape()), (a.shape, b.shape));
        let batches = ([a.shape[0], a.shape[1]], [b_outer, b_inner]);
        let truth = reference::matmul_batched((&a.elements, batches.0), (&b.elements, batches.1), 0.5, (m, k, n));
        let got = run(&[b_outer * r, b_inner * s, m, n], |pass, out| ops::matmul_transpose_b(pass, x, w, 0.5, out));
        prop_assert_eq!(got, truth);
        let copy = run(&a.shape, |pass, out| ops::contiguous(pass, x, out));
        prop_assert_eq!(copy, reference::repitch(&a.elements));
        Ok(())
    });
}

/// No view reaches outside its tensor, and no product takes batches that do not divide.
#[test]
fn views_that_do_not_fit_are_errors() {
    let range = || (0..9usize, 0..9usize).prop_map(|(start, end)| std::ops::Range { start, end });
    let shape = || prop::collection::vec(0..7usize, 0..5);
    check(300, (shape(), [0..4usize, 0..4, 0..4], range(), range(), shape()), |(dims, order, rows, columns, other)| {
        let (x, y) = (gpu().zeros(&dims).expect("zeros"), gpu().zeros(&other).expect("zeros"));
        let whole = Matrices::from(&x);
        let [outer, inner, row_count, column_count] = whole.shape();
        prop_assert_eq!(whole.permuted(order).is_ok(), ORDERS.contains(&order));
        prop_assert_eq!(whole.rows(rows.clone()).is_ok(), rows.start <= rows.end && rows.end <= row_count);
        prop_assert_eq!(
            whole.columns(columns.clone()).is_ok(),
            columns.start <= columns.end && columns.end <= column_count
        );
        let [y_outer, y_inner, n, depth] = Matrices::from(&y).shape();
        let divides = |of: usize, to: usize| if to == 0 { of == 0 } else { of.is_multiple_of(to) };
        let fits = divides(outer, y_outer) && divides(inner, y_inner) && depth == column_count;
        let mut pass = gpu().pass();
        let mut out = pass.tensor(&[outer, inner, row_count, n]).expect("a tensor");
        let result = ops::matmul_transpose_b(&mut pass, &x, &y, 1.0, &mut out);
        prop_assert_eq!(result.is_ok(), fits, "{:?}", result);
        let mut taller = pass.tensor(&[outer, inner, row_count + 1, n]).expect("a tensor");
        let result = ops::matmul_transpose_b(&mut pass, &x, &y, 1.0, &mut taller);
        prop_assert!(matches!(result, Err(Error::Shape { .. })), "{result:?}");
        let result = ops::contiguous(&mut pass, &x, &mut taller);
        prop_assert!(matches!(result, Err(Error::Shape { .. })), "{result:?}");
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
            ops::norm_rope(&mut pass, &x, (&other, 1e-5), &y, &mut out, &rope),
            ops::add(&mut pass, &mut out, &x),
            ops::embed(&mut pass, &x, &w, Some(&y), &mut out),
            ops::argmax(&mut pass, &x, &mut out),
            ops::sample(&mut pass, &x, (&mut y.clone(), true), &ops::Sampler::default(), &mut out),
        ];
        for error in results.into_iter().filter_map(Result::err) {
            prop_assert!(matches!(error, Error::Shape { .. }), "{error}");
        }
        pass.submit().expect("what fits runs");
        gpu().wait_idle().expect("what fits runs");
        Ok(())
    });
}
