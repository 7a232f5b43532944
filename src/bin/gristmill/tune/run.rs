//! One run of the tuner: sweep after sweep, then the kernels of an op against each other, then everything written down.

use std::path::Path;
use std::time::{Duration, Instant};

use gristmill::bench::{Environment, Row};
use gristmill::tune::{Limits, Rival, Step, Sweep, TuneCache, TuneReport, Tuned, Tuner, Verdict};
use gristmill::tuning::ShapeClass;
use gristmill::{Error, GpuCompute, Tuning, kernels};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Args, text};
use crate::failure::{Failure, Outcome};
use crate::output::{note, print};

/// A kernel at a shape.
pub(super) struct Job<'a> {
    pub(super) tuned: &'a Tuned,
    pub(super) row: Row,
}

/// What a sweep gets at least, where a budget is divided among many: in less, nothing is found.
const LEAST: Duration = Duration::from_secs(3);
/// The part of a budget that sweeps get, where kernels of an op are compared after them.
const SWEEPS: f64 = 0.85;

pub(super) struct Run<'a> {
    pub(super) args: &'a Args,
    pub(super) start: Instant,
    pub(super) cache: TuneCache,
    /// What is emitted.
    pub(super) tuning: Tuning,
    /// Of each job that the adapter can run, by its place.
    pub(super) found: Vec<(usize, Sweep, ShapeClass)>,
    /// The first kernel that is wrong as it is.
    pub(super) wrong: Option<Error>,
}

