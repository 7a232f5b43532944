//! What was measured, kept: JSON lines, each complete in itself. `benches/record/README.md` says what the fields mean.
//!
//! A figure without its adapter, driver, command and commit cannot be compared or repeated, so every line carries them.
//! What would mislead (a number that is none, too few repetitions, a pass of a shortened run) is refused by one function,
//! when a line is written and when it is read; the README's tables are printed from these lines and from nothing else.

mod environment;
mod profile;

use serde::{Deserialize, Serialize};

use super::statistics::Estimate;
use crate::error::{Error, Result};
pub use environment::{Adapter, Environment};
pub use profile::{ProfileOp, ProfileRow};

/// Name and version of the schema; the version rises with every change that a reader must know of.
pub const SCHEMA: &str = "gristmill-bench/1";

/// What the maker says a device can do.
///
/// ```
/// use gristmill::bench::{Datasheet, datasheet};
///
/// let (gflops, gb_per_s, source) = datasheet("NVIDIA GeForce RTX 4090").expect("a known adapter");
/// let known = Datasheet { gflops, gb_per_s, source: source.to_owned() };
/// assert!(known.gb_per_s == 1008.0 && known.source.starts_with("NVIDIA"));
/// assert!(datasheet("llvmpipe").is_none());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Datasheet {
    /// f32 GFLOP/s outside the matrix units.
    pub gflops: f64,
    /// GB/s.
    pub gb_per_s: f64,
    /// Where it says so.
    pub source: String,
}

/// One kernel at one shape.
///
/// ```
/// use gristmill::bench::{Entry, parse_records};
///
/// let mut rows = 0;
/// for path in std::fs::read_dir("benches/record/cpu")?.flatten().map(|file| file.path()) {
///     let text = if path.extension() == Some("jsonl".as_ref()) { std::fs::read_to_string(path)? } else { continue };
///     for record in parse_records(&text)? {
///         let Entry::Kernel(row) = record.entry else { continue };
///         assert!(row.gb_per_s <= 1.25 * row.peak_gb_per_s); // beyond that, nothing is recorded
///         rows += 1;
///     }
/// }
/// assert!(rows > 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelRow {
    /// Op, shape and type: by this, rows of two runs are matched.
    pub name: String,
    /// The op.
    pub op: String,
    /// `m=1,k=768,n=2304`.
    pub shape: String,
    /// What the weight is stored in.
    pub dtype: String,
    /// The kernels that ran; none on the CPU backend.
    pub kernels: Vec<String>,
    /// Floating-point operations of products in a call.
    pub flops: f64,
    /// Bytes that a call moves at least.
    pub bytes: f64,
    /// Sets of operands that took turns.
    pub sets: usize,
    /// Bytes of all of them.
    pub working_set: u64,
    /// Calls in a repetition.
    pub calls: usize,
    /// Repetitions.
    pub repetitions: usize,
    /// Microseconds a call by the wall.
    pub wall_us: Estimate,
    /// Microseconds a call by the device's clock; `null` without one.
    pub device_us: Option<Estimate>,
    /// Microseconds of the yardstick (`probe`, the same for every row), in turns with this.
    pub yardstick_us: Estimate,
    /// How many times as long as the yardstick, of each pair: what is compared with a baseline, because whatever else the
    /// machine did happened to both.
    pub relative: Estimate,
    /// GFLOP/s, from the device's time if there is one; `null` without products.
    pub gflops: Option<f64>,
    /// GB/s, likewise.
    pub gb_per_s: f64,
    /// The peak that the probe reached, in GFLOP/s of f32 multiply-adds.
    pub peak_gflops: f64,
    /// The bandwidth that the probe reached at this working set, in GB/s.
    pub peak_gb_per_s: f64,
    /// The maker's figures, where they are known.
    pub datasheet: Option<Datasheet>,
}

