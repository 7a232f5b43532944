//! Products. A layer of few rows is what decoding is made of, one of many what a prompt is.

use super::{CHECKED, Expected, Host, Key, Made, REQUIRED, Recipe, Shape, Spec, draw, places, poison, tensors, times};
use crate::error::Result;
use crate::gpu::Arithmetic;
use crate::kernel::Format;
use crate::verify::inputs::{Fill, Inputs};
use crate::verify::{bounds, products::halved, stored::Stored};
use crate::{ops, reference};

const KEYS: &[Key] = &[("m", REQUIRED), ("k", REQUIRED), ("n", REQUIRED)];
const IN_PARTS: &[Key] = &[("m", REQUIRED), ("k", REQUIRED), ("n", REQUIRED), ("parts", REQUIRED)];
const TRANSPOSED: &[&str] = &[
    "matmul_transpose_b",
    "matmul_transpose_b_broadcast",
    "matmul_transpose_b_matrix8",
    "matmul_transpose_b_matrix16",
];
const FLOATS: &[Format] = super::F32_F16;
const OTHERS: &[Format] = &[
    Format::BF16,
    Format::Q8_0,
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q4K,
    Format::Q5K,
    Format::Q6K,
];

pub(super) const MATMUL: Recipe = Recipe {
    op: "matmul",
    kernels: &["matmul", "matmul_broadcast"],
    keys: KEYS,
    formats: FLOATS,
    shapes: &[(
        super::F32,
        &[
            "m=256,k=256,n=256",
            "m=512,k=512,n=512",
            "m=1024,k=1024,n=1024",
            "m=2048,k=2048,n=2048",
            "m=4096,k=4096,n=4096",
        ],
    )],
    make: |shape, format| product(shape, format, false),
};

pub(super) const MATVEC: Recipe = Recipe {
    op: "matvec",
    kernels: &["matvec", "matvec_subgroup", "matvec_wide"],
    keys: KEYS,
    formats: &Format::ALL,
    shapes: &[(
        FLOATS,
        &[
            "m=1,k=768,n=2304",
            "m=1,k=768,n=3072",
            "m=1,k=3072,n=768",
            "m=1,k=768,n=50257",
            "m=1,k=4096,n=4096",
            "m=1,k=4096,n=14336",
            "m=4,k=768,n=3072",
        ],
    )],
    make: |shape, format| {
        let few = format!("at most {}; more rows take matmul_transpose_b", ops::MATVEC_ROWS);
        if shape.size("m")? <= ops::MATVEC_ROWS { layer(shape, format, None) } else { Err(shape.wrong("m", &few)) }
    },
};

/// The same in the formats that `matvec_wide` does not read.
pub(super) const MATVEC_OTHERS: Recipe = Recipe {
    kernels: &["matvec", "matvec_subgroup"],
    shapes: &[(
        OTHERS,
        &["m=1,k=768,n=3072", "m=1,k=3072,n=768", "m=1,k=4096,n=4096", "m=1,k=4096,n=14336", "m=4,k=768,n=3072"],
    )],
    ..MATVEC
};

pub(super) const LINEAR: Recipe = Recipe {
    op: "linear",
    kernels: TRANSPOSED,
    keys: KEYS,
    formats: &Format::ALL,
    shapes: &[
        (&[Format::F16], &["m=1024,k=1024,n=1024", "m=2048,k=2048,n=2048", "m=4096,k=4096,n=4096"]),
        (FLOATS, &["m=64,k=768,n=768", "m=64,k=768,n=3072", "m=512,k=768,n=3072", "m=512,k=4096,n=14336"]),
        (OTHERS, &["m=64,k=768,n=3072", "m=512,k=4096,n=14336"]),
    ],
    make: |shape, format| layer_of_many(shape, format, None),
};

/// The same with the depth in parts, which are added up.
pub(super) const LINEAR_MERGE: Recipe = Recipe {
    op: "linear",
    kernels: &["linear_merge"],
    keys: IN_PARTS,
    formats: &Format::ALL,
    shapes: &[(FLOATS, &["m=16,k=3072,n=768,parts=4"])],
    make: |shape, format| layer_of_many(shape, format, Some(shape.size("parts")?)),
};

fn layer_of_many(shape: &Shape, format: Format, parts: Option<usize>) -> Result<Made> {
    let many = format!("more than {}; fewer rows take matvec", ops::MATVEC_ROWS);
    if shape.size("m")? > ops::MATVEC_ROWS { layer(shape, format, parts) } else { Err(shape.wrong("m", &many)) }
}

pub(super) const TRANSPOSE_B: Recipe = Recipe {
    op: "matmul_transpose_b",
    kernels: TRANSPOSED,
    keys: KEYS,
    formats: FLOATS,
    shapes: &[(super::F32, &["m=768,k=64,n=64", "m=128,k=768,n=128"])],
    make: |shape, format| product(shape, format, true),
};

