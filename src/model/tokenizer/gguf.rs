//! The tokenizer in the metadata of a GGUF file: `tokenizer.ggml.*`.
//!
//! The file holds a vocabulary and what was learnt with it, but not the procedure; that is llama.cpp's, and what differs
//! from it by one id is wrong in silence. `tests/tokenizers.rs` compares all ids with llama.cpp's. Two kinds are read:
//!
//! - `gpt2`, byte-level BPE: [`split`](super::split) cuts words, bytes are joined by the rank of the pair in the list of
//!   merges;
//! - `llama`, SentencePiece's BPE: blanks become U+2581, characters are joined by the score of what they make, whatever
//!   the pair, and what is no piece in the end is spelt in bytes. A list of merges made from the scores would not be the
//!   same: scores can be equal, and characters that are no pieces can be parts of one.
//!
//! The names of control, unknown and user-defined tokens are tokens wherever they stand in a text, as in transformers and
//! in llama.cpp's commands: who encodes a stranger's text has to look for them first. Where two of them overlap, the one
//! that begins first is taken, and of those the longest, as in transformers; llama.cpp takes the longest in the whole
//! text first.
//!
//! Time is linear in the text but for a logarithm, and each join costs the bytes of what it makes: a vocabulary of long
//! pieces is slow in proportion to the longest.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, MatchKind};

use super::merge::{Merger, NONE};
use super::split::{self, Splitter};
use crate::error::{Error, Result};
use crate::model::checkpoint::json::show;
use crate::model::gguf::{Array, Gguf};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// What a blank is in a SentencePiece vocabulary.
const BLANK: &str = "\u{2581}";
/// Most bytes in the names of control, unknown and user-defined tokens: the search for them is built in memory. Gemma 3
/// has the most of them, 90,000 bytes.
const MAX_SPECIAL: usize = 1 << 20;

/// What `tokenizer.ggml.token_type` says of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Also unused tokens, which encoding finds all the same, and those of an unknown type.
    Normal,
    Unknown,
    Control,
    UserDefined,
    Byte,
}

impl Kind {
    fn numbered(number: u32) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }

    /// Whether its name is a token wherever it stands in a text.
    fn is_special(self) -> bool {
        matches!(self, Self::Unknown | Self::Control | Self::UserDefined)
    }
}

/// A vocabulary and how it is used.
pub(super) struct Vocabulary {
    /// What each id decodes to; nothing for control and unknown tokens.
    texts: Vec<Box<[u8]>>,
    specials: Option<Specials>,
    scheme: Scheme,
    /// The id before every text.
    bos: Option<u32>,
    /// The id behind every text.
    eos: Option<u32>,
    /// A blank is put before texts and behind special tokens, and taken from what is decoded.
    space_prefix: bool,
}

enum Scheme {
    Bytes(ByteLevel),
    Pieces(Pieces),
}

impl Vocabulary {
    /// Reads the metadata. `None` if the file has no vocabulary.
    pub(super) fn from_gguf(gguf: &Gguf) -> Result<Option<Self>> {
        let byte_level = match gguf.str(MODEL)? {
            None | Some("no_vocab" | "none") => return Ok(None),
            Some("gpt2") => true,
            Some("llama") => false,
            Some(other) => {
                let message = format!("tokenizer `{}` is not implemented; `gpt2` and `llama` are", show(other));
                return Err(gguf.bad_key(MODEL, message));
            }
        };
        let tokens = gguf.need(TOKENS, Gguf::strs)?;
        if tokens.is_empty() {
            return Err(gguf.bad_key(TOKENS, "is empty"));
        }
        let kinds = kinds(gguf, tokens.len())?;
        let ids = ids(gguf, tokens)?;
        let specials = Specials::new(gguf, tokens, &kinds)?;
        let texts = texts(gguf, tokens, &kinds, byte_level)?;
        let scheme = match byte_level {
            true => Scheme::Bytes(ByteLevel::new(gguf, &ids)?),
            false => Scheme::Pieces(Pieces::new(gguf, tokens.len(), &ids)?),
        };
        // llama.cpp's defaults; for byte-level BPE it has none that fit a model of today.
        let (add_bos, bos, eos) = match &scheme {
            Scheme::Bytes(bytes) => (bytes.splitter.llama3, None, None),
            Scheme::Pieces(_) => (true, Some(1), Some(2)),
        };
        Ok(Some(Self {
            bos: added(gguf, "bos", add_bos, bos, tokens.len())?,
            eos: added(gguf, "eos", false, eos, tokens.len())?,
            space_prefix: !byte_level && gguf.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
            texts,
            specials,
            scheme,
        }))
    }

