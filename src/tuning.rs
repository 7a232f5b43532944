//! Tuning: which of its kernels an op runs, and with which values of its knobs, by what it is asked to compute.
//!
//! The best tile depends on the adapter and on the shape, and a kernel that is picked at run time cannot find out: measuring
//! takes seconds, and a first call that stalls is worse than a slow one. So nothing is ever measured here. What
//! `gristmill tune` found is a text of a few lines, which a program loads, or which ships with this crate for adapters that
//! were at hand. What no line speaks of runs with the defaults in the kernel's file.

use crate::error::{Error, Result};
use crate::kernel::{Constants, Format, Kernel, MAX_CONSTANTS, kernels};
use crate::own_kernel::OwnKernel;
use crate::tensor::Tensor;

/// What ships: (a part of the adapter's name, or its kind; the text). All that fit are taken, in this order: what is known of an
/// adapter comes before what is known of its kind.
const SHIPPED: [(&str, &str); 2] =
    [("llvmpipe", include_str!("tuning/llvmpipe.txt")), ("software", include_str!("tuning/software.txt"))];

/// Kernels and knobs that are not the defaults, for some adapter.
///
/// A line is a kernel, what is computed, and its knobs: `matmul rows=many size=large format=f16: BM=64 BN=128`. Of what is
/// computed, `rows` are those of the output, `1`, `few` (2 to 8) or `many`; `size` is how many elements it has, `small` (up to
/// 2^16), `medium` (up to 2^20) or `large`; `format` is that of the weight, or `quantised`. What is left out may be anything,
/// and a knob that is left out keeps its default. The first line that fits counts; `#` begins a comment.
///
/// Where an op has several kernels, a line of the op chooses one: `matvec rows=1: kernel=matvec`. It does not count where the
/// adapter lacks what that kernel needs. Knobs are those of a kernel, and have lines of their own.
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute, Tuning};
///
/// let tuning = Tuning::parse("matmul size=small: BM=32 BN=32 # as measured\nmatmul: BM=64")?;
/// assert_eq!(tuning.to_string(), "matmul size=small: BM=32 BN=32\nmatmul: BM=64\n");
/// let gpu = GpuCompute::new(ComputeBackend::Gpu)?;
/// gpu.set_tuning(tuning); // of what is recorded from now on
/// assert!(Tuning::parse("matmul: BM=7").is_ok()); // its assertions say whether that is legal, when it is compiled
/// assert!(Tuning::parse("matmul: B=7").unwrap_err().to_string().contains("BM, BN, BK, TM, TN"));
/// assert!(Tuning::parse("matvec: kernel=gelu").unwrap_err().to_string().contains("matvec, matvec_subgroup"));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tuning {
    lines: Vec<Line>,
}

/// What a dispatch computes, as lines see it.
///
/// ```
/// use gristmill::{Format, tuning::ShapeClass};
///
/// let class = ShapeClass::new(1, 3072, Format::Q4_0);
/// assert_eq!(class.to_string(), "rows=1 size=small format=q4_0");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapeClass {
    rows: &'static str,
    size: &'static str,
    format: Format,
}

impl ShapeClass {
    /// `rows` and `elements` of what is written; the format of the weight.
    pub fn new(rows: usize, elements: usize, format: Format) -> ShapeClass {
        let rows = match rows {
            0 | 1 => "1",
            2..=8 => "few",
            _ => "many",
        };
        let size = match elements {
            0..=0xffff => "small",
            0x10000..=0xf_ffff => "medium",
            _ => "large",
        };
        ShapeClass { rows, size, format }
    }

    /// That of a dispatch that writes `out`.
    pub(crate) fn of(out: &Tensor, format: Format) -> ShapeClass {
        ShapeClass::new(out.rows(), out.rows().saturating_mul(out.columns()), format)
    }
}

impl std::fmt::Display for ShapeClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rows={} size={} format={}", self.rows, self.size, self.format.name())
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Line {
    rows: Option<&'static str>,
    size: Option<&'static str>,
    format: Option<Formats>,
    says: Says,
}

