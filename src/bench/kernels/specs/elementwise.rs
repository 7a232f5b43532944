//! What looks at one element at a time. Rows matter to none of them but `swiglu`, so there is one unless more are given.

use super::{
    Absent, Bounded, F32, Host, Key, Made, REQUIRED, Recipe, Shape, Spec, bounded, by_rows, draw, pick, poison,
    tensors, times,
};
use crate::error::Result;
use crate::pass::Pass;
use crate::reference::Gelu;
use crate::verify::bounds;
use crate::{Tensor, ops, reference};

const KEYS: &[Key] = &[("m", Absent::Is("1")), ("n", REQUIRED)];
/// As within a layer of GPT-2 small.
const SMALL: &[&str] = &["m=256,n=3072"];
/// And of an 8B Llama.
const BOTH: &[&str] = &["m=256,n=3072", "m=8192,n=4096"];
const FACTOR: f32 = -1.0;
/// x + x * -2 is -x: the numbers stay numbers.
const PROBED: f32 = -2.0;

/// A recipe with the keys and shapes of most.
const fn recipe(
    op: &'static str,
    kernels: &'static [&'static str],
    shapes: &'static [(&'static [crate::Format], &'static [&'static str])],
    make: fn(&Shape, crate::Format) -> Result<Made>,
) -> Recipe {
    Recipe { op, kernels, keys: KEYS, formats: F32, shapes, make }
}

pub(super) const GELU: Recipe = Recipe {
    keys: &[("m", Absent::Is("1")), ("n", REQUIRED), ("form", Absent::Is("tanh"))],
    ..recipe(
        "gelu",
        &["gelu", "gelu_wide"],
        &[(F32, &["m=256,n=3072,form=tanh", "m=8192,n=4096,form=tanh", "m=256,n=3072,form=exact"])],
        |shape, _| {
            let form = shape.one_of("form", &[("tanh", Gelu::Tanh), ("exact", Gelu::Exact)])?;
            let bound = if form == Gelu::Tanh { bounds::gelu_tanh } else { bounds::gelu_exact };
            one(shape, move |pass, x| ops::gelu(pass, x, form), move |x| reference::gelu(x, form), bound)
        },
    )
};

pub(super) const RELU: Recipe = recipe("relu", &["relu"], &[(F32, BOTH)], |shape, _| {
    // No subnormal is drawn, so all is exact.
    one(shape, ops::relu, reference::relu, |_, _| 0.0)
});

pub(super) const SIGMOID: Recipe = recipe("sigmoid", &["sigmoid"], &[(F32, BOTH)], |shape, _| {
    one(shape, ops::sigmoid, reference::sigmoid, bounds::sigmoid)
});

pub(super) const SILU: Recipe =
    recipe("silu", &["silu"], &[(F32, SMALL)], |shape, _| one(shape, ops::silu, reference::silu, bounds::silu));

pub(super) const TANH: Recipe = recipe("tanh", &["tanh"], &[(F32, SMALL)], |shape, _| {
    one(shape, ops::tanh, reference::tanh, |_, y| bounds::tanh(y))
});

pub(super) const SCALE: Recipe = recipe("scale", &["scale"], &[(F32, SMALL)], |shape, _| {
    let twin = |x: &[f32]| reference::scale(x, FACTOR);
    one(shape, |pass, x| ops::scale(pass, x, FACTOR), twin, |_, y| bounds::sum(y))
});

pub(super) const PROBE: Recipe = Recipe {
    keys: &[("m", Absent::Is("1")), ("n", REQUIRED), ("times", Absent::Is("1"))],
    ..recipe("probe", &["probe"], &[(F32, &["m=256,n=3072,times=1"])], |shape, _| {
        /// A software adapter ends longer loops without a word.
        const MOST: u32 = 4096;
        let times = u32::try_from(shape.size("times")?).ok().filter(|&times| times <= MOST);
        let times = times.ok_or_else(|| shape.wrong("times", &format!("at most {MOST}")))?;
        let call = move |pass: &mut Pass, x: &mut Tensor| ops::probe(pass, x, PROBED, times);
        let twin = move |x: &[f32]| reference::probe(x, PROBED, times);
        let mut made = one(shape, call, twin, move |x, _| bounds::probe(x, PROBED.into(), times))?;
        // Once it is bound by memory, and counts as that.
        made.flops = if times > 1 { made.elements * 2.0 * f64::from(times) } else { 0.0 };
        Ok(made)
    })
};

