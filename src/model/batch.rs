//! Several sequences on one model: the slots of a key-value cache, each with its own tokens, computed together.
//!
//! A batch of rows holds tokens of any of them, of ragged lengths; a row says whose it is. So nothing is padded to the
//! longest, and one sequence is the case of one slot. Prompts are computed in blocks of rows, which a sequence may
//! straddle: one pass over a whole prompt would be as long as the prompt, past what a watchdog allows, and its activations
//! as large. How sequences are written on is in `generation.rs`.
//!
//! A sequence remembers how many of its tokens are in the cache rather than that all are. Rewinding is then setting a
//! number, and an error half way through a prompt leaves tokens that the next call computes, instead of a cache that is
//! wrong.

use std::ops::Range;
use std::sync::Arc;

use crate::encode::PassTimes;
use crate::error::{Error, Result};
use crate::gpu::GpuCompute;
use crate::model::Model;
use crate::model::config::Config;
use crate::model::generation::{BatchGeneration, Decoder, Request};
use crate::model::session::SessionOptions;
use crate::model::transformer::{KvCache, Rows, forward, head};
use crate::ops::{Row, Sampler};
use crate::pass::Pass;
use crate::result::AsyncGpuResult;
use crate::tensor::Tensor;

/// Rows of one block of prompts.
const BLOCK_ROWS: usize = 256;
/// Logits read back at a time, in elements.
const LOGITS_BLOCK: usize = 4 << 20;

/// Sequences on a model, one per slot, that are read and written together.
///
/// ```
/// use gristmill::model::Config;
/// use gristmill::{ComputeBackend, GpuCompute, GpuModel};
///
/// let config = Config::new(50, 16, 8, 2, 2); // vocabulary, context, width, layers, heads
/// let model = GpuModel::random(&GpuCompute::new(ComputeBackend::Cpu)?, &config, 1)?;
/// let mut batch = model.batch(2)?;
/// let logits = batch.logits(&[(0, &[3, 1, 4]), (1, &[2])])?; // of ragged lengths, in one go
/// assert_eq!([logits[0].len(), logits[1].len()], [3 * 50, 50]);
/// batch.rewind(0, 1)?;
/// assert_eq!((batch.tokens(0), batch.tokens(1)), (&[3][..], &[2][..]));
/// # Ok::<(), gristmill::Error>(())
/// ```
pub struct Batch {
    pub(super) model: Arc<Model>,
    pub(super) cache: KvCache,
    pub(super) slots: Vec<Sequence>,
    pub(super) decoder: Option<Decoder>,
    /// Where dispatches are timed: the times of each step, and of each part of a prompt.
    pub(super) timings: Option<Vec<AsyncGpuResult<PassTimes>>>,
}

/// What a slot holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Sequence {
    pub(super) tokens: Vec<u32>,
    /// How many of `tokens` have their keys and values in the cache.
    pub(super) cached: usize,
}

impl Sequence {
    /// One more token. All before it are cached: what computed it has done that.
    pub(super) fn push(&mut self, token: u32) {
        self.cached = self.tokens.len();
        self.tokens.push(token);
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lengths: Vec<usize> = self.slots.iter().map(|sequence| sequence.tokens.len()).collect();
        f.debug_struct("Batch").field("tokens", &lengths).finish_non_exhaustive()
    }
}

impl Batch {
    pub(crate) fn new(model: Arc<Model>, slots: usize, options: &SessionOptions) -> Result<Batch> {
        options.validate(&model.config)?;
        let cache = KvCache::new(&model.gpu, &model.config, slots, options)?;
        Ok(Batch { model, cache, slots: vec![Sequence::default(); slots], decoder: None, timings: None })
    }

    /// How many sequences it holds; slots are counted from 0.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The sequence of a slot so far; empty where there is no such slot.
    pub fn tokens(&self, slot: usize) -> &[u32] {
        self.slots.get(slot).map_or(&[], |sequence| &sequence.tokens)
    }

    /// The most tokens that each sequence can have.
    pub fn context(&self) -> usize {
        self.cache.context
    }

    /// Forgets all tokens of a slot but the first `len`. The other slots are not touched.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are fewer, or no such slot.
    pub fn rewind(&mut self, slot: usize, len: usize) -> Result<()> {
        let have = self.tokens(slot).len();
        let Some(sequence) = self.slots.get_mut(slot).filter(|_| len <= have) else {
            let message = format!("slot {slot} to {len} tokens of {have}");
            return Err(Error::Shape { op: "rewind", message });
        };
        sequence.tokens.truncate(len);
        sequence.cached = sequence.cached.min(len);
        Ok(())
    }