/// A model reading or writing, as llama-bench has it: the same names, so that rows can be laid side by side.
///
/// ```
/// use gristmill::bench::{ModelTest, TestKind};
/// use gristmill::model::Config;
/// use gristmill::{ComputeBackend, GpuCompute, GpuModel};
///
/// let config = Config::new(50, 16, 8, 2, 2); // vocabulary, context, width, layers, heads
/// let model = GpuModel::random(&GpuCompute::new(ComputeBackend::Cpu)?, &config, 1)?;
/// let row = ModelTest { kind: TestKind::Prompt(8), depth: 0 }.run(&model, "random", 5)?;
/// println!("{:.0} tokens/s, {:.0} to {:.0}", row.tokens_per_s.median, row.tokens_per_s.low, row.tokens_per_s.high);
/// assert_eq!((row.n_prompt, row.n_gen, row.model_size), (8, 0, model.weight_bytes()));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRow {
    /// What was run.
    pub model_type: String,
    /// Bytes of weights.
    pub model_size: u64,
    /// Weights.
    pub model_n_params: u64,
    /// Tokens read.
    pub n_prompt: usize,
    /// Tokens written.
    pub n_gen: usize,
    /// Tokens in the cache before.
    pub n_depth: usize,
    /// Mean nanoseconds.
    pub avg_ns: u64,
    /// Their standard deviation.
    pub stddev_ns: u64,
    /// Mean tokens a second.
    pub avg_ts: f64,
    /// Their standard deviation.
    pub stddev_ts: f64,
    /// Every repetition.
    pub samples_ns: Vec<u64>,
    /// Every repetition.
    pub samples_ts: Vec<f64>,
    /// Tokens a second, median and interval.
    pub tokens_per_s: Estimate,
    /// What keys are kept in.
    pub type_k: String,
    /// What values are kept in.
    pub type_v: String,
    /// Attention without a matrix of scores.
    pub flash_attn: bool,
}

/// A row of the parity example.
///
/// ```
/// use gristmill::bench::{Entry, Environment, Estimate, ParityRow, Record};
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let [id, name, status, note] = ["GPU-002", "GPU over CPU, matmul 1024^3", "PASS", ""].map(str::to_owned);
/// let value = Some(Estimate { median: 12.0, low: 11.0, high: 13.0 });
/// let (target, better, unit, quick) = (10.0, "higher".to_owned(), "x".to_owned(), true);
/// let row = ParityRow { id, name, status, note, value, target, better, unit, quick };
/// let environment = Environment::of(&GpuCompute::new(ComputeBackend::Cpu)?);
/// assert!(Record::new(&environment, Entry::Parity(row)).to_line().is_err()); // a quick run passes nothing
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParityRow {
    /// `GPU-001`.
    pub id: String,
    /// What it is.
    pub name: String,
    /// `PASS`, `BELOW` or `SKIP`.
    pub status: String,
    /// Why it is skipped, or what else must be known.
    pub note: String,
    /// What was reached.
    pub value: Option<Estimate>,
    /// The one threshold.
    pub target: f64,
    /// `higher` or `lower`.
    pub better: String,
    /// Of both.
    pub unit: String,
    /// A shorter run, which never passes.
    pub quick: bool,
}

/// A product on both sides, and which of them the scheduler chose.
///
/// ```
/// use gristmill::bench::{Estimate, SchedulerRow};
///
/// let time = |median| Estimate { median, low: 0.9 * median, high: 1.1 * median };
/// let [shape, operands, chose, reason] = ["m=1,k=64,n=64", "host", "cpu", "sooner"].map(str::to_owned);
/// let row = SchedulerRow { shape, operands, gpu_us: time(570.0), cpu_us: time(1.4), chose, reason };
/// assert!(row.chose == "cpu" && row.cpu_us.high < row.gpu_us.low); // it chose well
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SchedulerRow {
    /// `m=1,k=768,n=2304`.
    pub shape: String,
    /// Where they are: `host`, or `resident` on the side that computes.
    pub operands: String,
    /// Microseconds on the GPU, or what stands for one.
    pub gpu_us: Estimate,
    /// Microseconds on the CPU backend.
    pub cpu_us: Estimate,
    /// `gpu` or `cpu`.
    pub chose: String,
    /// Why.
    pub reason: String,
}

