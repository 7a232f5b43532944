//! The keys of a `config.json`, and the values that a config may ask them for.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::model::checkpoint::json::{self, show};

/// Longest list or text that is looked at, in bytes.
const MAX_VALUE: usize = 1 << 16;
/// Most keys in `config.json`.
const MAX_KEYS: usize = 4096;

/// The keys of an object, each with its value as written: no number is rounded before it is checked.
#[derive(Default)]
pub(super) struct Keys<'a> {
    /// What stands before a key in messages: nothing, or the key of the object and a dot.
    path: String,
    values: BTreeMap<String, &'a str>,
}

impl<'a> Keys<'a> {
    /// The keys of the text of a `config.json`.
    pub(super) fn parse(text: &'a str) -> Result<Keys<'a>> {
        json::parse(text).map_err(|fault| fault.in_file(Path::new("config.json")))
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.values.get(key).copied()
    }

    /// The keys of an object within; `None` if it is missing, null or empty.
    pub(super) fn object(&self, key: &str) -> Result<Option<Keys<'a>>> {
        let Some(value) = self.get(key).filter(|value| !is_off(value)) else { return Ok(None) };
        let mut keys: Keys<'a> = json::parse(value).map_err(|_| self.is_not("an object", key, value))?;
        keys.path = format!("{}{key}.", self.path);
        Ok(Some(keys))
    }

    /// The first key that is not among `known` and is not null.
    pub(super) fn unknown(&self, known: &[&str]) -> Option<&str> {
        let mut others = self.values.iter().filter(|(key, value)| !known.contains(&key.as_str()) && **value != "null");
        others.next().map(|(key, _)| key.as_str())
    }

    /// Refuses keys that ask for what is not implemented; with each the value at which it asks for nothing. Null, `false`,
    /// `[]`, `{}` and 0 ask for nothing.
    pub(super) fn refuse(&self, keys: &[(&str, &str)]) -> Result<()> {
        for (key, off) in keys {
            let value = self.get(key).unwrap_or("null");
            let equal = value == *off || value.parse::<f64>().is_ok_and(|value| off.parse() == Ok(value));
            if !equal && !is_off(value) {
                return Err(self.unsupported(key));
            }
        }
        Ok(())
    }

    /// A value of one of serde's types; `None` if the key is missing or null.
    pub(super) fn parsed<T: serde::de::DeserializeOwned>(&self, key: &str, expected: &str) -> Result<Option<T>> {
        let Some(value) = self.get(key).filter(|&value| value != "null") else { return Ok(None) };
        let parsed = if value.len() > MAX_VALUE { None } else { serde_json::from_str(value).ok() };
        parsed.map(Some).ok_or_else(|| self.is_not(expected, key, value))
    }

    /// An integer, under whichever of its names; an integer is written without point or exponent.
    pub(super) fn integer(&self, names: &[&str], default: usize) -> Result<usize> {
        let mut found: Option<(&str, usize)> = None;
        for &key in names {
            let Some(value) = self.get(key) else { continue };
            let value = value.parse().map_err(|_| self.is_not("a positive integer", key, value))?;
            if let Some((other, before)) = found.filter(|&(_, before)| before != value) {
                let message = format!("{value} contradicts `{other}` = {before}, another name for the same");
                return Err(self.bad(key, message));
            }
            found = Some((key, value));
        }
        Ok(found.map_or(default, |(_, value)| value))
    }

    /// An integer; `None` if it is null, `default` if the key is missing.
    pub(super) fn integer_or_null(&self, key: &str, default: Option<usize>) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(default),
            Some("null") => Ok(None),
            Some(_) => self.integer(&[key], 0).map(Some),
        }
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        let parse = |value: &str| value.parse().map_err(|_| self.is_not("true or false", key, value));
        self.get(key).map_or(Ok(default), parse)
    }

    /// A finite number, rounded to `f32`.
    pub(super) fn number(&self, key: &str, default: f32) -> Result<f32> {
        let Some(value) = self.get(key) else { return Ok(default) };
        // JSON has no word for infinity, yet 1e999 rounds to it.
        let number = value.parse::<f32>().ok().filter(|number| number.is_finite());
        number.ok_or_else(|| self.is_not("a finite number", key, value))
    }

    /// A finite number; `None` if the key is missing or null.
    pub(super) fn real(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key).filter(|&value| value != "null") else { return Ok(None) };
        let number = value.parse::<f64>().ok().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| self.is_not("a finite number", key, value))
    }

    /// A number above 0; `None` if the key is missing or null.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>> {
        let number = self.real(key)?;
        match number.filter(|&number| number <= 0.0) {
            Some(number) => Err(self.bad(key, format!("{number} is not above 0"))),
            None => Ok(number),
        }
    }

    /// One token or a list of at most `max`, without those outside the vocabulary; the family's own if the key is missing.
    pub(super) fn tokens(&self, key: &str, max: usize, vocab: usize, default: Option<u32>) -> Result<Vec<u32>> {
        let expected = format!("a token, a list of at most {max}, or null");
        let Some(value) = self.get(key) else {
            return Ok(Vec::from_iter(default.filter(|&token| (token as usize) < vocab)));
        };
        let tokens: Vec<u64> = match value.parse() {
            Ok(token) => vec![token],
            Err(_) => self.parsed(key, &expected)?.unwrap_or_default(),
        };
        if tokens.len() > max {
            return Err(self.is_not(&expected, key, value));
        }
        let (inside, outside): (Vec<u64>, Vec<u64>) = tokens.iter().partition(|&&token| token < vocab as u64);
        if !outside.is_empty() {
            log::warn!("config.json: `{key}`: ignoring {outside:?}, outside the vocabulary of {vocab}");
        }
        // The vocabulary is capped far below u32::MAX, though the cap is checked after this.
        Ok(inside.into_iter().filter_map(|token| u32::try_from(token).ok()).collect())
    }

    /// The error for a value that is possible, and not implemented here.
    pub(super) fn unsupported(&self, key: &str) -> Error {
        let value = self.get(key).map_or("(absent)".into(), show);
        Error::UnsupportedOption { key: format!("{}{key}", self.path), value }
    }

    /// The error for a value that is impossible.
    pub(super) fn bad(&self, key: &str, message: String) -> Error {
        Error::BadConfig { key: format!("{}{key}", self.path), message }
    }

    fn is_not(&self, expected: &str, key: &str, value: &str) -> Error {
        self.bad(key, format!("{} is not {expected}", show(value)))
    }
}

/// Null, `false`, 0, and lists and objects without anything in them.
fn is_off(value: &str) -> bool {
    let inside = value.strip_prefix(['[', '{']).and_then(|rest| rest.strip_suffix([']', '}']));
    inside.is_some_and(|inside| inside.trim().is_empty()) || matches!(value, "null" | "false" | "0")
}

impl<'de: 'a, 'a> Deserialize<'de> for Keys<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Keys { path: String::new(), values: deserializer.deserialize_map(KeysVisitor)? })
    }
}

struct KeysVisitor;

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = BTreeMap<String, &'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut keys = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
            if keys.len() == MAX_KEYS {
                return Err(A::Error::custom(format!("more than {MAX_KEYS} keys")));
            }
            if keys.contains_key(&key) {
                return Err(A::Error::custom(format!("`{}` is given twice", show(&key))));
            }
            keys.insert(key, value.get());
        }
        Ok(keys)
    }
}
