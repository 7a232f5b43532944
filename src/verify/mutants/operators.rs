//! What is broken: each operator looks at one place of a kernel and says what could stand there instead.
//!
//! Whole numbers of `const` declarations are left alone: they lay out workgroup memory and tiles, `const_assert` and naga
//! guard them, and what they change is speed. Functions that the entry point does not reach are left alone: changing them
//! changes nothing. So is adding 2^31 instead of subtracting it, and the `1u` of `min(i, n - 1u)`, which keeps inside its row
//! a read that nobody uses (`max` for `min` is made).

use std::ops::Range;

use super::kinds::Operator;
use super::tokens::{Kind, Outline, Token, matching, outline, reachable, tokens};

/// One change of a text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Change {
    pub(super) span: Range2,
    pub(super) operator: Operator,
    pub(super) text: String,
}

/// A range that can be ordered.
pub(super) type Range2 = (usize, usize);

/// A file that is being looked at.
struct Text<'a> {
    source: &'a str,
    tokens: Vec<Token<'a>>,
    outline: Outline<'a>,
    found: Vec<Change>,
}

/// Every change of `source` in what `entries` reach, in the order of the file.
pub(super) fn changes(source: &str, entries: &[&str]) -> Vec<Change> {
    let tokens = tokens(source);
    let outline = outline(&tokens);
    let bodies: Vec<Range<usize>> =
        reachable(&tokens, &outline, entries).iter().filter_map(|name| outline.functions.get(name).cloned()).collect();
    let initializers: Vec<Range<usize>> = outline.constants.iter().map(|(_, range)| range.clone()).collect();
    let mut text = Text { source, tokens, outline, found: Vec::new() };
    for i in initializers.into_iter().flatten() {
        text.constant(i);
        text.sign(i);
    }
    for body in bodies {
        for i in body.clone() {
            text.operators(i);
            text.index(i);
            text.constant(i);
            text.sign(i);
            text.stride(i);
            text.tile(i);
            text.mask(i);
            text.shift(i);
            text.builtin(i);
            text.variance(i, &body);
        }
        text.statements(body);
    }
    text.found.sort();
    text.found.dedup_by(|a, b| a.span == b.span && a.text == b.text);
    text.found
}

/// The first word of a statement that is no assignment.
const KEYWORDS: [&str; 9] = ["let", "var", "const", "if", "else", "for", "while", "return", "switch"];