    /// The number of ids.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::from_iter(self.bos);
        let mut merger = Merger::default();
        let mut plain = |part: Option<&str>, ids: &mut Vec<u32>| match (&self.scheme, part) {
            (_, None | Some("")) => Ok(()),
            (Scheme::Bytes(bytes), Some(part)) => {
                bytes.encode(part, &mut merger, ids);
                Ok(())
            }
            (Scheme::Pieces(pieces), Some(part)) => pieces.encode(part, self.space_prefix, &mut merger, ids),
        };
        let mut at = 0;
        for (begin, end, id) in self.specials.iter().flat_map(|specials| specials.find(text)) {
            plain(text.get(at..begin), &mut ids)?;
            ids.push(id);
            at = end;
        }
        plain(text.get(at..), &mut ids)?;
        ids.extend(self.eos);
        Ok(ids)
    }

    /// Ids that the vocabulary does not have are left out, as are control tokens.
    pub(super) fn decode(&self, ids: &[u32]) -> String {
        let texts = ids.iter().filter_map(|&id| self.texts.get(id as usize));
        let bytes: Vec<u8> = texts.flat_map(|text| text.iter().copied()).collect();
        let text = String::from_utf8_lossy(&bytes);
        match text.strip_prefix(' ').filter(|_| self.space_prefix) {
            Some(rest) => rest.to_owned(),
            None => text.into_owned(),
        }
    }
}

/// The type of each token; without the key, all are normal.
fn kinds(gguf: &Gguf, count: usize) -> Result<Vec<Kind>> {
    let Some(numbers) = gguf.u32s(TYPES)? else { return Ok(vec![Kind::Normal; count]) };
    enough(gguf, TYPES, numbers.len(), count)?;
    Ok(numbers.into_iter().map(Kind::numbered).collect())
}

fn enough(gguf: &Gguf, key: &str, have: usize, count: usize) -> Result<()> {
    match have < count {
        true => Err(gguf.bad_key(key, format!("has {have} elements for {count} tokens"))),
        false => Ok(()),
    }
}

/// The tokens by their names. Those without a name cannot be looked up.
fn ids<'a>(gguf: &Gguf, tokens: &'a Array) -> Result<HashMap<&'a str, u32>> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, token) in (0..).zip(tokens.strs()).filter(|(_, token)| !token.is_empty()) {
        if let Some(before) = ids.insert(token, id) {
            return Err(gguf.bad_key(TOKENS, format!("`{}` is token {before} and token {id}", show(token))));
        }
    }
    Ok(ids)
}

/// The bytes that each token decodes to.
fn texts(gguf: &Gguf, tokens: &Array, kinds: &[Kind], byte_level: bool) -> Result<Vec<Box<[u8]>>> {
    let spelt = spelling();
    let text = |token: &str, kind| {
        Some(match kind {
            Kind::Unknown | Kind::Control => Box::default(),
            Kind::UserDefined => token.as_bytes().into(),
            Kind::Byte => [byte(token)?].into(),
            Kind::Normal if byte_level => spelt(token).unwrap_or_else(|| token.as_bytes().into()),
            Kind::Normal => token.replace(BLANK, " ").into_bytes().into(),
        })
    };
    let no_byte =
        |token| gguf.bad_key(TOKENS, format!("`{}` is typed as a byte; `<0x00>` to `<0xFF>` are", show(token)));
    tokens.strs().zip(kinds).map(|(token, &kind)| text(token, kind).ok_or_else(|| no_byte(token))).collect()
}

