//! Reads every WGSL file in `shaders/`, refuses what is invalid or breaks a house rule, and writes the Rust side of each
//! kernel to `$OUT_DIR/kernels.rs`. The rules stand in `src/reflect.rs`, which the library shares.

use std::fmt::Write as _;
use std::path::Path;
use std::process::exit;

#[path = "src/reflect.rs"]
#[allow(unreachable_pub, reason = "public in the library")]
mod reflect;

#[path = "src/reflect/grid.rs"]
mod grid;

#[path = "src/kernel/needs.rs"]
#[allow(unreachable_pub, reason = "public in the library")]
mod needs;

use needs::Needs;
use reflect::{Constant, Interface};

fn main() {
    println!("cargo::rerun-if-changed=shaders");
    println!("cargo::rerun-if-changed=src/reflect.rs");
    println!("cargo::rerun-if-changed=src/kernel/needs.rs");
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let written = read_all(Path::new("shaders"))
        .and_then(|files| generate(&files))
        .and_then(|text| std::fs::write(Path::new(&out).join("kernels.rs"), text).map_err(|e| e.to_string()));
    if let Err(message) = written {
        eprintln!("{message}");
        exit(1);
    }
}

/// `(path, text)` of every `.wgsl` file in `dir`, sorted.
fn read_all(dir: &Path) -> Result<Vec<(String, String)>, String> {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut files = Vec::new();
    for path in entries.filter_map(|entry| entry.ok().map(|e| e.path())) {
        if path.extension().is_some_and(|e| e == "wgsl") {
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            files.push((path.to_string_lossy().replace('\\', "/"), text));
        }
    }
    files.sort();
    Ok(files)
}

/// The generated module, or everything that is wrong with the shaders.
fn generate(files: &[(String, String)]) -> Result<String, String> {
    let formats = read_all(Path::new("shaders/formats"))?;
    let (mut text, mut names, mut errors) = (String::from("// Written by build.rs.\n"), Vec::new(), Vec::new());
    for (path, source) in files {
        match check(path, source, &formats) {
            Ok(interface) => {
                emit(&mut text, names.len(), path, &interface).expect("writing to a String");
                names.push(interface.name);
            }
            Err(message) => errors.push(message),
        }
    }
    if !errors.is_empty() {
        return Err(errors.join("\n"));
    }
    let all: Vec<String> = names.iter().map(|name| format!("&{name}::KERNEL")).collect();
    let _ = writeln!(
        text,
        "/// Every kernel, by index.\npub static ALL: &[&crate::kernel::Kernel] = &[{}];",
        all.join(", ")
    );
    Ok(text)
}

/// Reflects a file as it lies, then validates it with each other weight format in place.
fn check(path: &str, source: &str, formats: &[(String, String)]) -> Result<Interface, String> {
    let interface = reflect::reflect(path, source)?;
    grid::function(&interface).map_err(|message| format!("{path}: {message}"))?;
    if let Some(span) = &interface.format {
        for (format_path, functions) in formats {
            let spliced = [&source[..span.start], functions, &source[span.end..]].concat();
            reflect::validate(&format!("{path} with {format_path}"), &spliced)?;
        }
    }
    Ok(interface)
}

fn emit(out: &mut String, index: usize, path: &str, kernel: &Interface) -> std::fmt::Result {
    let Interface { name, op, doc, grid, workgroup_size, workgroup_bytes, needs, .. } = kernel;
    writeln!(out, "/// ```text\n{}\n/// ```", doc.lines().map(|l| format!("///{l}")).collect::<Vec<_>>().join("\n"))?;
    writeln!(out, "pub mod {name} {{")?;
    writeln!(out, "    use crate::kernel::{{Binding, Constant, Constants, Kernel}};")?;
    writeln!(
        out,
        "    pub static KERNEL: Kernel = Kernel {{ index: {index}, name: {name:?}, op: {op:?}, doc: {doc:?}, grid: {grid:?},"
    )?;
    writeln!(out, "        source: include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/{path}\")),")?;
    writeln!(
        out,
        "        workgroup_size: {workgroup_size:?}, workgroup_bytes: {workgroup_bytes}, needs: crate::kernel::{needs:?},"
    )?;
    writeln!(out, "        bindings: &[")?;
    for slot in &kernel.bindings {
        writeln!(out, "            Binding {{ name: {:?}, write: {}, ty: {:?} }},", slot.name, slot.write, slot.ty)?;
    }
    writeln!(out, "        ], params: &[")?;
    for reflect::Field { name, ty, doc } in &kernel.params {
        writeln!(out, "            crate::kernel::Parameter {{ name: {name:?}, ty: {ty:?}, doc: {doc:?} }},")?;
    }
    writeln!(
        out,
        "        ], params_bytes: {}, params_line: {:?},",
        4 * kernel.params.len(),
        pair(&kernel.params_line)
    )?;
    writeln!(out, "        format: {:?},", kernel.format.as_ref().map(pair))?;
    emit_constants(out, "knobs", &kernel.knobs)?;
    emit_constants(out, "modes", &kernel.modes)?;
    writeln!(out, "    }};")?;

    writeln!(
        out,
        "    #[repr(C)]\n    #[derive(Debug, Clone, Copy, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]"
    )?;
    writeln!(out, "    pub struct Params {{")?;
    for field in &kernel.params {
        writeln!(out, "        /// {}\n        pub {}: {},", field.doc, field.name, field.ty)?;
    }
    writeln!(out, "    }}")?;
    emit_values(out, "Knobs", &kernel.knobs)?;
    emit_values(out, "Modes", &kernel.modes)?;
    writeln!(out, "{}", grid::function(kernel).map_err(|_| std::fmt::Error)?)?;
    emit_args(out, kernel)?;
    writeln!(out, "}}\n")
}

