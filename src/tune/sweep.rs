//! A sweep: candidate after candidate, verified, timed in turns, written down.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::arms::{Arm, Arms};
use super::cache::{Key, TuneCache};
use super::candidates::Tuned;
use super::report::{Candidate, Status, Sweep, Verdict};
use super::search::Search;
use super::tuner::{Tuner, is_gone, not_here};
use crate::bench::{Estimate, Harness, Row, ratios};
use crate::error::{Error, Result};
use crate::kernel::Format;
use crate::tuning::{ShapeClass, Trial};
use crate::verify::Sample;

/// Samples of a candidate: as many as give a median an interval.
const SAMPLES: usize = 7;
/// Samples after which it is seen whether it is worth the others.
const FIRST: usize = 2;
/// A candidate whose first samples take so many times the best's is not timed further.
const SLOWER: f64 = 2.0;
/// And one of which a single call takes so many times the default's gets no samples.
const MUCH_SLOWER: f64 = 8.0;
/// Samples of the best and the default in the end.
const LAST: usize = 15;
/// What of the budget goes to candidates: the last word takes the rest, and is not left out. What comes before the first
/// candidate is not counted.
const SHARE: f64 = 0.85;

/// How far a sweep goes.
///
/// ```
/// use std::time::Duration;
///
/// let limits = gristmill::tune::Limits { budget: Some(Duration::from_secs(60)), resume: true };
/// assert!(limits.budget > gristmill::tune::Limits::default().budget);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// No candidate begins after this.
    pub budget: Option<Duration>,
    /// Results in the cache count, and are not run again.
    pub resume: bool,
}

/// What a sweep has just done.
///
/// ```
/// let show = |step: &gristmill::tune::Step<'_>| println!("{} of {}", step.done, step.total);
/// # let _ = show;
/// ```
#[derive(Debug)]
pub struct Step<'a> {
    /// Candidates that are done.
    pub done: usize,
    /// Of so many.
    pub total: usize,
    /// The last one.
    pub last: &'a Candidate,
    /// The best so far: its knobs, and how much faster it is than the default.
    pub best: (&'a [u32], f64),
}

/// Everything that stays the same through a sweep.
pub(super) struct Sweeper<'t, 'a> {
    tuner: &'t mut Tuner<'a>,
    tuned: &'t Tuned,
    row: &'t Row,
    format: Format,
    arms: Arms,
    sample: Sample,
    default: Vec<u32>,
    /// Seconds of one call of the default.
    call: f64,
}

impl<'t, 'a> Sweeper<'t, 'a> {
    /// Verifies the default, without which there is nothing to compare with, and times a call of it.
    ///
    /// # Errors
    /// [`Error::WrongResult`] if the kernel is wrong as it is; [`Error::BadOption`] if it does not run here.
    pub(super) fn begin(tuner: &'t mut Tuner<'a>, tuned: &'t Tuned, row: &'t Row) -> Result<Sweeper<'t, 'a>> {
        let format = Format::ALL.into_iter().find(|format| format.name() == row.dtype).unwrap_or_default();
        let mut arms = Arms::new(tuner.gpu(), row)?;
        let default = tuner.default_of(tuned, arms.class(format));
        let trial = Some(tuned.trial(&default));
        let ran = arms.check(trial.clone())?;
        if !ran.contains(&tuned.name()) {
            return Err(not_here(tuned, &ran));
        }
        let timed = arms.pipelines(tuned.kernel)?;
        let sample = Sample::of(tuner.gpu(), tuned.kernel, row.dtype, &timed);
        sample
            .check(tuner.gpu(), false)
            .map_err(|message| Error::WrongResult { what: tuned.name().to_owned(), message })?;
        let call = arms.call(trial)?;
        Ok(Sweeper { tuner, tuned, row, format, arms, sample, default, call })
    }