/// The byte that a SentencePiece vocabulary calls `<0xNN>`.
fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    // Parsing alone would take a sign.
    let two = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| two)
}

/// The letter that stands for each byte in a byte-level vocabulary: itself where Latin-1 has a visible one, else the next
/// from U+0100 on. From GPT-2's `encoder.py`.
fn alphabet() -> [char; 256] {
    let mut next = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        visible @ (b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) => char::from(visible),
        _ => next.next().unwrap_or_default(),
    })
}

/// The bytes that a token of a byte-level vocabulary stands for; `None` if one of its letters stands for none.
fn spelling() -> impl Fn(&str) -> Option<Box<[u8]>> {
    let bytes: HashMap<char, u8> = (0..=255).zip(alphabet()).map(|(byte, letter)| (letter, byte)).collect();
    move |token| token.chars().map(|letter| bytes.get(&letter).copied()).collect()
}

fn check(gguf: &Gguf, key: &str, id: Option<u32>, count: usize) -> Result<()> {
    match id.filter(|&id| id as usize >= count) {
        Some(id) => Err(gguf.bad_key(key, format!("is {id}, and there are {count} tokens"))),
        None => Ok(()),
    }
}

/// The id that is put at one end of every text, `which` being `bos` or `eos`, if one is.
fn added(gguf: &Gguf, which: &str, default: bool, id: Option<u32>, count: usize) -> Result<Option<u32>> {
    let (add_key, id_key) = (format!("tokenizer.ggml.add_{which}_token"), format!("tokenizer.ggml.{which}_token_id"));
    let named = gguf.u32(&id_key)?;
    // An id that is not added has to be a token all the same.
    check(gguf, &id_key, named, count)?;
    if !gguf.bool(&add_key)?.unwrap_or(default) {
        return Ok(None);
    }
    let id = named.or(id).map_or_else(|| gguf.need(&id_key, Gguf::u32), Ok)?;
    check(gguf, &id_key, Some(id), count).map(|()| Some(id))
}

/// Finds the names of special tokens in a text.
struct Specials {
    names: AhoCorasick,
    ids: Vec<u32>,
}

impl Specials {
    fn new(gguf: &Gguf, tokens: &Array, kinds: &[Kind]) -> Result<Option<Self>> {
        let special = |(_, (token, kind)): &(u32, (&str, &Kind))| kind.is_special() && !token.is_empty();
        let found = (0..).zip(tokens.strs().zip(kinds)).filter(special);
        let (ids, names): (Vec<u32>, Vec<&str>) = found.map(|(id, (token, _))| (id, token)).unzip();
        let bytes: usize = names.iter().map(|name| name.len()).sum();
        if bytes > MAX_SPECIAL {
            let message = format!("special tokens have names of {bytes} bytes in all; the limit is {MAX_SPECIAL}");
            return Err(gguf.bad_key(TYPES, message));
        }
        if names.is_empty() {
            return Ok(None);
        }
        let names = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(names);
        let names = names.map_err(|error| gguf.bad_key(TOKENS, error.to_string()))?;
        Ok(Some(Self { names, ids }))
    }

    /// (begin, end, id) of each, in order.
    fn find(&self, text: &str) -> impl Iterator<Item = (usize, usize, u32)> {
        self.names.find_iter(text).filter_map(|found| {
            let id = self.ids.get(found.pattern().as_usize())?;
            Some((found.start(), found.end(), *id))
        })
    }
}

/// Byte-level BPE.
struct ByteLevel {
    splitter: Splitter,
    /// The id of each byte; [`NONE`] for one that the vocabulary lacks. Such a byte is left out, as llama.cpp does.
    bytes: [u32; 256],
    /// Rank and result of each pair.
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// Words that are not merged, if there are such.
    words: HashMap<Box<[u8]>, u32>,
}

