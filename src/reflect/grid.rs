//! From a kernel's `grid:` line to a Rust function. How many workgroups a dispatch has follows from its parameters and
//! knobs, so it stands where those stand, in the WGSL, and a wrong divisor cannot hide in the host's half of an op. Part of
//! the build alone: the function is what the library has.
//!
//! Sums and products saturate: whatever the parameters, a grid too large to count is a grid too large to dispatch.

use super::reflect::Interface;

/// What a name of the line stands for.
struct Names<'a> {
    interface: &'a Interface,
    /// Names that are neither parameters nor knobs: arguments of the function.
    free: Vec<String>,
}

impl Names<'_> {
    fn value(&mut self, name: &str) -> Result<String, String> {
        if let Some(field) = self.interface.params.iter().find(|field| field.name == name) {
            return match field.ty {
                "u32" => Ok(format!("u64::from(params.{name})")),
                ty => Err(format!("grid: `{name}` is {ty}; workgroups are counted in u32")),
            };
        }
        if self.interface.knobs.iter().any(|knob| knob.name == name) {
            return Ok(format!("u64::from(knobs.{})", name.to_lowercase()));
        }
        let words = |c: char| !c.is_alphanumeric() && c != '_';
        let explained = self.interface.doc.lines().filter(|line| !line.starts_with(" grid:"));
        if !explained.flat_map(|line| line.split(words)).any(|word| word == name) {
            return Err(format!("grid: `{name}` is no parameter, no knob and nothing that the head speaks of"));
        }
        if !self.free.iter().any(|known| known == name) {
            self.free.push(name.to_owned());
        }
        Ok(name.to_owned())
    }
}

/// The function `grid` of a kernel, with the free names of its line as arguments.
///
/// # Errors
/// What is wrong with the line.
pub(crate) fn function(interface: &Interface) -> Result<String, String> {
    if interface.grid.is_empty() {
        return Err("no `//! grid: X` or `//! grid: X, Y, Z` in its head".to_owned());
    }
    let mut names = Names { interface, free: Vec::new() };
    let mut rest = interface.grid.as_str();
    let mut counts = vec![sum(&mut rest, &mut names)?];
    while eat(&mut rest, ",") {
        counts.push(sum(&mut rest, &mut names)?);
    }
    let body = match (counts.as_slice(), rest.trim()) {
        ([count], "") => format!("crate::kernel::fold({count})"),
        ([x, y, z], "") => format!("[{x}, {y}, {z}]"),
        (_, "") => return Err(format!("grid: {} counts; one or three are needed", counts.len())),
        (_, rest) => return Err(format!("grid: `{rest}` is left over")),
    };
    let uses = |what: &str| if body.contains(what) { "" } else { "_" };
    let free: String = names.free.iter().map(|name| format!(", {name}: u64")).collect();
    Ok(format!(
        "    /// Workgroups: `{}`.\n    pub fn grid({}params: &Params, {}knobs: &Knobs{free}) -> [u64; 3] {{\n        {body}\n    }}",
        interface.grid,
        uses("params."),
        uses("knobs."),
    ))
}

/// Takes `token` off the beginning, if it stands there.
fn eat(rest: &mut &str, token: &str) -> bool {
    let after = rest.trim_start().strip_prefix(token);
    *rest = after.unwrap_or(rest);
    after.is_some()
}

fn expect(rest: &mut &str, token: &str) -> Result<(), String> {
    if eat(rest, token) { Ok(()) } else { Err(format!("grid: `{token}` is missing before `{}`", rest.trim())) }
}

fn sum(rest: &mut &str, names: &mut Names<'_>) -> Result<String, String> {
    let mut left = product(rest, names)?;
    loop {
        let method = match () {
            () if eat(rest, "+") => "saturating_add",
            () if eat(rest, "-") => "saturating_sub",
            () => return Ok(left),
        };
        left = format!("{left}.{method}({})", product(rest, names)?);
    }
}

fn product(rest: &mut &str, names: &mut Names<'_>) -> Result<String, String> {
    let mut left = factor(rest, names)?;
    while eat(rest, "*") {
        left = format!("{left}.saturating_mul({})", factor(rest, names)?);
    }
    Ok(left)
}

fn factor(rest: &mut &str, names: &mut Names<'_>) -> Result<String, String> {
    if eat(rest, "(") {
        let inner = sum(rest, names)?;
        expect(rest, ")")?;
        return Ok(inner);
    }
    let text = rest.trim_start();
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    *rest = after;
    match word {
        "" => Err(format!("grid: a number or a name is missing before `{}`", after.trim())),
        "ceil" => pair(rest, names, "/", "div_ceil"),
        "min" => pair(rest, names, ",", "min"),
        number if number.starts_with(|c: char| c.is_ascii_digit()) => Ok(format!("{number}u64")),
        name => names.value(name),
    }
}

/// `(a / b)` of ceil, `(a, b)` of min.
fn pair(rest: &mut &str, names: &mut Names<'_>, between: &str, method: &str) -> Result<String, String> {
    expect(rest, "(")?;
    let first = sum(rest, names)?;
    expect(rest, between)?;
    let second = sum(rest, names)?;
    expect(rest, ")")?;
    Ok(format!("{first}.{method}({second})"))
}
