//! A shape by its keys: `m=1,k=768,n=3072`.
//!
//! Keys have names because a shape that is counted off by position is wrong in silence: (m, k, n) and (m, n, k) are both
//! three numbers. What can be left out has one value that is usual, and is written out all the same where a row says its
//! shape, so that the same row has one name however it was asked for.

use crate::error::{Error, Result};
use crate::kernel::Format;

/// What a shape says of one key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Absent {
    /// Must be given.
    Refused,
    /// This where it is not given.
    Is(&'static str),
    /// What another key has; written only where it differs.
    Same(&'static str),
}

/// A key, and what it is where it is not given.
pub(super) type Key = (&'static str, Absent);

/// A shape whose keys are known. What their values mean is asked one by one.
pub(super) struct Shape {
    op: &'static str,
    values: Vec<(&'static str, String)>,
    /// As a row prints it: every key, in the order in which they are declared.
    pub(super) text: String,
}

impl Shape {
    /// Reads the shape of an op with these keys, in whatever order.
    ///
    /// # Errors
    /// [`Error::BadOption`] for what is no `key=value`, for a key that is unknown, given twice or missing.
    pub(super) fn parse(op: &'static str, keys: &[Key], text: &str) -> Result<Shape> {
        let wrong = |message: String| Error::BadOption {
            option: "shape",
            message: format!("`{text}` of {op}: {message}; it takes {}", described(keys)),
        };
        let mut given: Vec<(&str, &str)> = Vec::new();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let Some((key, value)) = word.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else {
                return Err(wrong(format!("`{word}` is no key=value")));
            };
            if !keys.iter().any(|(known, _)| *known == key) {
                return Err(wrong(format!("no key `{key}`")));
            }
            if given.iter().any(|(other, _)| *other == key) {
                return Err(wrong(format!("`{key}` is given twice")));
            }
            given.push((key, value));
        }
        let of = |key: &str| given.iter().find(|(other, _)| *other == key).map(|(_, value)| *value);
        let (mut values, mut written): (Vec<(&'static str, String)>, Vec<String>) = (Vec::new(), Vec::new());
        for &(key, default) in keys {
            let other = |name: &str| values.iter().find(|(other, _)| *other == name).map(|(_, value)| value.clone());
            let (value, shown) = match (of(key), default) {
                (Some(value), Absent::Same(name)) => (value.to_owned(), other(name).as_deref() != Some(value)),
                (Some(value), _) => (value.to_owned(), true),
                (None, Absent::Is(value)) => (value.to_owned(), true),
                (None, Absent::Same(name)) => (other(name).unwrap_or_default(), false),
                (None, Absent::Refused) => return Err(wrong(format!("`{key}` is missing"))),
            };
            if shown {
                written.push(format!("{key}={value}"));
            }
            values.push((key, value));
        }
        Ok(Shape { op, values, text: written.join(",") })
    }

    /// A size: at least 1.
    ///
    /// # Errors
    /// [`Error::BadOption`].
    pub(super) fn size(&self, key: &str) -> Result<usize> {
        let size = self.value(key).parse::<u32>().ok().filter(|&size| size > 0);
        size.map(|size| size as usize).ok_or_else(|| self.wrong(key, "a number of at least 1"))
    }

    /// A number that may be 0.
    ///
    /// # Errors
    /// [`Error::BadOption`].
    pub(super) fn count(&self, key: &str) -> Result<usize> {
        let count = self.value(key).parse::<u32>();
        count.map(|count| count as usize).map_err(|_| self.wrong(key, "a number"))
    }

    /// A fraction.
    ///
    /// # Errors
    /// [`Error::BadOption`].
    pub(super) fn fraction(&self, key: &str) -> Result<f32> {
        let fraction = self.value(key).parse::<f32>().ok().filter(|v| (0.0..=1.0).contains(v));
        fraction.ok_or_else(|| self.wrong(key, "between 0 and 1"))
    }

    /// One of some words.
    ///
    /// # Errors
    /// [`Error::BadOption`].
    pub(super) fn one_of<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<T> {
        let found = words.iter().find(|(word, _)| *word == self.value(key));
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        found.map(|(_, kind)| *kind).ok_or_else(|| self.wrong(key, &format!("one of {}", all.join(", "))))
    }

    /// Says that the value of a key is impossible.
    pub(super) fn wrong(&self, key: &str, expected: &str) -> Error {
        let Shape { op, text, .. } = self;
        let message = format!("`{text}` of {op}: `{key}` is {}; it must be {expected}", self.value(key));
        Error::BadOption { option: "shape", message }
    }

    /// Whether rows of `columns` are whole blocks of a format.
    ///
    /// # Errors
    /// [`Error::BadOption`] if they are not.
    pub(super) fn whole_blocks(&self, key: &str, columns: usize, format: Format) -> Result<()> {
        let (numbers, _) = format.block();
        let expected = || format!("a multiple of {numbers}, the numbers in a block of {}", format.name());
        if columns.is_multiple_of(numbers) { Ok(()) } else { Err(self.wrong(key, &expected())) }
    }

    fn value(&self, key: &str) -> &str {
        self.values.iter().find(|(other, _)| *other == key).map_or("", |(_, value)| value)
    }
}

/// `m, k and n`, and what the rest is where it is left out.
fn described(keys: &[Key]) -> String {
    let one = |&(key, default): &Key| match default {
        Absent::Refused => key.to_owned(),
        Absent::Is(value) => format!("{key} ({value} if left out)"),
        Absent::Same(other) => format!("{key} (that of {other} if left out)"),
    };
    keys.iter().map(one).collect::<Vec<String>>().join(", ")
}
