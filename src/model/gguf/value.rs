//! The values of GGUF metadata: thirteen types, and how much memory they may take.

use std::fmt;

use crate::model::checkpoint::json::show;

/// The type of a metadata value.
///
/// ```
/// use gristmill::model::Gguf;
/// use gristmill::model::gguf::{Value, ValueType};
///
/// let file = Gguf::open("tests/oracle/gguf/metadata.gguf".as_ref())?;
/// assert_eq!(file.get("test.bool.0").map(Value::kind), Some(ValueType::Bool));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[allow(missing_docs, reason = "each variant is the type that it names")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[rustfmt::skip]
pub enum ValueType {
    U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64,
}

impl ValueType {
    /// Every type; its number in a file is its place here.
    #[rustfmt::skip]
    pub const ALL: [Self; 13] = [
        Self::U8, Self::I8, Self::U16, Self::I16, Self::U32, Self::I32, Self::F32,
        Self::Bool, Self::String, Self::Array, Self::U64, Self::I64, Self::F64,
    ];

    /// The name in messages, and the bytes of a value; zero where they vary.
    pub(super) const fn row(self) -> (&'static str, u64) {
        match self {
            Self::U8 => ("u8", 1),
            Self::I8 => ("i8", 1),
            Self::U16 => ("u16", 2),
            Self::I16 => ("i16", 2),
            Self::U32 => ("u32", 4),
            Self::I32 => ("i32", 4),
            Self::F32 => ("f32", 4),
            Self::Bool => ("bool", 1),
            Self::String => ("string", 0),
            Self::Array => ("array", 0),
            Self::U64 => ("u64", 8),
            Self::I64 => ("i64", 8),
            Self::F64 => ("f64", 8),
        }
    }

    /// The type's name: Rust's for numbers, `string`, `array`.
    pub const fn name(self) -> &'static str {
        self.row().0
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A metadata value, as the file types it.
///
/// ```
/// use gristmill::model::Gguf;
/// use gristmill::model::gguf::Value;
///
/// let file = Gguf::open("tests/oracle/gguf/metadata.gguf".as_ref())?;
/// assert_eq!(file.get("general.alignment"), Some(&Value::U32(64)));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[allow(missing_docs, reason = "each variant is the type that it names")]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Box<Array>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// The value's type.
    pub fn kind(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// A number or a bool from its little-endian bytes. `None`: a bool that is neither 0 nor 1.
    pub(super) fn decode(kind: ValueType, bytes: &[u8]) -> Option<Self> {
        fn first<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
            bytes.first_chunk().copied()
        }
        Some(match kind {
            ValueType::U8 => Self::U8(u8::from_le_bytes(first(bytes)?)),
            ValueType::I8 => Self::I8(i8::from_le_bytes(first(bytes)?)),
            ValueType::U16 => Self::U16(u16::from_le_bytes(first(bytes)?)),
            ValueType::I16 => Self::I16(i16::from_le_bytes(first(bytes)?)),
            ValueType::U32 => Self::U32(u32::from_le_bytes(first(bytes)?)),
            ValueType::I32 => Self::I32(i32::from_le_bytes(first(bytes)?)),
            ValueType::F32 => Self::F32(f32::from_le_bytes(first(bytes)?)),
            ValueType::Bool => match first(bytes)? {
                [0] => Self::Bool(false),
                [1] => Self::Bool(true),
                _ => return None,
            },
            ValueType::U64 => Self::U64(u64::from_le_bytes(first(bytes)?)),
            ValueType::I64 => Self::I64(i64::from_le_bytes(first(bytes)?)),
            ValueType::F64 => Self::F64(f64::from_le_bytes(first(bytes)?)),
            ValueType::String | ValueType::Array => return None,
        })
    }

    /// The value if it is an integer of any width that a `u32` can hold.
    pub(super) fn as_u32(&self) -> Option<u32> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::I8(value) => value.try_into().ok(),
            Self::U16(value) => Some(value.into()),
            Self::I16(value) => value.try_into().ok(),
            Self::U32(value) => Some(value),
            Self::I32(value) => value.try_into().ok(),
            Self::U64(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    pub(super) fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(value) if value.is_finite() => Some(value),
            _ => None,
        }
    }

    pub(super) fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    /// As it stands in a list: strings clipped and escaped, arrays by their first few elements.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(value) => value.fmt(f),
            Self::I8(value) => value.fmt(f),
            Self::U16(value) => value.fmt(f),
            Self::I16(value) => value.fmt(f),
            Self::U32(value) => value.fmt(f),
            Self::I32(value) => value.fmt(f),
            // With an exponent where it is shorter.
            Self::F32(value) => write!(f, "{value:?}"),
            Self::Bool(value) => value.fmt(f),
            Self::String(value) => write!(f, "\"{}\"", show(value)),
            Self::Array(array) => array.fmt(f),
            Self::U64(value) => value.fmt(f),
            Self::I64(value) => value.fmt(f),
            Self::F64(value) => write!(f, "{value:?}"),
        }
    }
}

/// An array of metadata: elements of one type, which is not an array again.
///
/// ```
/// use gristmill::model::Gguf;
/// use gristmill::model::gguf::{Value, ValueType};
///
/// let file = Gguf::open("tests/oracle/gguf/metadata.gguf".as_ref())?;
/// let Some(Value::Array(bools)) = file.get("test.bool.array") else { panic!("an array") };
/// assert_eq!((bools.kind(), bools.len()), (ValueType::Bool, 2));
/// assert!(bools.values().eq([Value::Bool(true), Value::Bool(false)]));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    pub(super) kind: ValueType,
    pub(super) elements: Elements,
}

/// An array takes about as much memory as it takes of the file. Millions of empty strings, 8 bytes each in the file,
/// would take three times that as `String`s.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Elements {
    /// Little-endian and packed; checked.
    Numbers(Vec<u8>),
    /// All strings end to end, and where each of them ends.
    Strings { text: String, ends: Vec<u32> },
}

impl Array {
    /// The type of the elements.
    pub fn kind(&self) -> ValueType {
        self.kind
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        match &self.elements {
            Elements::Numbers(bytes) => bytes.len().checked_div(self.kind.row().1 as usize).unwrap_or(0),
            Elements::Strings { ends, .. } => ends.len(),
        }
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements in order, strings copied.
    pub fn values(&self) -> impl Iterator<Item = Value> {
        let (bytes, kind) = match &self.elements {
            Elements::Numbers(bytes) => (bytes.as_slice(), self.kind),
            Elements::Strings { .. } => ([].as_slice(), ValueType::U8),
        };
        let numbers = bytes.chunks_exact(kind.row().1.max(1) as usize);
        let numbers = numbers.filter_map(move |bytes| Value::decode(kind, bytes));
        numbers.chain(self.strs().map(|text| Value::String(text.to_owned())))
    }

    /// The elements of an array of strings; of others, nothing.
    pub fn strs(&self) -> impl Iterator<Item = &str> {
        let (text, ends) = match &self.elements {
            Elements::Numbers(_) => ("", [].as_slice()),
            Elements::Strings { text, ends } => (text.as_str(), ends.as_slice()),
        };
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(ends).map(|(start, &end)| text.get(start as usize..end as usize).unwrap_or_default())
    }
}

impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        let first: Vec<String> = self.values().take(SHOWN).map(|value| value.to_string()).collect();
        let more = if self.len() > SHOWN { ", ..." } else { "" };
        write!(f, "[{}{more}]", first.join(", "))
    }
}
