//! Every case of the table, on the adapter as it is, on a caller's device that was granted no more than WebGPU promises, and
//! on the CPU backend; and some on the adapter without its tuning. One trial per configuration and case:
//! `cargo test --release --test kernels attention`.
//!
//! Without an adapter the trials that need one are not there, which is said aloud, and is an error under
//! `GRISTMILL_REQUIRE_ADAPTER=1`. A software adapter counts.

// Whether wgpu's types are `Sync` is a question more than 128 types deep.
#![recursion_limit = "256"]

use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use gristmill::verify::{self, Case, Layout, Outcome};
use gristmill::{ComputeBackend, GpuCompute, Pass, Tuning, wgpu};
use libtest_mimic::{Arguments, Trial};

/// Whose device a configuration is on.
#[derive(Clone, Copy)]
enum Device {
    /// The engine's own, with all that the adapter has.
    Own,
    /// The same without what was tuned for it, where a guest has too little for the kernels that this adapter passes over.
    Untuned,
    /// A caller's: no features, these limits, from an instance that offers nothing beyond WebGPU.
    Guest(fn() -> wgpu::Limits),
    Cpu,
}

/// A way to open a backend and to bring passes to it.
struct Configuration {
    name: &'static str,
    device: Device,
    /// How operands lie.
    layout: Layout,
    submit: fn(Pass) -> gristmill::Result<()>,
    /// Runs the large cases too.
    large: bool,
    opened: OnceLock<Result<GpuCompute, String>>,
    passed: AtomicUsize,
    skipped: AtomicUsize,
    unverified: AtomicUsize,
}

impl Configuration {
    const fn new(
        name: &'static str,
        device: Device,
        layout: Layout,
        submit: fn(Pass) -> gristmill::Result<()>,
    ) -> Configuration {
        let (passed, skipped, unverified) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        // All of the table once with everything the adapter has, and once with nothing.
        let large = matches!((layout, device), (Layout::Padded, Device::Own | Device::Guest(_)));
        Configuration { name, device, layout, submit, large, opened: OnceLock::new(), passed, skipped, unverified }
    }

    fn runs(&self, case: &Case) -> bool {
        let is_wanted = !matches!(self.device, Device::Untuned) || OF_SUBGROUPS.contains(&case.op);
        is_wanted && (self.large || !case.large)
    }

    /// One device for all trials.
    fn gpu(&self) -> Result<&GpuCompute, String> {
        let open = || match self.device {
            Device::Own => GpuCompute::new(ComputeBackend::Gpu).map_err(|error| error.to_string()),
            Device::Untuned => untuned().map_err(|error| error.to_string()),
            Device::Guest(limits) => guest(limits()),
            Device::Cpu => GpuCompute::new(ComputeBackend::Cpu).map_err(|error| error.to_string()),
        };
        self.opened.get_or_init(open).as_ref().map_err(Clone::clone)
    }

    fn run(&self, case: &Case) -> Result<(), String> {
        match verify::run_case_by(self.gpu()?, case, self.layout, &self.submit) {
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

fn untuned() -> gristmill::Result<GpuCompute> {
    let gpu = GpuCompute::new(ComputeBackend::Gpu)?;
    gpu.set_tuning(Tuning::default());
    Ok(gpu)
}

/// An engine on a device of ours that plays a caller's.
fn guest(limits: wgpu::Limits) -> Result<GpuCompute, String> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    descriptor.flags |= wgpu::InstanceFlags::STRICT_WEBGPU_COMPLIANCE;
    let instance = wgpu::Instance::new(descriptor);
    let adapter = wgpu::util::initialize_adapter_from_env_or_default(&instance, None);
    let adapter = pollster::block_on(adapter).map_err(|error| error.to_string())?;
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits.clone(), ..Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).map_err(|error| error.to_string())?;
    // A device that has more than was asked for would hide what is missing.
    assert!(device.features().is_empty() && device.limits().check_limits(&limits), "{:?}", device.limits());
    let gpu = GpuCompute::from_existing(device, queue).map_err(|error| error.to_string())?;
    // The knobs of the kernels' files, which a GPU runs that nobody has tuned for.
    gpu.set_tuning(Tuning::default());
    Ok(gpu)
}

/// Records into an encoder and submits it, as a caller does. The engine submits nothing.
fn record(pass: Pass) -> gristmill::Result<()> {
    by_caller(pass, |pass, encoder| pass.record(encoder))
}

/// The same, in a compute pass of the caller's.
fn record_in(pass: Pass) -> gristmill::Result<()> {
    by_caller(pass, |pass, encoder| pass.record_in(&mut encoder.begin_compute_pass(&Default::default())))
}

fn by_caller(
    pass: Pass,
    record: impl FnOnce(Pass, &mut wgpu::CommandEncoder) -> gristmill::Result<gristmill::Recording>,
) -> gristmill::Result<()> {
    let gpu = pass.gpu().clone();
    let (Some(device), Some(queue)) = (gpu.device(), gpu.queue()) else { return Ok(()) };
    let mut encoder = device.create_command_encoder(&Default::default());
    let recording = record(pass, &mut encoder)?;
    queue.submit([encoder.finish()]);
    recording.submitted();
    Ok(())
}

/// Operations with a kernel of subgroups, which a guest has not.
const OF_SUBGROUPS: [&str; 3] = ["matvec", "linear", "norm_linear"];

static CONFIGURATIONS: [Configuration; 7] = [
    Configuration::new("adapter", Device::Own, Layout::Padded, Pass::submit),
    Configuration::new("untuned", Device::Untuned, Layout::Padded, Pass::submit),
    // A caller's buffers; f16 matrices stay as they are stored.
    Configuration::new("dense", Device::Own, Layout::Dense, Pass::submit),
    Configuration::new("guest", Device::Guest(wgpu::Limits::defaults), Layout::Padded, Pass::submit),
    Configuration::new("recorded", Device::Guest(wgpu::Limits::defaults), Layout::Dense, record),
    Configuration::new("downlevel", Device::Guest(wgpu::Limits::downlevel_defaults), Layout::Mixed, record_in),
    Configuration::new("cpu", Device::Cpu, Layout::Padded, Pass::submit),
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
        if !matches!(configuration.device, Device::Cpu) && adapter.is_none() {
            continue;
        }
        for case in verify::cases().into_iter().filter(|case| configuration.runs(case)) {
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