pub(super) const ADD: Recipe =
    recipe("add", &["add"], &[(F32, BOTH)], |shape, _| two(shape, |v| v, ops::add, reference::add));

pub(super) const MUL: Recipe = recipe("mul", &["mul"], &[(F32, SMALL)], |shape, _| {
    // Signs alone: the numbers must stay numbers after many calls.
    two(shape, f32::signum, ops::mul, reference::mul)
});

/// An op on x in place; a bound depends on an element of x and on what becomes of it.
fn one(
    shape: &Shape,
    op: impl Fn(&mut Pass, &mut Tensor) -> Result<()> + Copy + 'static,
    twin: impl Fn(&[f32]) -> Vec<f64> + Copy + 'static,
    bound: impl Fn(f64, f64) -> f64 + Copy + 'static,
) -> Result<Made> {
    let (name, (m, n)) = (shape.text.clone(), (shape.size("m")?, shape.size("n")?));
    Ok(Made {
        flops: 0.0,
        bytes: 8.0 * times([m, n]),
        elements: times([m, n]),
        spec: Box::new(move |_| {
            let x = draw(&name, m * n);
            let expected = by_rows((m * n, 1), |places| {
                let x = pick(&x, places, 1);
                bounded(twin(&x), |i, y| bound(x.get(i).copied().map_or(f64::NAN, f64::from), y))
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

/// An op on x in place with y beside it, which is drawn and then changed; one rounding.
fn two(
    shape: &Shape,
    change: fn(f32) -> f32,
    op: fn(&mut Pass, &mut Tensor, &Tensor) -> Result<()>,
    twin: fn(&[f32], &[f32]) -> Vec<f64>,
) -> Result<Made> {
    let (name, (m, n)) = (shape.text.clone(), (shape.size("m")?, shape.size("n")?));
    Ok(Made {
        flops: 0.0,
        bytes: 12.0 * times([m, n]),
        elements: 2.0 * times([m, n]),
        spec: Box::new(move |_| {
            let x = draw(&name, m * n);
            let y: Vec<f32> = draw("y", m * n).into_iter().map(change).collect();
            let expected = by_rows((m * n, 1), |places| {
                bounded(twin(&pick(&x, places, 1), &pick(&y, places, 1)), |_, v| bounds::sum(v))
            });
            Spec {
                tensors: vec![(Host::F32(x), vec![m, n]), (Host::F32(y), vec![m, n])],
                weight: None,
                out: 0,
                in_place: Some(0),
                call: Box::new(move |pass, set| {
                    let [x, y] = tensors(&mut set.t)?;
                    op(pass, x, y)
                }),
                expected,
            }
        }),
    })
}

pub(super) const SWIGLU: Recipe = recipe("swiglu", &["swiglu"], &[(F32, SMALL)], |shape, _| {
    let (m, n) = (shape.size("m")?, shape.size("n")?);
    Ok(Made {
        flops: 0.0,
        bytes: 12.0 * times([m, n]),
        elements: 3.0 * times([m, n]),
        spec: Box::new(move |_| {
            let x = draw("swiglu", 2 * m * n);
            let twin = |rows: &[usize]| -> Vec<Bounded> {
                let x = pick(&x, rows, 2 * n);
                let of = |i: usize, half: usize| {
                    x.get(i / n * 2 * n + half * n + i % n).copied().map_or(f64::NAN, f64::from)
                };
                bounded(reference::swiglu(&x, n), |i, y| bounds::swiglu(of(i, 0), of(i, 1), y))
            };
            let expected = by_rows((m, n), twin);
            Spec {
                tensors: vec![(Host::F32(x), vec![m, 2 * n]), poison(vec![m, n])],
                weight: None,
                out: 1,
                in_place: None,
                call: Box::new(|pass, set| {
                    let [x, out] = tensors(&mut set.t)?;
                    ops::swiglu(pass, x, out)
                }),
                expected,
            }
        }),
    })
});
