//! Rotary positions: the frequencies that a config asks for, from the older `rope_theta` and `rope_scaling` or the newer
//! `rope_parameters`, with the precedence of `transformers` 5.23. All in f64, from libm, so that they are the same everywhere.

use std::f64::consts::PI;

use super::Config;
use super::keys::Keys;
use crate::error::{Error, Result};
use crate::ops::{Pairing, rope_frequencies};

/// Keys that an object of rope parameters may have; a type that has no use for one leaves it alone.
const KNOWN: [&str; 18] = [
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "low_freq_factor",
    "high_freq_factor",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "short_factor",
    "long_factor",
    "finetuned",
    "max_position_embeddings",
];

/// Rotary positions of queries and keys.
///
/// ```
/// let rotary = gristmill::model::Rotary::new(4, 10_000.0);
/// assert_eq!((rotary.dim(), rotary.frequencies), (4, vec![1.0, 0.01]));
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Rotary {
    /// Radians per position, one for each pair of elements; the first `2 * frequencies.len()` elements of a head are turned.
    pub frequencies: Vec<f64>,
    /// Factor of every cosine and sine.
    pub magnitude: f64,
    /// Which elements make a pair.
    pub pairing: Pairing,
    /// The base that the frequencies are powers of, before they were scaled.
    pub base: f64,
    /// How they were scaled: `default` is not at all.
    pub scaling: String,
}

impl Rotary {
    /// Unscaled, for heads of `head_dim`, paired as Hugging Face stores the weights.
    pub fn new(head_dim: usize, base: f64) -> Rotary {
        let frequencies = rope_frequencies(head_dim, base);
        Rotary { frequencies, magnitude: 1.0, pairing: Pairing::Halves, base, scaling: "default".to_owned() }
    }

    /// Elements of a head that are turned.
    pub fn dim(&self) -> usize {
        self.frequencies.len().saturating_mul(2)
    }

    /// Whether every frequency is a number that a table can hold.
    pub(super) fn is_finite(&self) -> bool {
        self.frequencies.iter().all(|f| f.is_finite() && f.abs() < 1e9) && (self.magnitude as f32).is_finite()
    }
}

/// The rotary positions of a config whose sizes are checked.
pub(super) fn read(keys: &Keys<'_>, config: &Config) -> Result<Rotary> {
    // The older name wins, as it does in transformers, which reads it into the newer one.
    let parameters = match keys.object("rope_scaling")? {
        Some(older) => older,
        None => keys.object("rope_parameters")?.unwrap_or_default(),
    };
    if let Some(key) = parameters.unknown(&KNOWN) {
        return Err(parameters.unsupported(key));
    }
    let base = parameters.positive("rope_theta")?.or(keys.positive("rope_theta")?).unwrap_or(10_000.0);
    let rotary = Rotary::new(config.head_dim, base);
    let kind = |key| parameters.parsed::<String>(key, "a name");
    let kind = kind("rope_type")?.or(kind("type")?).unwrap_or_else(|| "default".to_owned());
    let parameters = &parameters;
    let scaled = Scaled { keys, parameters, config, rotary };
    let rotary = match kind.as_str() {
        "proportional" => scaled.proportional()?,
        _ => {
            scaled.refuse_partial()?;
            match kind.as_str() {
                "default" => scaled.rotary,
                "linear" => scaled.linear()?,
                // It scales beyond `max_position_embeddings` only, and no session goes there.
                "dynamic" => scaled.rotary,
                "llama3" => scaled.llama3()?,
                "yarn" => scaled.yarn()?,
                _ => {
                    let key = if parameters.get("rope_type").is_some() { "rope_type" } else { "type" };
                    return Err(parameters.unsupported(key));
                }
            }
        }
    };
    if !rotary.is_finite() {
        return Err(parameters
            .bad("rope_theta", format!("{base:e}, scaled by `{kind}`, makes frequencies that are no numbers")));
    }
    Ok(Rotary { scaling: kind, ..rotary })
}

/// Frequencies, and what they are to be scaled by.
struct Scaled<'a> {
    /// Of the whole config.
    keys: &'a Keys<'a>,
    /// Of the object of rope parameters.
    parameters: &'a Keys<'a>,
    config: &'a Config,
    rotary: Rotary,
}

