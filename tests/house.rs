//! The laws that can be checked by reading files. A message names the file and what is missing in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use gristmill::kernel::{Kernel, ParamsVia, Variant, kernels};
use gristmill::{Format, reflect};

/// Fails with everything that is wrong, not with the first.
fn report(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

/// Every file below `dir` with this extension.
fn files(dir: &str, extension: &str) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![PathBuf::from(dir)]);
    while let Some(dir) = left.pop() {
        let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        for path in entries.map(|entry| entry.expect("a readable folder").path()) {
            match path.is_dir() {
                true => left.push(path),
                false if path.extension().is_some_and(|e| e == extension) => found.push(path),
                false => (),
            }
        }
    }
    found.sort();
    found
}

/// A source file of the product, without its unit tests, which may be as frank as they like.
struct Source {
    path: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let lib = read("src/lib.rs");
    // Modules that only tests have.
    let of_tests: Vec<String> = lib
        .split("#[cfg(all(test")
        .skip(1)
        .filter_map(|text| Some(format!("src/{}.rs", text.split_once("mod ")?.1.split_once(';')?.0)))
        .collect();
    let all = files("src", "rs").into_iter().map(|path| (path.to_string_lossy().replace('\\', "/"), read(&path)));
    all.filter(|(path, _)| !of_tests.contains(path))
        .map(|(path, text)| {
            let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
            Source { path, text }
        })
        .collect()
}

/// Code lines with their numbers: no comments, no documentation.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(i, line)| (i + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// `path:line: line` of every code line that has one of `words`, outside the files of `allowed`.
fn uses(words: &[&str], allowed: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    for Source { path, text } in sources().iter().filter(|source| !allowed.contains(&source.path.as_str())) {
        for (number, line) in code(text).filter(|(_, line)| words.iter().any(|word| line.contains(word))) {
            faults.push(format!("{path}:{number}: {}", line.trim()));
        }
    }
    faults
}

/// The combinations of a kernel's knobs, at most 200 of them, with the modes at their defaults.
fn knob_variants(kernel: &Kernel) -> Vec<Variant> {
    let mut variants = vec![kernel.default_variant()];
    for (i, knob) in kernel.knobs.iter().enumerate() {
        let with = |variant: &Variant, value: u32| {
            let mut variant = *variant;
            variant.constants[i] = value;
            variant
        };
        variants = variants.iter().flat_map(|v| knob.values.iter().map(move |&value| with(v, value))).collect();
    }
    // Evenly spread where there are too many.
    let step = variants.len().div_ceil(200);
    variants.into_iter().step_by(step).collect()
}

fn validate(kernel: &Kernel, variant: &Variant) -> Result<(), String> {
    reflect::validate(&format!("shaders/{}.wgsl", kernel.name), &kernel.wgsl(variant)).map(|_| ())
}

#[test]
fn every_variant_of_every_kernel_is_valid_or_refused_by_its_own_assertion() {
    let mut faults = Vec::new();
    for kernel in kernels::ALL {
        let default = kernel.default_variant();
        let mut must_be_valid = vec![default];
        for (i, mode) in kernel.modes.iter().enumerate() {
            must_be_valid.extend(mode.values.iter().map(|&value| {
                let mut variant = default;
                variant.constants[kernel.knobs.len() + i] = value;
                variant
            }));
        }
        for format in Format::ALL.into_iter().filter(|_| kernel.format.is_some()) {
            let mut variant = default;
            variant.format = format;
            must_be_valid.push(variant);
        }
        for mut variant in must_be_valid {
            for params in [ParamsVia::Immediate, ParamsVia::Uniform] {
                variant.params = params;
                faults.extend(validate(kernel, &variant).err());
            }
        }
        for knob in kernel.knobs.iter().chain(kernel.modes) {
            if !knob.values.contains(&knob.default) {
                faults.push(format!("shaders/{}.wgsl: {} is not among its own values", kernel.name, knob.name));
            }
        }
        let refused = knob_variants(kernel).into_iter().filter_map(|variant| validate(kernel, &variant).err());
        faults.extend(refused.filter(|message| !message.contains("const_assert")));
    }
    report(&faults);
}

