//! The mutants: that there are enough of them, that ten of them are caught, and that what changes nothing is not. All of
//! them: `gristmill mutants`. Mistakes in the runtime: `tests/mutants/runtime.py`.
//!
//! Without an adapter nothing can be caught, which is said aloud, and is an error under `GRISTMILL_REQUIRE_ADAPTER=1`.

// Whether wgpu's types are `Sync` is a question more than 128 types deep.
#![recursion_limit = "256"]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use gristmill::kernel::{Edit, kernels};
use gristmill::verify::mutants::{self, Examiner, Mutant, Operator, Survey, Verdict};
use gristmill::{ComputeBackend, GpuCompute};
use serde_json::Value;

/// Mutants that every change runs, of operations whose cases are quick.
const TEN: usize = 10;
const OPS: &str = "add,argmax,embed,gelu,layer_norm,rms_norm,rope,softmax";

fn has_adapter() -> bool {
    let Err(error) = GpuCompute::new(ComputeBackend::Gpu) else { return true };
    let required = std::env::var("GRISTMILL_REQUIRE_ADAPTER").is_ok_and(|value| value == "1");
    assert!(!required, "GRISTMILL_REQUIRE_ADAPTER=1, and: {error}");
    eprintln!("SKIPPED, not passed: {error}");
    false
}

fn list(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let Value::Array(entries) = serde_json::from_str(&text).unwrap() else { panic!("{path} is no list") };
    entries
}

/// Whether an entry of the survivors' list is this mutant.
fn is_entry(entry: &Value, mutant: &Mutant) -> bool {
    entry["file"] == mutant.path
        && entry["before"] == mutant.before
        && entry["after"] == mutant.after
        && entry["occurrence"] == mutant.occurrence
}

#[test]
fn there_are_mutants_of_every_kernel_and_every_kind() {
    let all = mutants::all();
    assert!(all.len() >= 200, "{}", all.len());
    let mut of_operator: BTreeMap<Operator, usize> = BTreeMap::new();
    let mut of_file: BTreeMap<&str, usize> = BTreeMap::new();
    for mutant in &all {
        *of_operator.entry(mutant.operator).or_default() += 1;
        *of_file.entry(mutant.stem()).or_default() += 1;
        assert_ne!(mutant.before, mutant.after, "{mutant:?}");
    }
    assert_eq!(of_operator.len(), Operator::ALL.len(), "{of_operator:?}");
    for kernel in kernels::ALL {
        assert!(of_file.get(kernel.name).is_some_and(|&count| count >= 5), "{}: {of_file:?}", kernel.name);
    }
    let edits: BTreeSet<String> = all.iter().map(|mutant| format!("{:?}", mutant.edit)).collect();
    assert_eq!(edits.len(), all.len(), "no two are the same");
}

#[test]
fn the_same_files_and_seed_give_the_same_mutants() {
    let all = mutants::all();
    assert_eq!(all, mutants::all());
    let sample = mutants::sample(&all, 40, 1);
    assert_eq!(sample, mutants::sample(&all, 40, 1));
    assert_ne!(sample, mutants::sample(&all, 40, 2));
    let distinct: BTreeSet<usize> = sample.iter().copied().collect();
    assert_eq!(distinct.len(), 40);
    let operators: BTreeSet<Operator> = sample.iter().map(|&i| all[i].operator).collect();
    assert_eq!(operators.len(), Operator::ALL.len(), "every kind has its turn");
    assert_eq!(mutants::sample(&all, all.len() + 1, 0), (0..all.len()).collect::<Vec<_>>());
}