impl ByteLevel {
    fn new(gguf: &Gguf, ids: &HashMap<&str, u32>) -> Result<Self> {
        // Files from before the key was invented mean `default`, as far as llama.cpp knows.
        let name = gguf.str(PRE)?.filter(|name| !name.is_empty()).unwrap_or("default");
        let not_known =
            || gguf.bad_key(PRE, format!("`{}` is not implemented; there are {}", show(name), split::names()));
        let splitter = Splitter::named(name).ok_or_else(not_known)?;
        let bytes = alphabet().map(|letter| ids.get(letter.encode_utf8(&mut [0; 4]) as &str).copied().unwrap_or(NONE));
        let spelt = spelling();
        let whole = ids.iter().filter(|_| splitter.llama3);
        let words = whole.filter_map(|(token, &id)| Some((spelt(token)?, id))).collect();
        Ok(Self { splitter, bytes, merges: merges(gguf, ids)?, words })
    }

    fn encode(&self, text: &str, merger: &mut Merger, ids: &mut Vec<u32>) {
        self.splitter.words(text, &mut |word| {
            if let Some(&id) = self.words.get(word.as_bytes()) {
                return ids.push(id);
            }
            merger.clear();
            let id = |byte: u8| self.bytes.get(usize::from(byte)).copied().unwrap_or(NONE);
            word.bytes().for_each(|byte| merger.push(1, id(byte)));
            merger.merge(|left, right| self.merges.get(&(left.id, right.id)).copied());
            ids.extend(merger.symbols().map(|symbol| symbol.id).filter(|&id| id != NONE));
        });
    }
}

/// Rank and result of each pair that is merged: the place in the list, the first of several.
fn merges(gguf: &Gguf, ids: &HashMap<&str, u32>) -> Result<HashMap<(u32, u32), (u32, u32)>> {
    let list = gguf.need(MERGES, Gguf::strs)?;
    let mut merges = HashMap::with_capacity(list.len());
    let mut both = String::new();
    for (rank, merge) in (0..).zip(list.strs()) {
        // The first letter may be a blank itself.
        let blank = merge.bytes().skip(1).position(|byte| byte == b' ').map(|place| place + 1);
        let halves = blank.and_then(|blank| Some((merge.get(..blank)?, merge.get(blank + 1..)?)));
        let no_pair = || gguf.bad_key(MERGES, format!("element {rank}, `{}`, is no pair of tokens", show(merge)));
        let (left, right) = halves.ok_or_else(no_pair)?;
        both.clear();
        both.extend([left, right]);
        let id = |token: &str| {
            let missing = || format!("element {rank}, `{}`: `{}` is not among the tokens", show(merge), show(token));
            ids.get(token).copied().ok_or_else(|| gguf.bad_key(MERGES, missing()))
        };
        merges.entry((id(left)?, id(right)?)).or_insert((rank, id(&both)?));
    }
    Ok(merges)
}

/// SentencePiece's BPE.
struct Pieces {
    ids: HashMap<Box<str>, u32>,
    /// By id: 0 for the highest score; equal scores have equal ranks.
    ranks: Vec<u32>,
    /// Bytes of the longest piece.
    longest: usize,
    /// Whether two characters may follow each other in a piece, at [`neighbours`].
    joins: Vec<bool>,
    /// The id of each byte; [`NONE`] for one that the vocabulary lacks.
    bytes: [u32; 256],
}