impl<'a> Text<'a> {
    fn at(&self, i: usize) -> &'a str {
        self.tokens.get(i).map_or("", |token| token.text)
    }

    fn kind(&self, i: usize) -> Option<Kind> {
        self.tokens.get(i).map(|token| token.kind)
    }

    /// The bytes of some tokens.
    fn bytes(&self, range: Range<usize>) -> Range2 {
        let edge = |i: usize| self.tokens.get(i).map_or(0..0, |token| token.span.clone());
        (edge(range.start).start, edge(range.end.saturating_sub(1)).end)
    }

    fn text(&self, range: Range<usize>) -> &'a str {
        let (from, to) = self.bytes(range);
        self.source.get(from..to).unwrap_or_default()
    }

    fn put(&mut self, operator: Operator, range: Range<usize>, text: impl Into<String>) {
        let span = self.bytes(range);
        self.found.push(Change { span, operator, text: text.into() });
    }

    /// Whether the operator at `i` has something on its left.
    fn is_binary(&self, i: usize) -> bool {
        let Some(before) = i.checked_sub(1) else { return false };
        match self.kind(before) {
            Some(Kind::Mark) => matches!(self.at(before), ")" | "]"),
            Some(Kind::Word) => !KEYWORDS.contains(&self.at(before)),
            kind => kind == Some(Kind::Number),
        }
    }

    fn operators(&mut self, i: usize) {
        let (operator, other) = match self.at(i) {
            "+" => (Operator::Arithmetic, "-"),
            "-" => (Operator::Arithmetic, "+"),
            "*" => (Operator::Arithmetic, "+"),
            "/" => (Operator::Arithmetic, "*"),
            "%" => (Operator::Arithmetic, "/"),
            "&" => (Operator::Arithmetic, "|"),
            "|" => (Operator::Arithmetic, "&"),
            "<<" => (Operator::Arithmetic, ">>"),
            ">>" => (Operator::Arithmetic, "<<"),
            "+=" => (Operator::Arithmetic, "-="),
            "-=" => (Operator::Arithmetic, "+="),
            "*=" => (Operator::Arithmetic, "+="),
            "/=" => (Operator::Arithmetic, "*="),
            "<" => (Operator::Bound, "<="),
            "<=" => (Operator::Bound, "<"),
            ">" => (Operator::Bound, ">="),
            ">=" => (Operator::Bound, ">"),
            "==" => (Operator::Bound, "!="),
            "!=" => (Operator::Bound, "=="),
            "&&" => (Operator::Logic, "||"),
            "||" => (Operator::Logic, "&&"),
            _ => return,
        };
        let is_half = [i.wrapping_sub(1), i + 1].into_iter().any(|j| self.at(j) == "0x80000000u");
        if self.is_binary(i) && !is_half && !self.elects(i) && !self.steps(i) && !self.keeps_inside(i) {
            self.put(operator, i..i + 1, other);
        }
    }

    /// The `==` or `0u` of `if lane == 0u {`.
    fn elects(&self, i: usize) -> bool {
        let Some(equals) = (if self.at(i) == "==" { Some(i) } else { i.checked_sub(1) }) else { return false };
        let name = equals.checked_sub(1).map_or("", |before| self.at(before));
        let is_variable = name.starts_with(|c: char| c.is_ascii_lowercase());
        let head = equals.checked_sub(2).map_or("", |before| self.at(before));
        let tail = (self.at(equals), self.at(equals + 1), self.at(equals + 2));
        is_variable && head == "if" && tail == ("==", "0u", "{")
    }

    /// The step of a loop, or the comparison of one whose step is not one.
    fn steps(&self, i: usize) -> bool {
        let Some(open) = (0..i).rev().take(64).find(|&j| self.at(j) == "for") else { return false };
        let close = matching(&self.tokens, open + 1);
        let strided = (i..close).find(|&j| matches!(self.at(j), "+=" | "++"));
        i < close && strided.is_some_and(|step| step == i || (self.at(step) == "+=" && is_border(self.at(i))))
    }

    /// The minus of `min(i, n - 1u)`.
    fn keeps_inside(&self, i: usize) -> bool {
        let Some(open) = (0..i).rev().take(32).find(|&j| self.at(j) == "min" && self.at(j + 1) == "(") else {
            return false;
        };
        self.at(i) == "-" && self.at(i + 1) == "1u" && matching(&self.tokens, open + 1) == i + 2
    }

    fn index(&mut self, i: usize) {
        if self.kind(i) != Some(Kind::Number) || is_float(self.at(i)) || self.elects(i) {
            return;
        }
        let (digits, suffix) = match self.at(i).strip_suffix(['u', 'i']) {
            Some(digits) => (digits, &self.at(i)[digits.len()..]),
            None => (self.at(i), ""),
        };
        let value = match digits.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => digits.parse(),
        };
        if let Ok(value) = value {
            self.put(Operator::Index, i..i + 1, format!("{}{suffix}", value + 1));
        }
    }

    fn constant(&mut self, i: usize) {
        if self.kind(i) == Some(Kind::Number) && is_float(self.at(i)) {
            let digits = self.at(i).trim_end_matches(['f', 'h']);
            let Ok(value) = digits.parse::<f64>() else { return };
            let other = if value == 0.0 { 1.0 } else { value / 2.0 };
            self.put(Operator::Constant, i..i + 1, format!("{other:?}"));
        }
    }

    fn sign(&mut self, i: usize) {
        if self.at(i) == "-" && !self.is_binary(i) {
            self.put(Operator::Arithmetic, i..i + 1, "");
        }
    }

    fn stride(&mut self, i: usize) {
        if self.at(i) != "." || self.kind(i + 1) != Some(Kind::Word) {
            return;
        }
        let of_params = i.checked_sub(1).is_some_and(|before| self.at(before) == "p");
        let member = self.at(i + 1);
        let is_it = |owner: &str, name: &str| name == member && (owner == "Params") == of_params;
        let known = self.outline.members.iter().find(|(owner, name, _)| is_it(owner, name));
        if let Some(&(owner, _, ty)) = known {
            let like = self.outline.members.iter().filter(|(other, _, t)| *other == owner && *t == ty);
            let like: Vec<&str> = like.map(|(_, name, _)| *name).collect();
            let at = like.iter().position(|name| *name == member).unwrap_or(0);
            if let Some(other) = like.get((at + (like.len() / 2).max(1)) % like.len()).filter(|other| **other != member)
            {
                let other = (*other).to_owned();
                self.put(Operator::Stride, i + 1..i + 2, other);
            }
            return;
        }
        let other = match member {
            "x" => "y",
            "y" | "z" => "x",
            "w" => "z",
            "xy" => "zw",
            "zw" => "xy",
            _ => return,
        };
        self.put(Operator::Stride, i + 1..i + 2, other);
    }

    /// Loops of the form `for (var i = A; i < N; i += STEP)`, or with `i++`.
    fn tile(&mut self, i: usize) {
        if self.at(i) != "for" || self.at(i + 1) != "(" {
            return;
        }
        let close = matching(&self.tokens, i + 1);
        let Some(first) = (i..close).find(|&j| self.at(j) == ";") else { return };
        let Some(second) = (first + 1..close).find(|&j| self.at(j) == ";") else { return };
        let (name, step) = (self.at(second + 1), second + 2);
        let by = match self.at(step) {
            "+=" => self.text(step + 1..close),
            "++" => "1u",
            _ => return,
        };
        if self.at(first + 1) == name && matches!(self.at(first + 2), "<" | "<=") {
            self.put(Operator::Tile, first + 1..first + 2, format!("{name} + {by}"));
        }
        if let Some(equals) = (i..first).find(|&j| self.at(j) == "=") {
            let from = self.text(equals + 1..first);
            self.put(Operator::Tile, equals + 1..first, format!("{from} + {by}"));
        }
    }

    /// The arguments of the call whose `(` stands at `open`.
    fn arguments(&self, open: usize) -> Vec<Range<usize>> {
        let close = matching(&self.tokens, open);
        let (mut found, mut from, mut i) = (Vec::new(), open + 1, open + 1);
        while i < close {
            match self.at(i) {
                "(" | "[" => i = matching(&self.tokens, i),
                "," => {
                    found.push(from..i);
                    from = i + 1;
                }
                _ => (),
            }
            i += 1;
        }
        found.push(from..close);
        found
    }

    fn mask(&mut self, i: usize) {
        let is_call = self.at(i + 1) == "(";
        match self.at(i) {
            "if" => {
                let Some(open) = (i..self.tokens.len()).find(|&j| self.at(j) == "{") else { return };
                let all = if self.at(open + 1) == "return" || self.elects(i + 2) { "false" } else { "true" };
                self.put(Operator::Mask, i + 1..open, all);
            }
            name @ ("select" | "clamp") if is_call => {
                let kept = self.arguments(i + 1).get(usize::from(name == "select")).cloned();
                if let Some(kept) = kept {
                    let (end, kept) = (matching(&self.tokens, i + 1) + 1, self.text(kept).to_owned());
                    self.put(Operator::Mask, i..end, format!("({kept})"));
                }
            }
            _ => (),
        }
    }

    /// One past the operand that begins at `i`: a number, or a name with its members, indices and arguments.
    fn operand_end(&self, i: usize) -> usize {
        let mut end = if self.at(i) == "(" { matching(&self.tokens, i) + 1 } else { i + 1 };
        loop {
            end = match self.at(end) {
                "(" | "[" => matching(&self.tokens, end) + 1,
                "." => end + 2,
                _ => return end,
            };
        }
    }

    fn shift(&mut self, i: usize) {
        if self.at(i) == "-" && self.is_binary(i) && !self.keeps_inside(i) {
            self.put(Operator::Shift, i..self.operand_end(i + 1), "");
        }
    }

    fn builtin(&mut self, i: usize) {
        if self.at(i + 1) != "(" || self.outline.functions.contains_key(self.at(i)) {
            return;
        }
        let other = match self.at(i) {
            "max" => "min",
            "min" => "max",
            "exp" => "exp2",
            "log" => "log2",
            "sqrt" => "inverseSqrt",
            "inverseSqrt" => "sqrt",
            "sin" => "cos",
            "cos" => "sin",
            "subgroupAdd" => "subgroupMax",
            "subgroupMax" => "subgroupMin",
            "subgroupMin" => "subgroupMax",
            _ => return,
        };
        self.put(Operator::Builtin, i..i + 1, other);
    }

    /// Statements of a body: assignments, increments and barriers.
    fn statements(&mut self, body: Range<usize>) {
        let (mut from, mut i) = (body.start + 1, body.start + 1);
        while i < body.end {
            match self.at(i) {
                // A loop's head is no statement.
                "(" | "[" => i = matching(&self.tokens, i),
                "{" | "}" => from = i + 1,
                ";" => {
                    let operator = match self.at(from) {
                        "workgroupBarrier" | "storageBarrier" => Some(Operator::Barrier),
                        word if KEYWORDS.contains(&word) => None,
                        _ => Some(Operator::Statement),
                    };
                    if let Some(operator) = operator.filter(|_| i > from) {
                        self.put(operator, from..i + 1, "");
                    }
                    from = i + 1;
                }
                _ => (),
            }
            i += 1;
        }
    }

    /// `let c = E - M; S += c * c;`, or `let c = f(E, M);`, and, further down, `S) / f32(N)`: c loses its mean, the quotient
    /// gets `- M * M`.
    fn variance(&mut self, i: usize, body: &Range<usize>) {
        let (name, end) = (self.at(i + 1), self.tokens.len().min(body.end));
        let Some(semicolon) = (i..end).find(|&j| self.at(j) == ";").filter(|_| self.at(i) == "let") else { return };
        let sum = self.at(semicolon + 1);
        let square = [sum, "+=", name, "*", name, ";"];
        if !square.iter().enumerate().all(|(j, text)| self.at(semicolon + 1 + j) == *text) {
            return;
        }
        // The last subtraction, else the last argument.
        let minus = (i..semicolon).rev().find(|&j| self.at(j) == "-" && self.is_binary(j));
        let is_call = self.at(semicolon - 1) == ")" && self.at(semicolon - 3) == ",";
        let (kept, mean, rest) = match minus {
            Some(minus) => (self.text(i..minus).to_owned(), minus + 1..semicolon, semicolon),
            None if is_call => {
                let last = semicolon - 2;
                (format!("{} 0.0", self.text(i..last)), last..last + 1, last + 1)
            }
            None => return,
        };
        let Some(used) = (semicolon + 7..end).find(|&j| self.at(j) == sum) else { return };
        let Some(over) = (used..end).find(|&j| self.at(j) == "/") else { return };
        let quotient = self.operand_end(over + 1);
        let (mean, rest) = (self.text(mean), self.text(rest..quotient));
        self.put(Operator::Variance, i..quotient, format!("{kept}{rest} - {mean} * {mean}"));
    }
}