#[test]
fn what_changes_nothing_survives() {
    if !has_adapter() {
        return;
    }
    let mutant = mutants::all().into_iter().find(|mutant| mutant.op == Some("relu")).unwrap();
    let survey = Survey::run(None, Some(&BTreeSet::from(["relu"])), |_| ()).unwrap();
    assert!(survey.failures.is_empty(), "{:?}", survey.failures);
    let jobs: Vec<_> = survey.jobs(&mutant).into_iter().filter(|job| survey.time(job).is_some()).collect();
    assert!(jobs.len() >= 8, "{jobs:?}");
    let with = |text: &str| {
        let at = mutant.edit.span.start;
        let edit = Edit { file: mutant.edit.file, span: at..at, text: text.to_owned() };
        Examiner::new(None).examine(&Mutant { edit, ..mutant.clone() }, &jobs, |_| ()).unwrap()
    };
    assert_eq!(with(" /* nothing */ "), Verdict::Survived);
    assert_eq!(with(""), Verdict::Unseen, "the text is as it was");
    let caught = Examiner::new(None).examine(&mutant, &jobs, |_| ()).unwrap();
    assert!(matches!(caught, Verdict::Caught { .. }), "{mutant:?}: {caught:?}");
}

/// The first seed whose ten are not known to survive: which ones it draws changes with every edit of a shader.
fn seed_of_ten() -> u64 {
    let absent = mutants::absent(None).unwrap();
    let is_wanted = |mutant: &Mutant| {
        mutant.op.is_some_and(|op| OPS.split(',').any(|wanted| wanted == op)) && !absent.contains(mutant.stem())
    };
    let wanted: Vec<Mutant> = mutants::all().into_iter().filter(is_wanted).collect();
    let known = list("tests/mutants/survivors.json");
    let survives = |mutant: &Mutant| known.iter().any(|entry| is_entry(entry, mutant));
    let all_caught = |&seed: &u64| !mutants::sample(&wanted, TEN, seed).iter().any(|&at| survives(&wanted[at]));
    (0..1_000).find(all_caught).expect("ten that are not known to survive")
}

#[test]
fn ten_mutants_are_caught() {
    if !has_adapter() {
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_gristmill"));
    let (ten, seed) = (TEN.to_string(), seed_of_ten().to_string());
    command.args(["mutants", "--json", "--op", OPS, "--sample", &ten, "--seed", &seed]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let alive = report["rows"].as_array().unwrap().iter().filter(|row| row["case"].is_null());
    assert_eq!(alive.collect::<Vec<_>>(), Vec::<&Value>::new());
    assert_eq!((report["mutants"].as_u64(), report["caught"].as_u64()), (Some(10), Some(10)), "{report:#}");
    assert_eq!(output.status.code(), Some(0));
    let operators: BTreeSet<&str> =
        report["rows"].as_array().unwrap().iter().filter_map(|row| row["operator"].as_str()).collect();
    assert_eq!(operators.len(), TEN, "ten kinds");
    let files: BTreeSet<&str> =
        report["rows"].as_array().unwrap().iter().filter_map(|row| row["file"].as_str()).collect();
    assert!(files.len() >= 5, "{files:?}");
}

#[test]
fn every_known_survivor_is_a_mutant_and_has_an_argument() {
    let all = mutants::all();
    for entry in list("tests/mutants/survivors.json") {
        let text = |key: &str| entry[key].as_str().unwrap_or_else(|| panic!("{entry}: no `{key}`"));
        assert!(matches!(text("reason"), "equivalent" | "invisible"), "{entry}");
        assert!(text("why").len() > 20, "{entry}");
        assert!(all.iter().any(|mutant| is_entry(&entry, mutant)), "no such mutant any more: {entry:#}");
    }
}

#[test]
fn every_mistake_in_the_runtime_still_has_its_text() {
    let mistakes = list("tests/mutants/runtime.json");
    assert!(mistakes.len() >= 20);
    for mistake in mistakes {
        let text = |key: &str| mistake[key].as_str().unwrap_or_else(|| panic!("{mistake}: no `{key}`"));
        let source = std::fs::read_to_string(text("file")).unwrap();
        assert_eq!(source.matches(text("before")).count(), 1, "{}: its text must stand once", text("name"));
        assert!(mistake["tests"].as_array().is_some_and(|tests| !tests.is_empty()), "{mistake}");
    }
}