impl Run<'_> {
    /// What is left of so much of the budget, if there is one.
    fn left(&self, share: f64) -> Option<Duration> {
        self.args.budget.map(|budget| budget.mul_f64(share).saturating_sub(self.start.elapsed()))
    }

    pub(super) fn sweeps(&mut self, tuner: &mut Tuner<'_>, jobs: &[Job<'_>]) -> Result<(), Failure> {
        let share = if self.args.all { SWEEPS } else { 1.0 };
        let mut known = Vec::new();
        for (i, job) in jobs.iter().enumerate() {
            let left = self.left(share);
            // A sweep of no candidate still verifies the default, and many of them are no budget.
            if self.args.all && left.is_some_and(|left| left.is_zero()) {
                note(&format!("the budget is over: {} of {} sweeps are left out", jobs.len() - i, jobs.len()));
                break;
            }
            // One shape speaks for its class. Which that is takes the operands, so it is asked when it is a shape's turn.
            let class = self.args.all.then(|| (job.tuned.name(), job.row.class()));
            if class.is_some() && known.contains(&class) {
                continue;
            }
            known.push(class);
            // What is left is for those that are left.
            let budget = left.map(|left| (left / (jobs.len() - i) as u32).max(LEAST.min(left)));
            let limits = Limits { budget, resume: self.args.resume };
            let place = if jobs.len() > 1 { format!("{} of {}, ", i + 1, jobs.len()) } else { String::new() };
            let (found, class) = match one(tuner, job, limits, &mut self.cache, &place) {
                // An adapter lacks what some kernels need.
                Err(Failure::Library(Error::BadOption { message, .. })) if self.args.all => {
                    note(&message);
                    continue;
                }
                // Of the others there is something to be said all the same.
                Err(Failure::Library(error @ Error::WrongResult { .. })) if self.args.all => {
                    note(&format!("error: {error}"));
                    self.wrong.get_or_insert(error);
                    continue;
                }
                found => found?,
            };
            if !self.args.form.json {
                let text = if self.args.all { text::line(job.tuned, &found) } else { text::sweep(job.tuned, &found) };
                print(&text)?;
            }
            let kernel = kernels::ALL.iter().find(|kernel| kernel.name == job.tuned.name());
            // The default needs no line.
            if let (Some(kernel), Verdict::Winner) = (kernel, found.verdict) {
                self.tuning.prefer(kernel, class, &found.winner);
                self.emit(tuner.gpu())?;
            }
            self.found.push((i, found, class));
        }
        Ok(())
    }

    /// Where an op has several kernels that were tuned at a shape, they take turns there, each at its best.
    pub(super) fn rivals(&mut self, tuner: &mut Tuner<'_>, jobs: &[Job<'_>]) -> Result<(), Failure> {
        let name = |i: usize| jobs.get(i).map(|job| job.row.name());
        let mut done: Vec<Option<String>> = Vec::new();
        for first in 0..self.found.len() {
            let Some((job, _, class)) = self.found.get(first) else { continue };
            let (row, class) = (name(*job), *class);
            let same: Vec<usize> = (0..self.found.len())
                .filter(|&i| self.found.get(i).is_some_and(|(job, ..)| name(*job) == row))
                .collect();
            if same.len() < 2 || done.contains(&row) {
                continue;
            }
            if self.left(1.0).is_some_and(|left| left.is_zero()) {
                note("the budget is over: not all kernels of an op were compared with each other");
                break;
            }
            let arms: Vec<(&Job<'_>, &Sweep)> = same
                .iter()
                .filter_map(|&i| self.found.get(i))
                .filter_map(|(i, s, _)| Some((jobs.get(*i)?, s)))
                .collect();
            let Some((job, _)) = arms.first() else { continue };
            let knobs: Vec<(&Tuned, &[u32])> = arms.iter().map(|(job, s)| (job.tuned, s.winner.as_slice())).collect();
            let (current, estimates) = tuner.compare(&job.row, &knobs)?;
            let best = (0..estimates.len()).max_by(|&a, &b| {
                let median = |i: usize| estimates.get(i).map_or(0.0, |e| e.median);
                median(a).total_cmp(&median(b))
            });
            let surely = best.filter(|&i| i != current && estimates.get(i).is_some_and(|e| e.low > 1.0));
            let chosen = surely.unwrap_or(current);
            if !self.args.form.json {
                print(&text::rivals(&job.row, &knobs, current, &estimates, chosen))?;
            }
            let kernel = knobs.get(chosen).and_then(|(tuned, _)| kernels::ALL.iter().find(|k| k.name == tuned.name()));
            if let (Some(kernel), true) = (kernel, surely.is_some()) {
                self.tuning.prefer_kernel(kernel, class);
                self.emit(tuner.gpu())?;
            }
            let of_current = knobs.get(current).map(|(tuned, values)| (tuned.name().to_owned(), values.to_vec()));
            for ((&i, ratio), _) in same.iter().zip(estimates).zip(0..).filter(|(_, place)| *place != current) {
                if let (Some((_, sweep, _)), Some((kernel, knobs))) = (self.found.get_mut(i), of_current.clone()) {
                    sweep.rivals.push(Rival { kernel, knobs, ratio });
                }
            }
            done.push(row);
        }
        Ok(())
    }

    /// Writes the tuning as it is: whoever ends a long run early has what was found until then.
    fn emit(&self, gpu: &GpuCompute) -> Result<(), Failure> {
        let Some(path) = &self.args.emit else { return Ok(()) };
        let environment = Environment::of(gpu);
        let on = environment.adapter.as_ref();
        let on = on.map_or_else(String::new, |adapter| format!("# {}, {}\n", adapter.name, adapter.driver));
        let how = format!("# {}, gristmill {}: {}\n", environment.date, environment.version, environment.command);
        write(path, &format!("{on}{how}{}", self.tuning))
    }

    pub(super) fn give_out(mut self, gpu: &GpuCompute, jobs: &[Job<'_>]) -> Result<Outcome, Failure> {
        self.emit(gpu)?;
        let environment = Environment::of(gpu);
        let shader = self.args.shader.as_ref().map(|path| path.display().to_string());
        let mut reports: Vec<TuneReport> = Vec::new();
        // A report is of all sweeps of a kernel.
        self.found.sort_by_key(|(i, ..)| jobs.get(*i).map(|job| job.tuned.name().to_owned()));
        for (i, sweep, _) in self.found {
            let Some(Job { tuned, .. }) = jobs.get(i) else { continue };
            if reports.last().is_none_or(|report| report.kernel != tuned.name()) {
                let (environment, hash) = (environment.clone(), tuned.source_hash());
                reports.push(TuneReport::new(environment, tuned.name(), tuned.op(), shader.clone(), &hash));
            }
            if let Some(report) = reports.last_mut() {
                report.sweeps.push(sweep);
            }
        }
        if let Some(path) = &self.args.html {
            write(path, &TuneReport::page(&reports))?;
        }
        let document = match reports.as_slice() {
            [report] => serde_json::to_value(report),
            reports => serde_json::to_value(reports),
        };
        self.args.form.document(&document.unwrap_or_default())?;
        self.wrong.map_or(Ok(Outcome::Done), |error| Err(error.into()))
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Error::Io { path: path.to_owned(), message: e.to_string() };
    Ok(std::fs::write(path, text).map_err(failed)?)
}

/// One sweep, with a line that says how far it is.
fn one(
    tuner: &mut Tuner<'_>,
    Job { tuned, row }: &Job<'_>,
    limits: Limits,
    cache: &mut TuneCache,
    place: &str,
) -> Result<(Sweep, ShapeClass), Failure> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(format!("{place}{}", row.name()));
    let mut progress = |step: &Step<'_>| {
        bar.set_length(step.total as u64);
        bar.set_position(step.done as u64);
        let (knobs, ratio) = step.best;
        let best = format!("best so far {} ({ratio:.2} x the default)", text::knobs(tuned, knobs));
        bar.set_message(format!("{place}{}, {best}", row.name()));
    };
    let found = tuner.sweep(tuned, row, limits, cache, &mut progress);
    bar.finish_and_clear();
    Ok(found?)
}
