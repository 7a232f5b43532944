//! Benches from outside: documents, exit codes and tables. How fast anything is, no test says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use gristmill::bench::{Entry, Record, parse_records};
use gristmill::{ComputeBackend, GpuCompute};
use serde_json::Value;

fn run(program: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).output().expect("the program starts")
}

fn gristmill(args: &[&str]) -> Output {
    run(Path::new(env!("CARGO_BIN_EXE_gristmill")), args)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn ends_with(output: &Output, code: i32) {
    let (said, printed) = (String::from_utf8_lossy(&output.stderr), stdout(output));
    assert_eq!(output.status.code(), Some(code), "{said}\n{printed}");
}

/// Where an adapter is missing, which is said aloud, the CPU backend.
fn backend() -> &'static str {
    match GpuCompute::new(ComputeBackend::Gpu) {
        Ok(_) => "gpu",
        Err(error) if std::env::var_os("GRISTMILL_REQUIRE_ADAPTER").is_some() => panic!("{error}"),
        Err(error) => {
            eprintln!("SKIPPED on an adapter: {error}");
            "cpu"
        }
    }
}

/// A file of this test's own, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("gristmill-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&path);
        Scratch(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_baseline_decides_the_exit_code() {
    let (kept, doctored) = (Scratch::new("kernels.jsonl"), Scratch::new("doctored.jsonl"));
    let bench = |more: &[&str]| {
        let common = ["bench", "kernels", "--only", "layer_norm m=1,n=768", "-r", "7", "--backend", backend()];
        gristmill(&[&common, more].concat())
    };
    let first = bench(&["--json", "--out", kept.path()]);
    ends_with(&first, 0);
    let records = parse_records(&stdout(&first)).unwrap();
    // And add_layer_norm, whose name ends in the same.
    assert_eq!(records.len(), 2);
    assert_eq!(fs::read_to_string(&kept.0).unwrap(), stdout(&first));
    // As if it had been a hundred times as fast then, or as slow: beyond all noise.
    for (factor, code, word) in [(0.01, 1, " slower"), (100.0, 0, " faster")] {
        let scaled = records.iter().map(|record| {
            let mut record = record.clone();
            if let Entry::Kernel(row) = &mut record.entry {
                row.relative = row.relative.map(|v| v * factor);
            }
            record.to_line().unwrap() + "\n"
        });
        fs::write(&doctored.0, scaled.collect::<String>()).unwrap();
        let again = bench(&["--baseline", doctored.path()]);
        ends_with(&again, code);
        assert_eq!(stdout(&again).matches(word).count(), 2, "{}", stdout(&again));
    }
    fs::write(&doctored.0, "{}\n").unwrap();
    ends_with(&bench(&["--baseline", doctored.path()]), 5);
    ends_with(&gristmill(&["bench", "kernels", "--op", "wish", "--backend", "cpu"]), 2);
}

#[test]
fn kernels_are_those_of_the_tuning_that_is_given() {
    if backend() == "cpu" {
        eprintln!("SKIPPED: the CPU backend has no knobs");
        return;
    }
    let tuning = Scratch::new("tuning.txt");
    let only = ["--only", "matvec m=1,k=768,n=2304 f32", "--only", "layer_norm m=1,n=768"];
    let kernels = |more: &[&str]| {
        let output = gristmill(&[&["bench", "kernels", "-r", "7", "--json"], &only[..], more].concat());
        ends_with(&output, 0);
        let rows = parse_records(&stdout(&output)).unwrap().into_iter();
        let kernels = rows.filter_map(|record| match record.entry {
            Entry::Kernel(row) => Some(row.kernels.join("+")),
            _ => None,
        });
        kernels.collect::<Vec<_>>()
    };
    let before = kernels(&[]);
    assert_eq!(before.len(), 3, "{before:?}");
    fs::write(&tuning.0, "matvec: kernel=matvec\n").unwrap();
    let after = kernels(&["--tuning", tuning.path()]);
    assert!(after[0] == "matvec" && after[1..] == before[1..], "{before:?}, {after:?}");
    fs::write(&tuning.0, "matvec: kernel=wish\n").unwrap();
    ends_with(&gristmill(&["bench", "kernels", "--tuning", tuning.path()]), 5);
}

#[test]
fn a_model_is_timed_in_llama_benchs_columns() {
    let common = ["bench", "model", "-p", "8", "-n", "4", "-d", "0,5", "-r", "2", "--backend", "cpu", "-o"];
    let bench = |form: &str| {
        let output = gristmill(&[&common[..], &[form]].concat());
        ends_with(&output, 0);
        stdout(&output)
    };
    let rows: Value = serde_json::from_str(&bench("json")).unwrap();
    let rows = rows.as_array().unwrap();
    let tests = rows.iter().map(|row| [&row["n_prompt"], &row["n_gen"], &row["n_depth"]].map(|v| v.as_u64().unwrap()));
    assert_eq!(tests.collect::<Vec<_>>(), [[8, 0, 0], [0, 4, 0], [8, 0, 5], [0, 4, 5]]);
    let columns = [
        "model_type",
        "model_size",
        "model_n_params",
        "backends",
        "gpu_info",
        "type_k",
        "type_v",
        "flash_attn",
        "avg_ns",
        "stddev_ns",
        "avg_ts",
        "stddev_ts",
        "samples_ns",
        "samples_ts",
        "build_number",
    ];
    assert!(columns.iter().all(|column| rows[0].get(column).is_some()), "{}", rows[0]);
    assert_eq!(parse_records(&bench("jsonl")).unwrap().len(), 4);
    let table = bench("md");
    assert!(table.contains("| pp8 |") && table.contains("| tg4 @ d5 |"), "{table}");
    assert_eq!(bench("csv").lines().count(), 5);
    // The last is the largest number there is: nothing may wrap.
    for tokens in ["100000", "18446744073709551615"] {
        ends_with(&gristmill(&["bench", "model", "-p", tokens, "--backend", "cpu"]), 2);
        ends_with(&gristmill(&["bench", "model", "-p", "0", "-n", "1", "-d", tokens, "--backend", "cpu"]), 2);
    }
}

#[test]
fn a_profile_is_a_record_of_each_prompt_and_of_a_token() {
    if backend() == "cpu" {
        eprintln!("SKIPPED: no clock for single dispatches on the CPU backend");
        return;
    }
    let (kept, config) = (Scratch::new("profile.jsonl"), Scratch::new("config.json"));
    let text =
        r#"{ "model_type": "gpt2", "vocab_size": 50, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2 }"#;
    fs::write(&config.0, text).unwrap();
    let common =
        ["bench", "model", "--random", config.path(), "-p", "8,12", "-n", "4", "-d", "5", "-r", "1", "--profile"];
    let output = gristmill(&[&common[..], &["-o", "jsonl", "--out", kept.path(), "--backend", "gpu"]].concat());
    ends_with(&output, 0);
    assert_eq!(fs::read_to_string(&kept.0).unwrap(), stdout(&output));
    let records = parse_records(&stdout(&output)).unwrap();
    let counts = records.iter().filter_map(|record| match &record.entry {
        Entry::Profile(row) => Some((row.n_prompt, row.n_gen, row.rows.is_empty())),
        _ => None,
    });
    let found: Vec<_> = counts.collect();
    if found.is_empty() {
        eprintln!("SKIPPED: no clock for single dispatches on this adapter");
        return;
    }
    assert_eq!((records.len(), found), (6, vec![(8, 0, false), (12, 0, false), (0, 4, false)]));
}

#[test]
fn the_readme_shows_what_was_recorded() {
    let output = gristmill(&["bench", "table"]);
    ends_with(&output, 0);
    let readme = fs::read_to_string("README.md").unwrap();
    let shown = readme.split("<!-- gristmill bench table -->\n").nth(1).unwrap();
    let shown = shown.split("<!-- end of bench table -->").next().unwrap();
    assert!(
        shown == stdout(&output),
        "the README's tables are not those of `gristmill bench table`; put its output there"
    );
}

#[test]
fn parity_has_fourteen_rows_and_none_is_missing() {
    let example = Path::new(env!("CARGO_BIN_EXE_gristmill")).with_file_name("examples").join("performance_parity");
    let example = example.with_extension(std::env::consts::EXE_EXTENSION);
    let kept = Scratch::new("parity.jsonl");
    let output = run(&example, &["--quick", "--json", "--out", kept.path()]);
    ends_with(&output, 0);
    let records: Vec<Record> = parse_records(&stdout(&output)).unwrap();
    assert_eq!(fs::read_to_string(&kept.0).unwrap(), stdout(&output));
    let rows = records.iter().filter_map(|record| match &record.entry {
        Entry::Parity(row) => Some(row),
        _ => None,
    });
    let rows: Vec<_> = rows.collect();
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let expected = [
        "GPU-001",
        "GPU-002",
        "GPU-003",
        "GPU-004",
        "GPU-005",
        "GPU-006",
        "IMP-001",
        "IMP-002",
        "IMP-003",
        "IMP-004",
        "IMP-005",
        "CPU-QUANT",
        "CPU-E2E",
        "CPU-M1",
    ];
    assert_eq!(ids, expected);
    // A quick run judges nothing, and what is skipped says why.
    assert!(rows.iter().all(|row| row.status == "SKIP" && row.quick && !row.note.is_empty()));
    // What is measured is measured, what is not built is not.
    let not_built = ["IMP-002"];
    for row in rows.iter().filter(|row| backend() == "gpu" || !row.id.starts_with("GPU")) {
        assert_eq!(row.value.is_none(), not_built.contains(&row.id.as_str()), "{}: {}", row.id, row.note);
    }
    ends_with(&run(&example, &["--slow"]), 2);
}
