//! Kernels as data: what each WGSL file in `shaders/` says about itself, and the texts of its variants. No device here.
//!
//! The build reads the files (see [`reflect`](crate::reflect)) and writes one module per kernel into [`kernels`]:
//! `KERNEL`, `Params`, `Args`, `Knobs` and `Modes`. Change a binding in the WGSL and the call in `ops` stops compiling.
//!
//! All of it is public, for programs that have their own pipelines: the text of a variant ([`Kernel::wgsl`]), the layout
//! ([`layout_entries`](crate::layout_entries)), the parameters (a `Params` to fill, or [`Kernel::params`] to read) and the
//! grid (a function beside them).
//!
//! A variant is the file with at most four kinds of spans replaced: the initializers of knobs and modes, the functions
//! that read the weight format, and the line that declares the parameters. That is the whole variant system.

mod look;
mod needs;

use std::ops::Range;

#[cfg(feature = "gpu")]
pub use look::Resources;
pub use needs::Needs;

/// One WGSL file and its interface.
///
/// ```
/// use gristmill::kernels::rms_norm;
///
/// let kernel = &rms_norm::KERNEL;
/// let bindings: Vec<_> = kernel.bindings.iter().map(|b| (b.name, b.ty, b.write)).collect();
/// assert_eq!(bindings, [("x", "vec4<f32>", false), ("weight", "vec4<f32>", false), ("out", "vec4<f32>", true)]);
///
/// // A dispatch for 100,000 rows of 64, with the workgroups it takes.
/// let params = rms_norm::Params { m: 100_000, n: 64, row0: 0, eps: 1e-6 };
/// assert_eq!(kernel.grid, "m");
/// assert_eq!(rms_norm::grid(&params, &rms_norm::Knobs::default()), [65_535, 2, 1]);
///
/// let text = kernel.wgsl(&kernel.default_variant());
/// assert_eq!(text, kernel.source);
/// ```
#[derive(Debug)]
pub struct Kernel {
    /// Position in [`kernels::ALL`].
    pub index: usize,
    /// File stem, entry point, profiler label.
    pub name: &'static str,
    /// The operation it computes.
    pub op: &'static str,
    /// What it computes, with shapes.
    pub doc: &'static str,
    /// The file as it lies.
    pub source: &'static str,
    /// Workgroups of a dispatch, in parameters, knobs and names that `doc` explains: `ceil(4 * n_quads / BN), ceil(m / BM),
    /// 1`. The function `grid` of its module computes it. One count is [folded](fold).
    pub grid: &'static str,
    /// Invocations per workgroup at the default knobs.
    pub workgroup_size: [u32; 3],
    /// Storage buffers of group 0, by binding number.
    pub bindings: &'static [Binding],
    /// The members of `Params`, 4 bytes each, in order.
    pub params: &'static [Parameter],
    /// Bytes of `Params`.
    pub params_bytes: u32,
    /// Workgroup memory at the default knobs, in bytes.
    pub workgroup_bytes: u32,
    /// Constants that change the speed, never the result.
    pub knobs: &'static [Constant],
    /// Constants that say what is computed.
    pub modes: &'static [Constant],
    /// Where the weight format's functions stand.
    pub format: Option<(usize, usize)>,
    /// Where the params line stands.
    pub params_line: (usize, usize),
    /// What it needs of a device beyond what every device has.
    pub needs: Needs,
}

/// One storage buffer of a kernel.
///
/// ```
/// let written: Vec<_> = gristmill::kernels::attention::KERNEL.bindings.iter().filter(|b| b.write).map(|b| b.name).collect();
/// assert_eq!(written, ["keys", "values", "out"]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// Name in the WGSL.
    pub name: &'static str,
    /// `read_write` rather than `read`.
    pub write: bool,
    /// Element type, as in the WGSL.
    pub ty: &'static str,
}

/// One member of a kernel's `Params`.
///
/// ```
/// let eps = gristmill::kernels::rms_norm::KERNEL.params.last().map(|p| (p.name, p.ty, p.doc));
/// assert_eq!(eps, Some(("eps", "f32", "Added to the mean square.")));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Name in the WGSL.
    pub name: &'static str,
    /// `u32`, `i32` or `f32`.
    pub ty: &'static str,
    /// What it is.
    pub doc: &'static str,
}

