//! Tuned knobs: which values of its knobs a kernel runs with, by what it is asked to compute.
//!
//! The best tile depends on the adapter and on the shape, and a kernel that is picked at run time cannot find out: measuring
//! takes seconds, and a first call that stalls is worse than a slow one. So nothing is ever measured here. What
//! `gristmill tune` found is a text of a few lines, which a program loads, or which ships with this crate for adapters that
//! were at hand. What no line speaks of runs with the defaults in the kernel's file.

use crate::error::{Error, Result};
use crate::kernel::{Constants, Format, Kernel, MAX_CONSTANTS, kernels};
use crate::own_kernel::OwnKernel;
use crate::tensor::Tensor;

/// What ships: (a part of the adapter's name, or its kind; the text). The first one that fits is taken.
const SHIPPED: [(&str, &str); 1] = [("software", include_str!("tuning/software.txt"))];

/// Knobs that are not those of the kernels' files, for some adapter.
///
/// A line is a kernel, what is computed, and its knobs: `matmul rows=many size=large format=f16: BM=64 BN=128`. Of what is
/// computed, `rows` are those of the output, `1`, `few` (2 to 8) or `many`; `size` is how many elements it has, `small` (up to
/// 2^16), `medium` (up to 2^20) or `large`; `format` is that of the weight, or `quantised`. What is left out may be anything,
/// and a knob that is left out keeps its default. The first line that fits counts; `#` begins a comment.
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
    kernel: usize,
    rows: Option<&'static str>,
    size: Option<&'static str>,
    format: Option<Formats>,
    /// A value, or none for the default, of each knob.
    knobs: [Option<u32>; MAX_CONSTANTS],
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
        let text = SHIPPED.into_iter().find(|(part, _)| fits(part)).map_or("", |(_, text)| text);
        // A test reads each of them.
        Tuning::parse(text).unwrap_or_default()
    }

    /// Puts a line for a class of shapes before the others, in place of one for the same class.
    pub fn prefer(&mut self, kernel: &'static Kernel, class: ShapeClass, knobs: &[u32]) {
        let mut values = [None; MAX_CONSTANTS];
        for ((value, knob), own) in values.iter_mut().zip(knobs).zip(kernel.knobs) {
            *value = (*knob != own.default).then_some(*knob);
        }
        let format = kernel.format.map(|_| Formats::One(class.format));
        let line = Line { kernel: kernel.index, rows: Some(class.rows), size: Some(class.size), format, knobs: values };
        self.lines.retain(|other| {
            (other.kernel, other.rows, other.size, other.format) != (line.kernel, line.rows, line.size, line.format)
        });
        self.lines.insert(0, line);
    }

    /// The values of a kernel's knobs for a class of shapes, in the order of its file; `None`: the defaults.
    pub(crate) fn knobs(&self, kernel: &Kernel, class: ShapeClass) -> Option<[u32; MAX_CONSTANTS]> {
        let line = self.lines.iter().find(|line| line.kernel == kernel.index && line.fits(class))?;
        let mut values = [0; MAX_CONSTANTS];
        for ((value, own), set) in values.iter_mut().zip(kernel.knobs).zip(line.knobs) {
            *value = set.unwrap_or(own.default);
        }
        Some(values)
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
        let name = words.next().unwrap_or_default();
        let kernel = kernels::ALL.iter().find(|kernel| kernel.name == name);
        let kernel = kernel.ok_or_else(|| {
            let known: Vec<&str> = kernels::ALL.iter().filter(|k| !k.knobs.is_empty()).map(|k| k.name).collect();
            format!("`{name}` is no kernel; there are {}", known.join(", "))
        })?;
        let mut line =
            Line { kernel: kernel.index, rows: None, size: None, format: None, knobs: [None; MAX_CONSTANTS] };
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
        for word in knobs.split_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let place = kernel.knobs.iter().position(|knob| knob.name == name).ok_or_else(|| {
                let known: Vec<&str> = kernel.knobs.iter().map(|knob| knob.name).collect();
                format!("`{name}` is no knob of {}, which has {}", kernel.name, known.join(", "))
            })?;
            let value = value.parse().map_err(|_| format!("`{word}`: {value} is not a number"))?;
            if let Some(knob) = line.knobs.get_mut(place) {
                *knob = Some(value);
            }
        }
        Ok(line)
    }
}

impl std::fmt::Display for Tuning {
    /// The lines, as [`Tuning::parse`] reads them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.lines {
            let Some(kernel) = kernels::ALL.get(line.kernel) else { continue };
            f.write_str(kernel.name)?;
            let words = [("rows", line.rows), ("size", line.size), ("format", line.format.map(Formats::name))];
            words
                .iter()
                .filter_map(|(key, value)| Some((key, (*value)?)))
                .try_for_each(|(k, v)| write!(f, " {k}={v}"))?;
            f.write_str(":")?;
            let knobs = kernel.knobs.iter().zip(line.knobs).filter_map(|(knob, value)| Some((knob.name, value?)));
            knobs.into_iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))?;
            f.write_str("\n")?;
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
}
