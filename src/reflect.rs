//! Reads a kernel's interface from its WGSL, through naga. Shared by `build.rs` (which includes this file by path) and by
//! the library, so that a shader is judged by one set of rules wherever it comes from.
//!
//! A kernel states its interface once: its bindings, its parameters, its knobs (what may be tuned), its modes (what is
//! computed) and where its weight format stands. Everything Rust knows about it is derived here. The rules:
//!
//! - the first line is `//! op: NAME`, the doc comment after it says what is computed, with shapes;
//! - one compute entry point, named like the file;
//! - `@group(0)` only, bindings without gaps, reads before writes, at most [`MAX_STORAGE_BUFFERS`] of them;
//! - `var<immediate> p: Params;` on a line of its own, at most [`MAX_PARAMS_BYTES`] of u32, i32 and f32;
//! - `//! grid: X` or `//! grid: X, Y, Z` in the head says how many workgroups a dispatch has: sums, differences, products,
//!   `ceil(a / b)` and `min(a, b)` of numbers, parameters, knobs, and names that the head explains; one count is folded to
//!   two dimensions where one is too short (kernels of the house must have it, a caller's own may);
//! - at its defaults a kernel stays within WebGPU's default limits, so that it runs on every adapter;
//! - a formatted weight is `@binding(1) var<storage, read> w: array<vec4<u32>>`, and the functions that read it stand
//!   between [`FORMAT_BEGIN`] and the end of the file.

use std::ops::Range;

use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, ScalarKind, StorageAccess, TypeInner};

use super::Needs;

/// WebGPU's `maxComputeWorkgroupStorageSize`.
pub const MAX_WORKGROUP_BYTES: u32 = 16 * 1024;
/// WebGPU's `maxComputeInvocationsPerWorkgroup`.
pub const MAX_INVOCATIONS: u32 = 256;
/// WebGPU's `maxImmediateSize`.
pub const MAX_PARAMS_BYTES: u32 = 64;
/// Metal binds eight buffers at its lowest tier, and one of them carries the array lengths.
pub const MAX_STORAGE_BUFFERS: usize = 7;
/// The line that declares the parameters.
pub const PARAMS_LINE: &str = "var<immediate> p: Params;";
/// The line after which the weight format's functions stand, up to [`FORMAT_END`].
pub const FORMAT_BEGIN: &str = "// --- weight format ---";
/// The line that ends the weight format.
pub const FORMAT_END: &str = "// --- end of weight format ---";

/// What the WGSL text of a kernel says about itself.
///
/// ```
/// let source = gristmill::kernels::softmax::KERNEL.source;
/// let interface = gristmill::reflect::reflect("shaders/softmax.wgsl", source)?;
/// assert_eq!((interface.op.as_str(), interface.workgroup_size), ("softmax", [64, 1, 1]));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// File stem, entry point and Rust module.
    pub name: String,
    /// The operation it computes, from the first line.
    pub op: String,
    /// The `//!` lines after the first.
    pub doc: String,
    /// Workgroups of a dispatch, in one or three dimensions, as the `grid:` line has them; empty without one.
    pub grid: String,
    /// Invocations per workgroup at the default knobs.
    pub workgroup_size: [u32; 3],
    /// Storage buffers, in the order of their binding numbers.
    pub bindings: Vec<Slot>,
    /// The members of `Params`, at offsets 0, 4, 8, ...
    pub params: Vec<Field>,
    /// Workgroup memory at the default knobs, in bytes.
    pub workgroup_bytes: u32,
    /// Constants that may be tuned: they change the speed and never the result.
    pub knobs: Vec<Constant>,
    /// Constants that say what is computed.
    pub modes: Vec<Constant>,
    /// The bytes between the format markers, if the kernel reads a formatted weight.
    pub format: Option<Range<usize>>,
    /// The bytes of [`PARAMS_LINE`].
    pub params_line: Range<usize>,
    /// What it needs of a device.
    pub needs: Needs,
}

/// One storage buffer of a kernel.
///
/// ```
/// let source = gristmill::kernels::add::KERNEL.source;
/// let slots = gristmill::reflect::reflect("add.wgsl", source)?.bindings;
/// assert_eq!((slots[0].name.as_str(), slots[0].ty.as_str(), slots[0].write), ("y", "vec4<f32>", false));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    /// Name in the WGSL.
    pub name: String,
    /// `read_write` rather than `read`.
    pub write: bool,
    /// The WGSL type, as text.
    pub ty: String,
}