    pub(super) fn run(
        mut self,
        start: Instant,
        limits: Limits,
        cache: &mut TuneCache,
        progress: &mut dyn FnMut(&Step<'_>),
    ) -> Result<(Sweep, ShapeClass)> {
        let (legal, mut candidates) = self.legal()?;
        let (total, illegal) = (legal.len(), candidates.len());
        let mut search = Search::new(legal);
        let searched = search.text();
        // What no candidate may be above; measured before they are.
        let peak_gflops = self.ceiling(true)?;
        let peak_gb_per_s = self.ceiling(false)?;
        let (mut ran, mut cached) = (0, 0);
        let mut best = (self.default.clone(), 1.0);
        // From here on: a budget that verifying and ceilings use up finds nothing.
        let begun = Instant::now();
        let over = |limits: Limits| limits.budget.is_some_and(|budget| begun.elapsed() > budget.mul_f64(SHARE));
        let key = self.key();
        while let Some(values) = search.next(&best.0) {
            let named = self.named(&values);
            let known = cache.find(&key, &named).filter(|_| limits.resume);
            let candidate = match known {
                Some(known) => {
                    cached += 1;
                    Candidate { knobs: values, ..known }
                }
                None if over(limits) => Candidate::new(values, Status::NotRun, Some("the budget was over".to_owned())),
                None => {
                    let candidate = self.evaluate(values, &best)?;
                    ran += 1;
                    cache.keep(&key, named, &candidate)?;
                    candidate
                }
            };
            let relative = candidate.relative.map_or(0.0, |relative| relative.median);
            if candidate.status == Status::Timed && relative > best.1 {
                best = (candidate.knobs.clone(), relative);
            }
            candidates.push(candidate);
            let (done, Some(last)) = (candidates.len() - illegal, candidates.last()) else { continue };
            progress(&Step { done, total, last, best: (&best.0, best.1) });
        }
        let (best, ratio) = self.last_word(&mut candidates)?;
        let won = ratio.low > 1.0;
        let class = self.arms.class(self.format);
        let sweep = Sweep {
            shape: self.row.shape.clone(),
            dtype: self.row.dtype.to_owned(),
            flops: self.row.flops,
            bytes: self.row.bytes,
            peak_gflops,
            peak_gb_per_s,
            search: searched,
            knobs: self.tuned.knobs().to_vec(),
            candidates,
            verdict: if won { Verdict::Winner } else { Verdict::DefaultKept },
            default: self.default.clone(),
            winner: if won { best.clone() } else { self.default.clone() },
            best,
            ratio,
            rivals: Vec::new(),
            ran,
            cached,
            seconds: start.elapsed().as_secs_f64(),
        };
        Ok((sweep, class))
    }

    /// In billions a second: operations, or bytes on as much memory as the operands take.
    fn ceiling(&mut self, arithmetic: bool) -> Result<f64> {
        self.arms.set(None);
        let harness = Harness::new(&self.tuner.gpu);
        let ceilings = &mut self.tuner.ceilings;
        let found = match arithmetic {
            true => ceilings.peak(&harness)?,
            false => ceilings.bandwidth(&harness, self.arms.workload.working_set)?,
        };
        Ok(found / 1e9)
    }

    /// The combinations that are to be tried, the default first, and those that are none.
    fn legal(&self) -> Result<(Vec<Vec<u32>>, Vec<Candidate>)> {
        let mut all = self.tuned.combinations()?;
        all.retain(|values| *values != self.default);
        all.insert(0, self.default.clone());
        let (mut legal, mut illegal) = (Vec::new(), Vec::new());
        for values in all {
            match self.tuned.illegal(self.tuner.gpu(), &values, self.format) {
                None => legal.push(values),
                Some(message) if values == self.default => return Err(Error::Shader(message)),
                Some(message) => illegal.push(Candidate::new(values, Status::Illegal, Some(message))),
            }
        }
        Ok((legal, illegal))
    }

    fn trial(&self, values: &[u32]) -> Option<Trial> {
        Some(self.tuned.trial(values))
    }

    /// Compiles, verifies and times one candidate. Where that loses the device, another is opened.
    fn evaluate(&mut self, values: Vec<u32>, best: &(Vec<u32>, f64)) -> Result<Candidate> {
        match self.try_out(&values, best) {
            Ok(candidate) => {
                self.tuner.lost = 0;
                Ok(candidate)
            }
            Err(error) => {
                self.recover(&error)?;
                Ok(failed(values, &error))
            }
        }
    }

    /// After an error: a device that works.
    fn recover(&mut self, error: &Error) -> Result<()> {
        if is_gone(error) {
            self.tuner.reopen(error)?;
            self.arms = Arms::new(self.tuner.gpu(), self.row)?;
        }
        Ok(())
    }

    /// Whether the cases say that what is set is right, and why not. A lost device is no wrong result.
    fn wrong(&self, all: bool) -> Result<Option<String>> {
        let wrong = self.sample.check(self.tuner.gpu(), all).err();
        if wrong.is_some() {
            self.tuner.gpu().wait_idle()?;
        }
        Ok(wrong)
    }

    fn try_out(&mut self, values: &[u32], best: &(Vec<u32>, f64)) -> Result<Candidate> {
        let (trial, start) = (self.trial(values), Instant::now());
        self.arms.check(trial.clone())?;
        let checked = start.elapsed();
        if let Some(message) = self.wrong(false)? {
            return Ok(Candidate::new(values.to_vec(), Status::Wrong, Some(message)));
        }
        let cases = start.elapsed() - checked;
        let call = self.arms.call(trial.clone())?;
        log::debug!("{values:?}: {checked:.0?} to compile and check, {cases:.0?} for cases, {call:.1e} s a call");
        let slower = |times: f64, whose| {
            Candidate::new(values.to_vec(), Status::Slower, Some(format!("{times:.1} times {whose} time")))
        };
        if call > MUCH_SLOWER * self.call {
            return Ok(slower(call / self.call, "the default's"));
        }
        let mut message = String::new();
        // A figure above the ceiling is measured again, as the ceiling is.
        for _ in 0..2 {
            let mut arms = vec![Arm::new(self.trial(&self.default), self.call), Arm::new(trial.clone(), call)];
            if best.0 != self.default && best.0 != values {
                arms.push(Arm::new(self.trial(&best.0), self.call / best.1));
            }
            self.arms.turns(&mut arms, FIRST)?;
            let least = arms.iter().map(Arm::least).fold(f64::INFINITY, f64::min);
            let times = arms.get(1).map_or(f64::NAN, Arm::least) / least;
            if times > SLOWER {
                return Ok(slower(times, "the best's"));
            }
            self.arms.turns(&mut arms, SAMPLES - FIRST)?;
            let [default, own, ..] = arms.as_slice() else { return Err(Error::NotSubmitted) };
            let time = Estimate::of(&own.samples).ok_or(Error::NotSubmitted)?;
            self.arms.set(None);
            let harness = Harness::new(&self.tuner.gpu);
            match harness.above(&self.arms.workload, time.median, &mut self.tuner.ceilings)? {
                None => return Ok(self.timed(values, time, ratios(&default.samples, &own.samples))),
                Some(above) => message = above,
            }
            self.tuner.ceilings.forget();
        }
        Ok(Candidate::new(values.to_vec(), Status::Implausible, Some(message)))
    }

    fn timed(&self, values: &[u32], time: Estimate, relative: Option<Estimate>) -> Candidate {
        let rate = |work: f64| (work > 0.0).then(|| work / time.median / 1e9);
        Candidate {
            time_us: Some(time.map(|seconds| seconds * 1e6)),
            relative,
            gflops: rate(self.row.flops),
            gb_per_s: rate(self.row.bytes),
            ..Candidate::new(values.to_vec(), Status::Timed, None)
        }
    }

    /// The best candidate that passes every case, and the default's time over its own, a last time in turns.
    fn last_word(&mut self, candidates: &mut [Candidate]) -> Result<(Vec<u32>, Estimate)> {
        let same = Estimate { median: 1.0, low: 1.0, high: 1.0 };
        loop {
            let ratio = |c: &Candidate| c.relative.map_or(0.0, |relative| relative.median);
            let timed = candidates.iter_mut().filter(|c| c.status == Status::Timed && c.knobs != self.default);
            let Some(best) = timed.max_by(|a, b| ratio(a).total_cmp(&ratio(b))).filter(|best| ratio(best) > 1.0) else {
                return Ok((self.default.clone(), same));
            };
            let ended = self.against_default(&best.knobs, ratio(best));
            match ended {
                Ok(Ok(ratio)) => return Ok((best.knobs.clone(), ratio.unwrap_or(same))),
                Ok(Err(message)) => (best.status, best.message) = (Status::Wrong, Some(message)),
                Err(error) => {
                    self.recover(&error)?;
                    *best = failed(best.knobs.clone(), &error);
                }
            }
        }
    }

    /// The default's time over that of these values; or what the cases say against them.
    fn against_default(&mut self, values: &[u32], ratio: f64) -> Result<Result<Option<Estimate>, String>> {
        self.arms.check(self.trial(values))?;
        if let Some(message) = self.wrong(true)? {
            return Ok(Err(message));
        }
        let mut arms =
            [Arm::new(self.trial(&self.default), self.call), Arm::new(self.trial(values), self.call / ratio)];
        self.arms.turns(&mut arms, LAST)?;
        let [default, own] = &arms;
        Ok(Ok(ratios(&default.samples, &own.samples)))
    }

    fn key(&self) -> Key {
        let adapter = self.tuner.gpu().adapter();
        let (name, driver) = adapter.map_or_else(Default::default, |a| (a.name.clone(), a.driver.clone()));
        Key {
            kernel: self.tuned.name().to_owned(),
            source_hash: self.tuned.source_hash(),
            adapter: name,
            driver,
            shape: self.row.shape.clone(),
            dtype: self.row.dtype.to_owned(),
            default: self.named(&self.default),
        }
    }

    fn named(&self, values: &[u32]) -> BTreeMap<String, u32> {
        self.tuned.knobs().iter().map(|knob| knob.name.clone()).zip(values.iter().copied()).collect()
    }
}

/// What an error says of a candidate.
fn failed(values: Vec<u32>, error: &Error) -> Candidate {
    let status = match error {
        Error::Limit { .. } => Status::Illegal,
        Error::Shader(_) | Error::Validation { .. } => Status::Refused,
        Error::WrongResult { .. } => Status::Wrong,
        _ => Status::Failed,
    };
    Candidate::new(values, status, Some(error.to_string()))
}