    /// Appends tokens to some slots and returns, for each in turn, the logits `[tokens, vocab]` of all of them.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TokenOutOfRange`], [`Error::ContextFull`], and [`Error::Shape`] for a slot that there
    /// is not or that is named twice, with every sequence unchanged; the device's.
    pub fn logits(&mut self, prompts: &[(usize, &[u32])]) -> Result<Vec<Vec<f32>>> {
        let parts = self.append(prompts)?;
        self.read_logits(&parts)
    }

    /// As [`Batch::logits`], but of the last token of each slot only: `[vocab]`.
    ///
    /// # Errors
    /// As [`Batch::logits`].
    pub fn last_logits(&mut self, prompts: &[(usize, &[u32])]) -> Result<Vec<Vec<f32>>> {
        self.append(prompts)?;
        let slots: Vec<usize> = prompts.iter().map(|(slot, _)| *slot).collect();
        self.read_logits(&self.last_rows(&slots))
    }

    /// Appends prompts and writes all of them on together. A slot with an empty prompt goes on from where it ends.
    ///
    /// # Errors
    /// As [`Batch::logits`]; [`Error::EmptyPrompt`] if there is nothing to go on from; [`Error::BadOption`] for an impossible
    /// sampler.
    pub fn generate(&mut self, requests: &[Request<'_>], sampler: Sampler) -> Result<BatchGeneration<'_>> {
        sampler.validate()?;
        let prompts: Vec<(usize, &[u32])> = requests.iter().map(|request| (request.slot, request.prompt)).collect();
        let goes_on = |(slot, prompt): &(usize, &[u32])| prompt.is_empty() && !self.tokens(*slot).is_empty();
        let (going_on, new): (Vec<_>, Vec<_>) = prompts.iter().copied().partition(goes_on);
        self.check_slots(&prompts)?;
        self.append(&new)?;
        for (slot, _) in going_on.iter().chain(&new) {
            // The last token is read again if need be: its logits choose the next.
            if let Some(sequence) = self.slots.get_mut(*slot) {
                sequence.cached = sequence.cached.min(sequence.tokens.len().saturating_sub(1));
            }
        }
        Ok(BatchGeneration::new(self, requests, sampler))
    }

    /// Whether `tokens` may follow `have` others.
    pub(super) fn check(&self, have: usize, tokens: &[u32]) -> Result<()> {
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

    /// Whether all slots are there, each named once.
    fn check_slots(&self, prompts: &[(usize, &[u32])]) -> Result<()> {
        let mut named = vec![false; self.slots.len()];
        for &(slot, _) in prompts {
            if named.get(slot) != Some(&false) {
                let message = format!("slot {slot} of {}; each may be named once", self.slots.len());
                return Err(Error::Shape { op: "batch", message });
            }
            named[slot] = true;
        }
        Ok(())
    }

    /// Appends tokens to slots, all or none, and returns where those of each begin.
    fn append(&mut self, prompts: &[(usize, &[u32])]) -> Result<Vec<(usize, usize)>> {
        self.check_slots(prompts)?;
        prompts.iter().try_for_each(|(slot, tokens)| self.check(self.tokens(*slot).len(), tokens))?;
        let parts = prompts.iter().map(|(slot, _)| (*slot, self.tokens(*slot).len())).collect();
        for (slot, tokens) in prompts {
            if let Some(sequence) = self.slots.get_mut(*slot) {
                sequence.tokens.extend_from_slice(tokens);
            }
        }
        Ok(parts)
    }

    /// The last row of each of these slots, as [`Batch::run`] takes them.
    pub(super) fn last_rows(&self, slots: &[usize]) -> Vec<(usize, usize)> {
        slots.iter().map(|&slot| (slot, self.tokens(slot).len().saturating_sub(1))).collect()
    }

    /// Computes what is not cached of some slots and reads back the logits from a position of each on.
    pub(super) fn read_logits(&mut self, parts: &[(usize, usize)]) -> Result<Vec<Vec<f32>>> {
        let mut of_slot: Vec<Vec<f32>> = vec![Vec::new(); self.slots.len()];
        let vocab = self.model.config.vocab_size;
        self.run(parts, |pass, logits, rows| {
            let result = pass.read::<f32>(logits)?;
            // Read at once: those of a whole prompt may be more than fit a device.
            pass.flush()?;
            let values = pass.gpu().wait(result)?;
            for (row, values) in rows.iter().zip(values.chunks(vocab)) {
                if let Some(logits) = of_slot.get_mut(row.slot as usize) {
                    logits.extend_from_slice(values);
                }
            }
            Ok(())
        })?;
        Ok(parts.iter().filter_map(|(slot, _)| of_slot.get_mut(*slot).map(std::mem::take)).collect())
    }

    /// Computes the tokens that are not cached yet of some slots, in blocks of rows, and hands the logits of those from a
    /// position of each slot on to `take`, with the rows that they belong to, in order.
    pub(super) fn run(
        &mut self,
        parts: &[(usize, usize)],
        mut take: impl FnMut(&mut Pass, &Tensor, &[Row]) -> Result<()>,
    ) -> Result<()> {
        let model = Arc::clone(&self.model);
        let logits_rows = self.logits_rows();
        let all: Vec<Row> = parts.iter().flat_map(|&(slot, _)| self.uncached(slot)).collect();
        for block in all.chunks(block_rows(&model.gpu, &model.config)) {
            let block = begun(block);
            let rows = model.gpu.tensor_u32(bytemuck::cast_slice(&block), &[block.len(), 4])?;
            let mut pass = model.gpu.pass();
            if self.timings.is_some() {
                pass.time_each();
            }
            let x = forward(&mut pass, &model, &mut self.cache, &rows, Rows::Prompt)?;
            let from = |slot: u32| parts.iter().find(|part| part.0 == slot as usize).map_or(usize::MAX, |part| part.1);
            for run in runs(&block, logits_rows, |row| row.position as usize >= from(row.slot)) {
                let logits = head(&mut pass, &model, &self.cache, &x, (run.start, run.len()))?;
                take(&mut pass, &logits, block.get(run).unwrap_or_default())?;
            }
            let times = pass.finish()?;
            if let Some(timings) = &mut self.timings {
                timings.extend(times);
            }
            for row in &block {
                if let Some(sequence) = self.slots.get_mut(row.slot as usize) {
                    sequence.cached = row.position as usize + 1;
                }
            }
        }
        Ok(())
    }

    /// The rows of a slot's tokens that are not cached.
    fn uncached(&self, slot: usize) -> Vec<Row> {
        let Some(sequence) = self.slots.get(slot) else { return Vec::new() };
        let tokens = sequence.tokens.get(sequence.cached..).unwrap_or_default();
        let row =
            |(position, &token): (usize, &u32)| Row { token, slot: slot as u32, position: position as u32, first: 0 };
        (sequence.cached..).zip(tokens).map(row).collect()
    }

    /// Rows of logits computed at a time.
    pub(super) fn logits_rows(&self) -> usize {
        logits_rows(&self.model.gpu, &self.model.config)
    }
}

/// Rows of prompts computed at a time: the widest activation fits a binding.
pub(super) fn block_rows(gpu: &GpuCompute, config: &Config) -> usize {
    BLOCK_ROWS.min(rows_per_binding(gpu, config.qkv_width().max(config.up_width())))
}

/// Rows of logits computed at a time.
pub(super) fn logits_rows(gpu: &GpuCompute, config: &Config) -> usize {
    let vocab = config.vocab_size;
    (LOGITS_BLOCK / vocab).clamp(1, BLOCK_ROWS).min(rows_per_binding(gpu, vocab))
}

fn rows_per_binding(gpu: &GpuCompute, columns: usize) -> usize {
    let row_bytes = 4 * columns.next_multiple_of(4) as u64;
    usize::try_from(gpu.binding_limit() / row_bytes).unwrap_or(usize::MAX).max(1)
}

/// A block of rows, each told at which of them its sequence begins. Those of a slot follow each other.
fn begun(rows: &[Row]) -> Vec<Row> {
    let mut block = rows.to_vec();
    let mut begin = 0;
    for (r, row) in block.iter_mut().enumerate() {
        if rows.get(begin).is_none_or(|first| first.slot != row.slot) {
            begin = r;
        }
        row.first = begin as u32;
    }
    block
}

/// The wanted rows, as ranges of at most `most` that follow each other.
fn runs(rows: &[Row], most: usize, wanted: impl Fn(&Row) -> bool) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (r, _) in rows.iter().enumerate().filter(|(_, row)| wanted(row)) {
        match runs.last_mut() {
            Some(run) if run.end == r && run.len() < most => run.end = r + 1,
            _ => runs.push(r..r + 1),
        }
    }
    runs
}