/// One parameter of a kernel.
///
/// ```
/// let source = gristmill::kernels::scale::KERNEL.source;
/// let params = gristmill::reflect::reflect("scale.wgsl", source)?.params;
/// assert!(params.iter().any(|field| (field.name.as_str(), field.ty) == ("factor", "f32")));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Name in the WGSL.
    pub name: String,
    /// `u32`, `i32` or `f32`.
    pub ty: &'static str,
    /// Its doc comment.
    pub doc: String,
}

/// A `const` that can be set from Rust.
///
/// ```
/// let source = gristmill::kernels::softmax::KERNEL.source;
/// let modes = gristmill::reflect::reflect("softmax.wgsl", source)?.modes;
/// assert_eq!((modes[0].name.as_str(), modes[0].default, &modes[0].values[..]), ("LOG", 0, &[0, 1][..]));
/// assert_eq!(&source[modes[0].span.clone()], "0u");
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Constant {
    /// Name in the WGSL.
    pub name: String,
    /// Its doc comment, without the values.
    pub doc: String,
    /// Value in the file.
    pub default: u32,
    /// The values its doc comment lists. All of them are validated.
    pub values: Vec<u32>,
    /// Where its initializer stands in the text.
    pub span: Range<usize>,
}

/// Parses and validates `source`, checks it against the rules above and returns its interface.
///
/// # Errors
/// naga's rendered message with `path` and line, or the rule that is broken.
pub fn reflect(path: &str, source: &str) -> Result<Interface, String> {
    let rule = |message: String| format!("{path}: {message}");
    let stem = path.rsplit(['/', '\\']).next().and_then(|f| f.strip_suffix(".wgsl")).unwrap_or(path);
    let (module, needs) = validate(path, source)?;

    let [entry] = module.entry_points.as_slice() else {
        return Err(rule(format!("{} entry points; a kernel has one", module.entry_points.len())));
    };
    if entry.name != stem {
        return Err(rule(format!("the entry point is `{}`; it must be named like the file, `{stem}`", entry.name)));
    }
    let invocations: u32 = entry.workgroup_size.iter().product();
    if invocations > MAX_INVOCATIONS {
        return Err(rule(format!(
            "{invocations} invocations per workgroup at the default knobs; WebGPU's default limit is {MAX_INVOCATIONS}"
        )));
    }
    let (op, doc, grid) = head(source).map_err(rule)?;
    let bindings = bindings(&module).map_err(rule)?;
    let workgroup_bytes = workgroup_bytes(&module);
    if workgroup_bytes > MAX_WORKGROUP_BYTES {
        return Err(rule(format!(
            "{workgroup_bytes} bytes of workgroup memory at the default knobs; WebGPU's default limit is {MAX_WORKGROUP_BYTES}"
        )));
    }
    let params = params(&module, source).map_err(rule)?;
    let params_line = sole_line(source, PARAMS_LINE)
        .ok_or_else(|| rule(format!("`{PARAMS_LINE}` must stand on a line of its own, once")))?;
    let format = format_span(source, &bindings).map_err(rule)?;
    let (knobs, modes) = constants(source).map_err(rule)?;
    Ok(Interface {
        name: stem.to_owned(),
        op,
        doc,
        grid,
        workgroup_size: entry.workgroup_size,
        bindings,
        params,
        workgroup_bytes,
        knobs,
        modes,
        format,
        params_line,
        needs,
    })
}

/// Parses and validates, and says what is needed beyond what every device has.
///
/// # Errors
/// naga's rendered message with `path` and line.
pub fn validate(path: &str, source: &str) -> Result<(naga::Module, Needs), String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|e| e.emit_to_string_with_path(source, path))?;
    let base = Capabilities::IMMEDIATES | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let is_enough = |capabilities| Validator::new(ValidationFlags::all(), capabilities).validate(&module).is_ok();
    if is_enough(base) {
        return Ok((module, Needs::default()));
    }
    let all = base
        | Capabilities::SUBGROUP
        | Capabilities::SHADER_FLOAT16
        | Capabilities::SHADER_INT64
        | Capabilities::COOPERATIVE_MATRIX;
    let validated = Validator::new(ValidationFlags::all(), all).validate(&module);
    validated.map_err(|e| e.emit_to_string_with_path(source, path))?;
    let needed = |capability| !is_enough(all - capability);
    let (subgroups, f16) = (needed(Capabilities::SUBGROUP), needed(Capabilities::SHADER_FLOAT16));
    let int64 = needed(Capabilities::SHADER_INT64);
    let sides = module.types.iter().filter_map(|(_, ty)| match ty.inner {
        TypeInner::CooperativeMatrix { columns, rows, .. } => Some((columns as u32).max(rows as u32)),
        _ => None,
    });
    let needs = Needs { subgroups, f16, int64, matrix: sides.max().unwrap_or(0) };
    Ok((module, needs))
}

