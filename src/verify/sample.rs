//! Cases of sample. What is drawn must be what the twin draws, unless the uniform lies so near to a step of the
//! distribution that the rounding errors of f32 may take it across; how near follows from `bounds::step`.
//!
//! A test of frequencies would need many thousand draws to see a token too few at the cut of a top-p, and would still pass
//! a sampler that is off by one for one seed. With a counter for a random number generator the draw is a function, and a
//! function can be compared, one by one.

use super::bounds;
use super::inputs::Inputs;
use super::runner::{Bench, Stop, compare_words};
use crate::error::Error;
use crate::ops;
use crate::reference::{self, Row, Sampler};
use crate::tensor::DType;

/// What a row of logits is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Logits {
    /// U\[-1, 1\] times a factor.
    Scaled(f32),
    /// All equal.
    Equal(f32),
    /// One is larger than the rest by this much.
    Dominant(f32),
    /// Multiples of 1/4, zeros of both signs among them: many are equal.
    Ties,
    /// Some are the largest and smallest of floats.
    Extreme,
    /// Some are NaN, of several kinds, or infinite.
    Faulty,
    /// The last is larger than the rest by this much.
    Last(f32),
    /// Zeros of both signs, which are one number.
    Zeros,
    /// 1 and the floats after it, in no order.
    Neighbours,
    /// The first few have no weight, and the uniform is 0: with [`ZERO_SEED`], for the token after position 9 of slot 0.
    FromZero,
    /// Two tokens have all the weight, and the step between them is at the row's uniform, as exactly as f32 can.
    Near,
    /// U\[-1, 1\] times a factor, at a position whose uniform is far from every step: not a token may differ.
    Far(f32),
}

/// The seed that draws 0 for position 10 of slot 0.
pub(crate) const ZERO_SEED: u64 = 8_291_625;

/// Rows to draw for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) logits: Logits,
    pub(crate) sampler: Sampler,
}

/// What a draw came to.
pub(crate) struct Drawn {
    /// The largest distance of a uniform from the step that it must have been taken across, over the bound.
    pub(crate) worst: f64,
    /// Rows whose token is not the twin's.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests count them"))]
    pub(crate) differing: usize,
}

pub(crate) fn sample(bench: &mut Bench<'_>, case: &Draw, mut inputs: Inputs) -> Result<f64, Stop> {
    draw(bench, case, &mut inputs).map(|drawn| drawn.worst)
}

pub(crate) fn draw(bench: &mut Bench<'_>, case: &Draw, inputs: &mut Inputs) -> Result<Drawn, Stop> {
    let &Draw { n, logits, ref sampler, .. } = case;
    let (x, rows) = prepare(case, inputs);
    let got = on_either(bench, &x, &rows, case)?;
    let truth = reference::sample(&x, n, &rows, sampler);
    if got.len() != 2 * truth.len() {
        return Err(Stop::Failed(format!("{} words for {} rows", got.len(), truth.len())));
    }
    let mut drawn = Drawn { worst: 0.0, differing: 0 };
    let strict = sampler.temperature == 0.0 || matches!(logits, Logits::Far(_) | Logits::FromZero);
    for (r, (got, &[id, faults])) in got.chunks(2).zip(&truth).enumerate() {
        if got[0] as usize >= n || got[1] != faults {
            let message = format!("row {r}: token {} of {n}, {} faults of {faults}", got[0], got[1]);
            return Err(Stop::Failed(message));
        }
        if got[0] == id || faults > 0 {
            continue;
        }
        let u = reference::uniform(sampler.seed, rows[r].position + 1, rows[r].slot);
        let distance = distance(&x[r * n..][..n], sampler, u, got[0]);
        if strict || distance > 1.0 {
            let message =
                format!("row {r}: token {}, not {id}; the uniform {u} is {distance:.3} times the bound away", got[0]);
            return Err(Stop::Failed(message));
        }
        drawn.differing += 1;
        drawn.worst = drawn.worst.max(distance);
    }
    Ok(drawn)
}

