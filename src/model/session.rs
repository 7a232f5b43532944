//! One sequence: a batch of one slot; and what a batch is told when it is opened.
//!
//! It is what most callers want, and has no code of its own for computing: a second path would have to be tested against
//! the first for ever. A session borrows nothing and owns its cache, so that it can outlive the handle it was opened by.
//! Errors about the caller's tokens come before anything changes; a session that refused a prompt goes on as if it had not
//! been asked.

use std::num::NonZero;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::batch::Batch;
use crate::model::config::Config;
use crate::model::generation::{BatchGeneration, Request, StopReason};
use crate::ops::Sampler;
use crate::tensor::DType;

/// The context of a session that does not ask for another one, where the model has as many positions.
const CONTEXT: usize = 4096;

/// How keys and values are kept.
///
/// ```
/// use gristmill::model::KvType;
///
/// assert_eq!((KvType::default(), KvType::F16.name()), (KvType::F32, "f16"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KvType {
    /// As computed.
    #[default]
    F32,
    /// Rounded to halves: half the memory. Beyond 65504 they are no numbers, and then the logits are an error.
    F16,
}

impl KvType {
    /// Its name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
        }
    }

    pub(crate) fn dtype(self) -> DType {
        match self {
            KvType::F32 => DType::F32,
            KvType::F16 => DType::F16,
        }
    }
}

/// How the step of a token is cut into dispatches. What is computed is the same, up to rounding.
///
/// ```
/// use gristmill::model::{Config, Dispatches, SessionOptions};
/// use gristmill::{ComputeBackend, GpuCompute, GpuModel};
///
/// let config = Config::new(50, 16, 8, 2, 2); // vocabulary, positions, width, layers, heads
/// let model = GpuModel::random(&GpuCompute::new(ComputeBackend::Gpu)?, &config, 1)?;
/// let count = |dispatches| -> gristmill::Result<u64> {
///     let mut session = model.session_with(&SessionOptions { dispatches, ..model.session_options() })?;
///     let before = model.gpu().stats().dispatches;
///     session.generate(&[3], session.default_options())?.take(5).for_each(drop);
///     Ok(model.gpu().stats().dispatches - before)
/// };
/// assert!(count(Dispatches::Fewest)? < count(Dispatches::Apart)?);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dispatches {
    /// What suits the adapter: the fewest on hardware, where each costs microseconds.
    #[default]
    Auto,
    /// Norms, gates, rotations and additions within products and attention, which compute some of them more than once.
    Fewest,
    /// Norms by themselves: where processors compute what adapters do, arithmetic is dear and dispatches are not.
    Apart,
}

/// What a session, or each slot of a batch, can hold.
///
/// ```
/// use gristmill::model::{Config, KvType, SessionOptions};
/// use gristmill::{ComputeBackend, GpuCompute, GpuModel};
///
/// let config = Config::new(50, 16, 8, 2, 2); // vocabulary, positions, width, layers, heads
/// let model = GpuModel::random(&GpuCompute::new(ComputeBackend::Cpu)?, &config, 1)?;
/// let options = SessionOptions { context: 8, kv: KvType::F16, ..SessionOptions::new(&config) };
/// let mut session = model.session_with(&options)?;
/// assert_eq!(session.context(), 8);
/// assert!(session.logits(&[1; 9]).is_err());
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOptions {
    /// Tokens at most; no more than the model has positions. Memory for all of them is taken at once.
    pub context: usize,
    /// How keys and values are kept.
    pub kv: KvType,
    /// How the step of a token is cut into dispatches.
    pub dispatches: Dispatches,
    /// Parts that a step's attention cuts the positions into, a workgroup for each and one more dispatch to put them together;
    /// `None`: as many as keep the adapter busy, on software adapters one. What is computed is the same, up to rounding.
    pub parts: Option<NonZero<usize>>,
}

impl SessionOptions {
    /// As many tokens as the model has positions, up to 4096; keys and values as computed.
    pub fn new(config: &Config) -> SessionOptions {
        let context = config.n_positions.min(CONTEXT);
        SessionOptions { context, kv: KvType::F32, dispatches: Dispatches::Auto, parts: None }
    }

    /// # Errors
    /// [`Error::BadOption`] for what the model does not have.
    pub(crate) fn validate(&self, config: &Config) -> Result<()> {
        let positions = config.n_positions;
        if !(1..=positions).contains(&self.context) {
            let message = format!("{} is not between 1 and the model's {positions} positions", self.context);
            return Err(Error::BadOption { option: "context", message });
        }
        if self.kv == KvType::F16 && !config.head_dim.is_multiple_of(2) {
            let message = format!("f16 needs heads of an even width, not of {}", config.head_dim);
            return Err(Error::BadOption { option: "kv", message });
        }
        Ok(())
    }
}

/// One sequence on a model.
///
/// ```
/// use gristmill::model::Config;
/// use gristmill::{ComputeBackend, GpuCompute, GpuModel};
///
/// let config = Config::new(50, 16, 8, 2, 2); // vocabulary, context, width, layers, heads
/// let model = GpuModel::random(&GpuCompute::new(ComputeBackend::Cpu)?, &config, 1)?;
/// let mut session = model.session()?;
/// let logits = session.logits(&[3, 1, 4])?;
/// assert_eq!(logits.len(), 3 * 50);
/// session.rewind(2)?;
/// assert_eq!(session.logits(&[4])?.len(), 50); // the same row again
/// # Ok::<(), gristmill::Error>(())
/// ```
pub struct Session {
    batch: Batch,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("tokens", &self.tokens().len()).finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(model: Arc<Model>, options: &SessionOptions) -> Result<Session> {
        Ok(Session { batch: Batch::new(model, 1, options)? })
    }

