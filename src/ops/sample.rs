//! Drawing the next token.

use super::{count, ensure, ensure_f32};
use crate::cpu;
use crate::error::{Error, Result};
use crate::kernel::kernels as k;
use crate::pass::Pass;
use crate::reference::Sampler;
use crate::tensor::{DType, Tensor};

/// The largest top-k that a device draws from.
pub const TOP_K: usize = 64;

impl Sampler {
    /// Whether a device chooses where the logits are. Top-p without a top-k, and a top-k above [`TOP_K`], are drawn on the
    /// host, from logits read back.
    pub fn on_device(&self) -> bool {
        self.temperature == 0.0 || if self.top_k == 0 { self.top_p >= 1.0 } else { self.top_k <= TOP_K }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::BadOption`] with the field's name.
    pub fn validate(&self) -> Result<()> {
        let bad = |option, message| Err(Error::BadOption { option, message });
        let Sampler { temperature, top_p, .. } = *self;
        // Beyond these there is nothing to divide by, or no device need divide by it.
        if !(temperature == 0.0 || temperature.is_normal() && temperature > 0.0 && temperature <= 2f32.powi(126)) {
            return bad("temperature", format!("{temperature:e} is neither 0 nor between 1.2e-38 and 8.5e37"));
        }
        if !(0.0..=1.0).contains(&top_p) {
            return bad("top_p", format!("{top_p} is not between 0 and 1"));
        }
        Ok(())
    }
}

/// out\[m,2\] (words) = for every row of the logits x\[m,n\]: a token drawn as `sampler` says, and how many logits are NaN or
/// infinite; where any are, the token means nothing. The token of row r is for the position after that of row r of
/// `rows`\[m,4\] (words, see [`Row`](crate::ops::Row)): the same seed, position, slot and logits draw the same token. With
/// `advance`, row r then has that token and that position: the rows of the next step, which so need not go through the host.
///
/// # Errors
/// [`Error::Shape`] if the dimensions disagree or n = 0; [`Error::BadOption`] for an impossible sampler, and for one that is
/// not [`on_device`](Sampler::on_device) on a device.
pub fn sample(
    pass: &mut Pass,
    x: &Tensor,
    (rows, advance): (&mut Tensor, bool),
    sampler: &Sampler,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "sample";
    let (m, n) = (x.rows(), x.columns());
    let fits = n > 0
        && (rows.rows(), rows.columns(), rows.dtype()) == (m, 4, DType::U32)
        && (out.rows(), out.columns(), out.dtype()) == (m, 2, DType::U32);
    ensure(OP, fits, || format!("{:?} at rows {rows:?} into {out:?}", x.shape()))?;
    ensure_f32(OP, &[x])?;
    sampler.validate()?;
    let &Sampler { temperature, top_k, top_p, seed } = sampler;
    if pass.is_cpu() {
        return cpu::sample(x, (rows, advance), sampler, out);
    }
    if !sampler.on_device() {
        let message =
            format!("{top_k} with top_p {top_p} is not drawn on a device: top_p needs a top_k, of at most {TOP_K}");
        return Err(Error::BadOption { option: "top_k", message });
    }
    let params = k::sample::Params {
        m: count(OP, m)?,
        n: count(OP, n)?,
        x_pitch: count(OP, x.pitch())?,
        out_pitch: count(OP, out.pitch())?,
        seed_low: seed as u32,
        seed_high: (seed >> 32) as u32,
        k: count(OP, top_k)?,
        top_p,
        temperature,
        // exp(-87) is the last normal one.
        lowest: (-43.5 * f64::from(temperature)).max(f64::from(f32::MIN)) as f32,
    };
    let candidates = if temperature == 0.0 { 2 } else { u32::from(top_k > 0) };
    let modes = k::sample::Modes { candidates, advance: advance.into() };
    let knobs = pass.knobs(out);
    let args = k::sample::Args { x, rows, out };
    pass.run(&args, params, (knobs, modes), k::sample::grid(&params, &knobs))
}