/// The larger one has never run: it is as right as the smaller one is, as far as they are the same.
#[test]
fn the_kernels_of_matrix_units_differ_in_sizes_alone() {
    let own = |line: &&str| {
        let sizes =
            ["const BM =", "const BN =", "const BK =", "const LANES =", "/// Lanes", "const SIDE =", "//! Never run"];
        !sizes.iter().any(|start| line.starts_with(start))
    };
    let large = read("shaders/matmul_transpose_b_matrix16.wgsl");
    let large = large.replace("matrix16", "matrix8").replace("16 x 16", "8 x 8").replace("mat16x16", "mat8x8");
    let small = read("shaders/matmul_transpose_b_matrix8.wgsl");
    assert_eq!(large.lines().filter(own).collect::<Vec<_>>(), small.lines().filter(own).collect::<Vec<_>>());
}

/// WGSL includes nothing, so kernels repeat functions; a repair of one is one of all.
#[test]
fn functions_of_one_signature_are_one_function() {
    let mut known: std::collections::BTreeMap<String, (PathBuf, String)> = std::collections::BTreeMap::new();
    let (mut faults, mut repeated) = (Vec::new(), 0);
    for path in files("shaders", "wgsl").into_iter().filter(|path| !path.starts_with("shaders/formats")) {
        let text = read(&path);
        // What reads a format is put in its place, and the same in none.
        let text = text.split("// --- weight format ---").next().unwrap_or_default();
        for function in text.split("\nfn ").skip(1).filter_map(|rest| rest.split_once("\n}\n")).map(|(text, _)| text) {
            let signature = function.lines().next().unwrap_or_default().to_owned();
            match known.get(&signature) {
                Some((other, body)) if body != function => {
                    faults.push(format!(
                        "{}: `fn {signature}` differs from that of {}",
                        path.display(),
                        other.display()
                    ));
                }
                Some(_) => repeated += 1,
                None => drop(known.insert(signature, (path.clone(), function.to_owned()))),
            }
        }
    }
    assert!(repeated > 20, "only {repeated} repeated functions were found");
    report(&faults);
}

#[test]
fn every_file_in_shaders_is_a_kernel_or_a_format() {
    let known: BTreeSet<String> = kernels::ALL
        .iter()
        .map(|kernel| format!("shaders/{}.wgsl", kernel.name))
        .chain(Format::ALL.iter().map(|format| format!("shaders/formats/{}.wgsl", format.name())))
        .collect();
    let strays = files("shaders", "wgsl").into_iter().map(|path| path.to_string_lossy().replace('\\', "/"));
    report(&strays.filter(|path| !known.contains(path)).collect::<Vec<_>>());
}

#[test]
fn every_op_has_a_paragraph_a_twin_and_cases() {
    let ops: String = files("src/ops", "rs").iter().map(read).collect();
    let twins = read("src/reference.rs");
    let rows: BTreeSet<&str> = gristmill::verify::cases().iter().map(|case| case.op).collect();
    let mut faults = Vec::new();
    for op in kernels::ALL.iter().map(|kernel| kernel.op).collect::<BTreeSet<_>>() {
        let has = |op: &str, text: &str| ['(', '<'].iter().any(|after| text.contains(&format!("pub fn {op}{after}")));
        if !has(op, &ops) {
            faults.push(format!("{op}: no `pub fn {op}(` in src/ops/"));
        }
        // Of a layer of few rows and of one of many the truth is the same.
        if !has(if op == "linear" { "matvec" } else { op }, &twins) {
            faults.push(format!("{op}: no twin `pub fn {op}(` in src/reference.rs"));
        }
        if !rows.contains(op) {
            faults.push(format!("{op}: no row in src/verify/cases/"));
        }
    }
    report(&faults);
}

