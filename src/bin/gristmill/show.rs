//! `show`: what a kernel is, and the text of a variant of it. No adapter is needed.

use std::path::PathBuf;

use gristmill::kernel::{Binding, Constant, Kernel, Parameter, Resources, Variant};
use gristmill::reflect::{MAX_INVOCATIONS, MAX_WORKGROUP_BYTES};
use gristmill::{Error, Format};
use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};
use crate::output::{Form, note, object, print};
use crate::source::usage;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The kernel: a file in shaders/, without its ending
    #[arg(value_name = "KERNEL")]
    kernel: String,
    /// Set a knob, as in `--knob BM=32`; any number of times
    #[arg(long = "knob", value_name = "NAME=VALUE")]
    knobs: Vec<String>,
    /// Set a mode, as in `--mode BIAS=1`; any number of times
    #[arg(long = "mode", value_name = "NAME=VALUE")]
    modes: Vec<String>,
    /// What the weight is stored in
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    format: String,
    /// Write the SPIR-V that naga makes of this variant to FILE
    #[arg(long, value_name = "FILE")]
    spirv: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
}

/// A kernel, and the variant of it that is shown.
struct Shown {
    kernel: &'static Kernel,
    variant: Variant,
    resources: Resources,
}

pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    let kernel = Kernel::named(&args.kernel)?;
    let mut variant = kernel.default_variant();
    for (given, option, constants) in [(&args.knobs, "--knob", kernel.knobs), (&args.modes, "--mode", kernel.modes)] {
        for text in given {
            let (name, value) = setting(option, text)?;
            // A mode is no knob: what is computed is not changed by accident.
            if !constants.iter().any(|constant| constant.name == name) {
                let names: Vec<&str> = constants.iter().map(|constant| constant.name).collect();
                let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                return Err(usage(&format!("{option} {name}: {} has {names}", kernel.name)));
            }
            kernel.set(&mut variant, name, value)?;
        }
    }
    variant.format = format(kernel, &args.format)?;
    let shown = Shown { kernel, variant, resources: kernel.resources(&variant)? };
    let spirv = args.spirv.as_ref().map(|path| Ok::<_, Failure>((path, write_spirv(&shown, path)?))).transpose()?;
    if !args.form.json {
        print(&report(&shown))?;
    }
    if let Some((path, bytes)) = spirv {
        note(&format!("{bytes} bytes of SPIR-V in {}", path.display()));
    }
    args.form.document(&document(&shown, spirv.map(|(_, bytes)| bytes)))?;
    Ok(Outcome::Done)
}

/// `BM=32`.
fn setting<'a>(option: &str, text: &'a str) -> Result<(&'a str, u32), Failure> {
    let pair = text.split_once('=').and_then(|(name, value)| Some((name, value.parse().ok()?)));
    pair.ok_or_else(|| usage(&format!("{option} {text}: NAME=VALUE is expected, VALUE a number")))
}

fn format(kernel: &Kernel, name: &str) -> Result<Format, Failure> {
    let found = kernel.formats().iter().copied().find(|format| format.name() == name);
    found.ok_or_else(|| usage(&format!("--format {name}: {} takes {}", kernel.name, formats(kernel).join(", "))))
}

fn formats(kernel: &Kernel) -> Vec<&'static str> {
    kernel.formats().iter().map(|format| format.name()).collect()
}

fn write_spirv(shown: &Shown, path: &std::path::Path) -> Result<usize, Failure> {
    let bytes: Vec<u8> = shown.kernel.spirv(&shown.variant)?.into_iter().flat_map(u32::to_le_bytes).collect();
    let failed = |error: std::io::Error| Error::Io { path: path.to_owned(), message: error.to_string() };
    std::fs::write(path, &bytes).map_err(failed)?;
    Ok(bytes.len())
}

impl Shown {
    /// Knobs, or modes, with their values in this variant.
    fn knobs(&self) -> impl Iterator<Item = (&'static Constant, u32)> {
        self.kernel.knobs.iter().zip(self.variant.constants)
    }

    fn modes(&self) -> impl Iterator<Item = (&'static Constant, u32)> {
        self.kernel.modes.iter().zip(self.variant.constants.into_iter().skip(self.kernel.knobs.len()))
    }
}

