//! The tensor types of a GGUF file, and the sizes of their blocks.

use std::fmt;

use crate::kernel::Format;

/// How a tensor is stored.
///
/// ```
/// use gristmill::model::gguf::GgmlType;
///
/// let q = GgmlType::Q4K;
/// assert_eq!((q.name(), q.block_len(), q.block_bytes()), ("Q4_K", 256, 144));
/// ```
///
/// The quantised types store a row as blocks of 32 or 256 elements, each with scales of its own.
///
/// Sizes are those of ggml's `GGML_QUANT_SIZES`; numbers, those of its `ggml_type`.
#[allow(missing_docs, reason = "each variant is the format's own name for the type")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[rustfmt::skip]
pub enum GgmlType {
    F32, F16, BF16,
    Q8_0, Q4_0, Q4_1, Q5_0, Q5_1,
    Q4K, Q5K, Q6K,
}

/// What ggml calls the types that are not read: an error that says `IQ2_XXS` helps more than one that says 16.
#[rustfmt::skip]
const NOT_READ: [(u32, &str); 25] = [
    (9, "Q8_1"), (10, "Q2_K"), (11, "Q3_K"), (15, "Q8_K"),
    (16, "IQ2_XXS"), (17, "IQ2_XS"), (18, "IQ3_XXS"), (19, "IQ1_S"), (20, "IQ4_NL"), (21, "IQ3_S"), (22, "IQ2_S"),
    (23, "IQ4_XS"), (24, "I8"), (25, "I16"), (26, "I32"), (27, "I64"), (28, "F64"), (29, "IQ1_M"),
    (34, "TQ1_0"), (35, "TQ2_0"), (39, "MXFP4"), (40, "NVFP4"), (41, "Q1_0"),
    // Removed from ggml.
    (4, "Q4_2"), (5, "Q4_3"),
];

impl GgmlType {
    /// Every type that is read.
    #[rustfmt::skip]
    pub const ALL: [Self; 11] = [
        Self::F32, Self::F16, Self::BF16,
        Self::Q8_0, Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q5_1,
        Self::Q4K, Self::Q5K, Self::Q6K,
    ];

    /// The number and the name in ggml, the elements of a block, its bytes.
    const fn row(self) -> (u32, &'static str, u64, u64) {
        match self {
            Self::F32 => (0, "F32", 1, 4),
            Self::F16 => (1, "F16", 1, 2),
            Self::BF16 => (30, "BF16", 1, 2),
            Self::Q8_0 => (8, "Q8_0", 32, 34),
            Self::Q4_0 => (2, "Q4_0", 32, 18),
            Self::Q4_1 => (3, "Q4_1", 32, 20),
            Self::Q5_0 => (6, "Q5_0", 32, 22),
            Self::Q5_1 => (7, "Q5_1", 32, 24),
            Self::Q4K => (12, "Q4_K", 256, 144),
            Self::Q5K => (13, "Q5_K", 256, 176),
            Self::Q6K => (14, "Q6_K", 256, 210),
        }
    }

    /// ggml's name of the type, such as `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// Elements in a block; 1 where there are no blocks.
    pub const fn block_len(self) -> u64 {
        self.row().2
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> u64 {
        self.row().3
    }

    /// The format of a [`Weight`](crate::Weight) that keeps the type: the same numbers.
    pub const fn format(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::F16 => Format::F16,
            Self::BF16 => Format::BF16,
            Self::Q8_0 => Format::Q8_0,
            Self::Q4_0 => Format::Q4_0,
            Self::Q4_1 => Format::Q4_1,
            Self::Q5_0 => Format::Q5_0,
            Self::Q5_1 => Format::Q5_1,
            Self::Q4K => Format::Q4K,
            Self::Q5K => Format::Q5K,
            Self::Q6K => Format::Q6K,
        }
    }

    /// The type of that number in a file, or what is to be said of a number that is none.
    pub(super) fn from_number(number: u32) -> Result<Self, String> {
        if let Some(found) = Self::ALL.into_iter().find(|kind| kind.row().0 == number) {
            return Ok(found);
        }
        let reads = Self::ALL.map(Self::name).join(", ");
        Err(match NOT_READ.iter().find(|(known, _)| *known == number) {
            Some((_, name)) => format!("is stored as {name}, which is not read; {reads} are"),
            None => format!("is stored as type {number}, which is unknown; {reads} are read"),
        })
    }

    /// Bytes of a tensor of this type. `shape` is outermost first; a scalar has one element.
    ///
    /// # Errors
    /// In words, if a dimension is zero, if the elements are no whole blocks in each row, or if there are 2^63 bytes or
    /// elements.
    pub(super) fn byte_len(self, shape: &[usize]) -> Result<u64, String> {
        let (.., block_len, block_bytes) = self.row();
        // A zero dimension would hide that the others overflow. No model has one.
        if shape.contains(&0) {
            return Err(format!("has a dimension of 0 in its shape {shape:?}"));
        }
        let row = shape.last().map_or(1, |&columns| columns as u64);
        if !row.is_multiple_of(block_len) {
            return Err(format!("has rows of {row} elements; {self} has blocks of {block_len}"));
        }
        let count = shape.iter().try_fold(1_u64, |count, &dim| count.checked_mul(dim as u64));
        let bytes = count.and_then(|count| count.checked_div(block_len)?.checked_mul(block_bytes));
        match (count, bytes) {
            (Some(count), Some(bytes)) if count.max(bytes) <= i64::MAX as u64 => Ok(bytes),
            _ => Err(format!("of type {self} and shape {shape:?} is larger than any file")),
        }
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