/// The table of the README is what `gristmill verify --support` prints; here, that it names every op, type and case.
#[test]
fn the_readme_lists_what_is_verified() {
    let mut cases: std::collections::BTreeMap<(String, String), usize> = std::collections::BTreeMap::new();
    for case in gristmill::verify::cases() {
        *cases.entry((case.op.to_owned(), case.dtype.to_owned())).or_default() += 1;
    }
    let readme = read("README.md");
    let mut faults = Vec::new();
    for line in readme.lines().filter(|line| line.starts_with("| `") && line.matches(" | ").count() == 4) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let (op, dtype) = (cells[0].trim_matches('`').to_owned(), cells[1].to_owned());
        let count = cases.remove(&(op, dtype)).map_or("no".to_owned(), |count| count.to_string());
        faults.extend(
            [cells[2], cells[4]]
                .iter()
                .filter(|cell| cell.split([',', ' ']).next() != Some(&count))
                .map(|cell| format!("README.md: `{line}`: {count} cases, not `{cell}`")),
        );
    }
    faults.extend(cases.keys().map(|(op, dtype)| format!("README.md: no row for {op} on {dtype}")));
    report(&faults);
}

/// Where the CPU backend calls a twin, comparing it with the twin says nothing; such ops are listed as unverified.
#[test]
fn the_cpu_backend_names_the_ops_that_share_their_twin() {
    let twins = read("src/reference.rs");
    let twins: BTreeSet<&str> =
        twins.split("pub fn ").skip(1).filter_map(|text| text.split_once(['(', '<'])).map(|(name, _)| name).collect();
    let called: BTreeSet<String> = sources()
        .iter()
        .filter(|source| source.path.starts_with("src/cpu"))
        .flat_map(|source| functions(&source.text).into_iter().map(|found| (found, source.text.clone())))
        .filter(|((_, first, length), text)| {
            let body: String = text.lines().skip(first - 1).take(*length).collect();
            twins.iter().any(|twin| body.contains(&format!("reference::{twin}(")))
        })
        .map(|((name, ..), _)| name)
        .collect();
    let listed = read("src/cpu.rs");
    let (_, listed) = listed.split_once("SHARES_TWIN: &[&str] = &[").expect("a list in src/cpu.rs");
    let listed: BTreeSet<&str> = listed.split(']').next().unwrap_or_default().split('"').skip(1).step_by(2).collect();
    // `linear` and `matvec` are one function on the host.
    let unlisted =
        called.iter().filter(|name| !listed.contains(name.as_str())).map(|name| format!("{name}: not listed"));
    let stale = listed.iter().filter(|op| !called.contains(if **op == "matvec" { "linear" } else { **op }));
    report(&unlisted.chain(stale.map(|op| format!("{op}: listed, and shares no twin"))).collect::<Vec<_>>());
}

#[test]
fn broken_shaders_are_refused_with_file_line_and_reason() {
    let mut faults = Vec::new();
    let broken = files("tests/broken", "wgsl");
    assert!(broken.len() >= 20, "only {} broken shaders", broken.len());
    for path in broken.iter().map(|path| path.to_string_lossy().replace('\\', "/")) {
        let text = read(&path);
        let Some(expected) = text.lines().take(2).find_map(|line| line.strip_prefix("// expect: ")) else {
            faults.push(format!("{path}: no `// expect: TEXT` in its first two lines"));
            continue;
        };
        let Err(message) = reflect::reflect(&path, &text) else {
            faults.push(format!("{path}: accepted"));
            continue;
        };
        // What naga refuses it refuses at a line, the one that ends in `// here`.
        let line = text.lines().position(|line| line.ends_with("// here")).map(|i| format!("{path}:{}:", i + 1));
        let place = line.unwrap_or(path);
        if !message.contains(expected) || !message.contains(&place) {
            faults.push(format!("{place} expected `{expected}`, got: {message}"));
        }
    }
    report(&faults);
}

#[test]
fn only_the_engine_names_wgpu() {
    let engine = [
        "adapter",
        "cache",
        "cache/module",
        "encode",
        "gpu",
        "gpu/existing",
        "gpu/kept",
        "gpu/opening",
        "gpu/units",
        "lib",
        "pass",
        "pass/reading",
        "pass/recording",
    ];
    let engine = [engine.as_slice(), &["pool", "queue", "queue/seam", "tensor"]].concat();
    let engine: Vec<String> = engine.iter().map(|name| format!("src/{name}.rs")).collect();
    report(&uses(&["wgpu::"], &engine.iter().map(String::as_str).collect::<Vec<_>>()));
}

