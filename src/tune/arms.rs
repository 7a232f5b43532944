//! What takes turns: one workload, run with one trial or another.
//!
//! All arms share the operands: what differs is the kernel alone, and memory that was touched before is touched for all. Each
//! sample goes on where the one before it ended in the sets of operands, so that no arm finds in a cache what another left.

use std::cell::Cell;
use std::rc::Rc;

use crate::bench::{Harness, Row, Workload};
use crate::error::Result;
use crate::gpu::GpuCompute;
use crate::kernel::{Format, Kernel};
use crate::pass::Pipeline;
use crate::tuning::{ShapeClass, Trial};

/// Calls in one sample at most.
const MAX_CALLS: f64 = 512.0;

/// A row on a device.
pub(super) struct Arms {
    gpu: GpuCompute,
    pub(super) workload: Workload,
    /// The set of operands that the next sample begins with.
    first: Rc<Cell<usize>>,
}

/// One of those that take turns.
pub(super) struct Arm {
    /// `None`: as it runs without being tuned.
    pub(super) trial: Option<Trial>,
    /// Seconds of a call, as far as it is known.
    pub(super) call: f64,
    /// Seconds per call.
    pub(super) samples: Vec<f64>,
}

impl Arm {
    pub(super) fn new(trial: Option<Trial>, call: f64) -> Arm {
        Arm { trial, call, samples: Vec::new() }
    }

    /// The least time of a call: what disturbs only adds.
    pub(super) fn least(&self) -> f64 {
        self.samples.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

impl Arms {
    pub(super) fn new(gpu: &GpuCompute, row: &Row) -> Result<Arms> {
        let mut workload = row.workload(gpu)?;
        let first: Rc<Cell<usize>> = Rc::default();
        let (from, sets) = (Rc::clone(&first), workload.sets.max(1));
        let mut record = std::mem::replace(&mut workload.record, Box::new(|_, _| Ok(())));
        workload.record = Box::new(move |pass, set| record(pass, (from.get() + set) % sets));
        Ok(Arms { gpu: gpu.clone(), workload, first })
    }

    /// Has the kernel of a trial run as it says, in everything that is recorded from now on.
    pub(super) fn set(&self, trial: Option<Trial>) {
        if let Some(engine) = self.gpu.engine() {
            engine.set_trial(trial);
        }
    }

    pub(super) fn class(&self, format: Format) -> ShapeClass {
        ShapeClass::of(&self.workload.output.tensor, format)
    }

    /// Checks what a call of this trial writes. Returns the kernels that ran.
    pub(super) fn check(&mut self, trial: Option<Trial>) -> Result<Vec<&'static str>> {
        self.set(trial);
        self.first.set(0);
        Harness::new(&self.gpu).check(&mut self.workload)
    }

    /// The pipelines of a kernel in a call.
    pub(super) fn pipelines(&mut self, kernel: &Kernel) -> Result<Vec<Pipeline>> {
        let mut pass = self.gpu.pass();
        (self.workload.record)(&mut pass, 0)?;
        Ok(pass.pipelines().filter(|(name, _)| *name == kernel.name).map(|(_, pipeline)| pipeline.clone()).collect())
    }

    /// Seconds of one call, after one that may compile.
    pub(super) fn call(&mut self, trial: Option<Trial>) -> Result<f64> {
        self.set(trial);
        let harness = Harness::new(&self.gpu);
        harness.time(&mut self.workload, 1)?;
        Ok(harness.time(&mut self.workload, 1)?.as_secs_f64())
    }

    /// So many samples of each; whoever is first in one turn is last in another.
    pub(super) fn turns(&mut self, arms: &mut [Arm], repetitions: usize) -> Result<()> {
        let harness = Harness::new(&self.gpu);
        let count = arms.len();
        for repetition in 0..repetitions {
            for place in (0..count).map(|i| (i + repetition) % count) {
                let Some(arm) = arms.get_mut(place) else { continue };
                self.set(arm.trial.clone());
                let calls = (harness.sample.as_secs_f64() / arm.call).clamp(1.0, MAX_CALLS) as usize;
                let total = harness.time(&mut self.workload, calls)?.as_secs_f64();
                self.first.set((self.first.get() + calls) % self.workload.sets.max(1));
                arm.samples.push(total / calls as f64);
            }
        }
        Ok(())
    }
}
