//! The device that is tuned on: opened again where a candidate loses it, and what was measured of it kept for all sweeps.

use std::time::Instant;

use super::arms::{Arm, Arms};
use super::cache::TuneCache;
use super::candidates::Tuned;
use super::report::Sweep;
use super::sweep::{Limits, Step, Sweeper};
use crate::bench::{Ceilings, Estimate, Row, ratios};
use crate::error::{Error, Result};
use crate::gpu::GpuCompute;
use crate::kernel::Format;
use crate::tuning::{ShapeClass, Trial};
use crate::verify::Sample;

/// Devices lost in a row after which it is not the candidates' fault.
const MOST_LOST: usize = 3;
/// Samples where two are compared that both may be good.
const SAMPLES: usize = 15;

/// Tunes kernels on one adapter.
///
/// ```
/// use gristmill::tune::{Limits, TuneCache, Tuned, Tuner};
/// use gristmill::{ComputeBackend, Format, GpuCompute, bench, kernels};
///
/// let mut tuner = Tuner::open(|| GpuCompute::new(ComputeBackend::Gpu))?; // again, should a candidate lose the device
/// let row = bench::row_of(&kernels::gelu::KERNEL, "n=65536", Format::F32)?;
/// let mut tuned = Tuned::kernel("gelu")?;
/// tuned.set_values("WG", vec![64, 128])?;
/// let (found, class) = tuner.sweep(&tuned, &row, Limits::default(), &mut TuneCache::default(), &mut |_| ())?;
/// assert_eq!(found.candidates.len(), 2);
/// assert_eq!(class, row.class());
/// # Ok::<(), gristmill::Error>(())
/// ```
pub struct Tuner<'a> {
    pub(super) gpu: GpuCompute,
    open: Box<dyn Fn() -> Result<GpuCompute> + 'a>,
    pub(super) ceilings: Ceilings,
    /// Devices lost since a candidate came to its end.
    pub(super) lost: usize,
}

impl std::fmt::Debug for Tuner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tuner").field("gpu", &self.gpu).finish_non_exhaustive()
    }
}

