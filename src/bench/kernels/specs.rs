//! The shapes, and the operands of each: random numbers that follow from the row's name.
//!
//! Shapes are those of GPT-2 small and of an 8B Llama, beside powers of two that other engines publish. Numbers are random,
//! since a device may be faster on zeros than on anything a model has; and they are seeded by name, so that a row is the
//! same one alone or among others. Some elements of every output are compared with the twin before anything is timed. That
//! is to see that it is the right thing that is timed; how right it is, `verify` says.

use super::{Format, Host, Row, Set, Spec};
use crate::error::Result;
use crate::pass::Pass;
use crate::reference::{self, Attention, Gelu, Pairing, Reduction, Rope, Row as Position, Sampler};
use crate::verify::inputs::{Fill, Inputs};
use crate::verify::{bounds, stored::Stored};
use crate::{Tensor, ops};

type Call = fn(&mut Pass, &mut Set) -> Result<()>;
type Expected = Vec<(usize, f64, f64)>;

/// Elements of an output that are compared.
const CHECKED: usize = 64;
/// Relative error of what is no product; `verify` has the bounds, this is to see that it is the right thing that is timed.
const CLOSE: f64 = 1e-4;

pub(super) fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    for shape @ (m, k, n) in
        [(256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (4096, 4096, 4096)]
    {
        rows.push(product("matmul", (m, k, n), Format::F32, |pass, set| {
            let [x, y, out] = three(set)?;
            ops::matmul(pass, x, y, out)
        }));
        if m >= 1024 {
            rows.push(linear("linear", shape, Format::F16));
        }
    }
    for (m, k, n) in [(12 * 64, 64, 64), (128, 768, 128)] {
        rows.push(product("matmul_transpose_b", (m, k, n), Format::F32, |pass, set| {
            let [x, y, out] = three(set)?;
            ops::matmul_transpose_b(pass, &*x, &*y, 1.0, out)
        }));
    }
    for format in [Format::F32, Format::F16] {
        for (m, k, n) in [
            (1, 768, 2304),
            (1, 768, 3072),
            (1, 3072, 768),
            (1, 768, 50_257),
            (1, 4096, 4096),
            (1, 4096, 14_336),
            (4, 768, 3072),
        ] {
            rows.push(linear("matvec", (m, k, n), format));
        }
        for (m, k, n) in [(64, 768, 768), (64, 768, 3072), (512, 768, 3072), (512, 4096, 14_336)] {
            rows.push(linear("linear", (m, k, n), format));
        }
    }
    for format in Format::ALL.into_iter().filter(|format| !matches!(format, Format::F32 | Format::F16)) {
        for shape in [(1, 768, 3072), (1, 3072, 768), (1, 4096, 4096), (1, 4096, 14_336), (4, 768, 3072)] {
            rows.push(linear("matvec", shape, format));
        }
        for shape in [(64, 768, 3072), (512, 4096, 14_336)] {
            rows.push(linear("linear", shape, format));
        }
    }
    elementwise(&mut rows);
    norms(&mut rows);
    others(&mut rows);
    rows
}

fn draw(name: &str, count: usize) -> Vec<f32> {
    Inputs::new(name).uniform(count)
}

fn row(
    op: &'static str,
    shape: String,
    dtype: &'static str,
    (flops, bytes): (f64, f64),
    spec: impl Fn() -> Spec + 'static,
) -> Row {
    Row { op, shape, dtype, flops, bytes, spec: Box::new(spec) }
}

/// Three tensors of a set, to read, to read and to write.
fn three(set: &mut Set) -> Result<[&mut Tensor; 3]> {
    let [a, b, c] = set.t.as_mut_slice() else { return Err(crate::Error::NotSubmitted) };
    Ok([a, b, c])
}

/// Some places of an output, its ends among them.
fn places(count: usize) -> impl Iterator<Item = usize> {
    let step = (count / CHECKED).max(1);
    // An odd step, so that all columns of a power of two are met.
    let step = step - usize::from(step > 1 && step.is_multiple_of(2));
    (0..count).step_by(step).chain(count.checked_sub(1))
}

fn close(truth: &[f64]) -> Expected {
    let one = |i: usize| truth.get(i).map(|&v| (i, v, CLOSE * (1.0 + v.abs())));
    places(truth.len()).filter_map(one).collect()
}

fn exact(truth: &[f64]) -> Expected {
    places(truth.len()).filter_map(|i| truth.get(i).map(|&v| (i, v, 0.0))).collect()
}