/// What a line says.
#[derive(Debug, Clone, Copy)]
enum Says {
    /// Of a kernel: a value, or none for the default, of each knob.
    Knobs(&'static Kernel, [Option<u32>; MAX_CONSTANTS]),
    /// Of the kernel's op: that it runs this one.
    Kernel(&'static Kernel),
}

impl Says {
    /// The kernel, or the op, that it is of.
    fn of(&self) -> (bool, &'static str) {
        match self {
            Says::Knobs(kernel, _) => (false, kernel.name),
            Says::Kernel(kernel) => (true, kernel.op),
        }
    }

    fn words(&self) -> String {
        match self {
            Says::Knobs(kernel, values) => {
                let set = kernel.knobs.iter().zip(values).filter_map(|(knob, value)| Some((knob.name, (*value)?)));
                set.map(|(name, value)| format!(" {name}={value}")).collect()
            }
            Says::Kernel(kernel) => format!(" kernel={}", kernel.name),
        }
    }
}

impl PartialEq for Says {
    fn eq(&self, other: &Says) -> bool {
        self.of() == other.of() && self.words() == other.words()
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Formats {
    One(Format),
    Quantised,
}

impl Formats {
    fn name(self) -> &'static str {
        match self {
            Formats::One(format) => format.name(),
            Formats::Quantised => "quantised",
        }
    }
}

impl Tuning {
    /// Reads lines.
    ///
    /// # Errors
    /// [`Error::BadOption`] for a line with a kernel, a knob or a word that there is none of, with those that there are.
    pub fn parse(text: &str) -> Result<Tuning> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let numbered = (1..).zip(lines).filter(|(_, line)| !line.is_empty());
        let bad = |number: usize, message| Error::BadOption {
            option: "tuning",
            message: format!("line {number}: {message}"),
        };
        let parse = |(number, line): (usize, &str)| Line::parse(line).map_err(|message| bad(number, message));
        Ok(Tuning { lines: numbered.map(parse).collect::<Result<_>>()? })
    }

    /// What ships for an adapter, if anything does: `name` as its driver gives it, `kind` as
    /// [`AdapterFacts`](crate::AdapterFacts) has it.
    pub(crate) fn shipped(name: &str, kind: &str) -> Tuning {
        let fits = |part: &str| part == kind || name.to_lowercase().contains(part);
        let texts = SHIPPED.into_iter().filter(|(part, _)| fits(part)).map(|(_, text)| text);
        // A test reads each of them.
        Tuning { lines: texts.flat_map(|text| Tuning::parse(text).unwrap_or_default().lines).collect() }
    }

    /// Puts a line for a class of shapes before the others, in place of one for the same class.
    pub fn prefer(&mut self, kernel: &'static Kernel, class: ShapeClass, knobs: &[u32]) {
        let mut values = [None; MAX_CONSTANTS];
        for ((value, knob), own) in values.iter_mut().zip(knobs).zip(kernel.knobs) {
            *value = (*knob != own.default).then_some(*knob);
        }
        let format = kernel.format.map(|_| Formats::One(class.format));
        self.put(Line { rows: Some(class.rows), size: Some(class.size), format, says: Says::Knobs(kernel, values) });
    }

    /// The same for a line which says that the kernel's op runs it.
    pub fn prefer_kernel(&mut self, kernel: &'static Kernel, class: ShapeClass) {
        let format = kernel.format.map(|_| Formats::One(class.format));
        self.put(Line { rows: Some(class.rows), size: Some(class.size), format, says: Says::Kernel(kernel) });
    }

    fn put(&mut self, line: Line) {
        let what = |line: &Line| (line.says.of(), line.rows, line.size, line.format);
        self.lines.retain(|other| what(other) != what(&line));
        self.lines.insert(0, line);
    }

    /// The values of a kernel's knobs for a class of shapes, in the order of its file; `None`: the defaults.
    pub(crate) fn knobs(&self, kernel: &Kernel, class: ShapeClass) -> Option<[u32; MAX_CONSTANTS]> {
        let set = self.lines.iter().find_map(|line| match line.says {
            Says::Knobs(of, set) if of.index == kernel.index && line.fits(class) => Some(set),
            _ => None,
        })?;
        let mut values = [0; MAX_CONSTANTS];
        for ((value, own), set) in values.iter_mut().zip(kernel.knobs).zip(set) {
            *value = set.unwrap_or(own.default);
        }
        Some(values)
    }

    /// The kernel that an op runs for a class of shapes, of those that `runs` says may be; `None`: its default.
    pub(crate) fn kernel(
        &self,
        op: &str,
        class: ShapeClass,
        runs: impl Fn(&Kernel) -> bool,
    ) -> Option<&'static Kernel> {
        self.lines.iter().find_map(|line| match line.says {
            Says::Kernel(kernel) if kernel.op == op && line.fits(class) => Some(kernel).filter(|kernel| runs(kernel)),
            _ => None,
        })
    }
}

impl Line {
    fn fits(&self, class: ShapeClass) -> bool {
        let format = match self.format {
            None => true,
            Some(Formats::One(format)) => format == class.format,
            Some(Formats::Quantised) => class.format.is_quantized(),
        };
        format && self.rows.is_none_or(|rows| rows == class.rows) && self.size.is_none_or(|size| size == class.size)
    }