fn report(shown: &Shown) -> String {
    let Shown { kernel, variant, resources } = shown;
    // The grid is said below.
    let doc = kernel.doc.lines().map(str::trim_start).filter(|line| !line.starts_with("grid: "));
    let doc: String = doc.map(|line| format!("{line}\n")).collect();
    let mut text = format!("{}: a kernel of the op {}\n{doc}", kernel.name, kernel.op);
    let binding = |(i, b): (usize, &Binding)| {
        vec![format!("  {i}"), b.name.to_owned(), format!("array<{}>", b.ty), access(b).to_owned()]
    };
    text += &section("bindings", kernel.bindings.iter().enumerate().map(binding).collect());
    let param = |p: &Parameter| vec![format!("  {}", p.name), p.ty.to_owned(), p.doc.to_owned()];
    text += &section(&format!("params, {} bytes", kernel.params_bytes), kernel.params.iter().map(param).collect());
    text += &section("knobs", shown.knobs().map(constant).collect());
    text += &section("modes", shown.modes().map(constant).collect());
    let over = |found: u32, limit: u32| {
        if found > limit { format!(", more than WebGPU's default limit of {limit}") } else { String::new() }
    };
    let Resources { workgroup_size: [x, y, z], workgroup_bytes, needs } = *resources;
    let invocations = x.saturating_mul(y).saturating_mul(z);
    text.push('\n');
    let mut line = |name: &str, value: String| text += &format!("{name:<17} {value}\n");
    line("workgroup size", format!("{x} x {y} x {z}{}", over(invocations, MAX_INVOCATIONS)));
    line("workgroup memory", format!("{workgroup_bytes} bytes{}", over(workgroup_bytes, MAX_WORKGROUP_BYTES)));
    line("grid", kernel.grid.to_owned());
    let needed = |needed: bool| if needed { "needed" } else { "not needed" }.to_owned();
    line("subgroups", needed(needs.subgroups));
    line("f16", needed(needs.f16));
    line("int64", needed(needs.int64));
    let side = needs.matrix;
    line("matrix units", if side > 0 { format!("of {side} x {side}, needed") } else { needed(false) });
    line(
        "format",
        match kernel.format {
            Some(_) => format!("{} of {}", variant.format.name(), formats(kernel).join(", ")),
            None => "none: it reads no weight".to_owned(),
        },
    );
    text + "\n" + &kernel.wgsl(variant)
}

/// A heading, and rows whose cells are all text.
fn section(name: &str, rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() { format!("\n{name}: none\n") } else { format!("\n{name}\n{}", left(&rows)) }
}

/// Rows with every column to the left.
fn left(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        cells.collect::<Vec<String>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn access(binding: &Binding) -> &'static str {
    if binding.write { "read_write" } else { "read" }
}

/// A knob or a mode: its value, those that the file lists, what it is.
fn constant((constant, value): (&Constant, u32)) -> Vec<String> {
    let values: Vec<String> = constant.values.iter().map(u32::to_string).collect();
    vec![
        format!("  {}", constant.name),
        value.to_string(),
        format!("of {}", values.join(", ")),
        constant.doc.to_owned(),
    ]
}

fn document(shown: &Shown, spirv_bytes: Option<usize>) -> Value {
    let Shown { kernel, variant, resources } = shown;
    let constant = |(c, value): (&Constant, u32)| json!({ "name": c.name, "value": value, "default": c.default, "values": c.values, "doc": c.doc });
    let binding =
        |(i, b): (usize, &Binding)| json!({ "binding": i, "name": b.name, "type": b.ty, "access": access(b) });
    let param = |p: &Parameter| json!({ "name": p.name, "type": p.ty, "doc": p.doc });
    object([
        ("kernel", json!(kernel.name)),
        ("op", json!(kernel.op)),
        ("doc", json!(kernel.doc)),
        ("bindings", kernel.bindings.iter().enumerate().map(binding).collect()),
        ("params", kernel.params.iter().map(param).collect()),
        ("params_bytes", json!(kernel.params_bytes)),
        ("knobs", shown.knobs().map(constant).collect()),
        ("modes", shown.modes().map(constant).collect()),
        ("format", json!(variant.format.name())),
        ("formats", json!(formats(kernel))),
        ("grid", json!(kernel.grid)),
        ("workgroup_size", json!(resources.workgroup_size)),
        ("workgroup_bytes", json!(resources.workgroup_bytes)),
        ("subgroups", json!(resources.needs.subgroups)),
        ("f16", json!(resources.needs.f16)),
        ("int64", json!(resources.needs.int64)),
        ("matrix", json!(resources.needs.matrix)),
        ("spirv_bytes", json!(spirv_bytes)),
        ("wgsl", json!(kernel.wgsl(variant))),
    ])
}
