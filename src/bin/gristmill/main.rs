//! The command line of gristmill: it reads arguments, calls the library, prints. Results go to stdout, all else to stderr.

mod bench;
mod demo;
mod doctor;
mod failure;
mod generate;
mod inspect;
mod mutants;
mod output;
mod perplexity;
mod show;
mod source;
mod tune;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use gristmill::{Arithmetic, ComputeBackend, GpuCompute, Options};

use failure::Outcome;

/// Shown after `--help` of every command.
const EXIT_CODES: &str = "Exit codes:
  0  done
  1  the device failed, or a check did
  2  wrong arguments: usage, an empty prompt, a token out of range, more tokens than the context holds
  3  no adapter of the kind asked for
  4  a wrong result: `verify` or the self-test of `doctor` failed, a model computed NaN, or `mutants` lived
     that should not
  5  a file that is missing, damaged or not supported, or a shader that is not valid
  130  interrupted; what was written until then is printed";

/// Language models on hand-written compute shaders. Without a command: `generate`, from a small model that is built in.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    generate: generate::Args,
}

#[derive(Subcommand)]
enum Command {
    /// Continue a text, or a list of token ids
    #[command(after_help = EXIT_CODES)]
    Generate(generate::Args),
    /// Score a text: the negative log-likelihood of each token, and the perplexity
    #[command(after_help = EXIT_CODES)]
    Perplexity(perplexity::Args),
    /// Run every operation on the adapter and compare it with its reference
    #[command(after_help = EXIT_CODES)]
    Verify(verify::Args),
    /// Measure how fast this device is, against its own ceilings
    #[command(subcommand)]
    Bench(bench::Command),
    /// Try the knobs of a kernel, verify and time each combination, and say which is the fastest here
    #[command(after_help = EXIT_CODES)]
    Tune(tune::Args),
    /// Break the shaders, one small change at a time, and say which changes the cases of `verify` notice
    #[command(after_help = EXIT_CODES)]
    Mutants(mutants::Args),
    /// Print what a kernel is, what a variant of it needs, and its text
    #[command(after_help = EXIT_CODES)]
    Show(show::Args),
    /// Print the metadata and the tensor table of a model file, or of a folder
    #[command(after_help = EXIT_CODES)]
    Inspect(inspect::Args),
    /// Say what this machine has for computing, what it lacks, and how to get it
    #[command(after_help = EXIT_CODES)]
    Doctor(doctor::Args),
}

/// Where to compute.
#[derive(clap::Args)]
struct Place {
    /// Where to compute [default: auto for `generate` and `perplexity`, gpu for `verify` and `doctor`]
    #[arg(long, value_enum)]
    backend: Option<Backend>,
    /// Part of the adapter's name; takes precedence over GRISTMILL_ADAPTER and WGPU_ADAPTER_NAME
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// What products of many rows are computed in; f16 rounds their factors, and takes an adapter with matrix units
    #[arg(long, value_enum, default_value_t = Numbers::F32)]
    arithmetic: Numbers,
    /// Compile the kernels without checks of their indices and loops
    #[arg(long)]
    unchecked: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Numbers {
    /// Everywhere the same digits
    F32,
    /// Factors of 11 digits up to 65,504, sums of f32; where there are no matrix units f32, which is said
    F16,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Backend {
    /// A hardware adapter, else a software one, else an error
    Gpu,
    /// The CPU backend
    Cpu,
    /// A hardware adapter, else the CPU backend
    Auto,
}

impl Place {
    fn open(&self, default: Backend) -> gristmill::Result<GpuCompute> {
        GpuCompute::open(&self.options(default))
    }

    /// [`Place::open`] for what runs models: their kernels are compiled once, and not in every run.
    fn open_kept(&self, default: Backend) -> gristmill::Result<GpuCompute> {
        let cache = ["XDG_CACHE_HOME", "LOCALAPPDATA"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let cache = cache.filter(|path| path.is_absolute()).chain(home()).next();
        let pipelines = match std::env::var_os("GRISTMILL_PIPELINES") {
            None => cache.map(|cache| cache.join("gristmill")),
            Some(path) => Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty()),
        };
        GpuCompute::open(&Options { pipelines, ..self.options(default) })
    }

    fn options(&self, default: Backend) -> Options {
        let mut options = Options::new(match self.backend.unwrap_or(default) {
            Backend::Gpu => ComputeBackend::Gpu,
            Backend::Cpu => ComputeBackend::Cpu,
            Backend::Auto => ComputeBackend::Auto,
        });
        options.adapter.clone_from(&self.adapter);
        options.unchecked = self.unchecked;
        options.arithmetic = match self.arithmetic {
            Numbers::F32 => Arithmetic::F32,
            Numbers::F16 => Arithmetic::F16,
        };
        options
    }
}

fn main() -> ExitCode {
    // Failing to log is no reason not to work.
    let _ = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).try_init();
    let cli = Cli::parse();
    let outcome = match &cli.command {
        None => generate::run(&cli.generate),
        Some(Command::Generate(args)) => generate::run(args),
        Some(Command::Perplexity(args)) => perplexity::run(args),
        Some(Command::Verify(args)) => verify::run(args),
        Some(Command::Bench(command)) => bench::run(command),
        Some(Command::Mutants(args)) => mutants::run(args),
        Some(Command::Tune(args)) => tune::run(args),
        Some(Command::Show(args)) => show::run(args),
        Some(Command::Inspect(args)) => inspect::run(args),
        Some(Command::Doctor(args)) => doctor::run(args),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(outcome) => ExitCode::from(outcome as u8),
        Err(failure) => {
            if !failure.is_closed_pipe() {
                output::note(&format!("error: {failure}"));
            }
            ExitCode::from(failure.outcome() as u8)
        }
    }
}
