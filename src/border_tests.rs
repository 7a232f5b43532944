//! Borders: sizes around every limit against 128-bit arithmetic, and every op with tensors that do not fit it, of another
//! type, of another device, in the memory of its output, or with nothing in them. Each gives the error that names it.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::error::Error;
use crate::faults::open;
use crate::gpu::{ComputeBackend, GpuCompute};
use crate::kernel::Format;
use crate::kernel::fold;
use crate::ops::{self, Attention, Gelu, PART, Pairing, Reduction, Rope};
use crate::pass::{Pass, checked_grid};
use crate::reference;
use crate::tensor::DType::{self, BF16, F16, F32, U32};
use crate::tensor::{Storage, Tensor, Weight, device_bytes, pitch};

fn check<S: Strategy>(cases: u32, strategy: S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&strategy, property).unwrap_or_else(|error| panic!("{error}"));
}

/// Numbers near those at which something ends.
fn near_borders() -> impl Strategy<Value = usize> {
    let ends =
        vec![0u64, 65_535, 65_535 * 65_535, 1 << 24, 1 << 29, 1 << 31, 1 << 32, 1 << 61, 1 << 62, 1 << 63, u64::MAX];
    (prop::sample::select(ends), -40i128..=40, any::<bool>(), 0u32..40).prop_map(|(end, off, halved, shift)| {
        let value = (i128::from(end) + off).clamp(0, i128::from(u64::MAX)) as u64;
        (if halved { value >> shift } else { value }) as usize
    })
}

const CASES: u32 = 100_000;