    /// The sequence so far.
    pub fn tokens(&self) -> &[u32] {
        self.batch.tokens(0)
    }

    /// The most tokens the sequence can have.
    pub fn context(&self) -> usize {
        self.batch.context()
    }

    /// Greedy, until the context is full or the model's end token came.
    pub fn default_options(&self) -> GenerateOptions {
        let stop = self.batch.model.config.eos.clone();
        GenerateOptions { max_tokens: usize::MAX, stop, sampler: Sampler::default() }
    }

    /// Forgets all tokens but the first `len`.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are fewer.
    pub fn rewind(&mut self, len: usize) -> Result<()> {
        self.batch.rewind(0, len)
    }

    /// Appends tokens and returns the logits `[tokens, vocab]` of each.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TokenOutOfRange`], [`Error::ContextFull`], with the session unchanged; the device's.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.batch.logits(&[(0, tokens)]).map(|of_slots| of_slots.concat())
    }

    /// Appends tokens and returns, for each but the last, -ln of the probability that the model gave to its successor.
    /// `done` is told how many are finished.
    ///
    /// # Errors
    /// As [`Session::logits`]; [`Error::NonFinite`].
    pub fn nll(&mut self, tokens: &[u32], mut done: impl FnMut(usize)) -> Result<Vec<f64>> {
        self.batch.check(self.tokens().len(), tokens)?;
        let vocab = self.batch.model.config.vocab_size;
        let mut nll = Vec::with_capacity(tokens.len());
        for block in tokens.chunks(self.batch.logits_rows()) {
            let logits = self.logits(block)?;
            for row in logits.chunks(vocab) {
                let Some(&next) = tokens.get(nll.len() + 1) else { break };
                nll.push(negative_log_likelihood(row, next as usize)?);
            }
            done(nll.len());
        }
        Ok(nll)
    }

    /// Appends a prompt and writes on. With an empty prompt it goes on from where the sequence ends.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`] if there is nothing to go on from; [`Error::TokenOutOfRange`], [`Error::ContextFull`],
    /// [`Error::BadOption`] for an impossible sampler, with the session unchanged.
    pub fn generate(&mut self, prompt: &[u32], options: GenerateOptions) -> Result<Generation<'_>> {
        let GenerateOptions { max_tokens, stop, sampler } = options;
        let request = Request { slot: 0, prompt, max_tokens, stop: &stop };
        Ok(Generation(self.batch.generate(&[request], sampler)?))
    }

    /// Makes it the session of `tokens` alone; they are yet to be given to it.
    ///
    /// # Errors
    /// What is wrong with `tokens`, with the session unchanged.
    pub(crate) fn restart(&mut self, tokens: &[u32]) -> Result<()> {
        self.batch.check(0, tokens)?;
        self.rewind(0)
    }
}

/// -ln softmax(logits)\[token\], in f64.
fn negative_log_likelihood(logits: &[f32], token: usize) -> Result<f64> {
    let faults = logits.iter().filter(|v| !v.is_finite()).count();
    if faults > 0 {
        return Err(Error::NonFinite { what: "logits".to_owned(), count: faults as u64 });
    }
    let max = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    let sum: f64 = logits.iter().map(|&v| (f64::from(v) - max).exp()).sum();
    let vocab = logits.len();
    let logit = logits.get(token).ok_or(Error::TokenOutOfRange { token: token as u64, vocab })?;
    Ok(max + sum.ln() - f64::from(*logit))
}

/// When to stop, and how to choose.
///
/// ```
/// use gristmill::model::{Config, GenerateOptions, Sampler};
/// use gristmill::{ComputeBackend, GpuCompute, GpuModel};
///
/// let config = Config::new(50, 16, 8, 2, 2); // vocabulary, context, width, layers, heads
/// let model = GpuModel::random(&GpuCompute::new(ComputeBackend::Cpu)?, &config, 1)?;
/// let mut session = model.session()?;
/// let sampler = Sampler { temperature: 0.8, top_k: 40, top_p: 0.95, seed: 7 };
/// let options = GenerateOptions { max_tokens: 4, sampler, ..session.default_options() };
/// let drawn = session.generate(&[3, 1], options.clone())?.collect::<Result<Vec<u32>, _>>()?;
/// let again = model.session()?.generate(&[3, 1], options)?.collect::<Result<Vec<u32>, _>>()?;
/// assert!(drawn.len() == 4 && drawn == again); // one seed, one text
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// New tokens at most.
    pub max_tokens: usize,
    /// Tokens that end the text; the one that came is the last that is returned.
    pub stop: Vec<u32>,
    /// How the next token is chosen.
    pub sampler: Sampler,
}

/// New tokens, one by one. Dropping it keeps those that were returned.
///
/// ```
/// use gristmill::model::{Config, GenerateOptions, StopReason};
/// use gristmill::{ComputeBackend, GpuCompute, GpuModel};
///
/// let config = Config::new(50, 16, 8, 2, 2); // vocabulary, context, width, layers, heads
/// let model = GpuModel::random(&GpuCompute::new(ComputeBackend::Cpu)?, &config, 1)?;
/// let mut session = model.session()?;
/// let options = GenerateOptions { max_tokens: 4, ..session.default_options() };
/// let mut generation = session.generate(&[3, 1], options)?;
/// while let Some(token) = generation.next() {
///     println!("{}", token?);
/// }
/// assert_eq!(generation.stop_reason(), Some(StopReason::MaxTokens));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug)]
pub struct Generation<'a>(BatchGeneration<'a>);

impl Generation<'_> {
    /// Why it ended; `None` while it has not, and after an error.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.0.stop_reason(0)
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Result<u32>> {
        Some(self.0.next()?.map(|(_, token)| token))
    }
}
