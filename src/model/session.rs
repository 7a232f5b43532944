//! One sequence: its key-value cache, its tokens, and the loop that writes more of them.
//!
//! Greedy decoding keeps the token on the device. A step is a recorded plan, replayed: embed, blocks, head, argmax, and
//! `advance`, which writes the picked token and the next position into the rows that the next step reads. So step t+1 is
//! submitted before t is read back, [`AHEAD`] steps are in flight, and each costs one readback of a few bytes. What was
//! computed past a stop token is never looked at; its place in the cache is overwritten by whatever comes next.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::sample::{Sampler, draw, uniform};
use crate::model::transformer::{KvCache, forward, head};
use crate::ops::{self, Row};
use crate::pass::{Pass, Plan};
use crate::result::AsyncGpuResult;
use crate::tensor::Tensor;

/// Steps in flight while decoding.
const AHEAD: usize = 2;
/// Rows of one block of a prompt.
const BLOCK_ROWS: usize = 256;
/// Logits read back at a time, in elements.
const LOGITS_BLOCK: usize = 4 << 20;

/// One sequence on a model.
pub struct Session {
    model: Arc<Model>,
    cache: KvCache,
    tokens: Vec<u32>,
    /// How many of `tokens` have their keys and values in the cache.
    cached: usize,
    decoder: Option<Decoder>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("tokens", &self.tokens.len()).field("cached", &self.cached).finish()
    }
}

/// The tensors that steps hand each other, and the step itself. On the CPU backend there is no plan: steps run at once.
struct Decoder {
    /// `[1, 4]`: the row of the next step.
    rows: Tensor,
    /// `[1, 2]`: token and fault count of the last step.
    picked: Tensor,
    plan: Option<Plan>,
}

/// What to do with the last hidden states of a run.
enum Want {
    /// Logits of every new row.
    All,
    /// Logits of the last row.
    Last,
    /// The device picks from the last row and makes ready for the next step.
    Pick,
}

/// What a run returns: logits, or the picked token and fault count on their way.
enum Got {
    Logits(Vec<f32>),
    Picked(AsyncGpuResult<Vec<u32>>),
}

impl Session {
    pub(crate) fn new(model: Arc<Model>) -> Result<Session> {
        let cache = KvCache::new(&model.gpu, &model.config, 1)?;
        Ok(Session { model, cache, tokens: Vec::new(), cached: 0, decoder: None })
    }

    /// The sequence so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The most tokens the sequence can have.
    pub fn context(&self) -> usize {
        self.model.config.n_positions
    }

    /// Greedy, until the context is full or the model's end token came.
    pub fn default_options(&self) -> GenerateOptions {
        let stop = self.model.config.eos.clone();
        GenerateOptions { max_tokens: usize::MAX, stop, sampler: Sampler::Greedy }
    }

    /// Forgets all tokens but the first `len`.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are fewer.
    pub fn rewind(&mut self, len: usize) -> Result<()> {
        if len > self.tokens.len() {
            let message = format!("to {len} tokens of {}", self.tokens.len());
            return Err(Error::Shape { op: "rewind", message });
        }
        self.tokens.truncate(len);
        self.cached = self.cached.min(len);
        Ok(())
    }

