//! What ops are told beside their tensors: shapes, kinds, and the rows of a batch.
//!
//! They stand with the twins because those are what everything else is compared with: an op, its kernel's host half, the
//! CPU backend and the twin take one `Attention`, so none can read a field otherwise than the rest. Kinds are enums where a
//! number or a flag would do, since the two forms of GELU, or of pairing in a rotary embedding, are as plausible as each
//! other and wrong in silence.

/// One row of a batch: which token, whose sequence (`slot`), where in it, and the row of this batch at which that sequence
/// begins. As kernels read it, `array<Row>`.
///
/// ```
/// use gristmill::reference::{self, Row};
///
/// // Two sequences, each a token further: the rows of the next step are those of this one, with what was picked.
/// let mut rows = [Row { token: 7, slot: 0, position: 4, first: 0 }, Row { token: 9, slot: 1, position: 2, first: 1 }];
/// reference::advance(&[[5, 0], [6, 0]], &mut rows);
/// assert_eq!(rows.map(|row| (row.token, row.position)), [(5, 5), (6, 3)]);
/// assert_eq!(bytemuck::bytes_of(&rows[0]).len(), 16); // as kernels read it
/// ```
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Row {
    /// Token id.
    pub token: u32,
    /// Index of the sequence in the key-value cache.
    pub slot: u32,
    /// Position within the sequence, from 0.
    pub position: u32,
    /// The row of this batch at which the sequence begins. Its rows follow each other, positions ascending by one.
    pub first: u32,
}

/// Shape and kind of an attention.
///
/// ```
/// use gristmill::reference::{self, Attention, Row};
///
/// let shape = Attention { heads: 1, kv_heads: 1, head_dim: 1, context: 4, scale: 1.0, causal: true };
/// let rows = [Row::default(), Row { position: 1, ..Row::default() }];
/// let qkv = [0.0, 1.0, 10.0, 0.0, 1.0, 20.0]; // of each row: query, key, value
/// let (mut keys, mut values) = ([0.0; 4], [0.0; 4]);
/// // The first row sees itself alone, the second both, with equal scores.
/// assert_eq!(reference::attention(&rows, &qkv, &mut keys, &mut values, &shape), [10.0, 15.0]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Positions per slot of the cache.
    pub context: usize,
    /// Factor of the scores, 1 / sqrt(head_dim) as a rule.
    pub scale: f32,
    /// A row does not see later rows of its slot.
    pub causal: bool,
}

/// The two forms of GELU.
///
/// ```
/// use gristmill::reference::{Gelu, gelu};
///
/// let (tanh, exact) = (gelu(&[-2.7], Gelu::Tanh)[0], gelu(&[-2.7], Gelu::Exact)[0]);
/// assert!((tanh - exact).abs() > 4e-4); // two functions: a model is right with one of them only
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), "gelu_new".
    Tanh,
    /// x Phi(x).
    Exact,
}

/// Shape and kind of a rotary position embedding.
///
/// ```
/// use gristmill::ops::{rope_frequencies, rope_table};
/// use gristmill::reference::{Pairing, Rope, Row, rope};
///
/// let shape = Rope { heads: 1, head_dim: 4, rotary_dim: 2, pairing: Pairing::Halves };
/// let table = rope_table(8, &rope_frequencies(shape.rotary_dim, 10_000.0), 1.0); // (cos, sin) of each position
/// let turned = rope(&[Row { position: 3, ..Row::default() }], &table, &[1.0, 0.0, 5.0, 6.0], 4, &shape);
/// assert!((turned[0] - 3f64.cos()).abs() < 1e-6 && (turned[1] - 3f64.sin()).abs() < 1e-6);
/// assert_eq!(turned[2..], [5.0, 6.0]); // beyond rotary_dim
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rope {
    /// Heads to rotate: the first ones of a row.
    pub heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Elements of a head that are rotated: its first ones, an even number.
    pub rotary_dim: usize,
    /// Which elements make a pair.
    pub pairing: Pairing,
}

