//! Writing on: the loop that chooses tokens for the sequences of a batch.
//!
//! Decoding keeps tokens on the device. A step is a recorded plan, replayed: embed, blocks, head, and sample, which also
//! writes the drawn tokens and the next positions into the rows that the next step reads. So step t+1 is submitted
//! before t is read back, [`AHEAD`] steps are in flight, and each costs one readback of a few bytes. What was computed past
//! a stop token is never looked at; its place in the cache is overwritten by whatever comes next. When a sequence ends, the
//! steps in flight are taken, and another plan goes on with those that are left.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::cpu;
use crate::encode::PassTimes;
use crate::error::{Error, Result};
use crate::gpu::GpuCompute;
use crate::model::batch::Batch;
use crate::model::transformer::{Rows, forward, head};
use crate::ops::{self, Row, Sampler};
use crate::pass::Plan;
use crate::result::AsyncGpuResult;
use crate::tensor::{DType, Tensor};

/// Steps in flight while decoding.
const AHEAD: usize = 2;

/// What to write in a slot.
///
/// ```
/// use gristmill::model::{Config, Request, Sampler};
/// use gristmill::{ComputeBackend, GpuCompute, GpuModel};
///
/// let config = Config::new(50, 16, 8, 2, 2); // vocabulary, context, width, layers, heads
/// let model = GpuModel::random(&GpuCompute::new(ComputeBackend::Cpu)?, &config, 1)?;
/// let mut batch = model.batch(2)?;
/// let read = Request { slot: 0, prompt: &[3, 1, 4], max_tokens: 2, stop: &[] };
/// let other = Request { slot: 1, prompt: &[2], max_tokens: 3, ..Request::default() };
/// let written = batch.generate(&[read, other], Sampler::default())?.collect::<Result<Vec<_>, _>>()?;
/// assert_eq!(written.iter().filter(|(slot, _)| *slot == 0).count(), 2);
/// assert_eq!(batch.tokens(1).len(), 1 + 3);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Request<'a> {
    /// Which one.
    pub slot: usize,
    /// Tokens to append first; with none the sequence goes on from where it ends.
    pub prompt: &'a [u32],
    /// New tokens at most.
    pub max_tokens: usize,
    /// Tokens that end the text; the one that came is the last that is returned.
    pub stop: &'a [u32],
}

/// Why a sequence ended.
///
/// ```
/// use gristmill::model::{Config, GenerateOptions, StopReason};
/// use gristmill::{ComputeBackend, GpuCompute, GpuModel};
///
/// let config = Config::new(50, 16, 8, 2, 2); // vocabulary, context, width, layers, heads
/// let model = GpuModel::random(&GpuCompute::new(ComputeBackend::Cpu)?, &config, 1)?;
/// let mut session = model.session()?;
/// let mut generation = session.generate(&[3, 1], session.default_options())?; // until the context of 16 is full
/// assert_eq!(generation.by_ref().count(), 14);
/// assert_eq!(generation.stop_reason().map(StopReason::name), Some("context_full"));
/// # Ok::<(), gristmill::Error>(())
/// ```
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

/// The tensors that steps hand each other, and the step itself. On the CPU backend there is no plan: steps run at once.
pub(super) struct Decoder {
    sampler: Sampler,
    /// `[m, 4]`: the rows of the next step.
    rows: Tensor,
    /// `[m, 2]`: tokens and fault counts of the last step.
    picked: Tensor,
    plan: Option<Plan>,
}

impl Decoder {
    fn new(gpu: &GpuCompute, sampler: Sampler, m: usize) -> Result<Decoder> {
        let (rows, picked) = (gpu.empty(&[m, 4], DType::U32)?, gpu.empty(&[m, 2], DType::U32)?);
        Ok(Decoder { sampler, rows, picked, plan: None })
    }
}

impl Batch {
    /// Draws a token for each of these slots from the logits of its last one, after all that is not cached: where the logits
    /// are if the sampler can, else here.
    fn pick(&mut self, slots: &[usize], sampler: &Sampler) -> Result<Vec<[u32; 2]>> {
        let parts = self.last_rows(slots);
        if !sampler.on_device() {
            let logits = self.read_logits(&parts)?;
            let pick = |(&slot, logits): (&usize, &Vec<f32>)| {
                let faults = logits.iter().filter(|v| !v.is_finite()).count();
                let u = cpu::uniform(sampler.seed, self.tokens(slot).len() as u32, slot as u32);
                [cpu::pick(logits, sampler, u), faults as u32]
            };
            return Ok(slots.iter().zip(&logits).map(pick).collect());
        }
        let gpu = self.model.gpu.clone();
        let mut picked = Vec::new();
        self.run(&parts, |pass, logits, rows| {
            let mut out = pass.gpu().empty(&[rows.len(), 2], DType::U32)?;
            let mut rows = pass.gpu().tensor_u32(bytemuck::cast_slice(rows), &[rows.len(), 4])?;
            ops::sample(pass, logits, (&mut rows, false), sampler, &mut out)?;
            picked.push(pass.read::<u32>(&out)?);
            Ok(())
        })?;
        let picked = picked.into_iter().map(|result| gpu.wait(result)).collect::<Result<Vec<_>>>()?.concat();
        Ok(picked.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect())
    }