/// Invocations per workgroup and bytes of workgroup memory of one variant.
///
/// # Errors
/// naga's rendered message with `path` and line, or what is wrong with the entry point.
#[allow(dead_code, reason = "the build judges files at their defaults")]
pub fn resources(path: &str, source: &str) -> Result<([u32; 3], u32), String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|e| e.emit_to_string_with_path(source, path))?;
    let entry = module.entry_points.first().ok_or_else(|| format!("{path}: no entry point"))?;
    Ok((entry.workgroup_size, workgroup_bytes(&module)))
}

/// The `//!` head: the op's name, the description, and the grid.
fn head(source: &str) -> Result<(String, String, String), String> {
    let mut lines = source.lines();
    let op = lines
        .next()
        .and_then(|line| line.strip_prefix("//! op: "))
        .map(str::trim)
        .filter(|op| !op.is_empty())
        .ok_or("the first line must be `//! op: NAME`")?;
    let doc: Vec<&str> = lines.map_while(|line| line.strip_prefix("//!")).map(|line| line.trim_end()).collect();
    let grid = doc.iter().find_map(|line| line.strip_prefix(" grid: ")).unwrap_or_default();
    Ok((op.to_owned(), doc.join("\n"), grid.trim().to_owned()))
}

/// Storage buffers in binding order, checked for group, gaps and order.
fn bindings(module: &naga::Module) -> Result<Vec<Slot>, String> {
    let mut slots: Vec<(u32, Slot)> = Vec::new();
    for (_, var) in module.global_variables.iter() {
        let Some(binding) = &var.binding else { continue };
        let name = var.name.clone().unwrap_or_default();
        if binding.group != 0 {
            return Err(format!("`{name}` is in group {}; a kernel uses group 0 only", binding.group));
        }
        let AddressSpace::Storage { access } = var.space else {
            return Err(format!("`{name}` is not a storage buffer"));
        };
        let write = access.contains(StorageAccess::STORE);
        slots.push((binding.binding, Slot { name, write, ty: element_type(module, var.ty) }));
    }
    slots.sort_by_key(|(number, _)| *number);
    for (expected, (number, slot)) in slots.iter().enumerate() {
        if *number as usize != expected {
            return Err(format!("`{}` is binding {number}, {expected} is missing: no gaps in bindings", slot.name));
        }
    }
    let slots: Vec<Slot> = slots.into_iter().map(|(_, slot)| slot).collect();
    if slots.len() > MAX_STORAGE_BUFFERS {
        return Err(format!("{} storage buffers; at most {MAX_STORAGE_BUFFERS}", slots.len()));
    }
    if let Some(pair) = slots.windows(2).find(|pair| pair[0].write && !pair[1].write) {
        return Err(format!("`{}` (written) stands before `{}` (read): reads come first", pair[0].name, pair[1].name));
    }
    Ok(slots)
}

/// `f32`, `vec4<u32>` or a struct's name: what the runtime-sized array of a binding holds.
fn element_type(module: &naga::Module, ty: naga::Handle<naga::Type>) -> String {
    match &module.types[ty].inner {
        TypeInner::Array { base, .. } => element_type(module, *base),
        TypeInner::Scalar(s) => scalar_name(*s).unwrap_or("?").to_owned(),
        TypeInner::Vector { size, scalar } => format!("vec{}<{}>", *size as u8, scalar_name(*scalar).unwrap_or("?")),
        _ => module.types[ty].name.clone().unwrap_or_else(|| "?".to_owned()),
    }
}

fn scalar_name(scalar: naga::Scalar) -> Option<&'static str> {
    match (scalar.kind, scalar.width) {
        (ScalarKind::Uint, 4) => Some("u32"),
        (ScalarKind::Sint, 4) => Some("i32"),
        (ScalarKind::Float, 4) => Some("f32"),
        _ => None,
    }
}

/// Sum over `var<workgroup>` of its size, each rounded up to 16. wgpu does not check this limit itself.
fn workgroup_bytes(module: &naga::Module) -> u32 {
    let shared = module.global_variables.iter().filter(|(_, var)| var.space == AddressSpace::WorkGroup);
    shared.map(|(_, var)| module.types[var.ty].inner.size(module.to_ctx()).div_ceil(16) * 16).sum()
}

