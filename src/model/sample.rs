//! Choosing a token from logits, on the host.

use crate::error::{Error, Result};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Sampler {
    /// The largest logit, the lowest id on a tie. Chosen on the device.
    #[default]
    Greedy,
    /// From softmax(logits / temperature). Chosen on the host, from logits read back.
    Temperature {
        /// Above 0.
        temperature: f32,
        /// The same seed, model and prompt give the same tokens.
        seed: u64,
    },
}

impl Sampler {
    /// Whether the token is chosen where the logits are, so that they need not be read back.
    pub fn on_device(&self) -> bool {
        matches!(self, Sampler::Greedy)
    }
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

/// A token from softmax(logits / temperature), by the uniform `u`: the first whose cumulative probability exceeds it.
pub(crate) fn draw(logits: &[f32], temperature: f32, u: f64) -> Result<u32> {
    let faults = logits.iter().filter(|v| !v.is_finite()).count();
    if faults > 0 {
        return Err(Error::NonFinite { what: "logits".to_owned(), count: faults as u64 });
    }
    let max = logits.iter().copied().fold(f32::MIN, f32::max);
    let weight = |&logit: &f32| (f64::from(logit - max) / f64::from(temperature)).exp();
    let mut left = u * logits.iter().map(weight).sum::<f64>();
    let mut last_possible = 0;
    for (id, logit) in (0u32..).zip(logits) {
        let weight = weight(logit);
        if weight > 0.0 {
            last_possible = id;
        }
        left -= weight;
        if left < 0.0 {
            return Ok(id);
        }
    }
    // Rounding may leave a remainder past the last one.
    Ok(last_possible)
}

#[cfg(test)]
mod tests {
    use super::{draw, uniform};

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.0f32, 1.0, -1.0, 2.0, -30.0];
        let temperature = 0.8;
        let weights: Vec<f64> = logits.iter().map(|l| (f64::from(*l) / 0.8).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut counts = [0u32; 5];
        let draws = 100_000;
        for position in 0..draws {
            counts[draw(&logits, temperature, uniform(7, position, 0)).unwrap() as usize] += 1;
        }
        // Chi-square with 3 degrees of freedom (the last outcome is impossible in practice): 16.3 is p = 0.001.
        let mut chi = 0.0;
        for (count, weight) in counts.iter().zip(&weights).take(4) {
            let expected = f64::from(draws) * weight / total;
            chi += (f64::from(*count) - expected).powi(2) / expected;
        }
        assert!(chi < 16.3, "chi-square {chi}, counts {counts:?}");
        assert_eq!(counts[4], 0);
    }

    #[test]
    fn uniforms_fill_the_unit_interval() {
        for axis in 0..3 {
            let mut bins = [0u32; 64];
            for i in 0..64_000u32 {
                let u = match axis {
                    0 => uniform(u64::from(i), 5, 1),
                    1 => uniform(9, i, 0),
                    _ => uniform(9, 17, i),
                };
                bins[(u * 64.0) as usize] += 1;
            }
            // 1,000 expected per bin, standard deviation 31.
            assert!(bins.iter().all(|&n| (850..1150).contains(&n)), "axis {axis}: {bins:?}");
        }
    }

    #[test]
    fn faults_are_errors() {
        assert!(draw(&[0.0, f32::NAN], 1.0, 0.5).is_err());
        assert_eq!(draw(&[3.0], 1.0, 0.999).unwrap(), 0);
        // A tiny temperature is greedy and does not overflow.
        assert_eq!(draw(&[1.0, 88.0, -88.0], 1e-6, 0.999).unwrap(), 1);
    }
}
