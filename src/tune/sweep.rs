//! A sweep: candidate after candidate, verified, timed in turns, written down.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::cache::{Key, TuneCache};
use super::candidates::Tuned;
use super::report::{Candidate, Status, Sweep, Verdict};
use crate::bench::{Ceilings, Estimate, Harness, Row, Workload, ratios};
use crate::error::{Error, Result};
use crate::gpu::GpuCompute;
use crate::kernel::Format;
use crate::result::lock;
use crate::tuning::{ShapeClass, Trial};
use crate::verify::Sample;

/// Legal combinations that are all tried; of more, the neighbours of the best.
const ALL: usize = 128;
/// A candidate of which a call takes so many times the default's is not timed further.
const SLOW: f64 = 8.0;

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

/// One of the things that take turns: a workload, and what it runs with.
struct Arm {
    workload: Workload,
    trial: Arc<Mutex<Option<Trial>>>,
}

impl Arm {
    fn new(gpu: &GpuCompute, row: &Row) -> Result<Arm> {
        let mut workload = row.workload(gpu)?;
        let trial: Arc<Mutex<Option<Trial>>> = Arc::default();
        let (gpu, own) = (gpu.clone(), Arc::clone(&trial));
        let mut record = std::mem::replace(&mut workload.record, Box::new(|_, _| Ok(())));
        workload.record = Box::new(move |pass, set| {
            if let Some(engine) = gpu.engine() {
                engine.set_trial(lock(&own).clone());
            }
            record(pass, set)
        });
        Ok(Arm { workload, trial })
    }

    fn set(&self, trial: Option<Trial>) {
        *lock(&self.trial) = trial;
    }
}

/// Everything that stays the same through a sweep.
struct Sweeper<'a> {
    gpu: &'a GpuCompute,
    tuned: &'a Tuned,
    row: &'a Row,
    format: Format,
    harness: Harness<'a>,
    sample: Sample,
    default_values: Vec<u32>,
    default: Arm,
    best: Arm,
    candidate: Arm,
    /// Seconds of one call of the default.
    call: f64,
}