/// A `const` of a kernel that can be set.
///
/// ```
/// let knob = &gristmill::kernels::matmul::KERNEL.knobs[0];
/// assert_eq!((knob.name, knob.default), ("BM", 64));
/// assert_eq!(knob.values, [32, 64]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Constant {
    /// Name in the WGSL.
    pub name: &'static str,
    /// What it is.
    pub doc: &'static str,
    /// Value in the file.
    pub default: u32,
    /// Values listed in the file.
    pub values: &'static [u32],
    /// Where its initializer stands.
    pub span: (usize, usize),
}

/// How a [`Weight`](crate::Weight) is stored. The quantised ones are ggml's: blocks of 32 numbers, or of 256 in eight parts, that
/// share a scale, and some of them a minimum. What each number is: [`dequantize`](crate::reference::dequantize).
///
///
/// ```
/// use gristmill::Format;
///
/// assert_eq!(Format::F16.name(), "f16");
/// assert_eq!((Format::F32.row_bytes(5), Format::F16.row_bytes(5)), (32, 16)); // rounded up to 16
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum Format {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats, two to a word.
    F16,
    /// The upper halves of 32-bit floats, two to a word.
    BF16,
    /// 8 bits and a scale.
    Q8_0,
    /// 4 bits and a scale.
    Q4_0,
    /// 4 bits, a scale and a minimum.
    Q4_1,
    /// 5 bits and a scale.
    Q5_0,
    /// 5 bits, a scale and a minimum.
    Q5_1,
    /// 4 bits; eight scales and minima of 6 bits with one of 16 bits each.
    Q4K,
    /// 5 bits; scales and minima as in [`Format::Q4K`].
    Q5K,
    /// 6 bits; sixteen scales of 8 bits with one of 16 bits.
    Q6K,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 11] = [
        Format::F32,
        Format::F16,
        Format::BF16,
        Format::Q8_0,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q4K,
        Format::Q5K,
        Format::Q6K,
    ];

    /// Name, as in `shaders/formats/NAME.wgsl`.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::BF16 => "bf16",
            Format::Q8_0 => "q8_0",
            Format::Q4_0 => "q4_0",
            Format::Q4_1 => "q4_1",
            Format::Q5_0 => "q5_0",
            Format::Q5_1 => "q5_1",
            Format::Q4K => "q4_k",
            Format::Q5K => "q5_k",
            Format::Q6K => "q6_k",
        }
    }

    /// Numbers that are stored together, and the bytes of them in a file. A row is whole blocks.
    pub fn block(self) -> (usize, usize) {
        match self {
            Format::F32 => (1, 4),
            Format::F16 | Format::BF16 => (1, 2),
            Format::Q8_0 => (32, 34),
            Format::Q4_0 => (32, 18),
            Format::Q4_1 => (32, 20),
            Format::Q5_0 => (32, 22),
            Format::Q5_1 => (32, 24),
            Format::Q4K => (256, 144),
            Format::Q5K => (256, 176),
            Format::Q6K => (256, 210),
        }
    }

    /// Stored in blocks, so that a number alone has no bytes.
    pub fn is_quantized(self) -> bool {
        self.block().0 > 1
    }

    /// Bytes of a row of `columns` numbers in a file; `None` if that is no whole number of blocks, or none that can be counted.
    pub fn stored_bytes(self, columns: usize) -> Option<usize> {
        let (numbers, bytes) = self.block();
        columns.is_multiple_of(numbers).then(|| (columns / numbers).checked_mul(bytes)).flatten()
    }

    /// Bytes of a row of `columns` numbers on a device, a multiple of 16.
    pub fn row_bytes(self, columns: usize) -> usize {
        match self {
            Format::F32 => columns.saturating_mul(4).saturating_add(15) / 16 * 16,
            Format::F16 | Format::BF16 => columns.saturating_mul(2).saturating_add(15) / 16 * 16,
            _ => crate::quants::row_bytes(self, columns),
        }
    }

    /// The functions that read it. `None`: those that stand in every kernel file.
    pub(crate) fn functions(self) -> Option<&'static str> {
        match self {
            Format::F32 => None,
            Format::F16 => Some(include_str!("../shaders/formats/f16.wgsl")),
            Format::BF16 => Some(include_str!("../shaders/formats/bf16.wgsl")),
            Format::Q8_0 => Some(include_str!("../shaders/formats/q8_0.wgsl")),
            Format::Q4_0 => Some(include_str!("../shaders/formats/q4_0.wgsl")),
            Format::Q4_1 => Some(include_str!("../shaders/formats/q4_1.wgsl")),
            Format::Q5_0 => Some(include_str!("../shaders/formats/q5_0.wgsl")),
            Format::Q5_1 => Some(include_str!("../shaders/formats/q5_1.wgsl")),
            Format::Q4K => Some(include_str!("../shaders/formats/q4_k.wgsl")),
            Format::Q5K => Some(include_str!("../shaders/formats/q5_k.wgsl")),
            Format::Q6K => Some(include_str!("../shaders/formats/q6_k.wgsl")),
        }
    }
}