/// Which two elements of a head are rotated together; `pair` counts from 0 to rotary_dim / 2.
///
/// ```
/// use gristmill::reference::{Pairing, Rope, Row, rope};
///
/// let quarter_turns = [0.0, 1.0, 0.0, 1.0]; // (cos, sin) of both pairs
/// let turn = |pairing| {
///     let shape = Rope { heads: 1, head_dim: 4, rotary_dim: 4, pairing };
///     rope(&[Row::default()], &quarter_turns, &[1.0, 2.0, 3.0, 4.0], 4, &shape)
/// };
/// assert_eq!(turn(Pairing::Interleaved), [-2.0, 1.0, -4.0, 3.0]);
/// assert_eq!(turn(Pairing::Halves), [-3.0, -4.0, 1.0, 2.0]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// Neighbours: 2 pair and 2 pair + 1, as in the paper.
    Interleaved,
    /// One of each half: pair and pair + rotary_dim / 2, as in the checkpoints of GPT-NeoX, and of Llama at Hugging Face.
    Halves,
}

/// What becomes of a row.
///
/// ```
/// use gristmill::reference::{Reduction, reduce};
///
/// let x = [1.0, 2.0, 6.0, -1.0, -2.0, -3.0]; // [2, 3]
/// assert_eq!(reduce(&x, (2, 3), Reduction::Sum), [9.0, -6.0]);
/// assert_eq!(reduce(&x, (2, 3), Reduction::Max), [6.0, -1.0]);
/// assert_eq!(reduce(&x, (2, 3), Reduction::Mean), [3.0, -2.0]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// The sum.
    Sum,
    /// The largest element.
    Max,
    /// The sum over the count.
    Mean,
}

/// From which type of number to which.
///
/// ```
/// use gristmill::reference::{Cast, cast};
///
/// let halves = cast(&[1.0f32.to_bits(), 65_520.0f32.to_bits()], Cast::F32ToF16);
/// assert_eq!(halves, [0x3c00, 0x7c00]); // 65,520 is nearer to infinity than to the largest half
/// assert_eq!(cast(&[0x3c00], Cast::F16ToF32), [1.0f32.to_bits()]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cast {
    /// To the nearest half, ties to even, beyond the largest to infinity.
    F32ToF16,
    /// Exact.
    F16ToF32,
    /// Exact.
    Bf16ToF32,
}

/// What may be applied to a product before it is written.
///
/// ```
/// use gristmill::reference::{Activation, epilogue};
///
/// let product = [-1.0, 2.0]; // [1, 2]
/// assert_eq!(epilogue(&product, Some(&[0.5, 0.5]), Some(Activation::Relu), 2), [0.0, 2.5]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// Either GELU.
    Gelu(Gelu),
    /// x / (1 + exp(-x)).
    Silu,
}

/// How the next token is chosen: temperature, then top-k, then top-p.
///
/// ```
/// use gristmill::reference::{Row, Sampler, sample};
///
/// let logits = [0.0, 3.0, 1.0, 3.0];
/// let greedy = sample(&logits, 4, &[Row::default()], &Sampler::default());
/// assert_eq!(greedy, [[1, 0]]); // the lowest id of the largest, and no logit that is not finite
/// let warm = Sampler { temperature: 0.8, top_k: 2, top_p: 1.0, seed: 7 };
/// let drawn = sample(&logits, 4, &[Row::default()], &warm);
/// assert!([1, 3].contains(&drawn[0][0]));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// Logits are divided by it. 0: the largest logit, the lowest id on a tie, and nothing is drawn.
    pub temperature: f32,
    /// Only so many of the largest logits are candidates; of equal ones the lowest ids, so that they are never more
    /// (transformers keeps all that equal the last). 0: every token is.
    pub top_k: usize,
    /// Only the likeliest candidates are drawn from, until the probability of those before reaches this; one at least.
    /// 1: all are.
    pub top_p: f32,
    /// The same seed draws the same tokens, wherever it is done.
    pub seed: u64,
}

impl Default for Sampler {
    /// The largest logit.
    fn default() -> Sampler {
        Sampler { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}
