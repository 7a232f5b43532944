//! Running mutants: which cases can see one, and what became of it.
//!
//! Every case against every mutant would take far too long, and most could not see it. A survey first runs each case once
//! with nothing broken, and notes which kernels it dispatches and how long it takes; a mutant then meets the cases that
//! compile its text, short ones first, until one fails. A mutant whose text was never compiled is not a survivor but
//! unseen, a different finding. Each mutant has devices of its own, because what it writes where it should not must not
//! fail, or save, the next.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::Mutant;
use crate::error::Result;
use crate::gpu::{Arithmetic, ComputeBackend, GpuCompute, Options};
use crate::kernel::{File, Kernel, kernels};
use crate::pass::Pass;
use crate::tuning::Tuning;
use crate::verify::{Case, Layout, Outcome, cases, execute};

/// How a device is opened and how operands lie: between them, every kernel is dispatched, and no operand can pass for
/// another because both lie alike.
///
/// ```
/// use gristmill::verify::mutants::{Job, Setting};
///
/// let jobs = Setting::ALL.map(|setting| Job { setting, case: 0 }.to_string());
/// assert_eq!(jobs[..4], ["adapter:0", "plain:0", "untuned:0", "dense:0"]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// The adapter as it is.
    Adapter,
    /// Without immediates and subgroups.
    Plain,
    /// The adapter as it is, but for its tuning: kernels and knobs as their files have them.
    Untuned,
    /// The adapter as it is; operands as a caller's buffers.
    Dense,
    /// The adapter as it is; inputs as a caller's buffers, outputs as ours.
    Mixed,
    /// Without immediates and subgroups; operands as a caller's buffers.
    PlainDense,
    /// Without immediates and subgroups; inputs as a caller's buffers, outputs as ours.
    PlainMixed,
    /// The adapter as it is, products in halves; nothing where it has no matrix units.
    Halves,
}

impl Setting {
    /// Every setting.
    pub const ALL: [Setting; 8] = [
        Setting::Adapter,
        Setting::Plain,
        Setting::Untuned,
        Setting::Dense,
        Setting::Mixed,
        Setting::PlainDense,
        Setting::PlainMixed,
        Setting::Halves,
    ];

    fn name(self) -> &'static str {
        match self {
            Setting::Adapter => "adapter",
            Setting::Plain => "plain",
            Setting::Untuned => "untuned",
            Setting::Dense => "dense",
            Setting::Mixed => "mixed",
            Setting::PlainDense => "plain-dense",
            Setting::PlainMixed => "plain-mixed",
            Setting::Halves => "halves",
        }
    }

    fn layout(self) -> Layout {
        match self {
            Setting::Adapter | Setting::Plain | Setting::Untuned | Setting::Halves => Layout::Padded,
            Setting::Dense | Setting::PlainDense => Layout::Dense,
            Setting::Mixed | Setting::PlainMixed => Layout::Mixed,
        }
    }

    /// Opens a device of its own.
    fn open(self, adapter: Option<&str>) -> Result<GpuCompute> {
        let mut options = Options::new(ComputeBackend::Gpu);
        options.adapter = adapter.map(str::to_owned);
        let extras = !matches!(self, Setting::Plain | Setting::PlainDense | Setting::PlainMixed);
        options.arithmetic = if self == Setting::Halves { Arithmetic::F16 } else { Arithmetic::F32 };
        (options.immediates, options.subgroups) = (extras, extras);
        let gpu = GpuCompute::open(&options)?;
        if self == Setting::Untuned {
            gpu.set_tuning(Tuning::default());
        }
        Ok(gpu)
    }
}

/// The kernels that an adapter runs in no setting.
///
/// # Errors
/// [`Error::NoAdapter`](crate::Error::NoAdapter).
pub fn absent(adapter: Option<&str>) -> Result<BTreeSet<&'static str>> {
    let gpu = Setting::Halves.open(adapter)?;
    let lacks = |kernel: &&&Kernel| gpu.engine().is_some_and(|engine| engine.lacks(kernel).is_some());
    Ok(kernels::ALL.iter().filter(lacks).map(|kernel| kernel.name).collect())
}

/// One case in one setting; written `plain:17`.
///
/// ```
/// use gristmill::verify::mutants::{Job, Setting};
///
/// let job: Job = "plain:17".parse()?;
/// assert_eq!(job, Job { setting: Setting::Plain, case: 17 });
/// assert!("nowhere:17".parse::<Job>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// The setting.
    pub setting: Setting,
    /// Position in [`cases`].
    pub case: usize,
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.setting.name(), self.case)
    }
}

impl FromStr for Job {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Job, String> {
        let parsed = text.split_once(':').and_then(|(setting, case)| {
            let setting = Setting::ALL.into_iter().find(|s| s.name() == setting)?;
            Some(Job { setting, case: case.parse().ok()? })
        });
        parsed.ok_or_else(|| format!("`{text}` is no job"))
    }
}