#[test]
fn grids_cover_what_they_are_asked_to_or_are_too_large() {
    check(CASES, near_borders(), |count| {
        let [x, y, z] = fold(count as u64);
        let (groups, wanted) = (u128::from(x) * u128::from(y), count as u128);
        prop_assert!(z == 1 && x <= 65_535 && groups >= wanted);
        // Not a row of workgroups too many.
        prop_assert!(groups - wanted < u128::from(x.max(1)));
        match checked_grid("relu", [x, y, z]) {
            Ok(checked) => prop_assert_eq!(checked.map(u64::from), [x, y, z]),
            Err(Error::TooLarge { needed, limit: 65_535, .. }) => {
                prop_assert!(wanted > 65_535 * 65_535 && needed == y && u128::from(needed) == wanted.div_ceil(65_535));
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
        Ok(())
    });
}

#[test]
fn every_dimension_of_a_grid_is_checked() {
    check(CASES, (near_borders(), near_borders(), near_borders()), |(x, y, z)| {
        let asked = [x, y, z].map(|n| n as u64);
        match checked_grid("matmul", asked) {
            Ok(checked) => prop_assert_eq!(checked.map(u64::from), asked),
            Err(Error::TooLarge { needed, limit: 65_535, .. }) => {
                prop_assert_eq!(Some(needed), asked.into_iter().find(|&n| n > 65_535));
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
        Ok(())
    });
}

#[test]
fn bytes_of_a_shape_are_exact_or_too_large() {
    let shapes = prop::collection::vec(prop_oneof![near_borders(), 0..5usize], 0..6);
    check(CASES, (shapes, prop::sample::select(vec![F32, F16, BF16, U32])), |(shape, dtype)| {
        let outcome = device_bytes(&shape, dtype);
        if shape.len() > 4 {
            prop_assert!(matches!(outcome, Err(Error::Shape { op: "tensor", .. })), "{:?}", outcome);
            return Ok(());
        }
        let (columns, outer) = shape.split_last().map_or((1, &[][..]), |(last, outer)| (*last as u128, outer));
        let lanes = 16 / dtype.bytes() as u128;
        // Any dimension that is none counts as one: what cannot be counted is refused though it is empty.
        let rows = |least: u128| outer.iter().try_fold(1u128, |n, &d| n.checked_mul((d as u128).max(least)));
        let largest = rows(1).and_then(|rows| rows.checked_mul(columns.max(1).next_multiple_of(8) * 4));
        match outcome {
            Ok(bytes) => {
                let padded = columns.next_multiple_of(lanes);
                prop_assert_eq!(padded as usize, pitch(columns as usize, dtype));
                prop_assert_eq!(Some(u128::from(bytes)), rows(0).map(|rows| rows * padded * dtype.bytes() as u128));
            }
            Err(Error::TooLarge { needed, limit, .. }) => {
                prop_assert_eq!(limit, i64::MAX as u64);
                prop_assert!(largest.is_none_or(|bytes| bytes > u128::from(limit)) && needed > limit);
                prop_assert_eq!(needed, largest.map_or(u64::MAX, |bytes| bytes.min(u128::from(u64::MAX)) as u64));
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
        Ok(())
    });
}

#[test]
fn chunks_of_rows_are_as_long_as_a_binding_allows() {
    check(CASES, (near_borders(), near_borders()), |(columns, limit)| {
        for format in [Format::F32, Format::F16, Format::BF16] {
            let row = format.row_bytes(columns) as u128;
            let exact = (columns as u128 * DType::from(format).bytes() as u128).next_multiple_of(16);
            // Saturated where a machine word ends, which no limit reaches.
            prop_assert!(row == exact || exact > u128::from(u64::MAX) - 15 && row > u128::from(u64::MAX) - 16);
            match Weight::rows_per_chunk(row as usize, limit as u64) {
                Ok(rows) => {
                    let bytes = |rows: usize| rows as u128 * row;
                    prop_assert!(rows > 0 && rows % 4 == 0 && bytes(rows) <= limit as u128);
                    prop_assert!(row == 0 || bytes(rows) + 4 * row > limit as u128);
                }
                Err(Error::TooLarge { needed, limit: at, .. }) => {
                    prop_assert_eq!(at, limit as u64);
                    prop_assert!(4 * row.max(1) > limit as u128);
                    prop_assert_eq!(u128::from(needed), (4 * row).min(u128::from(u64::MAX)));
                }
                Err(error) => prop_assert!(false, "{}", error),
            }
        }
        Ok(())
    });
}

/// An op with tensors that fit.
struct Call {
    op: &'static str,
    tensors: Vec<(Vec<usize>, DType)>,
    /// Which of them it writes.
    outs: &'static [usize],
    /// (tensor, dimension) that may be larger by one.
    free: &'static [(usize, usize)],
    /// Which may be f16 as well.
    halves: &'static [usize],
    run: fn(&GpuCompute, &mut Pass, &[Tensor]) -> crate::Result<()>,
}

const SHAPE: Attention = Attention { heads: 2, kv_heads: 1, head_dim: 4, context: 3, scale: 0.5, causal: true };

const ROPE: Rope = Rope { heads: 1, head_dim: 4, rotary_dim: 4, pairing: Pairing::Halves };

fn weight(gpu: &GpuCompute) -> Weight {
    Weight::from_f32(gpu, &[0.5; 20], (4, 5), Format::F32).unwrap()
}

#[rustfmt::skip]
fn calls() -> Vec<Call> {
    type Run = fn(&GpuCompute, &mut Pass, &[Tensor]) -> crate::Result<()>;
    let call = |op, tensors: &[(&[usize], DType)], outs, free, run: Run| {
        let tensors = tensors.iter().map(|(shape, dtype)| (shape.to_vec(), *dtype)).collect();
        Call { op, tensors, outs, free, halves: if op.starts_with("matmul") { &[1] } else { &[] }, run }
    };
    let square: &[usize] = &[3, 5];
    let one = |op, run: Run| call(op, &[(square, F32)], &[0], &[(0, 0), (0, 1)], run);
    vec![
        one("gelu", |_, p, t| ops::gelu(p, &mut t[0].clone(), Gelu::Tanh)),
        one("relu", |_, p, t| ops::relu(p, &mut t[0].clone())),
        one("sigmoid", |_, p, t| ops::sigmoid(p, &mut t[0].clone())),
        one("silu", |_, p, t| ops::silu(p, &mut t[0].clone())),
        one("tanh", |_, p, t| ops::tanh(p, &mut t[0].clone())),
        one("probe", |_, p, t| ops::probe(p, &mut t[0].clone(), 2.0, 3)),
        one("scale", |_, p, t| ops::scale(p, &mut t[0].clone(), 2.0)),
        one("softmax", |_, p, t| ops::softmax(p, &mut t[0].clone())),
        one("log_softmax", |_, p, t| ops::log_softmax(p, &mut t[0].clone())),
        call("rope", &[(&[3, 4], U32), (&[7, 4], F32), (square, F32)], &[2], &[(1, 0), (2, 1)],
            |_, p, t| ops::rope(p, &t[0], &t[1], &mut t[2].clone(), &ROPE)),
        call("add_layer_norm", &[(square, F32), (square, F32), (&[5], F32), (&[5], F32), (square, F32)], &[0, 4], &[],
            |_, p, t| ops::add_layer_norm(p, &mut t[0].clone(), &t[1], &t[2], &t[3], 1e-5, &mut t[4].clone())),
        call("norm_rope", &[(&[3, 4], U32), (&[1, 4], F32), (&[7, 4], F32), (square, F32)], &[3], &[(2, 0), (3, 1)],
            |_, p, t| ops::norm_rope(p, &t[0], (&t[1], 1e-5), &t[2], &mut t[3].clone(), &ROPE)),
        call("add_rms_norm", &[(square, F32), (square, F32), (&[5], F32), (square, F32)], &[0, 3], &[],
            |_, p, t| ops::add_rms_norm(p, &mut t[0].clone(), &t[1], &t[2], 1e-5, &mut t[3].clone())),
        call("rms_norm", &[(square, F32), (&[5], F32), (square, F32)], &[2], &[(0, 0)],
            |_, p, t| ops::rms_norm(p, (&t[0], 0), &t[1], 1e-5, &mut t[2].clone())),
        call("transpose", &[(&[2, 3, 5], F32), (&[2, 5, 3], F32)], &[1], &[],
            |_, p, t| ops::transpose(p, &t[0], &mut t[1].clone())),
        call("gather", &[(&[3], U32), (square, F32)], &[1], &[],
            |gpu, p, t| ops::gather(p, &t[0], &weight(gpu), &mut t[1].clone())),
        call("add", &[(square, F32), (square, F32)], &[0], &[], |_, p, t| ops::add(p, &mut t[0].clone(), &t[1])),
        call("mul", &[(square, F32), (square, F32)], &[0], &[], |_, p, t| ops::mul(p, &mut t[0].clone(), &t[1])),
        call("repitch", &[(square, F32), (square, F32)], &[1], &[], |_, p, t| ops::repitch(p, &t[0], &mut t[1].clone())),
        call("swiglu", &[(&[3, 10], F32), (square, F32)], &[1], &[], |_, p, t| ops::swiglu(p, &t[0], &mut t[1].clone())),
        call("reduce", &[(square, F32), (&[3], F32)], &[1], &[(0, 1)],
            |_, p, t| ops::reduce(p, &t[0], Reduction::Max, &mut t[1].clone())),
        call("reduce in parts", &[(&[2, PART + 1], F32), (&[2], F32)], &[1], &[(0, 1)],
            |_, p, t| ops::reduce(p, &t[0], Reduction::Sum, &mut t[1].clone())),
        call("dot", &[(square, F32), (square, F32), (&[1], F32)], &[2], &[],
            |_, p, t| ops::dot(p, &t[0], &t[1], &mut t[2].clone())),
        call("dot in parts", &[(&[PART + 1], F32), (&[PART + 1], F32), (&[1], F32)], &[2], &[],
            |_, p, t| ops::dot(p, &t[0], &t[1], &mut t[2].clone())),
        call("matmul", &[(square, F32), (&[5, 4], F32), (&[3, 4], F32)], &[2], &[],
            |_, p, t| ops::matmul(p, &t[0], &t[1], &mut t[2].clone())),
        call("matmul_transpose_b", &[(&[2, 3, 5], F32), (&[4, 5], F32), (&[2, 3, 4], F32)], &[2], &[],
            |_, p, t| ops::matmul_transpose_b(p, &t[0], &t[1], 1.0, &mut t[2].clone())),
        call("linear", &[(&[12, 5], F32), (&[4], F32), (&[12, 4], F32)], &[2], &[],
            |gpu, p, t| ops::linear(p, &t[0], &weight(gpu), Some(&t[1]), &mut t[2].clone())),
        call("matvec", &[(square, F32), (&[4], F32), (&[3, 4], F32)], &[2], &[],
            |gpu, p, t| ops::matvec(p, &t[0], &weight(gpu), Some(&t[1]), &mut t[2].clone())),
        call("layer_norm", &[(square, F32), (&[5], F32), (&[5], F32), (square, F32)], &[3], &[(0, 0)],
            |_, p, t| ops::layer_norm(p, (&t[0], 0), &t[1], &t[2], 1e-5, &mut t[3].clone())),
        call("embed", &[(&[3, 4], U32), (&[7, 5], F32), (square, F32)], &[2], &[(1, 0)],
            |gpu, p, t| ops::embed(p, &t[0], &weight(gpu), Some(&t[1]), &mut t[2].clone())),
        call("argmax", &[(square, F32), (&[3, 2], U32)], &[1], &[(0, 1)],
            |_, p, t| ops::argmax(p, &t[0], &mut t[1].clone())),
        call("sample", &[(square, F32), (&[3, 4], U32), (&[3, 2], U32)], &[1, 2], &[(0, 1)],
            |_, p, t| ops::sample(p, &t[0], (&mut t[1].clone(), true), &ops::Sampler::default(), &mut t[2].clone())),
        call("norm_linear", &[(square, F32), (&[5], F32), (&[5], F32), (&[3, 4], F32)], &[3], &[],
            |gpu, p, t| ops::norm_linear(p, &t[0], Some(&ops::Norm { weight: &t[1], bias: Some(&t[2]), eps: 1e-5 }), &weight(gpu), ops::Epilogue::default(), false, &mut t[3].clone())),
        call("attention_decode", &[(&[2, 4], U32), (&[2, 16], F32), (&[6, 4], F32), (&[6, 4], F32), (&[2, 8], F32)], &[2, 3, 4], &[],
            |_, p, t| ops::attention_decode(p, &t[0], &t[1], (&mut t[2].clone(), &mut t[3].clone()), &ops::Decode { attention: SHAPE, turn: None, parts: None }, &mut t[4].clone())),
        call("attention", &[(&[2, 4], U32), (&[2, 16], F32), (&[6, 4], F32), (&[6, 4], F32), (&[2, 8], F32)], &[2, 3, 4], &[],
            |_, p, t| ops::attention(p, &t[0], &t[1], (&mut t[2].clone(), &mut t[3].clone()), &SHAPE, &mut t[4].clone())),
    ]
}

/// Both backends, or the CPU alone where there is no adapter.
fn backends() -> Vec<GpuCompute> {
    let cpu = GpuCompute::new(ComputeBackend::Cpu).unwrap();
    open(|_| ()).map(|(gpu, _)| gpu).into_iter().chain([cpu]).collect()
}

fn tensors(gpu: &GpuCompute, call: &Call) -> Vec<Tensor> {
    call.tensors.iter().map(|(shape, dtype)| gpu.zeros_of(shape, *dtype).unwrap()).collect()
}

fn run(gpu: &GpuCompute, call: &Call, tensors: &[Tensor]) -> crate::Result<()> {
    let mut pass = gpu.pass();
    (call.run)(gpu, &mut pass, tensors)?;
    pass.submit()?;
    gpu.wait_idle()
}

#[test]
fn what_fits_runs_and_any_other_dimension_is_refused() {
    for gpu in backends() {
        for call in calls() {
            let fitting = tensors(&gpu, &call);
            run(&gpu, &call, &fitting).unwrap_or_else(|error| panic!("{}: {error}", call.op));
            for (i, (shape, dtype)) in call.tensors.iter().enumerate() {
                for d in 0..shape.len() {
                    let (mut larger, mut tensors) = (shape.clone(), fitting.clone());
                    larger[d] += 1;
                    tensors[i] = gpu.zeros_of(&larger, *dtype).unwrap();
                    let outcome = run(&gpu, &call, &tensors);
                    let right = match call.free.contains(&(i, d)) {
                        true => outcome.is_ok(),
                        false => matches!(outcome, Err(Error::Shape { .. })),
                    };
                    assert!(right, "{} with {larger:?} as tensor {i}: {outcome:?}", call.op);
                }
            }
        }
    }
}

#[test]
fn another_type_is_refused() {
    for gpu in backends() {
        for call in calls() {
            for (i, (shape, own)) in call.tensors.iter().enumerate() {
                for dtype in [F32, F16, BF16, U32].into_iter().filter(|dtype| dtype != own) {
                    if dtype == F16 && call.halves.contains(&i) {
                        continue;
                    }
                    let mut tensors = tensors(&gpu, &call);
                    tensors[i] = gpu.zeros_of(shape, dtype).unwrap();
                    let outcome = run(&gpu, &call, &tensors);
                    let right = matches!(outcome, Err(Error::Shape { .. }));
                    assert!(right, "{} with {dtype:?} as tensor {i}: {outcome:?}", call.op);
                }
            }
        }
    }
}

/// Any shapes, types and aliases at once: a result or an error of the caller's, never a panic.
#[test]
fn whatever_does_not_fit_is_the_callers_error() {
    let gpu = GpuCompute::new(ComputeBackend::Cpu).unwrap();
    // The callers of attention vouch for slots, and nothing here does.
    let calls: Vec<Call> = calls().into_iter().filter(|call| !call.op.starts_with("attention")).collect();
    let change =
        (any::<prop::sample::Index>(), prop::collection::vec(0..5usize, 0..5), prop::sample::select(vec![F32, U32]));
    let changes = prop::collection::vec((change, 0..4u8), 1..4);
    check(CASES, (0..calls.len(), changes), |(at, changes)| {
        let call = &calls[at];
        let mut tensors = tensors(&gpu, call);
        for ((index, shape, dtype), what) in changes {
            let i = index.index(tensors.len());
            let own = call.tensors[i].clone();
            tensors[i] = match what {
                0 => gpu.zeros(&shape).unwrap(),
                1 => gpu.zeros_of(&own.0, dtype).unwrap(),
                2 => gpu.zeros_of(&shape, own.1).unwrap(),
                _ => tensors[(i + 1) % tensors.len()].clone(),
            };
        }
        if let Err(error) = run(&gpu, call, &tensors) {
            prop_assert!(matches!(error, Error::Shape { .. } | Error::Alias { .. }), "{}: {}", call.op, error);
        }
        Ok(())
    });
}

/// Another view of the memory of `tensor`, far enough behind it on a device; the same on the host.
fn beside(tensor: &Tensor, shape: &[usize], dtype: DType) -> Tensor {
    match &tensor.storage {
        Storage::Device(lease) => Tensor::on_device(lease.clone(), 1 << 19, shape, dtype).unwrap(),
        Storage::Host(_) => {
            let mut view = Tensor::on_host(Vec::new(), shape, dtype).unwrap();
            view.storage = tensor.storage.clone();
            view
        }
    }
}

#[test]
fn an_output_that_is_an_operand_is_refused() {
    for gpu in backends() {
        for call in calls() {
            for &out in call.outs {
                for i in (0..call.tensors.len()).filter(|&i| i != out) {
                    let mut tensors = tensors(&gpu, &call);
                    // A buffer that holds both, side by side.
                    let whole = gpu.zeros(&[1 << 18]).unwrap();
                    let ((shape, dtype), (other, other_dtype)) = (&call.tensors[out], &call.tensors[i]);
                    tensors[out] = beside(&whole, shape, *dtype);
                    tensors[i] = beside(&whole, other, *other_dtype);
                    tensors[i].offset = 0;
                    let outcome = run(&gpu, &call, &tensors);
                    let right = matches!(outcome, Err(Error::Alias { .. }));
                    assert!(right, "{} with {i} in the buffer of {out}: {outcome:?}", call.op);
                }
            }
        }
    }
}

#[test]
fn a_tensor_of_another_device_is_refused() {
    let (homes, strangers) = (backends(), backends());
    for (h, gpu) in homes.iter().enumerate() {
        for (s, stranger) in strangers.iter().enumerate() {
            // Host memory is one.
            if h == s && !gpu.is_gpu() {
                continue;
            }
            for call in calls() {
                for (i, (shape, dtype)) in call.tensors.iter().enumerate() {
                    let mut tensors = tensors(gpu, &call);
                    tensors[i] = stranger.zeros_of(shape, *dtype).unwrap();
                    let outcome = run(gpu, &call, &tensors);
                    let right = matches!(outcome, Err(Error::ForeignBuffer { .. }));
                    assert!(right, "{} with a foreign tensor {i}: {outcome:?}", call.op);
                }
            }
        }
    }
}

fn integers(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 5 + seed) % 17) as f32 - 8.0).collect()
}

/// What an op writes to a tensor of NaN.
fn written(
    gpu: &GpuCompute,
    shape: &[usize],
    op: impl FnOnce(&mut Pass, &mut Tensor) -> crate::Result<()>,
) -> crate::Result<Vec<f64>> {
    let mut out = gpu.tensor(&vec![f32::NAN; shape.iter().product()], shape)?;
    let mut pass = gpu.pass();
    op(&mut pass, &mut out)?;
    pass.submit()?;
    Ok(gpu.read::<f32>(&out)?.into_iter().map(f64::from).collect())
}

#[test]
fn dimensions_of_none_and_one_have_results() {
    for gpu in backends() {
        for at in 0..27 {
            let (m, k, n) = (at / 9, at / 3 % 3, at % 3);
            let (a, b, bias) = (integers(1, m * k), integers(2, k * n), integers(3, n));
            let tensor = |data: &[f32], shape: &[usize]| gpu.tensor(data, shape).unwrap();
            let (x, bias_tensor) = (tensor(&a, &[m, k]), tensor(&bias, &[n]));

            let w = tensor(&b, &[k, n]);
            let got = written(&gpu, &[m, n], |pass, out| ops::matmul(pass, &x, &w, out));
            assert_eq!(got.unwrap(), reference::matmul(&a, &b, (m, k, n)), "matmul {m},{k},{n}");
            let w = tensor(&b, &[n, k]);
            let got = written(&gpu, &[m, n], |pass, out| ops::matmul_transpose_b(pass, &x, &w, 1.0, out));
            let truth = reference::matmul_transpose_b(&a, &b, None, 1.0, (m, k, n));
            assert_eq!(got.unwrap(), truth, "matmul_transpose_b {m},{k},{n}");
            let w = Weight::from_f32(&gpu, &b, (n, k), Format::F32).unwrap();
            let got = written(&gpu, &[m, n], |pass, out| ops::linear(pass, &x, &w, Some(&bias_tensor), out));
            assert_eq!(got.unwrap(), reference::matvec(&a, &b, Some(&bias), (m, k, n)), "linear {m},{k},{n}");

            for how in [Reduction::Sum, Reduction::Max, Reduction::Mean] {
                let got = written(&gpu, &[m], |pass, out| ops::reduce(pass, &x, how, out));
                match got {
                    Ok(got) => assert_eq!(got, reference::reduce(&a, (m, k), how), "{how:?} {m},{k}"),
                    Err(error) => assert!(k == 0 && how != Reduction::Sum, "{how:?} {m},{k}: {error}"),
                }
            }
            let got = written(&gpu, &[1], |pass, out| ops::dot(pass, &x, &x, out));
            assert_eq!(got.unwrap(), [reference::dot(&a, &a)], "dot {m},{k}");
            for op in [ops::softmax, ops::relu, ops::sigmoid, ops::silu, ops::tanh] {
                let got = written(&gpu, &[m, k], |pass, out| {
                    *out = gpu.tensor(&a, &[m, k])?;
                    op(pass, out)
                });
                assert_eq!(got.unwrap().len(), m * k);
            }
        }
    }
}

#[test]
fn a_tensor_may_fill_a_binding_and_no_more() {
    let Some((gpu, _)) = open(|options| options.max_binding_bytes = Some(4096)) else { return };
    let full = integers(1, 1024);
    let got = written(&gpu, &[1024], |pass, out| {
        *out = gpu.tensor(&full, &[1024])?;
        ops::relu(pass, out)
    });
    assert_eq!(got.unwrap(), reference::relu(&full));
    let refused = |outcome: crate::Result<Tensor>| match outcome {
        Err(Error::TooLarge { needed, limit: 4096, .. }) => needed,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(gpu.zeros(&[1025])), 4112);
    assert_eq!(refused(gpu.tensor(&[0.0; 1025], &[1025])), 4112);
    assert_eq!(refused(gpu.pass().tensor(&[2, 513])), 4128);
    assert_eq!(refused(gpu.pass().tensor_of(&[1, 2049], F16)), 4112);
    // A caller's buffer is as long as it likes; what is bound of it is not.
    let buffer = gpu.zeros(&[1024]).unwrap().lease().unwrap().buffer.clone();
    let fits = Tensor::from_buffer(buffer, 0, &[1024], F32).unwrap();
    ops::relu(&mut gpu.pass(), &mut fits.clone()).unwrap();
}

#[test]
fn no_binding_reaches_two_to_the_31() {
    let Some((gpu, _)) = open(|_| ()) else { return };
    let limit = gpu.binding_limit();
    assert!(limit < 1 << 31);
    for elements in [1usize << 29, (1 << 29) + 1, 1 << 40, 1 << 60] {
        match gpu.zeros(&[elements]) {
            Err(Error::TooLarge { needed, limit: at, .. }) => {
                assert_eq!((needed, at), (4 * elements.next_multiple_of(4) as u64, limit));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(gpu.pool_stats().misses, 0, "nothing was allocated");
    // As large as this adapter allows, to the last element.
    let elements = (limit / 16 * 4) as usize;
    if limit > 256 << 20 {
        return;
    }
    let mut last = vec![0.0; elements];
    last[elements - 1] = 3.0;
    let x = gpu.tensor(&last, &[elements]).unwrap();
    let got = written(&gpu, &[1], |pass, out| ops::reduce(pass, &x, Reduction::Max, out));
    assert_eq!(got.unwrap(), [3.0]);
}

/// More than there is, and more than can be counted.
#[test]
fn host_memory_that_is_not_there_is_an_error() {
    let gpu = GpuCompute::new(ComputeBackend::Cpu).unwrap();
    for shape in [vec![1 << 58], vec![1 << 30, 1 << 28]] {
        let outcome = gpu.zeros(&shape);
        assert!(matches!(outcome, Err(Error::OutOfMemory { .. })), "{shape:?}: {outcome:?}");
    }
    for shape in [vec![1 << 61], vec![usize::MAX], vec![1 << 40, 1 << 40], vec![usize::MAX, 0], vec![0, usize::MAX, 2]]
    {
        let outcome = gpu.zeros(&shape);
        assert!(matches!(outcome, Err(Error::TooLarge { .. })), "{shape:?}: {outcome:?}");
        assert!(gpu.tensor(&[], &shape).is_err(), "{shape:?}");
    }
    let huge = Attention { heads: 1 << 62, kv_heads: 1 << 62, head_dim: 4, ..SHAPE };
    let (rows, none) = (gpu.tensor_u32(&[], &[0, 4]).unwrap(), || gpu.zeros(&[0, 0]).unwrap());
    let outcome = ops::attention(&mut gpu.pass(), &rows, &none(), (&mut none(), &mut none()), &huge, &mut none());
    assert!(matches!(outcome, Err(Error::Shape { .. })), "{outcome:?}");
}
