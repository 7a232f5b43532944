//! What is printed: text and tables on stdout, notes on stderr, JSON documents on stdout or in a file.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use gristmill::{Arithmetic, GpuCompute};
use serde_json::{Value, json};

use crate::failure::Failure;

/// How results are given out.
#[derive(clap::Args)]
pub(crate) struct Form {
    /// Print one JSON document on stdout instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the JSON document to FILE; text still goes to stdout unless --json is given
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

impl Form {
    /// Gives out a document: to the file if there is one, else to stdout if it is to be JSON.
    pub(crate) fn document(&self, document: &Value) -> Result<(), Failure> {
        match &self.out {
            Some(path) => write_file(path, document),
            None if self.json => print(&format!("{document:#}\n")),
            None => Ok(()),
        }
    }
}

fn write_file(path: &Path, document: &Value) -> Result<(), Failure> {
    std::fs::write(path, format!("{document:#}\n")).map_err(|error| {
        let message = error.to_string();
        gristmill::Error::Io { path: path.to_owned(), message }.into()
    })
}

/// Prints text at once. `print!` would panic where the reader has gone.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// A line on stderr; if nobody can read it, it is dropped.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Rows of equally many cells as lines, columns aligned; the first column to the left, all others to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).filter_map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<String>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// The backend in words, with what a reader must know to judge its speed.
pub(crate) fn backend_line(gpu: &GpuCompute) -> String {
    let backend = match gpu.adapter() {
        Some(adapter) => format!("gpu: {adapter}"),
        None => match rayon::current_num_threads() {
            1 => format!("cpu: 1 thread ({})", gpu.reason()),
            threads => format!("cpu: {threads} threads ({})", gpu.reason()),
        },
    };
    gpu.arithmetic_note().map_or(backend.clone(), |note| format!("{backend}, {note}"))
}

/// `backend`, `backend_reason`, `arithmetic` and `adapter` of a document.
pub(crate) fn backend_json(gpu: &GpuCompute) -> [(&'static str, Value); 4] {
    let arithmetic = if gpu.arithmetic() == Arithmetic::F16 { "f16" } else { "f32" };
    [
        ("arithmetic", json!(arithmetic)),
        ("backend", json!(if gpu.is_gpu() { "gpu" } else { "cpu" })),
        ("backend_reason", json!(gpu.reason())),
        ("adapter", gpu.adapter().map_or(Value::Null, adapter_json)),
    ]
}

pub(crate) fn adapter_json(adapter: &gristmill::AdapterFacts) -> Value {
    json!({
        "name": adapter.name,
        "kind": adapter.kind,
        "backend": adapter.backend,
        "driver": adapter.driver,
        "software": adapter.software,
    })
}

/// An object from pairs.
pub(crate) fn object(pairs: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}