/// A case that was run with nothing broken.
#[derive(Debug)]
struct Ran {
    job: Job,
    kernels: BTreeSet<&'static str>,
    time: Duration,
}

/// The cases as they are with nothing broken: which kernels each dispatches, how long it takes, and that it passes, without
/// which nothing could be said of a mutant that fails it.
///
/// ```
/// use gristmill::verify::mutants::{self, Survey};
///
/// let survey = Survey::run(None, Some(&["relu"].into()), |_| ())?; // on the first adapter
/// assert!(survey.failures.is_empty(), "{:?}", survey.failures);
/// let mutant = mutants::all().into_iter().find(|mutant| mutant.op == Some("relu")).expect("mutants of every kernel");
/// let jobs = survey.jobs(&mutant);
/// println!("{} comes first", survey.name(&jobs[0]));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug)]
pub struct Survey {
    cases: Vec<Case>,
    ran: Vec<Ran>,
    /// `setting case: message` of what failed with nothing broken.
    pub failures: Vec<String>,
}

impl Survey {
    /// Runs every case that is not large, or those of `ops` only, in every setting.
    ///
    /// # Errors
    /// [`Error::NoAdapter`](crate::Error::NoAdapter).
    pub fn run(adapter: Option<&str>, ops: Option<&BTreeSet<&str>>, mut progress: impl FnMut(&Case)) -> Result<Survey> {
        let mut survey = Survey { cases: cases(), ran: Vec::new(), failures: Vec::new() };
        for setting in Setting::ALL {
            let gpu = setting.open(adapter)?;
            if setting == Setting::Halves && gpu.arithmetic() != Arithmetic::F16 {
                continue;
            }
            for (index, case) in survey.cases.iter().enumerate() {
                if case.large || ops.is_some_and(|ops| !ops.contains(case.op)) {
                    continue;
                }
                let start = Instant::now();
                let (outcome, kernels) = execute(&gpu, case, setting.layout(), &Pass::submit);
                if let Outcome::Failed { message } = outcome {
                    survey.failures.push(format!("{} {}: {message}", setting.name(), case.name));
                }
                survey.ran.push(Ran { job: Job { setting, case: index }, kernels, time: start.elapsed() });
                progress(case);
            }
        }
        Ok(survey)
    }

    /// How many cases a survey runs.
    pub fn length(ops: Option<&BTreeSet<&str>>) -> usize {
        let wanted = |case: &&Case| !case.large && ops.is_none_or(|ops| ops.contains(case.op));
        Setting::ALL.len() * cases().iter().filter(wanted).count()
    }

    /// The cases that dispatch what the mutant changes: those of its own op in every layout, short ones before long ones,
    /// then those of other ops and the large ones, one of each class of shapes, in one layout. Each layout in the first
    /// setting that dispatches it: the text is the same however parameters come, and whatever else the device has. All once
    /// more without the tuning.
    pub fn jobs(&self, mutant: &Mutant) -> Vec<Job> {
        let own = |job: &Job| self.cases.get(job.case).is_some_and(|case| mutant.op.is_none_or(|op| op == case.op));
        let seen: Vec<&Ran> = self.ran.iter().filter(|ran| self.dispatches(ran, mutant)).collect();
        let Some(first) = seen.iter().map(|ran| ran.job.setting).min() else { return Vec::new() };
        let mut firsts: BTreeMap<(usize, Layout), Setting> = BTreeMap::new();
        for Job { setting, case } in seen.iter().map(|ran| ran.job) {
            let known = firsts.entry((case, setting.layout())).or_insert(setting);
            *known = setting.min(*known);
        }
        let is_first = |job: &Job| firsts.get(&(job.case, job.setting.layout())) == Some(&job.setting);
        // Without the tuning a workgroup has other sizes, and several subgroups where it had one.
        let in_whole = |setting| setting == first || setting == Setting::Untuned;
        let wanted = |job: &Job| in_whole(job.setting) || (own(job) && is_first(job));
        let mut ran: Vec<&&Ran> = seen.iter().filter(|ran| wanted(&ran.job)).collect();
        ran.sort_by_key(|ran| (!own(&ran.job), ran.job.setting, ran.time, ran.job.case));
        let ops: BTreeSet<&str> =
            ran.iter().filter_map(|ran| self.cases.get(ran.job.case)).map(|case| case.op).collect();
        // What sets large cases of one class apart is their size; for whoever survives all else, one of each is enough.
        let mut classes = BTreeSet::new();
        let mut is_new = |case: &Case| classes.insert((case.op, case.shape_class));
        let large =
            self.cases.iter().enumerate().filter(|(_, case)| case.large && ops.contains(case.op) && is_new(case));
        let mut large: Vec<Job> = large.map(|(case, _)| Job { setting: first, case }).collect();
        large.sort_by_key(|job| (!own(job), job.case));
        ran.iter().map(|ran| ran.job).chain(large).collect()
    }

