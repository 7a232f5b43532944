//! The cases that show quickly whether a variant of a kernel is right.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Case, Layout, Outcome, cases, execute};
use crate::gpu::GpuCompute;
use crate::kernel::Kernel;
use crate::pass::Pass;

/// The cases that dispatch a kernel, on one element type.
pub(crate) struct Sample {
    /// Short ones first.
    cases: Vec<Case>,
    /// The shortest of each class of shapes.
    some: BTreeSet<usize>,
}

impl Sample {
    /// Runs every case that may dispatch the kernel, as it is, and keeps those that do.
    pub(crate) fn of(gpu: &GpuCompute, kernel: &Kernel, dtype: &str) -> Sample {
        // Layers of models dispatch the products, and have cases on every format.
        let may = |case: &Case| case.op == kernel.op || (kernel.format.is_some() && case.op == "linear");
        let mut ran: Vec<(Duration, Case)> = Vec::new();
        for case in cases().into_iter().filter(|case| !case.large && case.dtype == dtype && may(case)) {
            let start = Instant::now();
            let (_, kernels) = execute(gpu, &case, Layout::Padded, &Pass::submit);
            if kernels.contains(kernel.name) {
                ran.push((start.elapsed(), case));
            }
        }
        restore(gpu);
        ran.sort_by_key(|(time, _)| *time);
        let cases: Vec<Case> = ran.into_iter().map(|(_, case)| case).collect();
        let mut classes = BTreeSet::new();
        let some = cases.iter().enumerate().filter(|(_, case)| classes.insert((case.op, case.shape_class)));
        let some = some.map(|(place, _)| place).collect();
        Sample { cases, some }
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
