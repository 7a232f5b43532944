//! Where the time of a token goes, or of a prompt: the device's time of every dispatch of the decoding plan as it is
//! replayed, or of a prompt's passes, and what is left of the wall's.
//!
//! A profile of ops run one at a time is of another program: it has gaps that decoding has not, and no step in flight. So
//! the plan itself is replayed with timestamps between its dispatches, after the same tokens were written without them, and
//! the difference of the two is what looking cost. The rows and [`Profile::other`] add up to the wall's time by definition:
//! what no dispatch accounts for has a row of its own and cannot hide.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Instant;

use crate::encode::{Clock, DispatchTime, PassTimes, Work};
use crate::error::{Error, Result};
use crate::model::batch::{Batch, block_rows};
use crate::model::generation::Request;
use crate::model::{Config, GpuModel, KvType, SessionOptions};
use crate::ops::Sampler;

/// Tokens before the clock starts.
const WARM_UP: usize = 3;
/// The likeliest token each time.
const GREEDY: Sampler = Sampler { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };

/// What the dispatches of one kernel take, per token or per prompt.
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
    /// How many a token has, or the prompt.
    pub dispatches: usize,
    /// Seconds on the device.
    pub seconds: f64,
    /// What they were estimated to cost.
    pub work: Work,
}

/// A token, or a prompt, accounted for: the rows and [`other`](Profile::other) add up to `seconds`.
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
    /// Seconds by the wall, with timestamps: of a token that is written, of all tokens of a prompt.
    pub seconds: f64,
    /// The same without them: what the timestamps cost is the difference.
    pub seconds_untimed: f64,
    /// By kernel, the longest first.
    pub rows: Vec<OpTime>,
}

impl Profile {
    /// Seconds that no dispatch accounts for: recording, submitting, the way back, and gaps between tokens.
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
        let mut batch = self.timed_batch(depth.saturating_add(tokens).saturating_add(WARM_UP))?;
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
            let position = depth - 1 + step;
            let attention = attention(self.config(), self.session_options().kv, position..position + 1);
            add(&mut rows, &self.gpu().wait(times)?, |_| attention);
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

    /// Reads a prompt of `tokens` tokens after `depth` others, to the logits of the last: once to warm up, once as always,
    /// and once with timestamps. What is accounted for is the prompt as a whole.
    ///
    /// # Errors
    /// As [`GpuModel::profile`]; [`Error::TooLarge`] for a model with more dispatches than a set of timestamps has room for.
    ///
    /// ```
    /// use gristmill::model::Config;
    /// use gristmill::{ComputeBackend, Error, GpuCompute, GpuModel};
    ///
    /// let config = Config::new(50, 16, 8, 2, 2); // vocabulary, context, width, layers, heads
    /// let model = GpuModel::random(&GpuCompute::new(ComputeBackend::Gpu)?, &config, 1)?;
    /// match model.profile_prompt(0, 8) {
    ///     Ok(profile) => {
    ///         let attention = profile.rows.iter().find(|row| row.op == "attention").expect("a layer has it");
    ///         assert_eq!((profile.tokens, attention.dispatches), (8, 2));
    ///     }
    ///     // Where timestamps cannot be written within a pass.
    ///     Err(error) => assert!(matches!(error, Error::Limit { .. })),
    /// }
    /// # Ok::<(), gristmill::Error>(())
    /// ```
    pub fn profile_prompt(&self, depth: usize, tokens: usize) -> Result<Profile> {
        let tokens = tokens.max(1);
        let mut batch = self.timed_batch(depth.saturating_add(tokens))?;
        if depth > 0 {
            batch.last_logits(&[(0, &vec![0; depth])])?;
        }
        let prompt = vec![0; tokens];
        let read = |batch: &mut Batch| -> Result<f64> {
            batch.rewind(0, depth)?;
            let start = Instant::now();
            batch.last_logits(&[(0, &prompt)])?;
            Ok(start.elapsed().as_secs_f64())
        };
        read(&mut batch)?;
        let seconds_untimed = read(&mut batch)?;
        batch.timings = Some(Vec::new());
        let seconds = read(&mut batch)?;
        let (block, layers) = (block_rows(self.gpu(), self.config()), self.config().n_layers.max(1));
        // A block of rows has an attention in each layer.
        let of_nth = |n: usize| {
            let first = (depth + n / layers * block).min(depth + tokens);
            attention(self.config(), self.session_options().kv, first..(first + block).min(depth + tokens))
        };
        let mut rows: Vec<OpTime> = Vec::new();
        let mut seen = 0;
        for times in batch.timings.take().unwrap_or_default() {
            add(&mut rows, &self.gpu().wait(times)?, |n| of_nth(seen + n));
            seen = rows.iter().filter(|row| looks_back(&row.kernel)).map(|row| row.dispatches).sum();
        }
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(Profile { tokens, position: depth, seconds, seconds_untimed, rows })
    }

    /// A batch for one sequence of `needed` tokens, on a device that times its dispatches.
    fn timed_batch(&self, needed: usize) -> Result<Batch> {
        if self.gpu().clock() < Some(Clock::Each) {
            let (op, limit) = ("a profile".to_owned(), "timestamps within a pass");
            return Err(Error::Limit { op, limit, wanted: 1, granted: 0 });
        }
        let limit = self.config().n_positions;
        if needed > limit {
            return Err(Error::ContextFull { have: needed, limit });
        }
        self.batch_with(1, &SessionOptions { context: needed, ..self.session_options() })
    }
}

/// Whether a kernel goes through the keys and values of all positions before.
fn looks_back(kernel: &str) -> bool {
    matches!(kernel, "attention" | "attention_broadcast" | "attention_tile" | "attention_decode")
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

/// Adds dispatches. How far attention looks is known on the device alone, and to the caller, for the nth of them that does.
fn add(rows: &mut Vec<OpTime>, times: &PassTimes, attention: impl Fn(usize) -> Work) {
    let mut looked = 0;
    for DispatchTime { op, kernel, seconds, work } in &times.dispatches {
        let work = if looks_back(kernel) {
            looked += 1;
            attention(looked - 1)
        } else {
            *work
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

/// Rows that each look at all positions up to their own: queries, keys, values and output. Keys and values are read once
/// for all of them.
fn attention(config: &Config, kv: KvType, positions: Range<usize>) -> Work {
    let (rows, width, kv_width) = (positions.len() as f64, config.q_width() as f64, config.kv_width() as f64);
    let (stored, end) = (kv.dtype().bytes() as f64, positions.end as f64);
    // The sum of `position + 1`.
    let pairs = rows * (positions.start as f64 + 1.0 + end) / 2.0;
    let (cached, new) = (2.0 * stored * end * kv_width, rows * 4.0 * (2.0 * width + 2.0 * kv_width));
    Work { flops: 4.0 * pairs * width, bytes: cached + new }
}