    /// Appends tokens and returns the logits `[tokens, vocab]` of each.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TokenOutOfRange`], [`Error::ContextFull`], with the session unchanged; the device's.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.append(tokens)?;
        let vocab = self.model.config.vocab_size;
        // Tokens that a generation left uncached come first; their logits were not asked for.
        let extra = self.tokens.len() - self.cached - tokens.len();
        match self.run(Want::All)? {
            Got::Logits(logits) => Ok(logits.get(extra * vocab..).unwrap_or_default().to_vec()),
            Got::Picked(_) => Ok(Vec::new()),
        }
    }

    /// Appends tokens and returns, for each but the last, -ln of the probability that the model gave to its successor.
    /// `done` is told how many are finished.
    ///
    /// # Errors
    /// As [`Session::logits`]; [`Error::NonFinite`].
    pub fn nll(&mut self, tokens: &[u32], mut done: impl FnMut(usize)) -> Result<Vec<f64>> {
        self.check(self.tokens.len(), tokens)?;
        let vocab = self.model.config.vocab_size;
        let mut nll = Vec::with_capacity(tokens.len());
        for block in tokens.chunks(self.logits_rows()) {
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
    /// [`Error::EmptyPrompt`] if there is nothing to go on from; [`Error::TokenOutOfRange`], [`Error::ContextFull`], with
    /// the session unchanged.
    pub fn generate(&mut self, prompt: &[u32], options: GenerateOptions) -> Result<Generation<'_>> {
        if let Sampler::Temperature { temperature, .. } = options.sampler
            && !(temperature.is_finite() && temperature > 0.0)
        {
            let message = format!("temperature {temperature}; it must be above 0");
            return Err(Error::Shape { op: "generate", message });
        }
        if prompt.is_empty() && self.tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if !prompt.is_empty() {
            self.append(prompt)?;
        }
        // The last token is read again if need be: its logits choose the next.
        self.cached = self.cached.min(self.tokens.len() - 1);
        let room = self.context() - self.tokens.len();
        let limit = options.max_tokens.min(room);
        let (stop_reason, failed) = (None, false);
        Ok(Generation {
            session: self,
            options,
            limit,
            pending: VecDeque::new(),
            submitted: 0,
            emitted: 0,
            stop_reason,
            failed,
        })
    }

    /// Makes it the session of `tokens` alone; they are yet to be given to it.
    ///
    /// # Errors
    /// What is wrong with `tokens`, with the session unchanged.
    pub(crate) fn restart(&mut self, tokens: &[u32]) -> Result<()> {
        self.check(0, tokens)?;
        self.rewind(0)
    }

    /// Whether `tokens` may follow `have` others.
    fn check(&self, have: usize, tokens: &[u32]) -> Result<()> {
        let vocab = self.model.config.vocab_size;
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if let Some(&token) = tokens.iter().find(|token| **token as usize >= vocab) {
            return Err(Error::TokenOutOfRange { token: u64::from(token), vocab });
        }
        let have = have.saturating_add(tokens.len());
        if have > self.context() {
            return Err(Error::ContextFull { have, limit: self.context() });
        }
        Ok(())
    }

    fn append(&mut self, tokens: &[u32]) -> Result<()> {
        self.check(self.tokens.len(), tokens)?;
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    /// Computes the tokens that are not cached yet, in blocks.
    fn run(&mut self, want: Want) -> Result<Got> {
        let model = Arc::clone(&self.model);
        let (block_rows, logits_rows) = (self.block_rows(), self.logits_rows());
        let mut logits = Vec::new();
        loop {
            let start = self.cached;
            let end = self.tokens.len().min(start + block_rows);
            let mut pass = model.gpu.pass();
            let rows = self.rows(start, end)?;
            let x = forward(&mut pass, &model, &mut self.cache, &rows, true)?;
            let last = end == self.tokens.len();
            match want {
                Want::All => {
                    for first in (0..end - start).step_by(logits_rows) {
                        let m = logits_rows.min(end - start - first);
                        let block = head(&mut pass, &model, &x, first, m)?;
                        let result = pass.read::<f32>(&block)?;
                        pass.flush()?;
                        logits.extend(model.gpu.wait(result)?);
                    }
                }
                Want::Last if last => {
                    let row = head(&mut pass, &model, &x, end - start - 1, 1)?;
                    let result = pass.read(&row)?;
                    pass.flush()?;
                    logits = model.gpu.wait(result)?;
                }
                Want::Pick if last => {
                    let row = head(&mut pass, &model, &x, end - start - 1, 1)?;
                    let picked = self.pick(&mut pass, &row, end)?;
                    pass.submit()?;
                    self.cached = end;
                    return Ok(Got::Picked(picked));
                }
                Want::Last | Want::Pick => pass.submit()?,
            }
            self.cached = end;
            if last {
                return Ok(Got::Logits(logits));
            }
        }
    }

    /// Rows of a prompt computed at a time: the widest activation fits a binding.
    fn block_rows(&self) -> usize {
        let config = &self.model.config;
        BLOCK_ROWS.min(self.rows_per_binding((3 * config.hidden_size).max(config.n_inner)))
    }

    /// Rows of logits computed at a time.
    fn logits_rows(&self) -> usize {
        let vocab = self.model.config.vocab_size;
        (LOGITS_BLOCK / vocab).clamp(1, BLOCK_ROWS).min(self.rows_per_binding(vocab))
    }

    fn rows_per_binding(&self, columns: usize) -> usize {
        let row_bytes = 4 * columns.next_multiple_of(4) as u64;
        usize::try_from(self.model.gpu.binding_limit() / row_bytes).unwrap_or(usize::MAX).max(1)
    }

    /// The rows of tokens `start..end`, `[end - start, 4]`.
    fn rows(&self, start: usize, end: usize) -> Result<Tensor> {
        let tokens = self.tokens.get(start..end).unwrap_or_default();
        let rows: Vec<Row> =
            (start as u32..).zip(tokens).map(|(position, &token)| Row { token, slot: 0, position, first: 0 }).collect();
        self.model.gpu.tensor_u32(bytemuck::cast_slice(&rows), &[rows.len(), 4])
    }

    /// Picks from the logits `[1, vocab]` of the token at `len - 1` and makes the decoder's rows those of position `len`.
    fn pick(&mut self, pass: &mut Pass, logits: &Tensor, len: usize) -> Result<AsyncGpuResult<Vec<u32>>> {
        let gpu = &self.model.gpu;
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            empty => empty.insert(Decoder {
                rows: gpu.tensor_u32(&[0; 4], &[1, 4])?,
                picked: gpu.tensor_u32(&[0; 2], &[1, 2])?,
                plan: None,
            }),
        };
        let last = Row { position: len as u32 - 1, ..Row::default() };
        let last = gpu.tensor_u32(bytemuck::cast_slice(&[last]), &[1, 4])?;
        pass.copy(&last, &mut decoder.rows)?;
        ops::argmax(pass, logits, &mut decoder.picked)?;
        ops::advance(pass, &decoder.picked, &mut decoder.rows)?;
        pass.read(&decoder.picked)
    }

    /// One more greedy step on the device, from the rows that the last one left.
    fn step(&mut self) -> Result<AsyncGpuResult<Vec<u32>>> {
        let model = Arc::clone(&self.model);
        let Some(decoder) = &mut self.decoder else { return Err(Error::EmptyPrompt) };
        if let Some(plan) = &decoder.plan {
            return plan.submit(&decoder.picked);
        }
        let mut pass = model.gpu.pass();
        let x = forward(&mut pass, &model, &mut self.cache, &decoder.rows, false)?;
        let logits = head(&mut pass, &model, &x, 0, 1)?;
        ops::argmax(&mut pass, &logits, &mut decoder.picked)?;
        ops::advance(&mut pass, &decoder.picked, &mut decoder.rows)?;
        if pass.is_cpu() {
            return pass.read(&decoder.picked);
        }
        let plan = decoder.plan.insert(pass.into_plan());
        plan.submit(&decoder.picked)
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
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// New tokens at most.
    pub max_tokens: usize,
    /// Tokens that end the text; the one that came is the last that is returned.
    pub stop: Vec<u32>,
    /// How the next token is chosen.
    pub sampler: Sampler,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// As many tokens as asked for.
    MaxTokens,
    /// A stop token.
    StopToken,
    /// The context holds no more.
    ContextFull,
}

impl StopReason {
    /// As in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            StopReason::MaxTokens => "max_tokens",
            StopReason::StopToken => "stop_token",
            StopReason::ContextFull => "context_full",
        }
    }
}