/// Another engine beside this one, in turns on the same machine.
///
/// ```
/// use gristmill::bench::{Estimate, PeerRow, ratios};
///
/// let (our_samples, their_samples) = (vec![93.0, 95.0, 99.0, 101.0, 98.0], vec![150.0, 168.0, 178.0, 187.0, 180.0]);
/// let of = |samples: &[f64]| Estimate::of(samples).expect("samples");
/// let [name, peer, peer_version, unit] = ["decode of 64", "llama.cpp, CPU", "b9999", "tok/s"].map(str::to_owned);
/// let ratio = ratios(&our_samples, &their_samples).expect("pairs"); // of samples that were taken in turns
/// let (ours, theirs) = (of(&our_samples), of(&their_samples));
/// let row = PeerRow { name, peer, peer_version, unit, ours, theirs, ratio, our_samples, their_samples };
/// assert!(row.ratio.high < 1.0); // slower, and no noise says otherwise
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    /// The work.
    pub name: String,
    /// The other engine.
    pub peer: String,
    /// Its version.
    pub peer_version: String,
    /// Of both; more is better.
    pub unit: String,
    /// Ours.
    pub ours: Estimate,
    /// Theirs.
    pub theirs: Estimate,
    /// Ours over theirs.
    pub ratio: Estimate,
    /// Every repetition of ours.
    pub our_samples: Vec<f64>,
    /// Every repetition of theirs.
    pub their_samples: Vec<f64>,
}

/// What a line is about.
///
/// ```
/// use gristmill::bench::{Entry, Estimate, SchedulerRow};
///
/// let time = |median| Estimate { median, low: 0.9 * median, high: 1.1 * median };
/// let [shape, operands, chose, reason] = ["m=1,k=64,n=64", "host", "cpu", "sooner"].map(str::to_owned);
/// let row = SchedulerRow { shape, operands, gpu_us: time(570.0), cpu_us: time(1.4), chose, reason };
/// let entry = Entry::Scheduler(row);
/// let json = serde_json::to_value(&entry)?;
/// assert_eq!((&json["kind"], &json["chose"]), (&"scheduler".into(), &"cpu".into()));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// A kernel at a shape.
    Kernel(KernelRow),
    /// A model reading or writing.
    Model(ModelRow),
    /// Where a model's time goes.
    Profile(ProfileRow),
    /// A row of the parity example.
    Parity(ParityRow),
    /// A choice of the scheduler.
    Scheduler(SchedulerRow),
    /// Another engine on the same work.
    Peer(PeerRow),
}

/// A line.
///
/// ```
/// use gristmill::bench::{Entry, Environment, Estimate, Record, SchedulerRow, parse_records};
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let time = |median| Estimate { median, low: 0.9 * median, high: 1.1 * median };
/// let [shape, operands, chose, reason] = ["m=1,k=64,n=64", "host", "cpu", "sooner"].map(str::to_owned);
/// let row = SchedulerRow { shape, operands, gpu_us: time(570.0), cpu_us: time(1.4), chose, reason };
/// let environment = Environment::of(&GpuCompute::new(ComputeBackend::Cpu)?);
/// let record = Record::new(&environment, Entry::Scheduler(row));
/// assert_eq!(parse_records(&record.to_line()?)?, [record]); // a line of a file
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: String,
    /// Where it was measured.
    pub environment: Environment,
    /// What.
    #[serde(flatten)]
    pub entry: Entry,
}

impl Record {
    /// A line about this backend.
    pub fn new(environment: &Environment, entry: Entry) -> Record {
        Record { schema: SCHEMA.to_owned(), environment: environment.clone(), entry }
    }