/// Submitting, polling, mapping and handlers have one owner, or a guest on a caller's device would do them somewhere. Our own
/// `submit` takes no arguments, and wgpu's always does.
#[test]
fn waiting_has_one_owner() {
    let allowed = ["src/gpu.rs", "src/queue.rs", "src/queue/seam.rs"];
    report(&uses(&[".poll(", "map_async", "on_uncaptured_error", "set_device_lost_callback"], &allowed));
    let submits = uses(&[".submit("], &allowed);
    report(
        &submits
            .into_iter()
            .filter(|line| line.contains(".submit(") && !line.contains(".submit()"))
            .collect::<Vec<_>>(),
    );
}

/// But for one call of a crate whose interface is pointers, one that hands a driver what it once gave, one that asks wgpu for
/// what it calls experimental, and one that compiles a kernel without checks, each in a file of its own.
#[test]
fn there_is_no_unsafe_code() {
    report(&uses(&["unsafe "], &["src/cache/module.rs", "src/cpu/gemm.rs", "src/gpu/kept.rs", "src/gpu/units.rs"]));
}

/// A bad shape, a bad file and a lost device are errors, and a library that panics makes them something else. What is not
/// on a product's path may: the twins index as they please, but they do not unwrap either.
#[test]
fn nothing_unwraps() {
    report(&uses(&[".unwrap()", ".expect(", "panic!(", "unreachable!(", "todo!(", "unimplemented!("], &[]));
}

#[test]
fn a_file_is_one_room() {
    const LINES: usize = 500;
    // Files that are longer, each with its reason.
    const LONGER: [(&str, &str); 0] = [];
    let long = files("src", "rs").into_iter().map(|path| (path.to_string_lossy().replace('\\', "/"), read(&path)));
    let long = long.filter(|(path, text)| text.lines().count() > LINES && !LONGER.iter().any(|(p, _)| p == path));
    report(&long.map(|(path, text)| format!("{path}: {} lines", text.lines().count())).collect::<Vec<_>>());
}

#[test]
fn a_function_fits_on_a_screen() {
    const LINES: usize = 70;
    let mut faults = Vec::new();
    for Source { path, text } in sources() {
        for (name, first, length) in functions(&text).into_iter().filter(|(_, _, length)| *length > LINES) {
            faults.push(format!("{path}:{first}: `{name}` has {length} lines"));
        }
    }
    report(&faults);
}

/// A type is learnt from a few lines that use it, and what is not run is wrong sooner or later. What is `pub` at the margin
/// of a file can be reached from outside: the lint `unreachable_pub` sees to that.
#[test]
fn every_public_type_has_an_example_that_runs() {
    // Types without one: file, name, and why.
    const WITHOUT: [(&str, &str, &str); 0] = [];
    let mut faults = Vec::new();
    let mut seen = 0;
    for Source { path, text } in sources().iter().filter(|source| !source.path.starts_with("src/bin/")) {
        let lines: Vec<&str> = text.lines().collect();
        for (at, name) in lines.iter().enumerate().filter_map(|(at, line)| Some((at, public_type(line)?))) {
            seen += 1;
            let excused = WITHOUT.iter().any(|(file, ty, _)| (*file, *ty) == (path.as_str(), name));
            if has_example(&lines[..at]) == excused {
                let what = if excused { "has an example; take it off the list" } else { "no example that runs" };
                faults.push(format!("{path}:{}: `{name}`: {what}", at + 1));
            }
        }
    }
    assert!(seen > 80, "only {seen} public types were found");
    report(&faults);
}

/// The name of the type that a line at the margin declares public.
fn public_type(line: &str) -> Option<&str> {
    let (kind, rest) = line.strip_prefix("pub ")?.split_once(' ')?;
    let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    ["struct", "enum", "trait", "type"].contains(&kind).then_some(name)
}

/// Whether the documentation at the end of `lines` has a block of code that is compiled and run.
fn has_example(lines: &[&str]) -> bool {
    let own = lines.iter().rev().take_while(|line| ["///", "#["].iter().any(|start| line.starts_with(start)));
    let fences: Vec<&str> = own.filter_map(|line| line.strip_prefix("/// ```")).collect();
    // From the end: a block closes before it opens.
    fences.iter().skip(1).step_by(2).any(|language| ["", "rust"].contains(language))
}

