//! `doctor`: what this machine has for computing, what is missing, and whether the adapter computes rightly.

mod system;

use std::time::Instant;

use gristmill::{Error, GpuCompute, INSTALL_HINT, Surveyed, ops, reference};
use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};
use crate::output::{Form, adapter_json, backend_json, backend_line, object, print, table};
use crate::{Backend, Place};
use system::System;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    form: Form,
}

/// How the self-test ended.
struct SelfTest {
    outcome: Outcome,
    /// In words.
    verdict: String,
    seconds: f64,
}

impl SelfTest {
    fn not_run(outcome: Outcome, why: &str) -> SelfTest {
        SelfTest { outcome, verdict: format!("not run: {why}"), seconds: 0.0 }
    }
}

/// Everything there is to tell.
struct Found {
    system: System,
    adapters: Vec<Surveyed>,
    /// What would help, in sentences.
    missing: Vec<String>,
    /// The backend that was chosen, if there is one.
    gpu: Option<GpuCompute>,
    test: SelfTest,
}

pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    let system = System::look();
    let adapters = gristmill::survey();
    let opened = args.place.open(Backend::Gpu);
    let test = match &opened {
        Ok(gpu) => self_test(gpu),
        // What to do about it is among what is missing.
        Err(Error::NoAdapter { reason, .. }) => SelfTest::not_run(Outcome::NoAdapter, reason),
        Err(error) => SelfTest::not_run(Outcome::Failed, &error.to_string()),
    };
    let missing = missing(&system, &adapters);
    let found = Found { system, adapters, missing, gpu: opened.ok(), test };
    if !args.form.json {
        print(&report(&found))?;
    }
    args.form.document(&document(&found))?;
    Ok(found.test.outcome)
}

const SIZE: usize = 64;

/// A product of two matrices of small integers, in which nothing is rounded: all elements must be equal.
fn self_test(gpu: &GpuCompute) -> SelfTest {
    let start = Instant::now();
    let (outcome, verdict) = match wrong_elements(gpu) {
        Ok(0) => (Outcome::Done, "all elements are right".to_owned()),
        Ok(wrong) => (Outcome::Wrong, format!("{wrong} of {} elements are wrong", SIZE * SIZE)),
        Err(error) => (Outcome::Failed, error.to_string()),
    };
    SelfTest { outcome, verdict, seconds: start.elapsed().as_secs_f64() }
}

fn wrong_elements(gpu: &GpuCompute) -> Result<usize, Error> {
    let integers = |step: usize| -> Vec<f32> { (0..SIZE * SIZE).map(|i| (i * step % 17) as f32 - 8.0).collect() };
    let (a, b) = (integers(7), integers(11));
    let (x, y) = (gpu.tensor(&a, &[SIZE, SIZE])?, gpu.tensor(&b, &[SIZE, SIZE])?);
    let mut pass = gpu.pass();
    let mut out = pass.tensor(&[SIZE, SIZE])?;
    ops::matmul(&mut pass, &x, &y, &mut out)?;
    pass.submit()?;
    let found: Vec<f32> = gpu.read(&out)?;
    let expected = reference::matmul(&a, &b, (SIZE, SIZE, SIZE));
    let right = found.iter().zip(&expected).filter(|(found, expected)| f64::from(**found) == **expected).count();
    Ok(expected.len() - right)
}

/// What would help, in sentences.
fn missing(system: &System, adapters: &[Surveyed]) -> Vec<String> {
    let (offered, hidden): (Vec<_>, Vec<_>) = adapters.iter().partition(|adapter| adapter.hidden.is_none());
    let hardware = offered.iter().any(|adapter| !adapter.facts.software);
    let mut missing = Vec::new();
    if cfg!(target_os = "linux") && system.loader.is_none() {
        missing.push("a Vulkan loader (libvulkan.so.1)".to_owned());
    }
    if cfg!(target_os = "linux") && system.manifests.is_empty() {
        missing.push("a Vulkan driver: there is no ICD manifest where the loader looks".to_owned());
    }
    if let (false, Some(path)) = (hardware, &system.stray_manifest) {
        let path = path.display();
        missing.push(format!("the way to a driver: the loader does not look at {path}; set VK_DRIVER_FILES={path}"));
    }
    match (offered.is_empty(), hardware) {
        (true, _) if !hidden.is_empty() => missing.push("an adapter that is not hidden".to_owned()),
        (true, _) => missing.push(format!("an adapter. {INSTALL_HINT}")),
        (false, false) => missing.push("a hardware adapter; a software one computes on the CPU".to_owned()),
        (false, true) => (),
    }
    if system.wsl && !hardware {
        let hint = "on WSL2, Mesa's `dzn` driver, which reaches the GPU: install a mesa-vulkan-drivers that has it \
                    (22.1 or later) and set WGPU_ALLOW_UNDERLYING_NONCOMPLIANT_ADAPTER=1";
        missing.push(hint.to_owned());
    }
    missing
}

fn report(found: &Found) -> String {
    let Found { system, adapters, missing, gpu, test } = found;
    let mut text = system.to_string();
    for adapter in adapters {
        text += &format!("\n{}\n", adapter.facts);
        if let Some(why) = adapter.hidden {
            text += &format!("  hidden: {why}\n");
        }
        let has = |wanted: bool| -> String {
            let names = adapter.features.iter().filter(|(_, has)| *has == wanted).map(|(name, _)| *name);
            names.collect::<Vec<_>>().join(", ")
        };
        text += &format!("  has:    {}\n  lacks:  {}\n", has(true), has(false));
        let rows: Vec<_> =
            adapter.limits.iter().map(|(name, limit)| vec![format!("  {name}"), limit.to_string()]).collect();
        text += &table(&rows);
    }
    if adapters.is_empty() {
        text += "\nno adapters\n";
    }
    for line in missing {
        text += &format!("\nmissing: {line}\n");
    }
    if let Some(gpu) = gpu {
        text += &format!("\nchosen: {}\n", backend_line(gpu));
    }
    text + &format!("self-test: matmul m={SIZE},k={SIZE},n={SIZE}: {} ({:.3} s)\n", test.verdict, test.seconds)
}

fn document(found: &Found) -> Value {
    let Found { system, adapters, missing, gpu, test } = found;
    let adapter = |adapter: &Surveyed| {
        let mut json = adapter_json(&adapter.facts);
        json["hidden"] = json!(adapter.hidden);
        json["features"] = object(adapter.features.iter().map(|(name, has)| (*name, json!(has))));
        json["limits"] = object(adapter.limits.iter().map(|(name, limit)| (*name, json!(limit))));
        json
    };
    let test = json!({
        "op": "matmul",
        "shape": format!("m={SIZE},k={SIZE},n={SIZE}"),
        "passed": test.outcome == Outcome::Done,
        "verdict": test.verdict,
        "seconds": test.seconds,
    });
    let facts = [
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("system", system.to_json()),
        ("adapters", adapters.iter().map(adapter).collect()),
        ("missing", json!(missing)),
        ("self_test", test),
    ];
    let nothing = ["backend", "backend_reason", "arithmetic", "adapter"].map(|key| (key, Value::Null));
    object(facts.into_iter().chain(gpu.as_ref().map_or(nothing, backend_json)))
}
