//! What ops are told beside their tensors: shapes, kinds, and the rows of a batch.

/// One row of a batch: which token, whose sequence (`slot`), where in it, and the row of this batch at which that sequence
/// begins. As kernels read it, `array<Row>`.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), "gelu_new".
    Tanh,
    /// x Phi(x).
    Exact,
}

/// Shape and kind of a rotary position embedding.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// Neighbours: 2 pair and 2 pair + 1, as in the paper.
    Interleaved,
    /// One of each half: pair and pair + rotary_dim / 2, as in the checkpoints of GPT-NeoX, and of Llama at Hugging Face.
    Halves,
}

/// What becomes of a row.
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
