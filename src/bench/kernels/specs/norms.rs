//! What looks at a whole row: softmax and norms.

use super::{
    Bounded, F32, Host, Key, Made, REQUIRED, Recipe, Shape, Spec, by_rows, draw, pick, poison, tensors, times,
};
use crate::error::Result;
use crate::pass::Pass;
use crate::verify::norms::{layer_norm_bounds, log_softmax_bounds, rms_norm_bounds, softmax_bounds};
use crate::{Tensor, ops, reference};

const KEYS: &[Key] = &[("m", REQUIRED), ("n", REQUIRED)];
/// A token and a prompt of GPT-2 small, and a longer one of an 8B Llama.
const NORMS: &[&str] = &["m=1,n=768", "m=512,n=768", "m=2048,n=4096"];
const EPS: f32 = 1e-5;

pub(super) const SOFTMAX: Recipe = Recipe {
    op: "softmax",
    kernels: &["softmax"],
    keys: KEYS,
    formats: F32,
    shapes: &[(F32, &["m=64,n=1024", "m=8,n=50257", "m=2048,n=4096"])],
    make: |shape, _| softmax(shape, ops::softmax, reference::softmax, softmax_bounds),
};

/// In another mode of the same kernel.
pub(super) const LOG_SOFTMAX: Recipe = Recipe {
    op: "log_softmax",
    shapes: &[(F32, &["m=8,n=50257"])],
    make: |shape, _| softmax(shape, ops::log_softmax, reference::log_softmax, log_softmax_bounds),
    ..SOFTMAX
};

fn zip(truth: Vec<f64>, bounds: Vec<f64>) -> Vec<Bounded> {
    truth.into_iter().zip(bounds).collect()
}

fn softmax(
    shape: &Shape,
    op: fn(&mut Pass, &mut Tensor) -> Result<()>,
    twin: fn(&[f32], usize) -> Vec<f64>,
    bounds: fn(&[f32], usize, &[f64]) -> Vec<f64>,
) -> Result<Made> {
    let (name, (m, n)) = (shape.text.clone(), (shape.size("m")?, shape.size("n")?));
    Ok(Made {
        flops: 0.0,
        bytes: 8.0 * times([m, n]),
        elements: times([m, n]),
        spec: Box::new(move |_| {
            let x = draw(&name, m * n);
            let expected = by_rows((m, n), |rows| {
                let x = pick(&x, rows, n);
                let truth = twin(&x, n);
                let bounds = bounds(&x, n, &truth);
                zip(truth, bounds)
            });
            Spec {
                tensors: vec![(Host::F32(x), vec![m, n])],
                weight: None,
                out: 0,
                in_place: Some(0),
                call: Box::new(move |pass, set| {
                    let [x] = tensors(&mut set.t)?;
                    op(pass, x)
                }),
                expected,
            }
        }),
    })
}

/// x and out\[m,n\], what is added to x first, a weight and a bias of n.
struct Norm {
    name: String,
    m: usize,
    n: usize,
}

impl Norm {
    fn of(shape: &Shape) -> Result<Norm> {
        Ok(Norm { name: shape.text.clone(), m: shape.size("m")?, n: shape.size("n")? })
    }

    /// `matrices` of \[m,n\] that cross memory.
    fn made(self, matrices: f64, spec: fn(&Norm) -> Spec) -> Made {
        let (one, vectors) = (times([self.m, self.n]), times([2, self.n]));
        let elements = matrices * one + vectors;
        Made { flops: 0.0, bytes: 4.0 * elements, elements, spec: Box::new(move |_| spec(&self)) }
    }

    fn weight(&self) -> Vec<f32> {
        draw("weight", self.n).into_iter().map(|v| 1.0 + 0.5 * v).collect()
    }

    fn matrix(&self, name: &str) -> (Vec<f32>, Vec<usize>) {
        (draw(name, self.m * self.n), vec![self.m, self.n])
    }
}

fn host((data, shape): (Vec<f32>, Vec<usize>)) -> (Host, Vec<usize>) {
    (Host::F32(data), shape)
}