/// Tunes a kernel at a shape. Results are kept in `cache`; `progress` hears of every candidate.
///
/// # Errors
/// [`Error::BadOption`] for too many combinations, or on the CPU backend, which has no knobs; [`Error::WrongResult`] if the
/// kernel is wrong as it is; what the device says.
pub fn sweep(
    gpu: &GpuCompute,
    tuned: &Tuned,
    row: &Row,
    limits: Limits,
    cache: &mut TuneCache,
    progress: &mut dyn FnMut(&Step<'_>),
) -> Result<(Sweep, ShapeClass)> {
    let start = Instant::now();
    let engine = gpu.engine().ok_or_else(|| Error::BadOption {
        option: "--backend",
        message: "the CPU backend has no knobs; tune on an adapter".to_owned(),
    })?;
    let format = Format::ALL.into_iter().find(|format| format.name() == row.dtype).unwrap_or_default();
    let arm = || Arm::new(gpu, row);
    let default = arm()?;
    let class = ShapeClass::of(&default.workload.output.tensor, format);
    let values = match tuned.own {
        // As it runs now, with what ships for this adapter.
        None => engine.knobs(tuned.kernel, class).map(|knobs| knobs.into_iter().take(tuned.knobs().len()).collect()),
        Some(_) => None,
    };
    let sample = Sample::of(gpu, tuned.kernel, row.dtype);
    let default_values = values.unwrap_or_else(|| tuned.default());
    let (best, candidate, harness) = (arm()?, arm()?, Harness::new(gpu));
    let mut sweeper =
        Sweeper { gpu, tuned, row, format, harness, sample, default_values, default, best, candidate, call: 0.0 };
    let outcome = sweeper.run(start, limits, cache, progress);
    engine.set_trial(None);
    outcome.map(|sweep| (sweep, class))
}

impl Sweeper<'_> {
    fn run(
        &mut self,
        start: Instant,
        limits: Limits,
        cache: &mut TuneCache,
        progress: &mut dyn FnMut(&Step<'_>),
    ) -> Result<Sweep> {
        let (legal, mut candidates) = self.legal()?;
        let (total, mut pending) = (legal.len(), legal);
        let search = match total > ALL {
            false => format!("all of {total} legal combinations"),
            true => format!("of {total} legal combinations the neighbours of the best, one knob at a time"),
        };
        self.begin()?;
        let (mut ran, mut cached) = (0, 0);
        let mut best = (self.default_values.clone(), 1.0);
        // The last word takes a tenth of the time, and is not left out.
        let over = |limits: Limits| limits.budget.is_some_and(|budget| start.elapsed() > budget.mul_f64(0.85));
        while let Some(values) = next(&mut pending, &best.0, total <= ALL) {
            let (key, named) = (self.key(), self.named(&values));
            let known = cache.find(&key, &named).filter(|_| limits.resume);
            let candidate = match known {
                Some(known) => {
                    cached += 1;
                    Candidate { knobs: values, ..known }
                }
                None if over(limits) => Candidate::new(values, Status::NotRun, Some("the budget was over".to_owned())),
                None => {
                    let candidate = self.evaluate(values, &best.0)?;
                    ran += 1;
                    cache.keep(&key, named, &candidate)?;
                    candidate
                }
            };
            let relative = candidate.relative.map_or(0.0, |relative| relative.median);
            if candidate.status == Status::Timed && relative > best.1 {
                best = (candidate.knobs.clone(), relative);
            }
            let done = candidates.iter().filter(|c: &&Candidate| c.status != Status::Illegal).count() + 1;
            progress(&Step { done, total, last: &candidate, best: (&best.0, best.1) });
            candidates.push(candidate);
        }
        let (winner, ratio) = self.duel(&mut candidates)?;
        let mut ceilings = Ceilings::default();
        Ok(Sweep {
            shape: self.row.shape.clone(),
            dtype: self.row.dtype.to_owned(),
            flops: self.row.flops,
            bytes: self.row.bytes,
            peak_gflops: ceilings.peak(&self.harness)? / 1e9,
            peak_gb_per_s: ceilings.bandwidth(&self.harness, self.default.workload.working_set)? / 1e9,
            search,
            knobs: self.tuned.knobs().to_vec(),
            candidates,
            verdict: if ratio.low > 1.0 { Verdict::Winner } else { Verdict::DefaultKept },
            default: self.default_values.clone(),
            winner: if ratio.low > 1.0 { winner } else { self.default_values.clone() },
            ratio,
            ran,
            cached,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// The combinations that are to be tried, the default first, and those that are none.
    fn legal(&self) -> Result<(Vec<Vec<u32>>, Vec<Candidate>)> {
        let mut all = self.tuned.combinations()?;
        all.retain(|values| *values != self.default_values);
        all.insert(0, self.default_values.clone());
        let (mut legal, mut illegal) = (Vec::new(), Vec::new());
        for values in all {
            match self.tuned.illegal(self.gpu, &values, self.format) {
                None => legal.push(values),
                Some(message) if values == self.default_values => return Err(Error::Shader(message)),
                Some(message) => illegal.push(Candidate::new(values, Status::Illegal, Some(message))),
            }
        }
        Ok((legal, illegal))
    }

    /// Verifies the default, without which there is nothing to compare with, and times a call of it.
    fn begin(&mut self) -> Result<()> {
        let trial = self.tuned.trial(&self.default_values);
        self.default.set(Some(trial.clone()));
        self.try_out(Some(trial));
        let ran = self.harness.check(&mut self.default.workload)?;
        if !ran.contains(&self.tuned.name()) {
            let message = format!("`{}` does not run here at this shape; {} does", self.tuned.name(), ran.join(", "));
            return Err(Error::BadOption { option: "KERNEL", message });
        }
        if let Err(message) = self.sample.check(self.gpu, false) {
            return Err(Error::WrongResult { what: self.tuned.name().to_owned(), message });
        }
        self.harness.time(&mut self.default.workload, 1)?;
        self.call = self.harness.time(&mut self.default.workload, 1)?.as_secs_f64();
        Ok(())
    }

    fn try_out(&self, trial: Option<Trial>) {
        if let Some(engine) = self.gpu.engine() {
            engine.set_trial(trial);
        }
    }

    /// Compiles, verifies and times one candidate.
    fn evaluate(&mut self, values: Vec<u32>, best: &[u32]) -> Result<Candidate> {
        let trial = self.tuned.trial(&values);
        self.candidate.set(Some(trial.clone()));
        self.try_out(Some(trial));
        if let Err(error) = self.harness.check(&mut self.candidate.workload) {
            return Ok(failed(values, error));
        }
        if let Err(message) = self.sample.check(self.gpu, false) {
            return Ok(Candidate::new(values, Status::Wrong, Some(message)));
        }
        let call = match self.harness.time(&mut self.candidate.workload, 1) {
            Ok(call) => call.as_secs_f64(),
            Err(error) => return Ok(failed(values, error)),
        };
        if call > SLOW * self.call {
            let message = format!("a call takes {:.0} times the default's", call / self.call);
            return Ok(Candidate::new(values, Status::Slow, Some(message)));
        }
        let measured = if best == self.default_values || best == values {
            self.harness.measure(&mut [&mut self.default.workload, &mut self.candidate.workload])
        } else {
            self.best.set(Some(self.tuned.trial(best)));
            let arms = &mut [&mut self.default.workload, &mut self.candidate.workload, &mut self.best.workload];
            self.harness.measure(arms)
        };
        let measured = match measured {
            Ok(measured) => measured,
            Err(error) => return Ok(failed(values, error)),
        };
        let [default, own, ..] = measured.as_slice() else { return Err(Error::NotSubmitted) };
        let time = own.time();
        let rate = |work: f64| (work > 0.0).then(|| work / time.median / 1e9);
        Ok(Candidate {
            time_us: Some(time.map(|seconds| seconds * 1e6)),
            relative: ratios(&default.samples, &own.samples),
            gflops: rate(self.row.flops),
            gb_per_s: rate(self.row.bytes),
            ..Candidate::new(values, Status::Timed, None)
        })
    }

    /// The best candidate that passes every case, and the default's time over its own.
    fn duel(&mut self, candidates: &mut [Candidate]) -> Result<(Vec<u32>, Estimate)> {
        let same = Estimate { median: 1.0, low: 1.0, high: 1.0 };
        loop {
            let ratio = |c: &Candidate| c.relative.map_or(0.0, |relative| relative.median);
            let timed = candidates.iter_mut().filter(|c| c.status == Status::Timed && c.knobs != self.default_values);
            let Some(best) = timed.max_by(|a, b| ratio(a).total_cmp(&ratio(b))).filter(|best| ratio(best) > 1.0) else {
                return Ok((self.default_values.clone(), same));
            };
            let trial = self.tuned.trial(&best.knobs);
            self.candidate.set(Some(trial.clone()));
            self.try_out(Some(trial));
            if let Err(message) = self.sample.check(self.gpu, true) {
                (best.status, best.message) = (Status::Wrong, Some(message));
                continue;
            }
            let arms = &mut [&mut self.default.workload, &mut self.candidate.workload];
            let measured = self.harness.measure(arms)?;
            let [default, own] = measured.as_slice() else { return Err(Error::NotSubmitted) };
            let ratio = ratios(&default.samples, &own.samples).unwrap_or(same);
            return Ok((best.knobs.clone(), ratio));
        }
    }

    fn key(&self) -> Key {
        let (name, driver) = self.gpu.adapter().map_or_else(Default::default, |a| (a.name.clone(), a.driver.clone()));
        Key {
            kernel: self.tuned.name().to_owned(),
            source_hash: self.tuned.source_hash(),
            adapter: name,
            driver,
            shape: self.row.shape.clone(),
            dtype: self.row.dtype.to_owned(),
        }
    }

    fn named(&self, values: &[u32]) -> BTreeMap<String, u32> {
        self.tuned.knobs().iter().map(|knob| knob.name.clone()).zip(values.iter().copied()).collect()
    }
}

/// Neighbours of the best come first; where not all are tried, nothing else comes.
fn next(pending: &mut Vec<Vec<u32>>, best: &[u32], all: bool) -> Option<Vec<u32>> {
    let differs = |values: &Vec<u32>| values.iter().zip(best).filter(|(a, b)| a != b).count();
    let near = pending.iter().position(|values| differs(values) <= 1);
    let place = near.or_else(|| (all && !pending.is_empty()).then_some(0))?;
    Some(pending.remove(place))
}

/// What an error says of a candidate.
fn failed(values: Vec<u32>, error: Error) -> Candidate {
    let status = match error {
        Error::Limit { .. } => Status::Illegal,
        Error::Shader(_) | Error::Validation { .. } => Status::Refused,
        Error::WrongResult { .. } => Status::Wrong,
        _ => Status::Failed,
    };
    Candidate::new(values, status, Some(error.to_string()))
}

/// What a file takes that stands in place of a kernel, beside that kernel.
///
/// ```
/// use gristmill::bench::{Estimate, ratios};
/// use gristmill::tune::Duel;
///
/// let time_us = Estimate::of(&[5.0; 7]).expect("samples");
/// let duel = Duel { time_us, built_in_us: time_us, ratio: ratios(&[5.0; 7], &[5.0; 7]).expect("pairs") };
/// assert_eq!(duel.ratio.median, 1.0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Duel {
    /// Microseconds per call.
    pub time_us: Estimate,
    /// The same of the kernel.
    pub built_in_us: Estimate,
    /// The kernel's time over the file's, in turns: above 1 the file is faster.
    pub ratio: Estimate,
}

/// Verifies what is in place of a kernel, with the values in its file, and times it in turns with the kernel.
///
/// # Errors
/// [`Error::WrongResult`] with the first element that differs, or the first case; [`Error::Shader`]; what the device says.
pub fn against_built_in(gpu: &GpuCompute, tuned: &Tuned, row: &Row) -> Result<Duel> {
    let (built_in, mut own) = (Arm::new(gpu, row)?, Arm::new(gpu, row)?);
    let mut built_in = built_in.workload;
    let outcome = (|| {
        let sample = Sample::of(gpu, tuned.kernel, row.dtype);
        let trial = tuned.trial(&tuned.default());
        own.set(Some(trial.clone()));
        let harness = Harness::new(gpu);
        let ran = harness.check(&mut own.workload)?;
        if !ran.contains(&tuned.name()) {
            let message = format!("`{}` does not run here at this shape; {} does", tuned.name(), ran.join(", "));
            return Err(Error::BadOption { option: "KERNEL", message });
        }
        if let Some(engine) = gpu.engine() {
            engine.set_trial(Some(trial));
        }
        let wrong = |message| Error::WrongResult { what: tuned.name().to_owned(), message };
        sample.check(gpu, false).map_err(wrong)?;
        let measured = harness.measure(&mut [&mut built_in, &mut own.workload])?;
        let [theirs, ours] = measured.as_slice() else { return Err(Error::NotSubmitted) };
        let ratio = ratios(&theirs.samples, &ours.samples).ok_or(Error::NotSubmitted)?;
        let micros = |estimate: Estimate| estimate.map(|seconds| seconds * 1e6);
        Ok(Duel { time_us: micros(ours.time()), built_in_us: micros(theirs.time()), ratio })
    })();
    if let Some(engine) = gpu.engine() {
        engine.set_trial(None);
    }
    outcome
}
