//! Every case of the table, on the adapter as it is, on the adapter with what it may lack switched off, and on the CPU
//! backend. One trial per configuration and case: `cargo test --release --test kernels attention`.
//!
//! Without an adapter the trials that need one are not there, which is said aloud, and is an error under
//! `GRISTMILL_REQUIRE_ADAPTER=1`. A software adapter counts.

// Whether wgpu's types are `Sync` is a question more than 128 types deep.
#![recursion_limit = "256"]

use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use gristmill::verify::{self, Case, Layout, Outcome};
use gristmill::{ComputeBackend, GpuCompute, Options};
use libtest_mimic::{Arguments, Trial};

/// A way to open a backend.
struct Configuration {
    name: &'static str,
    backend: ComputeBackend,
    /// Immediates and subgroups where the adapter has them.
    extras: bool,
    /// How operands lie.
    layout: Layout,
    /// Runs the large cases too.
    large: bool,
    opened: OnceLock<Result<GpuCompute, String>>,
    passed: AtomicUsize,
    skipped: AtomicUsize,
    unverified: AtomicUsize,
}

impl Configuration {
    const fn new(name: &'static str, backend: ComputeBackend, extras: bool, layout: Layout) -> Configuration {
        let (passed, skipped, unverified) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let large = extras && matches!(layout, Layout::Padded);
        Configuration { name, backend, extras, layout, large, opened: OnceLock::new(), passed, skipped, unverified }
    }

    /// One device for all trials.
    fn gpu(&self) -> Result<&GpuCompute, String> {
        let open = || {
            let mut options = Options::new(self.backend);
            (options.immediates, options.subgroups) = (self.extras, self.extras);
            GpuCompute::open(&options).map_err(|error| error.to_string())
        };
        self.opened.get_or_init(open).as_ref().map_err(Clone::clone)
    }

    fn run(&self, case: &Case) -> Result<(), String> {
        match verify::run_case(self.gpu()?, case, self.layout) {
            Outcome::Passed { .. } => self.passed.fetch_add(1, Ordering::Relaxed),
            Outcome::Skipped { reason } => {
                eprintln!("skipped: {} {}: {reason}", self.name, case.name);
                self.skipped.fetch_add(1, Ordering::Relaxed)
            }
            // A failure nowhere, and a pass neither.
            Outcome::Unverified => self.unverified.fetch_add(1, Ordering::Relaxed),
            Outcome::Failed { message } => return Err(message),
        };
        Ok(())
    }
}

static CONFIGURATIONS: [Configuration; 4] = [
    Configuration::new("adapter", ComputeBackend::Gpu, true, Layout::Padded),
    Configuration::new("plain", ComputeBackend::Gpu, false, Layout::Padded),
    // A caller's buffers; f16 matrices stay as they are stored.
    Configuration::new("dense", ComputeBackend::Gpu, true, Layout::Dense),
    Configuration::new("cpu", ComputeBackend::Cpu, false, Layout::Padded),
];

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads = args.test_threads.or(Some(2));
    let adapter = match CONFIGURATIONS[0].gpu().map(GpuCompute::adapter) {
        Ok(facts) => facts.map(ToString::to_string),
        Err(error) => {
            eprintln!("\nNO ADAPTER: nothing below ran on one. {error}\n");
            if std::env::var("GRISTMILL_REQUIRE_ADAPTER").is_ok_and(|value| value == "1") {
                return ExitCode::FAILURE;
            }
            None
        }
    };
    if let Some(adapter) = &adapter {
        eprintln!("adapter: {adapter}");
    }
    let mut trials = vec![Trial::test("the table is as large as it should be", table_is_large)];
    for configuration in &CONFIGURATIONS {
        if configuration.backend == ComputeBackend::Gpu && adapter.is_none() {
            continue;
        }
        for case in verify::cases().into_iter().filter(|case| configuration.large || !case.large) {
            let name = format!("{} {}", configuration.name, case.name);
            trials.push(Trial::test(name, move || Ok(configuration.run(&case)?)));
        }
    }
    let listing = args.list;
    let conclusion = libtest_mimic::run(&args, trials);
    if !listing {
        let on = |of: &str| if of == "cpu" { "the CPU backend" } else { adapter.as_deref().unwrap_or("no adapter") };
        for Configuration { name, passed, skipped, unverified, .. } in &CONFIGURATIONS {
            let [passed, skipped, unverified] =
                [passed, skipped, unverified].map(|count| count.load(Ordering::Relaxed));
            println!("{name}: {passed} passed, {skipped} skipped, {unverified} unverified on {}", on(name));
        }
    }
    conclusion.exit_code()
}

/// A table that lost its rows would pass.
fn table_is_large() -> Result<(), libtest_mimic::Failed> {
    let cases = verify::cases();
    let mut names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() != cases.len() || cases.len() < 300 {
        return Err(format!("{} cases, {} names", cases.len(), names.len()).into());
    }
    let ops: std::collections::BTreeSet<_> = cases.iter().map(|case| case.op).collect();
    for op in ops {
        let of_op = cases.iter().filter(|case| case.op == op);
        let classes: std::collections::BTreeSet<_> = of_op.map(|case| case.shape_class).collect();
        if classes.len() < 8 {
            return Err(format!("{op}: only {} classes of shapes: {classes:?}", classes.len()).into());
        }
    }
    Ok(())
}