/// How a dispatch gets its `Params`.
///
/// ```
/// use gristmill::kernel::{ParamsVia, UNIFORM_PARAMS};
///
/// let kernel = &gristmill::kernels::relu::KERNEL;
/// let mut variant = kernel.default_variant();
/// variant.params = ParamsVia::Uniform; // for a device without immediates
/// assert!(kernel.wgsl(&variant).contains(UNIFORM_PARAMS));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ParamsVia {
    /// `var<immediate>`: set in the command stream.
    #[default]
    Immediate,
    /// A uniform buffer at `@group(1) @binding(0)`, for devices without the feature.
    Uniform,
}

/// The params line of [`ParamsVia::Uniform`].
pub const UNIFORM_PARAMS: &str = "@group(1) @binding(0) var<uniform> p: Params;";

/// At most this many knobs and modes in one kernel.
pub const MAX_CONSTANTS: usize = 12;

/// Which text of a kernel.
///
/// ```
/// let kernel = &gristmill::kernels::relu::KERNEL;
/// let mut variant = kernel.default_variant();
/// variant.constants[0] = 128;
/// assert!(kernel.wgsl(&variant).contains("const WG = 128u;"));
/// ```
///
/// It is small, `Copy` and hashable, because it is the key of the pipeline cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Values of the knobs, then of the modes, in the order of the file.
    pub constants: [u32; MAX_CONSTANTS],
    /// Format of the weight, for kernels that read one.
    pub format: Format,
    /// How the parameters arrive.
    pub params: ParamsVia,
}

/// One change to the text of a file in `shaders/`: how tests break a kernel on purpose (see
/// [`verify::mutants`](crate::verify::mutants)).
///
/// ```
/// use gristmill::kernel::{Edit, File};
///
/// let edit = Edit { file: File::Kernel(gristmill::kernels::relu::KERNEL.index), span: 0..5, text: "//".to_owned() };
/// assert_eq!(edit.span.len(), 5);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The file.
    pub file: File,
    /// The bytes that are replaced.
    pub span: Range<usize>,
    /// What stands there instead.
    pub text: String,
}

/// A file in `shaders/`.
///
/// ```
/// use gristmill::{Format, kernel::File};
///
/// assert!(File::Kernel(0) < File::Format(Format::F16));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum File {
    /// A kernel, by its index.
    Kernel(usize),
    /// The functions of a format that stand in `shaders/formats/`.
    Format(Format),
}

impl Kernel {
    /// The variant that the file is as it lies.
    pub fn default_variant(&self) -> Variant {
        let mut constants = [0; MAX_CONSTANTS];
        for (value, constant) in constants.iter_mut().zip(self.knobs.iter().chain(self.modes)) {
            *value = constant.default;
        }
        Variant { constants, format: Format::F32, params: ParamsVia::Immediate }
    }

    /// The WGSL of one variant.
    pub fn wgsl(&self, variant: &Variant) -> String {
        self.text(variant, None)
    }

    /// The WGSL of one variant after an edit. Where the variant replaces the edited span it is the variant as it was.
    #[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "mutants alone need it"))]
    pub(crate) fn edited(&self, variant: &Variant, edit: &Edit) -> String {
        self.text(variant, Some(edit))
    }

