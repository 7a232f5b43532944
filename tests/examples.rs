//! Every example, run as a user runs it. Each compares its own results with plain loops and ends with an error where they are
//! wrong; here is what it must say besides. (`performance_parity` has its test in tests/bench_cli.rs.)

use std::path::{Path, PathBuf};
use std::process::Command;

mod common;

/// What an example prints; `None` where there is no adapter, said loudly.
fn run(name: &str, args: &[&str]) -> Option<String> {
    common::gpu()?;
    let example = Path::new(env!("CARGO_BIN_EXE_gristmill")).with_file_name("examples").join(name);
    let example: PathBuf = example.with_extension(std::env::consts::EXE_EXTENSION);
    let output = Command::new(&example).args(args).output().unwrap_or_else(|e| panic!("{}: {e}", example.display()));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{name}: {}\n{out}\n{err}", output.status);
    Some(out)
}

#[test]
fn every_example_has_a_test() {
    let here = std::fs::read_to_string(file!()).expect("this file")
        + &std::fs::read_to_string("tests/bench_cli.rs").expect("a file");
    for entry in std::fs::read_dir("examples").expect("a folder") {
        let path = entry.expect("an entry").path();
        // Pages are read, and nothing in them runs.
        if path.extension().is_some_and(|end| end == "md") {
            continue;
        }
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        assert!(here.contains(&format!("\"{name}\"")), "no test runs the example {name}");
    }
}

#[test]
fn matmul() {
    let Some(out) = run("matmul", &[]) else { return };
    assert!(out.contains("4257 elements verified"), "{out}");
}

#[test]
fn guests_submit_poll_and_map_nothing() {
    for (name, verified) in [("own_device", "864 elements verified"), ("record_into_encoder", "399 elements verified")]
    {
        let Some(out) = run(name, &[]) else { return };
        let before = "before the submit: submits 0, polls 0, maps 0";
        assert!(out.contains(before) && out.contains(verified), "{name}: {out}");
    }
}

#[test]
fn own_kernel() {
    let Some(out) = run("own_kernel", &[]) else { return };
    for said in [
        "185 elements verified",
        "`gain` is read by the kernel, and was given by `write`",
        "no buffer `bias`; there are `gain`, `x`",
        "parameter `m` is u32, and I32(-1) is not",
        "no value for the parameter `m`",
        "no definition in scope for identifier: `clmap`",
        "hard_swish.wgsl:27:",
    ] {
        assert!(out.contains(said), "`{said}` is not in\n{out}");
    }
}

#[test]
fn async_pipeline() {
    let Some(out) = run("async_pipeline", &[]) else { return };
    assert!(out.contains("48 products") && out.contains("all verified"), "{out}");
}

#[test]
fn generate() {
    let Some(out) = run("generate", &[]) else { return };
    let text = std::fs::read_to_string("models/demo/expected.json").expect("expected.json");
    let expected: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
    let whole = format!(
        "{}{}",
        expected["prompt"].as_str().expect("a prompt"),
        expected["greedy"]["text"].as_str().expect("a text")
    );
    let text = out.trim_end();
    assert!(whole.starts_with(text) && text.len() > 100, "{out} is not the beginning of {whole}");
}