fn is_border(text: &str) -> bool {
    matches!(text, "<" | "<=" | ">" | ">=")
}

fn is_float(number: &str) -> bool {
    !number.starts_with("0x") && number.contains(['.', 'e', 'f'])
}

#[cfg(test)]
mod tests {
    use super::{Operator, changes};

    /// `operator: what stands there -> what could` for every change.
    fn of(source: &str) -> Vec<String> {
        let line = |(operator, (from, to), text): (Operator, (usize, usize), String)| {
            format!("{}: {} -> {text}", operator.name(), &source[from..to])
        };
        changes(source, &["main"]).into_iter().map(|c| line((c.operator, c.span, c.text))).collect()
    }

    #[test]
    fn a_kernel_is_broken_where_it_computes_and_nowhere_else() {
        let source = "
            // a + b
            const WG = 8u + 1u;
            const LOW = -2.0;
            struct Params { m: u32, n: u32, eps: f32 }
            fn unused() -> u32 { return 1u; }
            @compute @workgroup_size(WG) fn main(@builtin(local_invocation_index) lane: u32) {
                for (var i = lane; i < p.n; i += WG) {
                    x[i] = max(x[i] - LOW, 0.5) * array<f32, 2>(p.eps)[0];
                }
                workgroupBarrier();
                if lane >= p.m { return; }
            }";
        let expected = [
            "arithmetic: - -> ",
            "constant: 2.0 -> 1.0",
            "tile: lane -> lane + WG",
            "tile: i -> i + WG",
            "stride: n -> m",
            "statement: x[i] = max(x[i] - LOW, 0.5) * array<f32, 2>(p.eps)[0]; -> ",
            "builtin: max -> min",
            "arithmetic: - -> +",
            "shift: - LOW -> ",
            "constant: 0.5 -> 0.25",
            "arithmetic: * -> +",
            "index: 0 -> 1",
            "barrier: workgroupBarrier(); -> ",
            "mask: lane >= p.m -> false",
            "bound: >= -> >",
            "stride: m -> n",
        ];
        assert_eq!(of(source), expected);
    }

    #[test]
    fn two_passes_become_one() {
        for (with, without) in [("x[i] - mean", "x[i]"), ("centred(i, mean)", "centred(i, 0.0)")] {
            let source = format!(
                "fn main() {{
                    let c = {with};
                    s += c * c;
                    let v = total(lane, s) / f32(n) + eps;
                }}"
            );
            let variance: Vec<String> = of(&source).into_iter().filter(|line| line.starts_with("variance")).collect();
            let [line] = variance.as_slice() else { panic!("{variance:?}") };
            let (_, text) = line.split_once("-> ").unwrap_or_default();
            let expected = format!("let c = {without}; s += c * c; let v = total(lane, s) / f32(n) - mean * mean");
            assert_eq!(text.split_whitespace().collect::<Vec<_>>().join(" "), expected);
        }
    }
}
