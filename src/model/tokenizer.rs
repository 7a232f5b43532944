//! Text to token ids and back, by a model's `tokenizer.json` or by the metadata of a GGUF file.
//!
//! A tokenizer that is nearly right is wrong in silence. `tokenizer.json` is defined by what the `tokenizers` crate does
//! with it; writing another one would have to follow its every release. It is built without its C and C++ parts:
//! `fancy-regex` in place of `onig`. Texts are capped, for patterns of that file can be slow, and its author may be a
//! stranger. GGUF's metadata is defined by llama.cpp, whose procedure is not that crate's: a room of our own ([`gguf`]).
//!
//! Streaming cannot decode ids one by one: a character may be spread over several, and some decoders treat the first id of
//! a text differently. [`TextStream`] therefore decodes a window of ids and returns what is new in it, holds back bytes
//! that do not end a character, and cuts the window every 64 ids, so that a long text costs no more per token than a short
//! one.

mod gguf;
mod merge;
mod split;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use super::gguf::Gguf;
use crate::error::{Error, Result};
use gguf::Vocabulary;

/// The longest text that is encoded, in bytes.
const MAX_TEXT: usize = 64 << 20;

/// A model's tokenizer.
///
/// ```
/// use gristmill::model::Tokenizer;
///
/// let tokenizer = Tokenizer::load("models/demo".as_ref())?.expect("a tokenizer.json");
/// let ids = tokenizer.encode("A reference is")?;
/// assert_eq!(ids, [33, 676, 297]);
/// assert_eq!(tokenizer.decode(&ids)?, "A reference is");
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    source: Source,
}

/// Where it was read from.
#[derive(Clone)]
enum Source {
    Json(Box<tokenizers::Tokenizer>),
    Gguf(Arc<Vocabulary>),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let vocab = match &self.source {
            Source::Json(json) => json.get_vocab_size(true),
            Source::Gguf(vocabulary) => vocabulary.len(),
        };
        f.debug_struct("Tokenizer").field("vocab", &vocab).finish()
    }
}

impl Tokenizer {
    /// The `tokenizer.json` of a model's folder, or the tokenizer of a GGUF file; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the file is not one; [`Error::Io`]; as [`Tokenizer::from_gguf`].
    pub fn load(model: &Path) -> Result<Option<Tokenizer>> {
        if model.is_file() {
            return Tokenizer::from_gguf(&Gguf::open(model)?);
        }
        let path = model.join("tokenizer.json");
        let io = |e: std::io::Error| Error::Io { path: path.clone(), message: e.to_string() };
        match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(e)),
            Ok(facts) if !facts.is_file() => return Err(Error::Tokenizer(format!("{} is not a file", path.display()))),
            Ok(_) => (),
        }
        Tokenizer::from_bytes(&std::fs::read(&path).map_err(io)?).map(Some)
    }

    /// A `tokenizer.json` in memory.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn from_bytes(json: &[u8]) -> Result<Tokenizer> {
        let json = contained(|| tokenizers::Tokenizer::from_bytes(json))?;
        Ok(Tokenizer { source: Source::Json(Box::new(json)) })
    }

    /// The tokenizer in the metadata of a GGUF file, with the ids that llama.cpp gives; `None` if the file has none.
    ///
    /// `tokenizer.ggml.model` may be `gpt2` (byte-level BPE, words cut as `tokenizer.ggml.pre` says) or `llama`
    /// (SentencePiece's BPE, with bytes for characters that are no pieces). BOS and EOS are added as
    /// `tokenizer.ggml.add_bos_token` and `add_eos_token` say; without these keys, BOS is for `llama` and for the `pre` of
    /// Llama 3.
    ///
    /// ```
    /// use gristmill::model::{Gguf, Tokenizer};
    ///
    /// let file = Gguf::open("tests/oracle/tokenizers/spm.gguf".as_ref())?;
    /// let tokenizer = Tokenizer::from_gguf(&file)?.expect("a vocabulary");
    /// let ids = tokenizer.encode("the mill 磨")?;
    /// assert_eq!(tokenizer.decode(&ids)?, "the mill 磨");
    /// # Ok::<(), gristmill::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::BadFile`], naming the key, for a tokenizer that is not implemented, and for keys that are missing or
    /// contradict each other.
    pub fn from_gguf(gguf: &Gguf) -> Result<Option<Tokenizer>> {
        let vocabulary = Vocabulary::from_gguf(gguf)?;
        Ok(vocabulary.map(|vocabulary| Tokenizer { source: Source::Gguf(Arc::new(vocabulary)) }))
    }

    /// The ids of a text. The names of special tokens in it are these tokens: look for them before encoding a text that a
    /// stranger wrote.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], also for a character that a vocabulary without bytes cannot spell.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if text.len() > MAX_TEXT {
            return Err(Error::Tokenizer(format!("a text of {} bytes; at most {MAX_TEXT}", text.len())));
        }
        match &self.source {
            Source::Json(json) => Ok(contained(|| json.encode(text, true))?.get_ids().to_vec()),
            Source::Gguf(vocabulary) => vocabulary.encode(text),
        }
    }

    /// The text of ids, special tokens left out.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match &self.source {
            Source::Json(json) => contained(|| json.decode(ids, true)),
            Source::Gguf(vocabulary) => Ok(vocabulary.decode(ids)),
        }
    }

    /// Decodes ids one at a time.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, ids: Vec::new(), printed: 0, held: 0 }
    }
}