    fn parse(line: &str) -> Result<Line, String> {
        let (what, knobs) = line.split_once(':').ok_or("a colon is missing between what is computed and the knobs")?;
        let mut words = what.split_whitespace();
        let says = Says::parse(words.next().unwrap_or_default(), knobs)?;
        let mut line = Line { rows: None, size: None, format: None, says };
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let one_of = |known: &[&'static str]| {
                let found = known.iter().find(|known| **known == value).copied();
                found.ok_or_else(|| format!("`{word}`: {key} is one of {}", known.join(", ")))
            };
            match key {
                "rows" => line.rows = Some(one_of(&["1", "few", "many"])?),
                "size" => line.size = Some(one_of(&["small", "medium", "large"])?),
                "format" if value == "quantised" => line.format = Some(Formats::Quantised),
                "format" => {
                    let format = Format::ALL.into_iter().find(|format| format.name() == value);
                    line.format = Some(Formats::One(format.ok_or_else(|| format!("`{value}` is no format"))?));
                }
                _ => return Err(format!("`{word}`; rows, size and format may be said of what is computed")),
            }
        }
        Ok(line)
    }
}

impl Says {
    /// What stands behind the colon, of the kernel or the op `name`.
    fn parse(name: &str, words: &str) -> Result<Says, String> {
        let list = |kernels: &mut dyn Iterator<Item = &'static Kernel>| {
            kernels.map(|kernel| kernel.name).collect::<Vec<&str>>().join(", ")
        };
        let all = || kernels::ALL.iter().copied();
        if let Some(wanted) = words.trim().strip_prefix("kernel=") {
            let of_op = || all().filter(|kernel| kernel.op == name);
            let kernel = of_op().find(|kernel| kernel.name == wanted);
            return kernel.map(Says::Kernel).ok_or_else(|| match of_op().count() {
                0 => format!("`{name}` is no op, so it has no kernel `{wanted}`"),
                _ => format!("`{wanted}` is no kernel of {name}, which has {}", list(&mut of_op())),
            });
        }
        let kernel = all().find(|kernel| kernel.name == name).ok_or_else(|| {
            format!("`{name}` is no kernel; there are {}", list(&mut all().filter(|k| !k.knobs.is_empty())))
        })?;
        let mut values = [None; MAX_CONSTANTS];
        for word in words.split_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let place = kernel.knobs.iter().position(|knob| knob.name == name).ok_or_else(|| {
                let known: Vec<&str> = kernel.knobs.iter().map(|knob| knob.name).collect();
                format!("`{name}` is no knob of {}, which has {}", kernel.name, known.join(", "))
            })?;
            let value = value.parse().map_err(|_| format!("`{word}`: {value} is not a number"))?;
            if let Some(knob) = values.get_mut(place) {
                *knob = Some(value);
            }
        }
        Ok(Says::Knobs(kernel, values))
    }
}

impl std::fmt::Display for Tuning {
    /// The lines, as [`Tuning::parse`] reads them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.lines {
            f.write_str(line.says.of().1)?;
            let words = [("rows", line.rows), ("size", line.size), ("format", line.format.map(Formats::name))];
            words
                .iter()
                .filter_map(|(key, value)| Some((key, (*value)?)))
                .try_for_each(|(k, v)| write!(f, " {k}={v}"))?;
            writeln!(f, ":{}", line.says.words())?;
        }
        Ok(())
    }
}

/// What one kernel runs with while it is tuned, whatever it computes.
#[derive(Clone)]
pub(crate) struct Trial {
    pub(crate) kernel: &'static Kernel,
    /// Its knobs.
    pub(crate) knobs: [u32; MAX_CONSTANTS],
    /// What runs in its place, with its knobs.
    pub(crate) own: Option<(OwnKernel, Vec<u32>)>,
}