/// What the op draws, or, where a device must refuse, the host from the same logits.
fn on_either(bench: &mut Bench<'_>, x: &[f32], rows: &[Row], case: &Draw) -> Result<Vec<u32>, Stop> {
    let &Draw { m, n, ref sampler, .. } = case;
    let x_tensor = bench.input(x, &[m, n])?;
    let mut rows_tensor = bench.in_out(bytemuck::cast_slice(rows), &[m, 4], DType::U32)?;
    let mut out = bench.output(&[m, 2], DType::U32)?;
    let mut refused = false;
    // By the length, so that every way of drawing meets both.
    let advance = n % 2 == 1;
    bench.run(|pass| {
        match ops::sample(pass, &x_tensor, (&mut rows_tensor.tensor, advance), sampler, &mut out.tensor) {
            Err(Error::BadOption { .. }) if !pass.is_cpu() && !sampler.on_device() => {
                refused = true;
                Ok(())
            }
            result => result,
        }
    })?;
    if !refused {
        let picked: Vec<u32> = bench.read(&out)?;
        let mut after = rows.to_vec();
        if advance {
            reference::advance(bytemuck::cast_slice(&picked), &mut after);
        }
        compare_words("rows", &bench.read(&rows_tensor)?, bytemuck::cast_slice(&after), 4)?;
        return Ok(picked);
    }
    let host = |(logits, row): (&[f32], &Row)| {
        let u = crate::cpu::uniform(sampler.seed, row.position + 1, row.slot);
        [crate::cpu::pick(logits, sampler, u), logits.iter().filter(|v| !v.is_finite()).count() as u32]
    };
    Ok(x.chunks(n).zip(rows).flat_map(host).collect())
}

fn prepare(case: &Draw, inputs: &mut Inputs) -> (Vec<f32>, Vec<Row>) {
    let &Draw { m, n, logits, ref sampler } = case;
    let (mut x, mut rows) = (Vec::with_capacity(m * n), Vec::with_capacity(m));
    while rows.len() < m {
        let mut word = |bound: usize| inputs.below(bound) as u32;
        let mut row = Row { token: word(50257), slot: word(64), position: word(100_000), first: word(64) };
        if logits == Logits::FromZero {
            (row.slot, row.position) = (0, 9);
        }
        let u = reference::uniform(sampler.seed, row.position + 1, row.slot);
        let near = Logits::Near == logits;
        if near && !(0.51..0.99).contains(&u) {
            continue;
        }
        let logits = if near { two_tokens(n, u, sampler.temperature) } else { fill(n, logits, inputs) };
        let far = matches!(case.logits, Logits::Far(_));
        // Near a step the token that is drawn at a little more or less is another one.
        let margin = if far { 4.0 * widest(&logits, sampler) } else { 0.0 };
        let below = token(&logits, sampler, u - margin);
        if far && (below.is_none() || below != token(&logits, sampler, u + margin)) {
            continue;
        }
        x.extend(logits);
        rows.push(row);
    }
    (x, rows)
}

/// The first and the last of n tokens have all the weight, the first one `u` of it.
fn two_tokens(n: usize, u: f64, temperature: f32) -> Vec<f32> {
    let mut logits = vec![-1e30; n];
    logits[0] = (f64::from(temperature) * (u / (1.0 - u)).ln()) as f32;
    logits[n - 1] = 0.0;
    logits
}

fn fill(n: usize, logits: Logits, inputs: &mut Inputs) -> Vec<f32> {
    let mut x = inputs.uniform(n);
    let lucky = inputs.below(n);
    for (i, v) in x.iter_mut().enumerate() {
        let rare = inputs.below(5);
        *v = match logits {
            Logits::Scaled(factor) | Logits::Far(factor) => *v * factor,
            Logits::Equal(value) => value,
            Logits::Dominant(lead) => *v + if i == lucky { lead } else { 0.0 },
            Logits::Ties => (*v * 4.0).round() / 4.0,
            Logits::Extreme if rare < 2 => [f32::MAX, f32::MIN][rare],
            Logits::Faulty if rare < 3 => {
                [f32::from_bits(0x7fc0_0001), f32::INFINITY, f32::from_bits(0x7f80_0003)][rare].copysign(*v)
            }
            Logits::Last(lead) => *v + if i + 1 == n { lead } else { 0.0 },
            Logits::Zeros => 0.0f32.copysign(*v),
            Logits::Neighbours => f32::from_bits(1.0f32.to_bits() + (i * 7 % n) as u32),
            Logits::FromZero if i < 6.min(n - 1) => -1e30,
            Logits::Extreme | Logits::Faulty | Logits::Near | Logits::FromZero => *v,
        };
    }
    x
}

/// The candidates with their probabilities summed up: element i is what those before i have, relative to all of them.
fn cumulative(logits: &[f32], sampler: &Sampler) -> (Vec<u32>, Vec<f64>, f64) {
    let candidates = reference::candidates(logits, sampler);
    let total: f64 = candidates.iter().map(|(_, w)| w).sum();
    let mut sums = vec![0.0];
    let (mut sum, mut exps) = (0.0, 0.0);
    for (_, w) in &candidates {
        sum += w / total;
        sums.push(sum);
        // z is ln w; what has no weight adds no error.
        exps += if *w > 0.0 { w / total * (3.0 - 5.5 * w.ln()) } else { 0.0 };
    }
    (candidates.into_iter().map(|(id, _)| id).collect(), sums, exps)
}