fn pair(range: &std::ops::Range<usize>) -> (usize, usize) {
    (range.start, range.end)
}

fn emit_constants(out: &mut String, field: &str, constants: &[Constant]) -> std::fmt::Result {
    writeln!(out, "        {field}: &[")?;
    for Constant { name, doc, default, values, span } in constants {
        let span = pair(span);
        writeln!(
            out,
            "            Constant {{ name: {name:?}, doc: {doc:?}, default: {default}, values: &{values:?}, span: {span:?} }},"
        )?;
    }
    writeln!(out, "        ],")
}

/// `Knobs` or `Modes`: one field per constant, `Default` as in the file.
fn emit_values(out: &mut String, ty: &str, constants: &[Constant]) -> std::fmt::Result {
    let field = |c: &Constant| c.name.to_lowercase();
    writeln!(out, "    #[derive(Debug, Clone, Copy, PartialEq, Eq)]\n    pub struct {ty} {{")?;
    for constant in constants {
        writeln!(
            out,
            "        /// {} One of {:?}.\n        pub {}: u32,",
            constant.doc,
            constant.values,
            field(constant)
        )?;
    }
    let defaults: Vec<String> = constants.iter().map(|c| format!("{}: {}", field(c), c.default)).collect();
    let values: Vec<String> = constants.iter().map(|c| format!("self.{}", field(c))).collect();
    writeln!(out, "    }}\n    impl Default for {ty} {{")?;
    writeln!(out, "        fn default() -> Self {{ {ty} {{ {} }} }}\n    }}", defaults.join(", "))?;
    writeln!(out, "    impl Constants for {ty} {{\n        const COUNT: usize = {};", constants.len())?;
    writeln!(out, "        fn write(&self, out: &mut [u32]) {{")?;
    for (i, value) in values.iter().enumerate() {
        writeln!(out, "            if let Some(v) = out.get_mut({i}) {{ *v = {value}; }}")?;
    }
    if values.is_empty() {
        writeln!(out, "            let _ = out;")?;
    }
    writeln!(out, "        }}\n    }}")?;
    if ty != "Knobs" {
        return Ok(());
    }
    let read: Vec<String> =
        (0..).zip(constants).map(|(i, c)| format!("{}: at({i}, {})", field(c), c.default)).collect();
    writeln!(out, "    #[cfg(feature = \"gpu\")]\n    impl crate::tuning::Knobs for Knobs {{")?;
    writeln!(out, "        const KERNEL: &'static Kernel = &KERNEL;\n        fn read(values: &[u32]) -> Self {{")?;
    writeln!(out, "            let at = |i: usize, default: u32| values.get(i).copied().unwrap_or(default);")?;
    writeln!(out, "            Knobs {{ {} }}\n        }}\n    }}", read.join(", "))
}

/// `Args`: a reference per binding, `&mut` where the kernel writes.
fn emit_args(out: &mut String, kernel: &Interface) -> std::fmt::Result {
    writeln!(out, "    #[cfg(feature = \"gpu\")]\n    pub struct Args<'a> {{")?;
    for slot in &kernel.bindings {
        let reference = if slot.write { "&'a mut" } else { "&'a" };
        writeln!(out, "        /// `array<{}>`\n        pub {}: {reference} crate::Tensor,", slot.ty, slot.name)?;
    }
    let tensors: Vec<String> = kernel.bindings.iter().map(|slot| format!("&*self.{}", slot.name)).collect();
    let filled = tensors.len();
    let mut all = tensors;
    all.resize(reflect::MAX_STORAGE_BUFFERS, all[0].clone());
    writeln!(out, "    }}\n    #[cfg(feature = \"gpu\")]\n    impl crate::kernel::Arguments for Args<'_> {{")?;
    writeln!(out, "        type Params = Params; type Knobs = Knobs; type Modes = Modes;")?;
    writeln!(out, "        const KERNEL: &'static Kernel = &KERNEL; const COUNT: usize = {filled};")?;
    writeln!(
        out,
        "        fn tensors(&self) -> [&crate::Tensor; {}] {{ [{}] }}",
        reflect::MAX_STORAGE_BUFFERS,
        all.join(", ")
    )?;
    writeln!(out, "    }}")
}