impl Scaled<'_> {
    /// The part of a head that is turned, if it is said.
    fn partial(&self) -> Result<f64> {
        let own = self.parameters.real("partial_rotary_factor")?;
        Ok(own.or(self.keys.real("partial_rotary_factor")?).unwrap_or(1.0))
    }

    /// These families turn whole heads; what transformers makes of a part differs from version to version.
    fn refuse_partial(&self) -> Result<()> {
        match self.partial()? {
            1.0 => Ok(()),
            _ if self.parameters.get("partial_rotary_factor").is_some() => {
                Err(self.parameters.unsupported("partial_rotary_factor"))
            }
            _ => Err(self.keys.unsupported("partial_rotary_factor")),
        }
    }

    /// A number above 0 that the type cannot do without.
    fn needed(&self, key: &str) -> Result<f64> {
        let missing = || self.parameters.bad(key, "is missing, and this type of rope needs it".to_owned());
        self.parameters.positive(key)?.ok_or_else(missing)
    }

    /// Positions the model was trained on before its context was stretched. A value beside the object goes before one in it.
    fn original_positions(&self) -> Result<f64> {
        const KEY: &str = "original_max_position_embeddings";
        let outer = self.keys.positive(KEY)?;
        Ok(outer.or(self.parameters.positive(KEY)?).unwrap_or(self.config.n_positions as f64))
    }

    fn map(self, f: impl Fn(f64) -> f64) -> Rotary {
        let frequencies = self.rotary.frequencies.iter().map(|&frequency| f(frequency)).collect();
        Rotary { frequencies, ..self.rotary }
    }

    /// All frequencies over a factor, as if positions were closer.
    fn linear(self) -> Result<Rotary> {
        let factor = self.needed("factor")?;
        Ok(self.map(|frequency| frequency / factor))
    }

    /// The last pairs of a head are not turned.
    fn proportional(self) -> Result<Rotary> {
        let factor = self.parameters.positive("factor")?.unwrap_or(1.0);
        let turned = (self.partial()? * self.config.head_dim as f64 / 2.0).floor();
        let mut rotary = self.map(|frequency| frequency / factor);
        for (pair, frequency) in rotary.frequencies.iter_mut().enumerate() {
            if pair as f64 >= turned {
                *frequency = 0.0;
            }
        }
        Ok(rotary)
    }

    /// Llama 3.1: waves longer than the original context are stretched by a factor, short ones stay, and those between are
    /// blended. Grattafiori et al. 2024, arXiv 2407.21783; the formula is that of the released code.
    fn llama3(self) -> Result<Rotary> {
        let (factor, original) = (self.needed("factor")?, self.original_positions()?);
        let (low, high) = (self.needed("low_freq_factor")?, self.needed("high_freq_factor")?);
        Ok(self.map(|frequency| {
            let wavelength = 2.0 * PI / frequency;
            if wavelength < original / high {
                return frequency;
            }
            if wavelength > original / low {
                return frequency / factor;
            }
            let smooth = (original / wavelength - low) / (high - low);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }))
    }

    /// See [`yarn`].
    fn yarn(self) -> Result<Rotary> {
        let original = self.original_positions()?;
        let factor = self.parameters.positive("factor")?.unwrap_or(self.config.n_positions as f64 / original);
        let non_zero = |key| Ok::<_, Error>(self.parameters.real(key)?.filter(|&v| v != 0.0));
        let (fast, slow) = (non_zero("beta_fast")?.unwrap_or(32.0), non_zero("beta_slow")?.unwrap_or(1.0));
        let truncate = self.parameters.flag("truncate", true)?;
        let magnitude = match self.parameters.real("attention_factor")? {
            Some(magnitude) => Some(magnitude),
            None => match (non_zero("mscale")?, non_zero("mscale_all_dim")?) {
                (Some(one), Some(all)) => Some(enlarged(factor, one) / enlarged(factor, all)),
                _ => None,
            },
        };
        let stretched = Yarn { factor, original, fast, slow, truncate };
        let rotary = yarn(self.rotary, &stretched).map_err(|message| self.parameters.bad("rope_theta", message))?;
        Ok(Rotary { magnitude: magnitude.unwrap_or(rotary.magnitude), ..rotary })
    }
}

/// What [`yarn`] stretches by.
pub(super) struct Yarn {
    /// Positions of the stretched context for each of the original one.
    pub(super) factor: f64,
    /// Positions the model was trained on before its context was stretched.
    pub(super) original: f64,
    /// Pairs that turn as often within them, or more often, stay.
    pub(super) fast: f64,
    /// Pairs that turn as often, or less often, are stretched.
    pub(super) slow: f64,
    /// Whether the ramp between them begins and ends at whole pairs.
    pub(super) truncate: bool,
}

/// YaRN: pairs that turn often within the original context stay, those that turn seldom are stretched, with a ramp between,
/// and all are enlarged. Peng et al. 2023, arXiv 2309.00071, sections 3.1 to 3.4.
///
/// # Errors
/// In words, if all pairs turn alike.
pub(super) fn yarn(rotary: Rotary, stretched: &Yarn) -> Result<Rotary, String> {
    let &Yarn { factor, original, fast, slow, truncate } = stretched;
    let (dim, base) = (rotary.dim() as f64, rotary.base);
    if base == 1.0 {
        return Err("a base of 1 makes all pairs turn alike, and yarn tells them apart".to_owned());
    }
    // The pair that turns so many times within the original context.
    let pair = |turns: f64| dim * libm::log(original / (turns * 2.0 * PI)) / (2.0 * libm::log(base));
    let (low, high) = match truncate {
        true => (pair(fast).floor(), pair(slow).ceil()),
        false => (pair(fast), pair(slow)),
    };
    let (low, high) = (low.max(0.0), high.min(dim - 1.0));
    let high = if low == high { high + 0.001 } else { high };
    let stretch = |(i, frequency): (usize, &f64)| {
        let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        frequency / factor * ramp + frequency * (1.0 - ramp)
    };
    let frequencies = rotary.frequencies.iter().enumerate().map(stretch).collect();
    Ok(Rotary { frequencies, magnitude: enlarged(factor, 1.0), scaling: "yarn".to_owned(), ..rotary })
}

/// 0.1 m ln(factor) + 1, for a context that is stretched.
fn enlarged(factor: f64, m: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * m * libm::log(factor) + 1.0 }
}
