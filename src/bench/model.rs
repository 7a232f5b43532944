//! A model reading a prompt and writing tokens, by llama-bench's tests: `pp` and `tg`, each at a depth.
//!
//! The names and columns are llama-bench's so that rows can be laid side by side, for that is what people know. A figure
//! without a depth says little: attention reads all that came before, and a model at depth 0 is faster than it will ever be
//! again. The tokens before are read once and the sequence is rewound after each repetition, so that each does the same
//! work. One difference is stated rather than hidden: our `tg` includes choosing the token on the device, which llama-bench
//! leaves out.

use std::time::{Duration, Instant};

use super::record::ModelRow;
use super::statistics::Estimate;
use crate::error::{Error, Result};
use crate::model::{Batch, GpuModel, Request, Sampler, SessionOptions};

/// The likeliest token each time.
const GREEDY: Sampler = Sampler { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };

/// What is timed.
///
/// ```
/// use gristmill::bench::{ModelTest, TestKind};
///
/// assert_eq!(ModelTest { kind: TestKind::Prompt(512), depth: 0 }.name(), "pp512"); // as llama-bench calls it
/// assert_eq!(ModelTest { kind: TestKind::Generation(128), depth: 512 }.name(), "tg128 @ d512");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestKind {
    /// Reading so many tokens at once (`pp`): to the logits of the last.
    Prompt(usize),
    /// Writing so many, one after the other (`tg`), the likeliest each time.
    Generation(usize),
}

/// A test, after so many tokens.
///
/// ```
/// use gristmill::bench::{ModelTest, TestKind};
/// use gristmill::model::Config;
/// use gristmill::{ComputeBackend, GpuCompute, GpuModel};
///
/// let config = Config::new(50, 16, 8, 2, 2); // vocabulary, context, width, layers, heads
/// let model = GpuModel::random(&GpuCompute::new(ComputeBackend::Cpu)?, &config, 1)?;
/// let row = ModelTest { kind: TestKind::Generation(4), depth: 8 }.run(&model, "random", 3)?;
/// assert_eq!((row.n_gen, row.n_depth, row.samples_ts.len()), (4, 8, 3));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelTest {
    /// What is timed.
    pub kind: TestKind,
    /// Tokens in the cache before.
    pub depth: usize,
}

impl ModelTest {
    /// `pp512`, `tg128 @ d512`.
    pub fn name(&self) -> String {
        let name = match self.kind {
            TestKind::Prompt(n) => format!("pp{n}"),
            TestKind::Generation(n) => format!("tg{n}"),
        };
        if self.depth == 0 { name } else { format!("{name} @ d{}", self.depth) }
    }

    /// Tokens read or written.
    pub fn tokens(&self) -> usize {
        match self.kind {
            TestKind::Prompt(n) | TestKind::Generation(n) => n,
        }
    }

    /// Tokens that the sequence has in the end. Writing begins after one token at least.
    pub fn context(&self) -> usize {
        let first = usize::from(matches!(self.kind, TestKind::Generation(_)));
        self.depth.saturating_add(self.tokens()).saturating_add(first)
    }

    /// Runs it once to warm up and `repetitions` times for the row. Sampling on the device is part of a `tg`; llama-bench
    /// leaves it out.
    ///
    /// # Errors
    /// [`Error::ContextFull`] if the context is too short; what the device says.
    pub fn run(&self, model: &GpuModel, name: &str, repetitions: usize) -> Result<ModelRow> {
        let mut runner = self.runner(model)?;
        runner.run()?;
        let times = (0..repetitions.max(1)).map(|_| runner.run()).collect::<Result<Vec<Duration>>>()?;
        Ok(self.row(model, name, &times))
    }

