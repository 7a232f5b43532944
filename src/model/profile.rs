//! Where the time of a token goes: the device's time of every dispatch of the decoding plan, as it is replayed, and what is
//! left of the wall's.
//!
//! A profile of ops run one at a time is of another program: it has gaps that decoding has not, and no step in flight. So
//! the plan itself is replayed with timestamps between its dispatches, after the same tokens were written without them, and
//! the difference of the two is what looking cost. The rows and [`Profile::other`] add up to the wall's time by definition:
//! what no dispatch accounts for has a row of its own and cannot hide.

use std::time::Instant;

use crate::encode::{Clock, DispatchTime, PassTimes, Work};
use crate::error::{Error, Result};
use crate::model::batch::Batch;
use crate::model::generation::Request;
use crate::model::{Config, GpuModel, KvType, SessionOptions};
use crate::ops::Sampler;
use std::borrow::Cow;

/// Tokens before the clock starts.
const WARM_UP: usize = 3;
/// The likeliest token each time.
const GREEDY: Sampler = Sampler { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };

/// What the dispatches of one kernel take, per token.
///
/// ```
/// use gristmill::model::Config;
/// use gristmill::{ComputeBackend, Error, GpuCompute, GpuModel};
///
/// let config = Config::new(50, 16, 8, 2, 2); // vocabulary, context, width, layers, heads
/// let model = GpuModel::random(&GpuCompute::new(ComputeBackend::Gpu)?, &config, 1)?;
/// match model.profile(4, 8) {
///     Ok(profile) => {
///         let op = &profile.rows[0]; // the longest
///         println!("{} times {}, {:.1} GB/s", op.dispatches, op.kernel, op.work.bytes / op.seconds / 1e9);
///         assert!(op.dispatches > 0 && op.seconds > 0.0);
///     }
///     // Where timestamps cannot be written within a pass.
///     Err(error) => assert!(matches!(error, Error::Limit { .. })),
/// }
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct OpTime {
    /// The op.
    pub op: Cow<'static, str>,
    /// The kernel.
    pub kernel: Cow<'static, str>,
    /// How many a token has.
    pub dispatches: usize,
    /// Seconds on the device.
    pub seconds: f64,
    /// What they were estimated to cost.
    pub work: Work,
}

/// A token, accounted for: the rows and [`other`](Profile::other) add up to `seconds`.
///
/// ```
/// use gristmill::model::Config;
/// use gristmill::{ComputeBackend, Error, GpuCompute, GpuModel};
///
/// let config = Config::new(50, 16, 8, 2, 2); // vocabulary, context, width, layers, heads
/// let model = GpuModel::random(&GpuCompute::new(ComputeBackend::Gpu)?, &config, 1)?;
/// match model.profile(4, 8) {
///     Ok(profile) => {
///         let dispatches: f64 = profile.rows.iter().map(|row| row.seconds).sum();
///         assert!((dispatches + profile.other() - profile.seconds).abs() < 1e-9);
///     }
///     // Where timestamps cannot be written within a pass.
///     Err(error) => assert!(matches!(error, Error::Limit { .. })),
/// }
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Profile {
    /// Tokens that were timed.
    pub tokens: usize,
    /// Position of the first of them.
    pub position: usize,
    /// Seconds a token by the wall, with timestamps.
    pub seconds: f64,
    /// Seconds a token by the wall, without them: what the timestamps cost is the difference.
    pub seconds_untimed: f64,
    /// By kernel, the longest first.
    pub rows: Vec<OpTime>,
}

impl Profile {
    /// Seconds a token that no dispatch accounts for: recording, submitting, the way back, and gaps between tokens.
    pub fn other(&self) -> f64 {
        self.seconds - self.rows.iter().map(|row| row.seconds).sum::<f64>()
    }
}