/// New tokens, one by one. Dropping it keeps those that were returned.
#[derive(Debug)]
pub struct Generation<'a> {
    session: &'a mut Session,
    options: GenerateOptions,
    /// Tokens that may still come, by request and by context.
    limit: usize,
    pending: VecDeque<AsyncGpuResult<Vec<u32>>>,
    submitted: usize,
    emitted: usize,
    stop_reason: Option<StopReason>,
    /// An error was returned; nothing more comes.
    failed: bool,
}

impl Generation<'_> {
    /// Why it ended; `None` while it has not, and after an error.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.stop_reason
    }

    /// Submits steps until `AHEAD` are in flight or no more are wanted, and takes the oldest one's token.
    fn next_greedy(&mut self) -> Result<u32> {
        while self.pending.len() < AHEAD && self.submitted < self.limit {
            let result = match self.submitted {
                0 => match self.session.run(Want::Pick)? {
                    Got::Picked(picked) => picked,
                    Got::Logits(_) => return Err(Error::EmptyPrompt),
                },
                _ => self.session.step()?,
            };
            self.pending.push_back(result);
            self.submitted += 1;
        }
        let result = self.pending.pop_front().ok_or(Error::EmptyPrompt)?;
        match *self.session.model.gpu.wait(result)? {
            [id, 0] => Ok(id),
            [_, faults] => Err(Error::NonFinite { what: "logits".to_owned(), count: u64::from(faults) }),
            _ => Err(Error::Shape { op: "generate", message: "a step returned no token".to_owned() }),
        }
    }

    fn next_sampled(&mut self, temperature: f32, seed: u64) -> Result<u32> {
        let position = self.session.tokens.len() as u32;
        match self.session.run(Want::Last)? {
            Got::Logits(logits) => draw(&logits, temperature, uniform(seed, position, 0)),
            Got::Picked(_) => Err(Error::EmptyPrompt),
        }
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Result<u32>> {
        if self.stop_reason.is_some() || self.failed {
            return None;
        }
        if self.emitted >= self.limit {
            let asked = self.emitted >= self.options.max_tokens;
            self.stop_reason = Some(if asked { StopReason::MaxTokens } else { StopReason::ContextFull });
            return None;
        }
        let token = match self.options.sampler {
            Sampler::Greedy => self.next_greedy(),
            Sampler::Temperature { temperature, seed } => self.next_sampled(temperature, seed),
        };
        let token = match token {
            Ok(token) => token,
            Err(error) => {
                // Whatever was in flight is of no use.
                self.pending.clear();
                self.failed = true;
                return Some(Err(error));
            }
        };
        self.emitted += 1;
        self.session.tokens.push(token);
        if self.options.sampler == Sampler::Greedy {
            // A step that ran ahead has cached the token already; the newest one never counts.
            self.session.cached = self.session.tokens.len() - 1;
        }
        if self.options.stop.contains(&token) {
            self.stop_reason = Some(StopReason::StopToken);
        }
        Some(Ok(token))
    }
}