    fn dispatches(&self, ran: &Ran, mutant: &Mutant) -> bool {
        let dtype = self.cases.get(ran.job.case).map_or("", |case| case.dtype);
        let reads = |kernel: &&&Kernel| kernel.format.is_some() && ran.kernels.contains(kernel.name);
        match mutant.edit.file {
            File::Kernel(index) => kernels::ALL.get(index).is_some_and(|kernel| ran.kernels.contains(kernel.name)),
            File::Format(format) => dtype == format.name() && kernels::ALL.iter().any(|kernel| reads(&kernel)),
        }
    }

    /// How long a case took with nothing broken; `None` for one that was not run.
    pub fn time(&self, job: &Job) -> Option<Duration> {
        self.ran.iter().find(|ran| ran.job == *job).map(|ran| ran.time)
    }

    /// The name of a case.
    pub fn name(&self, job: &Job) -> String {
        let case = self.cases.get(job.case).map_or("?", |case| case.name.as_str());
        format!("{} {case}", job.setting.name())
    }
}

/// What became of a mutant.
///
/// ```
/// use gristmill::verify::mutants::{self, Examiner, Operator, Survey, Verdict};
///
/// let survey = Survey::run(None, Some(&["relu"].into()), |_| ())?;
/// let mutants = mutants::all();
/// let is_wanted = |m: &&mutants::Mutant| m.op == Some("relu") && m.operator == Operator::Builtin;
/// let of_relu = mutants.iter().find(is_wanted).expect("min for max");
/// match Examiner::new(None).examine(of_relu, &survey.jobs(of_relu), |_| ())? {
///     Verdict::Caught { message, .. } => println!("{}: {message}", of_relu.after),
///     other => panic!("{}: {other:?}", of_relu.after),
/// }
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A case failed.
    Caught {
        /// Position in the list of jobs.
        job: usize,
        /// What it said.
        message: String,
    },
    /// Every case passed.
    Survived,
    /// No case compiled the changed text.
    Unseen,
}

/// Runs the cases of mutants, each on devices of its own: what one wrote where it should not, the next never sees.
///
/// ```
/// use gristmill::verify::mutants::{self, Examiner, Survey, Verdict};
///
/// let survey = Survey::run(None, Some(&["relu"].into()), |_| ())?;
/// let mutants = mutants::all();
/// let of_add = mutants.iter().find(|mutant| mutant.op == Some("add")).expect("mutants of every kernel");
/// // No case of relu compiles the text of add, and an examiner says that rather than that the mutant survived.
/// let jobs = survey.jobs(&mutants[mutants.iter().position(|mutant| mutant.op == Some("relu")).expect("some")]);
/// assert_eq!(Examiner::new(None).examine(of_add, &jobs[..1], |_| ())?, Verdict::Unseen);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug)]
pub struct Examiner {
    cases: Vec<Case>,
    adapter: Option<String>,
}

impl Examiner {
    /// For an adapter with this in its name.
    pub fn new(adapter: Option<String>) -> Examiner {
        Examiner { cases: cases(), adapter }
    }

    /// Runs `jobs` up to the first that fails, and calls `started` with the position of each before it begins.
    ///
    /// # Errors
    /// [`Error::NoAdapter`](crate::Error::NoAdapter).
    pub fn examine(&self, mutant: &Mutant, jobs: &[Job], mut started: impl FnMut(usize)) -> Result<Verdict> {
        let mut opened: Vec<(Setting, GpuCompute)> = Vec::new();
        for (position, job) in jobs.iter().enumerate() {
            let Some(case) = self.cases.get(job.case) else { continue };
            started(position);
            let known = opened.iter().find(|(setting, _)| *setting == job.setting).map(|(_, gpu)| gpu.clone());
            let gpu = match known {
                Some(gpu) => gpu,
                None => {
                    let gpu = job.setting.open(self.adapter.as_deref())?;
                    gpu.engine().into_iter().for_each(|engine| engine.cache.set_edit(mutant.edit.clone()));
                    opened.push((job.setting, gpu.clone()));
                    gpu
                }
            };
            if let (Outcome::Failed { message }, _) = execute(&gpu, case, job.setting.layout(), &Pass::submit) {
                return Ok(Verdict::Caught { job: position, message });
            }
        }
        let is_applied = |gpu: &GpuCompute| gpu.engine().is_some_and(|engine| engine.cache.edit_is_applied());
        let seen = opened.iter().any(|(_, gpu)| is_applied(gpu));
        Ok(if seen { Verdict::Survived } else { Verdict::Unseen })
    }
}
