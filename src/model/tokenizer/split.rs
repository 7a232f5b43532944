//! The words that byte-level BPE does not merge across, by `tokenizer.ggml.pre`.
//!
//! A model's vocabulary was trained on words cut by one regular expression or several, and cutting by another one gives
//! ids that the model has rarely seen. A name that is not in the table is therefore refused. The expressions are those of
//! the models' own `tokenizer.json`, without `\s+(?!\S)`, which says that of several blanks before a word the last one
//! belongs to the word: engines that look ahead backtrack, over a million blanks a million times. Here one expression
//! finds all the blanks, in linear time, and [`Step::end`] gives the last one back.

use regex::Regex;

/// One expression, and whether its blanks end at the last line end among them (`\s*[\r\n]+`).
type Rule = (&'static str, bool);

const GPT2: Rule = (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", false);
const LLAMA3: Rule = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    true,
);
const QWEN2: Rule = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    true,
);
const QWEN35: Rule = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    true,
);
const DIGIT: Rule = (r"\p{N}", false);
const THREE_DIGITS: Rule = (r"[0-9][0-9][0-9]", false);

/// What `tokenizer.ggml.pre` may be, and what each name means.
struct Rules {
    names: &'static [&'static str],
    /// Expressions that cut one after the other, each what the one before it left in one piece.
    cuts: &'static [Rule],
    /// A word that is a token is not merged, and a text begins with the BOS token unless the metadata says otherwise.
    llama3: bool,
}

const fn rules(names: &'static [&'static str], cuts: &'static [Rule]) -> Rules {
    Rules { names, cuts, llama3: false }
}

const DEEPSEEK_CODER: &[Rule] =
    &[(r"[\r\n]", false), (r"\s?\p{L}+", false), (r"\s?\p{P}+", false), (r"[一-龥ࠀ-一가-퟿]+", false), DIGIT];
const FALCON: &[Rule] = &[(r"[\p{P}$+<=>^~|`]+", false), GPT2, THREE_DIGITS];
const DEFAULT: &[Rule] = &[(r"[\p{P}$+<=>^~|]+", false), GPT2, (r"\p{N}+", false), THREE_DIGITS];

const RULES: [Rules; 9] = [
    rules(&["gpt-2", "phi-2", "mpt", "olmo"], &[GPT2]),
    Rules { names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2"], cuts: &[LLAMA3], llama3: true },
    rules(&["dbrx", "smaug-bpe"], &[LLAMA3]),
    rules(&["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"], &[QWEN2]),
    rules(&["qwen35"], &[QWEN35]),
    rules(&["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"], &[DIGIT, GPT2]),
    rules(&["deepseek-coder"], DEEPSEEK_CODER),
    rules(&["falcon"], FALCON),
    rules(&["default"], DEFAULT),
];

/// Every name that is known, for messages.
pub(super) fn names() -> String {
    RULES.iter().flat_map(|rules| rules.names).copied().collect::<Vec<_>>().join(", ")
}

struct Step {
    pattern: Regex,
    /// Blanks end at the last line end among them.
    lines: bool,
}

impl Step {
    /// Where a match ends. Of several blanks before a word the last one belongs to the word.
    fn end(&self, text: &str, found: regex::Match<'_>) -> usize {
        let kept = |last: char| last.is_whitespace() && !(self.lines && matches!(last, '\r' | '\n'));
        match found.as_str().chars().next_back().filter(|&last| kept(last)) {
            Some(last) if found.end() < text.len() && found.len() > last.len_utf8() => {
                found.end().saturating_sub(last.len_utf8())
            }
            _ => found.end(),
        }
    }
}

/// Cuts texts into words.
pub(super) struct Splitter {
    steps: Vec<Step>,
    /// A word that is a token is not merged, and a text begins with the BOS token unless the metadata says otherwise.
    pub(super) llama3: bool,
}

impl Splitter {
    /// The splitter of that name; `None` if it is not known.
    pub(super) fn named(name: &str) -> Option<Self> {
        let Rules { cuts, llama3, .. } = RULES.iter().find(|rules| rules.names.contains(&name))?;
        // An expression of the table that is wrong makes its name unknown: the unit test tries them all.
        let step = |(pattern, lines): &Rule| Some(Step { pattern: Regex::new(pattern).ok()?, lines: *lines });
        Some(Self { steps: cuts.iter().map(step).collect::<Option<_>>()?, llama3: *llama3 })
    }

    /// Calls `word` with each word of the text, in order; together they are the text.
    pub(super) fn words(&self, text: &str, word: &mut dyn FnMut(&str)) {
        split(&self.steps, text, word);
    }
}

fn split(steps: &[Step], text: &str, word: &mut dyn FnMut(&str)) {
    let Some((step, rest)) = steps.split_first() else {
        word(text);
        return;
    };
    let mut part = |begin: usize, end: usize| match text.get(begin..end) {
        None | Some("") => (),
        Some(part) => split(rest, part, word),
    };
    let mut at = 0;
    while let Some(found) = step.pattern.find_at(text, at) {
        let end = step.end(text, found);
        part(at, found.start());
        part(found.start(), end);
        at = end;
        if at >= text.len() {
            return;
        }
    }
    part(at, text.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        Splitter::named(name).expect("a known name").words(text, &mut |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn every_name_cuts_and_loses_nothing() {
        for name in RULES.iter().flat_map(|rules| rules.names) {
            let text = "  It's 12345\r\n\n \tnaïve...  \u{0}文字 \u{301}e  ";
            assert_eq!(words(name, text).concat(), text, "{name}");
        }
        assert!(Splitter::named("no such name").is_none());
    }

    /// As the expressions with `\s+(?!\S)` cut: the engine that has it is Python's `regex`.
    #[test]
    fn the_last_blank_before_a_word_belongs_to_it() {
        assert_eq!(words("gpt-2", "a   b \n\n c  "), ["a", "  ", " b", " \n\n", " c", "  "]);
        assert_eq!(words("llama-bpe", "a   b \n\n c  "), ["a", "  ", " b", " \n\n", " c", "  "]);
        assert_eq!(words("gpt-2", "a\n\nb\t\tc"), ["a", "\n", "\n", "b", "\t", "\t", "c"]);
        assert_eq!(words("llama-bpe", "a\n\nb\t\tc"), ["a", "\n\n", "b", "\t", "\tc"]);
    }
}