/// The knobs of one kernel, as the build writes them.
pub(crate) trait Knobs: Constants + Default {
    /// Whose they are.
    const KERNEL: &'static Kernel;
    /// From their values, in the order of the file.
    fn read(values: &[u32]) -> Self;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ships_is_read_whole() {
        for (part, text) in SHIPPED {
            let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).count();
            assert_eq!(Tuning::parse(text).unwrap().lines.len(), lines, "{part}");
            assert_eq!(Tuning::parse(&Tuning::parse(text).unwrap().to_string()).unwrap(), Tuning::parse(text).unwrap());
        }
    }

    #[test]
    fn what_ships_is_legal_whatever_is_computed() {
        for line in SHIPPED.iter().flat_map(|(_, text)| Tuning::parse(text).unwrap().lines) {
            let Says::Knobs(kernel, set) = line.says else { continue };
            let formats: Vec<Format> = match line.format {
                None if kernel.format.is_some() => Format::ALL.to_vec(),
                None => vec![Format::F32],
                Some(Formats::One(format)) => vec![format],
                Some(Formats::Quantised) => Format::ALL.into_iter().filter(|format| format.is_quantized()).collect(),
            };
            let mut variant = kernel.default_variant();
            for ((place, knob), set) in variant.constants.iter_mut().zip(kernel.knobs).zip(set) {
                *place = set.unwrap_or(knob.default);
            }
            let check = |variant: &crate::kernel::Variant| {
                let resources = crate::reflect::resources(kernel.name, &kernel.wgsl(variant));
                let (size, bytes) = resources.unwrap_or_else(|message| panic!("{}: {message}", kernel.name));
                assert!(size.iter().product::<u32>() <= 256 && bytes <= 16384, "{}{}", kernel.name, line.says.words());
            };
            for format in formats {
                variant.format = format;
                check(&variant);
                // Each mode at each of its values, and all of them at their largest.
                let mut largest = variant;
                for (at, mode) in (kernel.knobs.len()..).zip(kernel.modes) {
                    for &value in mode.values {
                        let mut one = variant;
                        one.constants[at] = value;
                        check(&one);
                    }
                    largest.constants[at] = mode.values.iter().copied().max().unwrap_or(mode.default);
                }
                check(&largest);
            }
        }
    }

    #[test]
    fn the_first_line_that_fits_counts() {
        let tuning = Tuning::shipped("llvmpipe (LLVM 15.0.6, 256 bits)", "software");
        let kernel = &kernels::matvec_subgroup::KERNEL;
        let knobs =
            |rows, format| tuning.knobs(kernel, ShapeClass::new(rows, 3072, format)).map(|knobs| knobs[..2].to_vec());
        assert_eq!(knobs(1, Format::Q4_0), Some(vec![8, 8]));
        assert_eq!(knobs(4, Format::Q4_0), Some(vec![8, 4]));
        assert_eq!(knobs(1, Format::F16), Some(vec![8, 4]));
        assert_eq!(tuning.knobs(&kernels::matmul::KERNEL, ShapeClass::new(9, 81, Format::F32)), None);
        assert_eq!(Tuning::shipped("a GPU", "discrete"), Tuning::default());
    }

    #[test]
    fn a_winner_goes_before_what_is_there() {
        let mut tuning = Tuning::parse("matmul: BM=32\nmatmul rows=many size=small format=f16: BM=64 BK=16").unwrap();
        tuning.prefer(&kernels::matmul::KERNEL, ShapeClass::new(64, 4096, Format::F16), &[32, 128, 8, 4, 8]);
        assert_eq!(
            tuning.to_string(),
            "matmul rows=many size=small format=f16: BM=32 BN=128 BK=8 TN=8\nmatmul: BM=32\n"
        );
        tuning.prefer(&kernels::gelu::KERNEL, ShapeClass::new(64, 4096, Format::F32), &[32]);
        assert!(tuning.to_string().starts_with("gelu rows=many size=small: WG=32\n"));
    }

    #[test]
    fn an_op_runs_the_kernel_that_a_line_names_where_the_adapter_has_what_it_needs() {
        let (plain, subgroup) = (&kernels::matvec::KERNEL, &kernels::matvec_subgroup::KERNEL);
        let text = "matvec rows=1: kernel=matvec_subgroup\nmatvec rows=1: WG=64\nmatvec: kernel=matvec\n";
        let mut tuning = Tuning::parse(text).unwrap();
        assert_eq!(tuning.to_string(), text);
        let name = |tuning: &Tuning, rows, subgroups: bool| {
            let runs = |kernel: &Kernel| subgroups || !kernel.needs.subgroups;
            tuning.kernel("matvec", ShapeClass::new(rows, 3072, Format::F32), runs).map(|kernel| kernel.name)
        };
        assert_eq!(name(&tuning, 1, true), Some(subgroup.name));
        assert_eq!(name(&tuning, 1, false), Some(plain.name), "the line of what cannot run does not count");
        assert_eq!(name(&tuning, 4, true), Some(plain.name));
        assert_eq!(
            tuning.kernel("matmul", ShapeClass::new(1, 1, Format::F32), |_| true).map(|kernel| kernel.name),
            None
        );
        // What is said of an op is not what is said of the kernel of its name.
        tuning.prefer_kernel(plain, ShapeClass::new(1, 3072, Format::F32));
        assert_eq!((name(&tuning, 1, true), tuning.lines.len()), (Some(plain.name), 4));
        for wrong in ["matvec: kernel=gelu", "matvec: kernel=", "nope: kernel=matvec", "matvec: kernel=matvec WG=8"] {
            assert!(Tuning::parse(wrong).is_err(), "{wrong}");
        }
    }
}
