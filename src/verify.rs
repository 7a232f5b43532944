//! The case table, run on a backend and compared with the twins.
//!
//! A case is one op at one shape with seeded inputs. Its outputs lie between guards in poisoned memory; its results are
//! compared, element by element, with the f64 twin of [`crate::reference`] under a bound that follows from the arithmetic
//! (`verify/bounds.rs`), or for equality where the arithmetic is exact. An [`Outcome`] carries the worst error over its bound: 1 is
//! the most that is allowed, and a kernel that loses a digit shows long before it fails.

pub(crate) mod attention;
mod batched;
pub(crate) mod bounds;
mod cases;
mod cast;
mod elementwise;
pub(crate) mod inputs;
mod layers;
mod layout;
pub mod mutants;
pub(crate) mod norms;
pub(crate) mod products;
mod reduce;
mod rows;
mod runner;
mod sample;
#[cfg(feature = "bench")]
mod some;
pub(crate) mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub use cases::cases;

use crate::gpu::{Engine, GpuCompute};
use crate::kernel::kernels;
use crate::pass::Pass;
use runner::{Bench, Stop};
#[cfg(feature = "bench")]
pub(crate) use some::Sample;

/// What a case runs: it returns the worst error over its bound.
type Run = Box<dyn Fn(&mut Bench<'_>) -> Result<f64, Stop> + Send + Sync>;

/// One op at one shape.
///
/// ```
/// use gristmill::verify;
///
/// let cases = verify::cases();
/// let case = cases.iter().find(|case| case.op == "matmul" && case.dtype == "f16").expect("half-precision products");
/// assert!(case.name.starts_with("matmul m="));
/// ```
pub struct Case {
    /// `matmul m=33,k=65,n=17 f16 integers`.
    pub name: String,
    /// The op in [`crate::ops`].
    pub op: &'static str,
    /// The element type that sets it apart: that of the weight, or what is cast to what.
    pub dtype: &'static str,
    /// What is particular about the shape.
    pub shape_class: &'static str,
    /// Too slow for more than one configuration of a software adapter.
    pub large: bool,
    run: Run,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Case({}: {})", self.name, self.shape_class)
    }
}

/// What became of a case.
///
/// ```
/// use gristmill::verify::{self, Layout, Outcome};
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let cases = verify::cases();
/// let case = cases.iter().find(|case| case.op == "softmax" && !case.large).expect("cases of softmax");
/// match verify::run_case(&gpu, case, Layout::Padded) {
///     Outcome::Passed { worst } => assert!(worst <= 1.0), // the largest error over its bound
///     other => panic!("{case:?}: {other:?}"),
/// }
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Every element within its bound.
    Passed {
        /// The largest error over its bound; 0 where all elements are equal.
        worst: f64,
    },
    /// Run, and compared with itself: the CPU backend computes this op with the twin.
    Unverified,
    /// A wrong element, a touched guard, or an error where none was due.
    Failed {
        /// Where, what was expected and what was found.
        message: String,
    },
    /// Not run: the adapter's limits do not allow it.
    Skipped {
        /// The limit.
        reason: String,
    },
}

/// How the operands of a case lie on a device.
///
/// ```
/// use gristmill::verify::{self, Layout, Outcome};
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let cases = verify::cases();
/// let case = cases.iter().find(|case| case.op == "softmax" && !case.large).expect("cases of softmax");
/// for layout in [Layout::Padded, Layout::Dense, Layout::Mixed] {
///     assert!(matches!(verify::run_case(&gpu, case, layout), Outcome::Passed { .. }));
/// }
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Layout {
    /// As the engine makes tensors: rows at multiples of 16 bytes.
    #[default]
    Padded,
    /// As a caller's buffers may be: rows without anything between them.
    Dense,
    /// Inputs as a caller's buffers, outputs as the engine makes them.
    Mixed,
}

/// Runs one case. The backend's pool hands out poisoned buffers from then on.
pub fn run_case(gpu: &GpuCompute, case: &Case, layout: Layout) -> Outcome {
    run_case_by(gpu, case, layout, &Pass::submit)
}

/// [`run_case`] on passes that `submit` brings to the device: for those who record into an encoder of their own.
pub fn run_case_by(gpu: &GpuCompute, case: &Case, layout: Layout, submit: Submit<'_>) -> Outcome {
    execute(gpu, case, layout, submit).0
}

/// What brings a pass to the device.
type Submit<'a> = &'a (dyn Fn(Pass) -> crate::Result<()> + Sync);

/// The outcome, and the kernels that were dispatched for it.
fn execute(gpu: &GpuCompute, case: &Case, layout: Layout, submit: Submit<'_>) -> (Outcome, BTreeSet<&'static str>) {
    let (outcome, bench) = observe(gpu, case, layout, submit);
    (outcome, bench.into_kernels())
}