    /// Makes the decoder's rows those of the last tokens of these slots, which are all that is not cached of them.
    fn load(&mut self, slots: &[usize], sampler: &Sampler) -> Result<()> {
        let gpu = &self.model.gpu;
        let m = slots.len();
        let row = |(r, &slot): (usize, &usize)| {
            let tokens = self.tokens(slot);
            let (token, position) = (tokens.last().copied().unwrap_or(0), tokens.len().saturating_sub(1) as u32);
            Row { token, slot: slot as u32, position, first: r as u32 }
        };
        let rows: Vec<Row> = slots.iter().enumerate().map(row).collect();
        let rows = gpu.tensor_u32(bytemuck::cast_slice(&rows), &[m, 4])?;
        // A plan is for a number of rows and a sampler; which slots they are is in the rows.
        let fits = self.decoder.take().filter(|known| known.sampler == *sampler && known.rows.rows() == m);
        let decoder = match fits {
            Some(decoder) => self.decoder.insert(decoder),
            None => self.decoder.insert(Decoder::new(gpu, *sampler, m)?),
        };
        let mut pass = gpu.pass();
        pass.copy(&rows, &mut decoder.rows)?;
        pass.submit()
    }

    /// One more step on the device, from the rows that the last one left.
    fn step(&mut self) -> Result<AsyncGpuResult<Vec<u32>>> {
        let model = Arc::clone(&self.model);
        let Some(decoder) = &mut self.decoder else { return Err(Error::EmptyPrompt) };
        if let Some(plan) = &decoder.plan {
            return replay(plan, &decoder.picked, &mut self.timings);
        }
        let mut pass = model.gpu.pass();
        let x = forward(&mut pass, &model, &mut self.cache, &decoder.rows, Rows::Step)?;
        let logits = head(&mut pass, &model, &self.cache, &x, (0, decoder.rows.rows()))?;
        let Decoder { sampler, rows, picked, .. } = decoder;
        ops::sample(&mut pass, &logits, (rows, true), sampler, picked)?;
        if pass.is_cpu() {
            return pass.read(&decoder.picked);
        }
        let plan = decoder.plan.insert(pass.into_plan());
        replay(plan, &decoder.picked, &mut self.timings)
    }
}

/// Submits a plan, timed where times are kept.
fn replay(
    plan: &Plan,
    picked: &Tensor,
    timings: &mut Option<Vec<AsyncGpuResult<PassTimes>>>,
) -> Result<AsyncGpuResult<Vec<u32>>> {
    let Some(timings) = timings else { return plan.replay(picked) };
    let (result, times) = plan.replay_timed(picked)?;
    timings.push(times);
    Ok(result)
}

/// A sequence being written.
#[derive(Debug)]
struct Writer {
    slot: usize,
    stop: Vec<u32>,
    /// Tokens that may come, by request and by context.
    limit: usize,
    /// What it is if the limit is reached.
    at_limit: StopReason,
    emitted: usize,
    reason: Option<StopReason>,
}

impl Writer {
    /// Counts a token that came, or none, and notices the end.
    fn note(&mut self, token: Option<u32>) {
        self.emitted += usize::from(token.is_some());
        if token.is_some_and(|token| self.stop.contains(&token)) {
            self.reason = Some(StopReason::StopToken);
        } else if self.emitted >= self.limit {
            self.reason = Some(self.at_limit);
        }
    }
}

/// New tokens of several sequences, as `(slot, token)`, one by one: those of a step follow each other in the order of the
/// requests. Dropping it keeps those that were returned.
///
/// ```
/// use gristmill::model::{Config, Request, Sampler};
/// use gristmill::{ComputeBackend, GpuCompute, GpuModel};
///
/// let config = Config::new(50, 16, 8, 2, 2); // vocabulary, context, width, layers, heads
/// let model = GpuModel::random(&GpuCompute::new(ComputeBackend::Cpu)?, &config, 1)?;
/// let mut batch = model.batch(2)?;
/// let request = |slot| Request { slot, prompt: &[3, 1], max_tokens: 2, stop: &[] };
/// let mut generation = batch.generate(&[request(0), request(1)], Sampler::default())?;
/// let (slot, token) = generation.next().expect("two tokens each")?;
/// assert_eq!((slot, generation.tokens(0)), (0, &[3, 1, token][..]));
/// assert!(generation.stop_reason(0).is_none()); // one of two
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug)]
pub struct BatchGeneration<'a> {
    batch: &'a mut Batch,
    sampler: Sampler,
    writers: Vec<Writer>,
    /// The writers whose rows the decoder has, in that order; empty until it has any.
    rows: Vec<usize>,
    /// Steps in flight, of these rows.
    pending: VecDeque<AsyncGpuResult<Vec<u32>>>,
    /// (writer, token) of a step that was taken.
    ready: VecDeque<(usize, u32)>,
    /// An error was returned; nothing more comes.
    failed: bool,
}

