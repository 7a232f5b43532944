//! Just enough of WGSL's grammar to change it: tokens with their places, functions with their bodies. naga judges the
//! result, so nothing here has to refuse anything.
//!
//! A change of naga's module could not be shown as the line that somebody would have written, and a survivor must be read
//! to be argued about. Patterns on the text alone would change comments and types.

use std::collections::BTreeMap;
use std::ops::Range;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name or a keyword.
    Word,
    /// A number.
    Number,
    /// An operator or a bracket.
    Mark,
}

/// A token and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) span: Range<usize>,
}

/// Operators of more than one character, longest first.
const MARKS: [&str; 22] = [
    "<<=", ">>=", "->", "++", "--", "<=", ">=", "==", "!=", "&&", "||", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=",
    "<<", ">>", "::",
];
/// After these words `<` opens a list of types.
const GENERIC: [&str; 9] = ["array", "vec2", "vec3", "vec4", "ptr", "bitcast", "var", "atomic", "mat4x4"];

/// The tokens of `source`, without comments and without lists of types in angle brackets.
pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut found: Vec<Token<'_>> = Vec::new();
    let mut at = 0;
    while let Some(rest) = source.get(at..).filter(|rest| !rest.is_empty()) {
        let first = rest.chars().next().unwrap_or(' ');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if first.is_whitespace() {
            first.len_utf8()
        } else if first == '<' && found.last().is_some_and(|t| t.span.end == at && GENERIC.contains(&t.text)) {
            closing(rest)
        } else {
            let (kind, length) = token(rest, first);
            found.push(Token { kind, text: &rest[..length], span: at..at + length });
            length
        };
        at += length.max(1);
    }
    found
}

/// Bytes of a list of types in angle brackets.
fn closing(rest: &str) -> usize {
    let mut depth = 0;
    for (at, character) in rest.char_indices() {
        depth += i32::from(character == '<') - i32::from(character == '>');
        if depth == 0 {
            return at + 1;
        }
    }
    rest.len()
}

fn token(rest: &str, first: char) -> (Kind, usize) {
    let run = |is_part: &dyn Fn(char) -> bool| rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    if first.is_ascii_digit() {
        return (Kind::Number, number(rest));
    }
    if first.is_alphabetic() || first == '_' {
        return (Kind::Word, run(&|c| c.is_alphanumeric() || c == '_'));
    }
    let mark = MARKS.iter().find(|mark| rest.starts_with(**mark));
    (Kind::Mark, mark.map_or(first.len_utf8(), |mark| mark.len()))
}

/// Bytes of a number: `16u`, `0x7f800000u`, `1.5`, `1e-30`, `-` and `+` belonging to it after an exponent only.
fn number(rest: &str) -> usize {
    let hex = rest.starts_with("0x");
    let mut before = ' ';
    for (at, character) in rest.char_indices() {
        let exponent = !hex && matches!(before, 'e' | 'E') && matches!(character, '+' | '-');
        if !(character.is_ascii_alphanumeric() || character == '.' || exponent) {
            return at;
        }
        before = character;
    }
    rest.len()
}

/// What stands at the outermost level of a file, as ranges of its tokens.
#[derive(Debug, Default)]
pub(super) struct Outline<'a> {
    /// The bodies of functions, braces included.
    pub(super) functions: BTreeMap<&'a str, Range<usize>>,
    /// The initializers of `const`s, by name.
    pub(super) constants: Vec<(&'a str, Range<usize>)>,
    /// The members of structs: (struct, member, type).
    pub(super) members: Vec<(&'a str, &'a str, &'a str)>,
}

/// Reads the declarations of a file.
pub(super) fn outline<'a>(tokens: &[Token<'a>]) -> Outline<'a> {
    let mut outline = Outline::default();
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut at = 0;
    while at < tokens.len() {
        let end = declaration_end(tokens, at);
        match text(at) {
            "fn" => {
                let body = (at..end).find(|&i| text(i) == "{").unwrap_or(end);
                outline.functions.insert(text(at + 1), body..end);
            }
            "const" => outline.constants.push((text(at + 1), at + 2..end)),
            "struct" => {
                let colons = (at..end).filter(|&i| text(i) == ":");
                outline.members.extend(colons.map(|i| (text(at + 1), text(i - 1), text(i + 1))));
            }
            // An attribute stands before what it belongs to.
            "@" => {
                let arguments = text(at + 2) == "(";
                at = if arguments { matching(tokens, at + 2) + 1 } else { at + 2 };
                continue;
            }
            _ => (),
        }
        at = end;
    }
    outline
}

/// One past the last token of the declaration at `at`: past its `;` or its closing brace.
fn declaration_end(tokens: &[Token<'_>], at: usize) -> usize {
    for i in at..tokens.len() {
        match tokens[i].text {
            ";" => return i + 1,
            "{" => return matching(tokens, i) + 1,
            _ => (),
        }
    }
    tokens.len()
}

/// The bracket that closes the one at `open`.
pub(super) fn matching(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => (),
        }
        if depth == 0 {
            return i;
        }
    }
    tokens.len().saturating_sub(1)
}

/// The functions that can be reached from `entries`.
pub(super) fn reachable<'a>(tokens: &[Token<'a>], outline: &Outline<'a>, entries: &[&str]) -> Vec<&'a str> {
    let mut reached: Vec<&'a str> = Vec::new();
    let named = |name: &str| outline.functions.get_key_value(name).map(|(name, _)| *name);
    let mut left: Vec<&'a str> = entries.iter().filter_map(|name| named(name)).collect();
    while let Some(name) = left.pop() {
        if reached.contains(&name) {
            continue;
        }
        reached.push(name);
        let body = outline.functions.get(name).cloned().unwrap_or_default();
        left.extend(tokens.get(body).unwrap_or_default().iter().filter_map(|token| named(token.text)));
    }
    reached.sort_unstable();
    reached
}