    /// What the engine has to know of it.
    #[cfg(feature = "gpu")]
    pub(crate) fn blueprint(&self) -> crate::cache::Blueprint<'_> {
        let writes = self.bindings.iter().map(|b| b.write);
        let blueprint = crate::cache::Blueprint::new(self.index, self.name, writes, self.params_bytes);
        crate::cache::Blueprint { unchecked: self.needs.matrix > 0, ..blueprint }
    }

    fn text(&self, variant: &Variant, edit: Option<&Edit>) -> String {
        let constants = self.knobs.iter().chain(self.modes).map(|constant| (constant.default, constant.span));
        let mut spans = constant_spans(constants, variant);
        if let (Some((begin, end)), Some(functions)) = (self.format, variant.format.functions()) {
            let own = edit.filter(|edit| edit.file == File::Format(variant.format));
            spans.push((
                begin..end,
                patch(functions, own.map(|e| (e.span.clone(), e.text.clone())).into_iter().collect()),
            ));
        }
        if variant.params == ParamsVia::Uniform {
            spans.push((self.params_line.0..self.params_line.1, UNIFORM_PARAMS.to_owned()));
        }
        if let Some(edit) = edit.filter(|edit| edit.file == File::Kernel(self.index))
            && !spans.iter().any(|(span, _)| span.start < edit.span.end && edit.span.start < span.end)
        {
            spans.push((edit.span.clone(), edit.text.clone()));
        }
        patch(self.source, spans)
    }
}

/// Values of a kernel's knobs or modes, in the order of the file. Implemented by the generated `Knobs` and `Modes`.
///
/// ```
/// use gristmill::kernel::Constants;
/// use gristmill::kernels::matmul::Knobs;
///
/// let mut values = [0; Knobs::COUNT];
/// Knobs { bm: 32, ..Knobs::default() }.write(&mut values);
/// assert_eq!(values[0], 32);
/// ```
pub trait Constants {
    /// How many.
    const COUNT: usize;
    /// Writes them to the first `COUNT` elements of `out`.
    fn write(&self, out: &mut [u32]);
}

/// The tensors of one dispatch. Implemented by the generated `Args`.
///
/// ```
/// use gristmill::kernel::Arguments;
/// use gristmill::kernels::gelu::Args;
///
/// assert_eq!((Args::KERNEL.name, Args::COUNT), ("gelu", 1));
/// ```
#[cfg(feature = "gpu")]
pub trait Arguments {
    /// The kernel's parameters.
    type Params: bytemuck::Pod;
    /// The kernel's knobs.
    type Knobs: Constants;
    /// The kernel's modes.
    type Modes: Constants;
    /// The kernel.
    const KERNEL: &'static Kernel;
    /// How many of [`Arguments::tensors`] are bound.
    const COUNT: usize;
    /// The tensors by binding number; the rest repeats the first.
    fn tensors(&self) -> [&crate::Tensor; MAX_STORAGE_BUFFERS];
}

/// At most this many storage buffers in one kernel (see `reflect`).
pub const MAX_STORAGE_BUFFERS: usize = 7;

/// One module per file in `shaders/`, written by the build.
#[allow(missing_docs, clippy::all, reason = "generated; the WGSL carries the documentation")]
pub mod kernels {
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// The spans of the constants, given as (default, span), that differ from the file in this variant.
pub(crate) fn constant_spans(
    constants: impl Iterator<Item = (u32, (usize, usize))>,
    variant: &Variant,
) -> Vec<(Range<usize>, String)> {
    let set = constants.zip(variant.constants).filter(|((default, _), value)| default != value);
    set.map(|((_, (begin, end)), value)| (begin..end, format!("{value}u"))).collect()
}

/// WebGPU's limit of workgroups per dimension; larger grids fold to two dimensions.
pub const MAX_GROUPS: u64 = 65_535;

/// `count` workgroups, folded to two dimensions where one is too short. Kernels compute `y * groups.x + x` and return where
/// that is past the end.
///
/// ```
/// use gristmill::kernel::fold;
///
/// assert_eq!(fold(65_535), [65_535, 1, 1]);
/// assert_eq!(fold(65_536), [65_535, 2, 1]);
/// ```
pub fn fold(count: u64) -> [u64; 3] {
    if count <= MAX_GROUPS { [count, 1, 1] } else { [MAX_GROUPS, count.div_ceil(MAX_GROUPS), 1] }
}

/// `source` with its spans replaced. Nothing is inserted between lines, so line numbers before a span stay true.
pub(crate) fn patch(source: &str, mut spans: Vec<(Range<usize>, String)>) -> String {
    spans.sort_by_key(|(span, _)| span.start);
    let mut text = String::with_capacity(source.len() + 256);
    let mut from = 0;
    for (span, replacement) in spans {
        text.push_str(source.get(from..span.start).unwrap_or_default());
        text.push_str(&replacement);
        from = span.end;
    }
    text.push_str(source.get(from..).unwrap_or_default());
    text
}
