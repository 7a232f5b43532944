//! `bench`: how fast, of what this device can do at most.

mod kernels;
mod model;
mod table;

use std::path::PathBuf;

use gristmill::bench::{Environment, Record};
use gristmill::{Error, GpuCompute};

use crate::failure::{Failure, Outcome};
use crate::output::{note, print};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Time each kernel at shapes of the models it is for
    #[command(after_help = crate::EXIT_CODES)]
    Kernels(kernels::Args),
    /// Time a model reading and writing, by llama-bench's tests, flags and columns
    #[command(after_help = crate::EXIT_CODES)]
    Model(model::Args),
    /// Print the tables of the README from committed records
    Table(table::Args),
}

pub(crate) fn run(command: &Command) -> Result<Outcome, Failure> {
    match command {
        Command::Kernels(args) => kernels::run(args),
        Command::Model(args) => model::run(args),
        Command::Table(args) => table::run(args),
    }
}

/// Where records go.
#[derive(clap::Args)]
struct Keep {
    /// Append the records to FILE, as JSON lines
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Append the records to DIR/<adapter>/<date>.jsonl
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

impl Keep {
    fn paths(&self, environment: &Environment) -> impl Iterator<Item = PathBuf> {
        let day = environment.date.split('T').next().unwrap_or_default();
        let dated = self.record.as_ref().map(|dir| dir.join(environment.folder()).join(format!("{day}.jsonl")));
        self.out.clone().into_iter().chain(dated)
    }

    fn keep(&self, environment: &Environment, records: &[Record]) -> Result<(), Failure> {
        self.append(environment, records)?;
        self.say(environment, records.len());
        Ok(())
    }

    fn append(&self, environment: &Environment, records: &[Record]) -> Result<(), Failure> {
        let lines = lines(records)?;
        for path in self.paths(environment) {
            let failed = |error: std::io::Error| Error::Io { path: path.clone(), message: error.to_string() };
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(failed)?;
            }
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
            std::io::Write::write_all(&mut file, lines.as_bytes()).map_err(failed)?;
        }
        Ok(())
    }

    fn say(&self, environment: &Environment, count: usize) {
        for path in self.paths(environment) {
            note(&format!("appended {count} records to {}", path.display()));
        }
    }
}

fn lines(records: &[Record]) -> Result<String, Failure> {
    let lines = records.iter().map(|record| Ok(record.to_line()? + "\n"));
    Ok(lines.collect::<Result<Vec<String>, Error>>()?.concat())
}

/// Says whose speed this is, loudly where it is no GPU's.
fn say_where(gpu: &GpuCompute) -> Result<(), Failure> {
    let software = gpu.adapter().is_some_and(|adapter| adapter.software);
    let line = crate::output::backend_line(gpu);
    print(&format!("{line}{}\n", if software { "\na software adapter: no GPU's speed" } else { "" }))
}
