//! The number types a safetensors file can hold, and their way to `f32`.
//!
//! All types of the format are known here, not only those that are read: a file with one of the others is valid, and its
//! error is "stored as F8_E4M3", by tensor, instead of a file that does not parse. Sizes are counted in bits, for the 4-
//! and 6-bit types have no whole bytes. f16 and bf16 become f32 exactly.

use std::fmt;

use half::{bf16, f16};

use crate::error::{Error, Result};

/// How one element of a tensor is stored. Every type of safetensors 0.8 has a name here, so that any valid file can
/// be listed; [`to_f32`] says which of them can be read as numbers.
///
/// ```
/// use gristmill::model::{StoredType, to_f32};
///
/// let stored = StoredType::from_name("BF16").expect("a name of the format");
/// assert_eq!(stored.byte_len(&[2, 3]), Some(12));
/// assert_eq!(to_f32("x", stored, &[0x80, 0x3f, 0x00, 0xc0])?, [1.0, -2.0]);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[allow(missing_docs, reason = "each variant is the format's own name for the type")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[rustfmt::skip]
pub enum StoredType {
    F64, F32, F16, BF16,
    F8E5M2, F8E4M3, F8E8M0, F8E5M2Fnuz, F8E4M3Fnuz,
    F6E2M3, F6E3M2, F4,
    I64, I32, I16, I8,
    U64, U32, U16, U8,
    C64, Bool,
}

impl StoredType {
    /// Every type, widest first within its kind.
    #[rustfmt::skip]
    pub const ALL: [Self; 22] = [
        Self::F64, Self::F32, Self::F16, Self::BF16,
        Self::F8E5M2, Self::F8E4M3, Self::F8E8M0, Self::F8E5M2Fnuz, Self::F8E4M3Fnuz,
        Self::F6E2M3, Self::F6E3M2, Self::F4,
        Self::I64, Self::I32, Self::I16, Self::I8,
        Self::U64, Self::U32, Self::U16, Self::U8,
        Self::C64, Self::Bool,
    ];

    /// The type's name in a safetensors header, and the bits one element takes.
    const fn row(self) -> (&'static str, u32) {
        match self {
            Self::F64 => ("F64", 64),
            Self::F32 => ("F32", 32),
            Self::F16 => ("F16", 16),
            Self::BF16 => ("BF16", 16),
            Self::F8E5M2 => ("F8_E5M2", 8),
            Self::F8E4M3 => ("F8_E4M3", 8),
            Self::F8E8M0 => ("F8_E8M0", 8),
            Self::F8E5M2Fnuz => ("F8_E5M2FNUZ", 8),
            Self::F8E4M3Fnuz => ("F8_E4M3FNUZ", 8),
            Self::F6E2M3 => ("F6_E2M3", 6),
            Self::F6E3M2 => ("F6_E3M2", 6),
            Self::F4 => ("F4", 4),
            Self::I64 => ("I64", 64),
            Self::I32 => ("I32", 32),
            Self::I16 => ("I16", 16),
            Self::I8 => ("I8", 8),
            Self::U64 => ("U64", 64),
            Self::U32 => ("U32", 32),
            Self::U16 => ("U16", 16),
            Self::U8 => ("U8", 8),
            Self::C64 => ("C64", 64),
            Self::Bool => ("BOOL", 8),
        }
    }

    /// The type's name in a safetensors header.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// Bits one element takes. The 4- and 6-bit types are packed without padding.
    pub const fn bits(self) -> u32 {
        self.row().1
    }

    /// The type of that name in a safetensors header; names are upper case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stored| stored.name() == name)
    }

    /// Bytes a tensor of this type and shape fills, packed. `None` where that is no whole number, or where the product
    /// leaves `u64`.
    ///
    /// A zero dimension makes a tensor empty but must not hide that the others overflow: whoever multiplies them in
    /// another order, or in strides, would meet the overflow that was waved through here.
    pub fn byte_len(self, shape: &[usize]) -> Option<u64> {
        let mut bits = u64::from(self.bits());
        for &dim in shape {
            bits = bits.checked_mul(u64::try_from(dim).ok()?.max(1))?;
        }
        if shape.contains(&0) {
            return Some(0);
        }
        (bits % 8 == 0).then_some(bits / 8)
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Little-endian bytes of F32, F16 or BF16 as `f32`. Every number is exact, subnormals and the sign of zero included;
/// a NaN stays a NaN, though its payload may change.
///
/// `name` is the tensor's, for the message. The bytes need no alignment.
///
/// # Errors
/// [`Error::BadTensor`] for any other type, or if the bytes are no whole number of elements;
/// [`Error::OutOfMemory`] if the result cannot be allocated.
pub fn to_f32(name: &str, dtype: StoredType, bytes: &[u8]) -> Result<Vec<f32>> {
    match dtype {
        StoredType::F32 => decode(name, bytes, f32::from_le_bytes),
        StoredType::F16 => decode(name, bytes, |raw| f16::from_le_bytes(raw).to_f32()),
        StoredType::BF16 => decode(name, bytes, |raw| bf16::from_le_bytes(raw).to_f32()),
        other => Err(Error::BadTensor {
            name: name.into(),
            message: format!("is stored as {other}; F32, F16 and BF16 are read"),
        }),
    }
}

/// One `f32` from each `SIZE` bytes.
fn decode<const SIZE: usize>(name: &str, bytes: &[u8], one: impl Fn([u8; SIZE]) -> f32) -> Result<Vec<f32>> {
    let (elements, rest) = bytes.as_chunks::<SIZE>();
    if !rest.is_empty() {
        return Err(Error::BadTensor {
            name: name.into(),
            message: format!("{} bytes are no whole number of {SIZE}-byte elements", bytes.len()),
        });
    }
    let mut values = Vec::new();
    values.try_reserve_exact(elements.len()).map_err(|_| Error::OutOfMemory {
        bytes: (elements.len() as u64).saturating_mul(4),
        context: format!("tensor `{name}` as f32"),
    })?;
    values.extend(elements.iter().map(|&raw| one(raw)));
    Ok(values)
}
