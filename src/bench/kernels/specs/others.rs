//! The same elements lying otherwise or in another type, and what makes one number of many.

use super::Absent;
use super::{F32, Host, Key, Made, REQUIRED, Recipe, Spec, bounded, by_rows, draw, pick, poison, tensors, times};
use crate::kernel::Format;
use crate::reference::{Cast, Reduction};
use crate::verify::bounds;
use crate::{ops, reference};

const KEYS: &[Key] = &[("m", REQUIRED), ("n", REQUIRED)];
const HALVES: &[Format] = &[Format::F32, Format::F16, Format::BF16];

pub(super) const TRANSPOSE: Recipe = Recipe {
    op: "transpose",
    kernels: &["transpose"],
    keys: KEYS,
    formats: F32,
    shapes: &[(F32, &["m=1024,n=1024"])],
    make: |shape, _| {
        let (m, n) = (shape.size("m")?, shape.size("n")?);
        Ok(Made {
            flops: 0.0,
            bytes: 8.0 * times([m, n]),
            elements: 2.0 * times([m, n]),
            spec: Box::new(move |_| {
                let x = draw("transpose", m * n);
                let truth = reference::transpose(bytemuck::cast_slice(&x), (1, m, n));
                let expected = by_rows((m * n, 1), |at| {
                    let one = |v: u32| (f64::from(f32::from_bits(v)), 0.0);
                    pick(&truth, at, 1).into_iter().map(one).collect()
                });
                Spec {
                    tensors: vec![(Host::F32(x), vec![m, n]), poison(vec![n, m])],
                    weight: None,
                    out: 1,
                    in_place: None,
                    call: Box::new(|pass, set| {
                        let [x, out] = tensors(&mut set.t)?;
                        ops::transpose(pass, x, out)
                    }),
                    expected,
                }
            }),
        })
    },
};

pub(super) const REPITCH: Recipe = Recipe {
    op: "repitch",
    kernels: &["repitch"],
    // Rows that end amid a quad.
    shapes: &[(F32, &["m=1024,n=1023"])],
    make: |shape, _| {
        let (m, n) = (shape.size("m")?, shape.size("n")?);
        Ok(Made {
            flops: 0.0,
            bytes: 8.0 * times([m, n]),
            elements: 2.0 * times([m, n]),
            spec: Box::new(move |_| {
                let x = draw("repitch", m * n);
                let twin = |at: &[usize]| bounded(reference::repitch(&pick(&x, at, 1)), |_, _| 0.0);
                let expected = by_rows((m * n, 1), twin);
                Spec {
                    tensors: vec![(Host::F32(x), vec![m, n]), poison(vec![m, n])],
                    weight: None,
                    out: 1,
                    in_place: None,
                    call: Box::new(|pass, set| {
                        let [x, out] = tensors(&mut set.t)?;
                        ops::repitch(pass, x, out)
                    }),
                    expected,
                }
            }),
        })
    },
    ..TRANSPOSE
};

/// From f32 to halves, or from either kind of halves to f32.
pub(super) const CAST: Recipe = Recipe {
    op: "cast",
    kernels: &["cast_bits"],
    formats: HALVES,
    shapes: &[(HALVES, &["m=256,n=3072"])],
    make: |shape, format| {
        let (m, n) = (shape.size("m")?, shape.size("n")?);
        Ok(Made {
            flops: 0.0,
            bytes: 6.0 * times([m, n]),
            elements: 2.0 * times([m, n]),
            spec: Box::new(move |_| cast((m, n), format)),
        })
    },
    ..TRANSPOSE
};