/// The bound at the narrowest cut, where it is widest: what is left of the probability is what errors are relative to.
fn widest(logits: &[f32], sampler: &Sampler) -> f64 {
    let (ids, sums, exps) = cumulative(logits, sampler);
    bounds::step(exps, ids.len(), sampler.top_k > 0) / sums[1].max(f64::from(sampler.top_p).min(1.0))
}

/// What the twin draws at a uniform of ours.
fn token(logits: &[f32], sampler: &Sampler, u: f64) -> Option<u32> {
    let (ids, sums, _) = cumulative(logits, sampler);
    let kept = (1..ids.len()).find(|&i| sampler.top_p < 1.0 && sums[i] >= f64::from(sampler.top_p));
    let mass = sums[kept.unwrap_or(ids.len())];
    // Where the cut itself is in doubt there is no token.
    let doubtful = |sum: &f64| sampler.top_p < 1.0 && (sum - f64::from(sampler.top_p)).abs() < widest(logits, sampler);
    if sums.iter().any(doubtful) || !(0.0..1.0).contains(&u) {
        return None;
    }
    (0..ids.len()).find(|&i| sums[i + 1] > u * mass).map(|i| ids[i])
}

/// How far `u` is from the interval that draws `id`, over the bound; the least of it over all cuts by top-p that rounding
/// may lead to.
fn distance(logits: &[f32], sampler: &Sampler, u: f64, id: u32) -> f64 {
    let (ids, sums, exps) = cumulative(logits, sampler);
    let Some(at) = ids.iter().position(|&candidate| candidate == id) else { return f64::INFINITY };
    let bound = bounds::step(exps, ids.len(), sampler.top_k > 0);
    let top_p = f64::from(sampler.top_p);
    let of_cut = |kept: usize| {
        // The cut is right if those before the last one kept have less than top_p, and all that are kept have it.
        let early = if kept < ids.len() { (top_p - sums[kept]).max(0.0) } else { 0.0 };
        let late = if kept > 1 { (sums[kept - 1] - top_p).max(0.0) } else { 0.0 };
        let cut = if top_p < 1.0 { early.max(late) } else { 0.0 };
        let (low, high) = (sums[at] / sums[kept], sums[at + 1] / sums[kept]);
        let step = (low - u).max(u - high).max(0.0) * sums[kept];
        cut.max(step) / bound
    };
    let first = if top_p < 1.0 { at + 1 } else { ids.len() };
    (first..=ids.len()).map(of_cut).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::{Draw, Inputs, Logits, cumulative, draw};
    use crate::gpu::{ComputeBackend, GpuCompute};
    use crate::reference::{self, Row, Sampler};
    use crate::tensor::DType;
    use crate::verify::Layout;
    use crate::verify::runner::Bench;
    use crate::{Pass, cpu, ops};

    /// Both backends; the CPU backend alone where there is no adapter.
    fn backends() -> Vec<GpuCompute> {
        let open = |backend| GpuCompute::new(backend);
        let gpu = match open(ComputeBackend::Gpu) {
            Err(error) if std::env::var("GRISTMILL_REQUIRE_ADAPTER").is_ok_and(|v| v == "1") => panic!("{error}"),
            gpu => gpu.ok(),
        };
        if gpu.is_none() {
            eprintln!("SKIPPED on an adapter: there is none");
        }
        gpu.into_iter().chain(open(ComputeBackend::Cpu).ok()).collect()
    }

    fn sampler(top_k: usize, top_p: f32) -> Sampler {
        Sampler { temperature: 0.8, top_k, top_p, seed: 11 }
    }

    #[test]
    fn the_product_and_the_truth_have_one_uniform() {
        for i in 0..1000u32 {
            let seed = u64::from(i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let (position, slot) = (i.wrapping_mul(77_777), i % 65);
            assert_eq!(cpu::uniform(seed, position, slot), reference::uniform(seed, position, slot));
        }
    }

    /// Uniforms at the steps themselves draw other tokens than the twin in f32, all of them excused by the rule; and where
    /// uniforms are far from the steps, none is.
    #[test]
    fn tokens_differ_near_steps_and_nowhere_else() {
        for gpu in backends() {
            for (n, top_k) in [(2, 0), (300, 0), (300, 2)] {
                let count = |logits, m| {
                    let case = Draw { m, n, logits, sampler: sampler(top_k, 1.0) };
                    let drawn = draw(
                        &mut Bench::new(&gpu, Layout::Padded, &Pass::submit),
                        &case,
                        &mut Inputs::new("near and far"),
                    );
                    drawn.unwrap_or_else(|stop| panic!("{stop:?}"))
                };
                let near = count(Logits::Near, 1000);
                eprintln!("n={n}, k={top_k}: {} of 1000 differ, worst {}", near.differing, near.worst);
                assert!(near.worst <= 1.0);
                // In f64 they may agree on all; an adapter's f32 cannot.
                assert!(near.differing > 0 || !gpu.is_gpu());
                assert_eq!(count(Logits::Far(3.0), 1000).differing, 0);
            }
        }
    }

    /// 10^5 draws from one distribution, in rows of one dispatch.
    #[test]
    fn draws_follow_the_distribution() {
        const ROWS: usize = 4000;
        let logits: Vec<f32> = (0..24).map(|i| ((i * 7) % 24) as f32 / 8.0 - 1.0).collect();
        let n = logits.len();
        let x = logits.repeat(ROWS);
        // Chi-square at p = 0.001 of the degrees of freedom, candidates less one.
        let samplers = [(0, 1.0, 23, 49.7), (12, 0.7, 5, 20.5), (0, 0.7, 7, 24.3), (70, 1.0, 23, 49.7)];
        for gpu in backends() {
            for (top_k, top_p, degrees, limit) in samplers {
                let sampler = sampler(top_k, top_p);
                if gpu.is_gpu() && !sampler.on_device() {
                    continue;
                }
                let mut counts = vec![0u32; n];
                for block in 0..100_000 / ROWS {
                    let row =
                        |i: usize| Row { position: (block * ROWS + i) as u32, slot: i as u32 % 3, ..Row::default() };
                    let rows: Vec<Row> = (0..ROWS).map(row).collect();
                    let mut bench = Bench::new(&gpu, Layout::Padded, &Pass::submit);
                    let x = bench.input(&x, &[ROWS, n]).unwrap();
                    let mut rows = bench.input_u32(bytemuck::cast_slice(&rows), &[ROWS, 4]).unwrap();
                    let mut out = bench.output(&[ROWS, 2], DType::U32).unwrap();
                    bench.run(|pass| ops::sample(pass, &x, (&mut rows, false), &sampler, &mut out.tensor)).unwrap();
                    bench.read::<u32>(&out).unwrap().iter().step_by(2).for_each(|&id| counts[id as usize] += 1);
                }
                let (ids, sums, _) = cumulative(&logits, &sampler);
                let kept = (1..ids.len()).find(|&i| top_p < 1.0 && sums[i] >= f64::from(top_p)).unwrap_or(ids.len());
                assert_eq!(kept, degrees + 1, "top_k {top_k}, top_p {top_p}");
                assert_eq!(counts.iter().sum::<u32>(), 100_000);
                let mut chi = 0.0;
                for i in 0..kept {
                    let expected = 100_000.0 * (sums[i + 1] - sums[i]) / sums[kept];
                    chi += (f64::from(std::mem::take(&mut counts[ids[i] as usize])) - expected).powi(2) / expected;
                }
                assert!(chi < limit, "top_k {top_k}, top_p {top_p}: chi-square {chi} of {degrees} degrees");
                assert_eq!(counts, vec![0; n], "drawn, and no candidate");
            }
        }
    }

    #[test]
    fn impossible_samplers_are_refused_by_name() {
        let refused = |sampler: Sampler| sampler.validate().expect_err("a bad sampler").to_string();
        for temperature in [-1.0, f32::NAN, f32::INFINITY, 1e-40, 1e38] {
            assert!(refused(Sampler { temperature, ..Sampler::default() }).starts_with("temperature: "));
        }
        for top_p in [-0.1, 1.1, f32::NAN] {
            assert!(refused(Sampler { top_p, ..Sampler::default() }).starts_with("top_p: "));
        }
        assert!(sampler(0, 1.0).on_device() && sampler(64, 0.5).on_device() && Sampler::default().on_device());
        assert!(!sampler(0, 0.5).on_device() && !sampler(65, 1.0).on_device());
    }

    #[test]
    fn uniforms_fill_the_unit_interval() {
        for axis in 0..3 {
            let mut bins = [0u32; 64];
            for i in 0..64_000u32 {
                let u = match axis {
                    0 => cpu::uniform(u64::from(i), 5, 1),
                    1 => cpu::uniform(9, i, 0),
                    _ => cpu::uniform(9, 17, i),
                };
                bins[(u * 64.0) as usize] += 1;
            }
            // 1,000 expected per bin, standard deviation 31.
            assert!(bins.iter().all(|&n| (850..1150).contains(&n)), "axis {axis}: {bins:?}");
        }
    }
}
