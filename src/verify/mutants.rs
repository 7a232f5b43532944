//! Shaders broken on purpose. A mutant is one small change to one file in `shaders/`, made from the file itself by rules
//! ([`Operator`]), so that a new kernel is broken without an edit here. It is caught when a case fails; a table of cases
//! that lets mutants live does not see such mistakes in an honest change either.
//!
//! What naga refuses is no mutant. `gristmill mutants` runs them and keeps account.

mod kinds;
mod operators;
mod run;
mod tokens;

use crate::kernel::{Edit, File, Format, Kernel, kernels};
use crate::reflect;
pub use kinds::Operator;
pub use run::{Examiner, Job, Setting, Survey, Verdict, absent};

/// One change to one shader.
///
/// ```
/// use gristmill::verify::mutants;
///
/// let all = mutants::all();
/// let mutant = all.iter().find(|mutant| mutant.stem() == "relu").expect("mutants of every kernel");
/// println!("{}:{}: `{}` becomes `{}`", mutant.path, mutant.line, mutant.before, mutant.after);
/// assert!(mutant.op == Some("relu") && mutant.before != mutant.after);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutant {
    /// `shaders/softmax.wgsl`.
    pub path: String,
    /// Line of the change, from 1.
    pub line: usize,
    /// The op of the kernel; `None` for a weight format, which several read.
    pub op: Option<&'static str>,
    /// What kind of mistake it is.
    pub operator: Operator,
    /// The changed lines as they are, without the space around them.
    pub before: String,
    /// The changed lines as the mutant has them.
    pub after: String,
    /// Which of the file's mutants that read alike this is, from 1.
    pub occurrence: usize,
    /// The change.
    pub edit: Edit,
}

impl Mutant {
    /// The file's name without `.wgsl`.
    pub fn stem(&self) -> &str {
        self.path.rsplit('/').next().and_then(|name| name.strip_suffix(".wgsl")).unwrap_or(&self.path)
    }
}

/// Every mutant of every kernel and format, in the order of files and lines.
pub fn all() -> Vec<Mutant> {
    let mut mutants: Vec<Mutant> = kernels::ALL.iter().flat_map(|kernel| of_kernel(kernel)).collect();
    for format in Format::ALL {
        mutants.extend(of_format(format));
    }
    mutants
}

fn of_kernel(kernel: &Kernel) -> Vec<Mutant> {
    let path = format!("shaders/{}.wgsl", kernel.name);
    let mutant = |change: operators::Change| {
        let file = File::Kernel(kernel.index);
        mutant((path.clone(), kernel.source), Some(kernel.op), file, change)
    };
    let valid = |mutant: &Mutant| is_valid(kernel, Format::F32, &mutant.edit);
    numbered(operators::changes(kernel.source, &[kernel.name]).into_iter().map(mutant).filter(valid).collect())
}

/// The functions of a format that are used by any kernel.
fn of_format(format: Format) -> Vec<Mutant> {
    let Some(source) = format.functions() else { return Vec::new() };
    let path = format!("shaders/formats/{}.wgsl", format.name());
    let readers: Vec<&Kernel> = kernels::ALL.iter().copied().filter(|kernel| kernel.format.is_some()).collect();
    let used = readers.iter().flat_map(|kernel| {
        let tokens = tokens::tokens(kernel.source);
        tokens::reachable(&tokens, &tokens::outline(&tokens), &[kernel.name])
    });
    let entries: Vec<&str> = used.collect();
    let mutant = |change: operators::Change| mutant((path.clone(), source), None, File::Format(format), change);
    let valid = |mutant: &Mutant| readers.iter().all(|kernel| is_valid(kernel, format, &mutant.edit));
    numbered(operators::changes(source, &entries).into_iter().map(mutant).filter(valid).collect())
}

/// Those that read alike, such as two dropped barriers, are told apart by a number.
fn numbered(mut mutants: Vec<Mutant>) -> Vec<Mutant> {
    let mut seen = std::collections::BTreeMap::new();
    for mutant in &mut mutants {
        let count = seen.entry((mutant.before.clone(), mutant.after.clone())).or_insert(0);
        *count += 1;
        mutant.occurrence = *count;
    }
    mutants
}

fn mutant((path, source): (String, &str), op: Option<&'static str>, file: File, change: operators::Change) -> Mutant {
    let operators::Change { span: (from, to), operator, text } = change;
    let first = source.get(..from).and_then(|head| head.rfind('\n')).map_or(0, |newline| newline + 1);
    let last = source.get(to..).and_then(|tail| tail.find('\n')).map_or(source.len(), |newline| to + newline);
    let part = |range: std::ops::Range<usize>| source.get(range).unwrap_or_default();
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    Mutant {
        path,
        line: part(0..from).matches('\n').count() + 1,
        op,
        operator,
        before: flat(part(first..last)),
        after: flat(&[part(first..from), &text, part(to..last)].concat()),
        occurrence: 1,
        edit: Edit { file, span: from..to, text },
    }
}

fn is_valid(kernel: &Kernel, format: Format, edit: &Edit) -> bool {
    let mut variant = kernel.default_variant();
    variant.format = format;
    reflect::validate(kernel.name, &kernel.edited(&variant, edit)).is_ok()
}

/// The indices of `count` mutants, spread over files and operators: the groups take turns, and `seed` says which of a
/// group comes next.
pub fn sample(mutants: &[Mutant], count: usize, seed: u64) -> Vec<usize> {
    let mut inputs = super::inputs::Inputs::new(&format!("mutants {seed}"));
    let mut groups: std::collections::BTreeMap<(Operator, &str), Vec<usize>> = std::collections::BTreeMap::new();
    for (index, mutant) in mutants.iter().enumerate() {
        groups.entry((mutant.operator, &mutant.path)).or_default().push(index);
    }
    // Operators take turns, and within an operator its files.
    let mut turns: Vec<Vec<Vec<usize>>> = Vec::new();
    for operator in Operator::ALL {
        let mut of_operator: Vec<Vec<usize>> = Vec::new();
        for ((_, _), group) in groups.iter().filter(|((o, _), _)| *o == operator) {
            of_operator.push(shuffled(group.clone(), &mut inputs));
        }
        turns.push(shuffled(of_operator, &mut inputs));
    }
    let mut chosen = Vec::new();
    while chosen.len() < count.min(mutants.len()) {
        for files in &mut turns {
            let Some(at) = files.iter().position(|group| !group.is_empty()) else { continue };
            let mut group = files.remove(at);
            chosen.extend(group.pop().filter(|_| chosen.len() < count));
            files.push(group);
        }
    }
    chosen.sort_unstable();
    chosen
}

fn shuffled<T>(mut items: Vec<T>, inputs: &mut super::inputs::Inputs) -> Vec<T> {
    for i in (1..items.len()).rev() {
        items.swap(i, inputs.below(i + 1));
    }
    items
}
