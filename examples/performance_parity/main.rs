//! Fourteen rows with stable ids, each measured or skipped with the reason: what the documents that this project was made
//! from claim, with one threshold per row, the printed one.
//!
//! ```sh
//! cargo run --example performance_parity --features gpu --release           # exit code 1 if a row is BELOW its target
//! cargo run --example performance_parity --features gpu --release -- --quick   # shorter; judges nothing
//! ```
//!
//! `--json` prints the records as JSON lines, `--out FILE` appends them to a file. Rows of the GPU are judged on a GPU alone:
//! a software adapter shows what it measured and passes nothing.

mod cpu_rows;
mod gpu_rows;

use std::io::Write;
use std::process::ExitCode;

use gristmill::bench::{Entry, Environment, Estimate, ParityRow, Record};
use gristmill::{ComputeBackend, Error, GpuCompute, Result};

/// What every row gets to know.
pub(crate) struct Setup {
    /// An adapter, be it a software one; `None`: the reason.
    pub(crate) gpu: std::result::Result<GpuCompute, String>,
    pub(crate) cpu: GpuCompute,
    /// Fewer repetitions, smaller models, no judgement.
    pub(crate) quick: bool,
}

impl Setup {
    pub(crate) fn repetitions(&self) -> usize {
        if self.quick { 3 } else { 9 }
    }
}

/// What a row is, before it is measured.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) target: f64,
    pub(crate) unit: &'static str,
    pub(crate) higher: bool,
}

/// What came of it.
pub(crate) struct Found {
    pub(crate) value: Estimate,
    /// What else must be known to judge it.
    pub(crate) note: String,
}

/// Skipped, and why.
pub(crate) struct Skip(String);

pub(crate) type Outcome = std::result::Result<Found, Skip>;
pub(crate) type Run = fn(&Setup) -> Result<Outcome>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(if matches!(error, Error::BadOption { .. }) { 2 } else { 1 })
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode> {
    let (mut quick, mut json, mut out) = (false, false, None);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => quick = true,
            "--json" => json = true,
            "--out" => out = words.next(),
            _ => {
                let message = format!("{word}; there are --quick, --json and --out FILE");
                return Err(Error::BadOption { option: "argument", message });
            }
        }
    }
    let gpu = GpuCompute::new(ComputeBackend::Gpu).map_err(|error| error.to_string());
    let setup = Setup { gpu, cpu: GpuCompute::new(ComputeBackend::Cpu)?, quick };
    let environment = Environment::of(setup.gpu.as_ref().unwrap_or(&setup.cpu));
    if !json {
        println!("{}", heading(&setup, &environment));
    }
    let mut rows = Vec::new();
    let mut file = out.map(|path| open(path)).transpose()?;
    for (target, run) in gpu_rows::ROWS.iter().chain(&cpu_rows::ROWS) {
        eprintln!("{} {} ...", target.id, target.name);
        let row = judged(&setup, target, run(&setup)?);
        let line = Record::new(&environment, Entry::Parity(row.clone())).to_line()?;
        if let Some((path, file)) = &mut file {
            writeln!(file, "{line}").map_err(|error| io(path, &error))?;
        }
        println!("{}", if json { line } else { text(&row) });
        rows.push(row);
    }
    if !json {
        milestones(&setup, &rows).iter().for_each(|line| println!("{line}"));
    }
    let below = rows.iter().filter(|row| row.status == "BELOW").count();
    let count = |status: &str| rows.iter().filter(|row| row.status == status).count();
    eprintln!("{} rows: {} PASS, {below} BELOW, {} SKIP", rows.len(), count("PASS"), count("SKIP"));
    Ok(if below > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn io(path: &str, error: &std::io::Error) -> Error {
    Error::Io { path: path.into(), message: error.to_string() }
}

fn open(path: &String) -> Result<(&String, std::fs::File)> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    Ok((path, file.map_err(|error| io(path, &error))?))
}

fn heading(setup: &Setup, environment: &Environment) -> String {
    let adapter = match &setup.gpu {
        Ok(gpu) => gpu.adapter().map_or(String::new(), ToString::to_string),
        Err(reason) => format!("none: {reason}"),
    };
    let Environment { processor, threads, date, .. } = environment;
    let quick = if setup.quick { "\nquick: shorter runs, nothing is judged" } else { "" };
    format!("adapter: {adapter}\nprocessor: {processor}, {threads} used\n{date}{quick}\n")
}

/// The printed target is the only threshold there is.
fn judged(setup: &Setup, target: &Target, outcome: Outcome) -> ParityRow {
    let (value, mut note) = match outcome {
        Ok(Found { value, note }) => (Some(value), note),
        Err(Skip(reason)) => (None, reason),
    };
    let reached = value.map(|v| if target.higher { v.median >= target.target } else { v.median <= target.target });
    let software = setup.gpu.as_ref().ok().and_then(GpuCompute::adapter).is_some_and(|adapter| adapter.software);
    let status = match reached {
        None => "SKIP",
        Some(_) if target.id.starts_with("GPU") && software => {
            note = format!("not a GPU; {note}");
            "SKIP"
        }
        Some(_) if setup.quick => {
            note = format!("quick; {note}");
            "SKIP"
        }
        Some(true) => "PASS",
        Some(false) => "BELOW",
    };
    ParityRow {
        id: target.id.to_owned(),
        name: target.name.to_owned(),
        status: status.to_owned(),
        note,
        value,
        target: target.target,
        better: if target.higher { "higher" } else { "lower" }.to_owned(),
        unit: target.unit.to_owned(),
        quick: setup.quick,
    }
}

fn text(row: &ParityRow) -> String {
    let sign = if row.better == "higher" { ">=" } else { "<=" };
    let value = row.value.map_or("-".to_owned(), |v| format!("{:.4} ({:.4} to {:.4})", v.median, v.low, v.high));
    let (target, unit) = (row.target, &row.unit);
    format!(
        "{:5}  {:8} {:34} {value} {unit}, target {sign} {target} {unit}\n       {}",
        row.status, row.id, row.name, row.note
    )
}

/// Computed from the rows. M3 and M4 are about a model of 2.7 billion weights in four bits beside llama.cpp.
fn milestones(setup: &Setup, rows: &[ParityRow]) -> [String; 4] {
    let status = |id: &str| rows.iter().find(|row| row.id == id).map_or("SKIP", |row| row.status.as_str());
    let value = |id: &str| rows.iter().find(|row| row.id == id).and_then(|row| row.value).map(|value| value.median);
    let hardware = setup.gpu.as_ref().ok().and_then(GpuCompute::adapter).is_some_and(|adapter| !adapter.software);
    let m2 = match value("GPU-006") {
        Some(_) if setup.quick => "not judged in a quick run".to_owned(),
        Some(rate) if hardware && rate > 0.0 => format!("reached, {rate:.1} tok/s, GPT-2 small"),
        Some(rate) => format!("not a GPU, {rate:.1} tok/s"),
        None => "not run here".to_owned(),
    };
    let not_run = "not run here: it takes a model of 2.7 billion weights in four bits, and llama.cpp, on one GPU";
    [
        format!("\nM1  20 tok/s on the CPU: {}", status("CPU-M1")),
        format!("M2  tokens on a GPU: {m2}"),
        format!("M3  128 tok/s and half of llama.cpp: {not_run}"),
        format!("M4  230 tok/s and nine tenths of llama.cpp: {not_run}"),
    ]
}