/// Elements of x\[m,k\] y, with the bounds of an inner product; `y(i, j)` is element i of its column j, and the magnitude that
/// its errors are measured by.
fn products(x: &[f32], (m, k, n): (usize, usize, usize), y: impl Fn(usize, usize) -> (f32, f32)) -> Expected {
    let one = |at: usize| {
        let terms = (0..k).map(|i| {
            let (x, (y, magnitude)) = (f64::from(x.get(at / n * k + i).copied().unwrap_or(0.0)), y(i, at % n));
            (x * f64::from(y), (x * f64::from(magnitude)).abs())
        });
        let (sum, magnitude) = terms.fold((0.0, 0.0), |(sum, magnitude), (t, size)| (sum + t, magnitude + size));
        (at, sum, bounds::product(k, magnitude))
    };
    places(m * n).map(one).collect()
}

fn product(op: &'static str, (m, k, n): (usize, usize, usize), format: Format, call: Call) -> Row {
    let shape = format!("m={m},k={k},n={n}");
    let transposed = op == "matmul_transpose_b";
    let work = (2.0 * (m * k * n) as f64, 4.0 * (m * k + k * n + m * n) as f64);
    row(op, shape.clone(), format.name(), work, move || {
        let (x, y) = (draw(&shape, m * k), draw("y", k * n));
        let at = |i: usize, j: usize| {
            let y = y.get(if transposed { j * k + i } else { i * n + j }).copied().unwrap_or(0.0);
            (y, y)
        };
        let expected = products(&x, (m, k, n), at);
        let y_shape = if transposed { vec![n, k] } else { vec![k, n] };
        let tensors =
            vec![(Host::F32(x), vec![m, k]), (Host::F32(y), y_shape), (Host::F32(vec![0.0; m * n]), vec![m, n])];
        Spec { tensors, weight: None, out: 2, in_place: false, call, expected }
    })
}

/// A layer: few rows are what decoding is made of, many what a prompt is.
fn linear(op: &'static str, (m, k, n): (usize, usize, usize), format: Format) -> Row {
    let shape = format!("m={m},k={k},n={n}");
    let stored = n * format.stored_bytes(k).unwrap_or(0);
    let work = (2.0 * (m * k * n) as f64, (4 * m * k + stored + 4 * m * n) as f64);
    row(op, shape.clone(), format.name(), work, move || {
        let x = draw(&shape, m * k);
        let w = Stored::draw(&mut Inputs::new("w"), Fill::Uniform, (n, k), format);
        let of = |from: &[f32], i: usize, j: usize| from.get(j * k + i).copied().unwrap_or(0.0);
        let expected = products(&x, (m, k, n), |i, j| (of(&w.values, i, j), of(&w.magnitudes, i, j)));
        let tensors = vec![(Host::F32(x), vec![m, k]), (Host::F32(vec![0.0; m * n]), vec![m, n])];
        let call: Call = |pass, set| match (set.t.as_mut_slice(), &set.w) {
            ([x, out], Some(w)) => ops::linear(pass, x, w, None, out),
            _ => Ok(()),
        };
        Spec { tensors, weight: Some((w, (n, k))), out: 1, in_place: false, call, expected }
    })
}

/// An op on x in place, and maybe y beside it. All \[m,n\].
fn in_place(
    op: &'static str,
    detail: &str,
    (m, n): (usize, usize),
    with: Option<fn(f32) -> f32>,
    call: Call,
    truth: fn(&[f32], &[f32], usize) -> Vec<f64>,
) -> Row {
    let shape = format!("m={m},n={n}{detail}");
    let moved = if with.is_some() { 3 } else { 2 };
    row(op, shape.clone(), "f32", (0.0, (4 * moved * m * n) as f64), move || {
        let x = draw(&shape, m * n);
        let y: Vec<f32> = with.map_or_else(Vec::new, |f| draw("y", m * n).into_iter().map(f).collect());
        let expected = close(&truth(&x, &y, n));
        let mut tensors = vec![(Host::F32(x), vec![m, n])];
        if with.is_some() {
            tensors.push((Host::F32(y), vec![m, n]));
        }
        Spec { tensors, weight: None, out: 0, in_place: true, call, expected }
    })
}

/// One tensor in place.
macro_rules! one {
    ($op:path $(, $argument:expr)*) => {
        |pass, set| set.t.first_mut().map_or(Ok(()), |x| $op(pass, x $(, $argument)*))
    };
}