fn cast((m, n): (usize, usize), from: Format) -> Spec {
    let drawn = draw("cast", m * n);
    let (x, words, kind): (Host, Vec<u32>, Cast) = match from {
        Format::F16 => {
            let halves: Vec<half::f16> = drawn.iter().map(|&v| half::f16::from_f32(v)).collect();
            let words = halves.iter().map(|v| v.to_bits().into()).collect();
            (Host::F16(halves), words, Cast::F16ToF32)
        }
        Format::BF16 => {
            let halves: Vec<half::bf16> = drawn.iter().map(|&v| half::bf16::from_f32(v)).collect();
            let words = halves.iter().map(|v| v.to_bits().into()).collect();
            (Host::BF16(halves), words, Cast::Bf16ToF32)
        }
        _ => {
            let words = drawn.iter().map(|v| v.to_bits()).collect();
            (Host::F32(drawn), words, Cast::F32ToF16)
        }
    };
    let value = |bits: u32| match kind {
        Cast::F32ToF16 => half::f16::from_bits(bits as u16).to_f64(),
        _ => f32::from_bits(bits).into(),
    };
    let expected = by_rows((m * n, 1), |at| {
        let bits = reference::cast(&pick(&words, at, 1), kind);
        bits.into_iter().map(|bits| (value(bits), 0.0)).collect()
    });
    let out = match kind {
        Cast::F32ToF16 => (Host::F16(vec![half::f16::NAN; m * n]), vec![m, n]),
        _ => poison(vec![m, n]),
    };
    Spec {
        tensors: vec![(x, vec![m, n]), out],
        weight: None,
        out: 1,
        in_place: None,
        call: Box::new(|pass, set| {
            let [x, out] = tensors(&mut set.t)?;
            ops::cast(pass, x, out)
        }),
        expected,
    }
}

fn magnitude(x: &[f32]) -> f64 {
    x.iter().map(|&v| f64::from(v).abs()).sum()
}

pub(super) const REDUCE: Recipe = Recipe {
    op: "reduce",
    kernels: &["reduce"],
    keys: &[("m", REQUIRED), ("n", REQUIRED), ("how", Absent::Is("sum"))],
    formats: F32,
    shapes: &[(F32, &["m=1024,n=1024"])],
    make: |shape, _| {
        let (m, n) = (shape.size("m")?, shape.size("n")?);
        let kinds = [("sum", Reduction::Sum), ("max", Reduction::Max), ("mean", Reduction::Mean)];
        let how = shape.one_of("how", &kinds)?;
        Ok(Made {
            flops: 0.0,
            bytes: 4.0 * times([m, n + 1]),
            elements: times([m, n + 1]),
            spec: Box::new(move |_| {
                let x = draw("reduce", m * n);
                let expected = by_rows((m, 1), |at| {
                    let x = pick(&x, at, n);
                    let sizes: Vec<f64> = x.chunks(n).map(magnitude).collect();
                    let size = |row: usize| sizes.get(row).copied().unwrap_or(0.0);
                    bounded(reference::reduce(&x, (at.len(), n), how), |row, _| match how {
                        Reduction::Max => 0.0,
                        Reduction::Sum => bounds::reduced(n, size(row)),
                        Reduction::Mean => bounds::mean(n, size(row)),
                    })
                });
                Spec {
                    tensors: vec![(Host::F32(x), vec![m, n]), poison(vec![m])],
                    weight: None,
                    out: 1,
                    in_place: None,
                    call: Box::new(move |pass, set| {
                        let [x, out] = tensors(&mut set.t)?;
                        ops::reduce(pass, x, how, out)
                    }),
                    expected,
                }
            }),
        })
    },
};

pub(super) const DOT: Recipe = Recipe {
    op: "dot",
    kernels: &["dot"],
    keys: &[("n", REQUIRED)],
    formats: F32,
    shapes: &[(F32, &["n=4194304"])],
    make: |shape, _| {
        let n = shape.size("n")?;
        Ok(Made {
            flops: 2.0 * n as f64,
            bytes: 8.0 * n as f64,
            elements: 2.0 * n as f64,
            spec: Box::new(move |_| {
                let (x, y) = (draw("x", n), draw("y", n));
                let products: Vec<f32> = reference::mul(&x, &y).into_iter().map(|v| v as f32).collect();
                let expected = vec![(0, reference::dot(&x, &y), bounds::dot(n, magnitude(&products)))];
                Spec {
                    tensors: vec![(Host::F32(x), vec![n]), (Host::F32(y), vec![n]), poison(vec![1])],
                    weight: None,
                    out: 2,
                    in_place: None,
                    call: Box::new(|pass, set| {
                        let [x, y, out] = tensors(&mut set.t)?;
                        ops::dot(pass, x, y, out)
                    }),
                    expected,
                }
            }),
        })
    },
};
