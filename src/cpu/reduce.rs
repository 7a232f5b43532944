//! What makes one number of many, on the host, in the order of the device: parts, and within a part as many sums side by side
//! as the smallest workgroup has invocations.

use rayon::prelude::*;

use super::{MIN_LEN, floats, floats_mut, lock};
use crate::error::Result;
use crate::ops::PART;
use crate::reference::Reduction;
use crate::tensor::Tensor;

/// Elements side by side.
const LANES: usize = 32;

pub(crate) fn reduce(x: &Tensor, how: Reduction, out: &Tensor) -> Result<()> {
    let n = x.columns();
    let mut locked = lock("reduce", [("x", x)], ("out", out))?;
    let ([x], out) = locked.parts();
    let (x, out) = (floats(x), floats_mut(out));
    let row = |row: &[f32]| match how {
        Reduction::Sum => in_parts(row, sum),
        Reduction::Mean => in_parts(row, sum) / n as f32,
        Reduction::Max => in_parts(row, max),
    };
    if n == 0 {
        out.fill(0.0);
    } else {
        let rows = out.par_iter_mut().zip(x.par_chunks(n)).with_min_len(MIN_LEN.div_ceil(n));
        rows.for_each(|(out, x)| *out = row(x));
    }
    Ok(())
}

pub(crate) fn dot(x: &Tensor, y: &Tensor, out: &Tensor) -> Result<()> {
    let mut locked = lock("dot", [("x", x), ("y", y)], ("out", out))?;
    let ([x, y], out) = locked.parts();
    let pairs = floats(x).par_chunks(PART).zip(floats(y).par_chunks(PART));
    let partials: Vec<f32> = pairs.map(|(x, y)| sum_of_products(x, y)).collect();
    floats_mut(out).fill(in_parts(&partials, sum));
    Ok(())
}

/// Reduces a row part by part, then what the parts came to.
fn in_parts(row: &[f32], part: fn(&[f32]) -> f32) -> f32 {
    if row.len() <= PART {
        return part(row);
    }
    in_parts(&row.par_chunks(PART).map(part).collect::<Vec<f32>>(), part)
}

fn sum(x: &[f32]) -> f32 {
    pulp::Arch::new().dispatch(|| {
        let (quick, rest) = x.as_chunks::<LANES>();
        let mut sums = [0.0; LANES];
        for x in quick {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum += x;
            }
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
            *sum += x;
        }
        tree(sums, |a, b| a + b)
    })
}

fn max(x: &[f32]) -> f32 {
    pulp::Arch::new().dispatch(|| {
        let (quick, rest) = x.as_chunks::<LANES>();
        let mut highest = [f32::MIN; LANES];
        for x in quick {
            for (highest, x) in highest.iter_mut().zip(x) {
                *highest = highest.max(*x);
            }
        }
        for (highest, x) in highest.iter_mut().zip(rest) {
            *highest = highest.max(*x);
        }
        tree(highest, f32::max)
    })
}

fn sum_of_products(x: &[f32], y: &[f32]) -> f32 {
    pulp::Arch::new().dispatch(|| {
        let ((quick_x, rest_x), (quick_y, rest_y)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
        let mut sums = [0.0; LANES];
        for (x, y) in quick_x.iter().zip(quick_y) {
            for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
                *sum += x * y;
            }
        }
        for ((sum, x), y) in sums.iter_mut().zip(rest_x).zip(rest_y) {
            *sum += x * y;
        }
        tree(sums, |a, b| a + b)
    })
}

#[inline(always)]
fn tree(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        let (low, high) = lanes.split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            *low = join(*low, *high);
        }
        half /= 2;
    }
    lanes[0]
}
