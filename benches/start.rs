//! How long a model takes to its first token, in fresh processes: cold, with the pipelines that gristmill keeps, with what the
//! driver itself keeps, and with both. The four take turns. Whether a file of the model is in the page cache is not looked
//! at: after the first turn it is. Uses a software adapter where there is no other one.
//! `cargo bench --bench start -- [--repetitions N] [--json] [--out FILE] [-- ARGUMENTS of gristmill generate]`

use std::path::Path;
use std::process::{Command, ExitCode};

use gristmill::bench::{Environment, Estimate, ratios};
use gristmill::{ComputeBackend, Error, GpuCompute, Result};
use serde_json::{Value, json};

/// Runs of each way.
const REPETITIONS: usize = 9;

/// Name, whether our pipelines are kept, whether the driver keeps its own.
const WAYS: [(&str, bool, bool); 4] =
    [("cold", false, false), ("pipelines kept", true, false), ("driver's cache", false, true), ("both", true, true)];

/// What a run says of itself, in seconds: until the model is loaded, and from then to the first token.
#[derive(Clone, Copy)]
struct Times {
    load: f64,
    first: f64,
}

fn failed(message: String) -> Error {
    Error::Io { path: env!("CARGO_BIN_EXE_gristmill").into(), message }
}

/// One process.
fn start(folder: &Path, (_, ours, drivers): (&str, bool, bool), arguments: &[String]) -> Result<Times> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gristmill"));
    command.args(["generate", "--json", "--backend", "gpu", "-n", "1", "--temperature", "0"]).args(arguments);
    let kept = if ours { folder.join("ours") } else { "".into() };
    command.env("GRISTMILL_PIPELINES", kept);
    // Mesa's, and NVIDIA's under its two names.
    command
        .env("MESA_SHADER_CACHE_DIR", folder.join("driver"))
        .env("__GL_SHADER_DISK_CACHE_PATH", folder.join("driver"));
    command.env("MESA_SHADER_CACHE_DISABLE", if drivers { "false" } else { "true" });
    command.env("__GL_SHADER_DISK_CACHE", if drivers { "1" } else { "0" });
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    let document: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))?;
    let seconds = |key: &str| document["timings"][key].as_f64().ok_or_else(|| failed(format!("no {key}: {document}")));
    Ok(Times { load: seconds("load_s")?, first: seconds("time_to_first_token_s")? })
}

/// Every way's times, turn by turn.
fn measure(repetitions: usize, arguments: &[String]) -> Result<Vec<Vec<Times>>> {
    let folder = std::env::temp_dir().join(format!("gristmill-start-{}", std::process::id()));
    let io = |error: std::io::Error| Error::Io { path: folder.clone(), message: error.to_string() };
    std::fs::create_dir_all(folder.join("driver")).map_err(io)?;
    let turn = || WAYS.iter().map(|&way| start(&folder, way, arguments)).collect::<Result<Vec<_>>>();
    // What is kept is made first.
    turn()?;
    let mut samples = vec![Vec::new(); WAYS.len()];
    for repetition in 0..repetitions {
        for (samples, times) in samples.iter_mut().zip(turn()?) {
            samples.push(times);
        }
        eprintln!("turn {} of {repetitions}", repetition + 1);
    }
    std::fs::remove_dir_all(&folder).map_err(io)?;
    Ok(samples)
}

/// The table, and the document.
fn report(environment: &Environment, samples: &[Vec<Times>]) -> Option<(String, Value)> {
    let of = |way: &[Times], what: fn(Times) -> f64| way.iter().map(|&times| what(times)).collect::<Vec<f64>>();
    let whole = |times: Times| times.load + times.first;
    let cold = of(samples.first()?, whole);
    let adapter = environment.adapter.as_ref().map(|adapter| format!("{}, {}", adapter.name, adapter.driver))?;
    let mut text = format!(
        "{adapter}; {}; {}\n{}\n{} turns; seconds, medians with 95 % intervals; the last column pair by pair\n\n{:<16} {:>24} {:>24} {:>24} {:>22}\n",
        environment.date,
        environment.commit.as_deref().unwrap_or("no commit"),
        environment.command,
        cold.len(),
        "",
        "load",
        "first token after it",
        "together",
        "cold / this"
    );
    let mut ways = Vec::new();
    for ((name, ..), way) in WAYS.iter().zip(samples) {
        let estimate = |what| Estimate::of(&of(way, what));
        let (load, first, together) = (estimate(|t| t.load)?, estimate(|t| t.first)?, estimate(whole)?);
        let ratio = ratios(&cold, &of(way, whole))?;
        let show =
            |e: Estimate, places: usize| format!("{:.places$} ({:.places$} to {:.places$})", e.median, e.low, e.high);
        text += &format!(
            "{name:<16} {:>24} {:>24} {:>24} {:>22}\n",
            show(load, 3),
            show(first, 3),
            show(together, 3),
            show(ratio, 2)
        );
        ways.push(json!({
            "way": name, "load_s": load, "first_token_s": first, "together_s": together, "cold_over_this": ratio,
        }));
    }
    Some((text, json!({ "environment": environment, "turns": cold.len(), "ways": ways })))
}

fn run(arguments: &[String]) -> Result<()> {
    let (mine, theirs) = match arguments.iter().position(|word| word == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (arguments, [].as_slice()),
    };
    let value = |name: &str| mine.iter().position(|word| word == name).and_then(|at| mine.get(at + 1));
    let repetitions = value("--repetitions").and_then(|n| n.parse().ok()).unwrap_or(REPETITIONS);
    let command = format!("cargo bench --bench start -- {}", arguments.join(" "));
    let environment = Environment { command, ..Environment::of(&GpuCompute::new(ComputeBackend::Gpu)?) };
    let samples = measure(repetitions, theirs)?;
    let (text, document) = report(&environment, &samples).ok_or_else(|| failed("no samples".to_owned()))?;
    let shown = if mine.iter().any(|word| word == "--json") { format!("{document:#}\n") } else { text };
    match value("--out") {
        None => print!("{shown}"),
        Some(path) => {
            std::fs::write(path, shown).map_err(|error| Error::Io { path: path.into(), message: error.to_string() })?
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    // Cargo adds a word of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