pub(super) const LAYER_NORM: Recipe = Recipe {
    op: "layer_norm",
    kernels: &["layer_norm"],
    keys: KEYS,
    formats: F32,
    shapes: &[(F32, NORMS)],
    make: |shape, _| {
        let spec = |norm: &Norm| {
            let (x, weight, bias, n) = (norm.matrix(&norm.name), norm.weight(), draw("bias", norm.n), norm.n);
            let expected = by_rows((norm.m, n), |rows| {
                let x = pick(&x.0, rows, n);
                let truth = reference::layer_norm(&x, &weight, &bias, EPS);
                let bounds = layer_norm_bounds(&x, (&weight, &bias, EPS), &truth);
                zip(truth, bounds)
            });
            Spec {
                tensors: vec![host(x), host((weight, vec![n])), host((bias, vec![n])), poison(vec![norm.m, n])],
                weight: None,
                out: 3,
                in_place: None,
                call: Box::new(|pass, set| {
                    let [x, w, b, out] = tensors(&mut set.t)?;
                    ops::layer_norm(pass, (x, 0), w, b, EPS, out)
                }),
                expected,
            }
        };
        Ok(Norm::of(shape)?.made(2.0, spec))
    },
};

pub(super) const ADD_LAYER_NORM: Recipe = Recipe {
    op: "add_layer_norm",
    kernels: &["add_layer_norm"],
    make: |shape, _| {
        let spec = |norm: &Norm| {
            let (x, y, n) = (norm.matrix(&norm.name), norm.matrix("y"), norm.n);
            let (weight, bias) = (norm.weight(), draw("bias", n));
            let expected = by_rows((norm.m, n), |rows| {
                let (mut x, y) = (pick(&x.0, rows, n), pick(&y.0, rows, n));
                let truth = reference::add_layer_norm(&mut x, &y, &weight, &bias, EPS);
                let bounds = layer_norm_bounds(&x, (&weight, &bias, EPS), &truth);
                zip(truth, bounds)
            });
            let vectors = [host((weight, vec![n])), host((bias, vec![n]))];
            Spec {
                tensors: [host(x), host(y)].into_iter().chain(vectors).chain([poison(vec![norm.m, n])]).collect(),
                weight: None,
                out: 4,
                in_place: Some(0),
                call: Box::new(|pass, set| {
                    let [x, y, w, b, out] = tensors(&mut set.t)?;
                    ops::add_layer_norm(pass, x, y, w, b, EPS, out)
                }),
                expected,
            }
        };
        Ok(Norm::of(shape)?.made(4.0, spec))
    },
    ..LAYER_NORM
};

pub(super) const RMS_NORM: Recipe = Recipe {
    op: "rms_norm",
    kernels: &["rms_norm"],
    make: |shape, _| {
        let spec = |norm: &Norm| {
            let (x, weight, n) = (norm.matrix(&norm.name), norm.weight(), norm.n);
            let expected = by_rows((norm.m, n), |rows| {
                let x = pick(&x.0, rows, n);
                let truth = reference::rms_norm(&x, &weight, EPS);
                let bounds = rms_norm_bounds(&x, (&weight, EPS), &truth);
                zip(truth, bounds)
            });
            Spec {
                tensors: vec![host(x), host((weight, vec![n])), poison(vec![norm.m, n])],
                weight: None,
                out: 2,
                in_place: None,
                call: Box::new(|pass, set| {
                    let [x, w, out] = tensors(&mut set.t)?;
                    ops::rms_norm(pass, (x, 0), w, EPS, out)
                }),
                expected,
            }
        };
        Ok(Norm::of(shape)?.made(2.0, spec))
    },
    ..LAYER_NORM
};

pub(super) const ADD_RMS_NORM: Recipe = Recipe {
    op: "add_rms_norm",
    kernels: &["add_rms_norm"],
    make: |shape, _| {
        let spec = |norm: &Norm| {
            let (x, y, weight, n) = (norm.matrix(&norm.name), norm.matrix("y"), norm.weight(), norm.n);
            let expected = by_rows((norm.m, n), |rows| {
                let (mut x, y) = (pick(&x.0, rows, n), pick(&y.0, rows, n));
                let truth = reference::add_rms_norm(&mut x, &y, &weight, EPS);
                let bounds = rms_norm_bounds(&x, (&weight, EPS), &truth);
                zip(truth, bounds)
            });
            Spec {
                tensors: vec![host(x), host(y), host((weight, vec![n])), poison(vec![norm.m, n])],
                weight: None,
                out: 3,
                in_place: Some(0),
                call: Box::new(|pass, set| {
                    let [x, y, w, out] = tensors(&mut set.t)?;
                    ops::add_rms_norm(pass, x, y, w, EPS, out)
                }),
                expected,
            }
        };
        Ok(Norm::of(shape)?.made(4.0, spec))
    },
    ..LAYER_NORM
};
