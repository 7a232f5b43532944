//! Rows of sample.
//!
//! Each way of drawing has code of its own, so each is tried on flat, peaked, tied and extreme logits and at the borders of
//! its options; seeds differ in both halves from case to case, but for those whose seed is the point.

use super::Table;
use crate::reference::Sampler;
use crate::verify::sample::{Draw, Logits, ZERO_SEED, sample};

type Case = (&'static str, (usize, usize), Logits, Sampler);

pub(super) fn samples(table: &mut Table) {
    let mut cases = Vec::new();
    shapes(&mut cases);
    samplers(&mut cases);
    logits(&mut cases);
    for (i, (class, (m, n), logits, sampler)) in cases.into_iter().enumerate() {
        let Sampler { temperature, top_k, top_p, .. } = sampler;
        let detail =
            format!("m={m},n={n} {logits:?} temperature={temperature} top_k={top_k} top_p={top_p}").to_lowercase();
        // Each case has a seed of its own, in both halves, but for those whose seed is the point.
        let own = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(i as u64 + 1);
        let sampler = Sampler { seed: if sampler.seed == 0 { own } else { sampler.seed }, ..sampler };
        let case = Draw { m, n, logits, sampler };
        // A row takes a whole workgroup, however short it is.
        let work = m * n.max(256);
        table.row(("sample", class), &detail, work, move |bench, inputs| sample(bench, &case, inputs));
    }
}

fn warm(temperature: f32, top_k: usize, top_p: f32) -> Sampler {
    Sampler { temperature, top_k, top_p, seed: 0 }
}

fn shapes(cases: &mut Vec<Case>) {
    let spread = Logits::Scaled(4.0);
    for (top_k, top_p) in [(0, 1.0), (40, 0.9)] {
        let sampler = warm(0.8, top_k, top_p);
        cases.push(("no rows", (0, 5), spread, sampler));
        cases.push(("folded grid", (65_601, 3), spread, sampler));
        cases.push(("vocabulary", (3, 50257), spread, sampler));
        cases.push(("one dominant", (3, 1000), Logits::Dominant(20.0), sampler));
        for n in [1, 2, 3] {
            cases.push(("few tokens", (7, n), spread, sampler));
        }
        for n in [63, 64, 65, 255, 256, 257, 1000, 4099] {
            cases.push(("length", (3, n), spread, sampler));
        }
    }
}

fn samplers(cases: &mut Vec<Case>) {
    let spread = Logits::Scaled(4.0);
    for n in [3, 65, 1000] {
        cases.push(("greedy", (5, n), Logits::Ties, warm(0.0, 40, 0.5)));
        for top_k in [1, 2, 40, 64] {
            cases.push(("top-k", (9, n), spread, warm(0.9, top_k, 1.0)));
        }
        for top_p in [0.0, 0.1, 0.5, 0.95, 1.0] {
            cases.push(("top-p", (9, n), spread, warm(1.1, 64, top_p)));
        }
        for (top_k, top_p) in [(0, 0.9), (0, 0.0), (65, 1.0), (200, 0.7)] {
            cases.push(("drawn on the host", (9, n), spread, warm(1.0, top_k, top_p)));
        }
    }
    for temperature in [1e-30, 1e-3, 0.03, 1.0, 7.0, 100.0, 8e37] {
        for (top_k, top_p) in [(0, 1.0), (20, 0.8)] {
            cases.push(("temperature", (9, 300), spread, warm(temperature, top_k, top_p)));
        }
    }
}

fn logits(cases: &mut Vec<Case>) {
    for (top_k, top_p) in [(0, 1.0), (5, 1.0), (64, 0.6)] {
        let sampler = warm(0.7, top_k, top_p);
        for n in [4, 64, 500] {
            cases.push(("ties", (5, n), Logits::Ties, sampler));
            cases.push(("extremes", (5, n), Logits::Extreme, sampler));
            cases.push(("NaN and infinities", (5, n), Logits::Faulty, sampler));
        }
        for value in [0.0, -3e38, 1e30] {
            cases.push(("all equal", (5, 257), Logits::Equal(value), sampler));
        }
        for (n, factor) in [(2, 2.0), (66, 4.0), (3000, 20.0)] {
            cases.push(("far from steps", (40, n), Logits::Far(factor), sampler));
        }
    }
    for (top_k, top_p) in [(0, 1.0), (64, 1.0), (5, 0.9)] {
        let sampler = warm(0.7, top_k, top_p);
        cases.push(("a small seed", (20, 1000), Logits::Scaled(4.0), Sampler { seed: 1, ..sampler }));
        cases.push(("a uniform of 0", (1, 1000), Logits::FromZero, Sampler { seed: ZERO_SEED, ..sampler }));
        cases.push(("the last token", (5, 1024), Logits::Last(30.0), sampler));
        cases.push(("the last token", (5, 256), Logits::Last(30.0), sampler));
        cases.push(("zeros of both signs", (40, 100), Logits::Zeros, sampler));
        cases.push(("neighbours", (40, 300), Logits::Neighbours, sampler));
    }
    // Ties at the border of the largest k, and a share that is reached exactly.
    cases.push(("all equal", (400, 200), Logits::Equal(1.5), warm(0.7, 64, 1.0)));
    cases.push(("all equal", (60, 200), Logits::Equal(1.5), warm(0.7, 4, 0.5)));
    for (n, top_k) in [(2, 0), (900, 0), (2, 2), (900, 40)] {
        cases.push(("near steps", (40, n), Logits::Near, warm(0.7, top_k, 1.0)));
    }
}
