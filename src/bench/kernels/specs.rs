//! The ops, their shapes, and the operands of each: random numbers that follow from the row's name.
//!
//! Shapes are those of GPT-2 small and of an 8B Llama, beside powers of two that other engines publish. Numbers are random,
//! since a device may be faster on zeros than on anything a model has; and they are seeded by name, so that a row is the
//! same one alone or among others. Some elements of every output are compared with the twin, within the bound that `verify`
//! has for them, before anything is timed: some, because a twin in f64 of all of them takes longer than what is timed. How
//! right an op is, at odd shapes and for hostile numbers, `verify` says.

mod elementwise;
mod norms;
mod others;
mod positions;
mod products;

use super::shape::{Absent, Key, Shape};
use super::{Host, MAX_ELEMENTS, Row, Spec};
use crate::Tensor;
use crate::error::{Error, Result};
use crate::gpu::Arithmetic;
use crate::kernel::Format;
use crate::verify::inputs::Inputs;

type Expected = Vec<(usize, f64, f64)>;

/// A value, and how far from it a result may lie.
type Bounded = (f64, f64);

/// Elements of an output that are compared, about.
const CHECKED: usize = 4096;
/// Rows of an output that are compared at least, where a row is computed as a whole.
const MIN_ROWS: usize = 16;

const REQUIRED: Absent = Absent::Refused;
const F32: &[Format] = &[Format::F32];
const F32_F16: &[Format] = &[Format::F32, Format::F16];

/// How one op is timed.
pub(super) struct Recipe {
    /// What its rows are called.
    op: &'static str,
    /// The kernels that it dispatches. Of several recipes with one kernel the first is that kernel's.
    pub(super) kernels: &'static [&'static str],
    keys: &'static [Key],
    formats: &'static [Format],
    /// What is timed unless something else is asked for.
    shapes: &'static [(&'static [Format], &'static [&'static str])],
    make: fn(&Shape, Format) -> Result<Made>,
}

/// What a recipe says of one shape.
struct Made {
    flops: f64,
    bytes: f64,
    /// Elements of all operands.
    elements: f64,
    spec: Box<dyn Fn(Arithmetic) -> Spec>,
}

/// In the order in which they are printed.
pub(super) static RECIPES: &[Recipe] = &[
    products::MATMUL,
    products::MATVEC,
    products::MATVEC_OTHERS,
    products::LINEAR,
    products::LINEAR_MERGE,
    products::TRANSPOSE_B,
    elementwise::GELU,
    elementwise::RELU,
    elementwise::SIGMOID,
    elementwise::SILU,
    elementwise::TANH,
    elementwise::SCALE,
    elementwise::PROBE,
    elementwise::ADD,
    elementwise::MUL,
    elementwise::SWIGLU,
    norms::SOFTMAX,
    norms::LOG_SOFTMAX,
    norms::LAYER_NORM,
    norms::ADD_LAYER_NORM,
    norms::RMS_NORM,
    norms::ADD_RMS_NORM,
    positions::ATTENTION,
    positions::ATTENTION_TILE,
    positions::ATTENTION_DECODE,
    positions::ATTENTION_MERGE,
    positions::ROPE,
    positions::NORM_ROPE,
    positions::EMBED,
    positions::GATHER,
    positions::ARGMAX,
    positions::SAMPLE,
    others::TRANSPOSE,
    others::REPITCH,
    others::CAST,
    others::REDUCE,
    others::DOT,
];

impl Recipe {
    /// The shapes and formats of the table.
    pub(super) fn table(&self) -> impl Iterator<Item = (&'static str, Format)> {
        self.shapes.iter().flat_map(|(formats, shapes)| {
            formats.iter().flat_map(|&format| shapes.iter().map(move |&shape| (shape, format)))
        })
    }

    /// The row of a shape.
    ///
    /// # Errors
    /// [`Error::BadOption`], [`Error::TooLarge`].
    pub(super) fn row(&self, shape: &str, format: Format) -> Result<Row> {
        let op = self.op;
        if !self.formats.contains(&format) {
            let known: Vec<&str> = self.formats.iter().map(|format| format.name()).collect();
            let message = format!("{} is not read by {op}; it takes {}", format.name(), known.join(", "));
            return Err(Error::BadOption { option: "format", message });
        }
        let shape = Shape::parse(op, self.keys, shape)?;
        let Made { flops, bytes, elements, spec } = (self.make)(&shape, format)?;
        if elements > MAX_ELEMENTS as f64 {
            let what = format!("operands of {op} {} in elements", shape.text);
            return Err(Error::TooLarge { what, needed: elements as u64, limit: MAX_ELEMENTS });
        }
        Ok(Row { op, shape: shape.text, dtype: format.name(), flops, bytes, spec })
    }
}

fn draw(name: &str, count: usize) -> Vec<f32> {
    Inputs::new(name).uniform(count)
}

/// A tensor that is only written: what is read of it before that is seen.
fn poison(shape: Vec<usize>) -> (Host, Vec<usize>) {
    (Host::F32(vec![f32::NAN; shape.iter().product()]), shape)
}

/// The same for words.
fn poison_words(shape: Vec<usize>) -> (Host, Vec<usize>) {
    (Host::Words(vec![u32::MAX; shape.iter().product()]), shape)
}

/// About `most` of `count` places, one at random of each of as many stretches, and both ends: no period of a kernel's tiles
/// escapes them.
fn places(count: usize, most: usize) -> Vec<usize> {
    let (mut inputs, stretch) = (Inputs::new("places"), count.div_ceil(most.max(1)).max(1));
    let within = |first: usize| first + inputs.below(stretch.min(count - first));
    let mut places: Vec<usize> = (0..count).step_by(stretch).map(within).collect();
    places.extend([0, count.saturating_sub(1)]);
    places.sort_unstable();
    places.dedup();
    places.retain(|&place| place < count);
    places
}

/// What is expected of an output\[m,n\] whose rows are computed one by one: `twin` has those of some rows.
fn by_rows((m, n): (usize, usize), twin: impl FnOnce(&[usize]) -> Vec<Bounded>) -> Expected {
    let rows = places(m, (CHECKED / n.max(1)).max(MIN_ROWS));
    let truth = twin(&rows);
    let one = |i: usize| Some((rows.get(i / n)? * n + i % n, truth.get(i)?.0, truth.get(i)?.1));
    places(rows.len() * n, 4 * CHECKED).into_iter().filter_map(one).collect()
}

/// Some rows of x\[_,n\].
fn pick<T: Copy>(x: &[T], rows: &[usize], n: usize) -> Vec<T> {
    rows.iter().flat_map(|&row| x.get(row * n..(row + 1) * n).unwrap_or_default()).copied().collect()
}

/// Values with their bounds.
fn bounded(truth: Vec<f64>, bound: impl Fn(usize, f64) -> f64) -> Vec<Bounded> {
    truth.into_iter().enumerate().map(|(i, v)| (v, bound(i, v))).collect()
}

/// Values that are exact.
fn exact(truth: impl IntoIterator<Item = u32>) -> Vec<Bounded> {
    truth.into_iter().map(|word| (f64::from(word), 0.0)).collect()
}

/// A product of sizes, as a float: it may be more than any integer holds.
fn times<const N: usize>(sizes: [usize; N]) -> f64 {
    sizes.into_iter().map(|size| size as f64).product()
}

/// The tensors of a set, as many as a call takes.
fn tensors<const N: usize>(all: &mut [Tensor]) -> Result<&mut [Tensor; N]> {
    // A spec has as many as its call asks for.
    <&mut [Tensor; N]>::try_from(all).map_err(|_| Error::NotSubmitted)
}