impl<'a> BatchGeneration<'a> {
    /// Writes on in slots that have a last token.
    pub(super) fn new(batch: &'a mut Batch, requests: &[Request<'_>], sampler: Sampler) -> BatchGeneration<'a> {
        let writer = |request: &Request<'_>| {
            let room = batch.context() - batch.tokens(request.slot).len();
            let limit = request.max_tokens.min(room);
            let at_limit = if limit == request.max_tokens { StopReason::MaxTokens } else { StopReason::ContextFull };
            let (slot, stop) = (request.slot, request.stop.to_vec());
            let mut writer = Writer { slot, stop, limit, at_limit, emitted: 0, reason: None };
            writer.note(None);
            writer
        };
        let writers = requests.iter().map(writer).collect();
        let (rows, pending, ready) = (Vec::new(), VecDeque::new(), VecDeque::new());
        BatchGeneration { batch, sampler, writers, rows, pending, ready, failed: false }
    }

    /// Why a slot ended; `None` while it has not, after an error, and for a slot that is not written.
    pub fn stop_reason(&self, slot: usize) -> Option<StopReason> {
        self.writers.iter().find(|writer| writer.slot == slot).and_then(|writer| writer.reason)
    }

    /// The sequence of a slot so far.
    pub fn tokens(&self, slot: usize) -> &[u32] {
        self.batch.tokens(slot)
    }

    /// Takes the tokens of the next step. Those of the one before have all been handed out.
    fn take_step(&mut self, live: Vec<usize>) -> Result<()> {
        let slots: Vec<usize> = live.iter().filter_map(|&w| self.writers.get(w)).map(|writer| writer.slot).collect();
        let single = |slot: &usize| self.batch.slots.get(*slot).is_some_and(|s| s.cached + 1 == s.tokens.len());
        let decodes = self.sampler.on_device() && slots.iter().all(single);
        if !decodes {
            let picked = self.batch.pick(&slots, &self.sampler)?;
            return self.hand_out(&live, &picked);
        }
        if self.pending.is_empty() && self.rows != live {
            self.batch.load(&slots, &self.sampler)?;
            self.rows = live;
        }
        // A row must not go on past the limit of its sequence: its next place in the cache may be another's.
        let reaches = |row: &usize, ahead: usize| self.writers.get(*row).is_some_and(|w| w.emitted + ahead < w.limit);
        let ended = |row: &usize| self.writers.get(*row).is_none_or(|writer| writer.reason.is_some());
        let whole = !self.rows.iter().any(ended);
        while whole && self.pending.len() < AHEAD && self.rows.iter().all(|row| reaches(row, self.pending.len())) {
            self.pending.push_back(self.batch.step()?);
        }
        let result = self.pending.pop_front().ok_or(Error::NotSubmitted)?;
        let picked = self.batch.model.gpu.wait(result)?;
        let picked: Vec<[u32; 2]> = picked.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
        let rows = std::mem::take(&mut self.rows);
        let taken = self.hand_out(&rows, &picked);
        self.rows = rows;
        taken
    }

    /// Makes the picks of a step ready, but for those of sequences that have ended.
    fn hand_out(&mut self, rows: &[usize], picked: &[[u32; 2]]) -> Result<()> {
        for (&row, &[token, faults]) in rows.iter().zip(picked) {
            if self.writers.get(row).is_none_or(|writer| writer.reason.is_some()) {
                continue;
            }
            if faults > 0 {
                return Err(Error::NonFinite { what: "logits".to_owned(), count: u64::from(faults) });
            }
            self.ready.push_back((row, token));
        }
        Ok(())
    }
}

impl Iterator for BatchGeneration<'_> {
    type Item = Result<(usize, u32)>;

    fn next(&mut self) -> Option<Result<(usize, u32)>> {
        while !self.failed {
            if let Some((row, token)) = self.ready.pop_front() {
                let writer = self.writers.get_mut(row)?;
                writer.note(Some(token));
                self.batch.slots.get_mut(writer.slot)?.push(token);
                return Some(Ok((writer.slot, token)));
            }
            let live: Vec<usize> =
                (0..).zip(&self.writers).filter(|(_, w)| w.reason.is_none()).map(|(i, _)| i).collect();
            if live.is_empty() {
                return None;
            }
            if let Err(error) = self.take_step(live) {
                // Whatever was in flight is of no use.
                (self.failed, self.pending, self.ready) = (true, VecDeque::new(), VecDeque::new());
                return Some(Err(error));
            }
        }
        None
    }
}