/// One tensor in place, one beside it.
macro_rules! two {
    ($op:path) => {
        |pass, set| match set.t.as_mut_slice() {
            [x, y] => $op(pass, x, y),
            _ => Ok(()),
        }
    };
}

fn elementwise(rows: &mut Vec<Row>) {
    for shape in [(256, 3072), (8192, 4096)] {
        rows.push(in_place("gelu", ",form=tanh", shape, None, one!(ops::gelu, Gelu::Tanh), |x, _, _| {
            reference::gelu(x, Gelu::Tanh)
        }));
        rows.push(in_place("relu", "", shape, None, one!(ops::relu), |x, _, _| reference::relu(x)));
        rows.push(in_place("sigmoid", "", shape, None, one!(ops::sigmoid), |x, _, _| reference::sigmoid(x)));
        rows.push(in_place("add", "", shape, Some(|v| v), two!(ops::add), |x, y, _| reference::add(x, y)));
    }
    let shape = (256, 3072);
    rows.push(in_place("gelu", ",form=exact", shape, None, one!(ops::gelu, Gelu::Exact), |x, _, _| {
        reference::gelu(x, Gelu::Exact)
    }));
    rows.push(in_place("silu", "", shape, None, one!(ops::silu), |x, _, _| reference::silu(x)));
    rows.push(in_place("tanh", "", shape, None, one!(ops::tanh), |x, _, _| reference::tanh(x)));
    rows.push(in_place("scale", "", shape, None, one!(ops::scale, -1.0), |x, _, _| reference::scale(x, -1.0)));
    rows.push(in_place("probe", ",times=1", shape, None, one!(ops::probe, -2.0, 1), |x, _, _| {
        reference::probe(x, -2.0, 1)
    }));
    // Signs alone: the numbers must stay numbers after many calls.
    rows.push(in_place("mul", "", shape, Some(f32::signum), two!(ops::mul), |x, y, _| reference::mul(x, y)));
    for shape in [(64, 1024), (8, 50_257)] {
        rows.push(in_place("softmax", "", shape, None, one!(ops::softmax), |x, _, n| reference::softmax(x, n)));
    }
    rows.push(in_place("log_softmax", "", (8, 50_257), None, one!(ops::log_softmax), |x, _, n| {
        reference::log_softmax(x, n)
    }));
    let (m, n) = (256, 3072);
    rows.push(row("swiglu", format!("m={m},n={n}"), "f32", (0.0, 12.0 * (m * n) as f64), move || {
        let x = draw("swiglu", 2 * m * n);
        let expected = close(&reference::swiglu(&x, n));
        let tensors = vec![(Host::F32(x), vec![m, 2 * n]), (Host::F32(vec![0.0; m * n]), vec![m, n])];
        Spec {
            tensors,
            weight: None,
            out: 1,
            in_place: false,
            call: |pass, set| match set.t.as_mut_slice() {
                [x, out] => ops::swiglu(pass, x, out),
                _ => Ok(()),
            },
            expected,
        }
    }));
}

const EPS: f32 = 1e-5;