impl<'a> Tuner<'a> {
    /// On the device that `open` opens, and opens again where a candidate loses it.
    ///
    /// # Errors
    /// Those of `open`; [`Error::BadOption`] for the CPU backend, which has no knobs.
    pub fn open(open: impl Fn() -> Result<GpuCompute> + 'a) -> Result<Tuner<'a>> {
        let gpu = open()?;
        if !gpu.is_gpu() {
            let message = "the CPU backend has no knobs; tune on an adapter".to_owned();
            return Err(Error::BadOption { option: "--backend", message });
        }
        Ok(Tuner { gpu, open: Box::new(open), ceilings: Ceilings::new(), lost: 0 })
    }

    /// The device, as it is now.
    pub fn gpu(&self) -> &GpuCompute {
        &self.gpu
    }

    /// Opens another device in place of one that is gone.
    ///
    /// # Errors
    /// Those of `open`; the error that it began with, if that was so before and before.
    pub(super) fn reopen(&mut self, error: &Error) -> Result<()> {
        self.lost += 1;
        if self.lost >= MOST_LOST {
            return Err(error.clone());
        }
        log::warn!("{error}; the device is opened again");
        let tuning = self.gpu.tuning();
        self.gpu = (self.open)()?;
        self.gpu.set_tuning(tuning);
        Ok(())
    }

    /// The knobs that a kernel has without being tuned: for a file those in it, else what ships for this adapter.
    pub(super) fn default_of(&self, tuned: &Tuned, class: ShapeClass) -> Vec<u32> {
        let values = match tuned.own {
            None => self.gpu.engine().and_then(|engine| engine.knobs(tuned.kernel, class)),
            Some(_) => None,
        };
        let values = values.map(|knobs| knobs.into_iter().take(tuned.knobs().len()).collect());
        values.unwrap_or_else(|| tuned.default())
    }

    /// Tunes a kernel at a shape. Results are kept in `cache`; `progress` hears of every candidate. Also says of which class
    /// of shapes it is.
    ///
    /// # Errors
    /// [`Error::BadOption`] for too many combinations, or a kernel that does not run here; [`Error::WrongResult`] if the
    /// kernel is wrong as it is; what the device says, if it is not for one candidate alone.
    pub fn sweep(
        &mut self,
        tuned: &Tuned,
        row: &Row,
        limits: Limits,
        cache: &mut TuneCache,
        progress: &mut dyn FnMut(&Step<'_>),
    ) -> Result<(Sweep, ShapeClass)> {
        let start = Instant::now();
        let found = Sweeper::begin(self, tuned, row).and_then(|sweeper| sweeper.run(start, limits, cache, progress));
        self.leave();
        found
    }

    /// What runs as it is from now on.
    fn leave(&self) {
        if let Some(engine) = self.gpu.engine() {
            engine.set_trial(None);
        }
    }

    /// Lets kernels of one op, each with its knobs, take turns at a shape: the place of the one that the op runs here as it is,
    /// and its time over that of each.
    ///
    /// # Errors
    /// [`Error::WrongResult`]; [`Error::BadOption`] if the op runs none of them; what the device says.
    pub fn compare(&mut self, row: &Row, kernels: &[(&Tuned, &[u32])]) -> Result<(usize, Vec<Estimate>)> {
        let found = self.compare_arms(row, kernels);
        self.leave();
        found
    }

    fn compare_arms(&self, row: &Row, kernels: &[(&Tuned, &[u32])]) -> Result<(usize, Vec<Estimate>)> {
        let mut turns = Arms::new(&self.gpu, row)?;
        let ran = turns.check(None)?;
        let current = kernels.iter().position(|(tuned, _)| ran.contains(&tuned.name()));
        let current = current.ok_or_else(|| Error::BadOption {
            option: "KERNEL",
            message: format!("{} runs {}, and it was not tuned", row.op, ran.join(", ")),
        })?;
        let mut arms = Vec::new();
        for (tuned, values) in kernels {
            let trial = Some(tuned.trial(values));
            turns.check(trial.clone())?;
            arms.push(Arm::new(trial.clone(), turns.call(trial)?));
        }
        turns.turns(&mut arms, SAMPLES)?;
        let of_current = arms.get(current).map(|arm| arm.samples.clone()).unwrap_or_default();
        let estimates = arms.iter().filter_map(|arm| ratios(&of_current, &arm.samples)).collect();
        Ok((current, estimates))
    }

    /// Verifies what is in place of a kernel, with the values in its file, and times it in turns with the kernel.
    ///
    /// # Errors
    /// [`Error::WrongResult`] with the first element that differs, or the first case; [`Error::Shader`]; what the device says.
    pub fn against_built_in(&mut self, tuned: &Tuned, row: &Row) -> Result<Duel> {
        let duel = self.duel(tuned, row);
        self.leave();
        if let Some(gone) = duel.as_ref().err().filter(|error| is_gone(error)) {
            self.reopen(gone)?;
        }
        if duel.is_ok() {
            self.lost = 0;
        }
        duel
    }

    fn duel(&self, tuned: &Tuned, row: &Row) -> Result<Duel> {
        let format = Format::ALL.into_iter().find(|format| format.name() == row.dtype).unwrap_or_default();
        let mut turns = Arms::new(&self.gpu, row)?;
        let built_in = Tuned::kernel(tuned.name())?;
        let built_in: Option<Trial> = Some(built_in.trial(&self.default_of(&built_in, turns.class(format))));
        let own = Some(tuned.trial(&tuned.default()));
        let ran = turns.check(own.clone())?;
        if !ran.contains(&tuned.name()) {
            return Err(not_here(tuned, &ran));
        }
        let timed = turns.pipelines(tuned.kernel)?;
        let sample = Sample::of(&self.gpu, tuned.kernel, row.dtype, &timed);
        let wrong = |message| Error::WrongResult { what: tuned.name().to_owned(), message };
        sample.check(&self.gpu, false).map_err(wrong)?;
        let mut arms = [Arm::new(built_in.clone(), turns.call(built_in)?), Arm::new(own.clone(), turns.call(own)?)];
        turns.turns(&mut arms, SAMPLES)?;
        let [theirs, ours] = &arms;
        let micros = |arm: &Arm| {
            Estimate::of(&arm.samples).map(|time| time.map(|seconds| seconds * 1e6)).ok_or(Error::NotSubmitted)
        };
        let ratio = ratios(&theirs.samples, &ours.samples).ok_or(Error::NotSubmitted)?;
        Ok(Duel { time_us: micros(ours)?, built_in_us: micros(theirs)?, ratio })
    }
}

/// Whether an error says that the device is of no more use.
pub(super) fn is_gone(error: &Error) -> bool {
    matches!(error, Error::DeviceLost { .. } | Error::Timeout { .. })
}

pub(super) fn not_here(tuned: &Tuned, ran: &[&str]) -> Error {
    let message = format!("`{}` does not run here at this shape; {} does", tuned.name(), ran.join(", "));
    Error::BadOption { option: "KERNEL", message }
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use super::*;
    use crate::bench::row_of;
    use crate::faults::{SHORT, Script, open};
    use crate::kernel::kernels;
    use crate::tune::Status;
    use crate::tuning::Tuning;

    /// Tunes `add` while `fault` happens to the device after each candidate: statuses, or the error, and devices opened.
    fn sweep(fault: impl Fn(&Script, usize)) -> Option<(Result<Vec<Status>>, usize)> {
        let scripts: RefCell<Vec<Arc<Script>>> = RefCell::default();
        let open = || {
            let (gpu, script) = open(|options| options.deadline = 4 * SHORT)
                .ok_or_else(|| Error::NoAdapter { reason: "none".to_owned(), hint: String::new() })?;
            scripts.borrow_mut().push(script);
            Ok(gpu)
        };
        // Said aloud where there is no adapter.
        let mut tuner = Tuner::open(open).ok()?;
        let tuning = Tuning::parse("mul: WG=128").unwrap();
        tuner.gpu().set_tuning(tuning.clone());
        let row = row_of(&kernels::add::KERNEL, "n=4096", Format::F32).unwrap();
        let tuned = Tuned::kernel("add").unwrap();
        let mut after = |step: &Step<'_>| {
            let script = scripts.borrow().last().cloned().unwrap();
            fault(&script, step.done);
        };
        let found = tuner.sweep(&tuned, &row, Limits::default(), &mut TuneCache::default(), &mut after);
        assert_eq!(tuner.gpu().tuning(), tuning, "the next device is tuned as the one before it");
        let found = found.map(|(sweep, _)| sweep.candidates.iter().map(|c| c.status).collect());
        let opened = scripts.borrow().len();
        Some((found, opened))
    }

    #[test]
    fn a_candidate_that_loses_the_device_is_one_of_many() {
        let Some((found, opened)) = sweep(|script, done| {
            if done == 1 {
                script.lose("pulled out")
            }
        }) else {
            return;
        };
        let found = found.unwrap();
        assert_eq!(opened, 2);
        assert_eq!(found[..2], [Status::Timed, Status::Failed]);
        assert!(
            found.len() == 4 && found[2..].iter().all(|s| matches!(s, Status::Timed | Status::Slower)),
            "{found:?}"
        );
    }

    #[test]
    fn a_candidate_that_hangs_is_one_of_many() {
        let Some((found, opened)) = sweep(|script, done| {
            if done == 2 {
                script.close_gate()
            }
        }) else {
            return;
        };
        let found = found.unwrap();
        assert_eq!((opened, found[2]), (2, Status::Failed));
        assert!(found.len() == 4 && found[3] != Status::Failed, "{found:?}");
    }

    #[test]
    fn a_device_that_is_lost_again_and_again_ends_the_sweep() {
        let Some((found, opened)) = sweep(|script, _| script.lose("loose")) else { return };
        assert!(matches!(found, Err(Error::DeviceLost { .. })), "{found:?}");
        assert_eq!(opened, MOST_LOST);
    }
}
