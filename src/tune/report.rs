//! What a sweep found, as a document: complete in itself, so that it can be looked at, compared and repeated.

use serde::{Deserialize, Serialize};

use super::candidates::Knob;
use crate::bench::{Environment, Estimate};

/// Name and version of the schema; the version rises with every change that a reader must know of.
pub const TUNE_SCHEMA: &str = "gristmill-tune/1";

/// The page that shows a report, and what in it is replaced by the report.
const PAGE: &str = include_str!("report.html");
const PLACE: &str = "\"The document of gristmill tune stands here.\"";

/// Everything that one run of the tuner found.
///
/// ```
/// use gristmill::bench::Environment;
/// use gristmill::tune::{TUNE_SCHEMA, TuneReport};
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let environment = Environment::of(&GpuCompute::new(ComputeBackend::Cpu)?);
/// let report = TuneReport::new(environment, "matmul", "matmul", None, "0");
/// assert_eq!((&report.schema[..], report.sweeps.len()), (TUNE_SCHEMA, 0));
/// assert!(report.html().contains("<html"));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuneReport {
    /// [`TUNE_SCHEMA`].
    pub schema: String,
    /// Where, when and by which command.
    pub environment: Environment,
    /// The kernel whose place it is.
    pub kernel: String,
    /// What it computes.
    pub op: String,
    /// The file that was tuned in its place, if it was one.
    pub shader: Option<String>,
    /// Of the text, but for comments and the values of knobs.
    pub source_hash: String,
    /// One for each shape.
    pub sweeps: Vec<Sweep>,
}

/// One shape.
///
/// ```
/// let status = serde_json::to_string(&gristmill::tune::Status::NotRun).expect("a word");
/// assert_eq!(status, "\"not run\"");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// `m=256,k=256,n=256`.
    pub shape: String,
    /// What the weight, or what stands for one, is stored in.
    pub dtype: String,
    /// Floating-point operations of a call; 0 for what is no product.
    pub flops: f64,
    /// Bytes that a call moves at least.
    pub bytes: f64,
    /// What the probes reached here, in GFLOP/s.
    pub peak_gflops: f64,
    /// And in GB/s, on as much memory as the operands take.
    pub peak_gb_per_s: f64,
    /// Which combinations were candidates.
    pub search: String,
    /// The knobs, in the order of the candidates' values.
    pub knobs: Vec<Knob>,
    /// Every combination.
    pub candidates: Vec<Candidate>,
    /// The values that the kernel has without being tuned.
    pub default: Vec<u32>,
    /// Those that it should have.
    pub winner: Vec<u32>,
    /// The best that was tried: the winner, or what was not surely faster.
    #[serde(default)]
    pub best: Vec<u32>,
    /// The default's time over the best's, a last time in turns; 1 where they are the same.
    pub ratio: Estimate,
    /// The other kernels of the op, each at its best, in turns with this one at its best.
    #[serde(default)]
    pub rivals: Vec<Rival>,
    /// Whether there is a winner.
    pub verdict: Verdict,
    /// Candidates that ran now, and whose results were known.
    pub ran: usize,
    /// Candidates whose results were in the cache.
    pub cached: usize,
    /// How long it took.
    pub seconds: f64,
}

/// Another kernel of an op, beside the one that was tuned.
///
/// ```
/// use gristmill::bench::Estimate;
/// use gristmill::tune::Rival;
///
/// let ratio = Estimate { median: 1.5, low: 1.4, high: 1.6 };
/// let rival = Rival { kernel: "matvec".to_owned(), knobs: vec![64, 4], ratio };
/// assert!(rival.ratio.low > 1.0); // so the one that was tuned is surely faster than matvec
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rival {
    /// Its name.
    pub kernel: String,
    /// Its knobs.
    pub knobs: Vec<u32>,
    /// Its time over that of the one that was tuned.
    pub ratio: Estimate,
}

/// Whether a sweep found something.
///
/// ```
/// let verdict: gristmill::tune::Verdict = serde_json::from_str("\"default kept\"").expect("a word of the schema");
/// assert_eq!(verdict, gristmill::tune::Verdict::DefaultKept);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Faster than the default: the interval of the ratio is above 1.
    #[serde(rename = "winner")]
    Winner,
    /// Nothing is surely faster.
    #[serde(rename = "default kept")]
    DefaultKept,
}

/// One combination of knobs.
///
/// ```
/// use gristmill::tune::{Candidate, Status};
///
/// let candidate = Candidate::new(vec![64, 8], Status::Illegal, Some("const_assert".to_owned()));
/// assert!(candidate.relative.is_none());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Values of the knobs.
    pub knobs: Vec<u32>,
    /// What became of it.
    pub status: Status,
    /// Why, where it was not timed.
    pub message: Option<String>,
    /// Microseconds per call.
    pub time_us: Option<Estimate>,
    /// The default's time over its own, in turns: above 1 is faster.
    pub relative: Option<Estimate>,
    /// Of the median time.
    pub gflops: Option<f64>,
    /// Of the median time.
    pub gb_per_s: Option<f64>,
    /// It was run before, and its result kept.
    pub cached: bool,
}

/// What became of a candidate.
///
/// ```
/// assert_ne!(gristmill::tune::Status::Wrong, gristmill::tune::Status::Timed);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Right, and timed.
    Timed,
    /// An assertion of its file, or a limit of the device, forbids it.
    Illegal,
    /// It does not compile.
    Refused,
    /// It computes something else than the twin.
    Wrong,
    /// Its first samples take more than twice the best's: not timed further.
    #[serde(alias = "slow")]
    Slower,
    /// It seems to do more than this device was measured to do: a mistake in the figure, and no result.
    Implausible,
    /// The device failed.
    Failed,
    /// The budget was over.
    #[serde(rename = "not run")]
    NotRun,
}

impl Candidate {
    /// One that was not timed.
    pub fn new(knobs: Vec<u32>, status: Status, message: Option<String>) -> Candidate {
        let (time_us, relative, gflops, gb_per_s) = (None, None, None, None);
        Candidate { knobs, status, message, time_us, relative, gflops, gb_per_s, cached: false }
    }
}

impl TuneReport {
    /// A report without sweeps.
    pub fn new(
        environment: Environment,
        kernel: &str,
        op: &str,
        shader: Option<String>,
        source_hash: &str,
    ) -> TuneReport {
        let (kernel, op, source_hash) = (kernel.to_owned(), op.to_owned(), source_hash.to_owned());
        TuneReport { schema: TUNE_SCHEMA.to_owned(), environment, kernel, op, shader, source_hash, sweeps: Vec::new() }
    }

    /// The page that shows it: one file that needs nothing else.
    pub fn html(&self) -> String {
        TuneReport::page(std::slice::from_ref(self))
    }

    /// One page that shows several, one kernel at a time.
    pub fn page(reports: &[TuneReport]) -> String {
        // Numbers that are none become null. In a page `<` may end the script that holds them, or begin another; in JSON it
        // stands in strings alone, where it can be spelt otherwise.
        let json = match reports {
            [report] => serde_json::to_string(report),
            reports => serde_json::to_string(reports),
        };
        let json = json.unwrap_or_default().replace('<', "\\u003c");
        PAGE.replacen(PLACE, &json, 1)
    }
}