/// The outcome, and where it came about.
pub(crate) fn observe<'a>(
    gpu: &'a GpuCompute,
    case: &Case,
    layout: Layout,
    submit: Submit<'a>,
) -> (Outcome, Bench<'a>) {
    if let Some(engine) = gpu.engine() {
        engine.pool.set_poison(true);
        engine.cache.set_wide(true);
    }
    let mut bench = Bench::new(gpu, layout, submit);
    let outcome = match (case.run)(&mut bench) {
        Ok(_) if !gpu.is_gpu() && crate::cpu::SHARES_TWIN.contains(&case.op) => Outcome::Unverified,
        Ok(worst) if worst <= 1.0 => Outcome::Passed { worst },
        Ok(worst) => Outcome::Failed { message: format!("error {worst:.3} times its bound") },
        Err(Stop::Failed(message)) => Outcome::Failed { message },
        Err(Stop::Skipped(reason)) => Outcome::Skipped { reason },
    };
    (outcome, bench)
}

/// The outcomes of one op's cases on one element type.
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute, verify};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let report = verify::run(&gpu, Some("dot"), |_, _, _| ());
/// let row = &report.ops[0];
/// assert_eq!((row.op, row.dtype, row.failed), ("dot", "f32", 0));
/// assert_eq!(row.cases, row.passed + row.skipped + row.unverified);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "models", derive(serde::Serialize))]
pub struct OpReport {
    /// The op.
    pub op: &'static str,
    /// The element type, as in [`Case::dtype`].
    pub dtype: &'static str,
    /// Cases run or skipped.
    pub cases: usize,
    /// Cases within their bounds.
    pub passed: usize,
    /// Cases out of them.
    pub failed: usize,
    /// Cases that the adapter's limits do not allow.
    pub skipped: usize,
    /// Cases of an op that the CPU backend computes with the twin itself: equal to the truth by construction.
    pub unverified: usize,
    /// The largest error over its bound in the cases that passed.
    pub worst: f64,
    /// The kernels that ran, and in how many cases; none on the CPU backend.
    pub kernels: BTreeMap<&'static str, usize>,
}

/// The outcomes of a table of cases.
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute, verify};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let report = verify::run(&gpu, Some("softmax"), |case, outcome, time| println!("{case:?} {outcome:?} {time:?}"));
/// assert!(report.is_good(), "{:?}", report.failures);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "models", derive(serde::Serialize))]
pub struct Report {
    /// The adapter, or the CPU backend.
    pub backend: String,
    /// One row per op and element type, in the order of the table.
    pub ops: Vec<OpReport>,
    /// `case: message` of each failure.
    pub failures: Vec<String>,
    /// `case: reason` of each case that was not run.
    pub skips: Vec<String>,
    /// `kernel: reason` of each kernel of these ops that does not run here.
    pub absent: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    /// Cases run and right.
    pub fn passed(&self) -> usize {
        self.ops.iter().map(|row| row.passed).sum()
    }

    /// Cases that were compared with themselves.
    pub fn unverified(&self) -> usize {
        self.ops.iter().map(|row| row.unverified).sum()
    }

    /// Something ran, and nothing failed.
    pub fn is_good(&self) -> bool {
        self.failures.is_empty() && self.passed() > 0
    }
}

/// Runs every case, or those of one op, and calls `progress` after each with how long it took.
pub fn run(gpu: &GpuCompute, op: Option<&str>, mut progress: impl FnMut(&Case, &Outcome, Duration)) -> Report {
    let start = Instant::now();
    let backend = gpu.adapter().map_or_else(|| "CPU backend".to_owned(), ToString::to_string);
    let absent = gpu.engine().map_or_else(Vec::new, |engine| absent(engine, op));
    let mut report = Report { backend, absent, ..Report::default() };
    for case in cases().iter().filter(|case| op.is_none_or(|op| case.op == op)) {
        let before = Instant::now();
        let (outcome, kernels) = execute(gpu, case, Layout::Padded, &Pass::submit);
        progress(case, &outcome, before.elapsed());
        report.note(case, outcome, kernels);
    }
    if let Some(engine) = gpu.engine() {
        engine.pool.set_poison(false);
        engine.cache.set_wide(false);
    }
    report.seconds = start.elapsed().as_secs_f64();
    report
}

/// The kernels of an op, or of all of them, that an engine does not run, and why.
fn absent(engine: &Engine, op: Option<&str>) -> Vec<String> {
    let wanted = kernels::ALL.iter().filter(|kernel| op.is_none_or(|op| kernel.op == op));
    wanted.filter_map(|kernel| Some(format!("{}: {}", kernel.name, engine.lacks(kernel)?))).collect()
}

impl Report {
    fn note(&mut self, case: &Case, outcome: Outcome, kernels: BTreeSet<&'static str>) {
        let index = self.ops.iter().position(|row| (row.op, row.dtype) == (case.op, case.dtype)).unwrap_or_else(|| {
            self.ops.push(OpReport { op: case.op, dtype: case.dtype, ..OpReport::default() });
            self.ops.len() - 1
        });
        let Some(row) = self.ops.get_mut(index) else { return };
        row.cases += 1;
        kernels.into_iter().for_each(|kernel| *row.kernels.entry(kernel).or_default() += 1);
        match outcome {
            Outcome::Passed { worst } => {
                row.passed += 1;
                row.worst = row.worst.max(worst);
            }
            Outcome::Unverified => row.unverified += 1,
            Outcome::Failed { message } => {
                row.failed += 1;
                self.failures.push(format!("{}: {message}", case.name));
            }
            Outcome::Skipped { reason } => {
                row.skipped += 1;
                self.skips.push(format!("{}: {reason}", case.name));
            }
        }
    }
}