fn norms(rows: &mut Vec<Row>) {
    for (m, n) in [(1, 768), (512, 768), (2048, 4096)] {
        let operands = move |shape: &str| {
            let weight: Vec<f32> = draw("weight", n).into_iter().map(|v| 1.0 + 0.5 * v).collect();
            (draw(shape, m * n), weight, draw("bias", n))
        };
        let shape = format!("m={m},n={n}");
        let moved = (4 * (2 * m * n + 2 * n)) as f64;
        let name = shape.clone();
        rows.push(row("layer_norm", shape.clone(), "f32", (0.0, moved), move || {
            let (x, weight, bias) = operands(&name);
            let expected = close(&reference::layer_norm(&x, &weight, &bias, EPS));
            let call: Call = |pass, set| match set.t.as_mut_slice() {
                [x, w, b, out] => ops::layer_norm(pass, (x, 0), w, b, EPS, out),
                _ => Ok(()),
            };
            let tensors = vec![
                (Host::F32(x), vec![m, n]),
                (Host::F32(weight), vec![n]),
                (Host::F32(bias), vec![n]),
                (Host::F32(vec![0.0; m * n]), vec![m, n]),
            ];
            Spec { tensors, weight: None, out: 3, in_place: false, call, expected }
        }));
        let name = shape.clone();
        rows.push(row("rms_norm", shape.clone(), "f32", (0.0, moved), move || {
            let (x, weight, _) = operands(&name);
            let expected = close(&reference::rms_norm(&x, &weight, EPS));
            let call: Call = |pass, set| match set.t.as_mut_slice() {
                [x, w, out] => ops::rms_norm(pass, (x, 0), w, EPS, out),
                _ => Ok(()),
            };
            let tensors = vec![
                (Host::F32(x), vec![m, n]),
                (Host::F32(weight), vec![n]),
                (Host::F32(vec![0.0; m * n]), vec![m, n]),
            ];
            Spec { tensors, weight: None, out: 2, in_place: false, call, expected }
        }));
        let name = shape.clone();
        rows.push(row("add_layer_norm", shape, "f32", (0.0, (4 * (4 * m * n + 2 * n)) as f64), move || {
            let (mut x, weight, bias) = operands(&name);
            let y = vec![0.0; m * n];
            let tensors = vec![
                (Host::F32(x.clone()), vec![m, n]),
                (Host::F32(y.clone()), vec![m, n]),
                (Host::F32(weight.clone()), vec![n]),
                (Host::F32(bias.clone()), vec![n]),
                (Host::F32(y.clone()), vec![m, n]),
            ];
            let expected = close(&reference::add_layer_norm(&mut x, &y, &weight, &bias, EPS));
            let call: Call = |pass, set| match set.t.as_mut_slice() {
                [x, y, w, b, out] => ops::add_layer_norm(pass, x, y, w, b, EPS, out),
                _ => Ok(()),
            };
            Spec { tensors, weight: None, out: 4, in_place: false, call, expected }
        }));
    }
}

fn words(rows: &[Position]) -> Host {
    Host::Words(bytemuck::cast_slice(rows).to_vec())
}

/// GPT-2 small's heads: `m` rows that end at `position`.
fn attention(m: usize, position: usize) -> Row {
    const HEADS: usize = 12;
    const D: usize = 64;
    const CONTEXT: usize = 2049;
    const SHAPE: Attention =
        Attention { heads: HEADS, kv_heads: HEADS, head_dim: D, context: CONTEXT, scale: 0.125, causal: true };
    let width = HEADS * D;
    let first = position + 1 - m;
    let keys: f64 = (first..=position).map(|p| (p + 1) as f64).sum();
    // Each key and value is needed once, whoever asks for it.
    let work = (4.0 * keys * width as f64, 4.0 * (2 * (position + 1) * width + 4 * m * width) as f64);
    row("attention", format!("m={m},position={position},heads={HEADS},d={D}"), "f32", work, move || {
        let row = |r: usize| Position { token: 0, slot: 0, position: (first + r) as u32, first: 0 };
        let rows: Vec<Position> = (0..m).map(row).collect();
        let qkv = draw("qkv", 3 * m * width);
        let (mut keys, mut values) = (draw("keys", CONTEXT * width), draw("values", CONTEXT * width));
        let cache = |data: &[f32]| (Host::F32(data.to_vec()), vec![CONTEXT, width]);
        let tensors = vec![
            (words(&rows), vec![m, 4]),
            (Host::F32(qkv.clone()), vec![m, 3 * width]),
            cache(&keys),
            cache(&values),
            (Host::F32(vec![0.0; m * width]), vec![m, width]),
        ];
        let expected = close(&reference::attention(&rows, &qkv, &mut keys, &mut values, &SHAPE));
        let call: Call = |pass, set| match set.t.as_mut_slice() {
            [rows, qkv, keys, values, out] => ops::attention(pass, rows, qkv, (keys, values), &SHAPE, out),
            _ => Ok(()),
        };
        Spec { tensors, weight: None, out: 4, in_place: false, call, expected }
    })
}

