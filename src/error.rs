//! One error type for the whole crate.
//!
//! Every variant names the operation, tensor, key or file it is about, and its message says what to do. Nothing in
//! gristmill panics on bad input: shapes, files, adapters and lost devices all end here.

use std::path::PathBuf;
use std::time::Duration;

/// `Result` with gristmill's [`enum@Error`].
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute, Result};
///
/// fn norm(x: &[f32]) -> Result<f32> {
///     Ok(GpuCompute::new(ComputeBackend::Cpu)?.dot(x, x)?.sqrt())
/// }
/// assert_eq!(norm(&[3.0, 4.0])?, 5.0);
/// # Ok::<(), gristmill::Error>(())
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and what to do about it.
///
/// ```
/// use gristmill::{ComputeBackend, Error, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// match gpu.matmul(&[1.0; 6], &[1.0; 5], 2, 3, 2) {
///     Err(Error::Shape { op, message }) => assert!(op == "matmul" && message.contains('5')),
///     other => panic!("five elements are no [3, 2]: {other:?}"),
/// }
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No adapter of the kind asked for.
    #[error("no adapter: {reason}. {hint}")]
    NoAdapter {
        /// What was looked for and what was found.
        reason: String,
        /// The command or option that cures it.
        hint: String,
    },
    /// The device lacks a limit that an operation cannot do without.
    #[error(
        "{op}: needs {limit} of {wanted}, this device grants {granted}; request more of its adapter, or use another"
    )]
    Limit {
        /// The kernel, or what was asked for.
        op: String,
        /// wgpu's name of the limit.
        limit: &'static str,
        /// What the operation needs.
        wanted: u64,
        /// What the device grants.
        granted: u64,
    },
    /// Operands whose shapes do not fit each other.
    #[error("{op}: {message}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The shapes, and the rule they break.
        message: String,
    },
    /// One buffer is bound for reading and for writing in one dispatch.
    #[error("{op}: `{first}` and `{second}` share one buffer; give the operation an output of its own")]
    Alias {
        /// The kernel.
        op: &'static str,
        /// One binding.
        first: &'static str,
        /// The other binding.
        second: &'static str,
    },
    /// A tensor that lives on another device than the pass it is used in.
    #[error("{op}: a tensor belongs to another device than the pass; copy it over through the host")]
    ForeignBuffer {
        /// The operation.
        op: &'static str,
    },
    /// Over a binding, buffer or grid limit.
    #[error("{what}: needs {needed}, the limit is {limit}")]
    TooLarge {
        /// What is too large, and in which unit.
        what: String,
        /// What is needed.
        needed: u64,
        /// What the device grants.
        limit: u64,
    },
    /// The device, or the configured budget, has no memory left.
    #[error("out of memory: {bytes} bytes asked for ({context})")]
    OutOfMemory {
        /// The size of the allocation that failed.
        bytes: u64,
        /// What it was for.
        context: String,
    },
    /// A model, with a session on it, that is larger than the memory there is. Nothing was allocated.
    #[error(
        "the model does not fit: {weights} bytes of weights, {kv} of keys and values for a context of {context}, {scratch} of \
         scratch, and {budget} bytes are free; a shorter context, keys and values in f16 or a smaller model may fit"
    )]
    DoesNotFit {
        /// Bytes of weights.
        weights: u64,
        /// Bytes of keys and values.
        kv: u64,
        /// Bytes of scratch, estimated.
        scratch: u64,
        /// Tokens of the session.
        context: usize,
        /// Bytes that are free.
        budget: u64,
    },
    /// The device is gone. Open a new one.
    #[error("device lost: {reason}. Open a new GpuCompute; this one's buffers are gone")]
    DeviceLost {
        /// The driver's words.
        reason: String,
    },
    /// wgpu refused a call.
    #[error("wgpu refused {what}: {message}")]
    Validation {
        /// The call.
        what: String,
        /// wgpu's words.
        message: String,
    },
    /// No submission completed within the deadline.
    #[error("no result within {waited:?}; the work may still be running")]
    Timeout {
        /// How long was waited.
        waited: Duration,
    },
    /// The pass of this result was dropped before it was submitted.
    #[error("the pass was dropped before it was submitted")]
    NotSubmitted,
    /// A result that was handed out before.
    #[error("the result was taken before; a result can be taken once")]
    AlreadyTaken,
    /// A caller's own kernel is called with what it does not take.
    #[error("kernel `{kernel}`: {message}")]
    Kernel {
        /// Its name.
        kernel: String,
        /// What does not fit, and what there is.
        message: String,
    },
    /// What cannot be recorded into a caller's encoder.
    #[error("this cannot be recorded into a caller's encoder: {0}")]
    Recording(&'static str),
    /// A shader that naga or one of the house rules refuses.
    #[error("{0}")]
    Shader(String),
    /// An option whose value is impossible.
    #[error("{option}: {message}")]
    BadOption {
        /// Its name.
        option: &'static str,
        /// The value, and those that are possible.
        message: String,
    },
    /// A calibration that was measured elsewhere: it says nothing of this adapter, or of this many threads.
    #[error("the calibration is of {measured_on}, this is {this}; measure it here")]
    ForeignCalibration {
        /// Where it was measured.
        measured_on: String,
        /// What it was offered to.
        this: String,
    },
    /// An empty prompt.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// More tokens than the context holds.
    #[error(
        "the context holds {limit} tokens and {have} are needed; shorten the prompt, or open a session with a longer context"
    )]
    ContextFull {
        /// Tokens needed.
        have: usize,
        /// Tokens the session can hold.
        limit: usize,
    },
    /// A token id that the vocabulary does not have.
    #[error("token {token} is out of range; the vocabulary has {vocab} entries")]
    TokenOutOfRange {
        /// The id.
        token: u64,
        /// The size of the vocabulary.
        vocab: usize,
    },
    /// NaN or infinity where a number is needed.
    #[error("{count} non-finite values in {what}")]
    NonFinite {
        /// The tensor, or "logits".
        what: String,
        /// How many.
        count: u64,
    },
    /// The operating system refused to open or read a file.
    #[error("{path}: {message}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        message: String,
    },
    /// A file that is not what it claims to be.
    #[error("{path}: byte {offset}: {message}")]
    BadFile {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        message: String,
    },
    /// A model configuration that is impossible.
    #[error("config.json: `{key}`: {message}")]
    BadConfig {
        /// The key.
        key: String,
        /// What is wrong with its value.
        message: String,
    },
    /// A valid model that asks for something gristmill does not implement.
    #[error("config.json: `{key}` = {value} is not implemented")]
    UnsupportedOption {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// A tensor that a model needs and the checkpoint lacks, or has in another shape, or has too many of.
    #[error("tensor `{name}`: {message}")]
    BadTensor {
        /// Its name in the checkpoint.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// What was to be timed computes something else.
    #[error("{what} is wrong, so it is not timed: {message}")]
    WrongResult {
        /// The workload.
        what: String,
        /// Where, what was expected and what was found.
        message: String,
    },
    /// A figure above what the device can do, twice.
    #[error("{what}: {message}; measured twice, and no result")]
    Implausible {
        /// The workload.
        what: String,
        /// The figure and the ceiling.
        message: String,
    },
    /// A line that is no bench record.
    #[error("line {line}: no bench record: {message}")]
    BadRecord {
        /// From 1; 0 where it is not from a file.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// No tokenizer, or one that cannot be used.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}
