//! Drawing the next token on the host: the CPU backend's op, and what a session calls with logits it has read back.

use rayon::prelude::*;

use super::{argmax, check_apart, floats, lock};
use crate::error::Result;
use crate::reference::{Row, Sampler};
use crate::tensor::Tensor;

pub(crate) fn sample(x: &Tensor, (rows, advance): (&Tensor, bool), sampler: &Sampler, out: &Tensor) -> Result<()> {
    check_apart("sample", &[("x", x), ("rows", rows), ("out", out)], 2)?;
    if sampler.temperature == 0.0 {
        argmax(x, out)?;
    } else {
        draw(x, rows, sampler, out)?;
    }
    if advance { advance_rows(out, rows) } else { Ok(()) }
}

/// The rows of the next step: what was picked, one position on.
fn advance_rows(picked: &Tensor, rows: &Tensor) -> Result<()> {
    let mut locked = lock("sample", [("out", picked)], ("rows", rows))?;
    let ([picked], rows) = locked.parts();
    let (rows, picked) = (bytemuck::cast_slice_mut::<u32, Row>(rows), picked.as_chunks::<2>().0);
    for (row, [token, _]) in rows.iter_mut().zip(picked) {
        row.token = *token;
        row.position = row.position.wrapping_add(1);
    }
    Ok(())
}

fn draw(x: &Tensor, rows: &Tensor, sampler: &Sampler, out: &Tensor) -> Result<()> {
    let mut locked = lock("sample", [("x", x), ("rows", rows)], ("out", out))?;
    let ([logits, rows], out) = locked.parts();
    let rows: &[Row] = bytemuck::cast_slice(rows);
    out.par_chunks_mut(2).zip(floats(logits).par_chunks(x.columns())).zip(rows).for_each(|((out, logits), row)| {
        let u = uniform(sampler.seed, row.position + 1, row.slot);
        let faults = logits.iter().filter(|v| !v.is_finite()).count();
        out.copy_from_slice(&[pick(logits, sampler, u), faults as u32]);
    });
    Ok(())
}

/// A uniform in \[0, 1) that depends on (seed, position, slot) alone: pcg3d (Jarzynski, Olano 2020, JCGT 9(3)), which needs
/// 32-bit integers only and so is the same on host and device.
pub(crate) fn uniform(seed: u64, position: u32, slot: u32) -> f64 {
    let mut v = [seed as u32 ^ position, (seed >> 32) as u32 ^ slot, position.rotate_left(16) ^ !slot];
    for word in &mut v {
        *word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    }
    let mix = |v: &mut [u32; 3]| {
        v[0] = v[0].wrapping_add(v[1].wrapping_mul(v[2]));
        v[1] = v[1].wrapping_add(v[2].wrapping_mul(v[0]));
        v[2] = v[2].wrapping_add(v[0].wrapping_mul(v[1]));
    };
    mix(&mut v);
    for word in &mut v {
        *word ^= *word >> 16;
    }
    mix(&mut v);
    f64::from(v[2] >> 8) / f64::from(1u32 << 24)
}

/// The token that the uniform `u` picks, at a temperature above 0. Logits that are not finite pick an id of no meaning.
pub(crate) fn pick(logits: &[f32], sampler: &Sampler, u: f64) -> u32 {
    let largest = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    let weight = |logit: f32| ((f64::from(logit) - largest) / f64::from(sampler.temperature)).exp();
    if sampler.top_k == 0 && sampler.top_p >= 1.0 {
        let total: f64 = logits.iter().map(|&logit| weight(logit)).sum();
        return reach((0..).zip(logits.iter().map(|&logit| weight(logit))), u * total);
    }
    let ids = likeliest(logits, sampler.top_k);
    let weights: Vec<f64> = ids.iter().filter_map(|&id| logits.get(id as usize)).map(|&logit| weight(logit)).collect();
    let enough = f64::from(sampler.top_p) * weights.iter().sum::<f64>();
    let (mut kept, mut mass) = (0, 0.0);
    for weight in &weights {
        if kept > 0 && sampler.top_p < 1.0 && mass >= enough {
            break;
        }
        mass += weight;
        kept += 1;
    }
    reach(ids.into_iter().zip(weights).take(kept), u * mass)
}

/// The ids of the k largest logits (0: of all), largest first, the lowest id first among equals.
fn likeliest(logits: &[f32], k: usize) -> Vec<u32> {
    // Adding 0 makes -0 and 0 one; the order is total, whatever is not a number.
    let logit = |id: &u32| logits.get(*id as usize).copied().unwrap_or(f32::MIN) + 0.0;
    let order = |a: &u32, b: &u32| logit(b).total_cmp(&logit(a)).then(a.cmp(b));
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if k > 0 && k < ids.len() {
        ids.select_nth_unstable_by(k - 1, order);
        ids.truncate(k);
    }
    ids.sort_unstable_by(order);
    ids
}

/// The first id at which the sum of the weights exceeds `point`; the last with any weight, should rounding leave it past
/// the end.
fn reach(weights: impl Iterator<Item = (u32, f64)>, point: f64) -> u32 {
    let (mut reached, mut last) = (0.0, 0);
    for (id, weight) in weights.filter(|(_, weight)| *weight > 0.0) {
        reached += weight;
        last = id;
        if reached > point {
            break;
        }
    }
    last
}