/// A call of the `tokenizers` crate, which panics on some files that are damaged (fuzzing finds them in seconds): that is
/// an error of the file. The panic's own message still goes to stderr.
fn contained<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let outcome = catch_unwind(AssertUnwindSafe(call));
    let panicked = |_| Error::Tokenizer("tokenizer.json is damaged: reading or using it panicked".into());
    outcome.map_err(panicked)?.map_err(|error| Error::Tokenizer(error.to_string()))
}

/// Text as its tokens arrive. A character whose bytes are not all there yet is held back.
///
/// ```
/// use gristmill::model::Tokenizer;
///
/// let tokenizer = Tokenizer::load("models/demo".as_ref())?.expect("a tokenizer.json");
/// let (mut stream, mut text) = (tokenizer.stream(), String::new());
/// for id in tokenizer.encode("A naïve reference is 3 €")? {
///     text += &stream.push(id)?; // nothing until the bytes of a character are all there
/// }
/// text += &stream.finish()?;
/// assert_eq!(text, "A naïve reference is 3 €");
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Ids since the last cut.
    ids: Vec<u32>,
    /// Bytes of their text that were returned.
    printed: usize,
    /// Ids whose text is held back.
    held: usize,
}

/// Ids after which the window is cut, once its text is complete, so that a long stream stays linear.
const WINDOW: usize = 64;
/// A character has at most four bytes; what is still broken after as many ids is not the beginning of one.
const MAX_HELD: usize = 4;

impl TextStream<'_> {
    /// The text that this id completes; often a word, sometimes nothing.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids)?;
        // The decoder stands in U+FFFD for bytes that do not end a character.
        if text.ends_with('\u{fffd}') && self.held < MAX_HELD {
            self.held += 1;
            return Ok(String::new());
        }
        let new = text.get(self.printed..).unwrap_or_default().to_owned();
        (self.printed, self.held) = (text.len(), 0);
        if self.ids.len() >= WINDOW {
            // The last id stays: some decoders treat the first of a text differently.
            self.ids = vec![id];
            self.printed = self.tokenizer.decode(&self.ids)?.len();
        }
        Ok(new)
    }

    /// What was held back.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn finish(&mut self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids)?;
        let rest = text.get(self.printed..).unwrap_or_default().to_owned();
        self.printed = text.len();
        Ok(rest)
    }
}