    /// As a line, without its end.
    ///
    /// # Errors
    /// [`Error::BadRecord`] if a number is none.
    pub fn to_line(&self) -> Result<String> {
        self.validate()?;
        serde_json::to_string(self).map_err(|error| bad(error.to_string()))
    }

    /// Numbers that are none, intervals without their median, too few repetitions.
    ///
    /// # Errors
    /// [`Error::BadRecord`].
    pub fn validate(&self) -> Result<()> {
        let check = |holds: bool, what: &str| if holds { Ok(()) } else { Err(bad(what.to_owned())) };
        let interval = |e: &Estimate| e.low <= e.median && e.median <= e.high && e.high.is_finite() && e.low >= 0.0;
        check(self.schema == SCHEMA, &format!("the schema is `{}`; this reads `{SCHEMA}`", self.schema))?;
        check(
            !self.environment.command.is_empty() && self.environment.date.ends_with('Z'),
            "command or date is missing",
        )?;
        match &self.entry {
            Entry::Kernel(row) => {
                let estimates = [Some(row.wall_us), row.device_us, Some(row.yardstick_us), Some(row.relative)];
                check(estimates.iter().flatten().all(interval), "an interval of `kernel` is none")?;
                check(row.repetitions >= 7, "fewer than seven repetitions")?;
                check(row.sets > 0 && row.calls > 0 && row.wall_us.median > 0.0, "nothing was measured")?;
                check(row.peak_gflops > 0.0 && row.peak_gb_per_s > 0.0, "no ceiling")
            }
            Entry::Model(row) => {
                check(interval(&row.tokens_per_s), "an interval of `model` is none")?;
                check(
                    row.samples_ns.len() == row.samples_ts.len() && !row.samples_ns.is_empty(),
                    "samples are missing",
                )?;
                check(row.n_prompt + row.n_gen > 0, "no tokens")
            }
            Entry::Profile(row) => {
                let sum: f64 = row.rows.iter().map(|op| op.seconds).sum();
                check(sum > 0.0 && row.seconds > 0.0 && row.seconds_untimed > 0.0, "nothing was profiled")?;
                check((row.n_prompt > 0) != (row.n_gen > 0), "neither of reading nor of writing")
            }
            Entry::Parity(row) => {
                check(row.value.as_ref().is_none_or(interval), "an interval of `parity` is none")?;
                check(["PASS", "BELOW", "SKIP"].contains(&row.status.as_str()), "an unknown status")?;
                check(row.status == "SKIP" || row.value.is_some(), "a status without a value")?;
                check(row.status != "SKIP" || !row.note.is_empty(), "skipped without a reason")?;
                check(["higher", "lower"].contains(&row.better.as_str()), "neither higher nor lower is better")?;
                check(!(row.quick && row.status == "PASS"), "a quick run passes nothing")
            }
            Entry::Scheduler(row) => {
                check(interval(&row.gpu_us) && interval(&row.cpu_us), "an interval of `scheduler` is none")?;
                check(["gpu", "cpu"].contains(&row.chose.as_str()), "an unknown choice")
            }
            Entry::Peer(row) => {
                check([row.ours, row.theirs, row.ratio].iter().all(interval), "an interval of `peer` is none")?;
                check(!row.peer.is_empty() && row.our_samples.len() >= 5, "too few repetitions beside a peer")
            }
        }
    }
}

fn bad(message: String) -> Error {
    Error::BadRecord { line: 0, message }
}

/// Reads JSON lines.
///
/// # Errors
/// [`Error::BadRecord`], with the line, for what is no record of this schema.
pub fn parse_records(text: &str) -> Result<Vec<Record>> {
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(i, line): (usize, &str)| {
        let at = |message: String| Error::BadRecord { line: i + 1, message };
        let record: Record = serde_json::from_str(line).map_err(|error| at(error.to_string()))?;
        record.validate().map_err(|error| at(error.to_string()))?;
        Ok(record)
    };
    numbered.map(parse).collect()
}
