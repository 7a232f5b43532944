//! The cases that show quickly whether a variant of a kernel is right.
//!
//! A tuner asks that of many candidates, and most of the answer's time would go into compiling: each mode is a pipeline of its
//! own, and a case runs in a millisecond. So a candidate is tried with cases that want the modes it is timed with: the
//! shortest of each class of shapes, then as many others as there is time for. The one that is to win is tried with all of them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Case, Layout, Outcome, cases, execute, observe};
use crate::gpu::GpuCompute;
use crate::kernel::Kernel;
use crate::pass::{Pass, Pipeline};

/// Cases that every candidate is tried with, however long they take, where the table has so many.
const FEW: usize = 3;
/// How long more of them may take.
const ENOUGH: Duration = Duration::from_millis(60);

/// The cases that dispatch a kernel; of one that reads a weight, on one format.
pub(crate) struct Sample {
    /// Short ones first.
    cases: Vec<Case>,
    /// Which of them every candidate is tried with.
    some: BTreeSet<usize>,
}

impl Sample {
    /// Runs every case that may dispatch the kernel, as it is, and keeps those that do. `timed` are its pipelines in what is
    /// timed: cases that dispatch no other are preferred.
    pub(crate) fn of(gpu: &GpuCompute, kernel: &Kernel, dtype: &str, timed: &[Pipeline]) -> Sample {
        // Layers of models dispatch the products, and have cases on every format.
        let may = |case: &Case| case.op == kernel.op || (kernel.format.is_some() && case.op == "linear");
        // A cast names two types, and what reads no weight has one.
        let of_type = |case: &Case| kernel.format.is_none() || case.dtype == dtype;
        let mut ran: Vec<(bool, Duration, Case)> = Vec::new();
        for case in cases().into_iter().filter(|case| !case.large && of_type(case) && may(case)) {
            let start = Instant::now();
            let (_, bench) = observe(gpu, &case, Layout::Padded, &Pass::submit);
            let mut own = bench.pipelines.iter().filter(|(name, _)| *name == kernel.name).peekable();
            if own.peek().is_some() {
                ran.push((!own.all(|(_, pipeline)| timed.contains(pipeline)), start.elapsed(), case));
            }
        }
        restore(gpu);
        ran.sort_by_key(|(other, time, _)| (*other, *time));
        let mut classes = BTreeSet::new();
        // The first of each class, then the others: as many as there is time for.
        let first: BTreeSet<usize> = (0..)
            .zip(&ran)
            .filter(|(_, (.., case))| classes.insert((case.op, case.shape_class)))
            .map(|(i, _)| i)
            .collect();
        let mut order: Vec<usize> = (0..ran.len()).collect();
        order.sort_by_key(|place| (ran.get(*place).is_none_or(|(other, ..)| *other), !first.contains(place)));
        let (mut some, mut total) = (BTreeSet::new(), Duration::ZERO);
        for place in order {
            let Some((other, time, _)) = ran.get(place) else { continue };
            total += *time;
            if some.len() < FEW || (!other && total < ENOUGH) {
                some.insert(place);
            }
        }
        Sample { cases: ran.into_iter().map(|(_, _, case)| case).collect(), some }
    }

    /// Runs some of them, or all.
    ///
    /// # Errors
    /// In words, what the first one that fails says; that there is none.
    pub(crate) fn check(&self, gpu: &GpuCompute, all: bool) -> Result<(), String> {
        let wanted = self.cases.iter().enumerate().filter(|(place, _)| all || self.some.contains(place));
        let mut passed = 0;
        for (_, case) in wanted {
            match execute(gpu, case, Layout::Padded, &Pass::submit).0 {
                Outcome::Failed { message } => {
                    restore(gpu);
                    return Err(format!("{}: {message}", case.name));
                }
                Outcome::Passed { .. } => passed += 1,
                Outcome::Unverified | Outcome::Skipped { .. } => (),
            }
        }
        restore(gpu);
        if passed == 0 { Err("no case of the table dispatches it".to_owned()) } else { Ok(()) }
    }
}

/// Buffers as they are outside of tests.
fn restore(gpu: &GpuCompute) {
    if let Some(engine) = gpu.engine() {
        engine.pool.set_poison(false);
        engine.cache.set_wide(false);
    }
}