fn sizes(shape: &Shape) -> Result<(usize, usize, usize)> {
    Ok((shape.size("m")?, shape.size("k")?, shape.size("n")?))
}

/// Elements of an output\[m,n\] of sums over k; `column(j)` is what a row of x is multiplied by for column j, and the magnitudes
/// that its errors are measured by; with `halves` both are rounded to halves first.
fn sums(
    (x, halves): (&[f32], bool),
    (m, k, n): (usize, usize, usize),
    column: impl Fn(usize) -> (Vec<f32>, Vec<f32>),
) -> Expected {
    let one = |at: usize| {
        let (x, (y, magnitudes)) = (x.get(at / n * k..(at / n + 1) * k).unwrap_or_default(), column(at % n));
        let product = |x: &[f32], y: &[f32]| {
            reference::matmul_transpose_b(x, y, None, 1.0, (1, k, 1)).first().copied().unwrap_or(f64::NAN)
        };
        let positive: Vec<f32> = x.iter().map(|v| v.abs()).collect();
        let exact = product(&positive, &magnitudes);
        let rounded = if halves { product(&halved(&positive, x), &halved(&magnitudes, &y)) } else { exact };
        (at, product(x, &y), bounds::product(k, rounded) + rounded - exact)
    };
    places(m * n, CHECKED).into_iter().map(one).collect()
}

/// Two tensors, the second one \[k,n\], or \[n,k\] where it is transposed.
fn product(shape: &Shape, format: Format, transposed: bool) -> Result<Made> {
    let (m, k, n) = sizes(shape)?;
    let name = shape.text.clone();
    let of_y = if format == Format::F16 { 2.0 } else { 4.0 };
    Ok(Made {
        flops: 2.0 * times([m, k, n]),
        bytes: 4.0 * (times([m, k]) + times([m, n])) + of_y * times([k, n]),
        elements: times([m, k]) + times([k, n]) + times([m, n]),
        spec: Box::new(move |arithmetic| {
            let halves = transposed && arithmetic == Arithmetic::F16;
            let x = draw(&name, m * k);
            let y = Stored::round(draw("y", k * n), format).values;
            let column = |j: usize| {
                let at = |i: usize| if transposed { j * k + i } else { i * n + j };
                let column: Vec<f32> = (0..k).map(|i| y.get(at(i)).copied().unwrap_or(f32::NAN)).collect();
                let magnitudes = column.iter().map(|v| v.abs()).collect();
                (column, magnitudes)
            };
            let expected = sums((&x, halves), (m, k, n), column);
            let y = match format {
                Format::F16 => Host::F16(y.iter().map(|&v| half::f16::from_f32(v)).collect()),
                _ => Host::F32(y),
            };
            let y_shape = if transposed { vec![n, k] } else { vec![k, n] };
            Spec {
                tensors: vec![(Host::F32(x), vec![m, k]), (y, y_shape), poison(vec![m, n])],
                weight: None,
                out: 2,
                in_place: None,
                call: Box::new(move |pass, set| {
                    let [x, y, out] = tensors(&mut set.t)?;
                    if transposed {
                        ops::matmul_transpose_b(pass, &*x, &*y, 1.0, out)
                    } else {
                        ops::matmul(pass, x, y, out)
                    }
                }),
                expected,
            }
        }),
    })
}

/// x and a weight \[n,k\], by `linear`.
fn layer(shape: &Shape, format: Format, parts: Option<usize>) -> Result<Made> {
    let (m, k, n) = sizes(shape)?;
    shape.whole_blocks("k", k, format)?;
    let name = shape.text.clone();
    let stored = n as f64 * format.stored_bytes(k).unwrap_or(0) as f64;
    Ok(Made {
        flops: 2.0 * times([m, k, n]),
        bytes: 4.0 * times([m, k]) + stored + 4.0 * times([m, n]),
        elements: times([m, k]) + times([k, n]) + times([m, n]),
        spec: Box::new(move |arithmetic| {
            let halves = m > ops::MATVEC_ROWS && arithmetic == Arithmetic::F16;
            let x = draw(&name, m * k);
            let w = Stored::draw(&mut Inputs::new("w"), Fill::Uniform, (n, k), format);
            let row = |of: &[f32], j: usize| of.get(j * k..(j + 1) * k).unwrap_or_default().to_vec();
            let expected = sums((&x, halves), (m, k, n), |j| (row(&w.values, j), row(&w.magnitudes, j)));
            Spec {
                tensors: vec![(Host::F32(x), vec![m, k]), poison(vec![m, n])],
                weight: Some((w, (n, k))),
                out: 1,
                in_place: None,
                call: Box::new(move |pass, set| {
                    let [x, out] = tensors(&mut set.t)?;
                    let epilogue = ops::Epilogue { parts, ..Default::default() };
                    set.w.as_ref().map_or(Ok(()), |w| ops::linear_with(pass, x, w, epilogue, out))
                }),
                expected,
            }
        }),
    })
}