impl GpuModel {
    /// Writes `tokens` tokens after `depth` others, twice: as always, and with timestamps. The schedule is the same.
    ///
    /// # Errors
    /// [`Error::Limit`] where the device cannot time dispatches, as on the CPU backend; [`Error::ContextFull`].
    pub fn profile(&self, depth: usize, tokens: usize) -> Result<Profile> {
        let (tokens, depth) = (tokens.max(1), depth.max(1));
        if self.gpu().clock() < Some(Clock::Each) {
            let (op, limit) = ("a profile".to_owned(), "timestamps within a pass");
            return Err(Error::Limit { op, limit, wanted: 1, granted: 0 });
        }
        let (needed, limit) = (depth.saturating_add(tokens).saturating_add(WARM_UP), self.config().n_positions);
        if needed > limit {
            return Err(Error::ContextFull { have: needed, limit });
        }
        let mut batch = self.batch_with(1, &SessionOptions { context: needed, ..self.session_options() })?;
        let prompt = vec![0; depth];
        let (last, before) = prompt.split_last().ok_or(Error::EmptyPrompt)?;
        if !before.is_empty() {
            batch.last_logits(&[(0, before)])?;
        }
        let seconds_untimed = write(&mut batch, *last, tokens)?;
        batch.rewind(0, depth - 1)?;
        batch.timings = Some(Vec::new());
        let seconds = write(&mut batch, *last, tokens)?;
        let times = batch.timings.take().unwrap_or_default();
        let first = times.len().saturating_sub(tokens);
        let mut rows: Vec<OpTime> = Vec::new();
        for (step, times) in times.into_iter().enumerate().skip(first) {
            let attention = attention(self.config(), self.session_options().kv, depth - 1 + step);
            add(&mut rows, &self.gpu().wait(times)?, attention);
        }
        for row in &mut rows {
            let per_token = 1.0 / tokens as f64;
            row.seconds *= per_token;
            row.work = Work { flops: row.work.flops * per_token, bytes: row.work.bytes * per_token };
            row.dispatches /= tokens;
        }
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(Profile { tokens, position: depth - 1 + first, seconds, seconds_untimed, rows })
    }
}

/// Seconds a token, once the first few have come.
fn write(batch: &mut Batch, last: u32, tokens: usize) -> Result<f64> {
    let prompt = [last];
    let request = Request { slot: 0, prompt: &prompt, max_tokens: WARM_UP + tokens, stop: &[] };
    let mut start = Instant::now();
    for (i, token) in batch.generate(&[request], GREEDY)?.enumerate() {
        token?;
        if i + 1 == WARM_UP {
            start = Instant::now();
        }
    }
    Ok(start.elapsed().as_secs_f64() / tokens as f64)
}

/// Adds the dispatches of a token. How far attention looks is known on the device alone, and to the caller.
fn add(rows: &mut Vec<OpTime>, times: &PassTimes, attention: Work) {
    for DispatchTime { op, kernel, seconds, work } in &times.dispatches {
        let work = match &**kernel {
            "attention" | "attention_decode" => attention,
            _ => *work,
        };
        let row = match rows.iter_mut().position(|row| row.kernel == *kernel) {
            Some(known) => rows.get_mut(known),
            None => {
                rows.push(OpTime {
                    op: op.clone(),
                    kernel: kernel.clone(),
                    dispatches: 0,
                    seconds: 0.0,
                    work: Work::default(),
                });
                rows.last_mut()
            }
        };
        if let Some(row) = row {
            row.dispatches += 1;
            row.seconds += seconds;
            row.work = Work { flops: row.work.flops + work.flops, bytes: row.work.bytes + work.bytes };
        }
    }
}

/// One row that looks at all positions up to its own: queries, keys, values and output.
fn attention(config: &Config, kv: KvType, position: usize) -> Work {
    let (keys, width, kv_width) = ((position + 1) as f64, config.q_width() as f64, config.kv_width() as f64);
    let stored = kv.dtype().bytes() as f64;
    let (cached, new) = (2.0 * stored * keys * kv_width, 4.0 * (2.0 * width + 2.0 * kv_width));
    Work { flops: 4.0 * keys * width, bytes: cached + new }
}