fn others(rows: &mut Vec<Row>) {
    rows.extend([attention(1, 127), attention(1, 511), attention(1, 2047), attention(128, 127), attention(512, 511)]);
    let (m, n) = (1024, 1024);
    rows.push(row("transpose", format!("m={m},n={n}"), "f32", (0.0, 8.0 * (m * n) as f64), move || {
        let x = draw("transpose", m * n);
        let truth: Vec<f64> = (0..m * n).map(|i| f64::from(x[i % m * n + i / m])).collect();
        let tensors = vec![(Host::F32(x), vec![m, n]), (Host::F32(vec![0.0; m * n]), vec![n, m])];
        let call: Call = |pass, set| match set.t.as_mut_slice() {
            [x, out] => ops::transpose(pass, x, out),
            _ => Ok(()),
        };
        Spec { tensors, weight: None, out: 1, in_place: false, call, expected: exact(&truth) }
    }));
    rows.push(row("reduce", format!("m={m},n={n},how=sum"), "f32", (0.0, 4.0 * (m * n + m) as f64), move || {
        let x = draw("reduce", m * n);
        let expected = close(&reference::reduce(&x, (m, n), Reduction::Sum));
        let tensors = vec![(Host::F32(x), vec![m, n]), (Host::F32(vec![0.0; m]), vec![m])];
        let call: Call = |pass, set| match set.t.as_mut_slice() {
            [x, out] => ops::reduce(pass, x, Reduction::Sum, out),
            _ => Ok(()),
        };
        Spec { tensors, weight: None, out: 1, in_place: false, call, expected }
    }));
    let n = 1 << 22;
    rows.push(row("dot", format!("n={n}"), "f32", (2.0 * n as f64, 8.0 * n as f64), move || {
        let (x, y) = (draw("x", n), draw("y", n));
        let truth = reference::dot(&x, &y);
        let tensors = vec![(Host::F32(x), vec![n]), (Host::F32(y), vec![n]), (Host::F32(vec![0.0]), vec![1])];
        let call: Call = |pass, set| {
            let [x, y, out] = three(set)?;
            ops::dot(pass, x, y, out)
        };
        Spec { tensors, weight: None, out: 2, in_place: false, call, expected: vec![(0, truth, 0.05)] }
    }));
    rows.push(rope(128));
    let n = 50_257;
    rows.push(row("argmax", format!("m=1,n={n}"), "f32", (0.0, 4.0 * n as f64), move || {
        let x = draw("argmax", n);
        let expected = vec![(0, f64::from(reference::argmax(&x, n)[0][0]), 0.0)];
        let tensors = vec![(Host::F32(x), vec![1, n]), (Host::Words(vec![0; 2]), vec![1, 2])];
        let call: Call = |pass, set| match set.t.as_mut_slice() {
            [x, out] => ops::argmax(pass, x, out),
            _ => Ok(()),
        };
        Spec { tensors, weight: None, out: 1, in_place: false, call, expected }
    }));
    rows.push(row("sample", format!("m=1,n={n},top_k=40,top_p=0.95"), "f32", (0.0, 4.0 * n as f64), move || {
        const SAMPLER: Sampler = Sampler { temperature: 0.8, top_k: 40, top_p: 0.95, seed: 7 };
        let x: Vec<f32> = draw("sample", n).into_iter().map(|v| 4.0 * v).collect();
        let at = [Position { token: 0, slot: 0, position: 9, first: 0 }];
        let expected = vec![(0, f64::from(reference::sample(&x, n, &at, &SAMPLER)[0][0]), 0.0)];
        let tensors = vec![(Host::F32(x), vec![1, n]), (words(&at), vec![1, 4]), (Host::Words(vec![0; 2]), vec![1, 2])];
        let call: Call = |pass, set| {
            let [x, rows, out] = three(set)?;
            ops::sample(pass, x, rows, &SAMPLER, out)
        };
        Spec { tensors, weight: None, out: 2, in_place: false, call, expected }
    }));
}

fn rope(m: usize) -> Row {
    const SHAPE: Rope = Rope { heads: 32, head_dim: 128, rotary_dim: 128, pairing: Pairing::Interleaved };
    let width = SHAPE.heads * SHAPE.head_dim;
    row("rope", format!("m={m},heads=32,d=128"), "f32", (0.0, 8.0 * (m * width) as f64), move || {
        let rows: Vec<Position> =
            (0..m as u32).map(|r| Position { token: 0, slot: 0, position: r, first: 0 }).collect();
        let (x, table) =
            (draw("rope", m * width), ops::rope_table(m, &ops::rope_frequencies(SHAPE.rotary_dim, 10_000.0), 1.0));
        let expected = close(&reference::rope(&rows, &table, &x, width, &SHAPE));
        let tensors = vec![
            (Host::F32(x), vec![m, width]),
            (words(&rows), vec![m, 4]),
            (Host::F32(table), vec![m, SHAPE.rotary_dim]),
        ];
        let call: Call = |pass, set| match set.t.as_mut_slice() {
            [x, rows, table] => ops::rope(pass, rows, table, x, &SHAPE),
            _ => Ok(()),
        };
        Spec { tensors, weight: None, out: 0, in_place: true, call, expected }
    })
}