/// The members of the immediate `Params`.
fn params(module: &naga::Module, source: &str) -> Result<Vec<Field>, String> {
    let Some((_, var)) = module.global_variables.iter().find(|(_, var)| var.space == AddressSpace::Immediate) else {
        return Err(format!("no `{PARAMS_LINE}`"));
    };
    let TypeInner::Struct { members, span } = &module.types[var.ty].inner else {
        return Err("the immediate `p` must be a struct `Params`".to_owned());
    };
    if *span > MAX_PARAMS_BYTES {
        return Err(format!("Params has {span} bytes; at most {MAX_PARAMS_BYTES}"));
    }
    let mut fields = Vec::new();
    for member in members {
        let name = member.name.clone().unwrap_or_default();
        let ty = match module.types[member.ty].inner {
            TypeInner::Scalar(scalar) => scalar_name(scalar),
            _ => None,
        };
        let ty = ty.ok_or_else(|| format!("Params.{name} must be u32, i32 or f32"))?;
        let doc = doc_above(source, |line| line.trim_start().starts_with(&format!("{name}:")));
        fields.push(Field { name, ty, doc });
    }
    Ok(fields)
}

/// The `///` lines right above the first line that `is_it`.
fn doc_above(source: &str, is_it: impl Fn(&str) -> bool) -> String {
    let mut doc: Vec<&str> = Vec::new();
    for line in source.lines() {
        match line.trim_start().strip_prefix("///") {
            Some(text) => doc.push(text.trim()),
            None if is_it(line) => return doc.join(" "),
            None => doc.clear(),
        }
    }
    String::new()
}

/// The byte range of the one line that reads `text`.
fn sole_line(source: &str, text: &str) -> Option<Range<usize>> {
    let mut offset = 0;
    let mut found = None;
    for line in source.split_inclusive('\n') {
        if line.trim_end() == text && found.replace(offset..offset + text.len()).is_some() {
            return None;
        }
        offset += line.len();
    }
    found
}

fn format_span(source: &str, bindings: &[Slot]) -> Result<Option<Range<usize>>, String> {
    let (begin, end) = (sole_line(source, FORMAT_BEGIN), sole_line(source, FORMAT_END));
    let (Some(begin), Some(end)) = (begin.clone(), end.clone()) else {
        return match (begin, end) {
            (None, None) => Ok(None),
            _ => Err(format!("`{FORMAT_BEGIN}` and `{FORMAT_END}` come in pairs, once")),
        };
    };
    let weight = bindings.get(1);
    if !weight.is_some_and(|slot| slot.name == "w" && !slot.write && slot.ty == "vec4<u32>") {
        return Err("a formatted weight is `@binding(1) var<storage, read> w: array<vec4<u32>>`".to_owned());
    }
    if begin.end > end.start {
        return Err(format!("`{FORMAT_END}` stands before `{FORMAT_BEGIN}`"));
    }
    Ok(Some(begin.end + 1..end.start))
}

/// Knobs (doc comment ends in `Tune: ..`) and modes (`Mode: ..`) with the spans of their initializers.
fn constants(source: &str) -> Result<(Vec<Constant>, Vec<Constant>), String> {
    let (mut knobs, mut modes) = (Vec::new(), Vec::new());
    let (mut doc, mut offset) = (String::new(), 0);
    for line in source.split_inclusive('\n') {
        let start = offset;
        offset += line.len();
        if let Some(text) = line.strip_prefix("///") {
            doc.push_str(text.trim());
            doc.push(' ');
            continue;
        }
        let doc = std::mem::take(&mut doc);
        let Some(rest) = line.strip_prefix("const ") else { continue };
        let (list, text, values) = if let Some((text, values)) = doc.split_once("Tune:") {
            (&mut knobs, text, values)
        } else if let Some((text, values)) = doc.split_once("Mode:") {
            (&mut modes, text, values)
        } else {
            continue;
        };
        let parsed = (|| {
            let (name, _) = rest.split_once([':', ' ', '='])?;
            let (equals, semicolon) = (line.find('=')?, line.find(';')?);
            let initializer = line.get(equals + 1..semicolon)?;
            let from = start + equals + 1 + (initializer.len() - initializer.trim_start().len());
            let span = from..from + initializer.trim().len();
            let values = values.trim().split(',').map(literal).collect::<Option<Vec<u32>>>()?;
            Some(Constant {
                name: name.to_owned(),
                doc: text.trim().to_owned(),
                default: literal(initializer)?,
                values,
                span,
            })
        })();
        let constant = parsed.ok_or_else(|| {
            format!("`{}`: write `const NAME = 32u;` with a doc comment that ends in `Tune: 16u, 32u`", line.trim())
        })?;
        list.push(constant);
    }
    Ok((knobs, modes))
}

/// `32u` as 32.
fn literal(text: &str) -> Option<u32> {
    text.trim().strip_suffix('u')?.parse().ok()
}