impl Pieces {
    fn new(gguf: &Gguf, count: usize, ids: &HashMap<&str, u32>) -> Result<Self> {
        let scores = gguf.f32s(SCORES)?.unwrap_or_else(|| vec![0.0; count]);
        enough(gguf, SCORES, scores.len(), count)?;
        let bytes = std::array::from_fn(|byte| {
            let itself = char::from(byte as u8).to_string();
            let itself = itself.is_ascii().then(|| ids.get(itself.as_str())).flatten();
            ids.get(format!("<0x{byte:02X}>").as_str()).or(itself).copied().unwrap_or(NONE)
        });
        let mut joins = vec![false; JOINS];
        for (left, right) in ids.keys().flat_map(|piece| piece.chars().zip(piece.chars().skip(1))) {
            if let Some(join) = joins.get_mut(neighbours(left, right)) {
                *join = true;
            }
        }
        Ok(Self {
            joins,
            ranks: ranks(&scores),
            longest: ids.keys().map(|piece| piece.len()).max().unwrap_or(0),
            ids: ids.iter().map(|(&piece, &id)| (piece.into(), id)).collect(),
            bytes,
        })
    }

    fn encode(&self, text: &str, prefix: bool, merger: &mut Merger, ids: &mut Vec<u32>) -> Result<()> {
        let mut blanks = String::with_capacity(text.len() + BLANK.len());
        blanks.extend(prefix.then_some(BLANK));
        for (i, part) in text.split(' ').enumerate() {
            blanks.extend((i > 0).then_some(BLANK));
            blanks.push_str(part);
        }
        // No piece goes over two characters that are neighbours in none: what lies between such places is joined by itself,
        // in a queue that is short.
        let (mut begin, mut before) = (0, None);
        for (at, letter) in blanks.char_indices() {
            let apart = |left| self.joins.get(neighbours(left, letter)) == Some(&false);
            if before.is_some_and(apart) {
                self.join(blanks.get(begin..at).unwrap_or_default(), merger, ids)?;
                begin = at;
            }
            before = Some(letter);
        }
        self.join(blanks.get(begin..).unwrap_or_default(), merger, ids)
    }

    fn join(&self, text: &str, merger: &mut Merger, ids: &mut Vec<u32>) -> Result<()> {
        let piece = |begin: u32, end: u32| {
            let piece = text.get(begin as usize..end as usize).filter(|piece| piece.len() <= self.longest)?;
            self.ids.get(piece).copied()
        };
        merger.clear();
        for (begin, letter) in text.char_indices() {
            let (begin, bytes) = (begin as u32, letter.len_utf8() as u32);
            merger.push(bytes, piece(begin, begin + bytes).unwrap_or(NONE));
        }
        merger.merge(|left, right| {
            let id = piece(left.begin, right.end)?;
            Some((*self.ranks.get(id as usize)?, id))
        });
        for symbol in merger.symbols() {
            match symbol.id {
                NONE => self.spell(text.get(symbol.begin as usize..symbol.end as usize).unwrap_or_default(), ids)?,
                id => ids.push(id),
            }
        }
        Ok(())
    }

    /// A character that is no piece, in bytes.
    fn spell(&self, character: &str, ids: &mut Vec<u32>) -> Result<()> {
        for byte in character.bytes() {
            let id = self.bytes.get(usize::from(byte)).copied().filter(|&id| id != NONE);
            let missing =
                || format!("the vocabulary has no piece for `{}`, nor one for its byte 0x{byte:02X}", show(character));
            ids.push(id.ok_or_else(|| Error::Tokenizer(missing()))?);
        }
        Ok(())
    }
}

/// Places in [`Pieces::joins`]. Pairs that share one cost time, not ids.
const JOINS: usize = 1 << 20;

fn neighbours(left: char, right: char) -> usize {
    (left as usize).wrapping_mul(0x9e37).wrapping_add(right as usize) % JOINS
}

/// The place of each score among the scores, the highest first.
fn ranks(scores: &[f32]) -> Vec<u32> {
    // There is one zero to compare with.
    let scores: Vec<f32> = scores.iter().map(|score| score + 0.0).collect();
    let mut sorted = scores.clone();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    sorted.dedup();
    let place = |score: &f32| sorted.partition_point(|other| other.total_cmp(score).is_gt()) as u32;
    scores.iter().map(place).collect()
}