/// The names in the first column of the README's table under `heading`.
fn column_of_the_readme(heading: &str) -> BTreeSet<String> {
    let readme = read("README.md");
    let (_, table) = readme.split_once(heading).unwrap_or_else(|| panic!("README.md: no table `{heading}`"));
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    rows.filter_map(|line| line.split('`').nth(1)).map(str::to_owned).collect()
}

/// The lines of a section of Cargo.toml, without comments.
fn section_of_the_manifest(name: &str) -> Vec<String> {
    let manifest = format!("\n{}", read("Cargo.toml"));
    let (_, section) =
        manifest.split_once(&format!("\n[{name}]\n")).unwrap_or_else(|| panic!("Cargo.toml: no [{name}]"));
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    lines.filter(|line| line.contains('=') && !line.starts_with('#')).map(str::to_owned).collect()
}

/// The value of a key of `[package]`.
fn value_of_the_package(key: &str) -> String {
    let line = section_of_the_manifest("package").into_iter().find(|line| line.starts_with(&format!("{key} = ")));
    line.and_then(|line| line.split('"').nth(1).map(str::to_owned)).unwrap_or_else(|| panic!("Cargo.toml: no {key}"))
}

#[test]
fn the_readme_gives_a_reason_for_each_dependency_of_a_library() {
    let gpu = section_of_the_manifest("features").into_iter().find(|line| line.starts_with("gpu = "));
    let gpu = gpu.expect("a feature `gpu`");
    let dependencies: BTreeSet<String> = section_of_the_manifest("dependencies")
        .iter()
        .filter_map(|line| Some((line.split_once(" = ")?.0, line.contains("optional = true"))))
        .filter(|(name, optional)| !optional || gpu.contains(&format!("\"dep:{name}\"")))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert!(dependencies.len() > 5, "only {dependencies:?} were found");
    assert_eq!(column_of_the_readme("| crate | what for |\n"), dependencies);
}

#[test]
fn the_readme_states_the_versions_of_the_manifest() {
    let minor = |version: &str| version.trim_start_matches('=').split('.').take(2).collect::<Vec<_>>().join(".");
    let wgpu = section_of_the_manifest("dependencies").into_iter().find(|line| line.starts_with("wgpu = "));
    let wgpu = wgpu.and_then(|line| line.split('"').nth(1).map(minor)).expect("wgpu's version");
    let (own, rust) = (minor(&value_of_the_package("version")), value_of_the_package("rust-version"));
    let row = format!("| {own} | {wgpu} | {rust} |");
    assert!(read("README.md").lines().any(|line| line == row), "README.md: no row `{row}`");
}

/// (name, first line, lines) of every function, by counting braces.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let (mut found, mut open): (Vec<_>, Vec<(String, usize, i32)>) = (Vec::new(), Vec::new());
    let (mut depth, mut pending) = (0i32, None);
    for (number, line) in code(text) {
        let line = ["'{'", "'}'", "\"{\"", "\"}\""].iter().fold(line.to_owned(), |line, brace| line.replace(brace, ""));
        let after = line.split_once("fn ").filter(|(before, _)| before.split(' ').all(is_qualifier));
        if let Some((name, _)) = after.and_then(|(_, rest)| rest.split_once(['(', '<'])) {
            pending = Some((name.to_owned(), number));
        }
        for character in line.chars() {
            match character {
                '{' => {
                    depth += 1;
                    open.extend(pending.take().map(|(name, first)| (name, first, depth)));
                }
                '}' => {
                    if let Some((name, first, _)) = open.pop_if(|(_, _, at)| *at == depth) {
                        found.push((name, first, number - first + 1));
                    }
                    depth -= 1;
                }
                ';' if pending.is_some() && line.trim_end().ends_with(';') => pending = None,
                _ => (),
            }
        }
    }
    found
}

fn is_qualifier(word: &str) -> bool {
    matches!(word, "" | "pub" | "pub(crate)" | "pub(super)" | "const" | "async" | "unsafe" | "extern")
}