    /// Reads the tokens before, so that the test can be run as often as is wanted.
    ///
    /// # Errors
    /// As [`ModelTest::run`].
    pub fn runner(self, model: &GpuModel) -> Result<Runner> {
        let (needed, context) = (self.context(), model.config().n_positions);
        if needed > context {
            return Err(Error::ContextFull { have: needed, limit: context });
        }
        let mut batch = model.batch_with(1, &SessionOptions { context: needed, ..model.session_options() })?;
        if self.depth > 0 {
            batch.last_logits(&[(0, &ids(model, self.depth))])?;
        }
        Ok(Runner { test: self, ids: ids(model, self.tokens().max(1)), batch })
    }

    fn row(&self, model: &GpuModel, name: &str, times: &[Duration]) -> ModelRow {
        let rates: Vec<f64> = times.iter().map(|time| self.tokens() as f64 / time.as_secs_f64()).collect();
        let nanoseconds: Vec<f64> = times.iter().map(|time| time.as_nanos() as f64).collect();
        let ((avg_ns, stddev_ns), (avg_ts, stddev_ts)) = (mean(&nanoseconds), mean(&rates));
        let (n_prompt, n_gen) = match self.kind {
            TestKind::Prompt(n) => (n, 0),
            TestKind::Generation(n) => (0, n),
        };
        let kv = model.session_options().kv.name();
        let none = Estimate { median: f64::NAN, low: f64::NAN, high: f64::NAN };
        ModelRow {
            model_type: name.to_owned(),
            model_size: model.weight_bytes(),
            model_n_params: model.config().parameters().unwrap_or(0),
            n_prompt,
            n_gen,
            n_depth: self.depth,
            avg_ns: avg_ns as u64,
            stddev_ns: stddev_ns as u64,
            avg_ts,
            stddev_ts,
            samples_ns: nanoseconds.iter().map(|&ns| ns as u64).collect(),
            tokens_per_s: Estimate::of(&rates).unwrap_or(none),
            samples_ts: rates,
            type_k: kv.to_owned(),
            type_v: kv.to_owned(),
            flash_attn: true,
        }
    }
}

/// Ids that differ, none beyond the vocabulary.
fn ids(model: &GpuModel, count: usize) -> Vec<u32> {
    let vocab = model.config().vocab_size.max(1);
    (0..count).map(|i| ((i * 7919 + 13) % vocab) as u32).collect()
}

/// A test that is ready to run, again and again.
///
/// ```
/// use gristmill::bench::{ModelTest, TestKind};
/// use gristmill::model::Config;
/// use gristmill::{ComputeBackend, GpuCompute, GpuModel};
///
/// let config = Config::new(50, 16, 8, 2, 2); // vocabulary, context, width, layers, heads
/// let model = GpuModel::random(&GpuCompute::new(ComputeBackend::Cpu)?, &config, 1)?;
/// let mut runner = ModelTest { kind: TestKind::Prompt(8), depth: 4 }.runner(&model)?; // reads four tokens
/// let (first, again) = (runner.run()?, runner.run()?); // eight more, each time after those four
/// assert!(!first.is_zero() && !again.is_zero());
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug)]
pub struct Runner {
    test: ModelTest,
    ids: Vec<u32>,
    batch: Batch,
}

impl Runner {
    /// Runs it once.
    ///
    /// # Errors
    /// What the device says.
    pub fn run(&mut self) -> Result<Duration> {
        self.batch.rewind(0, self.test.depth)?;
        match self.test.kind {
            TestKind::Prompt(_) => {
                let start = Instant::now();
                self.batch.last_logits(&[(0, &self.ids)])?;
                Ok(start.elapsed())
            }
            TestKind::Generation(n) => {
                let prompt = self.ids.get(..1).unwrap_or_default();
                let start = Instant::now();
                let request = Request { slot: 0, prompt, max_tokens: n, stop: &[] };
                let written = self.batch.generate(&[request], GREEDY)?.collect::<Result<Vec<_>>>()?;
                let time = start.elapsed();
                match written.len() == n {
                    true => Ok(time),
                    false => Err(Error::ContextFull { have: written.len(), limit: n }),
                }
            }
        }
    }
}

/// Mean and standard deviation.
fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, if n > 1.0 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}
