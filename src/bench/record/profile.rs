//! Where a model's time goes, as a line of the records.

use serde::{Deserialize, Serialize};

use crate::model::{KvType, Profile};

/// Where the time of a written token goes, or of a prompt.
///
/// ```
/// use gristmill::bench::ProfileRow;
/// use gristmill::model::{Config, SessionOptions};
/// use gristmill::{ComputeBackend, Error, GpuCompute, GpuModel};
///
/// let config = Config::new(50, 16, 8, 2, 2); // vocabulary, context, width, layers, heads
/// let model = GpuModel::random(&GpuCompute::new(ComputeBackend::Gpu)?, &config, 1)?;
/// match model.profile_prompt(0, 8) {
///     Ok(profile) => {
///         let row = ProfileRow::new("random", (8, 0), SessionOptions::new(&config).kv, &profile);
///         let dispatches: f64 = row.rows.iter().map(|op| op.seconds).sum();
///         assert_eq!((row.n_prompt, row.n_gen), (8, 0));
///         assert!(dispatches > 0.0);
///     }
///     // Where timestamps cannot be written within a pass.
///     Err(error) => assert!(matches!(error, Error::Limit { .. })),
/// }
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileRow {
    /// What was run.
    pub model_type: String,
    /// Tokens of the prompt; 0 where tokens were written.
    pub n_prompt: usize,
    /// Tokens written; the seconds are of one.
    pub n_gen: usize,
    /// Tokens in the cache before the first that was timed.
    pub n_depth: usize,
    /// What keys are kept in.
    pub type_k: String,
    /// What values are kept in.
    pub type_v: String,
    /// Seconds by the wall, with timestamps between dispatches.
    pub seconds: f64,
    /// Seconds by the wall, without them.
    pub seconds_untimed: f64,
    /// By kernel, the longest first; what they do not come to of `seconds` is no dispatch's.
    pub rows: Vec<ProfileOp>,
}

/// What the dispatches of one kernel take, per token that is written or per prompt.
///
/// ```
/// use gristmill::bench::ProfileOp;
///
/// let [op, kernel] = ["linear", "matvec_subgroup"].map(str::to_owned);
/// let row = ProfileOp { op, kernel, dispatches: 4, seconds: 2e-3, flops: 4e6, bytes: 8e6 };
/// assert_eq!(row.bytes / row.seconds / 1e9, 4.0); // GB/s
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileOp {
    /// The op.
    pub op: String,
    /// The kernel.
    pub kernel: String,
    /// How many there are.
    pub dispatches: usize,
    /// Seconds on the device.
    pub seconds: f64,
    /// Floating-point operations of products.
    pub flops: f64,
    /// Bytes that are moved at least.
    pub bytes: f64,
}

impl ProfileRow {
    /// The row of a profile of so many tokens read, or written, of which the other is 0.
    pub fn new(model: &str, (n_prompt, n_gen): (usize, usize), kv: KvType, profile: &Profile) -> ProfileRow {
        let op = |row: &crate::model::OpTime| ProfileOp {
            op: row.op.to_string(),
            kernel: row.kernel.to_string(),
            dispatches: row.dispatches,
            seconds: row.seconds,
            flops: row.work.flops,
            bytes: row.work.bytes,
        };
        ProfileRow {
            model_type: model.to_owned(),
            n_prompt,
            n_gen,
            n_depth: profile.position,
            type_k: kv.name().to_owned(),
            type_v: kv.name().to_owned(),
            seconds: profile.seconds,
            seconds_untimed: profile.seconds_untimed,
            rows: profile.rows.iter().map(op).collect(),
        }
    }
}
